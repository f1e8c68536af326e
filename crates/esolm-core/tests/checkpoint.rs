//! Checkpoints that must open, and what they must contain.

mod common;

use common::{Folder, golden, golden_path, golden_tensors, pack};
use esolm_core::checkpoint::{
    Checkpoint, OpenOptions, SHARD_BYTES, SourceKind, StoreDtype, write_hf_folder,
};
use esolm_core::config::{AttentionKind, Family, ModelConfig, Prepend};

/// A folder as downloaded from the hub, made from a golden pair.
fn hf_folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("config.json", &golden(&format!("{name}.config.json")));
    folder.write(
        "model.safetensors",
        &golden(&format!("{name}.ema.safetensors")),
    );
    folder
}

/// Checks that every tensor of `checkpoint` equals its namesake in a golden file, bit for bit, and that there are no
/// others.
fn assert_same_weights(checkpoint: &Checkpoint, file: &str) {
    let mut expected = golden_tensors(file);
    expected.remove("rotary_emb.inv_freq");
    assert_eq!(checkpoint.parameters().count(), expected.len());
    for info in checkpoint.parameters() {
        let (shape, values) = &expected[&info.name];
        assert_eq!(&info.shape, shape, "{}", info.name);
        let found = checkpoint.f32(&info.name).unwrap();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(values), "{}", info.name);
    }
}

#[test]
fn hugging_face_folders_open() {
    for (name, family, cond_dim, n_blocks) in [
        ("model_a", Family::EsoLm, 32, 4),
        ("mdlm", Family::Mdlm, 32, 2),
        ("ar", Family::Ar, 0, 2),
    ] {
        let folder = hf_folder(name);
        let checkpoint = Checkpoint::open(folder.spec(), &OpenOptions::default()).unwrap();
        let config = checkpoint.config();
        assert_eq!(
            (config.family, config.cond_dim, config.n_blocks),
            (family, cond_dim, n_blocks)
        );
        assert_eq!((config.hidden, config.n_heads, config.length), (64, 4, 32));
        assert_eq!((config.vocab_size, config.mask_index), (97, 96));
        assert_eq!(config.alpha_0, (name == "model_a").then_some(0.5));
        assert_eq!(checkpoint.source(), SourceKind::HfFolder);
        assert_eq!(checkpoint.tokenizer_path(), None);
        let names: Vec<_> = checkpoint
            .parameters()
            .map(|info| info.name.clone())
            .collect();
        let parameters: Vec<_> = config
            .parameters()
            .into_iter()
            .map(|spec| spec.name)
            .collect();
        assert_eq!(names, parameters);
        assert_same_weights(&checkpoint, &format!("{name}.ema.safetensors"));
    }
}

#[test]
fn bare_safetensors_open_with_a_configuration() {
    let folder = Folder::new("bare");
    let weights = folder.write("weights.safetensors", &golden("mdlm.ema.safetensors"));
    let config = folder.write("other.json", &golden("mdlm.config.json"));
    let options = OpenOptions {
        config: Some(config),
        raw_weights: false,
        ..OpenOptions::default()
    };
    let checkpoint = Checkpoint::open(weights.to_str().unwrap(), &options).unwrap();
    assert_eq!(checkpoint.source(), SourceKind::Safetensors);
    assert_same_weights(&checkpoint, "mdlm.ema.safetensors");
    // A config.json next to it also works, and so does a tokenizer.
    folder.write("config.json", &golden("mdlm.config.json"));
    let tokenizer = folder.write("tokenizer.json", b"{}");
    let checkpoint = Checkpoint::open(weights.to_str().unwrap(), &OpenOptions::default()).unwrap();
    assert_eq!(checkpoint.tokenizer_path(), Some(tokenizer));
}

