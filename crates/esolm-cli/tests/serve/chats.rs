//! Conversations over HTTP: the answers are those of the published sampler, both whole and as streams.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::common::{self, Folder, esolm, root};
use super::http::Server;

/// A small chat model's folder, as downloaded.
fn chat_model(folder: &Folder) -> String {
    let (golden, to) = (
        root().join("tests/fixtures/golden-llm/chat"),
        folder.path().join("talks"),
    );
    std::fs::create_dir_all(&to).expect("a new folder");
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(golden.join("model_bd3lm").join(name), to.join(name)).expect("copied");
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden.join(name), to.join(name)).expect("copied");
    }
    to.to_str().expect("UTF-8").into()
}

#[test]
fn conversations_are_answered_as_published() {
    let folder = Folder::new();
    let golden = root().join("tests/fixtures/golden-llm/chat/golden_bd3lm.json");
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden).expect("read")).expect("JSON");
    let runs = golden["runs"].as_array().expect("a list");
    let block = runs[0]["options"]["block_size"].as_u64().expect("a number");
    let size = block.to_string();
    let model = chat_model(&folder);
    let server = Server::start(&[
        "--model",
        &model,
        "--as",
        "bd3lm",
        "--block-size",
        &size,
        "--max-length",
        "256",
    ]);
    let mut count = 0;
    for run in runs
        .iter()
        .filter(|run| run["options"]["block_size"] == block)
    {
        let options = &run["options"];
        let new = options["max_new_tokens"].as_u64().expect("a number");
        let steps = options["steps"].as_u64().expect("a number");
        let mut body = json!({
            "model": "talks",
            "messages": run["messages"],
            "max_completion_tokens": new,
            "temperature": options["temperature"],
            "steps": steps.div_ceil(new.div_ceil(block)),
            "chat_template_kwargs": {"enable_thinking": run["enable_thinking"]},
        });
        let answer = server.post("/v1/chat/completions", &body).success();
        assert_eq!(answer["object"], "chat.completion");
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["role"], "assistant");
        assert_eq!(message["content"], run["text"], "{}", run["messages"]);
        let prompt = run["prompt"].as_array().expect("tokens").len();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt);

        body["stream"] = true.into();
        let events = server.post("/v1/chat/completions", &body).events();
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let deltas = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
        assert_eq!(
            deltas.collect::<String>(),
            run["text"].as_str().expect("text")
        );
        let last = events.last().expect("events");
        assert!(last["choices"][0]["finish_reason"].is_string(), "{last}");
        count += 1;
    }
    assert!(count > 2);
    // The template for clients that render it themselves.
    let config = root().join("tests/fixtures/golden-llm/chat/tokenizer_config.json");
    let config: Value =
        serde_json::from_slice(&std::fs::read(config).expect("read")).expect("JSON");
    let info = server.get("/tokenizer_info").success();
    assert!(config["chat_template"].is_string());
    assert_eq!(info["chat_template"], config["chat_template"]);
    // Suppressed tokens are in no answer.
    let answer = |suppressed: Value| {
        let body = json!({
            "model": "talks", "max_tokens": 8, "suppress_tokens": suppressed,
            "messages": [{"role": "user", "content": "What colour is the sky?"}],
        });
        let answer = server.post("/v1/chat/completions", &body).success();
        answer["choices"][0]["message"]["content"].clone()
    };
    let usual = answer(json!([]));
    let first = &server
        .post("/tokenize", &json!({"prompt": usual}))
        .success()["tokens"][0];
    let other = answer(json!([first]));
    assert_ne!(other, usual);

    for (body, param) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hello"}), "messages"),
        (json!({"messages": [{"role": "user"}]}), "messages"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages",
        ),
        (
            json!({"messages": [{"role": "user", "content": "word ".repeat(2000)}]}),
            "messages",
        ),
        (
            json!({"messages": [{"role": "user", "content": "Hi"}], "tools": [1]}),
            "tools",
        ),
        (
            json!({"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}),
            "prompt",
        ),
        (
            json!({"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_object"}}),
            "response_format",
        ),
    ] {
        let mut body = body;
        body["model"] = "talks".into();
        assert_eq!(
            server.post("/v1/chat/completions", &body).refusal(400)["param"],
            param,
            "{body}"
        );
    }
    // Text parts, and assistant messages as clients send them back.
    let body = json!({
        "model": "talks", "max_tokens": 8, "response_format": {"type": "text"}, "tools": [],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What colour "}, {"type": "text", "text": "is the sky?"}]},
            {"role": "assistant", "content": "Blue.", "tool_calls": null, "refusal": null},
            {"role": "user", "name": "me", "content": "And the sea?"},
        ],
    });
    let answer = server.post("/v1/chat/completions", &body).success();
    assert!(answer["choices"][0]["message"]["content"].is_string());
}

#[test]
fn what_cannot_be_talked_to_says_so() {
    let server = Server::start(&[]);
    let body = json!({"model": "stories", "messages": [{"role": "user", "content": "Hello"}]});
    let refused = server.post("/v1/chat/completions", &body).refusal(400);
    assert_eq!(refused["param"], "model");
    let message = refused["message"].as_str().expect("text");
    assert!(message.contains("chat template"), "{message}");
}

/// A checkpoint may name only the end of a text, and leave the end of a turn to its tokenizer's configuration. The model's
/// name is one of a hub, which has a slash.
#[test]
fn answers_end_where_those_of_a_conversation_do() {
    let folder = Folder::new();
    let path = folder.path().join("ar");
    let fields = json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "eos_token_id": 320,
    });
    common::chat_model(&path, &fields);
    let path = path.to_str().expect("UTF-8");
    let server = Server::start(&["--model", &format!("owner/ar={path}")]);
    server.get("/v1/models/owner/ar").success();
    server.get("/v1/models/owner").refusal(404);
    let mut stopped = 0;
    for seed in 1..=8 {
        let body = json!({
            "model": "owner/ar", "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 300, "temperature": 1.5, "seed": seed,
        });
        let answer = server.post("/v1/chat/completions", &body).success();
        let mut chat = esolm()
            .args(["chat", "--device", "cpu", "--json", "--model", path])
            .args([
                "--max-tokens",
                "300",
                "--temperature",
                "1.5",
                "--seed",
                &seed.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut stdin = chat.stdin.take().expect("a pipe");
        stdin.write_all(b"Hello\n").expect("it reads");
        drop(stdin);
        let output = chat.wait_with_output().expect("it ends");
        let events = String::from_utf8(output.stdout).expect("text");
        let last = events.lines().last().expect("an event");
        let last: Value = serde_json::from_str(last).expect("JSON");
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], last["content"], "{seed}");
        let is_stopped = last["finish"] != "length";
        let reason = if is_stopped { "stop" } else { "length" };
        assert_eq!(choice["finish_reason"], reason, "{seed}");
        stopped += usize::from(is_stopped);
    }
    assert!(stopped > 0, "no answer ends");
}
