//! Trainings that start from a checkpoint: of every family, into every family.

use std::fs;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use esolm::Weights;
use esolm::checkpoint::{Checkpoint, OpenOptions, SHARD_BYTES};
use esolm::config::{AttentionKind, Family, ModelConfig};
use esolm::network::Network;
use esolm::network::store::write_quantised;
use esolm_train::data::{TextTokens, documents, first_windows};
use esolm_train::loss::Objective;
use esolm_train::{Event, Recipe, Source, TrainError, evaluate};

use super::{Folder, losses, open, validations};

const FAMILIES: [(&str, &[&str]); 5] = [
    ("esolm", &[]),
    ("mdlm", &[]),
    ("ar", &[]),
    ("bd3lm", &["model.block_size=4"]),
    ("setdlm", &["model.set_size=4"]),
];

/// A recipe that says nothing of the network.
fn bare(folder: &Folder) -> String {
    let text = folder.recipe_text();
    let kept = text.lines().filter(|line| {
        let of_network = [
            "hidden",
            "blocks",
            "heads",
            "cond_dim",
            "length",
            "vocab_size",
        ];
        !of_network.iter().any(|key| line.starts_with(key))
    });
    kept.map(|line| format!("{line}\n")).collect()
}

fn sets(sets: &[&str]) -> Vec<String> {
    sets.iter().map(|set| set.to_string()).collect()
}

/// A few steps of a family from random weights.
fn trained(folder: &Folder, family: &str, more: &[&str]) {
    let family_set = format!("model.family={family}");
    let recipe = folder.recipe(&[&[&*family_set, "run.tokens=384"], more].concat());
    folder.run(family, &recipe, false, 0).unwrap();
}

fn source(folder: &Folder, name: &str) -> Source {
    let path = folder.0.join(name).join("model");
    Source::new(&path.to_string_lossy(), open(&path))
}

/// What validation gives for the checkpoint's own network under a recipe's objective.
fn expected(source: &Source, recipe: &Recipe, config: &ModelConfig) -> f64 {
    let own = source.checkpoint();
    let network = Network::load(own, &Device::flex()).unwrap();
    let json = fs::read_to_string(own.tokenizer_path().unwrap()).unwrap();
    let tokens = TextTokens::of_model(&json, &recipe.data.separator, own.config()).unwrap();
    let texts = documents(&recipe.data.holdout, &recipe.data).unwrap();
    let texts = tokens.encode(&texts).unwrap();
    let windows = first_windows(&texts, config.length, recipe.run.validate_windows).unwrap();
    let objective = Objective {
        alpha_0: config.alpha_0.unwrap_or(1.0),
        kind: recipe.loss.kind,
        config: config.clone(),
    };
    evaluate(&objective, &network, &windows, recipe.run.batch).total()
}

/// Starts, and ends before the first step; gives the loss on the hold-out and what was said.
fn start(folder: &Folder, source: &Source, out: &str, recipe: &Recipe) -> (f64, Vec<String>) {
    let mut notes = Vec::new();
    let lines = folder
        .run_from(Some(source), out, recipe, false, |event| {
            if let Event::Note(note) = event {
                notes.push(note.clone());
            }
            true
        })
        .unwrap();
    assert!(losses(&lines).is_empty(), "no step is made");
    let [(0, loss)] = validations(&lines)[..] else {
        panic!("{lines:?}");
    };
    (loss, notes)
}

