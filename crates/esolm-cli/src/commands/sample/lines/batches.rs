//! Lines in batches with the same options, for texts that a running batch cannot take: those longer than the context,
//! for which its places have no room.

use std::sync::atomic::{AtomicBool, Ordering};

use esolm::text::Altered;
use esolm::trace::Event;
use esolm::{Error, Model, Request};

use super::super::report::{self, TextLine};
use crate::failure::Failure;
use crate::job::Line;
use crate::setup;

/// A text that can be written.
struct Ready {
    number: u32,
    request: Request,
    altered: Option<Altered>,
}

impl Ready {
    /// Whether both can be written in one batch, this one directly after the other.
    fn follows(&self, other: &Self) -> bool {
        let rest = |request: &Request| Request {
            prompt: Vec::new(),
            ..request.clone()
        };
        self.number == other.number + 1
            && self.request.prompt.is_empty() == other.request.prompt.is_empty()
            && rest(&self.request) == rest(&other.request)
    }
}

/// Writes lines, at most `most` texts at once; `most` is reduced if memory requires it. If this fails or `stop` ends it,
/// `done` gets the results that have no unwritten line before them.
pub fn write(
    model: &Model,
    lines: Vec<Line<Request>>,
    raw: bool,
    stop: &AtomicBool,
    most: &mut usize,
    done: &mut Vec<Result<TextLine, String>>,
) -> Result<(), Failure> {
    let mut ready: Vec<Ready> = Vec::new();
    // The result of each line: what is wrong with it, or nothing yet.
    let mut wrong: Vec<Option<String>> = Vec::new();
    for Line { number, item } in lines {
        let alone = Request {
            first: number,
            ..item.clone()
        };
        match model.plan(&alone) {
            Ok((header, _)) => {
                wrong.push(None);
                ready.push(Ready {
                    number,
                    request: item,
                    altered: header.altered,
                });
            }
            Err(error @ (Error::Request(_) | Error::Text(_) | Error::Plan(_))) => {
                wrong.push(Some(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut written = Vec::with_capacity(ready.len());
    let mut failed = None;
    'all: for group in ready.chunk_by(|one, next| next.follows(one)) {
        let mut rest = group;
        let mut at_once = usize::MAX;
        while !rest.is_empty() {
            let (some, others) = rest.split_at(rest.len().min(*most).min(at_once));
            match batch(model, some, raw, stop) {
                Ok(lines) => {
                    written.extend(lines.into_iter().map(Ok));
                    rest = others;
                }
                Err(Refused::Memory(_)) if some.len() > 1 => *most = some.len() / 2,
                // One of them is at fault, which is known when each is alone.
                Err(Refused::Text(_)) if some.len() > 1 => at_once = 1,
                Err(Refused::Text(why)) => {
                    written.push(Err(why));
                    rest = others;
                }
                Err(refused) => {
                    failed = refused.failure();
                    break 'all;
                }
            }
        }
    }
    let mut written = written.into_iter();
    let results = wrong.into_iter().map_while(|wrong| match wrong {
        Some(why) => Some(Err(why)),
        None => written.next(),
    });
    done.extend(results);
    failed.map_or(Ok(()), Err)
}

fn batch(
    model: &Model,
    texts: &[Ready],
    raw: bool,
    stop: &AtomicBool,
) -> Result<Vec<TextLine>, Refused> {
    let crashed = || Refused::Failure(Error::Crashed.into());
    let first = texts.first().ok_or_else(crashed)?;
    let prompts = texts.iter().flat_map(|text| text.request.prompt.clone());
    let generation = model.generate(Request {
        prompt: prompts.collect(),
        batch: Some(texts.len()),
        first: first.number,
        ..first.request.clone()
    });
    let generation = generation.unobserved();
    let ended = generation.stop_flag();
    let (mut header, mut footer) = (None, None);
    for event in generation.blocking() {
        if stop.load(Ordering::SeqCst) {
            ended.store(true, Ordering::SeqCst);
        }
        match event.map_err(Refused::from)? {
            Event::Header(begun) => {
                header.get_or_insert(begun);
            }
            Event::Step(_) => {}
            Event::Footer(last) => footer = Some(last),
        }
    }
    let (header, footer) = header.zip(footer).ok_or_else(crashed)?;
    if footer.interrupted {
        return Err(Refused::Stopped);
    }
    let lines = report::lines(model, &header, &footer, raw);
    let line = |(line, text): (TextLine, &Ready)| TextLine {
        altered: text.altered.clone(),
        ..line
    };
    Ok(lines.into_iter().zip(texts).map(line).collect())
}

/// Why a batch was not written.
enum Refused {
    /// A smaller one may fit.
    Memory(Error),
    /// The network has no numbers for one of its texts.
    Text(String),
    /// It was stopped before its end.
    Stopped,
    Failure(Failure),
}

impl Refused {
    /// What ends the job, unless it was stopped.
    fn failure(self) -> Option<Failure> {
        match self {
            Self::Memory(error) => Some(error.into()),
            Self::Text(why) => Some(Failure::failed(why)),
            Self::Failure(failure) => Some(failure),
            Self::Stopped => None,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            error if setup::is_of_memory(&error) => Self::Memory(error),
            Error::Engine(error) if error.is_of_text() => {
                Self::Text(Failure::from(error).message().into())
            }
            error => Self::Failure(error.into()),
        }
    }
}
