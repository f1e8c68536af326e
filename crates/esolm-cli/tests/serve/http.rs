//! A separate server for each test, and plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

use super::common::esolm;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that is stopped when the test ends.
pub struct Server {
    pub child: Child,
    /// Host and port.
    pub address: String,
    /// Its output since it started listening.
    lines: Receiver<String>,
}

impl Server {
    /// Serves the model that ships, on the CPU, on a free port.
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(options, &[])
    }

    /// The same, with environment variables.
    pub fn start_with(options: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = esolm()
            .args(["serve", "--port", "0", "--device", "cpu"])
            .args(options)
            .env_remove("ESOLM_API_KEY")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut said = Vec::new();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                said.push(line.clone());
                Some(line.split_once("listening on http://")?.1.to_string())
            })
            .unwrap_or_else(|| panic!("it listens: {said:?}"));
        let (hears, heard) = mpsc::channel();
        // Read continuously, so that the server never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = hears.send(line); // most tests do not ask
            }
        });
        Self {
            child,
            address,
            lines: heard,
        }
    }

    /// Waits for it to end, and returns its output since it started listening.
    pub fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().expect("it ends");
        (status, self.lines.iter().collect())
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Sends bytes and reads the whole response.
    pub fn exchange(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may respond, and close, before it has read everything.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        let host = &self.address;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.exchange(request.as_bytes())
    }

    /// Posts JSON with further headers.
    pub fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.exchange(&self.posting(path, headers, body))
    }

    /// The bytes of such a request.
    pub fn posting(&self, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let (host, length) = (&self.address, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, "", body.to_string().as_bytes())
    }

    /// A completion of the model that ships.
    pub fn complete(&self, body: &Value) -> Answer {
        let mut body = body.clone();
        body["model"] = "stories".into();
        self.post("/v1/completions", &body)
    }

    /// The value of a metric in `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ')
            .next()
            .expect("a value")
            .parse()
            .expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response, with its body decoded.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(stream: &mut TcpStream) -> Self {
        let mut all = Vec::new();
        // If a connection is reset after the response, the response still counts.
        let _ = stream.read_to_end(&mut all);
        let text = String::from_utf8_lossy(&all).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let head = head.to_lowercase();
        let body = match head.contains("transfer-encoding: chunked") {
            true => joined(body),
            false => body.to_string(),
        };
        Self {
            status: status.unwrap_or(0),
            head,
            body,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON: {self:?}"))
    }

    /// The JSON of a success.
    pub fn success(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// Checks that it is a refusal in OpenAI's format, and returns its error.
    pub fn refusal(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.json()["error"].clone();
        let message = error["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && message.len() < 400, "{error}");
        assert!(error["type"].is_string(), "{error}");
        for name in ["param", "code"] {
            assert!(error[name].is_null() || error[name].is_string(), "{error}");
        }
        error
    }

    /// The parts of a stream.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.head.contains("content-type: text/event-stream"));
        let mut lines: Vec<&str> = self.body.split("\n\n").filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.pop(), Some("data: [DONE]"), "{}", self.body);
        let json = |line: &&str| {
            let json = line.strip_prefix("data: ").expect("data");
            serde_json::from_str(json).expect("JSON")
        };
        lines.iter().map(json).collect()
    }
}

/// A chunked body.
fn joined(mut body: &str) -> String {
    let mut all = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        let Some(chunk) = rest.get(..size).filter(|_| size > 0) else {
            break;
        };
        all.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    all
}
