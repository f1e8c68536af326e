//! `cargo xtask soak`: runs that are too long for every test run. Each adds a row to docs/soak.md.

mod jobs;
mod ray;
mod serve;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::package;
use crate::system::{
    Scratch, cargo, make, program, quietly, root, said, shown, stdout, target, write,
};

/// The result of a run. `Err` is a sentence about what failed.
type Outcome = Result<String, String>;

type Run = fn(&Options) -> Outcome;

/// The runs by name.
const RUNS: [(&str, Run); 5] = [
    ("packages", packages),
    ("fuzz", fuzz),
    ("jobs", jobs::run),
    ("ray", ray::run),
    ("serve", serve::run),
];

/// The command line after `soak`.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    no_install: bool,
    /// Seconds per fuzz target, and for the clients of the server.
    seconds: u32,
    /// How often jobs, and the server, are killed.
    kills: u32,
    /// The only run to make.
    only: Option<String>,
}

impl Options {
    /// Parses the arguments.
    ///
    /// # Errors
    /// A sentence about the first invalid one.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            no_install: false,
            seconds: 600,
            kills: 100,
            only: None,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--no-install" => options.no_install = true,
                "--seconds" => options.seconds = number(&argument, arguments.next())?,
                "--kills" => options.kills = number(&argument, arguments.next())?,
                name if RUNS.iter().any(|(run, _)| *run == name) && options.only.is_none() => {
                    options.only = Some(argument);
                }
                other => {
                    return Err(format!(
                        "there is no option or run {other}; `cargo xtask help` lists what there is"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// The number given for an option.
fn number(option: &str, word: Option<String>) -> Result<u32, String> {
    let number = word.and_then(|word| word.parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("{option} wants a whole number, 1 or more"))
}

/// The part of the runs that every test run includes: many clients against a server, for a short time.
///
/// # Errors
/// A sentence about what failed.
pub fn short() -> Result<(), String> {
    println!("{}", serve::short()?);
    Ok(())
}

/// Makes all runs, even if earlier ones fail, and records each.
///
/// # Errors
/// A sentence about what failed.
pub fn run(options: &Options) -> Result<(), String> {
    // Read before the first row is written, since that changes the working tree.
    let versions = versions();
    let mut failed = Vec::new();
    for (name, work) in RUNS {
        if options.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        println!("==> {name}");
        let began = Instant::now();
        let outcome = work(options);
        let seconds = began.elapsed().as_secs();
        let text = match &outcome {
            Ok(what) => format!("passed: {what}"),
            Err(why) => format!("FAILED: {why}"),
        };
        println!("{name} {text}");
        let text = text.replace(['\n', '|'], " ");
        record(&format!("| {name} | {seconds} | {versions} | {text} |"))?;
        if outcome.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let failed = failed.join(" and ");
    Err(format!("{failed} failed; docs/soak.md says why"))
}

/// The table cells with the commit and the compiler.
fn versions() -> String {
    let git = |words: &[&str]| {
        let here = root().display().to_string();
        stdout("git", &[&["-C", &here], words].concat()).unwrap_or_default()
    };
    let changed = match git(&["status", "--porcelain"]).as_str() {
        "" => "",
        _ => " with changes",
    };
    let rustc = stdout("rustc", &["--version"]).unwrap_or_default();
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown");
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    format!("{}{changed} | {rustc}", commit.trim())
}

/// Adds a row to docs/soak.md, with the current date.
fn record(cells: &str) -> Result<(), String> {
    let date = stdout("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default();
    let row = format!("| {} {cells}\n", date.trim());
    let path = root().join("docs/soak.md");
    let file = fs::OpenOptions::new().append(true).open(&path);
    file.and_then(|mut file| file.write_all(row.as_bytes()))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Installs the command from the packed crates, and runs it away from the repository.
fn packages(_: &Options) -> Outcome {
    let packages = package::pack()?;
    let scratch = Scratch::new("esolm-packages")?;
    let folder = &scratch.0;
    let unpacked = |file: &Path| file.file_stem().unwrap_or_default().display().to_string();
    let mut members = String::new();
    let mut patches = String::new();
    for package in &packages {
        quietly(
            Command::new("tar")
                .current_dir(folder)
                .arg("-xzf")
                .arg(&package.file),
        )?;
        let place = unpacked(&package.file);
        members.push_str(&format!("    {place:?},\n"));
        patches.push_str(&format!("{} = {{ path = {place:?} }}\n", package.name));
    }
    // Packages depend on each other through the registry; these replace the registry's.
    write(
        &folder.join("Cargo.toml"),
        &format!(
            "[workspace]\nresolver = \"3\"\nmembers = [\n{members}]\n\n[patch.crates-io]\n{patches}"
        ),
    )?;
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"))
        .map_err(|error| format!("cannot copy Cargo.lock: {error}"))?;
    // The same target folder as all builds here, so that identical dependencies are not recompiled.
    let built = target();
    let cargo = || {
        let mut cargo = cargo();
        cargo.current_dir(folder).env("CARGO_TARGET_DIR", &built);
        cargo
    };
    let remedy = "what is wrong stands above";
    shown(cargo().args(["build", "--release", "--workspace"]), remedy)?;
    let installed = folder.join("installed");
    let cli = packages
        .iter()
        .find(|package| package.name == "esolm-cli")
        .ok_or("the workspace has no esolm-cli")?;
    let cli = unpacked(&cli.file);
    shown(
        cargo()
            .args(["install", "--locked", "--path", &cli, "--root"])
            .arg(&installed),
        remedy,
    )?;
    let empty = folder.join("empty");
    make(&empty)?;
    let output = Command::new(installed.join("bin/esolm"))
        .current_dir(&empty)
        .env_remove("ESOLM_MODEL")
        .args(["sample", "--seed", "4", "--device", "cpu"])
        .output()
        .map_err(|error| format!("the installed command does not start: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the installed command fails: {}", errors.trim()));
    }
    let words = String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .count();
    if words < 20 {
        return Err(format!("the installed command wrote {words} words"));
    }
    Ok(format!(
        "{} packages, and a story of {words} words from an empty folder",
        packages.len()
    ))
}

/// Runs every fuzz target.
fn fuzz(options: &Options) -> Outcome {
    let nightly = without_this_toolchain(&mut Command::new("rustc"))
        .arg("--version")
        .output();
    let nightly = nightly
        .ok()
        .filter(|output| output.status.success())
        .ok_or("the fuzz targets need a nightly toolchain; `rustup toolchain install nightly` installs one")?;
    let nightly = String::from_utf8_lossy(&nightly.stdout);
    let cargo_fuzz = program("cargo-fuzz", "cargo-fuzz", None, !options.no_install)?;
    let fuzz = root().join("fuzz");
    let mut names: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
        .map_err(|error| format!("cannot read fuzz/fuzz_targets: {error}"))?
        .filter_map(|entry| {
            Some(
                entry
                    .ok()?
                    .path()
                    .file_stem()?
                    .to_string_lossy()
                    .into_owned(),
            )
        })
        .collect();
    names.sort();
    let mut executions = 0;
    for name in &names {
        let corpus = fuzz.join("corpus").join(name);
        make(&corpus)?;
        let mut command = Command::new(&cargo_fuzz);
        without_this_toolchain(&mut command)
            .current_dir(root())
            // These paths contain no unsafe code, and without the address sanitizer they run several times as fast.
            .args(["run", "-s", "none", name])
            .args([corpus, fuzz.join("seeds").join(name)])
            .args(["--", "-print_final_stats=1", "-max_len=8192"])
            .args(["-rss_limit_mb=1024", "-timeout=5"])
            .arg(format!("-max_total_time={}", options.seconds));
        println!("==> {}", said(&command));
        let output = command
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("cannot run cargo fuzz: {error}"))?;
        let log = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            eprintln!("{log}");
            return Err(format!(
                "the target {name} found something, or does not build; its log stands above"
            ));
        }
        let runs = executed(&log)
            .ok_or_else(|| format!("the target {name} does not say how often it ran"))?;
        println!("{name}: {runs} executions");
        executions += runs;
    }
    Ok(format!(
        "{} targets of {} s each with {}, {executions} executions without a finding",
        names.len(),
        options.seconds,
        nightly.trim()
    ))
}

/// Makes a command use the nightly toolchain instead of the one that started this program.
fn without_this_toolchain(command: &mut Command) -> &mut Command {
    command
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO")
        .env_remove("RUSTC")
}

/// libFuzzer's final statistics.
fn executed(log: &str) -> Option<u64> {
    let number = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Options, String> {
        Options::parse(line.iter().map(ToString::to_string))
    }

    #[test]
    fn arguments_are_read() {
        let all = parse(&[]).unwrap();
        assert_eq!((all.seconds, all.kills, all.only), (600, 100, None));
        let options = parse(&["fuzz", "--no-install", "--seconds", "5"]);
        let expected = Options {
            no_install: true,
            seconds: 5,
            kills: 100,
            only: Some("fuzz".into()),
        };
        assert_eq!(options, Ok(expected));
        for wrong in [
            &["load"][..],
            &["fuzz", "packages"],
            &["--seconds", "0"],
            &["--seconds"],
            &["jobs", "--kills", "-1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn executions_are_read() {
        let log = "Done 5 runs in 1 second(s)\nstat::number_of_executed_units: 51234\nstat::average_exec_per_sec: 3\n";
        assert_eq!(executed(log), Some(51234));
        assert_eq!(executed("error: could not compile"), None);
    }
}
