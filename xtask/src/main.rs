//! `cargo xtask`: development tasks for the whole repository. Has no dependencies, so that it builds at once.

mod browsers;
mod package;
mod python;
mod shader_stats;
mod size;
mod soak;
mod system;
mod test;
mod vulkan;
mod wasm;
mod web;
#[cfg(test)]
mod workflows;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask test [--no-install] [--no-web] [--no-python] [FILTER] [-- TEST-OPTIONS]
       cargo xtask web [--no-install] [--build | --port N | --size [--write]]
       cargo xtask python [--no-install] [WORDS]
       cargo xtask soak [--no-install] [--seconds N] [--kills N] [NAME]
       cargo xtask shader-stats [--no-install] [--write]
       cargo xtask results ...

test installs or names what the tests need, then runs the format check, clippy, all tests, compiles the shaders as
shader-stats does, packs the crates, builds the Python package's wheel and runs its tests, and runs the tests in browsers.
  --no-install   install nothing; say what is missing
  --no-web       leave the browsers out
  --no-python    leave the Python package out
  FILTER         run only the Rust tests whose names contain it, and nothing else
  TEST-OPTIONS   handed to the test programs, for example -- --nocapture

The tests need Python 3 with venv, PyPI the first time, and a GPU adapter; a software one will do. On Debian as root,
`cargo xtask test` installs Mesa's (lavapipe), and the browsers chromium, firefox-esr and WebKitGTK's (webkit2gtk-driver,
with xvfb).

web builds the wasm module, the npm package and the page, and serves the page. It needs Node 20 or newer.
  --no-install   install nothing; say what is missing
  --build        build only
  --port N       where to serve, default 4173
  --size         build the module and print its size; fail if it has grown by more than 5 %
  --write        record that size in web/size.json

python builds the Python package's wheel and runs its tests in a fresh environment.
  --no-install   install nothing; say what is missing
  WORDS          handed to pytest, for example tests/test_golden.py

soak makes the runs that are too long for every test run, and records each in docs/soak.md.
  packages       install the command from the packed crates, outside the repository, and write a story in an empty folder
  fuzz           every fuzz target; needs a nightly toolchain
  serve          many clients against a server, some of them cut off, and a server that is killed again and again
  jobs           sample, score and ppl with --input, killed at random and gone on with, against undisturbed ones
  ray            the Python package on two workers of Ray, one of them killed; needs Linux, root and PyPI the first time
  NAME           only that one
  --no-install   install nothing; say what is missing
  --seconds N    how long each fuzz target, and the clients, run, default 600
  --kills N      how often jobs, and the server, are killed, default 100

shader-stats compiles every form of every shader for four AMD GPUs, none of which needs to be there, and fails if a form
spills registers that shader-stats/spills.txt does not list. It needs Linux and Mesa's AMD driver.
  --no-install   install nothing; say what is missing
  --write        write what came out to docs/shader-stats.tsv

results trains small models, measures them and makes docs/results.md; `cargo xtask results help` says how.";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("test") => test::Options::parse(arguments).and_then(|options| test::run(&options)),
        Some("web") => web::Options::parse(arguments).and_then(|options| web::run(&options)),
        Some("python") => python::run(arguments),
        Some("soak") => soak::Options::parse(arguments).and_then(|options| soak::run(&options)),
        Some("shader-stats") => {
            shader_stats::Options::parse(arguments).and_then(|options| shader_stats::run(&options))
        }
        // It prints its own messages, and determines the exit code.
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

/// Runs the crate `results`, which is built only on demand.
fn results(words: impl Iterator<Item = String>) -> Result<ExitCode, String> {
    let status = system::cargo()
        .args(["run", "--release", "--quiet", "-p", "esolm-results", "--"])
        .args(words)
        .status()
        .map_err(|error| format!("cannot start cargo: {error}; check that it is on the PATH"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
