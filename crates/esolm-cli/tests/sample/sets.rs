//! SetDLMs: every way to write, texts beyond the context, scores, and conversion.

use super::common::{Folder, run, succeed};
use super::json;
use serde_json::Value;

const SETS: &str = "tests/fixtures/golden-family/setdlm/owt_setdlm_smax8";

/// What `esolm sample --json` writes with a model of 32 tokens, whose largest sets have 8.
fn sample_with(model: &str, more: &[&str]) -> Value {
    let line = "sample --tokenizer none --seed 1 --device cpu --json --model";
    let line: Vec<&str> = line.split(' ').chain([model]).collect();
    json(&[&line[..], more].concat())
}

fn sample(more: &[&str]) -> Value {
    sample_with(SETS, more)
}

fn tokens(report: &Value, text: usize) -> Vec<u64> {
    let tokens = report["sequences"][text]["tokens"].as_array();
    let tokens = tokens.expect("tokens").iter();
    tokens
        .map(|token| token.as_u64().expect("a token"))
        .collect()
}

#[test]
fn every_sampler_of_a_setdlm_writes() {
    let first = sample(&[]);
    assert_eq!(
        (&first["family"], &first["schedule"]),
        (&"setdlm".into(), &"confidence".into())
    );
    // The opening token is given.
    assert_eq!(first["nfe"], 31);
    let written = tokens(&first, 0);
    assert!(
        written.len() == 32 && written.iter().all(|&token| token < 96),
        "{written:?}"
    );
    assert_eq!(tokens(&sample(&[]), 0), written);

    // Windows are too small for 31 tokens in two steps: further steps follow, and nothing is left out.
    let few = sample(&["--steps", "2"]);
    assert_eq!(few["nfe"], 4);
    assert!(tokens(&few, 0).iter().all(|&token| token < 96));
    assert_eq!(sample(&["--steps", "2", "--window", "32"])["nfe"], 2);
    let sure = sample(&["--confidence-threshold", "0.05"]);
    assert!(sure["nfe"].as_u64() < first["nfe"].as_u64());
    let trained = sample(&["--train-order"]);
    assert_ne!(tokens(&trained, 0), written);
    let drawn = sample(&["--schedule", "first-hitting", "--steps", "8"]);
    assert_eq!(drawn["nfe"], 8);
    assert_eq!(sample(&["--schedule", "left-to-right"])["nfe"], 31);

    let batch = sample(&["--batch", "3"]);
    assert_eq!(tokens(&batch, 0), written);
    assert_eq!(tokens(&batch, 2), tokens(&sample(&["--first", "2"]), 0));
}

#[test]
fn a_setdlm_writes_beyond_its_context() {
    let long = sample(&["--length", "70", "--steps", "30"]);
    assert_eq!((&long["window"], &long["length"]), (&32.into(), &70.into()));
    let written = tokens(&long, 0);
    assert!(
        written.len() == 70 && written.iter().all(|&token| token < 96),
        "{written:?}"
    );
    // With the same steps, a text of another length begins differently, but being in a batch makes no difference.
    let batch = sample(&["--length", "70", "--steps", "30", "--batch", "2"]);
    assert_eq!(tokens(&batch, 0), written);
}

#[test]
fn a_converted_setdlm_is_the_same() {
    let folder = Folder::new();
    let out = folder.path().join("model");
    let out = out.to_str().expect("UTF-8");
    for form in ["f32", "q8"] {
        succeed(&["convert", SETS, out, "--force", "--dtype", form]);
        let described = succeed(&["inspect", out, "--tokenizer", "none"]);
        for words in [
            "SetDLM, set attention",
            "4 tokens at once, 8 at most",
            "first token of a text is given",
        ] {
            assert!(described.contains(words), "{described}");
        }
        let config = std::fs::read_to_string(format!("{out}/config.json")).expect("text");
        assert!(
            config.contains("\"SetDLM\"") && config.contains("StaggeredNoise"),
            "{config}"
        );
        if form == "f32" {
            assert_eq!(tokens(&sample_with(out, &[]), 0), tokens(&sample(&[]), 0));
        }
    }
    // Options that only other families have, and options that only this one has.
    for (model, option, value) in [
        (SETS, "--block-size", "4"),
        (SETS, "--alpha0", "0.5"),
        (SETS, "--window", "33"),
        ("tests/fixtures/golden-family/bd3lm/bs4", "--window", "4"),
    ] {
        let output = run(&[
            "sample",
            "--model",
            model,
            "--tokenizer",
            "none",
            option,
            value,
        ]);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{option}: {said}");
        assert!(said.contains(option), "{option}: {said}");
    }
}
