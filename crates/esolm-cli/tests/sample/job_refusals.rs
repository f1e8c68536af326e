//! Jobs that cannot be resumed, and lines that are refused.

use std::fs;

use serde_json::json;

use super::Folder;
use super::common::{esolm, root, succeed, write};
use super::jobs::{done, input, job, lines, refused};

#[test]
fn another_job_is_not_gone_on_with() {
    let folder = Folder::new();
    let input = input(&folder);
    let path = folder.file("out.jsonl");
    done(job(&input, &path, &[]));
    let whole = fs::read(&path).expect("results");
    for (rest, code, said) in [
        (&[][..], 2, "is not empty; go on with --resume"),
        (
            &["--resume", "--seed", "1"],
            2,
            "were made with seed 0, not 1;",
        ),
        (
            &["--resume", "--top-k", "4"],
            2,
            "were made with top_k left out, not 4;",
        ),
        (
            &["--resume", "--shard", "1/2"],
            2,
            "were made with shard \"1/1\", not \"1/2\";",
        ),
        (
            &["--resume", "--weights", "f16"],
            2,
            "were made with weights \"f32\", not \"f16\";",
        ),
        (
            &["--resume", "--first", "3"],
            2,
            "were made with first 0, not 3;",
        ),
    ] {
        let (exit, errors) = refused(job(&input, &path, rest));
        assert_eq!(exit, code, "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    // The number of texts at once changes nothing, nor does an option with its default value.
    done(job(&input, &path, &["--resume", "--batch", "3"]));
    done(job(&input, &path, &["--resume", "--weights", "f32"]));
    // Another input of the same length.
    let text = fs::read_to_string(&input).expect("the input");
    fs::write(&input, text.replace("The cat", "The dog")).expect("written");
    let (_, errors) = refused(job(&input, &path, &["--resume"]));
    assert!(errors.contains("the input is not the one"), "{errors}");
    fs::write(&input, &text).expect("written");
    assert!(fs::read(&path).expect("results") == whole);
    // Results of another job, or without their record.
    fs::write(&path, "{\"line\": 2}\n").expect("written");
    let (_, errors) = refused(job(&input, &path, &["--resume"]));
    assert!(errors.contains("line 1 of"), "{errors}");
    fs::remove_file(format!("{path}.job")).expect("removed");
    let (_, errors) = refused(job(&input, &path, &["--resume"]));
    assert!(errors.contains("out.jsonl.job"), "{errors}");
}

#[test]
fn bad_lines_are_named() {
    let folder = Folder::new();
    let (input, path) = (folder.file("bad.jsonl"), folder.file("out.jsonl"));
    let long = "word ".repeat(400);
    let bad = [
        ("{\"prompt\": \"a\"", "it is not a JSON object"),
        ("[1]", "it is not a JSON object, but a list"),
        ("{\"promt\": \"a\"}", "it has the field \"promt\""),
        ("{\"prompt\": 3}", "its prompt is 3; it must be a text"),
        (
            "{\"length\": \"24\"}",
            "its length is \"24\"; it must be a whole number, 1 or more",
        ),
        (
            "{\"length\": 24.5, \"top_k\": -1}",
            "its length is 24.5; it must be a whole number",
        ),
        (
            "{\"schedule\": \"bloks\"}",
            "its schedule is \"bloks\"; it must be one of \"binomial\"",
        ),
        (
            "{\"stop\": \"eos\"}",
            "its stop is \"eos\"; it must be a list of \"eos\" and \"entropy\"",
        ),
        (
            "{\"stop_strings\": [1]}",
            "its stop_strings is [1]; it must be a text or a list of texts",
        ),
        (
            "{\"seed\": -3}",
            "its seed is -3; it must be a whole number",
        ),
        (
            "{\"schedule\": \"confidence\"}",
            "the schedule confidence lets the network choose",
        ),
        ("{\"prompt\": [\"a\", \"b\"]}", "its prompt is a list"),
        ("{\"id\": 1.5, \"prompt\": \"a\"}", "its id must be"),
        (
            "{\"prompt\": \"a\", \"infill\": \"b ____\"}",
            "exclude each other",
        ),
        ("{\"length\": 100000}", "more than the model's context"),
        (
            &format!("{{\"prompt\": \"{long}\"}}"),
            "which leaves nothing to write",
        ),
        ("{\"stop_strings\": [\"\"]}", "a stop string is empty"),
        (
            "{\"temperature\": 1e300}",
            "temperature is more than 3.4e38; it must be 0",
        ),
        (
            "{\"top_p\": 1.5}",
            "top_p is 1.5; it must be a number above 0",
        ),
        (
            "{\"min_p\": -1e39}",
            "min_p is less than -3.4e38; it must be",
        ),
    ];
    for (line, why) in bad {
        fs::write(&input, format!("{{\"id\": \"good\"}}\n{line}\n{{}}\n")).expect("written");
        let _ = fs::remove_file(&path);
        let (code, errors) = refused(job(&input, &path, &[]));
        assert_eq!(code, 1, "{errors}");
        assert!(
            errors.contains("line 2 of") && errors.contains(why),
            "{errors}"
        );
        for jargon in ["usize", "untagged", "expected a", "invalid type", "variant"] {
            assert!(!errors.contains(jargon), "{errors}");
        }
        assert!(errors.contains("--keep-going"), "{errors}");
        // What can be detected without the model is reported before anything is done; otherwise earlier lines have
        // results.
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there.lines().count() <= 1, "{there}");
    }
    // A job that ended at a line that only the model refuses can be resumed after it.
    let text = format!("{{\"id\": 1}}\n{{\"prompt\": \"{long}\"}}\n{{\"id\": 3}}\n");
    fs::write(&input, text).expect("written");
    let _ = fs::remove_file(&path);
    let (_, errors) = refused(job(&input, &path, &[]));
    assert!(errors.contains("line 2 of"), "{errors}");
    assert_eq!(lines(&path).len(), 1, "the results before it stay");
    done(job(&input, &path, &["--resume", "--keep-going"]));
    let results = lines(&path);
    assert_eq!((results.len(), &results[2]["id"]), (3, &json!(3)));
    assert!(results[1]["error"].is_string());

    // With --keep-going each has a result.
    let all: Vec<&str> = bad.iter().map(|(line, _)| *line).collect();
    let text = format!(
        "{{\"id\": \"good\"}}\n{}\n{{\"id\": \"last\"}}\n",
        all.join("\n")
    );
    let mut bytes = text.into_bytes();
    bytes.extend(b"{\"prompt\": \"\xff\"}\n");
    fs::write(&input, bytes).expect("written");
    let _ = fs::remove_file(&path);
    done(job(&input, &path, &["--keep-going"]));
    let results = lines(&path);
    assert_eq!(results.len(), bad.len() + 3);
    for (result, (_, why)) in results[1..].iter().zip(bad) {
        let error = result["error"].as_str().expect("an error");
        assert!(error.contains(why), "{error}");
    }
    assert!(results[0]["text"].is_string() && results[bad.len() + 1]["text"].is_string());
    assert_eq!(results[bad.len() + 1]["sequence"], bad.len() + 1);
    assert!(
        results[bad.len() + 2]["error"]
            .as_str()
            .is_some_and(|e| e.contains("UTF-8"))
    );
}

/// A model is identified by what it computes with, not by its name.
#[test]
fn another_model_is_not_gone_on_with() {
    let folder = Folder::new();
    let input = input(&folder);
    let path = folder.file("out.jsonl");
    let copy = |name: &str| {
        let to = folder.path().join(name);
        fs::create_dir(&to).expect("a new folder");
        let stories = root().join("models/stories");
        for file in ["model.safetensors", "config.json", "tokenizer.json"] {
            fs::copy(stories.join(file), to.join(file)).expect("copied");
        }
        to.to_str().expect("UTF-8").to_string()
    };
    let (model, other) = (copy("model"), copy("other"));
    done(job(&input, &path, &["--model", &model]));
    let whole = fs::read(&path).expect("results");
    // Half of it, so that something is left to do.
    let half = whole.len() / 2;
    let torn = || fs::write(&path, &whole[..half]).expect("written");
    let again = |model: &str| job(&input, &path, &["--resume", "--model", model]);
    let elsewhere = format!("{}/./other", folder.path().display());
    for same in [&model, &other, &elsewhere] {
        torn();
        done(again(same));
        assert!(fs::read(&path).expect("results") == whole, "{same}");
    }
    torn();
    let change = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let file = format!("{other}/{file}");
        let was = fs::read(&file).expect("it is there");
        fs::write(&file, change(was.clone())).expect("written");
        was
    };
    // In another format, it is the same tokenizer.
    let compact = |text: Vec<u8>| {
        let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        value.to_string().into_bytes()
    };
    change("tokenizer.json", &compact);
    done(again(&other));
    torn();
    let flipped = |mut bytes: Vec<u8>| {
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        bytes
    };
    let replaced = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("UTF-8");
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1).into_bytes()
        }
    };
    let lower = replaced(
        "\"normalizer\":null",
        "\"normalizer\":{\"type\":\"Lowercase\"}",
    );
    let less = replaced("\"alpha_0\": 0.25", "\"alpha_0\": 0.5");
    type Change<'a> = &'a dyn Fn(Vec<u8>) -> Vec<u8>;
    let changes: [(&str, Change, &str); 3] = [
        ("model.safetensors", &flipped, "its weights changed"),
        ("tokenizer.json", &lower, "its tokenizer changed"),
        ("config.json", &less, "its configuration changed"),
    ];
    for (file, to, said) in changes {
        let was = change(file, to);
        let (code, errors) = refused(again(&other));
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains(said), "{errors}");
        fs::write(format!("{other}/{file}"), was).expect("written");
    }
    assert_eq!(fs::read(&path).expect("results"), whole[..half]);
    done(again(&other));
}

