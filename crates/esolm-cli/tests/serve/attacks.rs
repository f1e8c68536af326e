//! Malicious clients: none of them denies the server to others, and it survives.

use std::io::{Read, Write};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::http::{Answer, Server};

/// Idle connections, more than the server accepts.
const IDLE: usize = 3000;

/// Checks that the server still serves.
fn lives(server: &Server) {
    let body = json!({"prompt": "Once", "max_tokens": 3, "seed": 1});
    let answer = server.complete(&body).success();
    assert!(answer["choices"][0]["text"].is_string());
}

#[test]
fn bodies_that_no_request_has_are_refused() {
    let server = Server::start(&[]);
    let post = |body: &[u8]| server.post_with("/v1/completions", "", body);
    // Larger than the limit: refused from the head alone, or once noticed if no length is given.
    let host = server.address.clone();
    let head = |more: &str| {
        format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{more}\r\n"
        )
    };
    let request = head("Content-Length: 5000000\r\n");
    server.exchange(request.as_bytes()).refusal(413);
    let request = head("Content-Length: 18446744073709551615\r\n");
    assert!([400, 413, 431].contains(&server.exchange(request.as_bytes()).status));
    let mut chunked = head("Transfer-Encoding: chunked\r\n").into_bytes();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..5 {
        chunked.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend(&chunk);
        chunked.extend(b"\r\n");
    }
    server.exchange(&chunked).refusal(413);
    // Not text, not JSON, or endless JSON.
    post(b"{\"prompt\": \"\xff\xfe\", \"model\": \"stories\"}").refusal(400);
    post(b"\xff").refusal(400);
    post(b"").refusal(400);
    post(b"{\"prompt\": \"a\"").refusal(400);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!(
            "{{\"prompt\": {}1{}}}",
            open.repeat(100_000),
            close.repeat(100_000)
        );
        post(deep.as_bytes()).refusal(400);
    }
    let lone = br#"{"model": "stories", "prompt": "\ud800", "max_tokens": 2}"#;
    post(lone).refusal(400);
    let nul = br#"{"model": "stories", "prompt": "a\u0000b", "max_tokens": 2}"#;
    assert!([200, 400].contains(&post(nul).status));
    // Many fields, long names, and numbers beyond any type.
    let many: Vec<String> = (0..50_000).map(|i| format!("\"f{i}\": 0")).collect();
    post(format!("{{\"model\": \"stories\", {}}}", many.join(",")).as_bytes()).refusal(400);
    let long = format!("{{\"model\": \"stories\", \"{}\": 1}}", "x".repeat(1 << 20));
    post(long.as_bytes()).refusal(400);
    post(br#"{"model": "stories", "prompt": "a", "temperature": 1e999}"#).refusal(400);
    post(br#"{"model": "stories", "prompt": "a", "n": 99999999999999999999999}"#).refusal(400);
    // Heads that are too long, or not heads at all.
    let request = head(&format!("X: {}\r\n", "x".repeat(100_000)));
    assert!([0, 400, 431].contains(&server.exchange(request.as_bytes()).status));
    let request = head(&"X: y\r\n".repeat(1000));
    assert!([0, 400, 431].contains(&server.exchange(request.as_bytes()).status));
    assert!([0, 400].contains(&server.exchange(b"\x16\x03\x01\x02\x00\r\n\r\n").status));
    let smuggled = head("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n");
    let answer = server.exchange(format!("{smuggled}0\r\n\r\n").as_bytes());
    assert_eq!(answer.status, 400);
    lives(&server);
}

/// Model names are looked up in a list, never used as paths.
#[test]
fn no_name_of_a_model_leads_to_a_file() {
    let server = Server::start(&[]);
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "stories/../stories",
        "./stories",
        "stories\0",
        "STORIES",
        "hf:owner/name",
        "models/stories",
        "",
    ] {
        let body = json!({"model": name, "prompt": "a"});
        let error = server.post("/v1/completions", &body).refusal(404);
        assert_eq!(error["code"], "model_not_found");
    }
    let long = json!({"model": "x".repeat(1 << 20), "prompt": "a"});
    server.post("/v1/completions", &long).refusal(404);
    for path in [
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "/v1/models/../../etc/passwd",
        "/../../etc/passwd",
        "/v1/models//etc/passwd",
        "//health/..",
    ] {
        server.get(path).refusal(404);
    }
    server.get("/v1/models/%ff").refusal(400);
    server
        .get("/tokenizer_info?model=stories&model=other")
        .refusal(400);
    lives(&server);
}

