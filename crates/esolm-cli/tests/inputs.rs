//! Inputs in the forms of other systems and other tools: byte order marks, carriage returns, padded vocabularies, tokenizers that change
//! words.

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::{Folder, GOLDEN, Tensors, esolm, root, run, succeed, write};
use safetensors::Dtype;

/// Runs the program with this standard input, expecting success.
fn fed(input: &str, arguments: &[&str]) -> String {
    let mut child = esolm()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn byte_order_marks_and_carriage_returns_are_no_part_of_a_text() {
    let story = "Once upon a time there was a dog.\nIt was happy.\n";
    let foreign = format!("\u{feff}{}", story.replace('\n', "\r\n"));
    let folder = Folder::new();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.file(name), text).expect("writable");
        folder.file(name)
    };
    let ppl = ["ppl", "--device", "cpu", "--quiet", "--json"];
    let [plain, marked] = [("plain.txt", story), ("marked.txt", &foreign)].map(|(name, text)| {
        let report = succeed(&[&ppl[..], &[&file(name, text)]].concat());
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        report["exact"].clone()
    });
    assert!(!plain.is_null());
    assert_eq!(plain, marked);

    let line = "{\"context\":\"Once upon a\",\"choices\":[\" time\",\" dog\"]}\n";
    let score = ["score", "--device", "cpu", "--quiet"];
    let [plain, marked] =
        [line.to_string(), format!("\u{feff}{line}")].map(|text| fed(&text, &score));
    assert_eq!(plain, marked);

    let sample = [
        "sample", "--seed", "1", "--length", "40", "--device", "cpu", "--quiet", "--prompt", "-",
    ];
    assert_eq!(fed(story, &sample), fed(&foreign, &sample));
}

/// The model that ships with 63 more rows in its vocabulary, which would always be drawn if they could.
#[test]
fn padding_is_never_drawn() {
    let folder = Folder::new();
    let shipped = root().join("models/stories");
    let weights = std::fs::read(shipped.join("model.safetensors")).expect("weights");
    let view = safetensors::SafeTensors::deserialize(&weights).expect("safetensors");
    let padded: Vec<_> = (view.tensors().into_iter())
        .map(|(name, tensor)| {
            let (mut shape, mut bytes) = (tensor.shape().to_vec(), tensor.data().to_vec());
            if shape[0] == 3969 {
                let row = bytes.len() / 3969;
                let wide = row / shape.iter().skip(1).product::<usize>();
                // 100 in either precision, for the bias.
                let value: &[u8] = match (name.ends_with("bias"), wide) {
                    (true, 4) => &100f32.to_le_bytes(),
                    (true, _) => &[0x40, 0x56],
                    (false, _) => &[0],
                };
                let padding = value.iter().copied().cycle().take(63 * row);
                bytes.extend(padding);
                shape[0] = 4032;
            }
            (name, tensor.dtype(), shape, bytes)
        })
        .collect();
    let named: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = (padded.iter())
        .map(|(name, dtype, shape, bytes)| (name.as_str(), *dtype, shape.clone(), bytes.clone()))
        .collect();
    write(&folder.file("model.safetensors"), &named);
    let config = std::fs::read_to_string(shipped.join("config.json")).expect("a configuration");
    let config = config.replace("3969", "4032");
    std::fs::write(folder.file("config.json"), config).expect("writable");
    let tokenizer = shipped.join("tokenizer.json");
    std::fs::copy(&tokenizer, folder.file("tokenizer.json")).expect("writable");
    let settings = "generation_config.json";
    std::fs::copy(shipped.join(settings), folder.file(settings)).expect("writable");
    assert_eq!(
        Tensors::read(folder.file("model.safetensors")).shape("backbone.output_layer.linear.bias"),
        [4032]
    );

    let model = folder.path().to_str().expect("UTF-8");
    for rest in [
        &[][..],
        &["--top-p", "0.9"],
        &["--top-k", "9"],
        &["--min-p", "0.1"],
        &["--temperature", "0"],
        &["--tokenizer", "none"],
    ] {
        let sample = [
            "sample", "--seed", "1", "--length", "48", "--device", "cpu", "--quiet",
        ];
        let sample = [&sample[..], rest].concat();
        let plain = succeed(&sample);
        assert_eq!(
            succeed(&[&sample[..], &["--model", model]].concat()),
            plain,
            "{rest:?}"
        );
    }
    let tokenizer = tokenizer.to_str().expect("UTF-8");
    std::fs::remove_file(folder.file("tokenizer.json")).expect("it is there");
    let given = [
        "sample", "--seed", "1", "--length", "48", "--device", "gpu", "--quiet",
    ];
    let plain = succeed(&given);
    assert_eq!(
        succeed(&[&given[..], &["--model", model, "--tokenizer", tokenizer]].concat()),
        plain
    );
}

