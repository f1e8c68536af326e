//! Bad input of every kind: each ends in the right exit code and one sentence. What was tried and what it printed is the table in
//! docs/testing.md, which this test holds true: with ESOLM_WRITE_TABLE=1 it writes the table anew.

mod common;

use std::fmt::Write as _;
use std::process::Output;

use common::{Folder, GOLDEN, esolm, root, run, write};
use safetensors::Dtype;

const BEGIN: &str = "<!-- refusals -->\n";
const END: &str = "<!-- end of refusals -->";

/// Files that the cases read: `TMP/name`.
fn prepare(folder: &Folder) {
    let i32s = |values: &[i32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let file = |name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
        write(&folder.file(name), tensors)
    };
    let z = || ("zt_sorted", Dtype::I32, vec![1, 4], i32s(&[96, 96, 96, 96]));
    let order = |values: &[i32]| ("sort_idx", Dtype::I32, vec![1, 4], i32s(values));
    let good = || order(&[3, 1, 0, 2]);
    let steps = |values: &[i32]| ("steps", Dtype::I32, vec![values.len() / 3, 3], i32s(values));
    let u = |last: f64| {
        let mut values = vec![0.5f64; 4 * 97];
        values[4 * 97 - 1] = last;
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        ("u", Dtype::F64, vec![1, 4, 97], bytes)
    };
    file("good.safetensors", &[z(), good()]);
    file("no-tokens.safetensors", &[good()]);
    file("order.safetensors", &[z(), order(&[0, 1, 1, 2])]);
    file("negative.safetensors", &[z(), order(&[0, 1, -1, 2])]);
    file(
        "vocabulary.safetensors",
        &[
            good(),
            ("zt_sorted", Dtype::I32, vec![1, 4], i32s(&[0, 1, 2, 97])),
        ],
    );
    file(
        "type.safetensors",
        &[good(), ("zt_sorted", Dtype::I64, vec![1, 4], vec![0; 32])],
    );
    file(
        "shape.safetensors",
        &[good(), ("zt_sorted", Dtype::I32, vec![1, 5], vec![0; 20])],
    );
    file(
        "rank.safetensors",
        &[good(), ("zt_sorted", Dtype::I32, vec![4], vec![0; 16])],
    );
    let long: Vec<i32> = (0..33).collect();
    file(
        "long.safetensors",
        &[
            ("zt_sorted", Dtype::I32, vec![1, 33], vec![0; 132]),
            ("sort_idx", Dtype::I32, vec![1, 33], i32s(&long)),
        ],
    );
    file(
        "empty.safetensors",
        &[
            ("zt_sorted", Dtype::I32, vec![0, 4], vec![]),
            ("sort_idx", Dtype::I32, vec![0, 4], vec![]),
        ],
    );
    file(
        "hole.safetensors",
        &[good(), steps(&[0, 0, 2, 0, 3, 4]), u(0.5)],
    );
    file("short.safetensors", &[good(), steps(&[0, 0, 2]), u(0.5)]);
    file("one.safetensors", &[good(), steps(&[0, 0, 4]), u(1.0)]);
    file("no-u.safetensors", &[good(), steps(&[0, 0, 4])]);
    file(
        "small-u.safetensors",
        &[
            good(),
            steps(&[0, 0, 4]),
            ("u", Dtype::F64, vec![1, 4, 2], vec![0; 64]),
        ],
    );

    let tokens = |values: &[i32]| ("tokens", Dtype::I32, vec![1, 4], i32s(values));
    file("tokens.safetensors", &[tokens(&[1, 2, 3, 4])]);
    file("tokens-mask.safetensors", &[tokens(&[1, 2, 96, 4])]);
    file(
        "tokens-order.safetensors",
        &[tokens(&[1, 2, 3, 4]), order(&[0, 1, 1, 2])],
    );
    file("tokens-both.safetensors", &[tokens(&[1, 2, 3, 4]), good()]);
    file(
        "tokens-rows.safetensors",
        &[("tokens", Dtype::I32, vec![2, 4], i32s(&[1; 8])), good()],
    );
    file(
        "tokens-long.safetensors",
        &[("tokens", Dtype::I32, vec![1, 33], vec![0; 132])],
    );
    file(
        "tokens-empty.safetensors",
        &[("tokens", Dtype::I32, vec![0, 4], vec![])],
    );
    file(
        "tokens-one.safetensors",
        &[("tokens", Dtype::I32, vec![1, 1], i32s(&[5]))],
    );
    std::fs::write(folder.file("latin.txt"), b"caf\xe9").expect("writable");
    let text = |name: &str, text: &str| {
        std::fs::write(folder.file(name), text).expect("writable");
    };
    text(
        "recipe.toml",
        "[data]\ntrain = [\"LICENSE-APACHE\"]\nvocab_size = 300\n[model]\nhidden = 16\nblocks = 1\nheads = 2\nlength = 16\n[run]\ntokens = 64\nbatch = 2\n",
    );
    text("blank.txt", " \n\n");
    text("none.txt", "");
    text("cafe.txt", "The caf\u{e9} was closed.");
    text("field.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
    text(
        "no-choices.jsonl",
        "\n{\"context\": \"a\", \"choices\": []}\n",
    );
    text(
        "empty-choice.jsonl",
        "{\"context\": \"a\", \"choices\": [\"\"]}\n",
    );
    let long = "word ".repeat(200);
    text(
        "long-choice.jsonl",
        &format!("{{\"context\": \"a\", \"choices\": [\"{long}\"]}}\n"),
    );
    text(
        "no-middle.jsonl",
        "{\"prefix\": \"a\", \"middle\": \"\", \"suffix\": \"b\"}\n",
    );

    // The embedding of the mask token stands last in the file.
    let mut weights =
        std::fs::read(root().join(GOLDEN).join("model_a.ema.safetensors")).expect("weights");
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(folder.file("nan.safetensors"), weights).expect("writable");

    let checkpoint =
        std::fs::read(root().join(GOLDEN).join("mini_esolm.ckpt")).expect("a checkpoint");
    std::fs::write(folder.file("cut.ckpt"), &checkpoint[..checkpoint.len() / 2]).expect("writable");
    let weights = std::fs::read(root().join("models/stories/model.safetensors")).expect("weights");
    std::fs::create_dir(folder.file("cut")).expect("writable");
    std::fs::write(
        folder.file("cut/model.safetensors"),
        &weights[..weights.len() - 1],
    )
    .expect("writable");
    let config = root().join("models/stories/config.json");
    std::fs::copy(&config, folder.file("cut/config.json")).expect("writable");
    std::fs::create_dir(folder.file("folder")).expect("writable");
    std::fs::write(
        folder.file("pointer.safetensors"),
        "version https://git-lfs.github.com/spec/v1\n",
    )
    .expect("writable");
}

/// Command lines, as they would be typed, and their exit codes. TMP and GOLDEN stand for folders.
const CASES: &[(&str, i32)] = &[
    // the command line
    ("sampel", 2),
    ("sample --seeed 1", 2),
    ("sample surplus", 2),
    ("sample --seed", 2),
    ("sample --seed -1", 2),
    ("sample --alpha0 7", 2),
    ("sample --alpha0 nan", 2),
    ("sample --steps 0", 2),
    ("sample --length 0", 2),
    ("sample --length 4096", 2),
    ("sample --batch 0", 2),
    ("sample --batch 1000000", 2),
    ("sample --top-p 0", 2),
    ("sample --temperature -1", 2),
    ("sample --schedule bloks", 2),
    ("sample --steps 99999999", 2),
    ("sample --device tpu", 2),
    ("sample --weights f8", 2),
    ("sample --variants few=fast", 2),
    ("sample --watch-delay 5", 2),
    ("inspect", 2),
    // given text
    ("sample --prompt a --infill 'b ____'", 2),
    ("sample --infill 'Once upon a time'", 2),
    ("sample --infill 'Once ____{x} a time'", 2),
    ("sample --infill 'Once ____{0} a time'", 2),
    ("sample --infill 'Once ____{500} a time'", 2),
    ("sample --infill 'Once ____ a time' --length 5", 2),
    ("sample --prompt 'Once upon a time' --length 4", 2),
    ("sample --prompt a --prompt b --batch 3", 2),
    ("sample --prompt a --tokenizer none", 2),
    (
        "sample --model GOLDEN/mini_ar.ckpt --tokenizer none --alpha0 1",
        2,
    ),
    (
        "sample --model GOLDEN/mini_mdlm.ckpt --tokenizer none --alpha0 0.5",
        2,
    ),
    // checkpoints and tokenizers
    ("sample --model no/such/model", 1),
    ("sample --model LICENSE-MIT", 1),
    ("sample --model docs", 1),
    ("sample --model hf:stories", 2),
    ("sample --model models/stories --raw-weights", 2),
    ("sample --raw-weights", 2),
    ("sample --model GOLDEN/model_a.ema.safetensors", 1),
    (
        "sample --model GOLDEN/model_a.ema.safetensors --config GOLDEN/mdlm.config.json",
        1,
    ),
    (
        "sample --model GOLDEN/model_a.ema.safetensors --config no/config.json",
        1,
    ),
    (
        "sample --model GOLDEN/model_a.ema.safetensors --config LICENSE-MIT",
        1,
    ),
    ("sample MODEL", 1),
    (
        "sample --model GOLDEN/mini_esolm.ckpt --tokenizer models/stories/tokenizer.json",
        1,
    ),
    ("sample --tokenizer models/stories/config.json", 1),
    ("sample --tokenizer no/tokenizer.json", 1),
    ("inspect TMP/cut.ckpt", 1),
    ("inspect TMP/cut", 1),
    ("inspect TMP/pointer.safetensors", 1),
    (
        "inspect GOLDEN/losses.safetensors --config GOLDEN/model_a.config.json",
        1,
    ),
    // files that are written
    ("sample --trace no/such/folder/trace.jsonl", 1),
    ("sample --trace docs", 2),
    ("convert models/stories models/stories", 2),
    ("convert models/stories LICENSE-MIT/model", 1),
    // forward and replay
    ("forward MODEL --input no.safetensors --output TMP/out", 1),
    ("forward MODEL --input LICENSE-MIT --output TMP/out", 1),
    (
        "forward MODEL --input TMP/no-tokens.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/type.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/rank.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/shape.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/order.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/negative.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/vocabulary.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/long.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/empty.safetensors --output TMP/out",
        1,
    ),
    (
        "forward MODEL --input TMP/good.safetensors --output TMP/out --mode sequential",
        1,
    ),
    (
        "forward MODEL --input TMP/good.safetensors --output TMP/out --mode sequential --mask mixed2",
        2,
    ),
    (
        "forward MODEL --input TMP/good.safetensors --output TMP/folder --device cpu",
        2,
    ),
    (
        "replay MODEL --trace TMP/good.safetensors --output TMP/out",
        1,
    ),
    (
        "replay MODEL --trace TMP/no-u.safetensors --output TMP/out",
        1,
    ),
    (
        "replay MODEL --trace TMP/small-u.safetensors --output TMP/out",
        1,
    ),
    (
        "replay MODEL --trace TMP/one.safetensors --output TMP/out",
        1,
    ),
    (
        "replay MODEL --trace TMP/hole.safetensors --output TMP/out",
        1,
    ),
    (
        "replay MODEL --trace TMP/short.safetensors --output TMP/out",
        1,
    ),
    (
        "replay --model GOLDEN/mini_ar.ckpt --trace TMP/one.safetensors --output TMP/out",
        1,
    ),
    // training
    ("train", 2),
    ("train TMP/recipe.toml", 2),
    ("train TMP/none.toml --out TMP/run", 1),
    ("train LICENSE-MIT --out TMP/run", 1),
    ("train TMP/recipe.toml --out TMP/run --set batch=1", 2),
    ("train TMP/recipe.toml --out TMP/run --set run.batsch=1", 1),
    ("train TMP/recipe.toml --out TMP/run --set run.batch=0", 1),
    ("train TMP/recipe.toml --out TMP/run --set run.batch=1", 1),
    (
        "train TMP/recipe.toml --out TMP/run --set data.vocab_size=1000000000000",
        1,
    ),
    (
        "train TMP/recipe.toml --out TMP/run --set model.family=gpt",
        1,
    ),
    ("train TMP/recipe.toml --out TMP/run --set model.heads=3", 1),
    (
        "train TMP/recipe.toml --out TMP/run --set run.device=tpu",
        1,
    ),
    (
        "train TMP/recipe.toml --out TMP/run --set run.batch=65536 --set model.hidden=65536",
        1,
    ),
    (
        "train TMP/recipe.toml --out TMP/run --set data.train=[\"none.txt\"]",
        1,
    ),
    (
        "train TMP/recipe.toml --out TMP/run --set data.train=[\"TMP/latin.txt\"]",
        1,
    ),
    (
        "train TMP/recipe.toml --out TMP/run --set data.tokenizer=models/stories/config.json",
        1,
    ),
    ("train TMP/recipe.toml --out LICENSE-MIT/run", 1),
    ("train TMP/recipe.toml --out LICENSE-MIT", 1),
    ("train --out TMP/nothing --resume", 2),
    // likelihood
    ("ppl", 2),
    ("ppl LICENSE-MIT --length 0", 2),
    ("ppl LICENSE-MIT --length 4096", 2),
    ("ppl LICENSE-MIT --alpha0 2", 2),
    ("ppl LICENSE-MIT --orders 0", 2),
    ("ppl LICENSE-MIT --draws -1", 2),
    ("ppl LICENSE-MIT --batch 0", 2),
    ("ppl LICENSE-MIT --no-exact --draws 0", 2),
    ("ppl LICENSE-MIT --no-exact --orders 3", 2),
    ("ppl LICENSE-MIT --separator ''", 2),
    ("ppl LICENSE-MIT --tokenizer none", 2),
    ("ppl LICENSE-MIT --max-windows 3 --per-document TMP/out", 2),
    ("ppl LICENSE-MIT --tokens TMP/tokens.safetensors", 2),
    ("ppl no/such/text.txt", 1),
    ("ppl docs", 1),
    ("ppl models/stories/model.safetensors", 1),
    ("ppl TMP/blank.txt", 1),
    ("ppl TMP/cafe.txt --ascii-only", 1),
    ("ppl LICENSE-MIT --jsonl", 1),
    ("ppl TMP/field.jsonl", 1),
    ("ppl LICENSE-MIT --per-sequence docs", 2),
    ("ppl LICENSE-MIT --per-document no/such/folder/out", 1),
    ("ppl MODEL --tokens TMP/good.safetensors", 1),
    ("ppl MODEL --tokens TMP/tokens-empty.safetensors", 1),
    ("ppl MODEL --tokens TMP/tokens-long.safetensors", 1),
    ("ppl MODEL --tokens TMP/tokens-rows.safetensors", 1),
    (
        "ppl MODEL --tokens TMP/tokens-both.safetensors --orders 2",
        2,
    ),
    (
        "ppl MODEL --tokens TMP/tokens-both.safetensors --no-exact",
        2,
    ),
    (
        "ppl MODEL --tokens TMP/tokens-order.safetensors --device cpu",
        1,
    ),
    (
        "ppl MODEL --tokens TMP/tokens-mask.safetensors --device cpu",
        1,
    ),
    (
        "ppl --model GOLDEN/mini_ar.ckpt --tokens TMP/tokens.safetensors --draws 2",
        2,
    ),
    (
        "ppl --model GOLDEN/mini_ar.ckpt --tokens TMP/tokens-both.safetensors",
        2,
    ),
    (
        "ppl --model GOLDEN/mini_ar.ckpt --tokens TMP/tokens-one.safetensors",
        1,
    ),
    (
        "ppl --model GOLDEN/mini_mdlm.ckpt --tokens TMP/tokens.safetensors --orders 2",
        2,
    ),
    (
        "ppl --model GOLDEN/mini_mdlm.ckpt --tokens TMP/tokens.safetensors --alpha0 0.5",
        2,
    ),
    (
        "ppl --model TMP/nan.safetensors --config GOLDEN/model_a.config.json --tokens TMP/tokens.safetensors --device cpu",
        1,
    ),
    ("score no/such/text.txt", 1),
    ("score TMP/none.txt", 1),
    ("score LICENSE-MIT --draws 4", 2),
    ("score LICENSE-MIT --normalize byte", 2),
    ("score LICENSE-MIT --choices --infill", 2),
    ("score LICENSE-MIT --choices", 1),
    ("score TMP/no-choices.jsonl --choices", 1),
    ("score TMP/empty-choice.jsonl --choices", 1),
    ("score TMP/long-choice.jsonl --choices", 1),
    ("score TMP/no-middle.jsonl --infill", 1),
    ("score --model GOLDEN/mini_ar.ckpt LICENSE-MIT --infill", 2),
    (
        "score --model GOLDEN/mini_ar.ckpt LICENSE-MIT --alpha0 1",
        2,
    ),
    (
        "score --model GOLDEN/mini_mdlm.ckpt LICENSE-MIT --orders 2",
        2,
    ),
];

/// Splits a line at spaces, but not inside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, stretch) in line.split('\'').enumerate() {
        match number % 2 {
            0 => words.extend(stretch.split_whitespace().map(String::from)),
            _ => words.push(stretch.into()),
        }
    }
    words
}

