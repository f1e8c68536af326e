//! Eso-LM (A) with every way of sampling.

use super::common::{Folder, root, run, succeed};
use super::json;
use serde_json::Value;

/// The small model that ships as an Eso-LM (A), which has the same parameters.
fn model(folder: &Folder) -> String {
    let stories = root().join("models/stories");
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(stories.join(file), folder.file(file)).expect("writable");
    }
    let config = std::fs::read_to_string(stories.join("config.json")).expect("text");
    let mixed = config.replacen('{', "{\"diffusion_attn_mode\": \"mixed2\",", 1);
    std::fs::write(folder.file("config.json"), mixed).expect("writable");
    folder.path().to_str().expect("UTF-8").into()
}

#[test]
fn mixed_attention_writes_every_way() {
    let folder = Folder::new();
    let model = model(&folder);
    let sample = [
        "sample", "--model", &model, "--device", "cpu", "--seed", "4",
    ];
    let with = |more: &[&'static str]| -> Value {
        let length = ["--length", "40", "--json"];
        json(&[&sample[..], &length, more].concat())
    };
    // One token per pass, after the opening token: each pass recomputes all known tokens; an Eso-LM (B) has two rows
    // per token.
    let one_by_one = [
        "--alpha0",
        "1",
        "--schedule",
        "blocks-shuffled",
        "--steps",
        "40",
    ];
    assert_eq!(with(&one_by_one)["rows"], 40 * 41 / 2 - 1);
    // From left to right, earlier tokens see none of the later ones, except that a prompt is computed as a whole.
    assert_eq!(with(&["--alpha0", "0"])["rows"], 2 * 39);
    let prompted = with(&["--alpha0", "0", "--prompt", "Once upon a time, Lily"]);
    let given = prompted["sequences"][0]["text"].as_str().expect("a text");
    assert!(given.starts_with("Once upon a time, Lily"), "{given}");

    // Each text of a batch is the same alone, in both phases, with a template too.
    for options in [
        &["--alpha0", "0.5"][..],
        &[
            "--alpha0",
            "0.25",
            "--infill",
            "Once ____{9} the cat ____{9} home.",
        ],
    ] {
        let many = [&sample[..], options, &["--batch", "3"]].concat();
        let texts = succeed(&many);
        let texts: Vec<&str> = texts.trim_end_matches('\n').split("\n----\n").collect();
        assert_eq!(texts.len(), 3);
        for (number, text) in texts.iter().enumerate() {
            let first = number.to_string();
            let alone = succeed(&[&sample[..], options, &["--first", &first]].concat());
            assert_eq!(alone.trim_end_matches('\n'), *text, "{options:?}");
        }
    }

    let trace = folder.file("trace.jsonl");
    succeed(
        &[
            &sample[..],
            &["--length", "24", "--alpha0", "0.5", "--trace", &trace],
        ]
        .concat(),
    );
    let trace = std::fs::read_to_string(trace).expect("a trace");
    assert!(trace.lines().count() > 12, "{trace}");
    let inspected = succeed(&["inspect", &model]);
    assert!(
        inspected.contains("every known token in every diffusion pass"),
        "{inspected}"
    );
}

/// Steps that omit known tokens before the sequential phase were not made by an Eso-LM (A).
#[test]
fn a_recorded_run_of_another_attention_is_refused() {
    let golden = "tests/fixtures/golden";
    let folder = Folder::new();
    let config = std::fs::read_to_string(root().join(golden).join("model_a.config.json"));
    let mixed = config
        .expect("text")
        .replacen('{', "{\"diffusion_attn_mode\": \"mixed2\",", 1);
    let path = folder.file("config.json");
    std::fs::write(&path, mixed).expect("writable");
    let input = folder.file("trace.safetensors");
    super::common::write(&input, &recorded("alpha1"));
    let weights = format!("{golden}/model_a.ema.safetensors");
    let output = folder.file("out.safetensors");
    let line = [
        "replay", "--model", &weights, "--config", &path, "--input", &input, "--output", &output,
        "--device", "cpu",
    ];
    let refused = run(&line);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the recorded run cannot be replayed"),
        "{said}"
    );
}

type Entry = (&'static str, safetensors::Dtype, Vec<usize>, Vec<u8>);

/// The arrays of a recorded generation of an Eso-LM (B), as `esolm replay` reads them.
fn recorded(trace: &str) -> Vec<Entry> {
    use safetensors::Dtype::{F64, I32};
    let golden = super::common::Tensors::golden("sampling_model_a.safetensors");
    let entry = |name: &'static str, dtype| {
        let full = format!("{trace}.{name}");
        (name, dtype, golden.shape(&full), golden.bytes(&full))
    };
    vec![entry("sort_idx", I32), entry("steps", I32), entry("u", F64)]
}
