//! Bad input of `cargo xtask results`: one sentence, the right exit code, nothing written.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A text file and a plan that is none, in a folder for temporary files.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("esolm-usage-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("made");
    fs::write(folder.join("text.txt"), "a story<|endoftext|>another").expect("written");
    fs::write(folder.join("foreign.txt"), "caf\u{e9}").expect("written");
    fs::write(folder.join("plan.json"), "{\"recipe\": 1}").expect("written");
    folder
}

#[test]
fn bad_usage_ends_in_one_sentence() {
    let folder = folder();
    let given = "--train text.txt --holdout text.txt --work work --out out";
    for (line, code, sentence) in [
        ("", 2, "which command?"),
        ("rnder", 2, "there is no command \"rnder\""),
        ("render --wrok x", 2, "there is no option \"--wrok\""),
        (
            "render --root nowhere",
            1,
            "cannot read nowhere/results/notes.md",
        ),
        ("run", 2, "--train is missing"),
        ("run --train text.txt", 2, "--holdout is missing"),
        (
            "run --train text.txt --holdout text.txt",
            2,
            "--work is missing",
        ),
        ("run --train --work w", 2, "--train needs a value"),
        (
            "run --train no.txt --holdout text.txt --work work --out out",
            1,
            "cannot read no.txt",
        ),
        (
            "run --train foreign.txt --holdout text.txt --work work --out out",
            1,
            "no plain ASCII document in foreign.txt",
        ),
        (
            &format!("run {given} --plan plan.json"),
            2,
            "the plan plan.json is not usable",
        ),
        (
            &format!("run {given} --plan no.json"),
            1,
            "cannot read no.json",
        ),
        (
            &format!("run {given} --esolm no/esolm"),
            2,
            "there is no program no/esolm",
        ),
        ("compare --old a", 2, "--new is missing"),
        (
            &format!("compare --old a --new b --judge c {given} --esolm no/esolm"),
            2,
            "there is no program no/esolm",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_esolm-results"))
            .args(line.split_whitespace())
            .current_dir(&folder)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(sentence), "{line}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{line}: {said}");
        assert!(output.stdout.is_empty(), "{line}");
    }
    assert!(!folder.join("out").exists(), "nothing is written");
    fs::remove_dir_all(&folder).expect("removed");
}
