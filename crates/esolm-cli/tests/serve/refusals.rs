//! Refusals, each in OpenAI's format and with the field that is wrong.

use std::io::Write;

use serde_json::{Value, json};

use super::common::{GOLDEN, run};
use super::http::{Answer, Server};

#[test]
fn wrong_fields_are_named() {
    let server = Server::start(&["--queue", "8"]);
    let long = "word ".repeat(400);
    for (fields, param) in [
        (json!({"prompt": 7}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": [[1], 2]}), "prompt"),
        (json!({"prompt": [-1]}), "prompt"),
        (json!({"prompt": [1.5]}), "prompt"),
        (json!({"prompt": [9_999_999]}), "prompt"),
        (json!({"prompt": {"text": "a"}}), "prompt"),
        (json!({"prompt": vec!["a"; 9]}), "prompt"),
        (json!({"prompt": "a", "max_tokens": -1}), "max_tokens"),
        (json!({"prompt": "a", "max_tokens": 1.5}), "max_tokens"),
        (json!({"prompt": "a", "max_tokens": "9"}), "max_tokens"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": "a", "max_tokens": 256}), "max_tokens"),
        (
            json!({"prompt": "a", "max_tokens": 1u64 << 60}),
            "max_tokens",
        ),
        (json!({"prompt": long}), "prompt"),
        (json!({"prompt": long, "max_tokens": 5}), "prompt"),
        (
            json!({"prompt": long, "max_tokens": 0, "echo": true}),
            "prompt",
        ),
        (
            json!({"prompt": long, "max_tokens": 0, "echo": true, "logprobs": 1}),
            "prompt",
        ),
        (json!({"prompt": long, "suffix": "b"}), "prompt"),
        (json!({"prompt": "a", "n": 0}), "n"),
        (json!({"prompt": "a", "n": 9}), "n"),
        (json!({"prompt": "a", "n": 1_000_000_000_000u64}), "n"),
        (json!({"prompt": ["a", "b", "c"], "n": 3}), "n"),
        (json!({"prompt": "a", "temperature": -1}), "temperature"),
        (json!({"prompt": "a", "temperature": "hot"}), "temperature"),
        (json!({"prompt": "a", "temperature": 1e300}), "temperature"),
        (json!({"prompt": "a", "top_p": -1e300}), "top_p"),
        (json!({"prompt": "a", "top_p": 0}), "top_p"),
        (json!({"prompt": "a", "top_p": 2}), "top_p"),
        (json!({"prompt": "a", "top_k": 0}), "top_k"),
        (json!({"prompt": "a", "min_p": 2}), "min_p"),
        (json!({"prompt": "a", "seed": -1}), "seed"),
        (json!({"prompt": "a", "seed": 1.5}), "seed"),
        (json!({"prompt": "a", "seed": "x"}), "seed"),
        (json!({"prompt": "a", "stop": 1}), "stop"),
        (json!({"prompt": "a", "stop": ""}), "stop"),
        (json!({"prompt": "a", "stop": vec!["a"; 17]}), "stop"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs"),
        (json!({"prompt": "a", "logprobs": true}), "logprobs"),
        (json!({"prompt": "a", "echo": 1}), "echo"),
        (json!({"prompt": "a", "stream": "yes"}), "stream"),
        (
            json!({"prompt": "a", "stream_options": {"include_usage": true}}),
            "stream_options",
        ),
        (
            json!({"prompt": "a", "stream": true, "stream_options": {"include_all": true}}),
            "include_all",
        ),
        (json!({"prompt": "a", "alpha_0": 2}), "alpha_0"),
        (json!({"prompt": "a", "alpha_0": "all"}), "alpha_0"),
        (
            json!({"prompt": "a", "suppress_tokens": 7}),
            "suppress_tokens",
        ),
        (
            json!({"prompt": "a", "suppress_tokens": [1.5]}),
            "suppress_tokens",
        ),
        (
            json!({"prompt": "a", "suppress_tokens": ["no such token"]}),
            "suppress_tokens",
        ),
        (
            json!({"prompt": "a", "suppress_tokens": [9_999_999]}),
            "suppress_tokens",
        ),
        (
            json!({"prompt": "a", "suppress_tokens": (0..3968).collect::<Vec<u32>>()}),
            "suppress_tokens",
        ),
        (
            json!({"prompt": "a", "begin_suppress_tokens": [1]}),
            "begin_suppress_tokens",
        ),
        (json!({"prompt": "a", "steps": 0}), "steps"),
        (json!({"prompt": "a", "schedule": "sideways"}), "schedule"),
        (
            json!({"prompt": "a", "schedule": "block", "alpha_0": 0.5}),
            "alpha_0",
        ),
        (json!({"prompt": [1], "suffix": "b"}), "prompt"),
        (json!({"prompt": "a", "suffix": "b", "echo": true}), "echo"),
        (
            json!({"prompt": "a", "suffix": "b", "max_tokens": 255}),
            "max_tokens",
        ),
        (json!({"prompt": "a", "suffix": 3}), "suffix"),
        (json!({"prompt": "a", "best_of": 2}), "best_of"),
        (
            json!({"prompt": "a", "presence_penalty": 0.5}),
            "presence_penalty",
        ),
        (
            json!({"prompt": "a", "frequency_penalty": -1}),
            "frequency_penalty",
        ),
        (json!({"prompt": "a", "logit_bias": {"5": 1}}), "logit_bias"),
        (json!({"prompt": "a", "user": "me"}), "user"),
        (json!({"prompt": "a", "temprature": 1}), "temprature"),
    ] {
        let error = server.complete(&fields).refusal(400);
        assert_eq!(error["param"], param, "{fields} {error}");
        assert_eq!(error["type"], "invalid_request_error");
        // Fields have the names that clients use, and numbers their usual notation.
        let message = error["message"].as_str().expect("a text");
        for foreign in ["--", "top-p", "min-p", " inf", "length is"] {
            assert!(!message.contains(foreign), "{fields} {message}");
        }
    }
    // Fields that request nothing are accepted.
    let nothing = json!({
        "prompt": "a", "max_tokens": 2, "best_of": null, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": {}, "user": null, "suffix": null, "stop": null, "logprobs": null, "seed": null,
        "temperature": null, "n": null, "stream_options": null,
    });
    server.complete(&nothing).success();
    for (body, status, param) in [
        (json!({"prompt": "a"}), 400, json!("model")),
        (json!({"prompt": "a", "model": 1}), 400, json!("model")),
        (
            json!({"prompt": "a", "model": "gpt-4"}),
            404,
            json!("model"),
        ),
        (json!([1]), 400, json!(null)),
        (json!("a"), 400, json!(null)),
        (json!(null), 400, json!(null)),
    ] {
        let error = server.post("/v1/completions", &body).refusal(status);
        assert_eq!(error["param"], param, "{body} {error}");
    }
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": ["a"]}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "fast": true}), "fast"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": ["a"]}), "tokens"),
        ("/detokenize", json!({"tokens": [99_999_999]}), "tokens"),
    ] {
        assert_eq!(
            server.post(path, &body).refusal(400)["param"],
            param,
            "{path} {body}"
        );
    }
    server.get("/v1/completions").refusal(405);
    server.get("/v1/chat/completions").refusal(405);
    server.get("/v1/embeddings").refusal(404);
    server.get("/tokenizer_info?model=x").refusal(404);
}

