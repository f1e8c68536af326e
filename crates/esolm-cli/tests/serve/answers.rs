//! Answers compared with the other commands.

use serde_json::{Value, json};

use super::common::succeed;
use super::http::Server;

const PROMPT: &str = "Once upon a time";

fn sample(options: &[&str]) -> Value {
    let common = ["sample", "--json", "--quiet", "--device", "cpu"];
    serde_json::from_str(&succeed(&[&common[..], options].concat())).expect("JSON")
}

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().expect("choices");
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
    }
    let text = |choice: &Value| choice["text"].as_str().expect("text").to_string();
    choices.iter().map(text).collect()
}

/// Encodes a text with the server.
fn tokens(server: &Server, prompt: &str) -> Vec<u64> {
    let answer = server
        .post("/tokenize", &json!({"prompt": prompt}))
        .success();
    let tokens = answer["tokens"].as_array().expect("tokens");
    assert_eq!(answer["count"], tokens.len());
    tokens
        .iter()
        .map(|token| token.as_u64().expect("a number"))
        .collect()
}

#[test]
fn a_completion_is_what_sample_writes() {
    let server = Server::start(&["--max-batch", "3"]);
    let own = tokens(&server, PROMPT);
    for (max_tokens, options, fields) in [
        (24, vec![], json!({})),
        (
            40,
            vec!["--alpha0", "0.5", "--temperature", "0.8"],
            json!({"alpha_0": 0.5, "temperature": 0.8}),
        ),
        (
            32,
            vec!["--alpha0", "1", "--steps", "8", "--top-p", "0.9"],
            json!({"alpha_0": 1, "steps": 8, "top_p": 0.9}),
        ),
        (
            20,
            vec!["--schedule", "left-to-right", "--top-k", "5"],
            json!({"schedule": "left-to-right", "top_k": 5}),
        ),
        (20, vec!["--temperature", "0"], json!({"temperature": 0})),
        (
            20,
            vec!["--temperature", "0", "--suppress-tokens", "12,."],
            json!({"temperature": 0, "suppress_tokens": [12, "."]}),
        ),
    ] {
        // One token opens the text.
        let length = (1 + own.len() + max_tokens).to_string();
        let common = [
            "--prompt", PROMPT, "--seed", "3", "--batch", "4", "--length", &length,
        ];
        let expected: Vec<String> = sample(&[&common[..], &options].concat())["sequences"]
            .as_array()
            .expect("texts")
            .iter()
            .map(|text| text["text"].as_str().expect("text").into())
            .collect();
        let mut body = fields.clone();
        body["prompt"] = PROMPT.into();
        body["max_tokens"] = max_tokens.into();
        body["seed"] = 3.into();
        body["n"] = 4.into();
        let answer = server.complete(&body).success();
        let whole: Vec<String> = texts(&answer)
            .iter()
            .map(|t| format!("{PROMPT}{t}"))
            .collect();
        assert_eq!(whole, expected, "{fields}");
        assert_eq!(answer["object"], "text_completion");
        assert_eq!(answer["model"], "stories");
        assert_eq!(answer["seed"], 3);
        assert!(
            answer["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("cmpl-"))
        );
        let usage = &answer["usage"];
        assert_eq!(usage["prompt_tokens"], own.len());
        let written = usage["completion_tokens"].as_u64().expect("a number") as usize;
        assert!(written > 0 && written <= 4 * max_tokens);
        for choice in answer["choices"].as_array().expect("choices") {
            assert!(
                ["stop", "length"]
                    .map(Value::from)
                    .contains(&choice["finish_reason"])
            );
        }
        // As tokens, and together with another prompt, whose choices follow.
        body["prompt"] = json!([own, own]);
        body["n"] = 2.into();
        assert_eq!(texts(&server.complete(&body).success()), texts(&answer));
        body["prompt"] = json!([PROMPT, PROMPT]);
        assert_eq!(texts(&server.complete(&body).success()), texts(&answer));
    }
}

#[test]
fn a_middle_is_the_infill_that_sample_writes() {
    let server = Server::start(&[]);
    let template = "The cat ____{6} with a dog\\_ and \\{a} ball.";
    let expected = sample(&["--infill", template, "--seed", "5", "--batch", "6"]);
    let body = json!({
        "prompt": "The cat ", "suffix": " with a dog_ and {a} ball.", "max_tokens": 6, "seed": 5, "n": 6,
    });
    let answer = server.complete(&body).success();
    let sequences = expected["sequences"].as_array().expect("texts");
    for (middle, whole) in texts(&answer).iter().zip(sequences) {
        let whole = whole["text"].as_str().expect("text");
        assert_eq!(
            format!("The cat{middle} with a dog_ and {{a}} ball."),
            whole
        );
    }
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    streamed["n"] = 1.into();
    let events = server.complete(&streamed);
    let text: String = events.events().iter().map(|e| texts_of(e, 0)).collect();
    assert_eq!(text, texts(&answer)[0]);
}

/// The text that a part of a stream adds to a choice.
fn texts_of(event: &Value, index: usize) -> String {
    let choices = event["choices"].as_array().expect("choices");
    choices
        .iter()
        .filter(|choice| choice["index"] == index)
        .map(|choice| choice["text"].as_str().expect("text"))
        .collect()
}

/// Nothing sent is taken back, in any order of writing, and the parts add up to the whole.
#[test]
fn a_stream_brings_the_same_text_from_its_beginning_on() {
    let server = Server::start(&["--max-batch", "2"]);
    for (alpha_0, stop) in [
        (0.0, json!(null)),
        (0.7, json!(null)),
        (0.3, json!([" was", " little"])),
    ] {
        let body = json!({
            "prompt": PROMPT, "max_tokens": 48, "seed": 9, "n": 3, "alpha_0": alpha_0, "stop": stop,
            "logprobs": 2,
        });
        let whole = server.complete(&body).success();
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        streamed["stream_options"] = json!({"include_usage": true, "include_steps": true});
        let events = server.complete(&streamed).events();
        for (index, text) in texts(&whole).iter().enumerate() {
            let parts: Vec<String> = events.iter().map(|event| texts_of(event, index)).collect();
            assert_eq!(&parts.concat(), text, "{alpha_0}");
            let ends: Vec<&Value> = events
                .iter()
                .flat_map(|event| event["choices"].as_array().expect("choices"))
                .filter(|choice| choice["index"] == index && !choice["finish_reason"].is_null())
                .map(|choice| &choice["finish_reason"])
                .collect();
            assert_eq!(ends, [&whole["choices"][index]["finish_reason"]]);
            let logprobs: Vec<Value> = events
                .iter()
                .flat_map(|event| event["choices"].as_array().expect("choices"))
                .filter(|choice| choice["index"] == index && !choice["logprobs"].is_null())
                .flat_map(|choice| {
                    choice["logprobs"]["token_logprobs"]
                        .as_array()
                        .expect("a list")
                })
                .cloned()
                .collect();
            let all = &whole["choices"][index]["logprobs"]["token_logprobs"];
            assert_eq!(&Value::from(logprobs), all);
        }
        let usages: Vec<&Value> = events
            .iter()
            .map(|e| &e["usage"])
            .filter(|u| !u.is_null())
            .collect();
        assert_eq!(usages, [&whole["usage"]]);
        assert!(
            events
                .iter()
                .any(|event| event["step"]["revealed"].is_array())
        );
    }
}

#[test]
fn stop_strings_end_texts_and_are_not_in_them() {
    let server = Server::start(&[]);
    let body = json!({"prompt": PROMPT, "max_tokens": 100, "seed": 2, "alpha_0": 0});
    let whole = texts(&server.complete(&body).success()).remove(0);
    let stop = whole.get(20..24).expect("a longer text");
    let mut stopped = body.clone();
    stopped["stop"] = stop.into();
    let answer = server.complete(&stopped).success();
    let (before, _) = whole.split_once(stop).expect("it is there");
    assert_eq!(texts(&answer)[0], before);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // Nothing more of it was written.
    let (few, all) = (&answer["usage"]["completion_tokens"], 100);
    assert!(few.as_u64().expect("a number") < all);
}

/// lm-eval's request: the given text is returned with its scores, then exactly one token.
#[test]
fn an_echo_tells_what_score_adds_up() {
    let server = Server::start(&[]);
    let (context, choice) = ("Once upon a time, there was a", " little girl named Lily.");
    let line = json!({"context": context, "choices": [choice]}).to_string();
    let folder = super::common::Folder::new();
    let file = folder.file("lines.jsonl");
    std::fs::write(&file, line).expect("written");
    let scored = succeed(&[
        "score",
        "--device",
        "cpu",
        "--quiet",
        "--json",
        "--choices",
        &file,
    ]);
    let scored: Value = serde_json::from_str(scored.lines().next().expect("a line")).expect("JSON");
    let before = tokens(&server, context).len();
    let all = tokens(&server, &format!("{context}{choice}"));
    let body = json!({
        "prompt": [all, all], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true,
    });
    let answer = server.complete(&body).success();
    for choice_told in answer["choices"].as_array().expect("choices") {
        let logprobs = &choice_told["logprobs"];
        let list = |name: &str| logprobs[name].as_array().expect("a list").clone();
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(list(name).len(), all.len() + 1, "{name}");
        }
        let last = &list("token_logprobs")[before..all.len()];
        let sum: f64 = last
            .iter()
            .map(|logp| logp.as_f64().expect("a number"))
            .sum();
        let expected = scored["logp"][0].as_f64().expect("a number");
        assert!(
            (sum - expected).abs() < 1e-5 * expected.abs(),
            "{sum} {expected}"
        );
        for (logp, top) in list("token_logprobs").iter().zip(list("top_logprobs")) {
            let most = top.as_object().expect("likely tokens").values();
            let most = most
                .map(|logp| logp.as_f64().expect("a number"))
                .fold(f64::MIN, f64::max);
            assert!(logp.as_f64().expect("a number") <= most);
        }
        // The one drawn token is the most likely one.
        let drawn = list("token_logprobs")[all.len()].as_f64();
        let top = list("top_logprobs")[all.len()]
            .as_object()
            .expect("tokens")
            .clone();
        assert!(top.values().any(|logp| logp.as_f64() == drawn));
        let text = choice_told["text"].as_str().expect("text");
        assert!(text.starts_with(&format!("{context}{choice}")), "{text}");
    }
    // Without a token to write, and in a random order, which gives an equally valid likelihood of the text.
    let mut alone = body.clone();
    alone["prompt"] = json!(all);
    alone["max_tokens"] = 0.into();
    let told = server.complete(&alone).success();
    let list = |told: &Value| {
        told["choices"][0]["logprobs"]["token_logprobs"]
            .as_array()
            .expect("a list")
            .clone()
    };
    assert_eq!(list(&told).len(), all.len());
    alone["alpha_0"] = 1.into();
    let drawn = server.complete(&alone).success();
    assert_ne!(list(&told), list(&drawn));
    alone["stream"] = true.into();
    let events = server.complete(&alone).events();
    assert_eq!(texts_of(&events[0], 0), format!("{context}{choice}"));
}

