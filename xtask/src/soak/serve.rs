//! A server under many clients, killed repeatedly.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::{Options, Outcome};
use crate::system::{cargo, root, shown, target};

/// Number of simultaneous clients.
const CLIENTS: usize = 64;
/// One in this many requests is cut off.
const CUT: u64 = 10;
/// Bytes by which memory may grow, in addition to five percent.
const GROWTH: u64 = 16 << 20;
/// Alternated runs in which rates are measured, texts per run, and tokens per text.
const RUNS: usize = 5;
const PLACES: usize = 16;
const LENGTH: usize = 128;
/// Minimum rate of a full batch, as a share of the rate of `esolm sample`.
const LEAST_SHARE: f64 = 0.8;
/// In every test run: how long there are clients, and how often the server is killed.
const SHORT: Duration = Duration::from_secs(24);
const SHORT_KILLS: u32 = 3;
/// Time after which a server has processed every kind of request, if the run is long enough.
const SETTLES: Duration = Duration::from_secs(12);
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// The variable parts of mixed requests; each always gets the same text.
fn bodies() -> Vec<String> {
    let kinds = [
        r#""prompt": "Once upon a time", "max_tokens": 40, "alpha_0": 0.5"#,
        r#""prompt": "Tom had a dog.", "max_tokens": 64, "alpha_0": 0, "stop": [".", "\n"]"#,
        r#""prompt": "Lily", "max_tokens": 100, "stream": true"#,
        r#""prompt": ["The sun", "The moon"], "max_tokens": 12, "n": 2, "logprobs": 3"#,
        r#""prompt": "The cat ", "suffix": " with a dog.", "max_tokens": 6"#,
        r#""prompt": "They went to the park to play.", "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0"#,
        r#""max_tokens": 30, "alpha_0": 1, "steps": 8, "top_p": 0.9"#,
    ];
    let body =
        |seed: usize, kind: &str| format!(r#"{{"model": "stories", "seed": {seed}, {kind}}}"#);
    (0..4)
        .flat_map(|seed| kinds.iter().map(move |kind| body(seed, kind)))
        .collect()
}

/// Small random numbers; their quality does not matter.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Result<Self, String> {
        let mut child = Command::new(target().join("release/esolm"))
            .current_dir(root())
            .args([
                "serve",
                "--port",
                "0",
                "--device",
                "cpu",
                "--model",
                "stories=models/stories",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the server does not start: {error}"))?;
        let stderr = child.stderr.take().ok_or("the server has no stderr")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let address =
            lines.find_map(|line| Some(line.split_once("listening on http://")?.1.to_string()));
        thread::spawn(move || lines.for_each(drop));
        let address = address.ok_or("the server does not listen")?;
        Ok(Self { child, address })
    }

    /// Sends a request; if `cut`, disconnects after that many bytes of the answer. Returns the status and the body.
    fn ask(&self, head: &str, body: &str, cut: Option<u64>) -> std::io::Result<(String, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (host, length) = (&self.address, body.len());
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = Vec::new();
        match cut {
            Some(bytes) => stream.take(bytes).read_to_end(&mut answer)?,
            None => stream.read_to_end(&mut answer)?,
        };
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        Ok((status.into(), body.into()))
    }

    fn complete(&self, body: &str, cut: Option<u64>) -> std::io::Result<(String, String)> {
        let (status, answer) = self.ask("POST /v1/completions", body, cut)?;
        Ok((status, texts(&answer)))
    }

    /// Its resident memory in KiB, if the system reports it.
    fn memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of an answer, or of all parts of a stream, concatenated and escaped as in JSON.
fn texts(answer: &str) -> String {
    const NAME: &str = "\"text\":\"";
    let mut all = String::new();
    for part in answer.split(NAME).skip(1) {
        let mut is_escaped = false;
        let text = part.chars().take_while(|&c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            !ends
        });
        all.extend(text);
    }
    all
}

/// Sixty-four clients with mixed requests, a tenth of them cut off: each answer must be the one that the request gets
/// alone, and memory must not grow. Then the server is killed under load, and must start again each time.
pub(super) fn run(options: &Options) -> Outcome {
    let remedy = "what is wrong stands above";
    shown(
        cargo()
            .current_dir(root())
            .args(["build", "--release", "--workspace"]),
        remedy,
    )?;
    let share = throughput()?;
    let (answers, growth) = crowd(Duration::from_secs(options.seconds.into()))?;
    let kills = options.kills;
    kill(kills)?;
    Ok(format!(
        "{answers}; {growth}; killed {kills} times; full batches at {share:.2} of sample's rate"
    ))
}

/// A short version, with the program built by the tests.
pub(super) fn short() -> Outcome {
    let (answers, growth) = crowd(SHORT)?;
    kill(SHORT_KILLS)?;
    Ok(format!("{answers}; {growth}; killed {SHORT_KILLS} times"))
}

/// Tokens per second of a full batch relative to `esolm sample --batch`, with texts of the same length drawn in the
/// same way: medians of alternated runs.
fn throughput() -> Result<f64, String> {
    let server = Server::start()?;
    let (mut served, mut sampled) = (Vec::new(), Vec::new());
    for seed in 1..=RUNS {
        // The opening token is given, so it is not counted.
        let body = format!(
            r#"{{"model": "stories", "max_tokens": {}, "n": {PLACES}, "alpha_0": 0.5, "seed": {seed}}}"#,
            LENGTH - 1
        );
        let began = Instant::now();
        let (status, answer) = server
            .ask("POST /v1/completions", &body, None)
            .map_err(|error| failed(&error))?;
        let seconds = began.elapsed().as_secs_f64();
        if status != "200" {
            return Err(format!("{body} is answered with {status}"));
        }
        served.push(number(&answer, "\"completion_tokens\":")? / seconds);
        let output = Command::new(target().join("release/esolm"))
            .current_dir(root())
            .args([
                "sample", "--json", "--quiet", "--device", "cpu", "--alpha0", "0.5",
            ])
            .args([
                "--batch",
                &PLACES.to_string(),
                "--length",
                &LENGTH.to_string(),
            ])
            .args(["--seed", &seed.to_string()])
            .output()
            .map_err(|error| format!("esolm sample does not start: {error}"))?;
        let json = String::from_utf8_lossy(&output.stdout);
        sampled.push(number(&json, "\"tokens_per_second\":")?);
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let share = median(served) / median(sampled);
    match share < LEAST_SHARE {
        true => Err(format!(
            "full batches reach {share:.2} of sample's rate, not {LEAST_SHARE}"
        )),
        false => Ok(share),
    }
}

/// The number after `name` in JSON.
fn number(json: &str, name: &str) -> Result<f64, String> {
    let rest = json.split_once(name).map(|(_, rest)| rest.trim_start());
    let digits = rest.map(|rest| {
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '.' | 'e' | '-'));
        &rest[..end.unwrap_or(rest.len())]
    });
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| format!("there is no {name} in an answer"))
}

