//! `esolm ppl` and `esolm score` as a user runs them: compared with the published code's numbers, and with each other.

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::{Folder, GOLDEN, Tensors, esolm, run, succeed, write};
use safetensors::Dtype;
use serde_json::Value;

const STORY: &str = "Once upon a time, there was a little girl named Lily. She loved to play in the garden. One day, she found a red ball.";
const OTHER: &str = "Tom had a dog. The dog was big and happy. They went to the park to play.";

/// Arguments for a golden model.
fn golden(name: &str) -> Vec<String> {
    vec![
        "--model".into(),
        format!("{GOLDEN}/{name}.ema.safetensors"),
        "--config".into(),
        format!("{GOLDEN}/{name}.config.json"),
    ]
}

fn ppl(model: &[String], rest: &[&str]) -> Value {
    let model = model.iter().map(String::as_str);
    let all: Vec<&str> = ["ppl", "--json", "--quiet"]
        .into_iter()
        .chain(model)
        .chain(rest.iter().copied())
        .collect();
    serde_json::from_str(&succeed(&all)).expect("JSON")
}

/// On the model that ships, on the CPU.
fn stories(rest: &[&str]) -> Value {
    ppl(&[], &[&["--device", "cpu"], rest].concat())
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number {path} in {value}"))
}

fn near(got: f64, want: f64, relative: f64) {
    let error = (got - want).abs() / want.abs().max(1e-9);
    assert!(error <= relative, "{got}, want {want}");
}

/// Runs `score` over lines from standard input, and returns its output lines.
fn score(input: &str, rest: &[&str]) -> Vec<String> {
    let mut child = esolm()
        .args(["score", "--device", "cpu", "--quiet"])
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(String::from).collect()
}

fn numbers(input: &str, rest: &[&str]) -> Vec<f64> {
    let lines = score(input, rest);
    let numbers = lines.iter().map(|line| line.parse().expect("a number"));
    let numbers: Vec<f64> = numbers.collect();
    assert!(numbers.iter().all(|x| x.is_finite()));
    numbers
}

/// The conformance form: tokens and orders in, the log-likelihood of each sequence out.
#[test]
fn given_orders_give_the_published_likelihoods() {
    let folder = Folder::new();
    let losses = Tensors::golden("losses.safetensors");
    let (orders, want) = (losses.bytes("iw.sort_idx"), losses.f32("iw.logp_per_seq"));
    for (order, bytes) in orders.chunks(32 * 4).enumerate() {
        let (input, output) = (folder.file("in"), folder.file("out"));
        let tensors = [
            ("tokens", Dtype::I32, vec![4, 32], losses.bytes("x0")),
            ("sort_idx", Dtype::I32, vec![4, 32], bytes.repeat(4)),
        ];
        write(&input, &tensors);
        for device in ["cpu", "gpu"] {
            let rest = [
                "--tokens",
                &input,
                "--per-sequence",
                &output,
                "--draws",
                "0",
                "--device",
                device,
            ];
            let report = ppl(&golden("model_a"), &rest);
            let got = Tensors::read(&output);
            assert_eq!(got.shape("logp_per_seq"), [4]);
            assert!(!got.has("nelbo_per_seq") && !got.has("logp_per_order"));
            let mut total = 0.0;
            for (row, got) in got.f32("logp_per_seq").into_iter().enumerate() {
                near(got.into(), want[row * 4 + order].into(), 1e-5);
                total -= f64::from(want[row * 4 + order]);
            }
            near(
                number(&report, "/exact/nats_per_token"),
                total / 128.0,
                1e-5,
            );
            assert_eq!(report["nelbo"], Value::Null);
            assert_eq!(
                (&report["bytes"], &report["tokens"]),
                (&Value::Null, &128.into())
            );
        }
    }
}

