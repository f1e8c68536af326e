//! Jobs: lines in, lines out, in shards, and killed and resumed.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Folder, esolm, root, succeed};

const PROMPTS: [&str; 4] = ["One day", "The cat", "Tom and Lily", "There was a big"];
/// Lines of the input.
const LINES: usize = 14;

/// Lines with their own ids, prompts, templates, seeds and lengths, and a blank one between them.
pub fn input(folder: &Folder) -> String {
    let path = folder.file("in.jsonl");
    let mut text = String::from("\u{feff}");
    for index in 0..LINES {
        let line = match index {
            3 => json!({"id": "three", "infill": "Once ____{3} a time"}),
            4 => json!({"length": 20}),
            8 => json!({"id": 8, "prompt": "My dog", "seed": 5, "stop_strings": ["."]}),
            _ => json!({"id": index, "prompt": PROMPTS[index % 4]}),
        };
        text += &format!("{line}\r\n");
        if index == 5 {
            text += "\n  \n";
        }
    }
    fs::write(&path, text).expect("written");
    path
}

pub fn job(input: &str, output: &str, rest: &[&str]) -> Command {
    let mut command = esolm();
    command.args([
        "sample", "--device", "cpu", "--length", "24", "--quiet", "--input", input, "--output",
        output,
    ]);
    command.args(rest);
    command
}

pub fn done(mut command: Command) -> Output {
    let output = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}

/// The one sentence of a refused run, with its exit code.
pub fn refused(mut command: Command) -> (i32, String) {
    let output = command.output().expect("it starts");
    let errors = String::from_utf8(output.stderr).expect("text");
    let code = output.status.code().expect("an exit code");
    assert_ne!(code, 0, "{command:?}");
    (code, errors)
}

pub fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("results");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

/// The output of an uninterrupted run.
pub fn whole(folder: &Folder, input: &str) -> Vec<u8> {
    let path = folder.file("whole.jsonl");
    done(job(input, &path, &[]));
    fs::read(path).expect("results")
}

#[test]
fn a_line_gives_what_the_command_gives() {
    let folder = Folder::new();
    let input = input(&folder);
    whole(&folder, &input);
    let results = lines(&folder.file("whole.jsonl"));
    assert_eq!(results.len(), LINES);
    for (index, result) in results.iter().enumerate() {
        let number = index.to_string();
        let mut options = vec![
            "sample", "--device", "cpu", "--quiet", "--json", "--first", &number,
        ];
        options.extend(match index {
            3 => [
                &["--length", "24", "--seed", "0"][..],
                &["--infill", "Once ____{3} a time"],
            ]
            .concat(),
            4 => vec!["--length", "20", "--seed", "0"],
            8 => [
                &["--length", "24", "--seed", "5"][..],
                &["--prompt", "My dog", "--stop-string", "."],
            ]
            .concat(),
            _ => [
                &["--length", "24", "--seed", "0"][..],
                &["--prompt", PROMPTS[index % 4]],
            ]
            .concat(),
        });
        let alone: Value = serde_json::from_str(&succeed(&options)).expect("JSON");
        for field in ["text", "tokens", "finish", "sequence"] {
            assert_eq!(result[field], alone["sequences"][0][field], "line {index}");
        }
        assert_eq!(result["seed"], alone["seed"]);
        // Two blank lines come after the sixth.
        let line = index + if index > 5 { 3 } else { 1 };
        assert_eq!(result["line"], line);
        let id = match index {
            3 => json!("three"),
            4 => Value::Null,
            _ => json!(index),
        };
        assert_eq!(result["id"], id);
        assert_eq!(result.get("id").is_none(), index == 4);
    }
}

