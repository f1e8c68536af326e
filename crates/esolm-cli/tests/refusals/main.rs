//! Bad input of every kind ends with the right exit code and one sentence. The cases and their output are in
//! refusals.txt.

#[path = "../common/mod.rs"]
mod common;
mod decoders;
mod files;
#[cfg(target_os = "linux")]
mod memory;

use std::path::Path;
use std::process::Output;

use common::{Folder, GOLDEN, esolm, run};

const CASES: &str = "tests/fixtures/cases";

/// A case of refusals.txt.
struct Case<'a> {
    code: i32,
    /// The command line as it would be typed.
    line: &'a str,
}

impl<'a> Case<'a> {
    /// Reads `[code] esolm line`.
    fn read(text: &'a str) -> Option<Self> {
        let (code, line) = text.strip_prefix('[')?.split_once("] esolm ")?;
        let code = code.parse().ok()?;
        Some(Self { code, line })
    }

    /// The sentence with which it ends.
    fn run(&self, folder: &Folder) -> String {
        let Self { code, line } = self;
        let temporary = folder.path().to_str().expect("a UTF-8 path");
        let model = format!(
            "--model {GOLDEN}/model_a.ema.safetensors --config {GOLDEN}/model_a.config.json"
        );
        let full = line
            .replace("MODEL", &model)
            .replace("GOLDEN", GOLDEN)
            .replace("CASES", CASES)
            .replace("TMP", temporary);
        let arguments = words(&full);
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            output.status.code(),
            Some(*code),
            "esolm {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        sentence(&output, line)
            .replace(temporary, "TMP")
            .replace(GOLDEN, "GOLDEN")
            .replace(CASES, "CASES")
    }
}

/// Splits a line at spaces, but not inside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, stretch) in line.split('\'').enumerate() {
        match number % 2 {
            0 => words.extend(stretch.split_whitespace().map(String::from)),
            _ => words.push(stretch.into()),
        }
    }
    words
}

/// The one sentence of a failed run.
fn sentence(output: &Output, line: &str) -> String {
    assert!(
        output.stdout.is_empty(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let errors = String::from_utf8(output.stderr.clone()).expect("text");
    // Notes on the seed and the device may come first.
    let said: Vec<&str> = errors
        .lines()
        .filter(|line| line.starts_with("esolm: "))
        .collect();
    let [said] = said[..] else {
        panic!("{line}: not one sentence: {errors}")
    };
    assert!(
        errors.ends_with(&format!("{said}\n")),
        "{line}: more after the sentence: {errors}"
    );
    assert!(
        !errors.contains("panicked") && !errors.contains("bug in esolm"),
        "{line}: {errors}"
    );
    assert!(said.len() < 500, "{line}: {said}");
    said.into()
}

#[test]
fn bad_input_ends_in_one_sentence() {
    let folder = Folder::new();
    files::prepare(&folder);
    decoders::prepare(&folder);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals/refusals.txt");
    let written = std::fs::read_to_string(&path).expect("the cases");
    let mut seen = String::new();
    let mut cases = 0;
    for line in written.lines().filter(|line| !line.starts_with("    ")) {
        seen.push_str(line);
        seen.push('\n');
        if let Some(case) = Case::read(line) {
            seen.push_str(&format!("    {}\n", case.run(&folder)));
            cases += 1;
        }
    }
    assert!(cases > 140, "only {cases} cases were read");
    assert!(
        !folder.path().join("out").exists(),
        "a refused run writes nothing"
    );
    if std::env::var_os("ESOLM_WRITE_REFUSALS").is_some() {
        return std::fs::write(&path, seen).expect("writable");
    }
    // Other systems word their errors differently.
    if cfg!(target_os = "linux") {
        for (seen, written) in seen.lines().zip(written.lines()) {
            assert_eq!(seen, written, "ESOLM_WRITE_REFUSALS=1 writes it anew");
        }
        assert_eq!(seen.lines().count(), written.lines().count());
    }
}

#[cfg(unix)]
#[test]
fn text_that_is_no_utf8_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    for option in ["--prompt", "--infill"] {
        let output = esolm()
            .args(["sample", option])
            .arg(OsStr::from_bytes(b"Once \xff"))
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(2));
        let said = sentence(&output, option);
        assert!(said.contains(option) && said.contains("UTF-8"), "{said}");
    }
    let output = esolm()
        .arg("inspect")
        .arg(OsStr::from_bytes(b"\xff"))
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    sentence(&output, "inspect");
}

#[test]
fn help_goes_to_stdout_unless_it_was_not_asked_for() {
    let output = run(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    for command in [
        "sample",
        "chat",
        "ppl",
        "score",
        "devices",
        "inspect",
        "convert",
        "forward",
        "replay",
        "bench",
        "completions",
        "man",
    ] {
        let help = String::from_utf8(run(&[command, "--help"]).stdout).expect("text");
        assert!(help.contains("Usage: esolm "), "{help}");
    }
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("esolm {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// Not in the table: the sentence includes the number of adapters of the machine.
#[test]
fn an_adapter_that_is_not_here_is_named() {
    let output = run(&["sample", "--device", "gpu:99"]);
    assert_eq!(output.status.code(), Some(1));
    let said = sentence(&output, "gpu:99");
    assert!(
        said.contains("99") || said.contains("no GPU adapter was found"),
        "{said}"
    );
}

#[test]
fn a_missing_default_model_is_named() {
    let output = esolm()
        .env("ESOLM_MODEL", "no/such/model")
        .arg("sample")
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = sentence(&output, "ESOLM_MODEL");
    assert!(said.contains("no/such/model"), "{said}");
}
