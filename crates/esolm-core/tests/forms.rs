//! Forms of weights other than those that the published code writes: wrapped modules, several files, state dicts, no
//! averages.

mod common;

use std::path::Path;

use common::forge::{archive, dict, entry, ordered, program, zip};
use common::forged::{Forged, state};
use common::{Folder, Tensors, assert_told, case_path, golden, golden_path, golden_tensors, pack};
use esolm_core::checkpoint::{Checkpoint, CheckpointError, OpenOptions, SourceKind};

fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default())
}

/// Every tensor equals its namesake, and there are no others.
fn assert_weights(checkpoint: &Checkpoint, mut expected: Tensors) {
    expected.remove("rotary_emb.inv_freq");
    assert_eq!(checkpoint.parameters().count(), expected.len());
    for info in checkpoint.parameters() {
        assert_eq!(
            checkpoint.f32(&info.name).unwrap(),
            expected[&info.name].1,
            "{}",
            info.name
        );
    }
}

#[test]
fn wrapped_modules_open_under_their_plain_names() {
    let checkpoint = open(&case_path("torch-compile.ckpt")).unwrap();
    let plain = open(&golden_path("mini_esolm.ckpt")).unwrap();
    for info in checkpoint.parameters() {
        assert_eq!(
            checkpoint.f32(&info.name).unwrap(),
            plain.f32(&info.name).unwrap()
        );
    }
    let config = String::from_utf8(golden("mdlm.config.json")).unwrap();
    let tensors = golden_tensors("mdlm.ema.safetensors");
    let opened = |rename: &dyn Fn(&str) -> String| {
        let named = (tensors.iter()).map(|(name, tensor)| (rename(name), tensor.clone()));
        // `pack` puts `backbone.` before each name.
        let bytes = pack(&named.collect(), "F32");
        Checkpoint::from_safetensors_bytes(&config, bytes)
    };
    for wrapper in [
        "_orig_mod.",
        "module.",
        "_forward_module.",
        "module._orig_mod.",
    ] {
        let checkpoint = opened(&|name| format!("{wrapper}{name}")).unwrap();
        assert_weights(&checkpoint, tensors.clone());
        let inner = |name: &str| name.replace("blocks.1.", &format!("blocks.1.{wrapper}"));
        assert_weights(&opened(&inner).unwrap(), tensors.clone());
    }
    // Before the prefix, as state dicts of a wrapped LightningModule have it.
    let forged = Forged::with(|f| {
        for (name, _) in &mut f.state {
            *name = Box::leak(format!("_forward_module.{name}").into_boxed_str());
        }
    });
    forged.open().unwrap();
    // Both spellings of one name: nothing determines which is valid.
    let mut twice = tensors.clone();
    let embedding = twice["vocab_embed.embedding"].clone();
    twice.insert("_orig_mod.vocab_embed.embedding".into(), embedding);
    assert_told(
        Checkpoint::from_safetensors_bytes(&config, pack(&twice, "F32")),
        "vocab_embed.embedding twice|nothing tells",
    );
}

#[test]
fn weights_in_several_files_open() {
    let folder = Folder::new("shards");
    folder.write("config.json", &golden("mdlm.config.json"));
    let tensors = golden_tensors("mdlm.ema.safetensors");
    let half = tensors.len() / 2;
    let shard = |number: usize| format!("model-0000{number}-of-00002.safetensors");
    let mut map = serde_json::Map::new();
    for number in [1, 2] {
        let part = tensors
            .iter()
            .enumerate()
            .filter(|(i, _)| (i / half >= 1) == (number == 2));
        let part: Tensors = part
            .map(|(_, (name, tensor))| (name.clone(), tensor.clone()))
            .collect();
        for name in part.keys() {
            map.insert(format!("backbone.{name}"), shard(number).into());
        }
        folder.write(&shard(number), &pack(&part, "F32"));
    }
    let index = |map: &serde_json::Map<_, _>| {
        let text = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        folder.write("model.safetensors.index.json", text.to_string().as_bytes())
    };
    let path = index(&map);
    for spec in [folder.path(""), path] {
        let checkpoint = open(&spec).unwrap();
        assert_weights(&checkpoint, tensors.clone());
        let bytes = [1, 2].map(|number| {
            std::fs::metadata(folder.path(&shard(number)))
                .unwrap()
                .len()
        });
        assert_eq!(checkpoint.file_bytes(), bytes.iter().sum::<u64>());
    }
    let second = folder.path(&shard(2));
    let whole = std::fs::read(&second).unwrap();
    std::fs::write(&second, &whole[..5000]).unwrap();
    assert_told(
        open(&folder.path("")),
        "model-00002-of-00002.safetensors: |truncated|download",
    );
    std::fs::remove_file(&second).unwrap();
    assert_told(
        open(&folder.path("")),
        "model.safetensors.index.json: it names model-00002-of-00002.safetensors, which is not there",
    );
    std::fs::write(&second, &whole).unwrap();
    let mut less = map.clone();
    less.remove("backbone.vocab_embed.embedding");
    index(&less);
    assert_told(
        open(&folder.path("")),
        "of-00002.safetensors holds tensor backbone.vocab_embed.embedding|does not list",
    );
    let mut more = map.clone();
    more.insert("backbone.none".into(), shard(1).into());
    index(&more);
    assert_told(
        open(&folder.path("")),
        "of-00002.safetensors does not hold tensor backbone.none",
    );
}

