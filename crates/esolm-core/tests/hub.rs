//! `hf:owner/name` with a small hub on this machine.
//!
//! There is a single test function: the hub's address and the cache are environment variables of the whole process.
#![cfg(all(feature = "hub", not(target_family = "wasm")))]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::{Folder, golden, golden_tensors};
use esolm_core::checkpoint::{Checkpoint, OpenOptions, SourceKind};

/// The hub's response for a path.
enum Answer {
    File(Vec<u8>),
    /// The announced length, and fewer bytes.
    Cut(Vec<u8>),
    Status(&'static str),
    /// A page from a server that is not a hub.
    Page,
}

/// Answers like the hub: ranges, the commit, an etag. Records the requests.
fn serve(listener: TcpListener, answers: HashMap<String, Answer>, log: Arc<Mutex<Vec<String>>>) {
    for stream in listener.incoming() {
        let _ = respond(stream.unwrap(), &answers, &log); // a client that hangs up is not this side's concern
    }
}

fn respond(
    mut stream: TcpStream,
    answers: &HashMap<String, Answer>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let (mut range, mut authorization) = (None, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_string();
        let lower = line.to_lowercase();
        if line.is_empty() {
            break;
        } else if let Some(value) = lower.strip_prefix("range: bytes=") {
            range = value
                .split_once('-')
                .map(|(from, to)| (from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
        } else if lower.starts_with("authorization: ") {
            authorization = line;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or("").to_string();
    log.lock()
        .unwrap()
        .push(format!("{path} {authorization}").trim().to_string());
    let (body, cut) = match answers.get(&path) {
        Some(Answer::File(body)) => (body, false),
        Some(Answer::Cut(body)) => (body, true),
        Some(Answer::Page) => {
            return stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
        }
        other => {
            let status = if let Some(Answer::Status(status)) = other {
                status
            } else {
                "404 Not Found"
            };
            return write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    };
    let (from, to) = range.map_or((0, body.len() - 1), |(from, to)| {
        (from, to.unwrap_or(body.len() - 1).min(body.len() - 1))
    });
    let part = &body[from..=to];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{to}/{}\r\nETag: \"{:08x}\"\r\n\
         X-Repo-Commit: {}\r\nConnection: close\r\n\r\n",
        part.len(),
        body.len(),
        crc(&path),
        if path.contains("/main/") {
            "0123456789abcdef"
        } else {
            "fedcba9876543210"
        },
    )?;
    stream.write_all(if cut && part.len() > 1 {
        &part[..part.len() / 2]
    } else {
        part
    })
}

/// Any number that differs between paths is suitable as an etag.
fn crc(path: &str) -> u32 {
    path.bytes().fold(7, |hash: u32, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    })
}

/// The part for a process whose stderr is a terminal; the test below runs it in one.
#[test]
#[ignore = "it needs a hub and a cache in the environment"]
fn opens_at_a_terminal() {
    let Some(progress) = std::env::var_os("ESOLM_TEST_PROGRESS") else {
        return;
    };
    let options = OpenOptions {
        progress: progress == "yes",
        ..OpenOptions::default()
    };
    Checkpoint::open("hf:some-one/Eso-LM.b", &options).unwrap();
}

/// The terminal output of a download into an empty cache.
#[cfg(target_os = "linux")]
fn shown_at_a_terminal(progress: &str) -> String {
    let home = Folder::new("terminal");
    let typescript = home.path("typescript");
    let program = std::env::current_exe().unwrap();
    let command = format!(
        "{} --exact opens_at_a_terminal --ignored --nocapture",
        program.display()
    );
    let status = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command])
        .arg(&typescript)
        .env("HF_HOME", home.spec())
        .env("ESOLM_TEST_PROGRESS", progress)
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .expect("script of bsdutils runs");
    let shown = std::fs::read(typescript).unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(status.success() && shown.contains("1 passed"), "{shown}");
    shown
}

#[test]
fn models_come_from_the_hub_and_stay_in_the_cache() {
    let file = |name: &str| Answer::File(golden(name));
    let at = |repo: &str, file: &str| format!("/{repo}/resolve/main/{file}");
    let names = golden_tensors("ar.ema.safetensors").into_keys();
    let map = names.map(|name| (format!("backbone.{name}"), "all.safetensors".into()));
    let map: serde_json::Map<String, serde_json::Value> = map.collect();
    let index = serde_json::json!({ "weight_map": map });
    let answers = HashMap::from([
        (
            at("some-one/Eso-LM.b", "config.json"),
            file("model_a.config.json"),
        ),
        (
            at("some-one/Eso-LM.b", "model.safetensors"),
            file("model_a.ema.safetensors"),
        ),
        (
            at("some-one/with-tokenizer", "config.json"),
            file("ar.config.json"),
        ),
        (
            at("some-one/with-tokenizer", "model.safetensors"),
            file("ar.ema.safetensors"),
        ),
        (
            at("some-one/with-tokenizer", "tokenizer.json"),
            Answer::File(b"{}".to_vec()),
        ),
        (
            at("some-one/sharded", "config.json"),
            file("ar.config.json"),
        ),
        (
            at("some-one/sharded", "model.safetensors.index.json"),
            Answer::File(index.to_string().into_bytes()),
        ),
        (
            at("some-one/sharded", "all.safetensors"),
            file("ar.ema.safetensors"),
        ),
        (at("some-one/cut", "config.json"), file("mdlm.config.json")),
        (
            at("some-one/cut", "model.safetensors"),
            Answer::Cut(golden("mdlm.ema.safetensors")),
        ),
        (at("some-one/half", "config.json"), file("mdlm.config.json")),
        (
            at("some-one/mixed-up", "config.json"),
            file("model_a.config.json"),
        ),
        (
            at("some-one/mixed-up", "model.safetensors"),
            file("ar.ema.safetensors"),
        ),
        (
            at("some-one/private", "config.json"),
            Answer::Status("401 Unauthorized"),
        ),
        (
            at("some-one/busy", "config.json"),
            Answer::Status("503 Service Unavailable"),
        ),
        (at("some-one/page", "config.json"), Answer::Page),
        (
            "/some-one/Eso-LM.b/resolve/v2/config.json".into(),
            file("ar.config.json"),
        ),
        (
            "/some-one/Eso-LM.b/resolve/v2/model.safetensors".into(),
            file("ar.ema.safetensors"),
        ),
    ]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let home = Folder::new("hub");
    // SAFETY: no other thread of this process is running test code; this file has a single test.
    unsafe {
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            std::env::remove_var(proxy);
            std::env::remove_var(proxy.to_uppercase());
        }
        std::env::set_var("HF_HOME", home.spec());
        std::env::set_var("HF_ENDPOINT", format!("http://{address}/"));
        std::env::set_var("HF_TOKEN", "hf_secret");
    }
    let server_log = log.clone();
    std::thread::spawn(move || serve(listener, answers, server_log));
    let open = |spec: &str| Checkpoint::open(spec, &OpenOptions::default());

    let checkpoint = open("hf:some-one/Eso-LM.b").unwrap();
    assert_eq!(checkpoint.source(), SourceKind::HfFolder);
    assert_eq!(checkpoint.config().alpha_0, Some(0.5));
    assert_eq!(checkpoint.tokenizer_path(), None);
    assert!(
        log.lock()
            .unwrap()
            .iter()
            .all(|line| line.ends_with("Bearer hf_secret"))
    );
    assert!(
        home.path("hub/models--some-one--Eso-LM.b/snapshots/0123456789abcdef/model.safetensors")
            .is_file()
    );

    // The second time, nothing is requested, although the repository has no tokenizer to cache.
    let asked = log.lock().unwrap().len();
    open("hf:some-one/Eso-LM.b").unwrap();
    assert_eq!(log.lock().unwrap().len(), asked);

    // Offline, nothing is requested, whether cached or not.
    for value in ["1", "TRUE", "on"] {
        // SAFETY: as above; the server thread reads no environment.
        unsafe { std::env::set_var("HF_HUB_OFFLINE", value) };
        open("hf:some-one/Eso-LM.b").unwrap();
        let message = open("hf:some-one/sharded").unwrap_err().to_string();
        for word in [
            "config.json",
            "some-one/sharded",
            "not in the cache",
            "HF_HUB_OFFLINE",
        ] {
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(log.lock().unwrap().len(), asked);
    }
    unsafe { std::env::set_var("HF_HUB_OFFLINE", "0") };
    let sharded = open("hf:some-one/sharded").unwrap();
    assert_eq!(sharded.config().family.to_string(), "AR");
    unsafe { std::env::set_var("HF_HUB_OFFLINE", "1") };
    open("hf:some-one/sharded").unwrap();
    unsafe { std::env::remove_var("HF_HUB_OFFLINE") };

    // Progress of downloads is shown only on request.
    #[cfg(target_os = "linux")]
    for progress in ["yes", "no"] {
        let shown = shown_at_a_terminal(progress);
        let is_shown = shown.contains("model.safetensors");
        assert_eq!(is_shown, progress == "yes", "{shown}");
    }

    let revision = open("hf:some-one/Eso-LM.b@v2").unwrap();
    assert_eq!(revision.config().family.to_string(), "AR");
    let tokenizer = open("hf:some-one/with-tokenizer")
        .unwrap()
        .tokenizer_path()
        .unwrap();
    assert_eq!(std::fs::read(tokenizer).unwrap(), b"{}");

    let endpoint = format!("http://{address}");
    for (spec, words) in [
        (
            "hf:some-one/nothing",
            vec![
                "config.json",
                "some-one/nothing",
                &endpoint,
                "no such repository",
                "check the name",
            ],
        ),
        (
            "hf:some-one/half",
            vec![
                "model.safetensors",
                "some-one/half",
                "no such repository, revision or file",
            ],
        ),
        (
            "hf:some-one/private",
            vec!["config.json", "some-one/private", "401", "HF_TOKEN"],
        ),
        ("hf:some-one/busy", vec!["some-one/busy", "503", "later"]),
        (
            "hf:some-one/page",
            vec!["some-one/page", "header", "HF_ENDPOINT"],
        ),
        (
            "hf:some-one/cut",
            vec!["model.safetensors", "some-one/cut", "check the network"],
        ),
        (
            "hf:some-one/mixed-up",
            vec!["blocks.2.norm1.weight is missing", "Eso-LM"],
        ),
        ("hf:no-owner", vec!["hf:no-owner", "hf:owner/name"]),
        ("hf:a/../../etc", vec!["hf:owner/name"]),
        ("hf:a/b@../c", vec!["hf:owner/name"]),
        ("hf:a b/c", vec!["hf:owner/name"]),
        ("hf:", vec!["hf:owner/name"]),
    ] {
        let message = open(spec).unwrap_err().to_string();
        println!("{spec}: {message}");
        for word in words {
            assert!(message.contains(word), "{spec}: {message:?} lacks {word:?}");
        }
        assert!(!message.contains("hf_secret"));
    }
    // A truncated body must not be used as the file later either.
    open("hf:some-one/cut").unwrap_err();

    // SAFETY: as above; the server thread reads no environment.
    unsafe { std::env::set_var("HF_ENDPOINT", "http://127.0.0.1:1") };
    let message = open("hf:some-one/elsewhere").unwrap_err().to_string();
    assert!(
        message.contains("some-one/elsewhere") && message.contains("check the network"),
        "{message}"
    );
    unsafe { std::env::set_var("HF_ENDPOINT", "ftp://example") };
    let message = open("hf:some-one/elsewhere").unwrap_err().to_string();
    assert!(message.contains("HF_ENDPOINT must begin with"), "{message}");
    // Cached files open without a hub.
    open("hf:some-one/with-tokenizer").unwrap_err();
    unsafe { std::env::set_var("HF_ENDPOINT", "http://127.0.0.1:1") };
    open("hf:some-one/with-tokenizer").unwrap();
}
