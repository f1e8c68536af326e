//! `cargo xtask test`: format, clippy, tests, shaders, packages, the Python package, a short soak, the browsers, and a summary.

use std::time::Instant;

use crate::{browsers, package, python, shader_stats, soak, system, vulkan, web};

/// The command line after `test`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    no_install: bool,
    no_web: bool,
    no_python: bool,
    filter: Option<String>,
    /// Passed on to the test programs.
    rest: Vec<String>,
}

impl Options {
    /// Parses the arguments.
    ///
    /// # Errors
    /// A sentence about the first invalid one.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--" => {
                    options.rest = arguments.collect();
                    break;
                }
                "--no-install" => options.no_install = true,
                "--no-web" => options.no_web = true,
                "--no-python" => options.no_python = true,
                option if option.starts_with('-') => {
                    return Err(format!(
                        "there is no option {option}; `cargo xtask help` lists what there is"
                    ));
                }
                _ if options.filter.is_some() => {
                    return Err(
                        "one filter at a time; give what the names of the tests have in common"
                            .into(),
                    );
                }
                _ => options.filter = Some(argument),
            }
        }
        Ok(options)
    }
}

/// Runs everything.
///
/// # Errors
/// A sentence about what is missing, or about what failed.
pub fn run(options: &Options) -> Result<(), String> {
    let all = options.filter.is_none();
    if all {
        component("fmt", "rustfmt")?;
        component("clippy", "clippy")?;
    }
    vulkan::ensure(!options.no_install)?;
    if all {
        vulkan::ensure_amd(!options.no_install)?;
    }
    let browsers = all && !options.no_web;
    if browsers {
        browsers::ensure(!options.no_install)?;
    }

    let mut test = vec!["test", "--workspace", "--release"];
    test.extend(options.filter.as_deref());
    if !options.rest.is_empty() {
        test.push("--");
        test.extend(options.rest.iter().map(String::as_str));
    }
    let format: &[&str] = &["fmt", "--all", "--check"];
    let clippy: &[&str] = &[
        "clippy",
        "--workspace",
        "--all-targets",
        "--release",
        "--",
        "-D",
        "warnings",
    ];
    let rust = [
        ("format", format, all),
        ("clippy", clippy, all),
        ("tests", &test, true),
    ];

    let mut summary = Summary::default();
    for (name, arguments, wanted) in rust {
        if wanted {
            println!("==> cargo {}", arguments.join(" "));
            let began = Instant::now();
            summary.add(name, cargo(arguments)?, began);
        }
    }
    if all {
        println!("==> shader statistics");
        let began = Instant::now();
        summary.add("shaders", said(shader_stats::test()), began);
        println!("==> cargo package");
        let began = Instant::now();
        summary.add("packages", said(package::pack()), began);
    }
    if all && !options.no_python {
        println!("==> the Python package, and its tests");
        let began = Instant::now();
        summary.add(
            "python",
            said(python::test(!options.no_install, &[])),
            began,
        );
    }
    if all {
        println!("==> a short cargo xtask soak serve");
        let began = Instant::now();
        summary.add("soak", said(soak::short()), began);
    }
    if browsers {
        println!("==> cargo xtask web, and its tests");
        let began = Instant::now();
        summary.add("web", said(web::test(!options.no_install)), began);
    }
    summary.close()
}

/// What passed and what failed.
#[derive(Default)]
struct Summary {
    lines: Vec<String>,
    failed: Vec<&'static str>,
}

impl Summary {
    fn add(&mut self, name: &'static str, passed: bool, began: Instant) {
        self.lines.push(format!(
            "{name:<8} {} in {:.0} s",
            if passed { "passed" } else { "FAILED" },
            began.elapsed().as_secs_f64()
        ));
        if !passed {
            self.failed.push(name);
        }
    }

    fn close(self) -> Result<(), String> {
        println!("\n{}", self.lines.join("\n"));
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} failed; what is wrong stands above",
            self.failed.join(" and ")
        ))
    }
}

/// Reports what is wrong, if anything.
fn said<T>(result: Result<T, String>) -> bool {
    if let Err(message) = &result {
        eprintln!("xtask: {message}");
    }
    result.is_ok()
}

/// Runs cargo, sharing this program's output.
fn cargo(arguments: &[&str]) -> Result<bool, String> {
    let status = system::cargo()
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}; install Rust"))?;
    Ok(status.success())
}

/// Checks that a component of the toolchain is installed.
fn component(subcommand: &str, name: &str) -> Result<(), String> {
    let found = system::cargo().args([subcommand, "--version"]).output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!(
            "{name} is missing; `rustup component add {name}` installs it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Options, String> {
        Options::parse(line.iter().map(ToString::to_string))
    }

    #[test]
    fn arguments_are_read() {
        assert_eq!(parse(&[]), Ok(Options::default()));
        let options = parse(&[
            "--no-install",
            "--no-web",
            "--no-python",
            "golden",
            "--",
            "--nocapture",
        ]);
        let expected = Options {
            no_install: true,
            no_web: true,
            no_python: true,
            filter: Some("golden".into()),
            rest: vec!["--nocapture".into()],
        };
        assert_eq!(options, Ok(expected));
        assert!(parse(&["--fast"]).is_err());
        assert!(parse(&["a", "b"]).is_err());
    }
}
