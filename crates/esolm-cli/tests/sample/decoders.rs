//! Decoders: a chat model that writes in blocks, tokens excluded from its draws, tokens that end its texts, and how
//! texts open.

use std::path::PathBuf;

use super::common::{Folder, root, succeed};
use super::json;
use serde_json::{Value, json};

/// "<|endoftext|>", "<|im_end|>" and "The" of its tokenizer.
const END_OF_TEXT: u64 = 320;
const TURN_END: u64 = 322;
const THE: u64 = 291;

/// The chat model with its tokenizer, as installed by a user.
fn chat(folder: &Folder) -> PathBuf {
    let golden = root().join("tests/fixtures/golden-llm/chat");
    let model = folder.path().join("chat");
    std::fs::create_dir_all(&model).expect("a new folder");
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        let from = golden.join("model_bd3lm").join(name);
        std::fs::copy(from, model.join(name)).expect("writable");
    }
    std::fs::copy(golden.join("tokenizer.json"), model.join("tokenizer.json")).expect("writable");
    model
}

/// Changes a file of a model.
fn change(model: &std::path::Path, name: &str, change: impl FnOnce(&mut Value)) {
    let file = model.join(name);
    let mut value: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    change(&mut value);
    std::fs::write(file, value.to_string()).expect("writable");
}

/// A recorded question, as a prompt, with its recorded answer.
fn question() -> (String, Value) {
    let file = root().join("tests/fixtures/golden-llm/chat/golden_bd3lm.json");
    let golden: Value =
        serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
    let run = golden["runs"][0].clone();
    let content = run["messages"][0]["content"].as_str().expect("a question");
    let prompt = format!(
        "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
    (prompt, run)
}

/// `esolm` over the model, read as a BD3-LM with blocks of 8.
fn arguments<'a>(model: &'a std::path::Path, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let model = model.to_str().expect("UTF-8");
    let own = [
        command,
        "--model",
        model,
        "--as",
        "bd3lm",
        "--block-size",
        "8",
    ];
    let all = [&own[..], &["--device", "cpu", "--json", "--quiet"], more];
    all.concat()
}

fn numbers(list: &Value) -> Vec<u64> {
    let list = list.as_array().expect("a list").iter();
    list.map(|number| number.as_u64().expect("a number"))
        .collect()
}

/// The text after the prompt, and why it ends.
fn answer(report: &Value) -> (Vec<u64>, String) {
    let known = report["known"][0].as_array().expect("a prompt").len();
    let tokens = numbers(&report["sequences"][0]["tokens"]);
    let finish = report["sequences"][0]["finish"].as_str().expect("a reason");
    (tokens[known..].to_vec(), finish.into())
}

