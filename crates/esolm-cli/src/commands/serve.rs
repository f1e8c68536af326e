//! `esolm serve`: loads models and answers requests until a signal arrives.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use esolm::text::TextCodec;
use esolm::{ChatTemplate, ModelFiles, Serving, ServingOptions};
use esolm_serve::{Guard, Limits, ServeError, ServedModel, Server};

use crate::arguments::{Model, Serve};
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
    // An address in use is reported before anything is loaded.
    let address = SocketAddr::new(arguments.host, arguments.port);
    let limits = limits();
    let server = Server::bind(address, guard, limits).map_err(Failure::serving)?;
    let models = opened(arguments)?;
    let mut served = Vec::with_capacity(models.len());
    for (name, files) in models {
        served.push(load(arguments, name, files)?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    interrupts::stop(stop.clone());
    if !arguments.quiet {
        if is_open {
            output::note("anybody who reaches this address may use it; --api-key asks for a key");
        }
        output::note(&format!("listening on http://{}", server.address()));
    }
    let seconds = limits.drain.as_secs();
    let on_stop = || {
        if !arguments.quiet {
            output::note(&format!(
                "stopping: requests under way have {seconds} s to end, and no new ones are taken; another signal ends the server at once"
            ));
        }
    };
    let ended = server.run(served, &stop, on_stop);
    ended.map_err(Failure::serving)
}

/// The default limits, with no more connections than the system allows open files.
fn limits() -> Limits {
    let usual = Limits::default();
    Limits {
        connections: most_connections(usual.connections),
        ..usual
    }
}

#[cfg(unix)]
fn most_connections(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    /// Files other than connections: those of models, which are reopened when a device is lost.
    const OTHERS: u64 = 128;
    let most = |(allowed, _)| usize::try_from(u64::saturating_sub(allowed, OTHERS)).ok();
    let files = Resource::RLIMIT_NOFILE;
    let needed = wanted as u64 + OTHERS;
    if let Ok((allowed, possible)) = getrlimit(files)
        && allowed < needed
    {
        // If this is refused, the limit stays as it is.
        let _ = setrlimit(files, needed.min(possible), possible);
    }
    let most = getrlimit(files).ok().and_then(most);
    most.map_or(wanted, |most| wanted.min(most.max(1)))
}

#[cfg(not(unix))]
fn most_connections(wanted: usize) -> usize {
    wanted
}

/// A model as given on the command line: its name for clients, and its location, if given.
#[derive(Default)]
struct Named {
    name: Option<String>,
    source: Option<String>,
}

/// The models with their names, all opened before the first is loaded.
fn opened(arguments: &Serve) -> Result<Vec<(String, ModelFiles)>, Failure> {
    let mut models: Vec<(String, ModelFiles)> = Vec::new();
    for Named { name, source } in named(&arguments.models)? {
        let model = Model {
            model: source,
            config: None,
            raw_weights: false,
            read_as: arguments.read_as,
            block_size: arguments.block_size,
        };
        let (checkpoint, source) = setup::checkpoint(&model, arguments.quiet)?;
        setup::check_block_size(&model, checkpoint.config())?;
        let name = name.unwrap_or_else(|| called(&source));
        if models.iter().any(|(other, _)| *other == name) {
            return Err(Failure::serving(ServeError::SameName(name)));
        }
        let codec = TextCodec::of_checkpoint(&checkpoint)?;
        let Some(codec) = codec else {
            return Err(Failure::failed(match checkpoint.tokenizer_form() {
                Some(Err(error)) => {
                    format!("the tokenizer that comes with the checkpoint {source} {error}")
                }
                _ => format!(
                    "the checkpoint {source} comes without a tokenizer, which serving needs; put its tokenizer.json beside it"
                ),
            }));
        };
        let context = checkpoint.config().length;
        if let Some(length) = arguments.max_length.filter(|&length| length > context) {
            return Err(Failure::usage(format!(
                "--max-length {length} is more than the context of {name}, {context} tokens; give at most that"
            )));
        }
        models.push((name, ModelFiles::new(&source, checkpoint, Some(codec))));
    }
    Ok(models)
}

fn load(arguments: &Serve, name: String, files: ModelFiles) -> Result<ServedModel, Failure> {
    let options = ServingOptions {
        places: arguments.max_batch,
        queue: arguments.queue,
        length: arguments.max_length,
    };
    if !arguments.quiet {
        setup::note_assumed(&files);
    }
    // A model without a chat template can still continue text.
    let chat = ChatTemplate::new(files.checkpoint().chat_files());
    let recommended = *files.recommended();
    let started = pollster::block_on(Serving::start(files, arguments.device.options(), options));
    let serving = started.map_err(|error| match setup::is_of_memory(&error) {
        true => Failure::failed(format!(
            "{error}; use a smaller --max-batch or --max-length"
        )),
        false => error.into(),
    })?;
    if !arguments.quiet {
        output::note(&format!("{name}: {}", serving.device()));
    }
    Ok(ServedModel {
        name,
        serving,
        chat,
        recommended,
    })
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
        // Clients could not send a key that no header can hold.
        Some(key) if key.trim() != key || key.chars().any(char::is_control) => Err(Failure::usage(
            "the API key begins or ends with a space, or has a control character; give one that a client can send",
        )),
        key => Ok(key),
    }
}

/// Names and sources. By default, the same model as for other commands.
fn named(models: &[String]) -> Result<Vec<Named>, Failure> {
    if models.is_empty() {
        return Ok(vec![Named::default()]);
    }
    let one = |spec: &String| match spec.split_once('=') {
        // A path may itself contain the separator.
        Some((name, source)) if !Path::new(spec).exists() => {
            if name.is_empty() || source.is_empty() {
                return Err(Failure::usage(format!(
                    "--model {spec} names no model; write NAME=MODEL"
                )));
            }
            Ok(Named {
                name: Some(name.into()),
                source: Some(source.into()),
            })
        }
        _ => Ok(Named {
            name: None,
            source: Some(spec.clone()),
        }),
    };
    models.iter().map(one).collect()
}

/// The default name of a model.
fn called(source: &str) -> String {
    if let Some(hub) = source.strip_prefix("hf:") {
        return hub.into();
    }
    let path = Path::new(source);
    let last = match path.is_dir() {
        // In a folder's name, what follows a dot, as in a version, is part of the name.
        true => path.file_name(),
        false => path.file_stem(),
    };
    last.and_then(|name| name.to_str()).unwrap_or(source).into()
}
