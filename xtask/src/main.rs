//! `cargo xtask`: what a developer does with the whole repository. No dependencies, so that it is there at once.

mod test;
mod vulkan;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask test [--no-install] [FILTER] [-- TEST-OPTIONS]

Installs or names what the tests need, then runs the format check, clippy and all tests.
  --no-install   install nothing; say what is missing
  FILTER         run only the tests whose names contain it, and neither the format check nor clippy
  TEST-OPTIONS   handed to the test programs, for example -- --nocapture

The tests need a GPU adapter; a software one will do. On Debian as root, `cargo xtask test` installs Mesa's (lavapipe).";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("test") => test::Options::parse(arguments).and_then(|options| test::run(&options)),
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
