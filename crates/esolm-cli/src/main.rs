//! `esolm`: the engine as a command. Text goes to stdout, everything else to stderr. Bad usage exits with code 2 and
//! any other failure with 1, both with one sentence on stderr; an interrupted run exits with 128 plus the number of the
//! signal.

mod arguments;
mod commands;
mod failure;
mod fields;
mod files;
mod interrupts;
mod job;
mod likelihood;
mod output;
mod setup;
mod tensors;
mod texts;

use std::io::Write;

use clap::Parser;

use arguments::{Command, Esolm};

fn main() {
    failure::report_panics();
    interrupts::listen();
    let code = run();
    // Whatever cannot be written any more was reported where it was written.
    let _ = std::io::stdout().flush();
    interrupts::exit(code);
}

/// Runs the command and returns the exit code.
fn run() -> u8 {
    let arguments = match Esolm::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage_exit(&error),
    };
    let result = match arguments.command {
        Command::Sample(arguments) => commands::sample::run(*arguments),
        Command::Chat(arguments) => commands::chat::run(*arguments),
        Command::Ppl(arguments) => commands::ppl::run(&arguments),
        Command::Score(arguments) => commands::score::run(&arguments),
        Command::Serve(arguments) => commands::serve::run(&arguments),
        Command::Devices(arguments) => commands::devices::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Convert(arguments) => commands::convert::run(&arguments),
        Command::Forward(arguments) => commands::forward::run(&arguments),
        Command::Completions(arguments) => commands::manual::completions(&arguments),
        Command::Man(arguments) => commands::manual::pages(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::Replay(arguments) => commands::replay::run(&arguments),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => failure.exit(),
    }
}