#[test]
fn models_without_exact_likelihoods_echo_no_log_probabilities() {
    let mdlm = format!("{GOLDEN}/mini_mdlm.ckpt");
    let server = Server::start(&["--model", &mdlm]);
    let ask = |fields: Value| {
        let mut body = fields;
        body["model"] = "mini_mdlm".into();
        body["prompt"] = json!([1, 2]);
        body["max_tokens"] = 2.into();
        server.post("/v1/completions", &body)
    };
    let error = ask(json!({"echo": true, "logprobs": 1})).refusal(400);
    assert_eq!(error["param"], "echo");
    ask(json!({"echo": true})).success();
    let told = ask(json!({"logprobs": 1})).success();
    assert!(told["choices"][0]["logprobs"]["token_logprobs"][0].is_number());
    assert_eq!(
        ask(json!({"alpha_0": 0.5})).refusal(400)["param"],
        "alpha_0"
    );
}

#[test]
fn nobody_without_the_key_gets_in() {
    let server = Server::start_with(&[], &[("ESOLM_API_KEY", "secret")]);
    let body = json!({"model": "stories", "prompt": "a", "max_tokens": 2}).to_string();
    let ask = |headers: &str| server.post_with("/v1/completions", headers, body.as_bytes());
    for headers in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrets\r\n",
        "Authorization: Basic secret\r\n",
        "Authorization: secret\r\n",
    ] {
        let answer = ask(headers);
        assert_eq!(answer.refusal(401)["code"], "invalid_api_key");
        assert!(answer.head.contains("www-authenticate: bearer"));
    }
    server.get("/v1/models").refusal(401);
    server.get("/metrics").refusal(401);
    server.get("/nothing").refusal(401);
    server.get("/health").success();
    ask("Authorization: Bearer secret\r\n").success();
    ask("authorization: bearer secret\r\n").success();
}

