//! `esolm sample` and `esolm chat` as a user runs them: the same seed gives the same text, given words stay, and output
//! goes where it belongs.

#[path = "sample/blocks.rs"]
mod blocks;
#[path = "sample/chat.rs"]
mod chat;
mod common;
#[path = "sample/decoders.rs"]
mod decoders;
#[path = "sample/endings.rs"]
mod endings;
#[path = "sample/job_refusals.rs"]
mod job_refusals;
#[cfg(unix)]
#[path = "sample/job_streams.rs"]
mod job_streams;
#[path = "sample/jobs.rs"]
mod jobs;
#[path = "sample/manual.rs"]
mod manual;
#[cfg(unix)]
#[path = "sample/mixed.rs"]
mod mixed;
#[path = "sample/outputs.rs"]
mod outputs;
#[path = "sample/sets.rs"]
mod sets;
#[cfg(target_os = "linux")]
#[path = "sample/typed.rs"]
mod typed;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use common::{Folder, GOLDEN, esolm, root, run, succeed};
use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(arguments)).expect("JSON")
}

#[test]
fn the_same_seed_writes_the_same_story() {
    let story = succeed(&["sample", "--seed", "3", "--device", "cpu"]);
    assert!(story.split_whitespace().count() > 40, "{story}");
    assert!(!story.contains("<|endoftext|>"), "{story}");
    assert_eq!(
        story,
        succeed(&["sample", "--seed", "3", "--device", "cpu"])
    );
    assert_ne!(
        story,
        succeed(&["sample", "--seed", "2", "--device", "cpu"])
    );
}

/// The model is built in, so the program runs from any folder.
#[test]
fn an_empty_folder_is_enough() {
    let folder = Folder::new();
    let output = esolm()
        .current_dir(folder.path())
        .args(["sample", "--seed", "1", "--device", "cpu"])
        .output()
        .expect("it starts");
    assert!(output.status.success());
    let story = String::from_utf8(output.stdout).expect("text");
    let model = ["--model", "models/stories"];
    let named = succeed(&[&["sample", "--seed", "1", "--device", "cpu"], &model[..]].concat());
    assert_eq!(story, named);
}

/// The settings of generation_config.json are defaults; options override them.
#[test]
fn recommended_settings_are_used() {
    let folder = Folder::new();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let from = root().join("models/stories").join(name);
        std::fs::copy(from, folder.file(name)).expect("copied");
    }
    let settings = r#"{"temperature": 7, "esolm": {"alpha_0": 0.5, "temperature": 0.25}}"#;
    std::fs::write(folder.file("generation_config.json"), settings).expect("written");
    let path = folder.path().to_str().expect("UTF-8");
    let common = ["sample", "--seed", "1", "--length", "24", "--device", "cpu"];
    let sample =
        |options: &[&str]| json(&[&common[..], &["--json", "--model", path], options].concat());
    let recommended = sample(&[]);
    assert_eq!(recommended["alpha_0"], 0.5);
    assert_eq!(recommended["temperature"], 0.25);
    let same = sample(&["--alpha0", "0.5", "--temperature", "0.25"]);
    assert_eq!(recommended["sequences"], same["sequences"]);
    let own = sample(&["--alpha0", "0.25", "--temperature", "1"]);
    assert_eq!(
        (&own["alpha_0"], &own["temperature"]),
        (&0.25.into(), &1.0.into())
    );
    assert_ne!(recommended["sequences"], own["sequences"]);
    let told = json(&["inspect", path, "--json"]);
    assert_eq!(told["recommended"]["temperature"], 0.25);
}

#[test]
fn a_software_gpu_writes_too() {
    let arguments = ["sample", "--seed", "1", "--length", "24", "--device", "gpu"];
    let story = succeed(&arguments);
    assert!(story.split_whitespace().count() > 8, "{story}");
    assert_eq!(story, succeed(&arguments));
    let halves = succeed(&[&arguments[..], &["--weights", "f16", "--kv-cache", "f16"]].concat());
    assert!(halves.split_whitespace().count() > 8, "{halves}");
}