#[test]
fn shards_put_together_are_one_run() {
    let folder = Folder::new();
    let input = input(&folder);
    let whole = whole(&folder, &input);
    for (count, batch) in [(1, "1"), (2, "64"), (3, "2"), (20, "5")] {
        let mut joined = Vec::new();
        for index in 1..=count {
            let (shard, path) = (format!("{index}/{count}"), folder.file("part.jsonl"));
            let _ = fs::remove_file(&path);
            done(job(&input, &path, &["--shard", &shard, "--batch", batch]));
            joined.extend(fs::read(&path).expect("results"));
        }
        assert!(joined == whole, "{count} shards, batches of {batch}");
    }
}

/// Killed at any moment and resumed, also with a partial last line: the results are those of a single run.
#[cfg(unix)]
#[test]
fn a_killed_job_goes_on() {
    let folder = Folder::new();
    let input = input(&folder);
    let whole = whole(&folder, &input);
    let path = folder.file("killed.jsonl");
    let size = |path: &str| fs::metadata(path).map_or(0, |there| there.len());
    let mut kills = 0;
    for round in 0.. {
        let mut child = job(&input, &path, &["--resume", "--batch", "1"])
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // After a result or two, or at once.
        let before = size(&path);
        let deadline = Instant::now() + Duration::from_secs(60);
        while round % 3 != 0 && size(&path) <= before && Instant::now() < deadline {
            if child.try_wait().expect("it is there").is_some() {
                break;
            }
            sleep(Duration::from_millis(2));
        }
        if let Some(status) = child.try_wait().expect("it is there") {
            assert!(status.success());
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        kills += 1;
        let there = fs::read(&path).unwrap_or_default();
        // If it was killed at once, the partial line is still there.
        let end = there.iter().rposition(|&byte| byte == b'\n');
        let there = &there[..end.map_or(0, |end| end + 1)];
        assert!(whole.starts_with(there), "round {round}");
        if round % 2 == 1 && !there.is_empty() {
            let torn = OpenOptions::new().append(true).open(&path);
            let torn = torn.and_then(|mut file| file.write_all(b"{\"id\":1,\"li"));
            torn.expect("torn");
        }
        assert!(round < 200, "it gets nowhere");
    }
    assert!(kills >= 3, "{kills}");
    assert!(fs::read(&path).expect("results") == whole);
    // When everything is done, nothing is left to do.
    done(job(&input, &path, &["--resume"]));
    assert!(fs::read(&path).expect("results") == whole);
}

/// A signal ends it after the current step; what was written stays.
#[cfg(unix)]
#[test]
fn an_interrupted_job_goes_on() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let folder = Folder::new();
    let input = input(&folder);
    let whole = whole(&folder, &input);
    let path = folder.file("out.jsonl");
    let mut child = esolm()
        .args([
            "sample", "--device", "cpu", "--length", "24", "--batch", "1",
        ])
        .args(["--input", &input, "--output", &path])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    while fs::metadata(&path).map_or(0, |there| there.len()) == 0 {
        assert!(child.try_wait().expect("there").is_none(), "it ended");
        sleep(Duration::from_millis(2));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("sent");
    let mut errors = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    stderr.read_to_string(&mut errors).expect("text");
    let status = child.wait().expect("it ends");
    let there = fs::read(&path).expect("results");
    assert!(whole.starts_with(&there) && there.ends_with(b"\n"));
    if there.len() < whole.len() {
        assert_eq!(status.code(), Some(143));
        let last = errors.lines().last().expect("a line");
        let lines = match there.iter().filter(|&&byte| byte == b'\n').count() {
            1 => "1 line".into(),
            n => format!("{n} lines"),
        };
        let said = format!("interrupted after {lines} in ");
        assert!(last.starts_with(&said), "{errors}");
        assert!(last.ends_with("; the same command with --resume goes on"));
    }
    done(job(&input, &path, &["--resume"]));
    assert!(fs::read(&path).expect("results") == whole);
}

#[cfg(target_os = "linux")]
#[test]
fn two_jobs_do_not_write_one_output() {
    let folder = Folder::new();
    let input = input(&folder);
    let path = folder.file("out.jsonl");
    // The writer of an output holds a lock on it.
    let held = fs::File::create(&path).expect("created");
    held.lock().expect("locked");
    let (code, errors) = refused(job(&input, &path, &["--resume"]));
    assert!(
        code == 1 && errors.contains("another process writes"),
        "{errors}"
    );
    drop(held);
    done(job(&input, &path, &["--resume"]));
    assert_eq!(lines(&path).len(), LINES);
}

/// Scores do not depend on shards and batches either, even with random orders; and they are those of the plain command.
#[test]
fn scores_are_a_job_too() {
    let folder = Folder::new();
    let input = folder.file("in.jsonl");
    let items = [
        json!({"id": "a", "text": "Once upon a time there was a cat."}),
        json!({"id": "b", "context": "The dog was", "continuation": " happy."}),
        json!({"id": "c", "context": "She ate the", "choices": [" apple.", " sky."]}),
        json!({"id": "d", "prefix": "Tom had a", "middle": " red ball", "suffix": " and ran."}),
        json!({"id": "e", "text": "One day. ".repeat(200)}),
        json!({"id": "f", "text": "The end."}),
    ];
    let text: String = items.iter().map(|item| format!("{item}\n")).collect();
    fs::write(&input, &text).expect("written");
    let run = |command: &str, input: &str, rest: &[&str]| {
        let arguments = [
            &[command, "--device", "cpu", "--quiet", "--input", input],
            rest,
        ]
        .concat();
        succeed(&arguments)
    };
    let random = ["--alpha0", "1", "--orders", "2", "--seed", "3"];
    let whole = run("score", &input, &random);
    for batch in ["1", "3"] {
        let parts: Vec<String> = ["1/3", "2/3", "3/3"]
            .iter()
            .map(|shard| {
                run(
                    "score",
                    &input,
                    &[&random[..], &["--shard", shard, "--batch", batch]].concat(),
                )
            })
            .collect();
        assert_eq!(parts.concat(), whole);
    }
    let results: Vec<Value> = run("score", &input, &[])
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(results.len(), items.len());
    let file = |name: &str, text: &str| {
        let path = folder.file(name);
        fs::write(&path, text).expect("written");
        path
    };
    let plain = |rest: &[&str]| -> Value {
        let all = [&["score", "--device", "cpu", "--quiet", "--json"], rest].concat();
        serde_json::from_str(&succeed(&all)).expect("JSON")
    };
    let alone = plain(&[&file("a.txt", "Once upon a time there was a cat.\n")]);
    assert_eq!(results[0]["logp"], alone["logp"]);
    assert_eq!(
        (&results[0]["id"], &results[0]["line"]),
        (&json!("a"), &json!(1))
    );
    let alone = plain(&[
        "--choices",
        &file(
            "c.jsonl",
            &items[2].to_string().replace("\"id\":\"c\",", ""),
        ),
    ]);
    assert_eq!(results[2]["logp"], alone["logp"]);
    assert_eq!(results[2]["best"], 0);
    assert!(results[1]["logp"].is_f64(), "a continuation has one figure");
    let alone = plain(&[
        "--infill",
        &file(
            "d.jsonl",
            &items[3].to_string().replace("\"id\":\"d\",", ""),
        ),
    ]);
    assert_eq!(results[3]["logp"], alone["logp"]);
    assert_eq!(results[4]["is_cut"], true);

    // Documents.
    let texts: Vec<&Value> = items
        .iter()
        .filter(|item| item["text"].is_string())
        .collect();
    let text: String = texts.iter().map(|item| format!("{item}\n")).collect();
    let input = file("documents.jsonl", &text);
    let whole = run("ppl", &input, &random);
    let parts = ["1/2", "2/2"]
        .map(|shard| run("ppl", &input, &[&random[..], &["--shard", shard]].concat()));
    assert_eq!(parts.concat(), whole);
    let first: Value = serde_json::from_str(whole.lines().next().expect("a line")).expect("JSON");
    let nats = first["nats_per_token"].as_f64().expect("a number");
    assert!((first["ppl"].as_f64().expect("a number") - nats.exp()).abs() < 1e-9);
    // From left to right, it is the figure of the plain command.
    let left = ["--alpha0", "0"];
    let scores = folder.file("scores.jsonl");
    succeed(
        &[
            &[
                "ppl",
                "--device",
                "cpu",
                "--quiet",
                "--draws",
                "0",
                "--jsonl",
                "--per-document",
                &scores,
                &input,
            ][..],
            &left,
        ]
        .concat(),
    );
    let lines_of = |text: &str| -> Vec<Value> {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["logp"].clone())
            .collect()
    };
    // The plain reader does not know ids.
    assert_eq!(
        lines_of(&run("ppl", &input, &left)),
        lines_of(&fs::read_to_string(&scores).expect("written"))
    );
    // Bad lines.
    let bad = file(
        "bad.jsonl",
        "{\"text\": \"a\"}\n{\"context\": \"a\", \"choices\": []}\n{\"text\": \"a\", \"prefix\": \"b\"}\n{\"context\": \"a\", \"continuation\": \"\"}\n{\"text\": \"The end.\"}\n",
    );
    let results = run("score", &bad, &["--keep-going"]);
    let errors: Vec<bool> = results
        .lines()
        .map(|line| line.contains("\"error\""))
        .collect();
    assert_eq!(errors, [false, true, true, true, false], "{results}");
}

