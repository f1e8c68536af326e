//! Turns options into a request.

use std::ffi::{OsStr, OsString};
use std::io::Read;

use esolm::Request;

use crate::arguments::Sample;
use crate::failure::Failure;

/// The request that the options make.
pub fn request(arguments: &Sample) -> Result<Request, Failure> {
    let prompts = arguments.prompt.iter().map(|text| utf8(text, "--prompt"));
    let infill = arguments.infill.as_ref().map(|text| utf8(text, "--infill"));
    Ok(Request {
        prompt: prompts.collect::<Result<_, _>>()?,
        infill: infill.transpose()?,
        length: arguments.length,
        alpha_0: arguments.alpha0,
        steps: arguments.steps,
        schedule: arguments.schedule.map(Into::into),
        sar_steps: arguments.sar_steps,
        confidence_threshold: arguments.confidence_threshold,
        confidence: arguments.choosing.confidence.map(Into::into),
        prompt_tail: arguments.choosing.prompt_tail.map(Into::into),
        suppress_tokens: arguments.choosing.suppress_tokens.clone(),
        begin_suppress_tokens: arguments.choosing.begin_suppress_tokens.clone(),
        block_size: arguments.source.model.block_size,
        window: arguments.sets.window,
        train_order: arguments.sets.train_order,
        infill_context: arguments.sets.infill_context.map(Into::into),
        top_k: arguments.filters.top_k,
        top_p: arguments.filters.top_p,
        top_p_crossing: arguments.filters.top_p_crossing.map(Into::into),
        min_p: arguments.filters.min_p,
        temperature: arguments.temperature,
        stop: arguments.stop.iter().copied().map(Into::into).collect(),
        stop_strings: arguments.stop_string.clone(),
        logprobs: arguments.logprobs,
        seed: arguments.seed,
        batch: arguments.batch,
        first: arguments.first,
        bos: arguments.opening.said(),
        decode_as: None,
    })
}

/// The text of an option, or of standard input for `-`.
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
    let text = String::from_utf8(bytes).map_err(|_| not_utf8())?;
    let text = esolm::documents::normalize(&text);
    // The newline at the end of a file or of `echo` is not part of the text.
    Ok(text.strip_suffix('\n').unwrap_or(&text).into())
}