#[test]
fn a_seed_that_nobody_gave_is_told() {
    let output = run(&["sample", "--length", "12", "--device", "cpu"]);
    let errors = String::from_utf8(output.stderr).expect("text");
    let seed = errors
        .lines()
        .find_map(|line| line.strip_prefix("seed: "))
        .expect(&errors);
    let again = run(&[
        "sample", "--length", "12", "--device", "cpu", "--seed", seed,
    ]);
    assert_eq!(output.stdout, again.stdout);
    let again = String::from_utf8(again.stderr).expect("text");
    assert!(!again.contains("seed:"), "{again}");
}

#[test]
fn a_text_does_not_depend_on_its_batch() {
    let arguments = ["sample", "--seed", "5", "--length", "40", "--device", "cpu"];
    let batch = succeed(&[&arguments[..], &["--batch", "3"]].concat());
    let texts: Vec<&str> = batch.trim_end().split("\n----\n").collect();
    assert_eq!(texts.len(), 3, "{batch}");
    for (number, text) in texts.iter().enumerate() {
        let alone = succeed(&[&arguments[..], &["--first", &number.to_string()]].concat());
        assert_eq!(alone.trim_end(), *text);
    }
}

#[test]
fn infill_keeps_the_given_words() {
    for (seed, alpha0) in [("1", "0.25"), ("2", "1"), ("3", "0"), ("4", "0.5")] {
        let options = [
            "sample", "--device", "cpu", "--seed", seed, "--alpha0", alpha0, "--infill",
        ];
        let text = succeed(&[&options[..], &["Once ____ a time, Lily ____{12} the end."]].concat());
        let text = text.strip_suffix('\n').expect("a line");
        assert!(text.starts_with("Once"), "{text}");
        assert!(text.ends_with(" the end."), "{text}");
        let (_, rest) = text.split_once("Once").expect("given");
        assert!(rest.contains(" a time, Lily"), "{text}");
        // More text after the template.
        let long = [
            &options[..],
            &["____{4} \"Hello,\" said the cat", "--length", "60"],
        ]
        .concat();
        let text = succeed(&long);
        assert!(text.contains(" \"Hello,\" said the cat"), "{text}");
    }
}

#[test]
fn given_words_stay_whole() {
    // Without redrawing, every tenth of these has "cats", "Lilyen" and the like.
    let template = "Once ____ a time, Lily ____{3} the cat ____";
    let options = [
        "sample", "--device", "cpu", "--seed", "1", "--infill", template,
    ];
    let texts = succeed(&[&options[..], &["--batch", "100"]].concat());
    let texts: Vec<&str> = texts.trim_end_matches('\n').split("\n----\n").collect();
    assert_eq!(texts.len(), 100);
    for text in &texts {
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        for word in ["Once", "Lily", "the", "cat"] {
            assert!(words.contains(&word), "{word}: {text}");
        }
    }
    // Each is the same alone, including those that were redrawn.
    for number in [10, 12, 57, 99] {
        let alone = succeed(&[&options[..], &["--first", &number.to_string()]].concat());
        assert_eq!(alone.trim_end_matches('\n'), texts[number]);
    }
}

#[test]
fn prompts_go_on() {
    let options = ["sample", "--device", "cpu", "--seed", "7", "--length", "32"];
    let text = succeed(&[&options[..], &["--prompt", "Once upon a time"]].concat());
    assert!(text.starts_with("Once upon a time"), "{text}");
    assert!(text.len() > 40, "{text}");
    // Ragged prompts in one batch.
    let two = [
        &options[..],
        &[
            "--prompt",
            "One day",
            "--prompt",
            "The little red fox was",
            "--batch",
            "4",
        ],
    ]
    .concat();
    let text = succeed(&two);
    let texts: Vec<&str> = text.trim_end().split("\n----\n").collect();
    assert_eq!(texts.len(), 4);
    for pair in texts.chunks(2) {
        assert!(
            pair[0].starts_with("One day") && pair[1].starts_with("The little red fox was"),
            "{pair:?}"
        );
    }
}