#[test]
fn ar_likelihoods_are_the_published_ones() {
    let folder = Folder::new();
    let losses = Tensors::golden("losses.safetensors");
    let (input, output) = (folder.file("in"), folder.file("out"));
    write(
        &input,
        &[("tokens", Dtype::I32, vec![4, 32], losses.bytes("x0"))],
    );
    let rest = [
        "--tokens",
        &input,
        "--per-sequence",
        &output,
        "--device",
        "cpu",
    ];
    let report = ppl(&golden("ar"), &rest);
    let want: Vec<f64> = losses
        .f32("ar.none.nll")
        .chunks(31)
        .map(|row| row.iter().copied().map(f64::from).sum())
        .collect();
    for (got, want) in Tensors::read(&output)
        .f32("logp_per_seq")
        .into_iter()
        .zip(&want)
    {
        near(got.into(), -want, 1e-5);
    }
    assert_eq!(report["tokens"], 4 * 31, "nothing predicts the first token");
    near(
        number(&report, "/exact/nats_per_token"),
        want.iter().sum::<f64>() / 124.0,
        1e-5,
    );
    near(
        number(&report, "/exact/ppl"),
        (want.iter().sum::<f64>() / 124.0).exp(),
        1e-4,
    );
    assert_eq!(report["nelbo"], Value::Null);
    assert_eq!(report["family"], "ar");
}

#[test]
fn an_mdlm_has_a_bound_alone() {
    let folder = Folder::new();
    let losses = Tensors::golden("losses.safetensors");
    let (input, output) = (folder.file("in"), folder.file("out"));
    write(
        &input,
        &[("tokens", Dtype::I32, vec![4, 32], losses.bytes("x0"))],
    );
    let rest = [
        "--tokens",
        &input,
        "--per-sequence",
        &output,
        "--draws",
        "40",
        "--device",
        "cpu",
    ];
    let report = ppl(&golden("mdlm"), &rest);
    assert_eq!(report["exact"], Value::Null);
    assert_eq!(number(&report, "/nelbo/sequential"), 0.0);
    // A random model does about as badly as guessing, and the recorded noise is just one draw.
    let published = losses.f32("mdlm.nll_elbo").iter().sum::<f32>() / 128.0;
    near(number(&report, "/nelbo/diffusion"), published.into(), 0.2);
    let sequences = Tensors::read(&output);
    assert_eq!(sequences.shape("nelbo_per_seq"), [4]);
    assert!(!sequences.has("logp_per_seq"));
}

#[test]
fn more_orders_are_a_mean_of_likelihoods() {
    let folder = Folder::new();
    let losses = Tensors::golden("losses.safetensors");
    let (input, output) = (folder.file("in"), folder.file("out"));
    write(
        &input,
        &[("tokens", Dtype::I32, vec![4, 32], losses.bytes("x0"))],
    );
    let rest = [
        "--tokens",
        &input,
        "--per-sequence",
        &output,
        "--orders",
        "5",
        "--alpha0",
        "1",
        "--device",
        "cpu",
    ];
    let report = ppl(&golden("model_a"), &rest);
    let sequences = Tensors::read(&output);
    assert_eq!(sequences.shape("logp_per_order"), [4, 5]);
    let all = sequences.f32("logp_per_order");
    let mut total = 0.0;
    for (got, orders) in sequences.f32("logp_per_seq").iter().zip(all.chunks(5)) {
        let orders = orders.iter().copied().map(f64::from);
        let best = orders.clone().fold(f64::MIN, f64::max);
        let mean = orders.map(|x| (x - best).exp()).sum::<f64>() / 5.0;
        near((*got).into(), best + mean.ln(), 1e-6);
        total -= f64::from(*got);
    }
    near(
        number(&report, "/exact/nats_per_token"),
        total / 128.0,
        1e-6,
    );
    assert_eq!(
        (&report["orders"], &report["alpha_0"]),
        (&5.into(), &1.0.into())
    );
}

/// Three documents, one of them beyond ASCII, as a file.
fn documents(folder: &Folder) -> String {
    let path = folder.file("stories.txt");
    let text =
        format!("{STORY}\n<|endoftext|>\n{OTHER}\n<|endoftext|>\nThe caf\u{e9} was closed.\n");
    std::fs::write(&path, text).expect("writable");
    path
}

