//! `esolm chat` as a user runs it, with input from a pipe and at a terminal.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::{Value, json};

use super::common::{Folder, chat_model, esolm, root};

const BLOCKS: [&str; 6] = [
    "--as",
    "bd3lm",
    "--block-size",
    "8",
    "--no-think",
    "--quiet",
];

fn ar() -> Value {
    json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})
}

fn command(model: &str, options: &[&str]) -> Command {
    let mut command = esolm();
    command
        .args(["chat", "--device", "cpu", "--model", model])
        .args(options);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Sends `input` and waits for the end.
fn said(model: &str, options: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = command(model, options).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_ref());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn events(output: &Output) -> Vec<Value> {
    let stdout = text(&output.stdout);
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn golden_llm_chat_answers_come_through_the_command() {
    let folder = Folder::new();
    let model = folder.file("model");
    chat_model(model.as_ref(), &json!({}));
    let path = root().join("tests/fixtures/golden-llm/chat/golden_bd3lm.json");
    let golden = std::fs::read(path).expect("the golden file");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    for steps in [32u64, 8] {
        let runs = golden["runs"].as_array().expect("a list").iter();
        let runs: Vec<&Value> = runs
            .filter(|run| run["options"]["steps"] == steps)
            .collect();
        let lines: String = runs
            .iter()
            .map(|run| json!({"messages": run["messages"]}).to_string() + "\n")
            .collect();
        let each = (steps / 4).to_string();
        let options = [
            &BLOCKS[..],
            &["--json", "--max-tokens", "32", "--steps", &each],
        ]
        .concat();
        let output = said(&model, &options, &lines);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let events = events(&output);
        let of = |kind: &str| -> Vec<&Value> {
            events
                .iter()
                .filter(|event| event["event"] == kind)
                .collect()
        };
        assert_eq!(of("answer").len(), runs.len());
        for ((run, prompt), answer) in runs.iter().zip(of("prompt")).zip(of("answer")) {
            assert_eq!(prompt["tokens"], run["prompt"]);
            assert_eq!(
                (&answer["text"], &answer["content"]),
                (&run["text"], &run["text"])
            );
            let generated = run["generated"].as_array().expect("a list");
            let body = generated
                .iter()
                .take_while(|token| **token != golden["eos_id"]);
            assert_eq!(
                answer["tokens"],
                Value::from(body.cloned().collect::<Vec<_>>())
            );
            assert_eq!(answer["finish"], "eos");
        }
        assert!(of("step").iter().any(|step| {
            step["open"]
                .as_array()
                .expect("a list")
                .contains(&Value::Null)
        }));
    }
}

#[test]
fn through_a_pipe_each_line_is_a_message() {
    let folder = Folder::new();
    let model = folder.file("model");
    chat_model(model.as_ref(), &json!({}));
    let output = said(
        &model,
        &BLOCKS,
        "What colour is the sky?\r\n\n/reset\nWhat do\\\n bees make?",
    );
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        text(&output.stderr)
    );
    let answers = text(&output.stdout);
    assert!(answers.starts_with("The sky is blue.\n"), "{answers}");
    assert_eq!(answers.lines().count(), 2, "{answers}");
    // An error ends it with a sentence.
    for (input, sentence) in [
        ("/nothing\n", "there is no command /nothing"),
        ("/load nowhere.json\n", "cannot read nowhere.json"),
        ("/seed x\n", "/seed x is not a whole number"),
        ("/save\n", "/save needs the name of a file"),
        ("Hello <|mask|>\n", "mask token"),
        ("/exit strategies\n", "/exit takes nothing after it"),
        ("/reset\\\nHello\n", "/reset takes nothing after it"),
        ("/seed\\\n7\n", "/seed takes one line"),
        ("/exit\n/nothing\n", ""),
    ] {
        let output = said(&model, &BLOCKS, input);
        let errors = text(&output.stderr);
        assert_eq!(
            output.status.success(),
            sentence.is_empty(),
            "{input}: {errors}"
        );
        assert!(
            errors.contains(sentence) && errors.lines().count() <= 1,
            "{input}: {errors}"
        );
    }
    // With events, an error in one line does not end the others.
    let options = [&BLOCKS[..], &["--json"]].concat();
    let output = said(
        &model,
        &options,
        b"{\"messages\": 7}\n/nothing\n\xff\n\xef\xbb\xbf {\"content\": \"Say hello.\"}\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let kinds: Vec<Value> = events(&output)
        .into_iter()
        .map(|event| event["event"].clone())
        .collect();
    assert_eq!(kinds[..4], ["error", "error", "error", "prompt"]);
    let prompt = &events(&output)[3]["text"];
    let prompt = prompt.as_str().expect("a text");
    assert!(
        prompt.contains("Say hello.") && !prompt.contains('{'),
        "{prompt}"
    );
    assert_eq!(kinds.last().expect("one"), "answer");
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn what_is_wrong_with_a_line_of_json_is_said_of_its_field() {
    let folder = Folder::new();
    let model = folder.file("model");
    chat_model(model.as_ref(), &json!({}));
    let wrong = [
        (
            "{\"content\": \"a\"",
            "it is not a JSON object (it ends too early)",
        ),
        (
            "{\"content\": a}",
            "it is not a JSON object (expected value at byte 13)",
        ),
        ("{}", "it has neither messages nor content; give one"),
        (
            "{\"messages\": [], \"content\": \"a\"}",
            "it has both messages and content; give one of them",
        ),
        (
            "{\"messages\": \"a\"}",
            "its messages is \"a\"; it must be a list of messages, each with a role and a content",
        ),
        (
            "{\"messages\": [\"a\"]}",
            "messages[0]: it is not an object; give one with a role and a content",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": 1}]}",
            "messages[1]: its role is 1; it must be a text",
        ),
        (
            "{\"messages\": [{\"role\": \"user\"}]}",
            "messages[0]: it has no content; give it as a text",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"contents\": \"a\"}]}",
            "messages[0]: it has the field \"contents\", which messages do not have; see docs/chat.md",
        ),
        (
            "{\"content\": [\"a\"]}",
            "its content is [\"a\"]; it must be a text",
        ),
        (
            "{\"content\": \"a\", \"think\": \"on\"}",
            "its think is \"on\"; it must be true or false",
        ),
        (
            "{\"content\": \"a\", \"seed\": -1}",
            "its seed is -1; it must be a whole number from 0 to",
        ),
        (
            "{\"content\": \"a\", \"max_tokens\": 0}",
            "its max_tokens is 0; it must be a whole number, 1 or more",
        ),
        (
            "{\"content\": \"a\", \"steps\": 4}",
            "it has the field \"steps\", which lines for `chat` do not have; see docs/chat.md",
        ),
    ];
    let lines: String = wrong.iter().map(|(line, _)| format!("{line}\n")).collect();
    let output = said(&model, &[&BLOCKS[..], &["--json"]].concat(), &lines);
    assert_eq!(output.status.code(), Some(1));
    let events = events(&output);
    assert_eq!(events.len(), wrong.len(), "{events:?}");
    for (number, (event, (line, why))) in (1..).zip(events.iter().zip(wrong)) {
        let text = event["text"].as_str().expect("a text");
        let place = format!("line {number} of the input: {why}");
        assert!(text.starts_with(&place), "{line}: {text}");
        assert!(text.contains("; an example is {"), "{line}: {text}");
    }
}

#[test]
fn a_conversation_is_saved_and_gone_on_with() {
    let folder = Folder::new();
    let model = folder.file("model");
    chat_model(model.as_ref(), &ar());
    let (first, second) = (folder.file("first.json"), folder.file("second.json"));
    let options = [
        "--quiet",
        "--seed",
        "5",
        "--max-tokens",
        "12",
        "--system",
        "Be brief.",
    ];
    let output = said(
        &model,
        &options,
        format!("One.\n/save {first}\nTwo.\n/save {second}\n"),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let again = folder.file("again.json");
    let options = [
        "--quiet",
        "--seed",
        "5",
        "--max-tokens",
        "12",
        "--load",
        &first,
    ];
    let output = said(&model, &options, format!("Two.\n/save {again}\n"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read = |path: &str| std::fs::read_to_string(path).expect("a saved conversation");
    assert_eq!(read(&second), read(&again));
    let saved: Value = serde_json::from_str(&read(&again)).expect("JSON");
    assert_eq!(saved["messages"].as_array().expect("a list").len(), 5);
    // A template that refuses does so in its own words.
    let template = folder.file("template.jinja");
    std::fs::write(&template, "{{ raise_exception('after you') }}").expect("writable");
    let output = said(
        &model,
        &["--quiet", "--chat-template", &template],
        "Hello\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "esolm: the chat template refuses the conversation: after you\n"
    );
}

/// A conversation as events, one line each.
struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(model: &str, options: &[&str]) -> Self {
        let mut child = command(model, options)
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Self {
            stdin: child.stdin.take().expect("a pipe"),
            stdout: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    fn until(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(
                self.stdout.read_line(&mut line).expect("it writes") > 0,
                "no {kind}"
            );
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["event"] == kind {
                return event;
            }
            assert_ne!(event["event"], "error", "{event}");
        }
    }

    fn end(mut self) -> Option<i32> {
        drop(self.stdin);
        self.child.wait().expect("it ends").code()
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_an_answer_and_not_the_conversation() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let folder = Folder::new();
    let model = folder.file("model");
    chat_model(model.as_ref(), &ar());
    let options = ["--json", "--temperature", "1", "--max-tokens", "3000"];
    let long = ["--seed", "3", "--top-k", "60"];
    let mut chat = Running::start(&model, &[&options[..], &long].concat());
    let pid = Pid::from_raw(chat.child.id() as i32);
    let mut stopped = 0;
    for turn in 0..6 {
        chat.say(&format!("/seed {turn}"));
        chat.until("note");
        chat.say("Tell me all.");
        chat.until("step");
        kill(pid, Signal::SIGINT).expect("it runs");
        let answer = chat.until("answer");
        stopped += u32::from(answer["finish"] == "interrupted");
    }
    assert!(stopped > 0, "no answer was long enough to be stopped");
    chat.say("/reset");
    chat.until("note");
    kill(pid, Signal::SIGTERM).expect("it runs");
    assert_eq!(chat.end(), Some(143));
}

/// Fifty turns take no more memory than the context does.
#[cfg(target_os = "linux")]
#[test]
fn fifty_turns_have_flat_memory() {
    let folder = Folder::new();
    let model = folder.file("model");
    let mut config = ar();
    config["max_position_embeddings"] = json!(1024);
    chat_model(model.as_ref(), &config);
    let options = [
        "--json",
        "--temperature",
        "1",
        "--seed",
        "1",
        "--max-tokens",
        "40",
    ];
    let mut chat = Running::start(&model, &options);
    let status = format!("/proc/{}/status", chat.child.id());
    let resident = || -> u64 {
        let status = std::fs::read_to_string(&status).expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .expect("a size");
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number")
    };
    let (mut early, mut kept) = (0, 0);
    for turn in 1..=50 {
        chat.say(&format!("What do bees make in the summer of year {turn}?"));
        kept += chat.until("prompt")["cached"].as_u64().expect("a number");
        chat.until("answer");
        if turn == 20 {
            early = resident();
        }
    }
    let late = resident();
    println!("{early} kB after 20 turns, {late} kB after 50; {kept} tokens kept");
    assert!(
        late < early + 8 * 1024,
        "{early} kB after 20 turns, {late} kB after 50"
    );
    assert!(kept > 0);
    assert_eq!(chat.end(), Some(0));
}
