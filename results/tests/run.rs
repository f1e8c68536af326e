//! `run` and `compare` from outside, with a stub in place of `esolm` whose answers are known.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use esolm_results::record::{self, Comparison, Records};
use serde_json::{Value, json};

/// Notes each command in `calls`. A training logs 122 steps, the last of which is repeated with another loss, as after a resumption, and
/// ends early where the file `stop` exists. Likelihoods are ln 2 nats per token, texts are always the same.
const STUB: &str = r#"#!/bin/sh
echo "$*" >> calls
figure='{"nats_per_token":0.6931,"standard_error":0.01,"bits_per_byte":0.5,"ppl":2.0}'
text='{"sequence":0,"text":"One two three four five.","tokens":[1,2,2,3]}'
case "$1" in
--version) echo "esolm 0" ;;
train)
    mkdir -p "$4/model" "$4/state"
    : > "$4/state/saved"
    {
        echo '{"kind":"start","step":0,"steps":122,"parameters":9,"epoch_tokens":9,"device":"CPU"}'
        for step in $(seq 121) 122 122; do
            loss=$step
            [ "$seen" = 122 ] && loss=5
            seen=$step
            echo "{\"kind\":\"train\",\"step\":$step,\"tokens\":$((step * 10)),\"loss\":$loss,\"seconds\":$step}"
        done
        echo '{"kind":"validation","step":122,"tokens":1220,"loss":3.00004}'
        interrupted=false; [ -e stop ] && interrupted=true
        echo "{\"kind\":\"end\",\"step\":122,\"interrupted\":$interrupted}"
    } > "$4/log.jsonl" ;;
inspect) echo '{"family":"esolm","alpha_0":0.25,"n_blocks":2,"hidden":8,"length":16,"vocab_size":32,"parameters":1000}' ;;
ppl)
    [ "$3" = --per-document ] && sed 's/.*/{"tokens":4,"logp":-2.0}/' "$2" > "$4"
    echo "{\"device\":\"CPU\",\"windows\":3,\"length\":16,\"tokens\":48,\"orders\":1,\"nelbo\":null,\"exact\":$figure,\"seconds\":1}" ;;