/// One option determines the format of every output.
#[test]
fn formats_are_named_alike() {
    let common = ["--device", "cpu", "--quiet"];
    let sample = ["sample", "--seed", "1", "--length", "16", "--batch", "2"];
    let run = |rest: &[&str]| succeed(&[&sample[..], &common, rest].concat());
    assert_eq!(run(&["--format", "text"]), run(&[]));
    let report: Value = serde_json::from_str(&run(&["--format", "json"])).expect("JSON");
    let short: Value = serde_json::from_str(&run(&["--json"])).expect("JSON");
    assert_eq!(report["sequences"], short["sequences"]);
    let lines = run(&["--format", "jsonl"]);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["text"], report["sequences"][index]["text"]);
        assert_eq!(
            (&line["seed"], &line["sequence"]),
            (&json!(1), &json!(index))
        );
    }
    assert_eq!(lines.len(), 2);
    let model = root().join("models/stories");
    let model = model.to_str().expect("UTF-8");
    let line = succeed(&["inspect", model, "--format", "jsonl"]);
    assert_eq!(line.lines().count(), 1);
    let whole: Value = serde_json::from_str(&succeed(&["inspect", model, "--json"])).expect("JSON");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), whole);
}

/// Texts that a running batch cannot take are written in batches: those beyond a BD3-LM's context, and steps whose
/// tokens are chosen by confidence. Others share passes whatever their options, and report what each token got.
#[test]
fn every_kind_of_text_is_a_job() {
    let folder = Folder::new();
    let (input, path) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    fs::write(&input, "{}\n{}\n{\"seed\": 4}\n{}\n").expect("written");
    let blocks = "tests/fixtures/golden-family/bd3lm/bs4";
    let sets = "tests/fixtures/golden-family/setdlm/owt_setdlm_smax8";
    for options in [
        &["--model", blocks, "--tokenizer", "none", "--length", "48"][..],
        &["--model", blocks, "--tokenizer", "none"],
        &["--model", sets, "--tokenizer", "none"],
        &["--length", "20", "--logprobs", "--temperature", "0.5"],
    ] {
        let _ = fs::remove_file(&path);
        let common = ["sample", "--device", "cpu", "--quiet"];
        let files = ["--input", &input, "--output", &path, "--batch", "3"];
        succeed(&[&common[..], options, &files].concat());
        for (index, line) in lines(&path).iter().enumerate() {
            let (number, seed) = (index.to_string(), line["seed"].to_string());
            let alone = ["--json", "--first", &number, "--seed", &seed];
            let alone = succeed(&[&common[..], options, &alone].concat());
            let alone: Value = serde_json::from_str(&alone).expect("JSON");
            for field in ["text", "tokens", "finish", "logprobs"] {
                let (job, alone) = (line.get(field), alone["sequences"][0].get(field));
                assert_eq!(job, alone, "{options:?}, line {index}");
            }
            assert_eq!(line["seed"], if index == 2 { 4 } else { 0 });
        }
    }
}

