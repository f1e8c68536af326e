//! Decoders: in fewer bits, in several files, and timed.

use std::path::Path;

use serde_json::{Value, json};

use super::common::{self, Folder, run, succeed};

/// The golden model that writes in blocks of 8, with the tokenizer that determines its mask.
fn chat(folder: &Folder) -> String {
    let golden = common::root().join("tests/fixtures/golden-llm/chat");
    let out = folder.file("chat");
    std::fs::create_dir_all(&out).expect("a new folder");
    for (from, to) in [
        ("model_bd3lm/config.json", "config.json"),
        ("model_bd3lm/model.safetensors", "model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
    ] {
        std::fs::copy(golden.join(from), Path::new(&out).join(to)).expect("writable");
    }
    out
}

const AS_BLOCKS: [&str; 4] = ["--as", "bd3lm", "--block-size", "8"];

#[test]
fn a_decoder_is_stored_in_fewer_bits() {
    let folder = Folder::new();
    let chat = chat(&folder);
    let sample = |model: &str, more: &[&str]| {
        let line = "sample --device cpu --seed 1 --length 40 --prompt a --model";
        let line: Vec<&str> = line.split(' ').chain([model]).collect();
        succeed(&[&line[..], more].concat())
    };
    let weights = |model: &str| {
        let path = Path::new(model).join("model.safetensors");
        std::fs::metadata(path).expect("weights").len() as f64
    };
    // Compared with f16; the header takes a little, and norms stay f32.
    for (bits, share) in [("q8", 0.60), ("q4", 0.42)] {
        let out = folder.file(bits);
        let line = ["convert", &chat, &out, "--dtype", bits];
        succeed(&[&line[..], &AS_BLOCKS].concat());
        let of_original = sample(&chat, &[&["--weights", bits][..], &AS_BLOCKS].concat());
        // What it is gets recorded.
        assert_eq!(sample(&out, &[]), of_original, "{bits}");
        assert_eq!(sample(&out, &["--weights", bits]), of_original, "{bits}");
        assert!(weights(&out) < share * weights(&chat), "{bits}");
        let report: Value =
            serde_json::from_str(&succeed(&["inspect", &out, "--json"])).expect("JSON");
        assert_eq!(report["weights"], bits);
        assert_eq!(
            (&report["family"], &report["block_size"]),
            (&json!("bd3lm"), &json!(8))
        );
        let floats = folder.file(&format!("{bits}-floats"));
        succeed(&["convert", &out, &floats]);
        assert_eq!(sample(&floats, &[]), sample(&out, &["--weights", "f32"]));
    }
}

/// Weights in several files are replaced as a whole.
#[test]
fn a_model_in_several_files_is_replaced() {
    let folder = Folder::new();
    let (chat, out) = (chat(&folder), folder.file("out"));
    std::fs::create_dir_all(&out).expect("a new folder");
    let at = |name: &str| Path::new(&out).join(name);
    let shard = "model-00001-of-00001.safetensors";
    std::fs::copy(Path::new(&chat).join("model.safetensors"), at(shard)).expect("writable");
    let index = json!({"weight_map": {"model.norm.weight": shard}});
    std::fs::write(at("model.safetensors.index.json"), index.to_string()).expect("writable");
    let line = ["convert", &chat, &out, "--dtype", "q8"];
    let line = [&line[..], &AS_BLOCKS].concat();
    let refused = run(&line);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    succeed(&[&line[..], &["--force"]].concat());
    let left = std::fs::read_dir(&out).expect("a folder").flatten();
    let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.json", "model.safetensors", "tokenizer.json"]);
}

/// Blocks with a cache next to the same steps without one, and AR.
#[test]
fn a_decoder_is_timed() {
    let folder = Folder::new();
    let chat = chat(&folder);
    let line = "bench --device cpu --json --max-seconds 0 --length 32 --compare f32,q8 --model";
    let line: Vec<&str> = line.split(' ').chain([&chat[..]]).collect();
    let report: Value =
        serde_json::from_str(&succeed(&[&line[..], &AS_BLOCKS].concat())).expect("JSON");
    let lines = report["lines"].as_array().expect("a list");
    let first: Vec<(&str, u64, f64)> = lines
        .iter()
        .filter(|line| line["form"] == "f32")
        .map(|line| {
            let number = |field: &str| line[field].as_f64().expect("a number");
            assert!(number("seconds") > 0.0, "{line}");
            let name = line["name"].as_str().expect("a name");
            (name, number("nfe") as u64, number("rows_per_token"))
        })
        .collect();
    // The rows of each block but the last are computed once more, clean.
    assert_eq!(
        first,
        [
            ("MDLM, 1 a step", 32, 32.0),
            ("BD3-LM (8), 1", 32, 8.75),
            ("MDLM, 2 a step", 16, 16.0),
            ("BD3-LM (8), 2", 16, 4.75),
            ("MDLM, 4 a step", 8, 8.0),
            ("BD3-LM (8), 4", 8, 2.75),
            ("AR", 31, 31.0 / 32.0),
        ]
    );
    assert_eq!(report["cost"]["forms"].as_array().map(Vec::len), Some(2));
}