score) sed 's/.*/{"tokens":3,"logp":-6.0}/' "$3" ;;
sample) echo "{\"device\":\"CPU\",\"length\":4,\"nfe\":4,\"seconds\":8.0,\"sequences\":[$text,$text]}" ;;
esac
"#;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esolm-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("created");
        let folder = Self(path);
        let words: Vec<String> = (0..90).map(|word| format!("word{word}")).collect();
        let story = words.join(" ");
        folder.write("stub", STUB);
        folder.write("text.txt", &format!("{story}<|endoftext|>b {story}"));
        let stub = folder.0.join("stub");
        fs::set_permissions(stub, fs::Permissions::from_mode(0o755)).expect("executable");
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    }

    fn results(&self, line: &str) -> Output {
        let given =
            "--train text.txt --holdout text.txt --work work --out out --esolm stub --device cpu";
        Command::new(env!("CARGO_BIN_EXE_esolm-results"))
            .args(line.split_whitespace())
            .args(given.split_whitespace())
            .current_dir(&self.0)
            .output()
            .expect("it runs")
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("work/calls")).unwrap_or_default();
        calls.lines().map(String::from).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_run_leaves_records_and_repeats_nothing() {
    let folder = Folder::new("run");
    let model = |name: &str, family: &str, alpha_0: Value| {
        let set = json!({ "run.seed": 7, "run.note": "it's" });
        json!({ "name": name, "title": name, "family": family, "alpha_0": alpha_0, "set": set })
    };
    let plan = json!({
        "recipe": "recipe.toml", "vocab_size": 32, "tokens": 1220,
        "models": [model("ar", "ar", json!(null)), model("eso", "esolm", json!(0.5))],
        "judge": model("judge", "ar", json!(null)),
        "likelihood": { "draws": 2, "orders": 1, "seed": 3, "cross": [1, 0], "cross_windows": 5, "more_orders": 4 },
        "sampling": { "batch": 2, "seed": 3, "top_p": 0.9, "grids": [{ "models": ["ar", "eso"], "steps": [2], "alpha_0": [1] }] },
    });
    folder.write("plan.json", &plan.to_string());
    folder.write("recipe.toml", "[model]\nhidden = 8\n");

    folder.write("work/stop", "");
    let stopped = folder.results("run --plan plan.json");
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1));
    assert!(
        said.contains("the training of ar was stopped; give the same command again"),
        "{said}"
    );
    fs::remove_file(folder.0.join("work/stop")).expect("removed");
    succeeded(&folder.results("run --plan plan.json"));

    let calls = folder.calls();
    let trained = "train recipe.toml --out train/ar --set data.vocab_size=32 --set model.family=ar --set run.device=cpu --set run.note=it's";
    assert!(
        calls[1].starts_with(trained) && !calls[1].contains("--resume"),
        "{calls:?}"
    );
    assert!(
        calls[3].starts_with(trained) && calls[3].ends_with("--resume"),
        "{calls:?}"
    );
    for call in [
        "train recipe.toml --out train/eso --set data.tokenizer=train/ar/model/tokenizer.json --set loss.alpha_0=0.5 --set model.family=esolm",
        "train recipe.toml --out train/judge --set data.tokenizer=train/ar/model/tokenizer.json --set data.train=[\"data/judge.txt\"]",
        "ppl data/holdout.txt --model train/eso/model --separator <|endoftext|> --seed 3 --device cpu --json --alpha0 0.5 --orders 1 --draws 2",
        "ppl data/holdout.txt --model train/eso/model --separator <|endoftext|> --seed 3 --device cpu --json --alpha0 0.5 --orders 4 --draws 0",
        "ppl data/holdout.txt --model train/ar/model --separator <|endoftext|> --seed 3 --device cpu --json",
        "sample --model train/eso/model --batch 2 --seed 3 --top-p 0.9 --device cpu --quiet --json --alpha0 1 --steps 2 --schedule binomial",
        "ppl --tokens data/samples-eso-a1-binomial-2.safetensors --model train/judge/model --device cpu --json",
    ] {
        assert!(
            calls.iter().any(|made| made.starts_with(call)),
            "{call} is not in {calls:#?}"
        );
    }

    let records = Records::read(&folder.0.join("out")).expect("read");
    let training = &records.training[1];
    assert_eq!(
        (training.name.as_str(), training.parameters),
        ("eso", Some(1000))
    );
    assert_eq!(
        (training.steps, training.tokens, training.seconds),
        (122, 1220, 122.0)
    );
    // Means of three steps each; the repeated last one counts once, as it was at last.
    assert_eq!(training.train.len(), 41);
    assert_eq!(
        (training.train[0].tokens, training.train[0].loss),
        (20, 2.0)
    );
    assert_eq!(
        (training.train[40].tokens, training.train[40].loss),
        (1215, 63.0)
    );
    assert_eq!(
        (training.validation.len(), training.validation[0].loss),
        (1, 3.0)
    );
    assert_eq!(
        (training.tail.len(), &training.tail[3]["kind"]),
        (4, &json!("end"))
    );
    let scored: Vec<_> = records
        .likelihood
        .iter()
        .map(|line| (line.name.as_str(), line.alpha_0, line.whole))
        .collect();
    let expected = [
        ("ar", None, true),
        ("eso", Some(0.5), true),
        ("eso", Some(1.0), false),
        ("eso", Some(0.0), false),
        ("eso", Some(0.5), false),
        ("judge", None, true),
    ];
    assert_eq!(scored, expected);
    let sampled = &records.samples[1];
    assert_eq!(
        (
            sampled.batch,
            sampled.seconds_per_sample,
            sampled.seconds_alone
        ),
        (2, 4.0, Some(8.0))
    );
    assert!((sampled.entropy - 1.0397).abs() < 1e-4 && sampled.judge.ppl == 2.0);
    assert_eq!(sampled.text, "One two three four five.");

    let before = fs::read_to_string(folder.0.join("out/samples.json")).expect("there");
    succeeded(&folder.results("run --plan plan.json"));
    assert_eq!(
        folder.calls()[calls.len()..],
        ["--version"],
        "all answers are kept"
    );
    assert_eq!(
        fs::read_to_string(folder.0.join("out/samples.json")).expect("there"),
        before
    );
    let refused = |why: &str| {
        let changed = folder.results("run --plan plan.json");
        let said = String::from_utf8_lossy(&changed.stderr);
        assert_eq!(changed.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    };
    folder.write("plan.json", &plan.to_string().replace("1220", "1230"));
    refused("ar was trained by another command");
    folder.write("plan.json", &plan.to_string());
    folder.write("recipe.toml", "[model]\nhidden = 16\n");
    refused("train/ar was trained with another recipe.toml; delete that folder");

    // The stamps of earlier versions say nothing of files. What is scored is the hold-out as it is now.
    for name in ["ar", "eso", "judge"] {
        let stamp = folder.0.join(format!("work/train/{name}.command"));
        let text = fs::read_to_string(&stamp).expect("there");
        fs::write(&stamp, text.lines().next().expect("the command")).expect("written");
    }
    let calls = folder.calls().len();
    let text = fs::read_to_string(folder.0.join("text.txt")).expect("there");
    folder.write("text.txt", &text.replace("word", "other"));
    succeeded(&folder.results("run --plan plan.json"));
    let again = folder.calls().split_off(calls + 1);
    assert_eq!(again.len(), 6, "{again:#?}");
    assert!(
        again
            .iter()
            .all(|call| call.starts_with("ppl data/holdout.txt")),
        "{again:#?}"
    );
}

