//! `cargo xtask results`: trains small models, measures them, and renders docs/results.md from the records.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use esolm_results::arguments::{Arguments, Command};
use esolm_results::error::Error;
use esolm_results::{compare, render, run};

fn main() -> ExitCode {
    let result = match Arguments::try_parse() {
        Ok(Arguments { command }) => match command {
            Command::Run {
                plan,
                keep_records,
                common,
            } => run::run(&plan, keep_records, &common),
            Command::Compare(arguments) => compare::compare(&arguments),
            Command::Render { root } => render::write(&root),
        },
        // The help that was asked for.
        Err(error) if !error.use_stderr() => {
            // Only fails when nobody reads it.
            let _ = error.print();
            Ok(())
        }
        Err(error) => Err(Error::from(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "results: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
