//! Files read in parts.

mod common;

use common::recorded::{Recorded, now};
use common::{assert_told, golden};
use esolm_checkpoint::{Error, Format, TensorFile};

fn open(source: &Recorded) -> Result<TensorFile, Error> {
    now(TensorFile::from_source(Box::new(source.clone())))
}

#[test]
fn tensors_come_when_they_are_fetched_and_go_when_they_are_read() {
    let bytes = golden("model_a.ema.safetensors");
    let whole = TensorFile::from_bytes(bytes.clone(), Format::Safetensors).unwrap();
    let source = Recorded::new(bytes);
    let parts = open(&source).unwrap();
    assert_eq!(parts.tensors(), whole.tensors());
    assert_eq!(parts.metadata(), whole.metadata());
    assert_eq!(parts.file_bytes(), whole.file_bytes());
    for tensor in parts.tensors() {
        let name = tensor.name.as_str();
        let early = parts.f32(tensor).unwrap_err().to_string();
        assert!(
            early.contains(name) && early.contains("was not fetched"),
            "{early}"
        );
        now(parts.fetch(tensor)).unwrap();
        assert_eq!(parts.f32(tensor).unwrap(), whole.f32(tensor).unwrap());
        assert!(parts.f32(tensor).is_err(), "{name} is held no longer");
        // A file held in memory needs no fetching.
        now(whole.fetch(tensor)).unwrap();
    }
    let header = source.read.lock().unwrap()[1].clone();
    let tensor = whole.tensors().iter().map(|info| info.bytes).max().unwrap();
    assert!(source.largest() <= tensor.max(header.end - header.start));
}

#[test]
fn a_file_of_torch_save_is_read_whole() {
    let bytes = golden("mini_esolm.ckpt");
    let parts = open(&Recorded::new(bytes.clone())).unwrap();
    let whole = TensorFile::from_bytes(bytes, Format::PyTorch).unwrap();
    for tensor in whole.tensors() {
        assert_eq!(parts.f32(tensor).unwrap(), whole.f32(tensor).unwrap());
    }
}

#[test]
fn what_does_not_come_is_said() {
    let weights = golden("model_a.ema.safetensors");
    let mut short = Recorded::new(weights[..weights.len() / 2].to_vec());
    short.size = weights.len() as u64;
    let parts = open(&short).unwrap();
    let all = parts
        .tensors()
        .iter()
        .map(|tensor| now(parts.fetch(tensor)));
    let cut = all.collect::<Result<Vec<_>, _>>();
    // a cut source
    assert_told(cut, "bytes came; download it again");

    let mut huge = Recorded::new(golden("mini_esolm.ckpt"));
    huge.size = 3 << 30;
    // A header that claims more than the file has is not allocated.
    let mut claims = u64::MAX.to_le_bytes().to_vec();
    claims.extend(b"{\"a\":1}");
    for (source, words) in [
        // truncated
        (
            Recorded::new(weights[..weights.len() - 4].to_vec()),
            "header|truncated",
        ),
        // web page
        (
            Recorded::new(b"<!DOCTYPE html>".to_vec()),
            "web page|download",
        ),
        // empty
        (Recorded::new(Vec::new()), "empty|download"),
        // huge
        (huge, "3072 MiB|read whole"),
        // claims
        (Recorded::new(claims), "header|truncated"),
    ] {
        assert_told(open(&source), words);
    }
}

#[test]
fn opening_can_move_between_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let source = Recorded::new(golden("model_a.ema.safetensors"));
    let file = now(is_send(TensorFile::from_source(Box::new(source)))).unwrap();
    now(is_send(file.fetch(&file.tensors()[0]))).unwrap();
    is_send(file);
}