#[test]
fn every_family_starts_from_every_other() {
    let folder = Folder::new("init");
    for (family, more) in FAMILIES {
        trained(&folder, family, more);
    }
    for (from, _) in FAMILIES {
        let source = source(&folder, from);
        let own = source.checkpoint().config().clone();
        for (to, more) in FAMILIES {
            let named = format!("model.family={to}");
            let recipe =
                Recipe::parse_from(&bare(&folder), &sets(&[&[&*named], more].concat()), &source)
                    .unwrap();
            let out = format!("{from}-{to}");
            let (loss, notes) = start(&folder, &source, &out, &recipe);
            let made = open(&folder.0.join(&out).join("model"));
            let config = made.config();
            assert_eq!(loss, expected(&source, &recipe, config), "{out}");
            assert!(notes.iter().any(|note| note.contains("starting from")));
            // What is exported are the weights themselves.
            for parameter in source.checkpoint().parameters() {
                let name = &parameter.name;
                let was = source.checkpoint().f32(name).unwrap();
                assert_eq!(made.f32(name).unwrap(), was, "{out}: {name}");
            }
            assert_eq!(
                (
                    config.hidden,
                    config.n_blocks,
                    config.n_heads,
                    config.length
                ),
                (own.hidden, own.n_blocks, own.n_heads, own.length)
            );
            assert_eq!(
                (config.vocab_size, config.mask_index, config.eos),
                (own.vocab_size, own.mask_index, own.eos)
            );
            // AR models and SetDLMs have no adaLN of their own; the others get one that changes nothing.
            let without = ["ar", "setdlm"];
            let has_adaln = !(without.contains(&from) && without.contains(&to));
            assert_eq!(config.cond_dim > 0, has_adaln, "{out}");
            let tokenizer =
                |run: &str| fs::read(folder.0.join(run).join("model/tokenizer.json")).unwrap();
            assert_eq!(tokenizer(&out), tokenizer(from), "{out}");
        }
        // Of the source itself: what it was worth when it was saved.
        let recipe = Recipe::parse_from(&bare(&folder), &[], &source).unwrap();
        assert_eq!(recipe.model.family, own.family);
        let log = fs::read_to_string(folder.0.join(from).join("log.jsonl")).unwrap();
        let last = log
            .lines()
            .rfind(|line| line.contains("\"validation\""))
            .unwrap();
        let last: serde_json::Value = serde_json::from_str(last).unwrap();
        let (loss, _) = start(&folder, &source, &format!("{from}-again"), &recipe);
        assert_eq!(Some(loss), last["loss"].as_f64(), "{from}");
    }
}

/// Logits `[R, V]` of a causal pass over some tokens.
fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let device = Device::flex();
    let network = Network::load(checkpoint, &device).unwrap();
    let rows = 12usize;
    let ints =
        |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [1, rows]), &device);
    let tokens = ints((0..rows as i32).map(|i| (i * 37 + 5) % 270).collect());
    let causal: Vec<bool> = (0..rows * rows).map(|i| i % rows <= i / rows).collect();
    let causal = TensorData::new(causal, [1, rows, rows]);
    let mask = Tensor::<3, Bool>::from_data(causal, &device);
    let positions = ints((0..rows as i32).collect());
    let logits = network.forward(tokens, positions, Some(mask), None);
    logits.into_data().try_into_vec().unwrap()
}