/// Results never replace their inputs, under any name.
#[test]
fn the_input_is_no_output() {
    let folder = Folder::new();
    let input = input(&folder);
    let before = fs::read(&input).expect("the input");
    let link = folder.file("link.jsonl");
    fs::hard_link(&input, &link).expect("linked");
    for output in [&input, &link] {
        for rest in [&[][..], &["--resume"]] {
            let (code, errors) = refused(job(&input, output, rest));
            assert!(
                code == 2 && errors.contains("is the input itself"),
                "{errors}"
            );
        }
    }
    let record = folder.file("out.jsonl.job");
    fs::copy(&input, &record).expect("copied");
    let (code, errors) = refused(job(&record, &folder.file("out.jsonl"), &[]));
    assert!(code == 2 && errors.contains("would replace"), "{errors}");
    assert!(fs::read(&input).expect("the input") == before);
    assert!(fs::read(&record).expect("the input") == before);
}

/// A line that is too long gets an error as its result.
#[test]
fn a_line_that_is_too_long_is_a_bad_line() {
    let folder = Folder::new();
    let (input, path) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let mut text = b"{\"text\": \"a\"}\n{\"text\": \"".to_vec();
    text.resize(text.len() + (64 << 20), b' ');
    text.extend(b"\"}\n{\"text\": \"The end.\"}\n");
    fs::write(&input, text).expect("written");
    let score = |rest: &[&str]| {
        let mut command = esolm();
        command.args([
            "score", "--device", "cpu", "--input", &input, "--output", &path,
        ]);
        command.args(rest);
        command
    };
    let (code, errors) = refused(score(&["--quiet"]));
    assert_eq!(code, 1);
    assert!(
        errors.contains("line 2 of") && errors.contains("more than 64 MiB"),
        "{errors}"
    );
    let output = done(score(&["--keep-going"]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("3 lines in ") && errors.contains("1 of which could not be done"),
        "{errors}"
    );
    let results = lines(&path);
    assert_eq!(results.len(), 3);
    let why = results[1]["error"].as_str().expect("an error");
    assert!(why.contains("more than 64 MiB"), "{why}");
    assert_eq!(results[2]["line"], 3);
}

/// A model with a token whose numbers overflow.
fn overflowing(folder: &Folder, model: &str, token: usize) -> String {
    let path = folder.file("overflows");
    succeed(&["convert", model, &path, "--dtype", "f32"]);
    let file = format!("{path}/model.safetensors");
    let weights = fs::read(&file).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&weights).expect("safetensors");
    let tensors = tensors.tensors().into_iter().map(|(name, tensor)| {
        let (shape, mut bytes) = (tensor.shape().to_vec(), tensor.data().to_vec());
        if name == "backbone.vocab_embed.embedding" {
            let row = token * shape[1] * 4;
            for value in bytes[row..row + shape[1] * 4].chunks_exact_mut(4) {
                value.copy_from_slice(&3e38f32.to_le_bytes());
            }
        }
        (name, tensor.dtype(), shape, bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let named = (tensors.iter())
        .map(|(name, dtype, shape, bytes)| (&name[..], *dtype, shape.clone(), bytes.clone()));
    write(&file, &named.collect::<Vec<_>>());
    path
}

/// It costs the other lines nothing.
#[test]
fn a_line_whose_numbers_overflow_is_a_bad_line() {
    let folder = Folder::new();
    let model = root().join("models/stories");
    let tokenizer = fs::read(model.join("tokenizer.json")).expect("a tokenizer");
    let tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer).expect("JSON");
    let token = tokenizer["model"]["vocab"]["Q"].as_u64().expect("a token");
    let model = overflowing(&folder, model.to_str().expect("UTF-8"), token as usize);
    for (command, field) in [("sample", "prompt"), ("score", "text"), ("ppl", "text")] {
        let path = folder.file(&format!("{command}.jsonl"));
        let texts = ["One day", "Q was a queen", "The cat", "Tom"];
        let texts = texts.map(|text| json!({field: text}).to_string() + "\n");
        fs::write(&path, texts.concat()).expect("written");
        let job = |output: &str, rest: &[&str]| {
            let mut job = esolm();
            job.args([command, "--device", "cpu", "--quiet", "--model", &model]);
            job.args(["--input", &path, "--output", output]).args(rest);
            if command == "sample" {
                job.args(["--length", "16"]);
            }
            job
        };
        let output = folder.file(&format!("{command}.out"));
        let (code, errors) = refused(job(&output, &[]));
        assert_eq!(code, 1, "{command}: {errors}");
        assert!(errors.contains(&format!("line 2 of {path}: ")), "{errors}");
        assert!(errors.contains("finite"), "{errors}");
        assert_eq!(lines(&output).len(), 1, "{command}");
        done(job(&output, &["--resume", "--keep-going"]));
        let results = lines(&output);
        let failed: Vec<bool> = results
            .iter()
            .map(|one| one.get("error").is_some())
            .collect();
        assert_eq!(failed, [false, true, false, false], "{command}");
    }
}

/// Neither does a text that is written in a batch with others.
#[test]
fn a_text_whose_numbers_overflow_is_written_again_alone() {
    let folder = Folder::new();
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    fs::write(&input, "{}\n".repeat(4)).expect("written");
    let written = |model: &str| {
        let mut job = esolm();
        // Beyond the context, for which a running batch has no room.
        job.args(["sample", "--device", "cpu", "--quiet", "--length", "48"]);
        job.args(["--model", model, "--tokenizer", "none", "--keep-going"]);
        job.args(["--input", &input, "--output", &output]);
        done(job);
        let results = lines(&output);
        fs::remove_file(&output).expect("removed");
        results
    };
    let model = "tests/fixtures/golden-family/bd3lm/bs4";
    let before = written(model);
    let tokens = |line: usize| before[line]["tokens"].as_array().expect("tokens");
    // One that is in the second text alone, and read there by later passes.
    let token = (tokens(1)[..40].iter())
        .find(|token| [0, 2, 3].iter().all(|&line| !tokens(line).contains(token)))
        .and_then(serde_json::Value::as_u64)
        .expect("a token");
    let after = written(&overflowing(&folder, model, token as usize));
    let why = after[1]["error"].as_str().expect("an error");
    assert!(why.contains("finite"), "{why}");
    for line in [0, 2, 3] {
        assert_eq!(after[line]["tokens"], before[line]["tokens"], "{line}");
    }
}
