//! The kind of network that a configuration or a file describes.

use esolm_core::checkpoint::{Checkpoint, CheckpointError, Weights};
use esolm_core::config::{ModelConfig, ReadAs};

use crate::common::forge::plain;
use crate::common::forged::Forged;
use crate::common::recorded::{Recorded, now};
use crate::common::{assert_told, golden, golden_tensors, pack};
use crate::mdlm;

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    for (more, words) in [
        (
            r#""model": {"length": 64},"#,
            "\"model_length\" is 32|\"model.length\" is 64",
        ),
        (
            r#""model": {"n_heads": 2},"#,
            "\"n_heads\" is 4|\"model.n_heads\" is 2",
        ),
        (
            r#""model": {"hidden_size": 128},"#,
            "\"hidden_dim\" is 64|\"model.hidden_size\" is 128",
        ),
        (
            r#""auto_map": {"AutoModelForMaskedLM": "model.DUO"},"#,
            "auto_map|\"DUO\"|Duo",
        ),
        (
            r#""auto_map": {"AutoConfig": "some/duo--config.DUOConfig"},"#,
            "auto_map|\"DUOConfig\"|Duo",
        ),
        (
            r#""auto_map": {"AutoModelForMaskedLM": "model.EsoLM"},"#,
            "\"model_type\" is MDLM|\"auto_map\" is Eso-LM",
        ),
        (
            r#""diffusion": "uniform","#,
            "\"diffusion\" of the configuration is \"uniform\"|diffuse to the mask|Duo",
        ),
        (
            r#""algo": {"diffusion_type": "uniform_state"},"#,
            "\"algo.diffusion_type\" of the configuration is \"uniform_state\"|Duo",
        ),
        (
            r#""rope_theta": 500000,"#,
            "\"rope_theta\" of the configuration is 500000|base 10000",
        ),
        (
            r#""model": {"rope_theta": "1e6"},"#,
            "\"model.rope_theta\" of the configuration is \"1e6\"|base 10000",
        ),
        (r#""rope_theta": "big","#, "rope_theta|\"big\"|a number"),
        (
            r#""rope_scaling": {"type": "linear", "factor": 2},"#,
            "\"rope_scaling.type\" of the configuration is \"linear\"|base 10000 and not scaled",
        ),
        (
            r#""rope_scaling": {"factor": 2},"#,
            "\"rope_scaling\" of the configuration is an object|not scaled",
        ),
        (
            r#""mask_index": 3, "mask_index": 4,"#,
            "\"mask_index\" of the configuration is 3|second time and is 4|remove",
        ),
        (
            r#""n_heads": 2,"#,
            "\"n_heads\" of the configuration is 2|second time and is 4|remove",
        ),
    ] {
        assert_told(ModelConfig::from_json(&mdlm(more)), words);
    }
    for more in [
        r#""model": {"length": 32, "hidden_size": 64, "n_heads": 4, "n_blocks": 2, "cond_dim": 32},"#,
        r#""model": "small", "auto_map": {"AutoModelForMaskedLM": "model.MDLM", "AutoTokenizer": ["a.B", null]},"#,
        r#""diffusion": "absorbing_state", "algo": {"diffusion_type": "absorbing"},"#,
        r#""rope_theta": 10000, "rope_scaling": null,"#,
        r#""rope_theta": 1e4, "rope_scaling": {"rope_type": "default"},"#,
        r#""architectures": ["MDLM"], "n_heads": 4,"#,
    ] {
        ModelConfig::from_json(&mdlm(more)).unwrap();
    }
}