/// adaLN is added where the source has none, kept away where the recipe says so, and never taken away.
#[test]
fn a_network_without_adaln_computes_the_same_with_one() {
    let folder = Folder::new("init-adaln");
    trained(&folder, "ar", &[]);
    let ar = source(&folder, "ar");
    let mut checkpoints = vec![logits(ar.checkpoint())];
    for (set, width) in [("model.cond_dim=8", 8), ("model.cond_dim=0", 0)] {
        let recipe = Recipe::parse_from(
            &bare(&folder),
            &sets(&["model.family=esolm", "loss.alpha_0=0.5", set]),
            &ar,
        )
        .unwrap();
        let (_, notes) = start(&folder, &ar, set, &recipe);
        let said = notes.iter().any(|note| note.contains("has no adaLN"));
        assert_eq!(said, width > 0, "{notes:?}");
        let made = open(&folder.0.join(set).join("model"));
        assert_eq!(made.config().family, Family::EsoLm);
        assert_eq!(made.config().alpha_0, Some(0.5));
        assert_eq!(made.config().cond_dim, width);
        checkpoints.push(logits(&made));
        // What was added is trained too, and a network without goes on without.
        let lines = folder.run(set, &recipe, true, 0).unwrap();
        assert_eq!(losses(&lines).len(), 8);
        let trained = open(&folder.0.join(set).join("model"));
        assert_eq!(trained.config().cond_dim, width);
        if width > 0 {
            let weight = trained.f32("blocks.0.adaLN_modulation.weight").unwrap();
            assert!(weight.iter().any(|&w| w != 0.0));
        }
    }
    assert!(checkpoints.iter().all(|logits| *logits == checkpoints[0]));

    // A source that has one keeps it, also as an AR model.
    trained(&folder, "mdlm", &[]);
    let mdlm = source(&folder, "mdlm");
    let recipe = Recipe::parse_from(&bare(&folder), &sets(&["model.family=ar"]), &mdlm).unwrap();
    start(&folder, &mdlm, "as-ar", &recipe);
    folder.run("as-ar", &recipe, true, 2).unwrap();
    assert_eq!(open(&folder.0.join("as-ar/model")).config().cond_dim, 8);
}

/// Stopped, resumed and uninterrupted trainings are the same; a state needs its source no more, and remembers which it was.
#[test]
fn a_start_from_a_checkpoint_survives_a_stop() {
    let folder = Folder::new("init-resume");
    trained(&folder, "mdlm", &[]);
    // In 8 bits it has lost its adaLN, and has biases everywhere that networks of its kind do not have.
    let wide = ["model.hidden=32", "data.vocab_size=287"];
    let recipe = folder.recipe(&[&wide[..], &["run.tokens=384"]].concat());
    folder.run("wide", &recipe, false, 0).unwrap();
    let path = folder.0.join("quantised");
    write_quantised(
        &open(&folder.0.join("wide/model")),
        &path,
        Weights::Q8,
        SHARD_BYTES,
    )
    .unwrap();
    for (name, path) in [
        ("mdlm", folder.0.join("mdlm/model")),
        ("quantised", path.clone()),
    ] {
        if name == "quantised" {
            let copy = path.join("tokenizer.json");
            fs::copy(folder.0.join("wide/tokenizer.json"), copy).unwrap();
        }
        let source = Source::new(&path.to_string_lossy(), open(&path));
        let recipe =
            Recipe::parse_from(&bare(&folder), &sets(&["model.family=esolm"]), &source).unwrap();
        let (mut notes, mut first) = (String::new(), true);
        let whole = folder
            .run_from(
                Some(&source),
                &format!("{name}-whole"),
                &recipe,
                false,
                |event| {
                    if let Event::Note(note) = event {
                        notes += note;
                    }
                    false
                },
            )
            .unwrap();
        assert_eq!(
            notes.contains("quantised; what"),
            name == "quantised",
            "{notes}"
        );
        assert_eq!(validations(&whole)[0].1, {
            let made = recipe.config_from(source.checkpoint().config()).unwrap();
            expected_of(&source, &recipe, &made, &folder, name)
        });
        let out = format!("{name}-parts");
        for (init, stop) in [(Some(&source), 3), (None, 5), (Some(&source), 0)] {
            folder
                .run_from(
                    init,
                    &out,
                    &recipe,
                    !std::mem::take(&mut first),
                    |event| matches!(event, Event::Step { step, .. } if *step == stop),
                )
                .unwrap();
        }
        let read = |run: &str| {
            let path = folder
                .0
                .join(format!("{name}-{run}/model/model.safetensors"));
            fs::read(path).unwrap()
        };
        assert!(read("whole") == read("parts"), "{name}");
        // Its recipe goes round, and says where it came from.
        let saved = fs::read_to_string(folder.0.join(&out).join("recipe.toml")).unwrap();
        assert_eq!(Recipe::parse(&saved, &[]).unwrap(), recipe);
        assert_eq!(recipe.model.init.as_deref(), path.to_str());
        let longer = esolm_train::resumed_recipe(
            &folder.0.join(&out),
            &bare(&folder),
            &sets(&["run.tokens=1152"]),
        )
        .unwrap();
        assert_eq!(
            (longer.model.hidden, &longer.model.init),
            (recipe.model.hidden, &recipe.model.init)
        );
        folder.run(&out, &longer, true, 0).unwrap();

        let other = Recipe {
            model: esolm_train::recipe::Model {
                init: Some("other".into()),
                ..longer.model.clone()
            },
            ..longer.clone()
        };
        let refused = folder.run(&out, &other, true, 0).unwrap_err();
        assert!(
            matches!(refused, TrainError::NetworkChanged { .. }),
            "{refused}"
        );
        let said = refused.to_string();
        assert!(said.contains("model.init = \"other\"") && said.contains(path.to_str().unwrap()));
    }
}