/// What has its records is not trained again, but for the tokenizer of the first model and for the judge, which must come out the same.
#[test]
fn records_are_kept_and_only_what_is_missing_is_made() {
    let folder = Folder::new("keep");
    let model = |name: &str, family: &str, alpha_0: Value| json!({ "name": name, "title": name, "family": family, "alpha_0": alpha_0 });
    let mut plan = json!({
        "recipe": "recipe.toml", "vocab_size": 32, "tokens": 1220,
        "models": [model("ar", "ar", json!(null)), model("eso", "esolm", json!(0.5))],
        "judge": model("judge", "ar", json!(null)),
        "likelihood": { "draws": 2, "orders": 1, "seed": 3, "cross": [], "cross_windows": 0 },
        "sampling": { "batch": 2, "seed": 3, "top_p": 0.9, "grids": [{ "models": ["ar", "eso"], "steps": [2] }] },
    });
    folder.write("plan.json", &plan.to_string());
    folder.write("recipe.toml", "[model]\nhidden = 8\n");
    let line = "run --plan plan.json --keep-records";
    succeeded(&folder.results(line));
    let file = |name: &str| fs::read_to_string(folder.0.join("out").join(name)).expect("there");
    let before = ["train-eso.json", "likelihood.json", "samples.json"].map(file);

    // The models are gone; nothing is missing.
    fs::remove_dir_all(folder.0.join("work")).expect("removed");
    succeeded(&folder.results(line));
    assert_eq!(folder.calls(), ["--version"]);
    assert_eq!(
        ["train-eso.json", "likelihood.json", "samples.json"].map(file),
        before
    );

    let blocks = json!({ "name": "bd3lm", "title": "b", "family": "bd3lm", "set": { "model.block_size": 4 } });
    plan["models"].as_array_mut().expect("a list").push(blocks);
    let grids = plan["sampling"]["grids"].as_array_mut().expect("a list");
    grids.push(
        json!({ "models": ["bd3lm"], "steps": [2], "schedules": ["binomial", "first-hitting"] }),
    );
    folder.write("plan.json", &plan.to_string());
    succeeded(&folder.results(line));
    let calls = folder.calls();
    let trained: Vec<&str> = calls
        .iter()
        .filter(|call| call.starts_with("train"))
        .filter_map(|call| call.split(' ').nth(3))
        .collect();
    assert_eq!(trained, ["train/ar", "train/bd3lm", "train/judge"]);
    assert!(
        !calls.iter().any(|call| call.contains("train/eso")),
        "{calls:#?}"
    );
    let blocks = "sample --model train/bd3lm/model --batch 2 --seed 3 --top-p 0.9 --device cpu --quiet --json";
    for options in [
        " --steps 2 --schedule binomial",
        " --schedule first-hitting",
    ] {
        let call = format!("{blocks}{options}");
        assert!(calls.contains(&call), "{call} is not in {calls:#?}");
    }
    assert_eq!(file("train-eso.json"), before[0]);
    let records = Records::read(&folder.0.join("out")).expect("read");
    let names: Vec<&str> = records.likelihood.iter().map(|line| &*line.name).collect();
    assert_eq!(names, ["ar", "eso", "bd3lm", "judge"]);
    assert_eq!(records.samples.len(), 4);

    // Records of other text say nothing of this one.
    let text = fs::read_to_string(folder.0.join("text.txt")).expect("there");
    let setup = file("setup.json");
    folder.write("text.txt", &format!("{text}<|endoftext|>c"));
    folder.write("recipe.toml", "[model]\nhidden = 16\n");
    let other = folder.results(line);
    let said = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{said}");
    let wanted = "made with another recipe and another training text and another hold-out; give the same again";
    assert!(said.contains(wanted), "{said}");
    assert_eq!(file("setup.json"), setup);
    folder.write("text.txt", &text);
    folder.write("recipe.toml", "[model]\nhidden = 8\n");

    // A judge that learnt something else would not have judged so.
    fs::remove_dir_all(folder.0.join("work")).expect("removed");
    fs::remove_file(folder.0.join("out/train-bd3lm.json")).expect("removed");
    folder.write("stub", &STUB.replace("3.00004", "4.0"));
    let other = folder.results(line);
    let said = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the training of ar came out otherwise"),
        "{said}"
    );

    // Beside the setup of a run that trained nothing, they would be kept as its own.
    folder.write("recipe.toml", "[model]\nhidden = 16\n");
    let other = folder.results("run --plan plan.json");
    assert_eq!(other.status.code(), Some(2));
    for name in ["train-eso.json", "likelihood.json", "samples.json"] {
        assert!(!folder.0.join("out").join(name).exists(), "{name}");
    }
}