/// A golden model with a tokenizer that knows only lower-case letters.
fn lower_case() -> Folder {
    let folder = Folder::new();
    let golden = root().join(GOLDEN);
    let config = std::fs::read_to_string(golden.join("mdlm.config.json")).expect("a configuration");
    let config = config.replacen('{', "{\"mask_token_id\": 4, \"mask_index\": 4,", 1);
    std::fs::write(folder.file("config.json"), config).expect("writable");
    for (from, to) in [
        (golden.join("mdlm.ema.safetensors"), "model.safetensors"),
        (
            root().join("tests/fixtures/cases/lower-case.tokenizer.json"),
            "tokenizer.json",
        ),
    ] {
        std::fs::copy(from, folder.file(to)).expect("writable");
    }
    folder
}

/// What the program prints with these arguments and this standard input, and its warnings.
fn warned(input: &str, arguments: &[&str]) -> (String, Vec<String>) {
    let folder = Folder::new();
    std::fs::write(folder.file("input"), input).expect("writable");
    let output = esolm()
        .args(arguments)
        .stdin(std::fs::File::open(folder.file("input")).expect("it is there"))
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let warnings = errors.lines().filter(|line| line.contains("warning"));
    let warnings = warnings.map(String::from).collect();
    (String::from_utf8(output.stdout).expect("text"), warnings)
}

