//! BD3-LMs: samplers, block sizes, texts beyond the context, and texts that end early.

use super::common::{Folder, run, succeed};
use super::json;
use serde_json::Value;

const BLOCKS: &str = "tests/fixtures/golden-family/bd3lm/bs4";
const MINI: &str = "tests/fixtures/golden-family/bd3lm/mini_bd3lm.ckpt";

/// The command that samples from a model of 32 tokens in blocks of 4.
const SAMPLE: [&str; 9] = [
    "sample",
    "--model",
    BLOCKS,
    "--tokenizer",
    "none",
    "--seed",
    "1",
    "--device",
    "cpu",
];

/// What `esolm sample --json` writes with a model of 32 tokens in blocks of 4.
fn sample(more: &[&str]) -> Value {
    json(&[&SAMPLE[..], &["--json"], more].concat())
}

fn tokens(report: &Value, text: usize) -> Vec<u64> {
    let tokens = report["sequences"][text]["tokens"]
        .as_array()
        .expect("tokens");
    tokens
        .iter()
        .map(|token| token.as_u64().expect("a token"))
        .collect()
}

#[test]
fn every_sampler_of_a_bd3lm_writes() {
    let first = sample(&[]);
    assert_eq!(first["family"], "bd3lm");
    assert_eq!(first["schedule"], "first-hitting");
    assert_eq!(
        (&first["block_size"], &first["nfe"]),
        (&4.into(), &32.into())
    );
    assert_eq!(first["window"], Value::Null);
    // Two thirds of the rows of a model that computes the whole text in every pass.
    assert_eq!(first["rows"], 32 * 4 + 28);
    let written = tokens(&first, 0);
    assert!(
        written.len() == 32 && written.iter().all(|&token| token < 96),
        "{written:?}"
    );
    assert_eq!(tokens(&sample(&[]), 0), written);

    let few = sample(&["--steps", "2"]);
    assert_eq!(few["schedule"], "binomial");
    assert!(few["nfe"].as_u64() <= Some(16), "{}", few["nfe"]);
    assert_eq!(sample(&["--schedule", "left-to-right"])["nfe"], 32);
    let large = sample(&["--block-size", "16", "--steps", "1"]);
    assert_eq!(
        (&large["block_size"], &large["nfe"]),
        (&16.into(), &2.into())
    );

    let batch = sample(&["--batch", "3"]);
    assert_eq!(tokens(&batch, 0), written);
    let third = sample(&["--first", "2"]);
    assert_eq!(tokens(&batch, 2), tokens(&third, 0));
}

#[test]
fn confidence_chooses_within_blocks() {
    let of = |more: &[&str]| sample(&[&["--schedule", "confidence"], more].concat());
    let one_by_one = of(&[]);
    assert_eq!(one_by_one["schedule"], "confidence");
    assert_eq!(one_by_one["confidence_threshold"], Value::Null);
    assert_eq!(one_by_one["nfe"], 32);
    let few = of(&["--steps", "2"]);
    assert_eq!(few["nfe"], 16);
    assert_ne!(tokens(&few, 0), tokens(&one_by_one, 0));
    assert_eq!(tokens(&of(&["--steps", "2"]), 0), tokens(&few, 0));

    // All of a block at once, some of it, and no more than a step takes anyway.
    let at = |threshold: &str| of(&["--confidence-threshold", threshold]);
    assert_eq!(at("0")["nfe"], 8);
    // Steps are numbered whether or not those before them were run, so later blocks have other random numbers.
    assert_eq!(
        tokens(&at("0"), 0)[..4],
        tokens(&of(&["--steps", "1"]), 0)[..4]
    );
    let some = at("0.1");
    assert_eq!(
        some["confidence_threshold"].as_f64().map(|t| t as f32),
        Some(0.1)
    );
    let passes = some["nfe"].as_u64().expect("a number");
    assert!((9..32).contains(&passes), "{passes}");
    assert_eq!(tokens(&at("1"), 0), tokens(&one_by_one, 0));

    let batch = of(&["--batch", "3", "--confidence-threshold", "0.1"]);
    assert_eq!(tokens(&batch, 0), tokens(&some, 0));
    let third = of(&["--first", "2", "--confidence-threshold", "0.1"]);
    assert_eq!(tokens(&batch, 2), tokens(&third, 0));
}

#[test]
fn a_trace_says_what_confidence_chose() {
    let folder = Folder::new();
    let trace = folder.path().join("trace");
    let trace = trace.to_str().expect("UTF-8");
    let more = [
        "--schedule",
        "confidence",
        "--confidence-threshold",
        "0.1",
        "--trace",
        trace,
    ];
    let written = tokens(&sample(&more), 0);
    let text = std::fs::read_to_string(trace).expect("a trace");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (header, steps) = (&lines[0], &lines[1..lines.len() - 1]);
    assert_eq!(
        header["confidence_threshold"].as_f64().map(|t| t as f32),
        Some(0.1)
    );
    assert_eq!(header["nfe"], 32);
    assert!(steps.len() < 32 && lines[lines.len() - 1]["nfe"] == steps.len());
    let mut revealed = vec![None; 32];
    let mut last = None;
    for step in steps {
        assert_eq!(step["steps"], 32);
        assert!(step["step"].as_u64() > last, "{step}");
        last = step["step"].as_u64();
        for token in step["revealed"].as_array().expect("tokens") {
            let place = token["position"].as_u64().expect("a position") as usize;
            assert_eq!(
                revealed[place].replace(token["token"].as_u64().expect("a token")),
                None
            );
        }
    }
    assert!(revealed.into_iter().map(Option::unwrap).eq(written));
}