/// Clients that send nothing, or very slowly, delay nobody, and are disconnected in the end.
#[test]
fn slow_clients_hold_nobody_up_and_are_sent_away() {
    let server = Server::start(&[]);
    // Each takes a file in both programs, which by default may have 1024 each.
    let files = Resource::RLIMIT_NOFILE;
    let (allowed, possible) = getrlimit(files).expect("a limit");
    let needed = 2 * IDLE as u64;
    if allowed < needed {
        setrlimit(files, needed.min(possible), possible)
            .expect("a system that lets a program have {needed} files");
    }
    let idle: Vec<_> = (0..IDLE).map(|_| server.connect()).collect();
    // The connection that has been idle for longest makes room.
    assert_eq!(server.metric("esolm_connections_refused_total"), 0.0);
    lives(&server);
    // A head that never ends, and a body that never ends.
    let mut slow_head = server.connect();
    slow_head
        .write_all(b"GET /health HTTP/1.1\r\nHost: loc")
        .expect("sent");
    let mut slow_body = server.connect();
    let request = server.posting(
        "/v1/completions",
        "",
        br#"{"model": "stories", "prompt": "a"}"#,
    );
    slow_body
        .write_all(&request[..request.len() - 5])
        .expect("sent");
    lives(&server);
    let ticks = std::thread::spawn(move || {
        // Byte by byte, until disconnected.
        while slow_head.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    for mut stream in idle {
        let mut rest = Vec::new();
        // Closed by the server; otherwise this test hangs.
        let _ = stream.read_to_end(&mut rest);
    }
    ticks.join().expect("it was closed");
    Answer::read(&mut slow_body).refusal(408);
    lives(&server);
}

/// Requests abandoned at any point leave nothing behind.
#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let server = Server::start(&["--max-batch", "2", "--queue", "16"]);
    let body = json!({
        "model": "stories", "prompt": ["a", "b"], "max_tokens": 200, "n": 2, "stream": true, "alpha_0": 0,
        "logprobs": 1, "echo": true,
    });
    let request = server.posting("/v1/completions", "", body.to_string().as_bytes());
    for cut in (0..request.len()).step_by(29) {
        let mut stream = server.connect();
        stream.write_all(&request[..cut]).expect("sent");
    }
    for bytes in [0, 1, 300, 3000] {
        let mut stream = server.connect();
        stream.write_all(&request).expect("sent");
        let mut some = vec![0; bytes];
        let _ = stream.read_exact(&mut some);
    }
    while server.metric("esolm_running") + server.metric("esolm_queued") > 0.0 {
        std::thread::yield_now();
    }
    lives(&server);
}

/// SIGTERM and Ctrl-C let running requests finish, and new ones are refused.
#[test]
fn a_server_that_is_to_end_says_so_and_finishes_what_runs() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&["--max-batch", "1"]);
        let body = json!({"model": "stories", "prompt": "a", "max_tokens": 60, "alpha_0": 0, "n": 3, "seed": 1});
        let mut stream = server.connect();
        let request = server.posting("/v1/completions", "", body.to_string().as_bytes());
        stream.write_all(&request).expect("sent");
        while server.metric("esolm_running") < 1.0 {
            std::thread::yield_now();
        }
        kill(Pid::from_raw(server.child.id() as i32), signal).expect("sent");
        let answer = Answer::read(&mut stream).success();
        assert_eq!(answer["choices"].as_array().map(Vec::len), Some(3));
        let (status, said) = server.end();
        assert!(status.success(), "{status} {said:?}");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("stopping: "), "{said:?}");
    }
}