#[test]
fn words_that_a_tokenizer_changes_are_a_warning_once() {
    let folder = lower_case();
    let model = folder.path().to_str().expect("UTF-8");
    let with = |command: &[&'static str]| {
        let rest = ["--model", model, "--device", "cpu"];
        [command, &rest]
            .concat()
            .iter()
            .map(|s| s.to_string())
            .collect::<Vec<_>>()
    };
    let both = |command: &[&'static str], given: &str| {
        let arguments = with(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (changed, warnings) = warned(given, &arguments);
        let (plain, none) = warned(&given.to_lowercase(), &arguments);
        assert_eq!(none, [""; 0]);
        let quiet = warned(given, &[&arguments[..], &["--quiet"]].concat());
        assert_eq!(quiet.1, [""; 0]);
        (changed, plain, warnings)
    };
    let (changed, plain, warnings) = both(&["score"], "the cat.\nthe Cat sat.\nHello\n");
    assert_eq!(changed, plain);
    assert_eq!(
        warnings,
        [
            "warning: the tokenizer turns \"Cat sat.\" into \"cat sat.\" in line 2 of the standard input and 1 more; what it makes of a text is what was scored"
        ]
    );
    let choices = "{\"context\": \"The cat\", \"choices\": [\" sat\", \" once\"]}\n";
    let (changed, plain, warnings) = both(&["score", "--choices"], choices);
    assert_eq!((changed, warnings.len()), (plain, 1));

    let documents = "The cat sat.[SEP]hello world[SEP]Once upon a time";
    let figures = |report: &str| {
        let report: serde_json::Value = serde_json::from_str(report).expect("JSON");
        let changed = report["altered_documents"].as_u64();
        (changed, report["nelbo"].clone(), report["bytes"].clone())
    };
    for command in [
        &["ppl", "-", "--json"][..],
        // Only part of the last document is scored.
        &["ppl", "-", "--json", "--length", "6", "--max-windows", "2"],
    ] {
        let arguments = with(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (report, warnings) = warned(documents, &arguments);
        let small = documents.to_lowercase().replace("[sep]", "[SEP]");
        let (plain, none) = warned(&small, &arguments);
        let ((changed, nelbo, bytes), plain) = (figures(&report), figures(&plain));
        assert_eq!((Some(0), nelbo, bytes), plain);
        assert_eq!((changed, warnings.len(), none.len()), (Some(2), 1, 0));
        assert!(
            warnings[0].contains("\"The cat sat.\" into \"the cat sat.\" in document 0 and 1 more"),
            "{warnings:?}"
        );
    }

    let (changed, plain, warnings) = both(
        &[
            "sample", "--seed", "1", "--length", "12", "--batch", "3", "--prompt", "-",
        ],
        "Once upon",
    );
    assert_eq!(changed, plain);
    assert_eq!(
        warnings,
        [
            "warning: the tokenizer turns \"Once upon\" into \"once upon\" in the prompt, and the text goes on from that"
        ]
    );
    let sample = ["sample", "--model", model, "--device", "cpu", "--infill"];
    succeed(&[&sample[..], &["once  upon ____ time."]].concat());
    let refused = run(&[&sample[..], &["Once upon ____ time."]].concat());
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains(
            "\"Once upon\" into \"once upon\", so the words would not stay as they are given"
        ),
        "{errors}"
    );
}

/// The most likely token after "cat" extends it, and at temperature 0 would do so every time.
#[test]
fn a_given_word_stays_whole_at_temperature_0() {
    let sample = [
        "sample",
        "--device",
        "cpu",
        "--seed",
        "1",
        "--temperature",
        "0",
        "--infill",
        "cat _",
    ];
    let output = run(&sample);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("cat"), "{text}");
    assert!(!text[3..].starts_with(char::is_alphanumeric), "{text}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("kept running on"), "{errors}");
    assert_eq!(succeed(&sample), text);
}

/// Nothing in the golden MDLM names its mask, and everything that opens it reports which token it takes.
#[test]
fn a_guessed_mask_is_said_and_stays_a_guess() {
    let folder = Folder::new();
    let golden = root().join(GOLDEN);
    for (from, to) in [
        ("mdlm.config.json", "config.json"),
        ("mdlm.ema.safetensors", "model.safetensors"),
    ] {
        std::fs::copy(golden.join(from), folder.file(to)).expect("writable");
    }
    let notes = |arguments: &[&str]| {
        let output = run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        let notes = errors.lines().filter(|line| line.starts_with("mask: "));
        notes.map(String::from).collect::<Vec<_>>()
    };
    let said = ["mask: token 96, the last one, since the checkpoint names none"];
    let model = folder.path().to_str().expect("UTF-8");
    let sample = [
        "sample",
        "--seed",
        "1",
        "--length",
        "8",
        "--device",
        "cpu",
        "--tokenizer",
        "none",
        "--model",
    ];
    assert_eq!(notes(&[&sample[..], &[model]].concat()), said);
    assert_eq!(notes(&[&sample[..], &[model, "--quiet"]].concat()), [""; 0]);

    let converted = folder.file("converted");
    assert_eq!(notes(&["convert", model, &converted]), said);
    let config = std::fs::read_to_string(folder.file("converted/config.json")).expect("written");
    assert!(!config.contains("mask_index"), "{config}");
    assert_eq!(notes(&["inspect", &converted]), said);
    assert!(succeed(&["inspect", &converted]).contains("mask 96, the last token"));
    assert_eq!(notes(&[&sample[..], &[&converted]].concat()), said);

    let told = lower_case();
    let model = told.path().to_str().expect("UTF-8");
    assert_eq!(notes(&[&sample[..], &[model]].concat()), [""; 0]);
    assert_eq!(notes(&["inspect", model]), [""; 0]);
}