#[test]
fn a_prompt_may_come_from_the_standard_input() {
    let mut child = esolm()
        .args([
            "sample", "--device", "cpu", "--length", "16", "--prompt", "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, b"One day\n").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stdout.starts_with(b"One day"), "{output:?}");
}

#[test]
fn every_schedule_and_option_runs() {
    for schedule in ["binomial", "blocks", "blocks-shuffled", "left-to-right"] {
        let report = json(&[
            "sample",
            "--device",
            "cpu",
            "--seed",
            "3",
            "--length",
            "24",
            "--steps",
            "6",
            "--schedule",
            schedule,
            "--alpha0",
            "1",
            "--top-k",
            "40",
            "--top-p",
            "0.9",
            "--min-p",
            "0.25",
            "--temperature",
            "0.7",
            "--json",
        ]);
        assert_eq!(report["schedule"], schedule);
        assert_eq!(
            (report["top_k"].as_u64(), report["min_p"].as_f64()),
            (Some(40), Some(0.25))
        );
        let tokens = report["sequences"][0]["tokens"].as_array().expect("tokens");
        assert_eq!(tokens.len(), 24);
        assert!(
            tokens
                .iter()
                .all(|token| token.as_u64().is_some_and(|token| token < 3968)),
            "no mask is left"
        );
        let most = if schedule == "left-to-right" { 23 } else { 7 };
        assert!(
            report["nfe"].as_u64().is_some_and(|nfe| nfe <= most),
            "{report}"
        );
    }
    // Only the most likely token remains.
    for one in [["--top-k", "1"], ["--min-p", "1"]] {
        let left = [
            "sample", "--device", "cpu", "--length", "16", "--alpha0", "0",
        ];
        let sample = |rest: &[&str]| succeed(&[&left[..], &["--seed", "1"], rest].concat());
        assert_eq!(sample(&one), sample(&["--temperature", "0"]), "{one:?}");
    }
    // The most likely token needs no random numbers other than those of the order.
    let greedy = [
        "sample",
        "--device",
        "cpu",
        "--length",
        "16",
        "--temperature",
        "0",
        "--alpha0",
        "0",
        "--seed",
    ];
    assert_eq!(
        succeed(&[&greedy[..], &["1"]].concat()),
        succeed(&[&greedy[..], &["2"]].concat())
    );
}

#[test]
fn every_family_samples() {
    for (model, extra) in [
        ("mini_esolm.ckpt", &["--alpha0", "0.5"][..]),
        ("mini_mdlm.ckpt", &["--steps", "4"]),
        ("mini_ar.ckpt", &[]),
    ] {
        let model = format!("{GOLDEN}/{model}");
        let options = [
            "sample",
            "--device",
            "cpu",
            "--seed",
            "1",
            "--model",
            &model,
            "--tokenizer",
            "none",
            "--json",
        ];
        let report = json(&[&options[..], extra].concat());
        let tokens = report["sequences"][0]["tokens"].as_array().expect("tokens");
        assert_eq!(tokens.len(), 8, "{report}");
        assert!(report["sequences"][0]["text"].is_null());
        let plain = succeed(&[&options[..9], extra].concat());
        assert_eq!(
            plain.split_whitespace().count(),
            8,
            "token numbers: {plain}"
        );
    }
}

#[test]
fn json_says_everything() {
    let report = json(&[
        "sample", "--device", "cpu", "--seed", "11", "--length", "20", "--batch", "2", "--json",
    ]);
    assert_eq!(report["seed"], 11);
    assert_eq!(report["alpha_0"], 0.25, "the model's own");
    assert_eq!(report["steps"], 20);
    assert_eq!(report["length"], 20);
    assert_eq!(report["interrupted"], false);
    assert!(
        report["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0)
    );
    assert_eq!(report["sequences"].as_array().map(Vec::len), Some(2));
    let text = report["sequences"][1]["text"].as_str().expect("text");
    let plain = succeed(&[
        "sample", "--device", "cpu", "--seed", "11", "--length", "20", "--first", "1",
    ]);
    assert_eq!(plain.trim_end(), text.trim_end());
}

#[test]
fn text_goes_to_stdout_and_the_rest_to_stderr() {
    let output = run(&[
        "sample", "--seed", "1", "--length", "12", "--device", "cpu", "--watch",
    ]);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("device: CPU"), "{errors}");
    assert!(
        errors.contains("step 1/"),
        "plain lines without a terminal: {errors}"
    );
    assert!(errors.contains("tokens/s"), "{errors}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!text.contains('\x1b') && !errors.contains('\x1b'));
    assert_eq!(
        text,
        succeed(&["sample", "--seed", "1", "--length", "12", "--device", "cpu"])
    );
    let quiet = run(&["sample", "--length", "12", "--device", "cpu", "--quiet"]);
    assert!(
        quiet.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&quiet.stderr)
    );
}

/// Checks the header, steps and footer of a trace: the steps of all attempts rebuild the tokens.
fn checked_trace(file: &str) -> (Vec<Value>, Value) {
    let trace = std::fs::read_to_string(file).expect("written");
    let mut lines: Vec<Value> = trace
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    let footer = lines.pop().expect("a last line");
    let mut headers: Vec<Value> = Vec::new();
    let mut tokens = vec![Vec::new(); number(&lines[0]["batch"])];
    let mut left = 0;
    for line in lines {
        if !line["esolm_trace"].is_null() {
            assert_eq!(
                left, 0,
                "an attempt begins after the last step of the one before"
            );
            assert_eq!(line["esolm_trace"], 1);
            assert_eq!(line["attempt"], headers.len());
            left = number(&line["nfe"]);
            // What this attempt writes becomes unknown again, except for what is given.
            for text in line["texts"].as_array().expect("a list") {
                let text = number(text);
                tokens[text] = vec![line["mask_index"].clone(); number(&line["length"])];
                for pair in line["known"][text].as_array().expect("pairs") {
                    tokens[text][number(&pair[0])] = pair[1].clone();
                }
            }
            headers.push(line);
            continue;
        }
        let header = headers.last().expect("a header before the steps");
        assert_eq!(line["attempt"], header["attempt"]);
        assert_eq!(number(&line["step"]), number(&header["nfe"]) - left);
        left -= 1;
        for revealed in line["revealed"].as_array().expect("a list") {
            let text = &revealed["sequence"];
            assert!(header["texts"].as_array().expect("a list").contains(text));
            let place = &mut tokens[number(text)][number(&revealed["position"])];
            assert_eq!(*place, header["mask_index"], "revealed once");
            *place = revealed["token"].clone();
            // A token that was redrawn need not be in any text.
            let piece = &footer["pieces"][place.to_string()];
            assert!(piece.is_null() || *piece == revealed["text"], "{piece}");
        }
    }
    assert_eq!(left, 0);
    assert_eq!(footer["tokens"], serde_json::json!(tokens));
    for token in tokens.iter().flatten() {
        assert!(footer["pieces"][token.to_string()].is_string(), "{token}");
    }
    let passes: usize = headers.iter().map(|header| number(&header["nfe"])).sum();
    assert_eq!(number(&footer["nfe"]), passes);
    (headers, footer)
}

#[test]
fn a_trace_tells_every_token() {
    let folder = Folder::new();
    let file = folder.file("trace.jsonl");
    let prompts = ["--prompt", "One day", "--prompt", "The little red fox was"];
    let options = [
        "sample", "--device", "cpu", "--seed", "9", "--length", "32", "--trace", &file,
    ];
    let text = succeed(&[&options[..], &prompts].concat());
    let (headers, footer) = checked_trace(&file);
    assert_eq!(headers.len(), 1);
    let texts: Vec<&str> = (footer["text"].as_array().expect("a list").iter())
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(texts.join("\n----\n"), text.trim_end_matches('\n'));
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("there").count(),
        1,
        "no temporary file is left"
    );
}

/// Only texts in which the model extended a given word are redrawn, and the result depends only on seed and number.
#[test]
fn a_trace_tells_what_is_drawn_again() {
    let folder = Folder::new();
    let file = folder.file("trace.jsonl");
    let template = "Lily ____{3} the cat ____";
    let options = [
        "sample",
        "--device",
        "cpu",
        "--seed",
        "9",
        "--length",
        "32",
        "--top-p",
        "1",
        "--temperature",
        "1",
        "--infill",
        template,
    ];
    let output = run(&[&options[..], &["--batch", "64", "--trace", &file]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("of 64 texts ran on at a given word"),
        "{errors}"
    );
    let (headers, footer) = checked_trace(&file);
    let again = headers[1]["texts"].as_array().expect("a list");
    assert!(!again.is_empty() && again.len() < 32, "{again:?}");
    assert_eq!(footer["run_on"], serde_json::json!([]));

    let text = String::from_utf8(output.stdout).expect("text");
    let texts: Vec<&str> = text.trim_end_matches('\n').split("\n----\n").collect();
    assert_eq!(serde_json::json!(texts), footer["text"]);
    for text in &texts {
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        assert!(words.contains(&"Lily") && words.contains(&"cat"), "{text}");
    }
    // The same alone as in the batch, whatever else is redrawn with it.
    for number in again {
        let alone = succeed(&[&options[..], &["--first", &number.to_string()]].concat());
        let number = number.as_u64().expect("a number") as usize;
        assert_eq!(alone.trim_end_matches('\n'), texts[number]);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = esolm()
        .args([
            "sample", "--device", "cpu", "--length", "64", "--batch", "64",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("esolm:"), "{errors}");
}

/// Sends the signal of Ctrl-C once the generation is running.
#[cfg(unix)]
#[test]
fn an_interrupt_prints_what_is_known() {
    let folder = Folder::new();
    let file = folder.file("trace.jsonl");
    let mut child = esolm()
        .args([
            "sample",
            "--device",
            "cpu",
            "--batch",
            "256",
            "--alpha0",
            "0",
            "--watch",
            "--trace",
            &file,
            "--prompt",
            "Once upon a time",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut errors = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("step 3/") {
        line.clear();
        assert!(
            errors.read_line(&mut line).expect("text") > 0,
            "it ended early"
        );
    }
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        errors.read_to_string(&mut rest).map(|_| rest)
    });
    let output = child.wait_with_output().expect("it ends");
    let rest = rest.join().expect("no panic").expect("text");
    assert_eq!(output.status.code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
    let text = String::from_utf8(output.stdout).expect("text");
    let first = text.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("Once upon a time") && first.trim_end().ends_with("____"),
        "{first}"
    );
    let trace = std::fs::read_to_string(&file).expect("whole, though short");
    let footer: Value =
        serde_json::from_str(trace.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!(footer["interrupted"], true);
}

/// Mesa's AMD driver opens no device without an AMD card, like a broken driver: `auto` falls back to the CPU and says
/// why, and a GPU that was requested explicitly is an error.
#[cfg(target_os = "linux")]
#[test]
fn auto_passes_over_a_gpu_whose_driver_is_broken() {
    let driver = "/usr/share/vulkan/icd.d/radeon_icd.json";
    assert!(
        std::path::Path::new(driver).exists(),
        "{driver} is missing; install mesa-vulkan-drivers"
    );
    let sample = |device: &str, more: &[&str]| {
        let output = esolm()
            .env("VK_DRIVER_FILES", driver)
            .env("RADV_FORCE_FAMILY", "navi31")
            .args(["sample", "--seed", "1", "--length", "24"])
            .args(["--device", device])
            .args(more)
            .output()
            .expect("it starts");
        let errors = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), output.stdout, errors)
    };
    let (code, story, errors) = sample("auto", &[]);
    assert_eq!(code, Some(0), "{errors}");
    let why = "Null hardware (RADV NAVI31) was passed over: its driver refuses a device (";
    let told: Vec<&str> = errors.lines().filter(|line| line.contains(why)).collect();
    assert!(
        told.len() == 1 && told[0].starts_with("device: CPU"),
        "{errors}"
    );
    let arguments = ["sample", "--seed", "1", "--length", "24", "--device", "cpu"];
    assert_eq!(String::from_utf8(story).expect("text"), succeed(&arguments));
    let (code, _, errors) = sample("auto", &["--quiet"]);
    assert!(code == Some(0) && !errors.contains("device:"), "{errors}");
    let (code, story, errors) = sample("gpu", &[]);
    assert!(code == Some(1) && story.is_empty(), "{errors}");
    assert!(
        errors.contains("esolm: the driver of Null hardware (RADV NAVI31) refuses a device ("),
        "{errors}"
    );
}