#[test]
fn the_nucleus_with_and_without_the_token_that_crosses_it() {
    let of = |more: &[&str]| tokens(&sample(&[&["--top-p", "0.01"], more].concat()), 0);
    // So small that only the most likely token remains either way.
    assert_eq!(of(&[]), of(&["--top-p-crossing", "drop"]));
    let dropped = sample(&["--top-p", "0.5", "--top-p-crossing", "drop"]);
    assert_eq!(dropped["top_p_crossing"], "drop");
    assert_ne!(tokens(&dropped, 0), tokens(&sample(&["--top-p", "0.5"]), 0));
}

#[test]
fn beyond_the_context_is_said() {
    let output = run(&[&SAMPLE[..], &["--length", "48"]].concat());
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(
        output.status.success() && said.contains("past 32 tokens") && said.contains("not exact"),
        "{said}"
    );
    let long = sample(&["--length", "48"]);
    assert_eq!((&long["window"], &long["length"]), (&32.into(), &48.into()));
    // Each block beyond the context has its own pass for the clean tokens of the previous one.
    assert_eq!(long["nfe"], 48 + 4);
    assert_eq!(tokens(&long, 0)[..32], tokens(&sample(&[]), 0));
}

#[test]
fn prompts_may_end_within_a_block() {
    let model = [
        "sample", "--model", MINI, "--seed", "3", "--device", "cpu", "--json",
    ];
    let report = json(&[&model[..], &["--prompt", "abcd"]].concat());
    // The opening token and four more, which end in the second block.
    assert_eq!(tokens(&report, 0)[..5], [95, 64, 65, 66, 67]);
    assert_eq!(report["nfe"], 3);
    let report = json(&[&model[..], &["--infill", "____bc"]].concat());
    // The template has seven tokens with the opening one; whole blocks are written.
    assert_eq!(tokens(&report, 0).len(), 8);
    assert_eq!(tokens(&report, 0)[5..7], [65, 66]);
}

#[test]
fn texts_end_early_where_rules_say() {
    let model = [
        "sample", "--model", MINI, "--seed", "4", "--device", "cpu", "--json", "--length", "800",
        "--batch", "2",
    ];
    let whole = json(&model);
    let cut = json(&[&model[..], &["--stop", "eos"]].concat());
    assert_eq!(cut["interrupted"], false);
    let mut ended = 0;
    for text in 0..2 {
        let (whole, cut) = (tokens(&whole, text), tokens(&cut, text));
        let second = whole
            .iter()
            .enumerate()
            .filter(|(_, token)| **token == 95)
            .nth(1);
        let end = second.map_or(800, |(place, _)| place + 1);
        assert_eq!(cut, whole[..end], "text {text}");
        ended += usize::from(second.is_some());
    }
    assert!(ended > 0, "another seed is needed");
    assert_eq!(cut["ended"].as_array().map(Vec::len), Some(ended));
    if ended == 2 {
        assert!(cut["nfe"].as_u64() < whole["nfe"].as_u64());
    }
}

#[test]
fn a_converted_bd3lm_is_the_same() {
    let folder = Folder::new();
    for model in [
        BLOCKS,
        "tests/fixtures/golden-family/setdlm/owt_bd3lm_s4",
        MINI,
    ] {
        let out = folder.path().join("model");
        let out = out.to_str().expect("UTF-8");
        succeed(&["convert", model, out, "--force"]);
        let of = |model: &str| {
            let report = json(&[
                "sample",
                "--model",
                model,
                "--tokenizer",
                "none",
                "--seed",
                "1",
                "--device",
                "cpu",
                "--json",
            ]);
            tokens(&report, 0)
        };
        assert_eq!(of(out), of(model), "{model}");
        let described = succeed(&["inspect", out, "--tokenizer", "none"]);
        assert!(
            described.contains("BD3-LM, block attention, 4 tokens a block"),
            "{described}"
        );
    }
    assert!(succeed(&["inspect", BLOCKS, "--tokenizer", "none"]).contains("0.001 to 0.999"));
}

/// More steps than there are tokens to choose change nothing, and a note says so.
#[test]
fn steps_that_are_not_run_are_told() {
    let common = [
        "sample",
        "--device",
        "cpu",
        "--tokenizer",
        "none",
        "--seed",
        "1",
    ];
    let common = [
        &common[..],
        &["--model", BLOCKS, "--schedule", "confidence"],
    ]
    .concat();
    let with = |steps: &str| run(&[&common[..], &["--steps", steps]].concat());
    let (enough, more) = (with("4"), with("9"));
    assert_eq!(enough.stdout, more.stdout);
    let said =
        "a block of 4 tokens takes no more steps than that, so the further ones of 9 are not run";
    let errors =
        |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors(&more).contains(said), "{}", errors(&more));
    assert!(!errors(&enough).contains("not run"), "{}", errors(&enough));
    // Without the option, there is no note.
    let default = run(&common);
    assert!(
        !errors(&default).contains("not run"),
        "{}",
        errors(&default)
    );
}
