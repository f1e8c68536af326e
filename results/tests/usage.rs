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
    let models = "--old a --new b --judge c";
    for (line, code, sentence) in [
        ("", 2, "requires a subcommand"),
        (
            "rnder",
            2,
            "unrecognized subcommand 'rnder'; a similar subcommand exists: 'render'",
        ),
        ("render --wrok x", 2, "unexpected argument '--wrok' found"),
        ("render word", 2, "unexpected argument 'word' found"),
        (
            "render --root nowhere",
            1,
            "cannot read nowhere/results/page.md",
        ),
        (
            "run",
            2,
            "not provided: --train <FILE>... --holdout <FILE> --work <DIR>",
        ),
        (
            "run --train text.txt",
            2,
            "not provided: --holdout <FILE> --work <DIR>",
        ),
        (
            "run --train text.txt --holdout text.txt",
            2,
            "not provided: --work <DIR>",
        ),
        (
            "run --train --work w",
            2,
            "a value is required for '--train <FILE>...'",
        ),
        (
            "run --train text.txt --work a b",
            2,
            "unexpected argument 'b' found",
        ),
        (
            "run --work a --work b",
            2,
            "'--work <DIR>' cannot be used multiple times",
        ),
        (
            &format!("compare {models} {given} --samples 0"),
            2,
            "invalid value '0' for '--samples <N>'",
        ),
        (
            &format!("compare {models} {given} --length many"),
            2,
            "invalid value 'many' for '--length <L>'",
        ),
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
        (
            "compare --old a",
            2,
            "--work <DIR> --new <MODEL> --judge <MODEL>",
        ),
        (
            &format!("compare {models} {given} --esolm no/esolm"),
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

#[test]
fn help_lists_the_commands_and_their_options() {
    for (line, words) in [
        ("help", &["run", "compare", "render"][..]),
        (
            "run --help",
            &["--train <FILE>...", "--plan <FILE>", "cpu, gpu or gpu:N"],
        ),
        (
            "help compare",
            &["--old <MODEL>", "--samples <N>", "[default: 200]"],
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_esolm-results"))
            .args(line.split_whitespace())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{line}: {said}");
        for word in words {
            assert!(said.contains(word), "{line}: {word} is not in {said}");
        }
    }
}
