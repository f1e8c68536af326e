//! Widely used clients: the Python package `openai`, and lm-eval's `local-completions`. They are installed once, from
//! PyPI, into a folder of the build; afterwards no network is needed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::common::{Folder, root, succeed};
use super::http::Server;

/// The packages. Another list gets its own folder; `cargo xtask test` uses the same one for the Python package.
const REQUIREMENTS: &str = include_str!("../../../../tests/requirements.txt");

fn succeeds(command: &mut Command, what: &str) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{what}: {error}; install Python 3 with venv and pip"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what} failed:\n{said}\n{errors}");
    said
}

/// The environment's Python. An incomplete environment is created again.
fn python() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    REQUIREMENTS.hash(&mut hasher);
    let name = format!("python-{:016x}", hasher.finish());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let bin = if cfg!(windows) { "Scripts" } else { "bin" };
    let python = folder.join(bin).join("python");
    let whole = folder.join("whole");
    if !whole.exists() {
        let _ = std::fs::remove_dir_all(&folder);
        let program = if cfg!(windows) { "python" } else { "python3" };
        succeeds(
            Command::new(program).args(["-m", "venv"]).arg(&folder),
            "python3 -m venv",
        );
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet"]);
        pip.args(["--disable-pip-version-check", "-r"]);
        pip.arg(root().join("tests/requirements.txt"));
        succeeds(&mut pip, "pip install");
        std::fs::write(&whole, "").expect("written");
    }
    python
}

fn script(python: &Path, arguments: &[&str]) -> String {
    let script = root().join("crates/esolm-cli/tests/serve/clients.py");
    let mut command = Command::new(python);
    command.arg(script).args(arguments);
    succeeds(&mut command, "clients.py")
}

/// Questions with two answers each, and how the model ranks them.
fn questions() -> Vec<(&'static str, [&'static str; 2])> {
    vec![
        (
            "Once upon a time, there was a little",
            ["girl named Lily.", "engine of war."],
        ),
        ("Tom had a big red", ["ball.", "opinion."]),
        ("They went to the park to", ["play.", "legislate."]),
        (
            "The sun was shining and the birds were",
            ["singing.", "bankrupt."],
        ),
        ("Lily was very", ["happy.", "asynchronous."]),
    ]
}

#[test]
fn openai_and_lm_eval_get_what_the_other_commands_say() {
    let python = python();
    let server = Server::start_with(&[], &[("ESOLM_API_KEY", "secret")]);
    let said = script(&python, &["openai", &server.address, "secret"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    let sample = succeed(&[
        "sample",
        "--json",
        "--quiet",
        "--device",
        "cpu",
        "--prompt",
        "Once upon a time",
        "--seed",
        "4",
        "--length",
        &told["length"].to_string(),
    ]);
    let sample: Value = serde_json::from_str(&sample).expect("JSON");
    let text = sample["sequences"][0]["text"].as_str().expect("text");
    assert_eq!(
        format!("Once upon a time{}", told["text"].as_str().expect("text")),
        text
    );

    let folder = Folder::new();
    let lines: Vec<String> = questions()
        .iter()
        .map(|(context, choices)| {
            json!({"context": context, "choices": choices, "gold": 0}).to_string()
        })
        .collect();
    let data = folder.file("data.jsonl");
    std::fs::write(&data, lines.join("\n")).expect("written");
    let out = folder.path().to_str().expect("UTF-8");
    let open = Server::start(&[]);
    let said = script(&python, &["lm_eval", &open.address, &data, out]);
    let likelihoods: Vec<[f64; 2]> = serde_json::from_str(&said).expect("JSON");
    let choices: Vec<String> = questions()
        .iter()
        .map(|(context, choices)| {
            let choices = choices.map(|choice| format!(" {choice}"));
            json!({"context": context, "choices": choices}).to_string()
        })
        .collect();
    let asked = folder.file("choices.jsonl");
    std::fs::write(&asked, choices.join("\n")).expect("written");
    let scored = succeed(&[
        "score",
        "--device",
        "cpu",
        "--quiet",
        "--json",
        "--choices",
        &asked,
    ]);
    let scored: Vec<Value> = scored
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!((likelihoods.len(), scored.len()), (5, 5));
    for (got, scored) in likelihoods.iter().zip(&scored) {
        let want = scored["logp"].as_array().expect("a list");
        assert_eq!(want.len(), got.len());
        for (got, want) in got.iter().zip(want) {
            let want = want.as_f64().expect("a number");
            assert!(
                (got - want).abs() < 1e-4 * want.abs(),
                "{got}, want {want}: {scored}"
            );
        }
    }
}