#[test]
fn a_network_of_another_kind_is_refused() {
    for (more, words) in [
        (
            r#""time_conditioning": "true","#,
            "time_conditioning|\"true\"|constant",
        ),
        (
            r#""time_conditioning": "True","#,
            "time_conditioning|\"True\"|constant",
        ),
        (r#""time_conditioning": 1,"#, "time_conditioning|1|constant"),
        (
            r#""algo": {"time_conditioning": true},"#,
            "algo.time_conditioning|true|constant",
        ),
        (
            r#""time_conditioning": "perhaps","#,
            "time_conditioning|perhaps|true or false",
        ),
        (
            r#""time_conditioning": [true],"#,
            "time_conditioning|a list|true or false",
        ),
        (
            r#""causal": true,"#,
            "\"causal\" of the configuration is true|MDLM is bidirectional",
        ),
        (
            r#""algo": {"causal_attention": "true"},"#,
            "algo.causal_attention|MDLM is bidirectional",
        ),
        (
            r#""parameterization": "mean","#,
            "parameterization|\"mean\"|\"subs\"",
        ),
        (
            r#""parameterization": "sedd","#,
            "parameterization|\"sedd\"|SEDD predicts ratios",
        ),
        (r#""algo": {"name": "d3pm"},"#, "algo.name|d3pm|D3PM"),
        (r#""algo": {"name": "duo_base"},"#, "algo.name|duo_base|Duo"),
        (
            r#""algo": {"name": "ar"},"#,
            "\"model_type\" is MDLM|\"algo.name\" is AR",
        ),
        (r#""architectures": ["DUO"],"#, "architectures|\"DUO\"|Duo"),
    ] {
        // The golden configuration says false, which the first occurrence does not change.
        let config = mdlm(more).replace(",\n \"time_conditioning\": false", "");
        assert_told(ModelConfig::from_json(&config), words);
    }
    for more in [
        r#""time_conditioning": "false","#,
        r#""time_conditioning": 0,"#,
        r#""time_conditioning": null,"#,
        r#""causal": false, "parameterization": "SUBS", "algo": "mdlm","#,
    ] {
        let config = mdlm(more).replace(",\n \"time_conditioning\": false", "");
        ModelConfig::from_json(&config).unwrap();
    }
    let ar = String::from_utf8(golden("ar.config.json")).unwrap();
    ModelConfig::from_json(&ar.replacen('{', r#"{"time_conditioning": true, "causal": true,"#, 1))
        .unwrap();
    assert_told(
        ModelConfig::from_json(&ar.replacen('{', r#"{"causal_attention": false,"#, 1)),
        "causal_attention|AR is causal",
    );
}

/// The network computes its rotary frequencies: a file with different ones belongs to another network.
#[test]
fn the_rotary_buffer_must_be_that_of_the_network() {
    const NAME: &str = "rotary_emb.inv_freq";
    let config = mdlm("");
    let with = |values: Vec<f32>, dtype: &str| {
        let mut tensors = golden_tensors("mdlm.ema.safetensors");
        tensors.insert(NAME.into(), (vec![values.len()], values));
        let bytes = pack(&tensors, dtype);
        let parts = Weights::File(Box::new(Recorded::new(bytes.clone())));
        let parts = Checkpoint::from_source(Some(&config), None, parts, false, ReadAs::default());
        let whole = Checkpoint::from_safetensors_bytes(&config, bytes);
        let [whole, parts] = [whole, now(parts)].map(|opened| opened.map(drop));
        let said = |opened: &Result<(), CheckpointError>| {
            opened.as_ref().map_err(|e| e.to_string()).copied()
        };
        assert_eq!(said(&whole), said(&parts));
        whole
    };
    let base = |base: f32| {
        (0..8)
            .map(|i| base.powf(-(i as f32) / 8.0))
            .collect::<Vec<_>>()
    };
    for dtype in ["F32", "F16", "BF16"] {
        with(base(10_000.0), dtype).unwrap();
    }
    let rounded = |values: Vec<f32>| values.into_iter().map(|x| half::bf16::from_f32(x).to_f32());
    with(rounded(base(10_000.0)).collect(), "BF16").unwrap();
    // Rounding beyond what the type requires makes it a different value.
    assert_told(
        with(rounded(base(10_000.0)).collect(), "F32"),
        "rotary_emb.inv_freq holds",
    );
    assert_told(
        with(base(10_010.0), "F32"),
        "rotary_emb.inv_freq|0.31618|at index 1|0.31622776 is computed",
    );
    for (other, dtype) in [
        (500_000.0, "F32"),
        (10_100.0, "F16"),
        (10_500.0, "BF16"),
        (f32::NAN, "F32"),
    ] {
        assert_told(
            with(base(other), dtype),
            "rotary_emb.inv_freq holds|is computed|base 10000",
        );
    }
    assert_told(
        with(base(10_000.0)[..7].to_vec(), "F32"),
        "rotary_emb.inv_freq has shape [7]|[8]",
    );

    // EMA weights have no buffers, so the buffer is among the raw weights.
    let forged = |offset| {
        Forged::with(|f| {
            Forged::set(
                &mut f.state,
                "backbone.rotary_emb.inv_freq",
                plain(&[1], offset),
            )
        })
    };
    forged(1).open().unwrap();
    assert_told(
        forged(2).open(),
        "rotary_emb.inv_freq holds 2 at index 0|1 is computed",
    );
}
