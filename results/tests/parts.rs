//! The parts that measure: texts, figures of texts, plans, and running the program.

use std::fs;
use std::path::{Path, PathBuf};

use esolm_results::arguments::Common;
use esolm_results::corpus::{Documents, Middle, beginning, first_words, middles};
use esolm_results::error::Error;
use esolm_results::metrics::{self, copied, distinct, entropy, mean, ratio, words};
use esolm_results::plan::{Grid, Plan, Setting};
use esolm_results::program::{self, Esolm};
use esolm_results::record;
use jiff::Timestamp;
use safetensors::Dtype;
use serde_json::json;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("esolm-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("created");
    folder
}

#[test]
fn documents_are_split_trimmed_and_plain() {
    let folder = folder("documents");
    let file = |name: &str, text: &str| {
        fs::write(folder.join(name), text).expect("written");
        folder.join(name)
    };
    let files = [
        file(
            "a",
            "one\n<|endoftext|>\n\ntwo <|endoftext|><|endoftext|>caf\u{e9}",
        ),
        file("b", "three"),
    ];
    let documents = Documents::read(&files).expect("read");
    assert_eq!(documents.texts, ["one", "two", "three"]);
    assert_eq!(documents.dropped, 1);
    let [even, odd] = documents.halves();
    assert_eq!(even.texts, ["one", "three"]);
    assert_eq!(odd.texts, ["two"]);
    assert_eq!(even.extent().bytes, 8);
    assert_eq!(even.extent().words, 2);
    let again = Documents::read(&[file("c", &documents.joined())]).expect("read");
    assert_eq!(again.texts, documents.texts);
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn middles_keep_every_character() {
    let text = "zero one two  three\nfour five six seven".to_string();
    let found = middles(&[text, "too short".into()], 2, 1, 9);
    assert_eq!(
        found,
        [Middle {
            prefix: "two  three".into(),
            middle: "\nfour".into(),
            suffix: " five six".into(),
        }]
    );
    assert!(middles(&["a b c".into()], 1, 1, 9).is_empty());
}

#[test]
fn the_first_words_keep_their_spaces() {
    assert_eq!(first_words("one  two\nthree four", 3), "one  two\nthree");
    assert_eq!(first_words("one two", 5), "one two");
    assert_eq!(first_words("one two", 0), "");
}

#[test]
fn beginnings_end_after_a_word() {
    assert_eq!(beginning("one two three", 9), "one two ...");
    assert_eq!(beginning("one two", 7), "one two");
    assert_eq!(beginning("caf\u{e9}s", 4), "caf\u{e9} ...");
}

#[test]
fn no_document_is_an_error() {
    assert!(Documents::read(&[]).is_err());
}

#[test]
fn entropy_of_known_counts() {
    assert_eq!(entropy::<u32>(&[]), 0.0);
    assert_eq!(entropy(&[5, 5, 5]), 0.0);
    assert!((entropy(&[1, 2, 3, 4]) - 4f64.ln()).abs() < 1e-12);
    // Counts 3 and 1: -(3/4) ln(3/4) - (1/4) ln(1/4).
    assert!((entropy(&[7, 9, 7, 7]) - 0.562_335_144_618_808_3).abs() < 1e-12);
}

#[test]
fn mean_and_its_error() {
    assert_eq!(mean(&[2.0]), (2.0, 0.0));
    let (middle, error) = mean(&[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(middle, 2.5);
    assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
}

#[test]
fn ratios_and_their_error() {
    let (value, error) = ratio(&[2.0, 4.0, 6.0], &[1.0, 2.0, 3.0]);
    assert_eq!((value, error), (2.0, 0.0));
    let (value, error) = ratio(&[1.0, 3.0], &[1.0, 1.0]);
    assert_eq!(value, 2.0);
    assert!((error - 1.0).abs() < 1e-12);
}

#[test]
fn words_without_punctuation() {
    assert_eq!(
        words("\"Don't go!\" said Tom's 2 cats.\n"),
        ["don't", "go", "said", "tom's", "2", "cats"]
    );
    assert!(words(" ' -- ").is_empty());
}

#[test]
fn distinct_counts_within_texts() {
    let texts = [words("a b a b"), words("b a")];
    assert_eq!(distinct(&texts, 1), 2.0 / 6.0);
    // ab ba ab | ba
    assert_eq!(distinct(&texts, 2), 2.0 / 4.0);
    assert_eq!(distinct(&texts, 5), 0.0);
}

#[test]
fn a_limit_cuts_the_last_text() {
    let texts = [words("a b c"), words("d e f"), words("g")];
    let first = metrics::first_words(&texts, 4);
    assert_eq!(first.concat(), ["a", "b", "c", "d"]);
}

#[test]
fn share_of_copied_grams() {
    let body = [words("One two three four."), words("five six seven")];
    let texts = [words("one TWO three, four five"), words("five six")];
    // of "one two three", "two three four", "three four five" the last one crosses two texts of the body
    assert_eq!(copied(&texts, &body, 3), 2.0 / 3.0);
    assert_eq!(copied(&[words("a b")], &body, 3), 0.0);
}

/// The plan of the repository.
fn shipped() -> Plan {
    Plan::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("plan.json")).expect("usable")
}

#[test]
fn the_shipped_plan_is_usable() {
    let plan = shipped();
    let settings = plan.settings();
    assert!(!settings.is_empty());
    let mut keys: Vec<String> = settings.iter().map(Setting::key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), settings.len(), "each setting has its own file");
}

#[test]
fn grids_are_products() {
    let mut plan = shipped();
    let grid = |models: &[&str], alpha_0: &[f64], schedules: &[&str]| Grid {
        models: models.iter().copied().map(String::from).collect(),
        alpha_0: alpha_0.into(),
        steps: vec![4, 8],
        schedules: schedules.iter().copied().map(String::from).collect(),
    };
    plan.sampling.grids = vec![
        grid(&["ar"], &[], &[]),
        grid(&["mdlm"], &[1.0, 0.5], &[]),
        grid(&["esolm-0.25"], &[1.0, 0.5], &["binomial", "blocks"]),
        grid(&["esolm-0.25"], &[1.0], &["blocks"]),
    ];
    let keys: Vec<String> = plan.settings().iter().map(Setting::key).collect();
    assert_eq!(
        keys,
        [
            "ar",
            "mdlm-binomial-4",
            "mdlm-binomial-8",
            "esolm-0.25-a1-binomial-4",
            "esolm-0.25-a1-binomial-8",
            "esolm-0.25-a1-blocks-4",
            "esolm-0.25-a1-blocks-8",
            "esolm-0.25-a0.5-binomial-4",
            "esolm-0.25-a0.5-binomial-8",
            "esolm-0.25-a0.5-blocks-4",
            "esolm-0.25-a0.5-blocks-8",
        ]
    );
}

#[test]
fn unusable_plans_are_refused() {
    let folder = folder("plans");
    let refused = |change: fn(&mut Plan), why: &str| {
        let mut plan = shipped();
        change(&mut plan);
        let path = folder.join("plan.json");
        fs::write(&path, json!(plan).to_string()).expect("written");
        let error = Plan::read(&path).expect_err(why);
        let found = error.to_string();
        assert!(found.contains(why) && found.lines().count() == 1, "{found}");
        assert_eq!(error.exit_code(), 2);
    };
    refused(
        |plan| plan.sampling.grids[0].models = vec!["nobody".into()],
        "\"nobody\" is sampled from",
    );
    refused(
        |plan| plan.judge.name = plan.models[0].name.clone(),
        "two models",
    );
    refused(
        |plan| plan.models[0].alpha_0 = Some(0.5),
        "needs an alpha_0",
    );
    refused(|plan| plan.models[0].name = "../ar".into(), "only letters");
    fs::remove_dir_all(&folder).expect("removed");
}

fn esolm(program: PathBuf, work: PathBuf) -> Result<Esolm, Error> {
    Esolm::new(&Common {
        train: Vec::new(),
        holdout: PathBuf::new(),
        out: PathBuf::new(),
        device: "cpu".into(),
        esolm: program,
        work,
    })
}

#[cfg(unix)]
#[test]
fn answers_are_kept_until_the_command_or_a_file_changes() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("answers");
    let stub = folder.join("stub");
    // Counts its runs and answers with the count; fails on demand.
    fs::write(
        &stub,
        "#!/bin/sh\n[ \"$1\" = fail ] && { echo started >&2; echo 'esolm: no' >&2; exit 1; }\necho x >> runs\n[ \"$1\" = say ] && { echo \"\\\"$2\\\"\"; exit; }\nwc -l < runs\n",
    )
    .expect("written");
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("executable");
    let esolm = |program: &str| esolm(folder.join(program), folder.join("work"));
    assert!(esolm("none").is_err());
    let esolm = esolm("stub").expect("there");
    let report = |argument: &str| {
        let answer = esolm.answer::<u32>("key", format!("esolm {argument}"), program::json)?;
        Ok::<u32, Error>(answer.report)
    };
    assert_eq!(report("a").expect("runs"), 1);
    assert_eq!(report("a").expect("kept"), 1);
    assert_eq!(report("b").expect("runs anew"), 2);
    esolm.forget(|key| key == "key").expect("deleted");
    assert_eq!(report("b").expect("runs anew"), 3);
    // A file that the command names counts by what it holds; the program's own name is no such file.
    let read = "--seed 1 --tokens data/a.txt";
    let write = |name: &str, text: &str| {
        let path = folder.join("work").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    };
    write("data/a.txt", "one");
    write("esolm", "one");
    assert_eq!(report(read).expect("runs anew"), 4);
    write("esolm", "two");
    write("data/b.txt", "two");
    assert_eq!(report(read).expect("kept"), 4);
    write("data/a.txt", "two");
    assert_eq!(report(read).expect("runs anew"), 5);
    // As earlier versions kept it.
    let path = folder.join("work/answers/key.json");
    let kept = json!({ "command": format!("esolm {read}"), "date": "", "report": 9 });
    fs::write(&path, kept.to_string()).expect("written");
    assert_eq!(report(read).expect("runs anew"), 6);
    let error = report("fail").expect_err("fails").to_string();
    assert!(error.contains("`esolm fail` failed: esolm: no"), "{error}");
    // A command line is split into words as a shell does it.
    let said = esolm.answer::<String>("said", r"esolm say 'it'\''s a'".into(), program::json);
    assert_eq!(said.expect("runs").report, "it's a");
    assert!(esolm.run("esolm say 'it", false).is_err());
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn tokens_are_one_array() {
    let folder = folder("tokens");
    let esolm = esolm(
        std::env::current_exe().expect("this program"),
        folder.clone(),
    )
    .expect("there");
    esolm
        .write_tokens("data/t.safetensors", &[&[1, 2, 3], &[4, 5, 6]])
        .expect("written");
    let file = fs::read(folder.join("data/t.safetensors")).expect("there");
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("valid");
    let tokens = tensors.tensor("tokens").expect("there");
    assert_eq!((tokens.dtype(), tokens.shape()), (Dtype::I32, &[2, 3][..]));
    let values: Vec<u8> = [1, 2, 3, 4, 5, 6]
        .into_iter()
        .flat_map(i32::to_le_bytes)
        .collect();
    assert_eq!(tokens.data(), values);
    for rows in [
        &[&[1][..], &[]],
        &[&[1, 2][..], &[3, 4, 5, 6]],
        &[&[u32::MAX][..], &[0]],
    ] {
        assert!(
            esolm.write_tokens("data/t.safetensors", rows).is_err(),
            "{rows:?}"
        );
    }
    assert_eq!(
        fs::read(folder.join("data/t.safetensors")).expect("there"),
        file
    );
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn dates_are_utc_to_the_minute() {
    for (seconds, text) in [
        (0, "1970-01-01 00:00"),
        (951_826_500, "2000-02-29 12:15"),
        (1_735_689_599, "2024-12-31 23:59"),
        (1_795_526_280, "2026-11-24 13:18"),
    ] {
        assert_eq!(
            record::stamp(Timestamp::from_second(seconds).expect("in range")),
            text
        );
    }
}
