//! `cargo xtask`: what a developer does with the whole repository. No dependencies, so that it is there at once.

mod test;
mod vulkan;

use std::process::{Command, ExitCode};

const HELP: &str = "\
Usage: cargo xtask test [--no-install] [FILTER] [-- TEST-OPTIONS]
       cargo xtask results ...

test installs or names what the tests need, then runs the format check, clippy and all tests.
  --no-install   install nothing; say what is missing
  FILTER         run only the tests whose names contain it, and neither the format check nor clippy
  TEST-OPTIONS   handed to the test programs, for example -- --nocapture

The tests need a GPU adapter; a software one will do. On Debian as root, `cargo xtask test` installs Mesa's (lavapipe).

results trains small models, measures them and makes docs/results.md; `cargo xtask results help` says how.";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("test") => test::Options::parse(arguments).and_then(|options| test::run(&options)),
        // The words are its own; it ends with its own sentence and code.
        Some("results") => match results(arguments) {
            Ok(code) => return code,
            Err(message) => Err(message),
        },
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(())
        }
        Some(other) => Err(format!(
            "there is no task {other:?}; `cargo xtask help` lists what there is"
        )),
        None => Err("which task? `cargo xtask help` lists what there is".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the crate `results`, which is not built before it is asked for.
fn results(words: impl Iterator<Item = String>) -> Result<ExitCode, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--release", "--quiet", "-p", "esolm-results", "--"])
        .args(words)
        .status()
        .map_err(|error| format!("cannot start cargo: {error}; check that it is on the PATH"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
