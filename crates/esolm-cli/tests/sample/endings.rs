//! Stop strings, why texts end, and log-probabilities.

use serde_json::Value;

use super::{Folder, json};

/// Options for each way of writing: diffusion and then left to right, left to right alone, and diffusion alone.
const WAYS: [&[&str]; 3] = [
    &["--alpha0", "0.25"],
    &["--alpha0", "0"],
    &["--alpha0", "1", "--steps", "16"],
];

fn sample(rest: &[&str]) -> Value {
    let common = [
        "sample", "--device", "cpu", "--seed", "5", "--length", "80", "--json", "--quiet",
    ];
    json(&[&common[..], rest].concat())
}

fn texts(report: &Value) -> Vec<&str> {
    let all = report["sequences"].as_array().expect("a list").iter();
    all.map(|one| one["text"].as_str().expect("a text"))
        .collect()
}

/// The text is a prefix of the whole one: in every way of writing, across tokens, and in any batch; and steps are
/// saved.
#[test]
fn a_text_ends_before_its_stop_string() {
    let batch = ["--batch", "4"];
    for way in WAYS {
        let whole = sample(&[way, &batch].concat());
        for stop in [".", " and", "e s", "day, th"] {
            let cut = sample(&[way, &batch, &["--stop-string", stop]].concat());
            let mut ended = Vec::new();
            for (index, (whole, cut_text)) in texts(&whole).iter().zip(texts(&cut)).enumerate() {
                let expected = whole.split(stop).next().expect("a part");
                assert_eq!(cut_text, expected, "{way:?} {stop:?}");
                let one = &cut["sequences"][index];
                let finish = match whole.contains(stop) {
                    true => "stop",
                    false => without_stop(one),
                };
                assert_eq!(one["finish"], finish, "{way:?} {stop:?}");
                if finish != "length" {
                    ended.push(Value::from(index));
                }
            }
            assert_eq!(cut["ended"], Value::from(ended), "{way:?} {stop:?}");
        }
        // All of them end soon, and nothing more is written afterwards.
        let soon = sample(&[way, &batch, &["--stop-string", "e"]].concat());
        assert!(soon["rows"].as_u64() < whole["rows"].as_u64(), "{way:?}");
        if way != WAYS[2] {
            assert!(soon["nfe"].as_u64() < whole["nfe"].as_u64(), "{way:?}");
        }
    }
}

/// The reason why a text without a stop string ends.
fn without_stop(one: &Value) -> &'static str {
    match one["tokens"].as_array().expect("tokens").len() {
        80 => "length",
        _ => "eos",
    }
}

#[test]
fn stop_strings_may_be_several_and_lie_behind_what_is_given() {
    let prompt = ["--prompt", "Once upon a time, there was"];
    let whole = sample(&prompt);
    let cut = sample(
        &[
            &prompt[..],
            &["--stop-string", "upon", "--stop-string", "."],
        ]
        .concat(),
    );
    let text = texts(&whole)[0];
    let end = text.find('.').expect("a sentence");
    assert_eq!(texts(&cut)[0], &text[..end]);
    // A newline by its name.
    let cut = sample(&["--batch", "6", "--stop-string", "\\n"]);
    assert!(texts(&cut).iter().all(|text| !text.contains('\n')));
    // The words of an infill after a stop string are also cut off.
    let infill = ["--infill", "Once ____{30} the end."];
    let text = sample(&[&infill[..], &["--stop-string", "e"]].concat());
    assert_eq!(text["sequences"][0]["finish"], "stop");
    assert!(!texts(&text)[0]["Once".len()..].contains('e'), "{text}");
}

#[test]
fn a_text_says_why_it_ends() {
    let report = sample(&["--batch", "8"]);
    for one in report["sequences"].as_array().expect("a list") {
        let tokens = one["tokens"].as_array().expect("tokens");
        let has_end = tokens[1..].contains(&Value::from(0));
        let finish = if has_end { "eos" } else { "length" };
        assert_eq!(one["finish"], finish);
        assert_eq!(tokens.len(), 80, "without a rule no token is cut off");
    }
}

/// From left to right, log-probabilities are the conditionals of the exact likelihood, whatever the temperature; a
/// trace has them too.
#[test]
fn logprobs_are_those_of_the_steps() {
    let folder = Folder::new();
    let trace = folder.file("trace.jsonl");
    let drawn = [
        "--alpha0",
        "0",
        "--temperature",
        "0.7",
        "--top-k",
        "20",
        "--batch",
        "2",
    ];
    let plain = sample(&drawn);
    assert!(plain["sequences"][0].get("logprobs").is_none());
    let report = sample(&[&drawn[..], &["--logprobs", "--trace", &trace]].concat());
    let logprobs = |report: &Value, index: usize| -> Vec<Option<f64>> {
        let all = report["sequences"][index]["logprobs"].as_array();
        all.expect("a list").iter().map(Value::as_f64).collect()
    };
    for (index, text) in texts(&report).iter().enumerate() {
        assert_eq!(*text, texts(&plain)[index], "they change no text");
        let logprobs = logprobs(&report, index);
        assert_eq!((logprobs.len(), logprobs[0]), (80, None));
        assert!(logprobs[1..].iter().all(|p| p.is_some_and(|p| p <= 0.0)));
        // The text of all tokens, scored.
        let tokens = &report["sequences"][index]["tokens"];
        if tokens.as_array().expect("tokens")[1..].contains(&Value::from(0)) {
            continue;
        }
        let file = folder.file("text.txt");
        std::fs::write(&file, text).expect("written");
        let args = ["score", "--device", "cpu", "--quiet", "--json", &file];
        let total: f64 = (super::succeed(&args).lines())
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .map(|line| line["logp"].as_f64().expect("a number"))
            .sum();
        let sum: f64 = logprobs.iter().flatten().sum();
        if !text.contains('\n') {
            assert!((total - sum).abs() < 1e-3 * sum.abs(), "{total} {sum}");
        }
    }
    let lines = std::fs::read_to_string(&trace).expect("written");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let step = &lines[1]["revealed"][0];
    let footer = lines.last().expect("a footer");
    let (text, place) = (&step["sequence"], &step["position"]);
    let index = |value: &Value| value.as_u64().expect("an index") as usize;
    assert_eq!(
        footer["logprobs"][index(text)][index(place)],
        step["logprob"]
    );
    assert!(step["logprob"].is_f64());
    // In any order too, and cut with the text.
    let any = sample(&["--alpha0", "1", "--logprobs", "--stop-string", "."]);
    let one = &any["sequences"][0];
    assert_eq!(
        one["logprobs"].as_array().map(Vec::len),
        one["tokens"].as_array().map(Vec::len)
    );
}

/// A software GPU gives the same figures as the CPU.
#[test]
fn a_gpu_tells_logprobs_too() {
    let common = [
        "sample",
        "--seed",
        "5",
        "--length",
        "20",
        "--json",
        "--quiet",
        "--logprobs",
        "--temperature",
        "0",
        "--alpha0",
        "0",
        "--stop-string",
        ".",
    ];
    let [cpu, gpu] =
        ["cpu", "gpu"].map(|device| json(&[&common[..], &["--device", device]].concat()));
    assert_eq!(texts(&cpu), texts(&gpu));
    let list = |report: &Value| report["sequences"][0]["logprobs"].as_array().cloned();
    for (a, b) in list(&cpu)
        .expect("a list")
        .iter()
        .zip(list(&gpu).expect("a list"))
    {
        match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => assert!((a - b).abs() < 1e-3, "{a} {b}"),
            (a, b) => assert_eq!(a, b),
        }
    }
}
