//! `cargo xtask results`: trains small models, measures them, and makes docs/results.md of the records.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use esolm_results::failure::Error;
use esolm_results::{compare, render, run};

const HELP: &str = "\
Usage: cargo xtask results run --train FILE... --holdout FILE --work DIR [--device D] [--esolm PATH] [--plan FILE] [--out DIR]
       cargo xtask results compare --old MODEL --new MODEL --judge MODEL --train FILE... --holdout FILE --work DIR [...]
       cargo xtask results render [--root DIR]

run      trains the models of results/plan.json, measures them, and writes docs/results/*.json. It takes up what stands in DIR.
compare  measures two models on the same text and writes docs/results/model.json.
           --old-name, --new-name NAME  names in the tables
           --samples N                  samples of each, 200
           --length L                   tokens of a sample and of a window, by default the smaller context
           --top-p P                    nucleus of the samples, 0.9
           --seed N                     seed of orders and samples, 1
render   makes docs/results.md, its plots and the model card's table of docs/results/*.json and results/notes.md alone,
         in the repository or in another folder of its form.

FILE     plain text whose documents are separated by <|endoftext|>; those with characters outside ASCII are left out
DIR      a folder for models and answers, outside the repository
--esolm  the program, by default target/release/esolm
--device auto, cpu, gpu or gpu:N, as for esolm";

fn main() -> ExitCode {
    // Docs lie beside this crate, wherever the command is given.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.split_first() {
        Some((command, rest)) => match command.as_str() {
            "run" => run::run(rest, root),
            "compare" => compare::compare(rest, root),
            "render" => render::command(rest, root),
            "help" | "--help" | "-h" => {
                // Only fails when nobody reads it.
                let _ = writeln!(io::stdout(), "{HELP}");
                Ok(())
            }
            other => Err(Error::Usage(format!(
                "there is no command {other:?}; `cargo xtask results help` lists what there is"
            ))),
        },
        None => Err(Error::Usage(
            "which command? `cargo xtask results help` lists what there is".into(),
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "results: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
