//! `esolm train` as a user runs it: a recipe becomes a model that the other commands accept, and neither Ctrl-C nor a
//! refused call loses anything.

mod common;

use std::collections::BTreeMap;
#[cfg(unix)]
use std::io::{BufRead, BufReader};
use std::path::Path;
#[cfg(unix)]
use std::process::{Child, Stdio};

#[cfg(unix)]
use common::esolm;
use common::{Folder, run, succeed};

/// A recipe over generated text; trains for a second or two.
fn recipe(folder: &Folder) -> String {
    let stories: Vec<String> = (0..80)
        .map(|i| {
            let animal = ["cat", "dog", "fox", "hen"][i % 4];
            let place = ["barn", "hill", "lake"][i % 3];
            format!("The {animal} went to the {place}. The {animal} liked the {place}.")
        })
        .collect();
    let text = folder.file("text.txt");
    std::fs::write(&text, stories.join("<|endoftext|>")).expect("writable");
    let path = folder.file("recipe.toml");
    let recipe = format!(
        "[model]\nhidden = 32\nblocks = 2\nheads = 2\ncond_dim = 8\nlength = 32\n\
         [data]\ntrain = [{text:?}]\nholdout = [{text:?}]\nvocab_size = 280\n\
         [optimizer]\nlr = 5e-3\nwarmup_steps = 5\n\
         [run]\nbatch = 8\ntokens = 20000\nema = 0.9\nvalidate_every = 20\nsave_every = 20\n"
    );
    std::fs::write(&path, recipe).expect("writable");
    path
}

#[test]
fn a_recipe_becomes_a_model() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let output = run(&["train", &recipe, "--out", &out]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(output.stdout.is_empty());
    for wanted in [
        "parameters",
        "tokens/s",
        "hold-out",
        "saved",
        "done; esolm sample",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in {said}");
    }
    for file in [
        "recipe.toml",
        "tokenizer.json",
        "log.jsonl",
        "curve.svg",
        "model/config.json",
    ] {
        assert!(std::path::Path::new(&out).join(file).is_file(), "{file}");
    }
    let model = format!("{out}/model");
    let text = succeed(&[
        "sample", "--model", &model, "--device", "cpu", "--seed", "1", "-q",
    ]);
    assert!(text.contains("The "), "{text}");
    let report = succeed(&[
        "ppl",
        "--model",
        &model,
        "--device",
        "cpu",
        "--json",
        &folder.file("text.txt"),
    ]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let nats = report["exact"]["nats_per_token"]
        .as_f64()
        .expect("a number");
    // Untrained, it would be ln 280 = 5.6.
    assert!(nats < 2.5, "{nats}");
}

/// Sends a signal to a training once it is running, and returns its output after that.
#[cfg(unix)]
fn stopped(mut child: Running, signal: &str) -> Vec<String> {
    let mut lines = BufReader::new(child.0.stderr.take().expect("piped")).lines();
    let first = lines.by_ref().map_while(Result::ok);
    assert!(first.into_iter().any(|line| line.contains("tokens/s")));
    let killed = std::process::Command::new("kill")
        .args([signal, &child.0.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.0.wait().expect("it ends").code(), Some(0), "{rest:?}");
    rest
}

/// A running training, which is stopped even if the test fails.
#[cfg(unix)]
struct Running(Child);

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A training with far more steps than it will run.
#[cfg(unix)]
fn endless(recipe: &str, out: &str) -> Running {
    let child = esolm()
        .args(["train", recipe, "--out", out])
        .args(["--set", "run.tokens=100000000"])
        .stderr(Stdio::piped())
        .spawn();
    Running(child.expect("the program starts"))
}

/// Whether the tests run under something like nohup, which the program respects, or on a system where this cannot be
/// determined.
#[cfg(unix)]
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_none_or(|mask| mask & 1 == 1)
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_a_resume_goes_on() {
    let signals = ["-INT", "-TERM", "-HUP"];
    for signal in &signals[..if hangups_are_ignored() { 2 } else { 3 }] {
        let folder = Folder::new();
        let recipe = recipe(&folder);
        let out = folder.file("run");
        let rest = stopped(endless(&recipe, &out), signal);
        let last = rest.last().expect("a last word");
        assert!(last.contains("stopped and saved after step"), "{last}");
        let step: u64 = last
            .split_whitespace()
            .find_map(|word| word.trim_end_matches(';').parse().ok())
            .expect("the step");
        let files = contents(Path::new(&out));
        assert!(files.keys().all(|name| !name.contains("partial")));

        let tokens = format!("run.tokens={}", (step + 3) * 256);
        let output = run(&["train", "--out", &out, "--resume", "--set", &tokens]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains(&format!("steps {step} to {}", step + 3)),
            "{said}"
        );
        let changed = format!(
            "going on with changed values: tokens = {}",
            (step + 3) * 256
        );
        assert!(said.contains(&changed), "{said}");
        succeed(&["inspect", &format!("{out}/model")]);

        let again = run(&["train", &recipe, "--out", &out]);
        assert_eq!(again.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"));
    }
}

/// Every file below a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => all.extend(contents(&path)),
            false => {
                let bytes = std::fs::read(&path).expect("a file");
                all.insert(path.display().to_string(), bytes);
            }
        }
    }
    all
}