/// A page in a browser on this machine can reach the server. Its origin must have been allowed, and it cannot fake it.
#[test]
fn no_web_page_gets_in_unless_it_was_named() {
    let server = Server::start(&[
        "--cors",
        "https://example.org",
        "--allow-host",
        "esolm.example",
    ]);
    let body = json!({"model": "stories", "prompt": "a", "max_tokens": 2}).to_string();
    for origin in [
        "https://evil.example",
        "http://example.org",
        "https://example.org.evil.example",
        "https://EXAMPLE.org:443",
        "null",
        "http://127.0.0.1:8000",
    ] {
        let headers = format!("Origin: {origin}\r\n");
        let answer = server.post_with("/v1/completions", &headers, body.as_bytes());
        assert_eq!(
            answer.refusal(403)["code"],
            "origin_not_allowed",
            "{origin}"
        );
        assert!(!answer.head.contains("access-control-allow-origin"));
    }
    let named = "Origin: https://example.org\r\n";
    let answer = server.post_with("/v1/completions", named, body.as_bytes());
    answer.success();
    assert!(
        answer
            .head
            .contains("access-control-allow-origin: https://example.org")
    );
    let asks = |origin: &str| {
        let host = &server.address;
        let request = format!(
            "OPTIONS /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\n\r\n"
        );
        server.exchange(request.as_bytes())
    };
    let answer = asks("https://example.org");
    assert_eq!(answer.status, 204);
    assert!(
        answer
            .head
            .contains("access-control-allow-headers: authorization, content-type")
    );
    assert_eq!(asks("https://evil.example").status, 403);
    let host = &server.address;
    let request = format!(
        "OPTIONS /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nOrigin: https://example.org\r\n\
         Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n\r\n"
    );
    let answer = server.exchange(request.as_bytes());
    let allowed = "access-control-allow-headers: authorization,content-type,x-stainless-os";
    assert!(answer.head.contains(allowed), "{answer:?}");
    // A form, which any page may send without asking, is not JSON.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
    ] {
        let host = &server.address;
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        server.exchange(request.as_bytes()).refusal(415);
    }
    let json = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: Application/JSON; charset=utf-8\r\n";
    let request = format!("{json}Content-Length: {}\r\n\r\n{body}", body.len());
    server.exchange(request.as_bytes()).success();
    // A name that was made to resolve to this machine is not the server's.
    for (host, status) in [
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("local host", 403),
        ("localhost:9", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("ESOLM.example", 200),
    ] {
        let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = server.exchange(request.as_bytes());
        assert_eq!(answer.status, status, "{host}");
    }
    let two = "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!([400, 403].contains(&server.exchange(two.as_bytes()).status));
}

#[test]
fn a_full_queue_says_so_and_a_client_that_goes_away_frees_its_place() {
    let server = Server::start(&["--max-batch", "1", "--queue", "2"]);
    let body = |max_tokens: usize| {
        let stream = max_tokens > 100;
        json!({"model": "stories", "prompt": "a", "max_tokens": max_tokens, "alpha_0": 0, "seed": 1, "stream": stream})
            .to_string()
    };
    let send = |max_tokens: usize| {
        let mut stream = server.connect();
        let request = server.posting("/v1/completions", "", body(max_tokens).as_bytes());
        stream.write_all(&request).expect("sent");
        stream
    };
    let waits_for = |name: &str, value: f64| {
        while server.metric(name) < value {
            std::thread::yield_now();
        }
    };
    // Stories may end early, but not this early.
    let running = send(240);
    waits_for("esolm_running", 1.0);
    let mut waiting = [send(3), send(4)];
    waits_for("esolm_queued", 2.0);
    let refused = server.post_with("/v1/completions", "", body(2).as_bytes());
    assert_eq!(refused.refusal(429)["type"], "rate_limit_error");
    assert!(refused.head.contains("retry-after: 1"));
    let many = json!({"prompt": "a", "n": 3});
    assert_eq!(server.complete(&many).refusal(400)["param"], "n");
    drop(running);
    for stream in &mut waiting {
        Answer::read(stream).success();
    }
}

#[test]
fn what_cannot_be_served_is_said_in_a_sentence() {
    let taken = Server::start(&[]);
    let port = taken.address.rsplit(':').next().expect("a port");
    for (options, code, sentence) in [
        (vec!["--port", port], 1, "give another --host or --port"),
        (vec!["--host", "nowhere"], 2, "--host"),
        (vec!["--port", "65536"], 2, "--port"),
        (vec!["--max-batch", "0"], 2, "1 or more"),
        (vec!["--queue", "0"], 2, "1 or more"),
        (vec!["--api-key", ""], 2, "the API key is empty"),
        (
            vec!["--port", "0", "--model", "x="],
            2,
            "--model x= names no model",
        ),
        (vec!["--port", "0", "--model", "x=nowhere"], 1, "nowhere"),
        (
            vec![
                "--port",
                "0",
                "--device",
                "cpu",
                "--model",
                "a=models/stories",
                "--model",
                "a=models/stories",
            ],
            2,
            "two models are called a",
        ),
    ] {
        let output = run(&[&["serve", "--quiet"], &options[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{options:?} {said}");
        assert!(said.contains(sentence), "{options:?} {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
