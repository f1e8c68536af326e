//! Running an evaluation with a progress bar, until it is done or the user stops it.

use std::io::{self, IsTerminal};
use std::sync::atomic::Ordering;

use esolm::Engine;
use esolm::likelihood::{LikelihoodOptions, TextScore, evaluate};
use esolm::scoring::Window;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// Scores `windows`; an interrupt ends the command between two passes.
pub fn run(
    engine: &mut Engine,
    windows: &[Window],
    orders: Option<&[Vec<u32>]>,
    options: &LikelihoodOptions,
    quiet: bool,
) -> Result<Vec<TextScore>, Failure> {
    let stop = crate::setup::interrupts("Ctrl-C will end the run without its figures");
    let bar = (!quiet && io::stderr().is_terminal()).then(|| {
        let bar = ProgressBar::new(0);
        let style = "{bar:32.cyan} {pos}/{len} passes  {elapsed}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar
    });
    let mut progress = |done: usize, all: usize| {
        if let Some(bar) = &bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
        !stop.load(Ordering::SeqCst)
    };
    let scores = pollster::block_on(evaluate(engine, windows, orders, options, &mut progress));
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    scores?.ok_or_else(Failure::interrupted)
}