#[test]
fn models_tokens_health_and_counts_are_told() {
    let server = Server::start(&[
        "--model",
        "small=models/stories",
        "--model",
        "models/stories",
    ]);
    let list = server.get("/v1/models").success();
    let names: Vec<&Value> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(names, ["small", "stories"]);
    assert_eq!(
        server.get("/v1/models/stories").success()["object"],
        "model"
    );
    server.get("/v1/models/large").refusal(404);
    let info = server.get("/tokenizer_info").success();
    assert!(info["eos_token"].is_string(), "{info}");
    assert!(info["chat_template"].is_null(), "{info}");
    let own = tokens(&server, PROMPT);
    let text = server
        .post("/detokenize", &json!({"tokens": own}))
        .success();
    assert_eq!(text["prompt"], PROMPT);
    let opened = json!({"prompt": PROMPT, "add_special_tokens": true, "model": "small"});
    let opened = server.post("/tokenize", &opened).success();
    assert_eq!(opened["count"], own.len() + 1);
    // A client that supplies the opening token does not get a second one.
    let ask = |prompt: &Value| {
        let body = json!({"prompt": prompt, "seed": 1, "max_tokens": 12});
        texts(&server.complete(&body).success())
    };
    assert_eq!(ask(&opened["tokens"]), ask(&json!(own)));
    assert_eq!(server.get("/health").success()["status"], "ok");
    assert!(server.metric("esolm_passes_total{model=\"stories\"}") > 0.0);
    assert_eq!(server.metric("esolm_running{model=\"stories\"}"), 0.0);
    assert!(server.metric("esolm_requests_total{path=\"/v1/completions\",status=\"200\"}") >= 2.0);
    // Requests go to the right one of two models.
    let mut body = json!({"model": "small", "prompt": PROMPT, "seed": 1, "max_tokens": 12});
    let small = server.post("/v1/completions", &body).success();
    body["model"] = "stories".into();
    assert_eq!(
        texts(&small),
        texts(&server.post("/v1/completions", &body).success())
    );
}
