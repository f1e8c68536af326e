//! Checkpoints that are read in parts.

mod common;

use std::collections::BTreeMap;

use common::recorded::{Recorded, now};
use common::{assert_told, golden};
use esolm_core::checkpoint::{
    ByteSource, Checkpoint, CheckpointError, SourceKind, Weights, shard_names,
};
use esolm_core::config::ReadAs;

fn open(config: Option<&str>, source: &Recorded) -> Result<Checkpoint, CheckpointError> {
    now(Checkpoint::from_source(
        config,
        None,
        Weights::File(Box::new(source.clone())),
        false,
        ReadAs::default(),
    ))
}

fn config() -> String {
    String::from_utf8(golden("model_a.config.json")).unwrap()
}

fn refused(config: Option<&str>, source: &Recorded) -> String {
    open(config, source)
        .expect_err("it must be refused")
        .to_string()
}

#[test]
fn parameters_come_when_they_are_fetched_and_go_when_they_are_read() {
    let weights = golden("model_a.ema.safetensors");
    let whole = Checkpoint::from_safetensors_bytes(&config(), weights.clone()).unwrap();
    let source = Recorded::new(weights);
    let parts = open(Some(&config()), &source).unwrap();
    assert_eq!(parts.config(), whole.config());
    assert_eq!(parts.file_bytes(), whole.file_bytes());

    let early = parts.f32("blocks.1.attn_qkv.weight").unwrap_err();
    assert!(
        early
            .to_string()
            .contains("blocks.1.attn_qkv.weight was not fetched"),
        "{early}"
    );
    now(parts.fetch("blocks.1.")).unwrap();
    for info in whole
        .parameters()
        .filter(|info| info.name.starts_with("blocks.1."))
    {
        assert_eq!(
            parts.f32(&info.name).unwrap(),
            whole.f32(&info.name).unwrap(),
            "{}",
            info.name
        );
    }
    assert!(
        parts.f32("blocks.1.attn_qkv.weight").is_err(),
        "it is held no longer"
    );
    assert!(parts.f32("blocks.2.attn_qkv.weight").is_err());

    // Its first bytes, its header, its rotary buffer, and what was requested.
    let fetched = (whole.parameters()).filter(|info| info.name.starts_with("blocks.1."));
    assert_eq!(source.read.lock().unwrap().len(), 3 + fetched.count());
    // Nothing that is already present is fetched.
    now(whole.fetch("blocks.")).unwrap();
}

#[test]
fn a_lightning_checkpoint_is_read_whole() {
    let source = Recorded::new(golden("mini_esolm.ckpt"));
    let parts = open(None, &source).unwrap();
    assert_eq!(parts.source(), SourceKind::Lightning { ema: true });
    let whole = Checkpoint::from_ckpt_bytes(golden("mini_esolm.ckpt"), false).unwrap();
    for info in whole.parameters() {
        assert_eq!(
            parts.f32(&info.name).unwrap(),
            whole.f32(&info.name).unwrap()
        );
    }
}

#[test]
fn what_is_missing_is_said() {
    let weights = golden("model_a.ema.safetensors");
    let message = refused(None, &Recorded::new(weights.clone()));
    assert!(message.contains("without a configuration"), "{message}");
    let message = refused(Some("{"), &Recorded::new(weights));
    assert!(message.contains("config.json"), "{message}");
}

type Files = BTreeMap<String, Vec<u8>>;