#[test]
fn texts_are_packed_into_windows() {
    let folder = Folder::new();
    let path = documents(&folder);
    let report = stories(&[&path, "--length", "24", "--draws", "3"]);
    for (name, kind) in [
        ("model", "string"),
        ("family", "string"),
        ("device", "string"),
        ("weights", "string"),
        ("alpha_0", "number"),
        ("orders", "number"),
        ("draws", "number"),
        ("seed", "number"),
        ("windows", "number"),
        ("length", "number"),
        ("tokens", "number"),
        ("bytes", "number"),
        ("documents", "number"),
        ("dropped_documents", "number"),
        ("seconds", "number"),
    ] {
        let value = &report[name];
        assert!(
            match kind {
                "string" => value.is_string(),
                _ => value.is_number(),
            },
            "{name}: {report}"
        );
    }
    for figure in ["/nelbo/total", "/exact"] {
        for name in [
            "nats_per_token",
            "standard_error",
            "bits_per_token",
            "bits_per_byte",
            "ppl",
        ] {
            assert!(number(&report, &format!("{figure}/{name}")) > 0.0);
        }
    }
    assert_eq!(
        (&report["documents"], &report["dropped_documents"]),
        (&3.into(), &0.into())
    );
    let bytes = STORY.len() + OTHER.len() + "The caf\u{e9} was closed.".len();
    assert_eq!(report["bytes"], bytes);
    let tokens = report["tokens"].as_u64().expect("a number");
    assert_eq!(report["windows"], tokens.div_ceil(24));
    near(
        number(&report, "/exact/bits_per_byte"),
        number(&report, "/exact/bits_per_token") * tokens as f64 / bytes as f64,
        1e-12,
    );
    near(
        number(&report, "/nelbo/total/nats_per_token"),
        number(&report, "/nelbo/diffusion") + number(&report, "/nelbo/sequential"),
        1e-12,
    );

    // The same text as JSON lines, from standard input, in other batches, on a GPU.
    let figures = |report: &Value| {
        [
            "/nelbo/total/nats_per_token",
            "/exact/nats_per_token",
            "/bytes",
            "/tokens",
        ]
        .map(|path| number(report, path))
    };
    let lines = folder.file("stories.jsonl");
    let json = |text: &str| format!("{}\n", serde_json::json!({ "text": text }));
    let text = [
        json(STORY),
        "\n".into(),
        json(OTHER),
        json("The caf\u{e9} was closed."),
    ];
    std::fs::write(&lines, text.concat()).expect("writable");
    let base = ["--length", "24", "--draws", "3"];
    for other in [
        stories(&[&[&lines[..]], &base[..]].concat()),
        stories(&[&[&path[..], "--batch", "1"], &base[..]].concat()),
        stories(&[&[&path[..], "--batch", "2"], &base[..]].concat()),
        ppl(&[], &[&[&path[..], "--device", "gpu"], &base[..]].concat()),
    ] {
        for (got, want) in figures(&other).into_iter().zip(figures(&report)) {
            near(got, want, 1e-5);
        }
    }
    let input = std::fs::File::open(&path).expect("there");
    let output = esolm()
        .args(["ppl", "-", "--json", "--device", "cpu"])
        .args(base)
        .stdin(input)
        .output()
        .expect("it starts");
    let other: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(figures(&other), figures(&report));

    let ascii = stories(&[&path, "--ascii-only", "--length", "24"]);
    assert_eq!(
        (&ascii["documents"], &ascii["dropped_documents"]),
        (&2.into(), &1.into())
    );
    assert_eq!(ascii["bytes"], STORY.len() + OTHER.len());

    let first = stories(&[&path, "--length", "24", "--max-windows", "1"]);
    assert_eq!(
        (&first["windows"], &first["documents"]),
        (&1.into(), &1.into())
    );
    let covered = first["bytes"].as_u64().expect("a number") as usize;
    assert!(covered > 23 && covered < STORY.len());

    let one = stories(&[&path, "--separator", "\\n\\n", "--no-exact"]);
    assert_eq!(
        (&one["documents"], &one["exact"]),
        (&1.into(), &Value::Null)
    );
    // The table has the same figures.
    let table = succeed(&[
        "ppl", &path, "--length", "24", "--draws", "3", "--device", "cpu",
    ]);
    let exact = format!("{:.4}", number(&report, "/exact/nats_per_token"));
    assert!(
        table.contains(&exact) && table.contains("the last one has"),
        "{table}"
    );
}

