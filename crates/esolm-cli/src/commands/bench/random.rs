//! Weights for timing: random, of any shape, made in memory.

use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;
use esolm::rng::{Purpose, Stream};

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
    // A name, a dtype, a shape and a place for each tensor, then the numbers: the safetensors layout.
    let mut header = String::from("{");
    let mut end = 0u64;
    let parameters = config.parameters();
    for parameter in &parameters {
        let begin = end;
        end += 2 * parameter.elements();
        let comma = if header.len() > 1 { "," } else { "" };
        header.push_str(&format!(
            r#"{comma}"backbone.{}":{{"dtype":"F16","shape":{:?},"data_offsets":[{begin},{end}]}}"#,
            parameter.name, parameter.shape
        ));
    }
    header.push('}');
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.reserve_exact(header.len() + end as usize);
    bytes.extend(header.as_bytes());
    let mut stream = Stream::new(1, 0, Purpose::Other(1));
    for parameter in &parameters {
        for _ in 0..parameter.elements().div_ceil(2) {
            // Two numbers of about +-0.03 a word: the exponent is fixed, sign and mantissa are random.
            bytes.extend(((stream.next_u32() & 0x83ff_83ff) | 0x2400_2400).to_le_bytes());
        }
        bytes.truncate(bytes.len() - 2 * (parameter.elements() % 2) as usize);
    }
    let name = format!(
        "random weights: hidden {hidden}, {blocks} blocks, {heads} heads, vocabulary {vocab}"
    );
    Ok((Checkpoint::from_safetensors_bytes(&json, bytes)?, name))
}