/// Half of the tensors in each of two files.
fn shards() -> (String, Files) {
    let tensors = common::golden_tensors("model_a.ema.safetensors");
    let mut map = serde_json::Map::new();
    let mut files = BTreeMap::new();
    for number in [0, 1] {
        let file = format!("model-0000{}-of-00002.safetensors", number + 1);
        let part: common::Tensors = (tensors.iter().enumerate())
            .filter(|(i, _)| i % 2 == number)
            .map(|(_, (name, tensor))| (name.clone(), tensor.clone()))
            .collect();
        for name in part.keys() {
            map.insert(format!("backbone.{name}"), file.clone().into());
        }
        files.insert(file, common::pack(&part, "F32"));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    (index.to_string(), files)
}

fn open_shards(
    index: &str,
    files: &BTreeMap<String, Recorded>,
) -> Result<Checkpoint, CheckpointError> {
    let source = |(name, file): (&String, &Recorded)| {
        let source: Box<dyn ByteSource> = Box::new(file.clone());
        (name.clone(), source)
    };
    let weights = Weights::Shards {
        index: index.into(),
        files: files.iter().map(source).collect(),
    };
    now(Checkpoint::from_source(
        Some(&config()),
        None,
        weights,
        false,
        ReadAs::default(),
    ))
}

#[test]
fn weights_in_several_files_are_read_in_parts() {
    let (index, files) = shards();
    assert_eq!(
        shard_names(&index).unwrap(),
        [1, 2].map(|n| format!("model-0000{n}-of-00002.safetensors"))
    );
    let recorded: BTreeMap<String, Recorded> = (files.iter())
        .map(|(name, bytes)| (name.clone(), Recorded::new(bytes.clone())))
        .collect();
    let parts = open_shards(&index, &recorded).unwrap();
    let whole =
        Checkpoint::from_safetensors_bytes(&config(), golden("model_a.ema.safetensors")).unwrap();
    now(parts.fetch("blocks.1.")).unwrap();
    let block = |checkpoint: &Checkpoint| {
        let tensors = checkpoint.parameters();
        let own = tensors.filter(|info| info.name.starts_with("blocks.1."));
        own.map(|info| info.name.clone()).collect::<Vec<_>>()
    };
    for name in block(&whole) {
        assert_eq!(
            parts.f32(&name).unwrap(),
            whole.f32(&name).unwrap(),
            "{name}"
        );
    }
    assert!(
        parts.f32("blocks.0.attn_qkv.weight").is_err(),
        "only what was fetched is held"
    );
    // For each file its first bytes and its header, then the rotary buffer and the block.
    let reads: usize = recorded
        .values()
        .map(|file| file.read.lock().unwrap().len())
        .sum();
    assert_eq!(reads, 2 * 2 + 1 + block(&whole).len());
}

#[test]
fn what_is_wrong_with_one_of_several_files_is_said() {
    let (index, files) = shards();
    let opened = |files: &Files, index: &str| {
        let record =
            |(name, bytes): (&String, &Vec<u8>)| (name.clone(), Recorded::new(bytes.clone()));
        open_shards(index, &files.iter().map(record).collect()).map(drop)
    };
    let second = "model-00002-of-00002.safetensors";
    let edited = |edit: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        edit(&mut files);
        opened(&files, &index)
    };
    assert_told(
        edited(&|files| drop(files.remove(second))),
        "model.safetensors.index.json: it names model-00002-of-00002.safetensors, which is not there|download",
    );
    assert_told(
        edited(&|files| files.get_mut(second).unwrap().truncate(5000)),
        "model-00002-of-00002.safetensors: |truncated|download",
    );
    assert_told(
        edited(&|files| files.get_mut(second).unwrap().clear()),
        "model-00002-of-00002.safetensors: |the file is empty",
    );
    assert_told(
        edited(&|files| {
            let first = files["model-00001-of-00002.safetensors"].clone();
            files.insert(second.into(), first);
        }),
        "of-00002.safetensors|which it does not list",
    );
    for name in [
        "../x",
        "/etc/passwd",
        "https://host/x",
        "a\\\\b",
        "C:x",
        "",
        ".x",
        "a/b",
        "\\u0000",
    ] {
        let index = format!("{{\"weight_map\": {{\"a\": \"{name}\"}}}}");
        assert_told(shard_names(&index), "it names \"|not a file beside it");
        assert_told(opened(&files, &index), "it names \"|not a file beside it");
    }
    for (index, words) in [
        ("{\"weight_map\": {}}", "it names no file"),
        ("{}", "missing field `weight_map`"),
        ("[", "model.safetensors.index.json"),
    ] {
        assert_told(opened(&files, index), words);
    }
}