/// A document by itself has the score that `score` gives it, and no single window decides it.
#[test]
fn documents_are_scored_by_themselves() {
    let folder = Folder::new();
    let (path, out) = (documents(&folder), folder.file("out.jsonl"));
    let rest = [
        &path[..],
        "--per-document",
        &out,
        "--ascii-only",
        "--alpha0",
        "0",
        "--draws",
        "0",
    ];
    let report = stories(&rest);
    let text = std::fs::read_to_string(&out).expect("written");
    let lines: Vec<Value> = (text.lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    let scored = numbers(&format!("{STORY}\n{OTHER}\n"), &[]);
    let mut total = 0.0;
    for ((line, scored), text) in lines.iter().zip(&scored).zip([STORY, OTHER]) {
        assert_eq!(line["bytes"], text.len());
        near(number(line, "/logp"), *scored, 1e-5);
        near(
            number(line, "/nats_per_token") * number(line, "/tokens"),
            -scored,
            1e-5,
        );
        near(
            number(line, "/bits_per_byte") * text.len() as f64 * std::f64::consts::LN_2,
            -scored,
            1e-5,
        );
        total += scored;
    }
    near(
        number(&report, "/exact/nats_per_token") * number(&report, "/tokens"),
        -total,
        1e-5,
    );
}

/// Line n of the output belongs to document n, even where there is nothing to score.
#[test]
fn an_empty_document_keeps_its_line() {
    let folder = Folder::new();
    let (path, out) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let text = format!(
        "{{\"text\": \"\"}}\n{}\n",
        serde_json::json!({ "text": OTHER })
    );
    std::fs::write(&path, text).expect("writable");
    stories(&[&path, "--per-document", &out, "--draws", "0"]);
    let text = std::fs::read_to_string(&out).expect("written");
    let lines: Vec<Value> = (text.lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[0]["index"], &lines[0]["tokens"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        (number(&lines[0], "/logp"), &lines[0]["exact"]),
        (0.0, &true.into())
    );
    assert_eq!(
        (&lines[1]["index"], &lines[1]["bytes"]),
        (&1.into(), &OTHER.len().into())
    );
}

#[test]
fn lines_are_scored_one_by_one() {
    let long = STORY.repeat(20);
    let input = format!("{STORY}\n\n{OTHER}\n{long}\n");
    let all = numbers(&input, &[]);
    assert_eq!(all.len(), 4);
    assert_eq!(all[1], 0.0, "an empty line says nothing");
    assert!(all[3] < all[0]);
    // Alone as in a batch.
    for (text, want) in [(STORY, all[0]), (&long[..], all[3])] {
        near(numbers(text, &["--batch", "1"])[0], want, 1e-5);
    }
    let json = score(&input, &["--json"]);
    for (index, (line, want)) in json.iter().zip(&all).enumerate() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["index"], index);
        assert!((number(&line, "/logp") - want).abs() < 1e-4);
        assert_eq!(line["exact"], true);
    }
    // Each order gives a likelihood of its own; several are averaged.
    let random = numbers(&input, &["--alpha0", "1", "--orders", "3"]);
    assert!(random[0] < 0.0 && random[0] != all[0]);
}

/// log p(context + choice) = log p(context) + log p(choice | context), since both are exact.
#[test]
fn choices_follow_the_chain_rule() {
    let context = "Once upon a time, there was a little";
    let choices = [" girl named Lily.", " dog. He was sad.", " of of of"];
    let line = serde_json::json!({ "context": context, "choices": choices }).to_string();
    let got = score(&line, &["--choices"]);
    let fields: Vec<f64> = got[0]
        .split('\t')
        .map(|x| x.parse().expect("a number"))
        .collect();
    let texts: Vec<String> = std::iter::once(context.to_string())
        .chain(choices.map(|choice| format!("{context}{choice}")))
        .collect();
    let whole = numbers(&(texts.join("\n") + "\n"), &[]);
    for (got, whole_choice) in fields[1..].iter().zip(&whole[1..]) {
        near(*got, whole_choice - whole[0], 1e-4);
    }
    let best = |values: &[f64]| {
        let top = values.iter().copied().fold(f64::MIN, f64::max);
        values.iter().position(|&v| v == top).expect("there") as f64
    };
    assert_eq!(fields[0], best(&fields[1..]));
    for (name, divisors) in [
        ("byte", choices.map(|choice| choice.len() as f64).to_vec()),
        ("token", Vec::new()),
    ] {
        let got = score(&line, &["--choices", "--json", "--normalize", name]);
        let got: Value = serde_json::from_str(&got[0]).expect("JSON");
        let list = |field: &str| -> Vec<f64> {
            let list = got[field].as_array().expect("a list");
            list.iter().map(|x| x.as_f64().expect("a number")).collect()
        };
        let divisors = match divisors.is_empty() {
            true => list("tokens"),
            false => divisors,
        };
        let want: Vec<f64> = (list("logp").iter().zip(&divisors))
            .map(|(x, n)| x / n)
            .collect();
        // A number may lose its last digit on its way through JSON.
        for (got, want) in list("normalized").iter().zip(&want) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert_eq!(number(&got, "/best"), best(&want));
    }
    // A space at the end of the context belongs to the choices.
    let spaced = serde_json::json!({ "context": format!("{context} "), "choices": choices.map(str::trim_start) });
    let plain = serde_json::json!({ "context": context, "choices": choices });
    for how in [&["--choices"][..], &["--choices", "--normalize", "byte"]] {
        let [spaced, plain] = [&spaced, &plain].map(|line| score(&line.to_string(), how));
        assert_eq!(spaced, plain, "{how:?}");
    }
}