/// The one sentence that a failed run says.
fn sentence(output: &Output, line: &str) -> String {
    assert!(
        output.stdout.is_empty(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let errors = String::from_utf8(output.stderr.clone()).expect("text");
    // The seed and the device may have been told before.
    let said: Vec<&str> = errors
        .lines()
        .filter(|line| line.starts_with("esolm: "))
        .collect();
    let [said] = said[..] else {
        panic!("{line}: not one sentence: {errors}")
    };
    assert!(
        errors.ends_with(&format!("{said}\n")),
        "{line}: more after the sentence: {errors}"
    );
    assert!(
        !errors.contains("panicked") && !errors.contains("fault of esolm"),
        "{line}: {errors}"
    );
    assert!(said.len() < 500, "{line}: {said}");
    said.into()
}

#[test]
fn bad_input_ends_in_one_sentence() {
    let folder = Folder::new();
    prepare(&folder);
    let temporary = folder.path().to_str().expect("a UTF-8 path");
    let model =
        format!("--model {GOLDEN}/model_a.ema.safetensors --config {GOLDEN}/model_a.config.json");
    let mut table = String::from("| command | code | what it printed |\n|---|---|---|\n");
    for &(line, code) in CASES {
        let full = line
            .replace("MODEL", &model)
            .replace("GOLDEN", GOLDEN)
            .replace("TMP", temporary);
        let arguments = words(&full);
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            output.status.code(),
            Some(code),
            "esolm {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = sentence(&output, line)
            .replace(temporary, "TMP")
            .replace(GOLDEN, "GOLDEN");
        let escape = |text: &str| text.replace('|', "\\|").replace('<', "\\<");
        writeln!(
            table,
            "| `{}` | {code} | {} |",
            line.replace('|', "\\|"),
            escape(&said)
        )
        .expect("a String");
    }
    assert!(
        !folder.path().join("out").exists(),
        "a refused run writes nothing"
    );
    compare(&table);
}

/// Holds the table in the documentation against what was just seen. Other systems word their own errors in other ways.
fn compare(table: &str) {
    if !cfg!(target_os = "linux") {
        return;
    }
    let path = root().join("docs/testing.md");
    let text = std::fs::read_to_string(&path).expect("docs/testing.md");
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (written, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("ESOLM_WRITE_TABLE").is_some() {
        std::fs::write(&path, [before, BEGIN, table, END, after].concat()).expect("writable");
        return;
    }
    for (seen, documented) in table.lines().zip(written.lines()) {
        assert_eq!(
            seen, documented,
            "docs/testing.md says otherwise; ESOLM_WRITE_TABLE=1 writes it anew"
        );
    }
    assert_eq!(
        table.lines().count(),
        written.lines().count(),
        "docs/testing.md has other rows"
    );
}

#[cfg(unix)]
#[test]
fn text_that_is_no_utf8_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    for option in ["--prompt", "--infill"] {
        let output = esolm()
            .args(["sample", option])
            .arg(OsStr::from_bytes(b"Once \xff"))
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(2));
        let said = sentence(&output, option);
        assert!(said.contains(option) && said.contains("UTF-8"), "{said}");
    }
    let output = esolm()
        .arg("inspect")
        .arg(OsStr::from_bytes(b"\xff"))
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    sentence(&output, "inspect");
}

#[test]
fn help_goes_to_stdout_unless_it_was_not_asked_for() {
    let output = run(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    for command in [
        "sample", "ppl", "score", "devices", "inspect", "convert", "forward", "replay", "bench",
    ] {
        let help = String::from_utf8(run(&[command, "--help"]).stdout).expect("text");
        assert!(help.contains("Usage: esolm "), "{help}");
    }
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("esolm {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// Not in the table: the sentence says how many adapters the machine has.
#[test]
fn an_adapter_that_is_not_here_is_named() {
    let output = run(&["sample", "--device", "gpu:99"]);
    assert_eq!(output.status.code(), Some(1));
    let said = sentence(&output, "gpu:99");
    assert!(
        said.contains("99") || said.contains("no GPU adapter was found"),
        "{said}"
    );
}

#[test]
fn a_missing_default_model_is_named() {
    let output = esolm()
        .env("ESOLM_MODEL", "no/such/model")
        .arg("sample")
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = sentence(&output, "ESOLM_MODEL");
    assert!(said.contains("no/such/model"), "{said}");
}