/// A single line may ask for what a running batch cannot take.
#[test]
fn lines_may_differ_in_everything() {
    let folder = Folder::new();
    let (input, path) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let all = [
        json!({}),
        json!({"schedule": "confidence", "steps": 2}),
        json!({"length": 48}),
        json!({"schedule": "binomial", "seed": 3}),
    ];
    let text: String = all.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&input, &text).expect("written");
    let model = ["--model", "tests/fixtures/golden-family/bd3lm/bs4"];
    let common = [
        "sample",
        "--device",
        "cpu",
        "--quiet",
        "--tokenizer",
        "none",
    ];
    let common = [&common[..], &model].concat();
    succeed(&[&common[..], &["--input", &input, "--output", &path]].concat());
    let results = lines(&path);
    assert_eq!(results.len(), all.len());
    for (index, (line, result)) in all.iter().zip(&results).enumerate() {
        let number = index.to_string();
        let seed = line.get("seed").map_or("0".into(), Value::to_string);
        let mut options: Vec<String> = vec!["--first".into(), number, "--seed".into(), seed];
        for name in ["schedule", "steps", "length"] {
            if let Some(value) = line.get(name) {
                let value = value.as_str().map_or(value.to_string(), String::from);
                options.extend([format!("--{name}"), value]);
            }
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let alone = succeed(&[&common[..], &["--json"], &options].concat());
        let alone: Value = serde_json::from_str(&alone).expect("JSON");
        assert_eq!(result["tokens"], alone["sequences"][0]["tokens"], "{line}");
    }
    // For a stream, this is not known in advance.
    let mut command = esolm();
    let stream = folder.file("stream.jsonl");
    command.args([&common[..], &["--input", "-", "--output", &stream]].concat());
    command.stdin(fs::File::open(&input).expect("the input"));
    let (code, errors) = refused(command);
    assert_eq!(code, 1, "{errors}");
    assert!(
        errors.contains("line 3 of the standard input: ") && errors.contains("--length"),
        "{errors}"
    );
    // Nor can it be gone on with.
    assert!(!errors.contains("--resume"), "{errors}");
}

