//! Models of every kind behind the server: its answers are what `esolm sample` writes with them.

use std::path::Path;

use serde_json::{Value, json};

use super::common::{Folder, root, succeed};
use super::http::Server;

const SETDLM: &str = "tests/fixtures/golden-family/setdlm/owt_setdlm_smax8";
const BD3LM: &str = "tests/fixtures/golden-family/bd3lm/bs4";
const DECODER: &str = "tests/fixtures/golden-llm/models/qwen2";

/// A copy of a model with some fields of its configuration changed, and with a tokenizer of this many words, w0, w1 and
/// so on; the one that begins and ends texts is shown in none.
fn worded(folder: &Folder, source: &str, fields: &Value, words: usize) -> String {
    let (from, to) = (root().join(source), folder.path().join("model"));
    std::fs::create_dir_all(&to).expect("a new folder");
    let config = std::fs::read(from.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    let all = config.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    let write = |name: &str, text: String| std::fs::write(to.join(name), text).expect("writable");
    write("config.json", config.to_string());
    let special: Vec<Value> = (config["bos_token_id"].as_u64().into_iter())
        .map(|id| {
            json!({
                "id": id, "content": format!("w{id}"), "special": true, "single_word": true, "lstrip": false,
                "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let vocabulary = (0..words).map(|word| (format!("w{word}"), word.into()));
    let vocabulary: serde_json::Map<String, Value> = vocabulary.collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    });
    write("tokenizer.json", tokenizer.to_string());
    std::fs::copy(from.join("model.safetensors"), to.join("model.safetensors")).expect("copied");
    to.to_str().expect("UTF-8").into()
}

/// A way to write, in the fields of a request and in the options of `esolm sample`.
type Way = (Value, &'static [&'static str]);

/// Compares a server's texts with those of `esolm sample`, alone and several at once, whole and as streams.
fn answers_as_sample_writes(model: &str, how: &[&str], ways: &[Way]) {
    let given = [&["--model", model], how].concat();
    let server = Server::start(&given);
    let name = Path::new(model).file_name().expect("a name");
    let name = name.to_str().expect("UTF-8");
    let prompt = "w5 w7 w11";
    let info = json!({"prompt": prompt, "add_special_tokens": true});
    let opened = server.post("/tokenize", &info).success()["count"].clone();
    let opened = opened.as_u64().expect("a number") as usize;
    for (fields, options) in ways {
        // A whole number of blocks.
        let max_tokens = 24 - opened;
        let common = [
            "sample", "--json", "--quiet", "--device", "cpu", "--prompt", prompt, "--seed", "6",
            "--batch", "3", "--length", "24",
        ];
        let sampled = succeed(&[&common, &given[..], options].concat());
        let sampled: Value = serde_json::from_str(&sampled).expect("JSON");
        let sampled = sampled["sequences"].as_array().expect("texts");
        let mut body = fields.clone();
        for (field, value) in [
            ("model", json!(name)),
            ("prompt", json!(prompt)),
            ("seed", json!(6)),
            ("n", json!(3)),
            ("max_tokens", json!(max_tokens)),
            ("logprobs", json!(1)),
        ] {
            body[field] = value;
        }
        let answer = server.post("/v1/completions", &body).success();
        body["stream"] = true.into();
        let events = server.post("/v1/completions", &body).events();
        for (index, sampled) in sampled.iter().enumerate() {
            let choice = &answer["choices"][index];
            let text = choice["text"].as_str().expect("text");
            let sampled = sampled["text"].as_str().expect("text");
            assert_eq!(format!("{prompt}{text}"), sampled, "{how:?} {fields}");
            let told = choice["logprobs"]["token_logprobs"].as_array();
            assert!(told.expect("a list").iter().all(Value::is_number));
            let parts = events.iter().flat_map(|event| {
                let choices = event["choices"].as_array().expect("choices").iter();
                choices.filter(|choice| choice["index"] == index)
            });
            let parts: String = parts.map(|p| p["text"].as_str().expect("text")).collect();
            assert_eq!(parts, text, "{how:?} {fields}");
        }
    }
}

#[test]
fn decoders_answer_as_sample_writes() {
    let folder = Folder::new();
    let decoder = worded(&folder, DECODER, &json!({}), 153);
    let from_left: &[Way] = &[
        (json!({}), &[]),
        (json!({"temperature": 0}), &["--temperature", "0"]),
        (
            json!({"top_k": 4, "temperature": 0.5}),
            &["--top-k", "4", "--temperature", "0.5"],
        ),
    ];
    answers_as_sample_writes(&decoder, &["--weights", "f32"], from_left);
    // The given text has the same scores as elsewhere, and the server prepends no token.
    let server = Server::start(&["--model", &decoder, "--max-length", "64"]);
    let prompt: Vec<u64> = vec![5, 7, 11, 13, 2, 19];
    let body =
        json!({"model": "model", "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 1});
    let told = server.post("/v1/completions", &body).success();
    let told = told["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .expect("a list")
        .clone();
    assert_eq!(told.len(), prompt.len());
    assert!(
        told[0].is_null() && told[1..].iter().all(Value::is_number),
        "{told:?}"
    );
    let long = json!({"model": "model", "prompt": prompt, "max_tokens": 59});
    assert_eq!(
        server.post("/v1/completions", &long).refusal(400)["param"],
        "max_tokens"
    );
    let between = json!({"model": "model", "prompt": "w5", "suffix": "w6", "max_tokens": 3});
    let refused = server.post("/v1/completions", &between).refusal(400);
    assert_eq!(refused["param"], "suffix");
    let models = server.get("/v1/models").success();
    assert_eq!(models["data"][0]["max_model_len"], 64);

    let folder = Folder::new();
    let diffuses = json!({
        "model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"], "mask_token_id": 152,
        "max_position_embeddings": 48,
    });
    let decoder = worded(&folder, DECODER, &diffuses, 152);
    let by_confidence: Way = (
        json!({"schedule": "confidence", "steps": 6}),
        &["--schedule", "confidence", "--steps", "6"],
    );
    let beyond: Way = (
        json!({"schedule": "confidence", "confidence_threshold": 0.05}),
        &["--schedule", "confidence", "--confidence-threshold", "0.05"],
    );
    let usual: Way = (json!({"top_p": 0.9}), &["--top-p", "0.9"]);
    let ways = [usual, by_confidence, beyond];
    answers_as_sample_writes(&decoder, &["--as", "mdlm"], &ways);
    answers_as_sample_writes(&decoder, &["--as", "bd3lm", "--block-size", "4"], &ways);
}

#[test]
fn models_that_confidence_leads_answer_as_sample_writes() {
    let folder = Folder::new();
    let sets = worded(&folder, SETDLM, &json!({}), 96);
    let ways: &[Way] = &[
        (json!({}), &[]),
        (
            json!({"steps": 7, "window": 5}),
            &["--steps", "7", "--window", "5"],
        ),
        (
            json!({"schedule": "first-hitting"}),
            &["--schedule", "first-hitting"],
        ),
    ];
    answers_as_sample_writes(&sets, &[], ways);
    // An opening token is hidden even if its tokenizer would show it.
    let tokenizer = Path::new(&sets).join("tokenizer.json");
    let told = std::fs::read_to_string(&tokenizer).expect("a tokenizer");
    let mut told: Value = serde_json::from_str(&told).expect("JSON");
    told["added_tokens"] = json!([]);
    std::fs::write(&tokenizer, told.to_string()).expect("writable");
    let server = Server::start(&["--model", &sets]);
    for (fields, shown) in [
        (json!({"echo": true}), "w5 w6"),
        (json!({}), ""),
        (json!({"suffix": "w9"}), ""),
    ] {
        let mut body = fields;
        body["model"] = "model".into();
        body["prompt"] = "w5 w6".into();
        body["seed"] = 1.into();
        let answer = server.post("/v1/completions", &body).success();
        let text = answer["choices"][0]["text"].as_str().expect("text");
        assert!(text.starts_with(&format!("{shown} w")), "{text}");
    }
    let folder = Folder::new();
    let blocks = worded(&folder, BD3LM, &json!({}), 96);
    let ways: &[Way] = &[
        (json!({}), &[]),
        (
            json!({"schedule": "confidence", "steps": 2}),
            &["--schedule", "confidence", "--steps", "2"],
        ),
    ];
    answers_as_sample_writes(&blocks, &[], ways);
}