#[test]
fn a_comparison_measures_both_models_alike() {
    let folder = Folder::new("compare");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        for model in ["a", "b", "j"] {
            folder.write(&format!("{model}/{file}"), "x");
        }
    }
    let line = "compare --old a --new b --judge j --new-name better --samples 2 --length 8";
    succeeded(&folder.results(line));
    let comparison: Option<Comparison> =
        record::read(Path::new(&folder.0.join("out/model.json"))).expect("read");
    let comparison = comparison.expect("there");
    let [old, new] = comparison.models.as_slice() else {
        panic!("{} models", comparison.models.len());
    };
    assert_eq!((old.name.as_str(), new.name.as_str()), ("old", "better"));
    assert_eq!(
        new.shape,
        "Eso-LM (alpha_0 = 0.25), 2 blocks, 8 wide, 16 tokens of context, 32 tokens of vocabulary"
    );
    let exact: Vec<_> = new.exact.iter().map(|at| (at.alpha_0, at.length)).collect();
    let alphas = [Some(1.0), Some(0.25), Some(0.0)];
    assert_eq!(
        exact,
        [8, 16]
            .map(|length| alphas.map(|alpha_0| (alpha_0, length)))
            .concat()
    );
    assert_eq!((comparison.middles, new.middles.nats_per_token), (2, 2.0));
    // 8 words of 6 characters and their spaces: 6 nats in 56 bytes.
    assert!((new.middles.bits_per_byte - 6.0 / 56.0 / 2f64.ln()).abs() < 1e-12);
    let texts = &new.texts;
    assert!((texts.judge_ppl - 0.5f64.exp()).abs() < 1e-12);
    assert!((texts.judge_bits_per_byte - 2.0 / 2f64.ln() / 24.0).abs() < 1e-12);
    assert_eq!(
        (texts.words, texts.distinct, texts.copied),
        (10, [0.5, 0.5, 0.5], 0.0)
    );
    assert_eq!(
        (comparison.distinct_words, comparison.baseline.words),
        (10, 10)
    );
    assert_eq!(new.examples, ["One two three four five."; 2]);
    assert_eq!(new.commands.len(), 9);

    let calls = folder.calls().len();
    succeeded(&folder.results(line));
    assert_eq!(folder.calls().len(), calls, "all answers are kept");
    folder.write("b/model.safetensors", "another model");
    succeeded(&folder.results(line));
    let again = folder.calls().split_off(calls);
    assert_eq!(again.len(), 10, "inspect and the measurements: {again:?}");
    let is_new = |call: &String| call.contains("models/new") || call.contains("new--texts");
    assert!(again.iter().all(is_new), "{again:?}");

    // Another hold-out in the same work folder: its likelihoods and middles are those of its own text.
    let calls = folder.calls().len();
    let text = fs::read_to_string(folder.0.join("text.txt")).expect("there");
    folder.write("text.txt", &text.replace("word", "other"));
    succeeded(&folder.results(line));
    let again = folder.calls().split_off(calls);
    let of = |part: &str| again.iter().filter(|call| call.contains(part)).count();
    assert_eq!(
        (
            of("data/holdout.txt"),
            of("data/middles.jsonl"),
            of("data/holdout--texts.jsonl")
        ),
        (12, 2, 1),
        "{again:#?}"
    );
    assert_eq!(
        again.len(),
        15,
        "samples and their scores are kept: {again:#?}"
    );
}