/// As [`expected`], of a checkpoint whose tokenizer lies in the folder of its training.
fn expected_of(
    source: &Source,
    recipe: &Recipe,
    config: &ModelConfig,
    folder: &Folder,
    name: &str,
) -> f64 {
    match name {
        "quantised" => {
            let path = folder.0.join("wide/tokenizer.json");
            let again = open_with_tokenizer(source.name(), &path);
            expected(&again, recipe, config)
        }
        _ => expected(source, recipe, config),
    }
}

fn open_with_tokenizer(name: &str, tokenizer: &std::path::Path) -> Source {
    let checkpoint = Checkpoint::open(name, &OpenOptions::default()).unwrap();
    Source::new(name, checkpoint.with_tokenizer_file(tokenizer))
}

/// What a recipe takes from its source, what it may say otherwise, and what it may not.
#[test]
fn a_recipe_does_not_contradict_its_source() {
    let folder = Folder::new("init-recipe");
    trained(
        &folder,
        "bd3lm",
        &["model.block_size=4", "loss.noise_range=[0.3, 0.8]"],
    );
    let bd3lm = source(&folder, "bd3lm");
    let parse = |more: &[&str]| Recipe::parse_from(&bare(&folder), &sets(more), &bd3lm);
    let recipe = parse(&[]).unwrap();
    assert_eq!(recipe.model.block_size, Some(4));
    assert_eq!(recipe.loss.noise_range, Some([0.3, 0.8]));
    assert_eq!(recipe.data.vocab_size, 270);
    let recipe = parse(&["model.block_size=8", "model.length=32"]).unwrap();
    assert_eq!(
        (recipe.model.block_size, recipe.model.length),
        (Some(8), 32)
    );
    let recipe = parse(&["model.family=mdlm"]).unwrap();
    assert_eq!(
        (recipe.model.block_size, recipe.loss.noise_range),
        (None, None)
    );
    for (more, named) in [
        (
            &["model.hidden=32"][..],
            &["model.hidden = 32", "model.hidden = 16"][..],
        ),
        (
            &["model.blocks=3", "model.heads=4"],
            &[
                "model.blocks = 3 and model.heads = 4",
                "model.blocks = 2 and model.heads = 2",
            ],
        ),
        (
            &["model.cond_dim=0"],
            &["model.cond_dim = 0", "model.cond_dim = 8"],
        ),
        (
            &["data.vocab_size=512"],
            &["data.vocab_size = 512", "data.vocab_size = 270"],
        ),
        (&["loss.alpha_0=0.5"], &["loss.alpha_0 = 0.5", "a BD3-LM"]),
        (&["model.family=duo"], &["duo"]),
    ] {
        let refused = parse(more).unwrap_err();
        for named in named {
            assert!(refused.to_string().contains(named), "{more:?}: {refused}");
        }
    }
    // Without a source there is nothing to start from.
    let recipe = parse(&[]).unwrap();
    let refused = folder.run("none", &recipe, false, 0).unwrap_err();
    assert!(matches!(refused, TrainError::NotOpened(_)), "{refused}");

    // Another tokenizer is not for these weights; a source without one takes the recipe's.
    trained(&folder, "ar", &["data.vocab_size=275"]);
    let with = |path: &str| format!("data.tokenizer={}", folder.0.join(path).display());
    let recipe = parse(&[&with("ar/tokenizer.json")]).unwrap();
    let refused = folder.run_from(Some(&bd3lm), "none", &recipe, false, |_| true);
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, TrainError::OtherTokenizer { .. }),
        "{refused}"
    );
    let recipe = parse(&[&with("bd3lm/tokenizer.json")]).unwrap();
    folder
        .run_from(Some(&bd3lm), "same", &recipe, false, |_| true)
        .unwrap();
    fs::remove_file(folder.0.join("bd3lm/model/tokenizer.json")).unwrap();
    let alone = source(&folder, "bd3lm");
    folder
        .run_from(Some(&alone), "given", &recipe, false, |_| true)
        .unwrap();
    let refused = folder.run_from(Some(&alone), "none", &parse(&[]).unwrap(), false, |_| true);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, TrainError::NoTokenizer(_)), "{refused}");
    let recipe = parse(&[&with("ar/tokenizer.json")]).unwrap();
    let refused = folder.run_from(Some(&alone), "none", &recipe, false, |_| true);
    assert!(matches!(refused.unwrap_err(), TrainError::Text(_)));
}

