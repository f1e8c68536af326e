//! Checkpoints that are read in parts.

mod common;

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use common::golden;
use esolm_core::checkpoint::{ByteSource, Checkpoint, CheckpointError, Reading, SourceKind};

/// Bytes in memory that keep a record of what was read of them.
#[derive(Clone)]
struct Recorded {
    bytes: Arc<Vec<u8>>,
    /// What it says of its size.
    size: u64,
    read: Arc<Mutex<Vec<Range<u64>>>>,
}

impl Recorded {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            size: bytes.len() as u64,
            bytes: Arc::new(bytes),
            read: Arc::default(),
        }
    }

    fn largest(&self) -> u64 {
        let read = self.read.lock().unwrap();
        read.iter()
            .map(|range| range.end - range.start)
            .max()
            .unwrap()
    }
}

impl ByteSource for Recorded {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Reading<'_> {
        self.read.lock().unwrap().push(range.clone());
        let end = (range.end as usize).min(self.bytes.len());
        let part = self.bytes[(range.start as usize).min(end)..end].to_vec();
        Box::pin(std::future::ready(Ok(part)))
    }
}

/// These sources are always ready.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a source in memory makes nobody wait"),
    }
}

fn open(config: Option<&str>, source: &Recorded) -> Result<Checkpoint, CheckpointError> {
    now(Checkpoint::from_source(
        config,
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

    let header = source.read.lock().unwrap()[1].clone();
    let tensor = whole.tensors().map(|info| info.bytes).max().unwrap();
    assert!(source.largest() <= tensor.max(header.end - header.start));
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
fn what_does_not_come_is_said() {
    let weights = golden("model_a.ema.safetensors");
    let mut short = Recorded::new(weights[..weights.len() / 2].to_vec());
    short.size = weights.len() as u64;
    let parts = open(Some(&config()), &short).unwrap();
    let error = now(parts.fetch("")).unwrap_err().to_string();
    assert!(error.contains("bytes came; download it again"), "{error}");

    let truncated = Recorded::new(weights[..weights.len() - 4].to_vec());
    let message = refused(Some(&config()), &truncated);
    assert!(message.contains("truncated"), "{message}");
    let message = refused(None, &Recorded::new(weights));
    assert!(message.contains("config"), "{message}");
    let message = refused(Some(&config()), &Recorded::new(b"<!DOCTYPE html>".to_vec()));
    assert!(message.contains("web page"), "{message}");
    let message = refused(Some(&config()), &Recorded::new(Vec::new()));
    assert!(message.contains("empty"), "{message}");

    let mut huge = Recorded::new(golden("mini_esolm.ckpt"));
    huge.size = 3 << 30;
    let message = refused(None, &huge);
    assert!(
        message.contains("3072 MiB") && message.contains("esolm convert"),
        "{message}"
    );
    // A header that claims more than the file has is not allocated.
    let mut claims = u64::MAX.to_le_bytes().to_vec();
    claims.extend(b"{\"a\":1}");
    let message = refused(Some(&config()), &Recorded::new(claims));
    assert!(message.contains("truncated"), "{message}");
}