/// Runs a command that must be refused, and returns the sentence; nothing in `out` changes.
fn refused(out: &str, arguments: &[&str]) -> String {
    let before = contents(Path::new(out));
    let output = run(&[&["train", "--out", out], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(contents(Path::new(out)) == before, "{arguments:?}: {said}");
    said.lines().last().unwrap_or_default().into()
}

#[test]
fn a_refused_resume_changes_nothing() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let short = ["--set", "run.tokens=2560"];
    succeed(&[&["train", &recipe, "--out", &out], &short[..]].concat());
    for (set, named) in [
        ("model.hidden=64", "model.hidden = 32"),
        ("model.blocks=1", "model.blocks = 2"),
        ("model.heads=1", "model.heads = 2"),
        ("model.cond_dim=16", "model.cond_dim = 8"),
        ("model.family=mdlm", "model.family = \"esolm\""),
        ("data.separator=The", "data.separator = \"<|endoftext|>\""),
        ("model.length=1", "model.length"),
        ("data.train=[\"none.txt\"]", "none.txt"),
        ("run.batsch=1", "batsch"),
    ] {
        let said = refused(&out, &["--resume", "--set", set]);
        assert!(said.contains(named), "{said}");
    }
    refused(&out, &[&recipe]);

    // Another text is refused until accepted explicitly; other line endings are not another text.
    let text = folder.file("text.txt");
    let before = std::fs::read_to_string(&text).expect("text");
    std::fs::write(&text, before.replace("fox", "owl")).expect("writable");
    let said = refused(&out, &["--resume"]);
    assert!(
        said.contains("training text") && said.contains("--accept-changed-text"),
        "{said}"
    );
    let foreign = before.replace(". ", ".\n");
    std::fs::write(&text, &foreign).expect("writable");
    let more = ["--resume", "--set", "run.tokens=3072"];
    let resumed = |arguments: &[&str]| {
        let output = run(&[&["train", "--out", &out], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let said = resumed(&[&more[..], &["--accept-changed-text"]].concat());
    assert!(said.contains("another training text"), "{said}");
    std::fs::write(&text, foreign.replace('\n', "\r\n")).expect("writable");
    let said = resumed(&["--resume", "--set", "run.tokens=3328"]);
    assert!(said.contains("steps 12 to 13"), "{said}");
}

/// Weights belong to the tokens that they were trained on.
#[test]
fn a_resume_with_another_tokenizer_is_refused() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let short = ["--set", "run.tokens=2560"];
    succeed(&[&["train", &recipe, "--out", &out], &short[..]].concat());
    let path = format!("{out}/tokenizer.json");
    let text = std::fs::read_to_string(&path).expect("a tokenizer");
    let tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let write = |tokenizer: &serde_json::Value| {
        std::fs::write(&path, tokenizer.to_string()).expect("writable");
    };

    // Two tokens swap places; all ids stay valid.
    let mut swapped = tokenizer.clone();
    let vocabulary = &mut swapped["model"]["vocab"];
    let (a, b) = (vocabulary["a"].take(), vocabulary["e"].take());
    vocabulary["a"] = b;
    vocabulary["e"] = a;
    write(&swapped);
    let said = refused(&out, &["--resume"]);
    for named in [
        "tokenizer.json",
        "280 tokens",
        "step-",
        "model/tokenizer.json",
    ] {
        assert!(said.contains(named), "{said}");
    }

    let mut larger = tokenizer.clone();
    larger["model"]["vocab"]["zzz"] = 280.into();
    write(&larger);
    let said = refused(&out, &["--resume"]);
    for named in ["281 tokens", "280 tokens"] {
        assert!(said.contains(named), "{said}");
    }

    // Following the advice in the sentence; other line endings are not another tokenizer.
    let copy = std::fs::read_to_string(format!("{out}/model/tokenizer.json")).expect("a copy");
    std::fs::write(&path, copy.replace('\n', "\r\n")).expect("writable");
    let more = ["--resume", "--set", "run.tokens=3072"];
    succeed(&[&["train", "--out", &out], &more[..]].concat());
}

/// The library would panic.
#[test]
fn a_tokenizer_with_which_the_library_fails_is_refused() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let path = folder.file("damaged.json");
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "FixedLength", "length": 0},
        "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1}, "merges": []},
    });
    std::fs::write(&path, tokenizer.to_string()).expect("writable");
    let out = folder.file("run");
    std::fs::create_dir(&out).expect("a folder");
    let tokenizer = format!("data.tokenizer={path}");
    let said = refused(&out, &[&recipe, "--set", &tokenizer]);
    assert!(
        said.contains("\"FixedLength\"") && said.contains("data.tokenizer"),
        "{said}"
    );
}

