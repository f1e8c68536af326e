//! What `ppl` and `score` share: work with a progress bar, a line of JSON per text, and jobs.

pub mod lines;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::text::Altered;
use esolm::{Error, Progress, Score};
use serde::Serialize;

use crate::{interrupts, output};

/// The score of a text, with its index.
#[derive(Serialize)]
pub struct Line<'a> {
    pub index: usize,
    #[serde(flatten)]
    pub score: &'a Score,
}

/// Runs work of many passes; a signal ends it between two of them.
pub fn run<T>(quiet: bool, work: impl FnOnce(Progress) -> Result<T, Error>) -> Result<T, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    interrupts::stop(stop.clone());
    let bar = output::passes(quiet);
    let shown = bar.clone();
    let done = work(Progress::new(move |done, all| {
        shown.set_length(all as u64);
        shown.set_position(done as u64);
        !stop.load(Ordering::SeqCst)
    }));
    bar.finish_and_clear();
    done
}

/// A note on texts that the tokenizer changes: `count` of them, the first at `place`.
pub fn altered(altered: &Altered, place: &str, count: usize) -> String {
    let more = match count {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    format!("warning: {altered} in {place}{more}; what it makes of a text is what was scored")
}
