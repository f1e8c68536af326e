//! `esolm chat` at a terminal, provided by `script`: editing, keys, and the terminal's state afterwards.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::common::{Folder, chat_model, hears_signals, root};

/// Sent to a terminal before a message is read, so that pasted text can be told from keys.
const READY: &str = "\x1b[?2004h";
const HIDES_CURSOR: &str = "\x1b[?25l";
const BEGIN_PASTE: &str = "\x1b[200~";
const END_PASTE: &str = "\x1b[201~";
const BACKSPACE: &str = "\x7f";
const UP: &str = "\x1b[A";
const LEFT: &str = "\x1b[D";
const ALT_ENTER: &str = "\x1b\r";
const CTRL_A: &str = "\x01";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A shell command line at its own terminal.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    seen: PathBuf,
    /// Number of messages read.
    ready: usize,
}

impl Terminal {
    fn start(folder: &Folder, line: &str) -> Self {
        let seen = folder.path().join("seen");
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--flush", "--return", "--command", line])
            .arg(&seen)
            .current_dir(root())
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        hears_signals(&mut script);
        let mut script = script.spawn().expect("script runs");
        Self {
            keys: script.stdin.take().expect("a pipe"),
            script,
            seen,
            ready: 0,
        }
    }

    /// The output so far.
    fn seen(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.seen).unwrap_or_default()).into_owned()
    }

    /// Waits until a text has appeared this many times.
    fn until(&mut self, text: &str, times: usize) {
        while self.seen().matches(text).count() < times {
            let ended = self.script.try_wait().expect("script runs");
            assert!(ended.is_none(), "it ended early: {:?}", self.seen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses keys when the next message is being read.
    fn press(&mut self, keys: &str) {
        self.ready += 1;
        self.until(READY, self.ready);
        self.press_now(keys);
    }

    fn press_now(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("script reads");
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.script.wait().expect("script ends");
        (status, self.seen())
    }
}

/// A command line of a conversation. The program replaces the shell, since some shells that wait for a program end as
/// interrupted ones after Ctrl-C, whatever the program makes of it.
fn chat(folder: &Folder, model: &Value, options: &str) -> String {
    let to = folder.path().join("model");
    chat_model(&to, model);
    let program = env!("CARGO_BIN_EXE_esolm");
    format!(
        "exec {program} chat --device cpu --model {} {options}",
        to.display()
    )
}

#[test]
fn messages_are_edited_at_a_terminal() {
    let folder = Folder::new();
    let line = chat(
        &folder,
        &json!({}),
        "--as bd3lm --block-size 8 --no-think --max-tokens 16",
    );
    let saved = folder.path().join("it is saved.json");
    let mut terminal = Terminal::start(&folder, &line);
    let long = "many words ".repeat(30);
    // The keys of each line, and the resulting message.
    let said: &[(&[&str], &str)] = &[
        (
            &[&format!(
                "hat colour is teh{BACKSPACE}{BACKSPACE}he sky?{CTRL_A}W\r"
            )],
            "What colour is the sky?",
        ),
        // An earlier message with another ending.
        (
            &[&format!("{UP}{BACKSPACE} now?\r")],
            "What colour is the sky now?",
        ),
        (
            &["What do\\\r", &format!("bees\\ make,{ALT_ENTER}and why?\r")],
            "What do\nbees\\ make,\nand why?",
        ),
        // All lines of it.
        (&[&format!("{UP}!\r")], "What do\nbees\\ make,\nand why?!"),
        // Pasted lines are one message, unchanged.
        (
            &[&format!(
                "{BEGIN_PASTE}make \\\r\n\tall\r\n/exit{END_PASTE}?\r"
            )],
            "make \\\n\tall\n/exit?",
        ),
        (&[&format!("{BEGIN_PASTE}one\n\n{END_PASTE}\r")], "one"),
        (&[&format!("漢字{LEFT}かな{BACKSPACE} é\r")], "漢か é字"),
        (&[&format!("{long}{LEFT}{LEFT}\r")], &long),
        // What Ctrl-C clears is not sent.
        (&[&format!("Nothing{CTRL_C}Hello.\r")], "Hello."),
        (&["Nothing\\\r", CTRL_C, "Bye.\r"], "Bye."),
    ];
    for line in said.iter().flat_map(|(lines, _)| *lines) {
        terminal.press(line);
    }
    terminal.press("/sa\t");
    terminal.press_now(&format!("{}\r", saved.display()));
    terminal.press("\t\t//\x15/nothing\r");
    terminal.press("/hel\t\r");
    terminal.press(CTRL_D);
    let (status, seen) = terminal.end();
    assert_eq!(status.code(), Some(0), "{seen}");
    assert!(seen.contains("there is no command /nothing"), "{seen}");
    assert!(seen.contains("/think on|off|auto"), "{seen}");
    let saved: Value = serde_json::from_slice(&fs::read(saved).expect("saved")).expect("JSON");
    assert_eq!(saved["messages"][1]["content"], "The sky is blue.");
    let messages = saved["messages"].as_array().expect("a list").iter();
    let users: Vec<&Value> = messages
        .filter(|message| message["role"] == "user")
        .map(|message| &message["content"])
        .collect();
    let expected: Vec<&str> = said.iter().map(|(_, text)| *text).collect();
    assert_eq!(users, expected, "{seen}");
}

#[test]
fn ctrl_c_stops_an_answer_and_ends_at_an_empty_line() {
    let folder = Folder::new();
    let model = json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 200_000});
    let never_ends = "--max-tokens 90000 --suppress-tokens '<|im_end|>,<|endoftext|>' --seed 1";
    let line = chat(&folder, &model, never_ends);
    let mut terminal = Terminal::start(&folder, &line);
    for turn in 1..=2 {
        terminal.press("Tell me all.\r");
        terminal.until(HIDES_CURSOR, turn);
        terminal.press_now(CTRL_C);
        terminal.until(", stopped]", turn);
    }
    terminal.press(CTRL_C);
    let (status, seen) = terminal.end();
    assert_eq!(status.code(), Some(0), "{seen}");
}

/// A program that is told to end while reading a message restores the terminal.
#[test]
fn a_signal_gives_the_terminal_back() {
    let folder = Folder::new();
    let line = chat(&folder, &json!({}), "--as bd3lm --block-size 8");
    let (pid, settings) = (folder.file("pid"), folder.file("settings"));
    let line =
        format!("sh -c 'echo $$ > {pid}; {line}'; code=$?; stty -a > {settings}; exit $code");
    let mut terminal = Terminal::start(&folder, &line);
    terminal.press("Half a mess");
    terminal.until("mess", 1);
    let pid = fs::read_to_string(pid).expect("a number");
    let killed = Command::new("kill").args(["-TERM", pid.trim()]).status();
    assert!(killed.expect("kill runs").success());
    let (status, seen) = terminal.end();
    assert_eq!(status.code(), Some(143), "{seen}");
    let settings = fs::read_to_string(settings).expect("what stty says");
    for set in ["icanon", "echo", "isig", "icrnl"] {
        let is_set = |word: &str| word.trim_end_matches(';') == set;
        assert!(settings.split_whitespace().any(is_set), "{set}: {settings}");
    }
    assert!(seen.contains("\x1b[?2004l"), "{seen:?}");
}
