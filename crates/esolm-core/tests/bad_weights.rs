//! Weights and configurations that must not open, and the errors for them. Run with `--nocapture` to read the messages.

mod common;

use common::{Tensors, ar_config, assert_told, frame, golden, golden_tensors, pack};
use esolm_core::checkpoint::Checkpoint;

#[test]
fn weights_that_do_not_fit_their_configuration() {
    let change = |edit: &dyn Fn(&mut Tensors)| {
        let mut tensors = golden_tensors("ar.ema.safetensors");
        edit(&mut tensors);
        pack(&tensors, "F32")
    };
    let swap = |from: &str, to: &str| ar_config().replace(from, to);
    let good = golden("ar.ema.safetensors");
    let ints = {
        let header =
            good[8..8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize].to_vec();
        let header = String::from_utf8(header)
            .unwrap()
            .replacen("\"F32\"", "\"I32\"", 1);
        [&good[..8], header.as_bytes(), &good[8 + header.len()..]].concat()
    };
    let mut without_sigma = golden_tensors("model_a.ema.safetensors");
    without_sigma.retain(|name, _| !name.starts_with("sigma_map"));
    let no_block = change(&|t| t.retain(|name, _| !name.starts_with("blocks.1.")));
    let twice = change(&|t| {
        let copy = t["blocks.0.norm1.weight"].clone();
        t.insert("x".into(), copy);
    });
    let twice = String::from_utf8_lossy(&twice)
        .contains("backbone.x")
        .then(|| {
            // The prefix is optional, so that one file can contain both spellings of a name.
            let header_len = u64::from_le_bytes(twice[..8].try_into().unwrap()) as usize;
            let header = String::from_utf8(twice[8..8 + header_len].to_vec())
                .unwrap()
                .replace("backbone.x", "blocks.0.norm1.weight");
            frame(&header, &twice[8 + header_len..])
        });
    for (config, bytes, words) in [
        // missing tensor
        (
            ar_config(),
            change(&|t| drop(t.remove("blocks.1.mlp.0.bias"))),
            "blocks.1.mlp.0.bias|missing|[256]|AR",
        ),
        // missing block
        (ar_config(), no_block, "blocks.1.norm1.weight|missing|[64]"),
        // missing embedding
        (
            ar_config(),
            change(&|t| drop(t.remove("vocab_embed.embedding"))),
            "vocab_embed.embedding|missing|[97, 64]",
        ),
        // extra tensor
        (
            ar_config(),
            change(&|t| drop(t.insert("blocks.0.attn_out.gain".into(), (vec![1], vec![0.0])))),
            "blocks.0.attn_out.gain|not a part of AR with 2 blocks",
        ),
        // a bias in one block that others lack
        (
            ar_config(),
            change(&|t| drop(t.insert("blocks.0.attn_out.bias".into(), (vec![64], vec![0.0; 64])))),
            "blocks.1.attn_out.bias|missing|[64]",
        ),
        // one block fewer
        (
            swap("\"n_blocks\": 2", "\"n_blocks\": 1"),
            good.clone(),
            "blocks.1.|not a part of AR with 1 blocks",
        ),
        // wrong shape
        (
            ar_config(),
            change(&|t| t.get_mut("blocks.0.attn_qkv.weight").unwrap().0 = vec![64, 192]),
            "blocks.0.attn_qkv.weight|[64, 192]|[192, 64]",
        ),
        // integers
        (
            ar_config(),
            ints,
            "i32|only f32, f16 and bf16|blocks.0.attn_out.weight",
        ),
        // one tensor twice
        (ar_config(), twice.unwrap(), "blocks.0.norm1.weight|twice"),
        // wrong width
        (
            swap("64", "32"),
            good.clone(),
            "hidden_size|32|vocab_embed.embedding|64",
        ),
        // wrong vocabulary
        (
            swap("97", "98"),
            good.clone(),
            "vocab_size|98|97|belongs to these weights",
        ),
        // wrong heads
        (
            swap("\"n_heads\": 4", "\"n_heads\": 8"),
            good.clone(),
            "n_heads|8|rotary_emb.inv_freq|4",
        ),
        // no length
        (
            swap("\"model_length\": 32,", ""),
            good.clone(),
            "model_length (or length)|add it",
        ),
        // adaLN in words only
        (
            swap("{", "{\"adaLN\": true, \"cond_dim\": 8,"),
            good.clone(),
            "\"adaLN\" of config.json is true|sigma_map",
        ),
        // adaLN without the embedding of the noise level
        (
            swap("\"n_blocks\": 2", "\"n_blocks\": 4"),
            pack(&without_sigma, "F32"),
            "sigma_map.mlp.0.weight|missing",
        ),
        // no family, conditioning
        (
            swap("\"model_type\": \"ar\",", ""),
            golden("mdlm.ema.safetensors"),
            "model_type|mdlm|add it",
        ),
        // configuration is no JSON
        ("{".into(), good.clone(), "config.json|not a JSON object"),
    ] {
        assert_told(Checkpoint::from_safetensors_bytes(&config, bytes), words);
    }
}

/// Whether a network has adaLN depends on its tensors, whatever its family.
#[test]
fn every_family_comes_with_and_without_conditioning() {
    for (weights, cond_dim) in [("ar", 0), ("mdlm", 32)] {
        for family in ["ar", "mdlm", "EsoLM"] {
            for more in ["", "\"adaln\": false,", "\"model\": {\"adaLN\": false},"] {
                let config = format!(
                    r#"{{"model_type": "{family}", {more} "n_heads": 4, "model_length": 32}}"#
                );
                let bytes = golden(&format!("{weights}.ema.safetensors"));
                let checkpoint = Checkpoint::from_safetensors_bytes(&config, bytes).unwrap();
                let config = checkpoint.config();
                assert_eq!(config.cond_dim, cond_dim, "{weights} as {family}");
                // What is written says the same even without the tensors.
                let again = esolm_core::config::ModelConfig::from_json(&config.to_json()).unwrap();
                assert_eq!(again, *config);
            }
        }
    }
}
