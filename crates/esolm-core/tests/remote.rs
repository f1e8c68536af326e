//! Checkpoints that are read in parts.

mod common;

use common::golden;
use common::recorded::{Recorded, now};
use esolm_core::checkpoint::{Checkpoint, CheckpointError, SourceKind};

fn open(config: Option<&str>, source: &Recorded) -> Result<Checkpoint, CheckpointError> {
    now(Checkpoint::from_source(
        config,
        None,
        Box::new(source.clone()),
        false,
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
        .tensors()
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

    // Its first bytes, its header, its rotary buffer, and what was fetched.
    let fetched = (whole.tensors()).filter(|info| info.name.starts_with("blocks.1."));
    assert_eq!(source.read.lock().unwrap().len(), 3 + fetched.count());
    // What is there anyway needs no fetching.
    now(whole.fetch("blocks.")).unwrap();
}

#[test]
fn a_lightning_checkpoint_is_read_whole() {
    let source = Recorded::new(golden("mini_esolm.ckpt"));
    let parts = open(None, &source).unwrap();
    assert_eq!(parts.source(), SourceKind::Lightning { ema: true });
    let whole = Checkpoint::from_ckpt_bytes(golden("mini_esolm.ckpt"), false).unwrap();
    for info in whole.tensors() {
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