/// Of a model that opens no text, nothing predicts the first token, which per byte counts like the others.
#[test]
fn bits_per_byte_of_a_text_are_those_of_its_corpus() {
    let folder = Folder::new();
    let (model, text, each) = (
        folder.file("model"),
        folder.file("text.txt"),
        folder.file("each.jsonl"),
    );
    let fields = serde_json::json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]});
    common::chat_model(model.as_ref(), &fields);
    std::fs::write(&text, "The sea is blue.").expect("written");
    let line = ["ppl", "--device", "cpu", "--model", &model, &text, "--json"];
    let whole = succeed(&[&line[..], &["--per-document", &each]].concat());
    let whole: Value = serde_json::from_str(&whole).expect("JSON");
    let each = std::fs::read_to_string(&each).expect("written");
    let each: Value = serde_json::from_str(&each).expect("one line of JSON");
    let (whole, each) = (
        number(&whole, "/exact/bits_per_byte"),
        number(&each, "/bits_per_byte"),
    );
    assert!((whole - each).abs() < 1e-9, "{whole} {each}");
}

/// Both sides matter: the true middle is likelier than that of another text.
#[test]
fn middles_are_scored_given_both_sides() {
    let line = |middle: &str, suffix: &str| {
        serde_json::json!({ "prefix": "Once upon", "middle": middle, "suffix": suffix }).to_string()
    };
    let suffix = ", there was a little girl named Lily.";
    let input = [
        line(" a time", suffix),
        line(" a dog", suffix),
        line(" a time", ""),
    ]
    .join("\n");
    let got = numbers(&input, &["--infill"]);
    assert!(got[0] > got[1], "{got:?}");
    assert!(got[0] != got[2]);
    // Without a suffix it is a choice given a context.
    let choice = serde_json::json!({ "context": "Once upon", "choices": [" a time"] }).to_string();
    let choice = score(&choice, &["--choices"]);
    let (_, choice) = choice[0].split_once('\t').expect("two fields");
    near(got[2], choice.parse().expect("a number"), 1e-5);
}

#[test]
fn half_precision_keeps_the_perplexity() {
    let folder = Folder::new();
    let path = documents(&folder);
    let rest = |weights: &'static str, cache: &'static str| {
        let report = ppl(
            &[],
            &[
                &path,
                "--device",
                "gpu",
                "--weights",
                weights,
                "--kv-cache",
                cache,
                "--draws",
                "0",
            ],
        );
        assert_eq!(report["weights"], weights);
        number(&report, "/exact/ppl")
    };
    near(rest("f16", "f16"), rest("f32", "f32"), 0.01);
}

#[test]
fn what_cannot_be_scored_is_told_on_the_way() {
    // Longer than the context: split, with a note.
    let folder = Folder::new();
    let path = folder.file("long.txt");
    std::fs::write(&path, STORY.repeat(20)).expect("writable");
    let output = run(&["score", &path, "--device", "cpu"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success());
    assert!(
        errors.contains("a line is longer than the model's context"),
        "{errors}"
    );
}