#[test]
fn what_the_configuration_leaves_out_comes_from_the_tensors() {
    let bytes = golden("model_a.ema.safetensors");
    let full = Checkpoint::from_safetensors_bytes(
        &String::from_utf8(golden("model_a.config.json")).unwrap(),
        bytes.clone(),
    )
    .unwrap();
    let little =
        Checkpoint::from_safetensors_bytes(r#"{"length": 32, "alpha_0": 0.5}"#, bytes).unwrap();
    assert_eq!(little.config(), full.config());
    let ar = Checkpoint::from_safetensors_bytes(r#"{"length": 32}"#, golden("ar.ema.safetensors"))
        .unwrap();
    assert_eq!(
        (ar.config().family, ar.config().attention),
        (Family::Ar, AttentionKind::Causal)
    );
}

#[test]
fn half_precision_weights_are_read_exactly() {
    let config = String::from_utf8(golden("model_a.config.json")).unwrap();
    let tensors = golden_tensors("model_a.ema.safetensors");
    for dtype in ["F16", "BF16"] {
        let bytes = pack(&tensors, dtype);
        let checkpoint = Checkpoint::from_safetensors_bytes(&config, bytes).unwrap();
        for info in checkpoint.parameters() {
            let expected: Vec<f32> = tensors[&info.name]
                .1
                .iter()
                .map(|&x| {
                    if dtype == "F16" {
                        half::f16::from_f32(x).to_f32()
                    } else {
                        half::bf16::from_f32(x).to_f32()
                    }
                })
                .collect();
            assert_eq!(
                checkpoint.f32(&info.name).unwrap(),
                expected,
                "{} {dtype}",
                info.name
            );
            assert_eq!(info.form().to_string(), dtype.to_lowercase());
            assert_eq!(info.bytes(), 2 * expected.len() as u64);
        }
    }
}

#[test]
fn conversion_round_trip() {
    for name in ["model_a", "mdlm", "ar"] {
        let folder = hf_folder(name);
        folder.write("tokenizer.json", b"{\"model\": {}}");
        let checkpoint = Checkpoint::open(folder.spec(), &OpenOptions::default()).unwrap();
        let out = folder.path("out/deep");
        write_hf_folder(&checkpoint, &out, StoreDtype::F32, SHARD_BYTES).unwrap();
        let again = Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!(again.config(), checkpoint.config());
        assert_same_weights(&again, &format!("{name}.ema.safetensors"));
        assert_eq!(
            std::fs::read(again.tokenizer_path().unwrap()).unwrap(),
            b"{\"model\": {}}"
        );
        // The format's own crate reads the file too.
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let view = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(view.len(), checkpoint.parameters().count());
        assert_eq!(
            view.tensor("backbone.vocab_embed.embedding")
                .unwrap()
                .shape(),
            [97, 64]
        );

        // f16 over the f32 folder: replaced as a whole, nothing else left.
        write_hf_folder(&checkpoint, &out, StoreDtype::F16, SHARD_BYTES).unwrap();
        let half = Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
        for info in half.parameters() {
            let expected: Vec<f32> = checkpoint
                .f32(&info.name)
                .unwrap()
                .iter()
                .map(|&x| half::f16::from_f32(x).to_f32())
                .collect();
            assert_eq!(half.f32(&info.name).unwrap(), expected);
        }
        let mut left: Vec<_> = std::fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["config.json", "model.safetensors", "tokenizer.json"]);
    }
}

#[test]
fn the_golden_configurations_say_what_the_weights_are() {
    for (name, heads) in [("model_a", 4), ("mdlm", 4), ("ar", 4)] {
        let config = ModelConfig::from_json(
            &String::from_utf8(golden(&format!("{name}.config.json"))).unwrap(),
        )
        .unwrap();
        assert_eq!(config.n_heads, heads);
        let tensors = golden_tensors(&format!("{name}.ema.safetensors"));
        for spec in config.parameters() {
            assert_eq!(tensors[&spec.name].0, spec.shape, "{}", spec.name);
        }
    }
}

#[test]
fn lightning_checkpoints_give_the_ema_weights_and_on_request_the_raw_ones() {
    for (name, family) in [
        ("mini_esolm", Family::EsoLm),
        ("mini_mdlm", Family::Mdlm),
        ("mini_ar", Family::Ar),
    ] {
        for raw_weights in [false, true] {
            let path = golden_path(&format!("{name}.ckpt"));
            let options = OpenOptions {
                config: None,
                raw_weights,
                ..OpenOptions::default()
            };
            let mapped = Checkpoint::open(path.to_str().unwrap(), &options).unwrap();
            let owned =
                Checkpoint::from_ckpt_bytes(golden(&format!("{name}.ckpt")), raw_weights).unwrap();
            for checkpoint in [mapped, owned] {
                let config = checkpoint.config();
                assert_eq!(
                    (
                        config.family,
                        config.hidden,
                        config.n_blocks,
                        config.n_heads
                    ),
                    (family, 16, 1, 2)
                );
                assert_eq!(
                    (config.length, config.vocab_size, config.mask_index),
                    (8, 97, 96)
                );
                assert_eq!(config.cond_dim, if family == Family::Ar { 0 } else { 8 });
                assert_eq!(config.alpha_0, (family == Family::EsoLm).then_some(0.5));
                assert_eq!(
                    (config.bos, config.eos, config.dropout),
                    (Some(95), Some(95), 0.1)
                );
                let attention = if family == Family::Mdlm {
                    AttentionKind::Bidirectional
                } else {
                    AttentionKind::Causal
                };
                assert_eq!(
                    (config.attention, config.prepend),
                    (attention, Prepend::None)
                );
                assert_eq!(
                    checkpoint.source(),
                    SourceKind::Lightning { ema: !raw_weights }
                );
                let weights = if raw_weights { "raw" } else { "ema" };
                assert_same_weights(&checkpoint, &format!("{name}.{weights}.safetensors"));
            }
        }
    }
}

#[test]
fn a_lightning_checkpoint_converts_to_a_folder_with_its_tokenizer() {
    let folder = Folder::new("converted");
    let checkpoint = Checkpoint::from_ckpt_bytes(golden("mini_esolm.ckpt"), false).unwrap();
    let out = folder.path("out");
    write_hf_folder(&checkpoint, &out, StoreDtype::F32, SHARD_BYTES).unwrap();
    let again = Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
    assert_eq!(again.config(), checkpoint.config());
    assert_same_weights(&again, "mini_esolm.ema.safetensors");
    let text = std::fs::read_to_string(again.tokenizer_path().unwrap()).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(tokenizer["model"]["type"], "BPE");
    assert_eq!(tokenizer["added_tokens"][0]["id"], 95);
}

#[test]
fn a_given_configuration_replaces_the_one_in_a_lightning_checkpoint() {
    let folder = Folder::new("given");
    let json = Checkpoint::from_ckpt_bytes(golden("mini_mdlm.ckpt"), false)
        .unwrap()
        .config()
        .to_json();
    let config = folder.write(
        "other.json",
        json.replace("\"model_length\": 8", "\"model_length\": 16")
            .as_bytes(),
    );
    let options = OpenOptions {
        config: Some(config),
        raw_weights: false,
        ..OpenOptions::default()
    };
    let checkpoint =
        Checkpoint::open(golden_path("mini_mdlm.ckpt").to_str().unwrap(), &options).unwrap();
    assert_eq!(checkpoint.config().length, 16);
}

#[test]
fn the_model_that_ships_opens() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/stories");
    let checkpoint = Checkpoint::open(folder, &OpenOptions::default()).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.family, config.alpha_0), (Family::EsoLm, Some(0.25)));
    assert_eq!(
        (config.length, config.vocab_size, config.mask_index),
        (256, 3969, 3968)
    );
    assert_eq!((config.bos, config.eos), (Some(0), Some(0)));
    assert!(checkpoint.tokenizer_path().is_some());
    let count: usize = checkpoint
        .parameters()
        .map(|info| checkpoint.f32(&info.name).unwrap().len())
        .sum();
    assert_eq!(count, 4_492_449);
}

#[test]
fn recommended_settings_come_along() {
    let folder = hf_folder("model_a");
    let open = |folder: &Folder| Checkpoint::open(folder.spec(), &OpenOptions::default());
    assert_eq!(open(&folder).unwrap().recommended().to_json(), None);
    folder.write(
        "generation_config.json",
        br#"{"top_k": 20, "esolm": {"temperature": 0.5}}"#,
    );
    let checkpoint = open(&folder).unwrap();
    assert_eq!(checkpoint.recommended().temperature, Some(0.5));
    assert_eq!(checkpoint.recommended().top_k, None);
    let copy = Folder::new("recommended-copy");
    write_hf_folder(
        &checkpoint,
        copy.spec().as_ref(),
        StoreDtype::F16,
        SHARD_BYTES,
    )
    .unwrap();
    assert_eq!(open(&copy).unwrap().recommended(), checkpoint.recommended());
    folder.write("generation_config.json", br#"{"esolm": {"heat": 1}}"#);
    let error = open(&folder).unwrap_err().to_string();
    assert!(
        error.contains("generation_config.json") && error.contains("heat"),
        "{error}"
    );
}