#[test]
fn a_chat_model_answers_in_blocks() {
    let folder = Folder::new();
    let model = chat(&folder);
    let (prompt, run) = question();
    let more = ["--prompt", &prompt, "--temperature", "0"];
    // Blocks of 8 tokens at one token per step, 128 tokens at most, ended earlier by its end-of-text token.
    let report = json(&arguments(&model, "sample", &more));
    assert_eq!(report["family"], "bd3lm");
    assert_eq!(
        (&report["confidence"], &report["prompt_tail"]),
        (&json!("model"), &json!("own"))
    );
    let prompt_length = numbers(&run["prompt"]).len();
    assert_eq!(report["length"], prompt_length + 128);
    let (tokens, finish) = answer(&report);
    let recorded = numbers(&run["generated"]);
    assert_eq!(tokens[..], recorded[..tokens.len()]);
    assert_eq!((tokens.last(), &finish[..]), (Some(&TURN_END), "eos"));
    let text = report["sequences"][0]["text"].as_str().expect("a text");
    assert!(
        text.ends_with(run["text"].as_str().expect("a text")),
        "{text}"
    );
    assert_eq!(report["ended"], json!([0]));

    // A trace contains everything needed to write the same text again.
    let settings = ["--confidence", "tempered", "--confidence-threshold", "0.8"];
    let more = [
        &more[..2],
        &settings,
        &["--prompt-tail", "blind", "--steps", "3", "--seed", "4"],
    ];
    let trace = folder.file("trace");
    let first = json(&arguments(
        &model,
        "sample",
        &[&more.concat()[..], &["--trace", &trace]].concat(),
    ));
    let trace = std::fs::read_to_string(trace).expect("a trace");
    let header: Value =
        serde_json::from_str(trace.lines().next().expect("a header")).expect("JSON");
    let said = |field: &str| match &header[field] {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let (length, steps, seed) = (said("length"), said("steps"), said("seed"));
    let (by, tail, threshold) = (
        said("confidence"),
        said("prompt_tail"),
        said("confidence_threshold"),
    );
    assert_eq!((&by[..], &tail[..]), ("tempered", "blind"));
    let again = [
        "--prompt",
        &prompt,
        "--length",
        &length,
        "--steps",
        &steps,
        "--seed",
        &seed,
        "--confidence",
        &by,
        "--prompt-tail",
        &tail,
        "--confidence-threshold",
        &threshold,
    ];
    let second = json(&arguments(&model, "sample", &again));
    assert_eq!(answer(&first), answer(&second));
}

#[test]
fn tokens_are_left_out_of_draws_and_of_confidences() {
    let folder = Folder::new();
    let model = chat(&folder);
    let (prompt, _) = question();
    let write = |more: &[&str]| {
        let own = ["--prompt", &prompt, "--temperature", "0", "--length", "63"];
        json(&arguments(&model, "sample", &[&own[..], more].concat()))
    };
    let usual = answer(&write(&[])).0;
    assert!(
        usual.contains(&THE) && usual.contains(&TURN_END),
        "{usual:?}"
    );
    // By name and by number, and one that is an ordinary word.
    let report = write(&["--suppress-tokens", "<|im_end|>,320,The"]);
    assert_eq!(
        report["suppress_tokens"],
        json!([THE, END_OF_TEXT, TURN_END])
    );
    let (tokens, finish) = answer(&report);
    assert_eq!((tokens.len(), &finish[..]), (32, "length"));
    let left_out = [THE, END_OF_TEXT, TURN_END];
    assert!(
        !tokens.iter().any(|token| left_out.contains(token)),
        "{tokens:?}"
    );
    // With temperature and in any other order too.
    for more in [
        &["--temperature", "1.5", "--seed", "3"][..],
        &[
            "--temperature",
            "3",
            "--top-k",
            "4",
            "--top-p",
            "0.9",
            "--confidence",
            "drawn",
        ],
        &["--schedule", "left-to-right"],
        &["--confidence", "random", "--seed", "9"],
    ] {
        let own = [
            "--prompt",
            &prompt,
            "--length",
            "63",
            "--suppress-tokens",
            "291,320,322",
        ];
        let all = json(&arguments(&model, "sample", &[&own[..], more].concat()));
        let tokens = answer(&all).0;
        assert!(
            !tokens.iter().any(|token| left_out.contains(token)),
            "{more:?}: {tokens:?}"
        );
    }

    // A word that is not revealed last in its block, unless its confidence is set to 0.
    let when = |more: &[&str]| {
        let trace = folder.file("order");
        write(&[more, &["--trace", &trace]].concat());
        let trace = std::fs::read_to_string(trace).expect("a trace");
        let mut steps = trace
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        steps.position(|step: Value| {
            let revealed = step["revealed"].as_array();
            revealed.is_some_and(|all| all.iter().any(|one| one["token"] == THE))
        })
    };
    let (early, late) = (when(&[]), when(&["--begin-suppress-tokens", "The"]));
    assert!(early < Some(8), "{early:?}");
    assert_eq!(late, Some(8));
}

#[test]
fn every_end_of_text_token_ends_an_answer() {
    let folder = Folder::new();
    let model = chat(&folder);
    let (prompt, _) = question();
    let more = ["--prompt", &prompt, "--temperature", "0"];
    let usual = answer(&json(&arguments(&model, "sample", &more))).0;
    let middle = usual[3];
    change(&model, "generation_config.json", |settings| {
        settings["eos_token_id"] = json!([TURN_END, middle]);
    });
    let report = json(&arguments(&model, "sample", &more));
    let (tokens, finish) = answer(&report);
    assert_eq!((&tokens[..], &finish[..]), (&usual[..4], "eos"));
    // The same for one from the configuration, also for a left-to-right model; and `convert` keeps it.
    change(&model, "config.json", |config| {
        config["model_type"] = json!("qwen3");
        config["architectures"] = json!(["Qwen3ForCausalLM"]);
    });
    let folder_name = model.to_str().expect("UTF-8");
    let left_to_right = |model: &str, more: &[&str]| {
        let own = [
            "sample",
            "--model",
            model,
            "--device",
            "cpu",
            "--json",
            "--quiet",
            "--prompt",
            "The sky",
            "--temperature",
            "0",
        ];
        answer(&json(&[&own[..], more].concat()))
    };
    std::fs::remove_file(model.join("generation_config.json")).expect("it is there");
    change(&model, "config.json", |config| {
        config["eos_token_id"] = json!(END_OF_TEXT)
    });
    let (whole, _) = left_to_right(folder_name, &["--length", "40"]);
    let end = whole[2];
    change(&model, "config.json", |config| {
        config["eos_token_id"] = json!([END_OF_TEXT, end])
    });
    let first = whole
        .iter()
        .position(|&token| token == end)
        .expect("it is there");
    let (tokens, finish) = left_to_right(folder_name, &[]);
    assert_eq!((&tokens[..], &finish[..]), (&whole[..=first], "eos"));
    let copy = folder.file("copy");
    succeed(&["convert", folder_name, &copy]);
    assert_eq!(left_to_right(&copy, &[]).0, tokens);
}

#[test]
fn texts_open_as_the_tokenizer_says_unless_the_user_does() {
    let folder = Folder::new();
    let model = chat(&folder);
    let opens = |more: &[&str]| {
        let short = ["--length", "40", "--seed", "1"];
        let report = json(&arguments(&model, "sample", &[&short[..], more].concat()));
        report["known"][0].as_array().expect("a list").first() == Some(&json!([0, END_OF_TEXT]))
    };
    let texts: [&[&str]; 3] = [&[], &["--prompt", "The sky"], &["--infill", "The ____ is"]];
    let lines = folder.file("lines.txt");
    std::fs::write(&lines, "The sky is blue.\n").expect("writable");
    // For a left-to-right model, what it is scored on shows this.
    let scores = || {
        change(&model, "config.json", |config| {
            config["model_type"] = json!("qwen3");
            config["architectures"] = json!(["Qwen3ForCausalLM"]);
        });
        let name = model.to_str().expect("UTF-8");
        let own = [
            "score", "--model", name, "--device", "cpu", "--quiet", "--json", &lines,
        ];
        let scored = |more: &[&str]| {
            let report = json(&[&own[..], more].concat());
            let score = report.pointer("/0").unwrap_or(&report).clone();
            score["tokens"].as_u64().expect("a number")
        };
        let scored = [scored(&[]), scored(&["--bos"]), scored(&["--no-bos"])];
        change(&model, "config.json", |config| {
            config["model_type"] = json!("a2d-qwen3");
            config["architectures"] = json!(["A2DQwen3LMHeadModel"]);
        });
        scored
    };
    for text in texts {
        assert!(!opens(text), "{text:?}");
        assert!(opens(&[text, &["--bos"]].concat()), "{text:?}");
    }
    let [usual, with, without] = scores();
    assert_eq!([usual + 1, without + 1], [with, with]);
    change(&model, "tokenizer.json", |tokenizer| {
        let own = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
        let text = |id: &str, kind: u8| json!({"Sequence": {"id": id, "type_id": kind}});
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [own, text("A", 0)],
            "pair": [own, text("A", 0), text("B", 1)],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [END_OF_TEXT], "tokens": ["<|endoftext|>"]}},
        });
    });
    for text in texts {
        assert!(opens(text), "{text:?}");
        assert!(!opens(&[text, &["--no-bos"]].concat()), "{text:?}");
    }
    let [usual, with, without] = scores();
    assert_eq!([usual, without + 1], [with, with]);
}