/// Files of the family's other code contain more than weights.
#[test]
fn tensors_without_a_use_are_ignored_by_name() {
    let mut tensors = golden_tensors("mdlm.ema.safetensors");
    tensors.insert("static_attention_mask".into(), (vec![2, 2], vec![0.0; 4]));
    tensors.insert("sampling_eps_min".into(), (vec![], vec![0.001]));
    let config = String::from_utf8(golden("mdlm.config.json")).unwrap();
    let opened = Checkpoint::from_safetensors_bytes(&config, pack(&tensors, "F32")).unwrap();
    assert_eq!(
        opened.ignored(),
        ["static_attention_mask", "sampling_eps_min"]
    );
    let plain = Checkpoint::from_safetensors_bytes(&config, golden("mdlm.ema.safetensors"));
    assert!(plain.unwrap().ignored().is_empty());
    tensors.insert("other_attention_mask".into(), (vec![2, 2], vec![0.0; 4]));
    let opened = Checkpoint::from_safetensors_bytes(&config, pack(&tensors, "F32"));
    assert_told(opened, "other_attention_mask|not a part of");
}

#[test]
fn state_dicts_open_with_a_configuration() {
    let folder = Folder::new("state");
    let state = state();
    let bytes = archive(&program(ordered(&state)));
    let config = br#"{"model_type": "ar", "n_heads": 1, "length": 4}"#;
    let file = folder.write("weights.pt", &bytes);
    assert_told(open(&file), "weights.pt|without a configuration");
    folder.write("config.json", config);
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.source(), SourceKind::StateDict);
    assert_eq!(
        checkpoint.f32("output_layer.linear.bias").unwrap(),
        [0., 1., 2.]
    );

    let hub = Folder::new("bin");
    hub.write("config.json", config);
    hub.write("pytorch_model.bin", &bytes);
    let checkpoint = open(&hub.path("")).unwrap();
    assert_eq!(checkpoint.source(), SourceKind::HfFolder);
    assert_eq!(
        checkpoint.f32("output_layer.linear.bias").unwrap(),
        [0., 1., 2.]
    );
    // safetensors are preferred
    hub.write("model.safetensors", b"");
    assert_told(open(&hub.path("")), "the file is empty");

    // A state dict inside another dictionary, with nothing that identifies it.
    let nested = archive(&program(dict(&[("state_dict", ordered(&state))])));
    let nested = folder.write("nested.ckpt", &nested);
    assert_eq!(
        open(&nested).unwrap().source(),
        SourceKind::LightningWithoutEma
    );
    let raw = OpenOptions {
        config: None,
        raw_weights: true,
        ..OpenOptions::default()
    };
    assert_told(
        Checkpoint::open(file.to_str().unwrap(), &raw),
        "raw weights|.ckpt",
    );
    let none = zip(&[entry("x/data.pkl", &program(dict(&[])))], false);
    assert_told(open(&folder.write("none.pt", &none)), "no state_dict");
}

#[test]
fn a_checkpoint_without_averages_gives_its_raw_weights_and_says_so() {
    let checkpoint = open(&case_path("sentencepiece.ckpt")).unwrap();
    assert_eq!(checkpoint.source(), SourceKind::LightningWithoutEma);
    assert!(
        checkpoint
            .source()
            .to_string()
            .contains("without EMA weights")
    );
    assert_weights(
        &checkpoint,
        golden_tensors("../cases/sentencepiece.safetensors"),
    );
}
