//! `esolm train` from outside: a recipe becomes a model that the other commands take, and Ctrl-C loses nothing.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Folder, esolm, run, succeed};

/// A recipe over a text made here; a training of a second or two.
fn recipe(folder: &Folder) -> String {
    let stories: Vec<String> = (0..80)
        .map(|i| {
            let animal = ["cat", "dog", "fox", "hen"][i % 4];
            let place = ["barn", "hill", "lake"][i % 3];
            format!("The {animal} went to the {place}. The {animal} liked the {place}.")
        })
        .collect();
    let text = folder.file("text.txt");
    std::fs::write(&text, stories.join("<|endoftext|>")).expect("writable");
    let path = folder.file("recipe.toml");
    let recipe = format!(
        "[model]\nhidden = 32\nblocks = 2\nheads = 2\ncond_dim = 8\nlength = 32\n\
         [data]\ntrain = [{text:?}]\nholdout = [{text:?}]\nvocab_size = 280\n\
         [optimizer]\nlr = 5e-3\nwarmup_steps = 5\n\
         [run]\nbatch = 8\ntokens = 20000\nema = 0.9\nvalidate_every = 20\nsave_every = 20\n"
    );
    std::fs::write(&path, recipe).expect("writable");
    path
}

#[test]
fn a_recipe_becomes_a_model() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let output = run(&["train", &recipe, "--out", &out]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(output.stdout.is_empty());
    for wanted in [
        "parameters",
        "tokens/s",
        "hold-out",
        "saved",
        "done; esolm sample",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in {said}");
    }
    for file in [
        "recipe.toml",
        "tokenizer.json",
        "log.jsonl",
        "curve.svg",
        "model/config.json",
    ] {
        assert!(std::path::Path::new(&out).join(file).is_file(), "{file}");
    }
    let model = format!("{out}/model");
    let text = succeed(&[
        "sample", "--model", &model, "--device", "cpu", "--seed", "1", "-q",
    ]);
    assert!(text.contains("The "), "{text}");
    let report = succeed(&[
        "ppl",
        "--model",
        &model,
        "--device",
        "cpu",
        "--json",
        &folder.file("text.txt"),
    ]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let nats = report["exact"]["nats_per_token"]
        .as_f64()
        .expect("a number");
    // Untrained it would be ln 280 = 5.6.
    assert!(nats < 2.5, "{nats}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_a_resume_goes_on() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    // Far more than would be done before the interrupt.
    let mut child = esolm()
        .args([
            "train",
            &recipe,
            "--out",
            &out,
            "--set",
            "run.tokens=100000000",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.by_ref().map_while(Result::ok);
    assert!(first.into_iter().any(|line| line.contains("tokens/s")));
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{rest:?}");
    let last = rest.last().expect("a last word");
    assert!(last.contains("stopped and saved after step"), "{last}");
    let step: u64 = last
        .split_whitespace()
        .find_map(|word| word.trim_end_matches(';').parse().ok())
        .expect("the step");

    let tokens = format!("run.tokens={}", (step + 3) * 256);
    let output = run(&["train", "--out", &out, "--resume", "--set", &tokens]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&format!("steps {step} to {}", step + 3)),
        "{said}"
    );
    let changed = format!(
        "going on with changed values: tokens = {}",
        (step + 3) * 256
    );
    assert!(said.contains(&changed), "{said}");
    succeed(&["inspect", &format!("{out}/model")]);

    let again = run(&["train", &recipe, "--out", &out]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"));
}
