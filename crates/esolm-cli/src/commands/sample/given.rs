//! What the options ask for.

use std::ffi::{OsStr, OsString};
use std::io::Read;

use esolm::request::Request;
use esolm::sampler::Sampler;

use crate::arguments::Sample;
use crate::failure::Failure;

/// Reads the options; prompts and templates need a tokenizer.
pub fn request(arguments: &Sample, has_codec: bool) -> Result<Request, Failure> {
    let texts = [
        ("--infill", arguments.infill.is_some()),
        ("--prompt", !arguments.prompt.is_empty()),
    ];
    if let Some((option, _)) = texts.iter().find(|(_, is_given)| *is_given && !has_codec) {
        return Err(Failure::usage(format!(
            "{option} needs a tokenizer; give one with --tokenizer FILE instead of none"
        )));
    }
    let prompts = arguments.prompt.iter().map(|text| utf8(text, "--prompt"));
    let infill = arguments.infill.as_ref().map(|text| utf8(text, "--infill"));
    Ok(Request {
        prompts: prompts.collect::<Result<_, _>>()?,
        infill: infill.transpose()?,
        length: arguments.length,
        alpha_0: arguments.alpha0,
        steps: arguments.steps,
        schedule: arguments.schedule.map(Into::into),
        sampler: Sampler {
            temperature: arguments.temperature,
            top_p: arguments.top_p,
        },
        seed: arguments.seed.unwrap_or_else(random_seed),
        batch: arguments.batch,
        first: arguments.first,
        no_bos: arguments.no_bos,
    })
}

/// A seed that nobody chose; short enough to be typed again.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
}

/// The text of an option, or of the standard input for `-`.
fn utf8(text: &OsString, option: &str) -> Result<String, Failure> {
    let not_utf8 = || {
        Failure::usage(format!(
            "the text of {option} is not valid UTF-8; write it in UTF-8"
        ))
    };
    if text != OsStr::new("-") {
        return text.clone().into_string().map_err(|_| not_utf8());
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Failure::failed(format!(
                "cannot read the standard input: {error}; give the text with {option} itself"
            ))
        })?;
    let mut text = String::from_utf8(bytes).map_err(|_| not_utf8())?;
    // The newline that ends a file or an echo is not meant.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