/// A text with no scored tokens costs nothing, and has no figure per token.
#[test]
fn a_text_without_tokens_scores_nothing() {
    let folder = Folder::new();
    let input = folder.file("in.jsonl");
    let text = "{\"text\": \"\"}\n{\"text\": \"The end.\"}\n{\"text\": \"  \"}\n";
    for (text, nothing) in [(text, [0, 2]), ("{\"text\": \"\"}\n", [0, 0])] {
        fs::write(&input, text).expect("written");
        for command in ["score", "ppl"] {
            let results = succeed(&[command, "--device", "cpu", "--quiet", "--input", &input]);
            let results: Vec<Value> = (results.lines())
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            assert_eq!(results.len(), text.lines().count());
            for (index, result) in results.iter().enumerate() {
                // `score` treats whitespace as text; around a document it is ignored.
                let is_nothing = nothing.contains(&index) && (command == "ppl" || index == 0);
                assert_eq!(result["tokens"] == 0, is_nothing, "{command}: {result}");
                assert_eq!(result["nats_per_token"].is_null(), is_nothing, "{result}");
                assert_eq!(result["bits_per_byte"].is_null(), is_nothing, "{result}");
                if is_nothing {
                    assert_eq!(result["logp"], 0.0, "{result}");
                }
                if command == "ppl" {
                    assert_eq!(result["ppl"].is_null(), is_nothing, "{result}");
                }
            }
        }
    }
}