/// A checkpoint of any family can be a starting point; the recipe contains only what is new.
#[test]
fn a_checkpoint_is_a_start() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let first = folder.file("first");
    let short = ["--set", "run.tokens=2560", "--set", "model.family=mdlm"];
    succeed(&[&["train", &recipe, "--out", &first], &short[..]].concat());
    let text = std::fs::read_to_string(&recipe).expect("a recipe");
    let (_, rest) = text.split_once("[data]").expect("it names a text");
    let bare = folder.file("bare.toml");
    let rest = rest
        .replace("vocab_size = 280\n", "")
        .replace("tokens = 20000", "tokens = 1280");
    std::fs::write(&bare, format!("[data]{rest}")).expect("writable");

    let (out, model) = (folder.file("second"), format!("{first}/model"));
    let init = ["train", &bare, "--out", &out, "--init", &model];
    let family = ["--set", "model.family=esolm", "--set", "loss.alpha_0=0.5"];
    let output = run(&[&init[..], &family].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for wanted in ["starting from", "an MDLM", "step 0, hold-out", "done;"] {
        assert!(said.contains(wanted), "no {wanted:?} in {said}");
    }
    let report = succeed(&["inspect", &format!("{out}/model"), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(
        (
            &report["family"],
            &report["alpha_0"],
            &report["hidden"],
            &report["length"]
        ),
        (&"esolm".into(), &0.5.into(), &32.into(), &32.into())
    );
    let text = [
        "sample",
        "--model",
        &format!("{out}/model"),
        "--device",
        "cpu",
        "-q",
    ];
    assert!(!succeed(&text).is_empty());

    // The same command without the checkpoint resumes it; another checkpoint is refused.
    std::fs::rename(&first, folder.file("elsewhere")).expect("a folder");
    let more = ["--resume", "--set", "run.tokens=1536"];
    succeed(&[&init[..], &family, &more].concat());
    let other = refused(&out, &["--resume", "--init", "models/stories"]);
    assert!(
        other.contains("model.init = \"models/stories\"") && other.contains(&model),
        "{other}"
    );
    let recipe = format!("{out}/recipe.toml");
    let third = run(&["train", &recipe, "--out", &folder.file("third")]);
    let said = String::from_utf8_lossy(&third.stderr);
    assert!(!third.status.success() && said.contains(&model), "{said}");
}

/// Each state contains the recipe.
#[test]
fn a_resume_does_without_the_file_of_the_recipe() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let short = ["--set", "run.tokens=2560"];
    succeed(&[&["train", &recipe, "--out", &out], &short[..]].concat());
    let path = format!("{out}/recipe.toml");
    let before = std::fs::read_to_string(&path).expect("a recipe");
    std::fs::remove_file(&path).expect("it is there");
    let more = ["--resume", "--set", "run.tokens=3072"];
    let output = run(&[&["train", "--out", &out], &more[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("recipe.toml is missing"), "{said}");
    assert!(said.contains("steps 10 to 12"), "{said}");
    let after = std::fs::read_to_string(&path).expect("it is written again");
    assert_eq!(after, before.replace("tokens = 2560", "tokens = 3072"));
}

/// Before the first step there is nothing to save, and reading the text may take long.
#[cfg(unix)]
#[test]
fn a_signal_before_the_first_step_ends_at_once() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let pipe = folder.file("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let mut child = Running(
        esolm()
            .args(["train", &recipe, "--out", &out, "--quiet"])
            .args(["--set", &format!("data.train=[{pipe:?}]")])
            .spawn()
            .expect("the program starts"),
    );
    // Opening blocks until the program reads, and then keeps it waiting.
    let text = std::fs::OpenOptions::new().write(true).open(&pipe);
    let killed = std::process::Command::new("kill")
        .args(["-TERM", &child.0.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let ended = (0..600).find_map(|_| {
        let ended = child.0.try_wait().expect("a child");
        if ended.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        ended
    });
    drop(text.expect("a pipe"));
    assert_eq!(ended.expect("it goes on reading").code(), Some(128 + 15));
    assert!(!Path::new(&out).exists());
}

#[test]
fn tokens_are_counted_whatever_the_size_of_a_step() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    succeed(&["train", &recipe, "--out", &out, "--set", "run.tokens=5120"]);
    // 20 steps of 256 tokens, then 10 of 512.
    let output = run(&[
        "train",
        "--out",
        &out,
        "--resume",
        "--set",
        "run.batch=16",
        "--set",
        "run.tokens=10240",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("steps 20 to 30"), "{said}");
    let log = std::fs::read_to_string(format!("{out}/log.jsonl")).expect("text");
    let lines = log.lines().map(serde_json::from_str);
    let lines: Vec<serde_json::Value> = lines.collect::<Result<_, _>>().expect("JSON");
    let trained = lines.iter().filter(|line| line["kind"] == "train");
    let counted: Vec<_> = trained
        .map(|line| (line["step"].as_u64(), line["tokens"].as_u64()))
        .collect();
    let wanted = [(10, 2560), (20, 5120), (30, 10240)];
    assert_eq!(counted, wanted.map(|(step, n)| (Some(step), Some(n))));
    let last = lines.last().expect("an end");
    assert_eq!(
        (&last["kind"], &last["tokens"]),
        (&"end".into(), &10240.into())
    );
}

#[cfg(unix)]
#[test]
fn two_trainings_do_not_share_a_folder() {
    let folder = Folder::new();
    let recipe = recipe(&folder);
    let out = folder.file("run");
    let mut child = endless(&recipe, &out);
    let mut errors = BufReader::new(child.0.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("parameters") {
        line.clear();
        assert!(errors.read_line(&mut line).expect("text") > 0);
    }
    for arguments in [&[&recipe[..]][..], &["--resume"]] {
        let output = run(&[&["train", "--out", &out], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another training is under way"), "{said}");
    }
    // A killed process holds no lock.
    drop(child);
    drop(errors);
    let resume: &[&str] = match Path::new(&out).join("state").exists() {
        true => &["--resume"],
        false => &[&recipe],
    };
    let tokens = ["--set", "run.tokens=256"];
    succeed(&[&["train", "--out", &out], resume, &tokens].concat());
}
