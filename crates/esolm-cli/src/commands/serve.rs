//! `esolm serve`: models are loaded, and requests answered until a signal comes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use esolm::{Serving, ServingOptions};
use esolm_serve::{Guard, Limits, ServedModel, Server};

use crate::arguments::{Model, Serve, Source};
use crate::failure::Failure;
use crate::{interrupts, output, setup};

/// The variable that holds the key.
const KEY: &str = "ESOLM_API_KEY";

pub fn run(arguments: &Serve) -> Result<(), Failure> {
    let guard = Guard {
        api_key: key(arguments)?,
        origins: arguments.cors.clone(),
        hosts: arguments.allow_host.clone(),
    };
    let is_open = guard.api_key.is_none() && !arguments.host.is_loopback();
    // An address that is taken is said before anything is loaded.
    let address = SocketAddr::new(arguments.host, arguments.port);
    let server = Server::bind(address, guard, Limits::default()).map_err(Failure::serving)?;
    let stop = Arc::new(AtomicBool::new(false));
    let models = named(&arguments.models)?;
    let mut served = Vec::with_capacity(models.len());
    for (name, source) in models {
        served.push(load(arguments, name, source)?);
    }
    if !arguments.quiet {
        if is_open {
            output::note("anybody who reaches this address may use it; --api-key asks for a key");
        }
        output::note(&format!("listening on http://{}", server.address()));
    }
    interrupts::stop(stop.clone());
    server.run(served, &stop).map_err(Failure::serving)
}

fn load(
    arguments: &Serve,
    name: Option<String>,
    source: Option<String>,
) -> Result<ServedModel, Failure> {
    let source = Source {
        model: Model {
            model: source,
            config: None,
            raw_weights: false,
            read_as: None,
            block_size: None,
        },
        tokenizer: None,
    };
    let files = setup::open(&source, arguments.quiet)?;
    let name = name.unwrap_or_else(|| called(files.name()));
    let options = ServingOptions {
        places: arguments.max_batch,
        queue: arguments.queue,
    };
    let load = arguments.device.options();
    if !arguments.quiet {
        setup::note_mask(files.checkpoint());
    }
    let serving = pollster::block_on(Serving::start(files, load, options))?;
    if !arguments.quiet {
        output::note(&format!("{name}: {}", serving.device()));
    }
    Ok(ServedModel { name, serving })
}

fn key(arguments: &Serve) -> Result<Option<String>, Failure> {
    let given = match &arguments.api_key {
        Some(key) => Some(key.clone()),
        None => match std::env::var(KEY) {
            Ok(key) => Some(key),
            Err(std::env::VarError::NotPresent) => None,
            Err(_) => {
                return Err(Failure::usage(format!(
                    "the variable {KEY} is not UTF-8 text"
                )));
            }
        },
    };
    match given {
        Some(key) if key.is_empty() => Err(Failure::usage(
            "the API key is empty; give one of at least one character, or none",
        )),
        key => Ok(key),
    }
}

/// Names and sources. Without any it is the usual model, which the others name as well.
fn named(models: &[String]) -> Result<Vec<(Option<String>, Option<String>)>, Failure> {
    if models.is_empty() {
        return Ok(vec![(None, None)]);
    }
    let one = |spec: &String| match spec.split_once('=') {
        // A path may have such a sign of its own.
        Some((name, source)) if !Path::new(spec).exists() => {
            if name.is_empty() || source.is_empty() {
                return Err(Failure::usage(format!(
                    "--model {spec} names no model; write NAME=MODEL"
                )));
            }
            Ok((Some(name.into()), Some(source.into())))
        }
        _ => Ok((None, Some(spec.clone()))),
    };
    models.iter().map(one).collect()
}

/// What clients call a model of which nobody said.
fn called(source: &str) -> String {
    if let Some(hub) = source.strip_prefix("hf:") {
        return hub.into();
    }
    let last = Path::new(source).file_stem().and_then(|name| name.to_str());
    last.unwrap_or(source).into()
}
