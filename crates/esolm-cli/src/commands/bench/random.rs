//! Weights for timing: random, of any shape, created in memory.

use std::io::{self, Write};

use esolm::checkpoint::Checkpoint;
use esolm::config::{ConfigError, ModelConfig};
use esolm::rng::{Purpose, Stream};
use esolm_checkpoint::{Dtype, SafetensorsWriter, TensorSpec};
use serde_json::{Value, json};

use crate::arguments::{Bench, LikeName};
use crate::failure::Failure;

/// A checkpoint of the requested shape with random f16 weights, and its name.
pub fn checkpoint(arguments: &Bench) -> Result<(Checkpoint, String), Failure> {
    let model = &arguments.model;
    let says_how = model.config.is_some() || model.raw_weights || model.read_as().family.is_some();
    if says_how || model.block_size.is_some() {
        return Err(Failure::usage(
            "--config, --raw-weights, --as and --block-size say how to read a checkpoint; name it with --model",
        ));
    }
    let json = match arguments.like {
        Some(name) => like(name),
        None => esolm(arguments),
    };
    let config = ModelConfig::from_json(&json.to_string()).map_err(refused)?;
    let prefix = match config.decoder {
        Some(_) => "",
        None => "backbone.",
    };
    let specs: Vec<_> = config
        .parameters()
        .into_iter()
        .map(|parameter| {
            let name = format!("{prefix}{}", parameter.name);
            TensorSpec::new(name, Dtype::F16, parameter.shape)
        })
        .collect();
    let bytes = write(&specs).map_err(|error| {
        Failure::failed(format!(
            "the weights of this shape cannot be made: {error}; give a smaller --hidden, --blocks or --vocab"
        ))
    })?;
    let name = match arguments.like {
        Some(name) => format!("random weights of the shape {name}"),
        None => format!(
            "random weights: hidden {}, {} blocks, {} heads, vocabulary {}",
            config.hidden, config.n_blocks, config.n_heads, config.vocab_size
        ),
    };
    let json = json.to_string();
    Ok((Checkpoint::from_safetensors_bytes(&json, bytes)?, name))
}

/// The message about a shape, in terms of the options.
fn refused(error: ConfigError) -> Failure {
    let option = |field| match field {
        "hidden_size" => Some("--hidden"),
        "n_blocks" => Some("--blocks"),
        "n_heads" => Some("--heads"),
        "vocab_size" => Some("--vocab"),
        "model_length" => Some("--length"),
        _ => None,
    };
    Failure::usage(match &error {
        ConfigError::Invalid {
            field,
            found,
            expected,
        } if option(field).is_some() => {
            let option = option(field).unwrap_or_default();
            format!("{option} is {found}; it must be {expected}")
        }
        error => error.to_string(),
    })
}

/// The configuration of an Eso-LM of any shape.
fn esolm(arguments: &Bench) -> Value {
    json!({
        "model_type": "EsoLM",
        "hidden_size": arguments.hidden,
        "cond_dim": 128,
        "n_blocks": arguments.blocks,
        "n_heads": arguments.heads,
        "model_length": arguments.length,
        "vocab_size": arguments.vocab,
        "mask_index": arguments.vocab - 1,
    })
}

/// Vocabulary size of the published decoders.
const VOCABULARY: u32 = 151_936;

/// The configuration of a published decoder, as a BD3-LM: which tokens see each other is determined by the plan.
fn like(name: LikeName) -> Value {
    let (model_type, class) = match name {
        LikeName::Qwen3 => ("a2d-qwen3", "A2DQwen3LMHeadModel"),
        LikeName::Sdar => ("sdar", "SDARForCausalLM"),
    };
    let (hidden, inner, context) = match name {
        LikeName::Qwen3 => (1024, 3072, 40_960),
        LikeName::Sdar => (2048, 6144, 32_768),
    };
    json!({
        "model_type": model_type,
        "architectures": [class],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": context,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "tie_word_embeddings": name == LikeName::Qwen3,
        "mask_token_id": VOCABULARY - 1,
        // The block size of the published comparisons; SDAR's own is 4.
        "block_size": 32,
        "esolm": { "family": "bd3lm" },
    })
}

/// A safetensors file of random numbers.
fn write(specs: &[TensorSpec]) -> io::Result<Vec<u8>> {
    let bytes = |spec: &TensorSpec| {
        let sizes = spec.shape.iter();
        sizes.fold(2, |all: usize, &size| all.saturating_mul(size))
    };
    // One allocation, with ample room for the header.
    let size = specs.iter().fold(0, |all: usize, spec| {
        all.saturating_add(bytes(spec).saturating_add(200))
    });
    let mut file = Vec::new();
    file.try_reserve_exact(size)?;
    let mut writer = SafetensorsWriter::new(file, &[], specs)?;
    let mut stream = Stream::new(1, 0, Purpose::Other(1));
    for spec in specs {
        let mut left = bytes(spec);
        while left > 0 {
            // Two numbers of about +-0.03 per word: the exponent is fixed, sign and mantissa are random.
            let word = (stream.next_u32() & 0x83ff_83ff) | 0x2400_2400;
            let piece = &word.to_le_bytes()[..left.min(4)];
            writer.write_all(piece)?;
            left -= piece.len();
        }
    }
    writer.finish()
}
