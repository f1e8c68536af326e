//! What `ppl` and `score` share: work with a progress bar, a line of JSON for a text, and jobs.

pub mod lines;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use esolm::text::Altered;
use esolm::{Error, Progress, Score};
use serde::Serialize;

use crate::{interrupts, output};

/// The score of the text with this number.
#[derive(Serialize)]
pub struct Line<'a> {
    pub index: usize,
    #[serde(flatten)]
    pub score: &'a Score,
}

/// Does what takes many passes; an interrupt ends it between two of them.
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

/// What to say of texts that the tokenizer changes: the first of them is at `place`, and there are `count`.
pub fn altered(altered: &Altered, place: &str, count: usize) -> String {
    let more = match count {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    format!("warning: {altered} in {place}{more}; what it makes of a text is what was scored")
}