fn failed(error: &std::io::Error) -> String {
    format!("a request failed: {error}")
}

/// The answer to each body when there are no other requests.
fn alone(server: &Server) -> Result<HashMap<String, String>, String> {
    let one = |body: String| {
        let (status, text) = server
            .complete(&body, None)
            .map_err(|error| failed(&error))?;
        match status == "200" && !text.is_empty() {
            true => Ok((body, text)),
            false => Err(format!("{body} is answered with {status}")),
        }
    };
    bodies().into_iter().map(one).collect()
}

fn crowd(time: Duration) -> Result<(String, String), String> {
    let server = Server::start()?;
    let expected = alone(&server)?;
    let bodies = bodies();
    let [answered, busy, cut] = [const { AtomicUsize::new(0) }; 3];
    let wrong = Mutex::new(None);
    let began = Instant::now();
    let early = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, expected, bodies) = (&server, &expected, &bodies);
            let (answered, busy, cut, wrong) = (&answered, &busy, &cut, &wrong);
            scope.spawn(move || {
                let mut random = Random(client as u64 + 1);
                while began.elapsed() < time {
                    let body = &bodies[random.below(bodies.len() as u64) as usize];
                    let is_cut = random.below(CUT) == 0;
                    let bytes = is_cut.then(|| random.below(600));
                    let why = match server.complete(body, bytes) {
                        _ if is_cut => {
                            cut.fetch_add(1, Relaxed);
                            continue;
                        }
                        Ok((status, _)) if status == "429" => {
                            busy.fetch_add(1, Relaxed);
                            thread::sleep(Duration::from_millis(100));
                            continue;
                        }
                        Ok((status, text)) if status == "200" && text == expected[body] => {
                            answered.fetch_add(1, Relaxed);
                            continue;
                        }
                        Ok((status, text)) => format!("{body} gets {status} and {text}"),
                        Err(error) => failed(&error),
                    };
                    let mut wrong = wrong.lock().unwrap_or_else(|e| e.into_inner());
                    wrong.get_or_insert(why);
                    return;
                }
            });
        }
        // Measured once every size of pass has occurred.
        thread::sleep((time / 5).max(time.min(SETTLES)));
        server.memory()
    });
    if let Some(why) = wrong.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(why);
    }
    let growth = match (early, server.memory()) {
        (Some(early), Some(late)) => {
            if late > early + early / 20 + (GROWTH >> 10) {
                return Err(format!(
                    "memory grew from {} to {} MiB",
                    early >> 10,
                    late >> 10
                ));
            }
            format!("memory {} MiB, then {} MiB", early >> 10, late >> 10)
        }
        _ => "memory not told by this system".into(),
    };
    // Nothing remains of clients that disconnected.
    loop {
        let (_, counts) = server
            .ask("GET /metrics", "", None)
            .map_err(|error| failed(&error))?;
        let is_idle = ["esolm_running{", "esolm_queued{"].iter().all(|name| {
            let line = counts.lines().find(|line| line.starts_with(name));
            line.is_some_and(|line| line.ends_with(" 0"))
        });
        if is_idle {
            break;
        }
        if began.elapsed() > time + PATIENCE {
            return Err("texts of clients that went away still have places".into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let [answered, busy, cut] = [answered, busy, cut].map(AtomicUsize::into_inner);
    let answers = format!(
        "{CLIENTS} clients, {answered} answers as alone, {cut} cut off, {busy} told to wait"
    );
    Ok((answers, growth))
}

fn kill(times: u32) -> Result<(), String> {
    let mut random = Random(7);
    let bodies = bodies();
    let mut expected = None;
    for _ in 0..times {
        let server = Server::start()?;
        let known = match &expected {
            Some(known) => known,
            None => expected.insert(alone(&server)?),
        };
        let body = &bodies[random.below(bodies.len() as u64) as usize];
        let (status, text) = server
            .complete(body, None)
            .map_err(|error| failed(&error))?;
        if status != "200" || text != known[body] {
            return Err(format!(
                "after it was killed, {body} gets {status} and {text}"
            ));
        }
        let moment = Duration::from_millis(random.below(300));
        let address = server.address.clone();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (address, body) = (address.clone(), body.clone());
                thread::spawn(move || {
                    let Ok(mut stream) = TcpStream::connect(&address) else {
                        return;
                    };
                    let _ = write!(
                        stream,
                        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.read_to_end(&mut Vec::new());
                })
            })
            .collect();
        thread::sleep(moment);
        drop(server);
        clients.into_iter().for_each(|client| drop(client.join()));
    }
    Ok(())
}
