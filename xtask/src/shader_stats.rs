//! `cargo xtask shader-stats`: compiles every variant of every shader with a real GPU's compiler. The program that does
//! this has a workspace of its own, in `shader-stats/`.

use std::process::Command;

use crate::system::{cargo, root, shown, target};
use crate::vulkan;

const REMEDY: &str = "what is wrong stands above";

/// The command line after `shader-stats`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    no_install: bool,
    /// Rewrite the table.
    write: bool,
}

impl Options {
    /// Parses the arguments.
    ///
    /// # Errors
    /// A sentence about the first invalid one.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--no-install" => options.no_install = true,
                "--write" => options.write = true,
                other => {
                    return Err(format!(
                        "there is no option {other}; `cargo xtask help` lists what there is"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// Writes out the current shaders with their test, and compiles them.
///
/// # Errors
/// A sentence about what is missing, or about what failed.
pub fn run(options: &Options) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("Mesa's AMD driver, whose compiler this needs, is for Linux alone".into());
    }
    vulkan::ensure(!options.no_install)?;
    vulkan::ensure_amd(!options.no_install)?;
    let forms = ["test", "--workspace", "--release", "--test", "shaders"];
    shown(cargo().args(forms), REMEDY)?;
    let mut program = in_its_workspace(&["run", "--release", "--quiet"]);
    program
        .arg("--")
        .arg(target().join("tmp/shaders"))
        .arg(root().join("shader-stats/spills.txt"))
        .arg(root().join("docs/shader-stats.tsv"))
        .args(options.write.then_some("--write"));
    shown(&mut program, REMEDY)
}

/// Checks the program, and tests it on the shaders that the tests of the main workspace have written out.
///
/// # Errors
/// A sentence about what failed.
pub fn test() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        println!("left out: Mesa's AMD driver, whose compiler this needs, is for Linux alone");
        return Ok(());
    }
    shown(in_its_workspace(&["fmt"]).args(["--", "--check"]), REMEDY)?;
    let clippy = ["clippy", "--release", "--all-targets"];
    shown(
        in_its_workspace(&clippy).args(["--", "-D", "warnings"]),
        REMEDY,
    )?;
    shown(&mut in_its_workspace(&["test", "--release"]), REMEDY)
}

/// Cargo for the program's workspace, with the main workspace's target folder.
fn in_its_workspace(words: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo
        .args(words)
        .arg("--manifest-path")
        .arg(root().join("shader-stats/Cargo.toml"))
        .env("CARGO_TARGET_DIR", target());
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let parse = |line: &[&str]| Options::parse(line.iter().map(ToString::to_string));
        assert_eq!(parse(&[]), Ok(Options::default()));
        let both = Options {
            no_install: true,
            write: true,
        };
        assert_eq!(parse(&["--write", "--no-install"]), Ok(both));
        assert!(parse(&["navi31"]).is_err());
    }
}
