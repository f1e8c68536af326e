//! Weights for timing: random, of any shape, made in memory.

use std::io::{self, Write};

use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;
use esolm::rng::{Purpose, Stream};
use esolm_checkpoint::{Dtype, SafetensorsWriter, TensorSpec};

use crate::arguments::Bench;
use crate::failure::Failure;

/// A checkpoint of the asked shape with random f16 weights, and its name.
pub fn checkpoint(arguments: &Bench) -> Result<(Checkpoint, String), Failure> {
    let (hidden, blocks, heads, vocab) = (
        arguments.hidden,
        arguments.blocks,
        arguments.heads,
        arguments.vocab,
    );
    if vocab == 0 || arguments.length == 0 {
        return Err(Failure::usage("--vocab and --length must be at least 1"));
    }
    let json = format!(
        r#"{{"model_type": "EsoLM", "hidden_size": {hidden}, "cond_dim": 128, "n_blocks": {blocks}, "n_heads": {heads}, "model_length": {}, "vocab_size": {vocab}, "mask_index": {}}}"#,
        arguments.length,
        vocab - 1
    );
    let config =
        ModelConfig::from_json(&json).map_err(|error| Failure::usage(error.to_string()))?;
    let specs: Vec<_> = config
        .parameters()
        .into_iter()
        .map(|parameter| {
            let name = format!("backbone.{}", parameter.name);
            TensorSpec::new(name, Dtype::F16, parameter.shape)
        })
        .collect();
    let bytes = write(&specs).map_err(|error| {
        Failure::failed(format!("the weights of this shape cannot be made: {error}"))
    })?;
    let name = format!(
        "random weights: hidden {hidden}, {blocks} blocks, {heads} heads, vocabulary {vocab}"
    );
    Ok((Checkpoint::from_safetensors_bytes(&json, bytes)?, name))
}

/// A safetensors file of random numbers.
fn write(specs: &[TensorSpec]) -> io::Result<Vec<u8>> {
    let bytes = |spec: &TensorSpec| 2 * spec.shape.iter().product::<usize>();
    // In one piece, with more than enough for the header.
    let size = specs.iter().map(|spec| bytes(spec) + 200).sum();
    let mut writer = SafetensorsWriter::new(Vec::with_capacity(size), &[], specs)?;
    let mut stream = Stream::new(1, 0, Purpose::Other(1));
    for spec in specs {
        let mut left = bytes(spec);
        while left > 0 {
            // Two numbers of about +-0.03 a word: the exponent is fixed, sign and mantissa are random.
            let word = (stream.next_u32() & 0x83ff_83ff) | 0x2400_2400;
            let piece = &word.to_le_bytes()[..left.min(4)];
            writer.write_all(piece)?;
            left -= piece.len();
        }
    }
    writer.finish()
}