/// Published checkpoints of the repository, with their own tokenizers, and an Eso-LM (A).
#[test]
fn published_forms_are_trained_on() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/");
    let folder = Folder::new("init-published");
    for (name, family) in [
        ("cases/bert.ckpt", Family::EsoLm),
        ("cases/text8.ckpt", Family::Mdlm),
        ("cases/sentencepiece.ckpt", Family::EsoLm),
        ("cases/ar-old.ckpt", Family::Ar),
    ] {
        let spec = format!("{root}{name}");
        let checkpoint = Checkpoint::open(&spec, &OpenOptions::default()).unwrap();
        let (own, has_tokenizer) = (
            checkpoint.config().clone(),
            checkpoint.tokenizer_json().is_some(),
        );
        println!("{name}: {own:?}, tokenizer: {has_tokenizer}");
        assert_eq!(own.family, family, "{name}");
        if !has_tokenizer {
            continue;
        }
        let source = Source::new(&spec, checkpoint);
        let text = format!(
            "[data]\ntrain=[{0:?}]\nholdout=[{0:?}]\n[run]\nbatch=2\ntokens=64\nvalidate_windows=4\n",
            folder.text()
        );
        let recipe = Recipe::parse_from(&text, &sets(&["model.length=8"]), &source).unwrap();
        let out = name.replace('/', "-");
        start(&folder, &source, &out, &recipe);
        folder.run(&out, &recipe, true, 0).unwrap();
        let made = open(&folder.0.join(&out).join("model"));
        assert_eq!(made.config().mask_index, own.mask_index, "{name}");
        assert_eq!(made.config().prepend, own.prepend, "{name}");
    }

    let mut config = {
        trained(&folder, "esolm", &[]);
        source(&folder, "esolm")
    };
    let path = folder.0.join("esolm/model/config.json");
    let json = fs::read_to_string(&path).unwrap();
    let mixed = json.replacen('{', "{\"diffusion_attn_mode\": \"mixed2\",", 1);
    fs::write(&path, mixed).unwrap();
    config = Source::new(config.name(), open(&folder.0.join("esolm/model")));
    assert_eq!(config.checkpoint().config().attention, AttentionKind::Mixed);
    let recipe = Recipe::parse_from(&bare(&folder), &[], &config).unwrap();
    let (_, notes) = start(&folder, &config, "causal", &recipe);
    assert!(
        notes.iter().any(|note| note.contains("Eso-LM (A)")),
        "{notes:?}"
    );
}
