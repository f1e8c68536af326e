//! Complete training runs of tiny networks on a generated text.

#[path = "train/init.rs"]
mod init_from;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use esolm::checkpoint::{Checkpoint, OpenOptions};
use esolm::network::Network;
use esolm_train::loss::{Noise, Objective};
use esolm_train::optimizer::Adam;
use esolm_train::recipe::{LossKind, Optimizer};
use esolm_train::{
    Event, Line, Options, Recipe, Source, TrainError, init, read_log, train, weights,
};

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esolm-train-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> PathBuf {
        let path = self.0.join("text.txt");
        let animals = ["cat", "dog", "fox", "hen", "owl", "pig"];
        let places = ["barn", "hill", "lake", "tree", "well"];
        let stories = (0..60).map(|i| {
            let (a, p) = (animals[i % 6], places[i % 5]);
            let b = animals[(i / 6) % 6];
            format!(
                "The {a} went to the {p}. It met a {b} by the {p}. The {b} said hello to the {a}."
            )
        });
        let stories: Vec<String> = stories.collect();
        fs::write(&path, stories.join("<|endoftext|>")).unwrap();
        path
    }

    fn recipe(&self, more: &[&str]) -> Recipe {
        let more: Vec<String> = more.iter().map(|s| s.to_string()).collect();
        Recipe::parse(&self.recipe_text(), &more).unwrap()
    }

    fn recipe_text(&self) -> String {
        let text = self.text();
        format!(
            "[model]\nhidden = 16\nblocks = 2\nheads = 2\ncond_dim = 8\nlength = 16\ndropout = 0.1\n\
             [data]\ntrain = [{text:?}]\nholdout = [{text:?}]\nvocab_size = 270\n\
             [optimizer]\nlr = 0.01\nwarmup_steps = 2\n\
             [run]\nbatch = 4\naccumulate = 2\ntokens = 1024\nvalidate_every = 4\nvalidate_windows = 8\nsave_every = 3\nlog_every = 1\nema = 0.9\n"
        )
    }

    fn run(
        &self,
        out: &str,
        recipe: &Recipe,
        resume: bool,
        stop_after: u64,
    ) -> Result<Vec<Line>, TrainError> {
        self.run_until(
            out,
            recipe,
            resume,
            |event| matches!(event, Event::Step { step, .. } if *step == stop_after),
        )
    }

    /// Runs until `done` returns true for a step, which has been made but not saved.
    fn run_until(
        &self,
        out: &str,
        recipe: &Recipe,
        resume: bool,
        done: impl FnMut(&Event) -> bool,
    ) -> Result<Vec<Line>, TrainError> {
        self.run_from(None, out, recipe, resume, done)
    }

    /// Like [`Folder::run_until`], starting from the weights of a checkpoint.
    fn run_from(
        &self,
        init: Option<&Source>,
        out: &str,
        recipe: &Recipe,
        resume: bool,
        mut done: impl FnMut(&Event) -> bool,
    ) -> Result<Vec<Line>, TrainError> {
        let out = self.0.join(out);
        let stop = AtomicBool::new(false);
        let options = Options {
            out: &out,
            resume,
            accept_changed_text: false,
            init,
            device: Device::flex(),
            device_name: "CPU".into(),
            stop: &stop,
        };
        train(recipe, &options, &mut |event| {
            if done(&event) {
                stop.store(true, Ordering::SeqCst);
            }
        })?;
        read_log(&out.join("log.jsonl"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(&folder.to_string_lossy(), &OpenOptions::default()).unwrap()
}

fn losses(lines: &[Line]) -> Vec<(u64, f64)> {
    let losses = lines.iter().filter_map(|line| match line {
        Line::Train { step, loss, .. } => Some((*step, *loss)),
        _ => None,
    });
    losses.collect()
}

fn validations(lines: &[Line]) -> Vec<(u64, f64)> {
    let losses = lines.iter().filter_map(|line| match line {
        Line::Validation { step, loss, .. } => Some((*step, *loss)),
        _ => None,
    });
    losses.collect()
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    for (family, more) in [
        ("esolm", &[][..]),
        ("mdlm", &[]),
        ("ar", &[]),
        (
            "bd3lm",
            &[
                "model.block_size=4",
                "loss.noise_range=[0.3, 0.8]",
                "loss.resample=true",
            ],
        ),
        ("setdlm", &["model.set_size=3", "model.max_set_size=5"]),
    ] {
        let folder = Folder::new(&format!("resume-{family}"));
        let recipe = folder.recipe(&[&[&*format!("model.family={family}")], more].concat());
        assert_eq!(recipe.steps(), 8);
        let whole = folder.run("whole", &recipe, false, 0).unwrap();
        // Stopped twice: after a step that is saved anyway, and after one that is not.
        folder.run("parts", &recipe, false, 3).unwrap();
        folder.run("parts", &recipe, true, 5).unwrap();
        let parts = folder.run("parts", &recipe, true, 0).unwrap();
        assert_eq!(losses(&whole), losses(&parts), "{family}");
        assert_eq!(losses(&whole).len(), 8);
        assert_eq!(validations(&whole), validations(&parts));
        for file in [
            "model/model.safetensors",
            "model/config.json",
            "tokenizer.json",
        ] {
            let read = |run: &str| fs::read(folder.0.join(run).join(file)).unwrap();
            assert!(read("whole") == read("parts"), "{family}: {file} differs");
        }
        let states = |run: &str| {
            fs::read_dir(folder.0.join(run).join("state"))
                .unwrap()
                .count()
        };
        assert_eq!(states("whole"), 2);
        assert!(matches!(
            parts.last(),
            Some(Line::End {
                step: 8,
                interrupted: false,
                ..
            })
        ));
        let first = losses(&whole)[0].1;
        let last = losses(&whole)[7].1;
        assert!(last < first - 0.3, "{family}: {first} to {last}");
        // The output is a checkpoint with its tokenizer.
        let model = open(&folder.0.join("whole/model"));
        assert_eq!(model.config().length, 16);
        assert!(model.tokenizer_path().is_some());
    }
}

/// At alpha_0 = 1 the sequential loss has nothing to predict; at 0 the diffusion loss has almost nothing.
#[test]
fn the_ends_of_alpha_0_train() {
    for set in [
        "loss.alpha_0=1",
        "loss.alpha_0=0",
        "loss.batch_split=1",
        "loss.batch_split=0",
    ] {
        let folder = Folder::new(&set.replace(['.', '='], "-"));
        let recipe = folder.recipe(&[set]);
        let lines = folder.run("out", &recipe, false, 0).unwrap();
        let losses = losses(&lines);
        assert!(losses[7].1 < losses[0].1, "{set}: {losses:?}");
        assert!(
            validations(&lines).iter().all(|(_, loss)| *loss > 0.0),
            "{set}"
        );
    }
}

#[test]
fn a_run_that_died_goes_on_from_its_last_state() {
    let folder = Folder::new("died");
    let recipe = folder.recipe(&[]);
    let whole = folder.run("whole", &recipe, false, 0).unwrap();
    let out = folder.0.join("died");
    folder.run("died", &recipe, false, 3).unwrap();
    // As if the run had continued to step 5 and been killed while writing: log lines without a state, and a damaged newest state.
    let log = fs::read_to_string(folder.0.join("whole/log.jsonl")).unwrap();
    fs::write(out.join("log.jsonl"), &log[..log.len() * 3 / 4]).unwrap();
    let state = fs::read(out.join("state/step-00000003.safetensors")).unwrap();
    fs::write(out.join("state/step-00000006.safetensors"), &state[..1000]).unwrap();
    let lines = folder.run("died", &recipe, true, 0).unwrap();
    assert_eq!(losses(&whole), losses(&lines));
}

/// The safetensors file with `from` in its header replaced by `to`.
fn with_header(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&file[8..8 + length]).unwrap();
    let changed = header.replacen(from, to, 1);
    assert_ne!(changed, header, "{from}");
    let mut bytes = (changed.len() as u64).to_le_bytes().to_vec();
    bytes.extend(changed.as_bytes());
    bytes.extend(&file[8 + length..]);
    bytes
}

/// Older versions counted only steps, all of the recipe's size, and recorded neither the text nor the tokenizer.
#[test]
fn a_state_of_an_older_version_goes_on() {
    let folder = Folder::new("older");
    let recipe = folder.recipe(&[]);
    let whole = folder.run("whole", &recipe, false, 0).unwrap();
    folder.run("older", &recipe, false, 3).unwrap();
    let path = folder.0.join("older/state/step-00000003.safetensors");
    let state = fs::read(&path).unwrap();
    let new = "\\\"tokens\\\":384,\\\"warmup_tokens\\\":256,";
    let state = with_header(&state, new, "");
    let length = u64::from_le_bytes(state[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&state[8..8 + length]).unwrap();
    let text = header.find(",\\\"text\\\":").unwrap();
    let end = text + header[text..].find('}').unwrap();
    let text = header[text..end].to_string();
    fs::write(&path, with_header(&state, &text, "")).unwrap();
    let mut notes = String::new();
    let until_5 = |event: &Event| {
        if let Event::Note(note) = event {
            notes += note;
        }
        matches!(event, Event::Step { step: 5, .. })
    };
    let goes_on = folder.run_until("older", &recipe, true, until_5).unwrap();
    for unknown in ["what text", "what tokenizer"] {
        assert!(
            notes.contains(&format!("does not say {unknown}")),
            "{notes}"
        );
    }
    assert!(matches!(
        goes_on.last(),
        Some(Line::End {
            step: 5,
            tokens: 640,
            ..
        })
    ));
    let parts = folder.run("older", &recipe, true, 0).unwrap();
    assert_eq!(losses(&whole), losses(&parts));
}

/// The contents of a saved state are checked before use; a damaged log is no reason to reject it.
#[test]
fn a_state_changed_by_hand_is_refused() {
    let folder = Folder::new("changed");
    let recipe = folder.recipe(&["run.tokens=512", "run.save_every=0"]);
    folder.run("out", &recipe, false, 2).unwrap();
    let state = folder.0.join("out/state/step-00000002.safetensors");
    let whole = fs::read(&state).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&whole[8..8 + length]).unwrap();
    let seconds = header
        .find("\\\"seconds\\\":")
        .expect("it is in the metadata")
        + 12;
    let digits = header[seconds..].find(',').unwrap();
    for (from, to) in [
        ("\\\"step\\\":2", "\\\"step\\\":4294967296"),
        (&header[seconds..seconds + digits], "-1"),
        (&header[seconds..seconds + digits], "1e300"),
        ("moment_2.vocab_embed.weight", "lost.vocab_embed.weight"),
        ("\\\"tokens\\\":256", "\\\"tokens\\\":1"),
        ("\\\"tokens\\\":256", "\\\"tokens\\\":18446744073709551615"),
    ] {
        fs::write(&state, with_header(&whole, from, to)).unwrap();
        let refused = folder.run("out", &recipe, true, 0).unwrap_err();
        assert!(
            matches!(refused, TrainError::State { .. }),
            "{to}: {refused}"
        );
    }
    fs::write(&state, whole).unwrap();
    let log = folder.0.join("out/log.jsonl");
    let mut lines = fs::read(&log).unwrap();
    lines.extend(b"\xff\xfe\n{\"kind\":\"validation\",\"step\":1,\"tokens\":1,\"loss\":1e308,\"diffusion\":0,\"sequential\":0}\n");
    lines.extend(b"{\"kind\":\"validation\",\"step\":1,\"tokens\":1,\"loss\":-1e308,\"diffusion\":0,\"sequential\":0}\n");
    fs::write(&log, lines).unwrap();
    folder.run("out", &recipe, true, 0).unwrap();
}

/// A text of two tokens often has no masked token: such a step changes nothing.
#[test]
fn a_step_without_masked_tokens_counts_nothing() {
    let folder = Folder::new("unmasked");
    let tiny = ["model.family=mdlm", "model.length=2", "run.batch=1"];
    for accumulate in ["run.accumulate=1", "run.accumulate=2"] {
        let recipe = folder.recipe(&[&tiny[..], &["run.tokens=200", accumulate]].concat());
        let lines = folder.run(accumulate, &recipe, false, 0).unwrap();
        let losses = losses(&lines);
        assert!(losses.iter().all(|(_, loss)| loss.is_finite()));
        assert!(losses.iter().any(|(_, loss)| *loss == 0.0));
    }
}

/// A BD3-LM learns the text in blocks of any size, and can continue with another block size.
#[test]
fn blocks_are_learnt() {
    let folder = Folder::new("blocks");
    for size in ["1", "8", "16"] {
        let size = format!("model.block_size={size}");
        let sets = ["model.family=bd3lm", &size, "run.tokens=16384"];
        let more = ["run.validate_every=8", "run.batch=8", "run.log_every=64"];
        let recipe = folder.recipe(&[&sets[..], &more].concat());
        let lines = folder.run(&size, &recipe, false, 0).unwrap();
        let bounds = validations(&lines);
        let (first, last) = (bounds[0].1, bounds[bounds.len() - 1].1);
        assert!(last < first - 0.5, "{size}: {bounds:?}");
        let config = open(&folder.0.join(&size).join("model")).config().clone();
        assert_eq!(config.block_size, recipe.model.block_size);
        assert_eq!(config.noise_range, Some([1e-3, 1.0]));
    }
    let sets = [
        "model.family=bd3lm",
        "model.block_size=4",
        "run.tokens=16640",
    ];
    let recipe = folder.recipe(&sets);
    folder.run("model.block_size=8", &recipe, true, 0).unwrap();
    let went_on = open(&folder.0.join("model.block_size=8").join("model"));
    assert_eq!(went_on.config().block_size, Some(4));
}

/// A SetDLM learns the text in sets of any size, without adaLN, and can continue with another set size.
#[test]
fn sets_are_learnt() {
    let folder = Folder::new("sets");
    for size in ["1", "4", "8"] {
        let size = format!("model.set_size={size}");
        let sets = ["model.family=setdlm", &size, "run.tokens=16384"];
        let more = ["run.validate_every=8", "run.batch=8", "run.log_every=64"];
        let recipe = folder.recipe(&[&sets[..], &more].concat());
        let lines = folder.run(&size, &recipe, false, 0).unwrap();
        let figures = validations(&lines);
        let (first, last) = (figures[0].1, figures[figures.len() - 1].1);
        assert!(last < first - 0.5, "{size}: {figures:?}");
        let config = open(&folder.0.join(&size).join("model")).config().clone();
        assert_eq!(
            config,
            recipe
                .config(config.vocab_size - 1, config.eos.unwrap())
                .unwrap()
        );
        assert_eq!(
            (config.cond_dim, config.sets.unwrap().keeps_first),
            (0, true)
        );
    }
    let sets = [
        "model.family=setdlm",
        "model.set_size=2",
        "run.tokens=16640",
    ];
    let recipe = folder.recipe(&sets);
    folder.run("model.set_size=8", &recipe, true, 0).unwrap();
    let went_on = open(&folder.0.join("model.set_size=8").join("model"));
    assert_eq!(went_on.config().sets.unwrap().desired, 2);
}

/// `low_var` is a training loss; validation still computes the bound.
#[test]
fn validation_gives_the_bound_whatever_the_loss_weighs() {
    let folder = Folder::new("weights");
    // A learning rate that changes no weight, so that both runs validate the same network.
    let still = ["optimizer.lr=1e-30", "run.tokens=128"];
    let bounds = ["loss.kind=elbo", "loss.kind=low_var"].map(|kind| {
        let recipe = folder.recipe(&[&still[..], &[kind]].concat());
        validations(&folder.run(kind, &recipe, false, 0).unwrap())
    });
    assert!(!bounds[0].is_empty());
    assert_eq!(bounds[0], bounds[1]);
}

#[test]
fn what_stands_there_is_not_overwritten() {
    let folder = Folder::new("occupied");
    let recipe = folder.recipe(&["run.tokens=128"]);
    let refused = folder.run("out", &recipe, true, 0).unwrap_err();
    assert!(
        matches!(refused, TrainError::NothingToResume(_)),
        "{refused}"
    );
    folder.run("out", &recipe, false, 0).unwrap();
    let refused = folder.run("out", &recipe, false, 0).unwrap_err();
    assert!(matches!(refused, TrainError::Occupied(_)), "{refused}");
}

/// Values that determine the meaning of the weights cannot change. An AR model has no conditioning, and positions have no weights.
#[test]
fn a_state_goes_on_in_the_network_that_it_was_trained_in() {
    for (family, other) in [("esolm", "ar"), ("mdlm", "esolm"), ("ar", "mdlm")] {
        let folder = Folder::new(&format!("network-{family}"));
        let family = format!("model.family={family}");
        let recipe = folder.recipe(&[&family, "run.tokens=128"]);
        folder.run("out", &recipe, false, 0).unwrap();
        let other = format!("model.family={other}");
        for (set, keys) in [
            (&[&other[..]][..], &["model.family"][..]),
            (&["model.heads=1"], &["model.heads"]),
            (
                &["model.hidden=32", "model.blocks=1"],
                &["model.hidden", "model.blocks"],
            ),
            (&["data.separator=. It"], &["data.separator"]),
        ] {
            let other = folder.recipe(&[&[&family, "run.tokens=256"][..], set].concat());
            let refused = folder.run("out", &other, true, 0).unwrap_err();
            let TrainError::NetworkChanged { changed, .. } = refused else {
                panic!("{refused}");
            };
            let changed: Vec<_> = changed.iter().map(|change| change.key).collect();
            assert_eq!(changed, keys);
        }
        let mut sets = vec![&family[..], "run.tokens=256", "model.length=8"];
        if family.ends_with("ar") {
            sets.push("model.cond_dim=4");
        }
        folder.run("out", &folder.recipe(&sets), true, 0).unwrap();
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let folder = Folder::new("nan");
    let recipe = folder.recipe(&[
        "optimizer.lr=1e30",
        "optimizer.warmup_steps=0",
        "run.save_every=1",
    ]);
    let error = folder.run("out", &recipe, false, 0).unwrap_err();
    let TrainError::NotFinite { step, saved, .. } = &error else {
        panic!("{error}");
    };
    let saved = saved.as_ref().expect("a state was saved before");
    assert!(
        saved.ends_with(format!("step-{:08}.safetensors", step - 1)),
        "{error}"
    );
    assert!(error.to_string().contains("step-"), "{error}");
}

#[test]
fn a_disk_that_takes_nothing_loses_nothing() {
    let folder = Folder::new("full");
    let recipe = folder.recipe(&["run.tokens=512"]);
    folder.run("out", &recipe, false, 3).unwrap();
    let out = folder.0.join("out");
    let saved = fs::read(out.join("state/step-00000003.safetensors")).unwrap();
    // A folder in the place of the next state makes the write fail as a full disk would, even for root.
    let next = out.join("state/step-00000004.safetensors");
    let block = |event: &Event| {
        if matches!(event, Event::Step { step: 4, .. }) {
            fs::create_dir(&next).unwrap();
        }
        false
    };
    let error = folder.run_until("out", &recipe, true, block).unwrap_err();
    assert!(
        matches!(
            error,
            TrainError::Io {
                action: "write",
                ..
            }
        ),
        "{error}"
    );
    assert!(fs::read(out.join("state/step-00000003.safetensors")).unwrap() == saved);
    let left = fs::read_dir(out.join("state")).unwrap();
    assert!(
        left.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
    );
    fs::remove_dir(&next).unwrap();
    folder.run("out", &recipe, true, 0).unwrap();
}

#[test]
fn bad_text_is_named() {
    let folder = Folder::new("text");
    let short = folder.0.join("short.txt");
    fs::write(&short, "one two").unwrap();
    let broken = folder.0.join("broken.txt");
    fs::write(&broken, b"caf\xe9").unwrap();
    for (path, wanted) in [
        (&short, "270"),
        (&broken, "byte 3"),
        (&folder.0.join("none"), "none"),
    ] {
        let recipe = folder.recipe(&[&format!("data.train=[{path:?}]")]);
        let error = folder
            .run("out", &recipe, false, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// The same batch with the same noise over and over: a network that learns must almost memorise it.
#[test]
fn one_batch_is_learnt_by_heart() {
    let json = r#"{"model_type": "EsoLM", "hidden_size": 64, "cond_dim": 16, "n_blocks": 2, "n_heads": 4, "model_length": 16,
                   "vocab_size": 41, "mask_index": 40, "alpha_0": 0.5, "dropout": 0.0}"#;
    let config = esolm::config::ModelConfig::from_json(json).unwrap();
    let device = Device::flex().autodiff();
    let ckpt = init::random(&config, 3).unwrap();
    let mut network = weights::trainable(Network::load(&ckpt, &device).unwrap());
    let texts: Vec<Vec<u32>> = (0..4u32)
        .map(|row| {
            (0..16)
                .map(|i| (row * 11 + i * i + i * 7 * row) % 40)
                .collect()
        })
        .collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let objective = Objective {
        config,
        alpha_0: 0.5,
        kind: LossKind::LowVar,
    };
    let noise = Noise::draw(1, 0, 2, 2, 16);
    let prepared = objective.prepare(&texts, &noise, |_, _| true);
    let mut adam = Adam::new(&Optimizer::default());
    let mut first = None;
    let mut last = 0.0;
    for _ in 0..200 {
        let (loss, nll) = prepared.loss(&network, None).expect("something is masked");
        last = prepared.losses(nll.inner()).total();
        first.get_or_insert(last);
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        network = adam.step(network, gradients, 1.0, 5e-3);
    }
    let first = first.unwrap();
    assert!(first > 1.5, "untrained: {first}");
    assert!(last < 0.01, "after 200 steps: {last}");
    let parameters: usize = weights::of(&network).values().map(|v| v.dims()[0]).sum();
    assert_eq!(network.num_params(), parameters);
}
