//! Weights stored as integers in groups, as by MLX, and files that contradict themselves.

mod common;

use std::collections::BTreeMap;
use std::io::Write;

use common::recorded::{Recorded, now};
use common::{ar_config, assert_told, case_path, golden_tensors};
use esolm_core::checkpoint::{
    Checkpoint, Dtype, Form, SafetensorsWriter, StoreDtype, TensorSpec, Weights, write_safetensors,
};
use esolm_core::config::ReadAs;
use esolm_core::quantise::{GROUP, Groups, Q4, Q8};
use half::{bf16, f16};
use serde_json::{Value, json};

/// Type, shape and bytes of tensors by name.
type Raw = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A matrix according to the definition of its groups: codes, then scales and biases rounded to their type.
struct Coded {
    codes: Vec<u8>,
    scales: Vec<f32>,
    biases: Vec<f32>,
    floats: Vec<f32>,
}

fn rounded(value: f32, dtype: &Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

fn bytes(values: &[f32], dtype: &Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => (values.iter())
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::Bf16 => (values.iter())
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

impl Coded {
    /// `symmetric` as in the engine's 8-bit groups; otherwise scales of either sign, as in MLX.
    fn new(values: &[f32], bits: usize, group: usize, dtype: &Dtype, symmetric: bool) -> Self {
        let most = (1 << bits) - 1;
        let (mut codes, mut scales, mut biases, mut floats) = (vec![], vec![], vec![], vec![]);
        for (index, values) in values.chunks(group).enumerate() {
            let low = values.iter().copied().fold(f32::MAX, f32::min);
            let high = values.iter().copied().fold(f32::MIN, f32::max);
            let (scale, bias) = match (symmetric, index % 2) {
                (true, _) => {
                    let scale = rounded(high.max(-low) / 127.0, dtype);
                    (scale, -128.0 * scale)
                }
                (_, 0) => (
                    rounded((high - low) / most as f32, dtype),
                    rounded(low, dtype),
                ),
                _ => (
                    rounded((low - high) / most as f32, dtype),
                    rounded(high, dtype),
                ),
            };
            for value in values {
                let code = ((value - bias) / scale).round().clamp(0.0, most as f32);
                codes.push(code as u8);
                floats.push(scale * code + bias);
            }
            scales.push(scale);
            biases.push(bias);
        }
        Self {
            codes,
            scales,
            biases,
            floats,
        }
    }

    /// Its three tensors.
    fn put(
        &self,
        raw: &mut Raw,
        module: &str,
        [rows, columns]: [usize; 2],
        bits: usize,
        dtype: &Dtype,
    ) {
        let per_word = 32 / bits;
        let words = self.codes.chunks(per_word).map(|codes| {
            let shifted = codes
                .iter()
                .enumerate()
                .map(|(i, &code)| u32::from(code) << (i * bits));
            shifted.fold(0, |word, code| word | code)
        });
        let words: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let name = |part: &str| format!("backbone.{module}.{part}");
        let groups = vec![rows, self.scales.len() / rows];
        raw.insert(
            name("weight"),
            (Dtype::U32, vec![rows, columns / per_word], words),
        );
        let parts = [("scales", &self.scales), ("biases", &self.biases)];
        for (part, values) in parts {
            raw.insert(
                name(part),
                (dtype.clone(), groups.clone(), bytes(values, dtype)),
            );
        }
    }
}

fn file(raw: &Raw) -> Vec<u8> {
    let spec = |(name, (dtype, shape, _)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
        TensorSpec::new(name.as_str(), dtype.clone(), shape.as_slice())
    };
    let specs: Vec<_> = raw.iter().map(spec).collect();
    let mut writer = SafetensorsWriter::new(Vec::new(), &[("format", "pt")], &specs).unwrap();
    for (_, _, bytes) in raw.values() {
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap()
}

/// The golden AR model with every matrix of whole groups quantised, and the values that these represent.
fn quantised(
    bits: usize,
    group: usize,
    dtype: &Dtype,
    symmetric: bool,
) -> (Raw, BTreeMap<String, Vec<f32>>) {
    let (mut raw, mut floats) = (Raw::new(), BTreeMap::new());
    for (name, (shape, values)) in golden_tensors("ar.ema.safetensors") {
        match shape[..] {
            [rows, columns] if columns % group == 0 => {
                let coded = Coded::new(&values, bits, group, dtype, symmetric);
                let module = name
                    .trim_end_matches(".weight")
                    .trim_end_matches(".embedding");
                coded.put(&mut raw, module, [rows, columns], bits, dtype);
                floats.insert(name, coded.floats);
            }
            _ => {
                let stored = (Dtype::F32, shape, bytes(&values, &Dtype::F32));
                raw.insert(format!("backbone.{name}"), stored);
                floats.insert(name, values);
            }
        }
    }
    (raw, floats)
}

/// The golden configuration with a `quantization`.
fn config(quantization: Value) -> String {
    let mut config: Value = serde_json::from_str(&ar_config()).unwrap();
    config["quantization"] = quantization;
    config.to_string()
}

#[test]
fn every_grid_reads_as_it_is_defined() {
    for bits in [4, 8] {
        for group in [32, 64, 128] {
            for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
                for symmetric in [false, true] {
                    if symmetric && bits == 4 {
                        continue;
                    }
                    let (raw, floats) = quantised(bits, group, &dtype, symmetric);
                    let config =
                        config(json!({"group_size": group, "bits": bits, "mode": "affine"}));
                    let bytes = file(&raw);
                    let source = Weights::File(Box::new(Recorded::new(bytes.clone())));
                    let parts = now(Checkpoint::from_source(
                        Some(&config),
                        None,
                        source,
                        false,
                        ReadAs::default(),
                    ))
                    .unwrap();
                    let whole = Checkpoint::from_safetensors_bytes(&config, bytes).unwrap();
                    let mut coded = 0;
                    for parameter in whole.parameters() {
                        let name = &parameter.name;
                        let values = whole.values(name).unwrap();
                        assert_eq!(
                            values.floats, floats[name],
                            "{name}, {bits} bits, {group}, {dtype}"
                        );
                        now(parts.fetch(name)).unwrap();
                        assert_eq!(parts.f32(name).unwrap(), floats[name], "{name} in parts");
                        let Form::Codes(grid) = parameter.form() else {
                            continue;
                        };
                        assert_eq!((grid.bits, grid.group), (bits, group));
                        coded += 1;
                        // The engine's own groups are used as they are: they represent the same weights.
                        let groups: Vec<f32> = match values.groups {
                            Some(Groups::Q8(groups)) => {
                                groups.iter().flat_map(Q8::weights).collect()
                            }
                            Some(Groups::Q4(groups)) => {
                                groups.iter().flat_map(Q4::weights).collect()
                            }
                            None => {
                                let is_own = group == GROUP
                                    && dtype == Dtype::F16
                                    && (bits == 4 || symmetric);
                                assert!(!is_own, "{name}, {bits} bits of {dtype}");
                                continue;
                            }
                        };
                        assert!(group == GROUP);
                        assert_eq!(groups, floats[name], "{name}");
                    }
                    assert_eq!(coded, if group == 128 { 2 } else { 10 });
                }
            }
        }
    }
}

/// 4 bits in groups of 64, made by another program.
#[test]
fn golden_groups_read_to_their_weights() {
    let stored = std::fs::read(case_path("affine.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&stored).unwrap();
    let config = r#"{"model_type": "ar", "hidden_size": 128, "n_heads": 2, "n_blocks": 1, "model_length": 4, "vocab_size": 3,
        "quantization": {"group_size": 64, "bits": 4}}"#;
    let mut raw = Raw::new();
    for spec in esolm_core::config::ModelConfig::from_json(config)
        .unwrap()
        .parameters()
    {
        let zeros = vec![0; 4 * spec.elements() as usize];
        raw.insert(
            format!("backbone.{}", spec.name),
            (Dtype::F32, spec.shape, zeros),
        );
    }
    raw.remove("backbone.vocab_embed.embedding");
    for (part, dtype) in [
        ("weight", Dtype::U32),
        ("scales", Dtype::F32),
        ("biases", Dtype::F32),
    ] {
        let tensor = stored.tensor(part).unwrap();
        let entry = (dtype, tensor.shape().to_vec(), tensor.data().to_vec());
        raw.insert(format!("backbone.vocab_embed.{part}"), entry);
    }
    let checkpoint = Checkpoint::from_safetensors_bytes(config, file(&raw)).unwrap();
    let expected = stored.tensor("dequantised").unwrap();
    let expected = expected
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b));
    let found = checkpoint.f32("vocab_embed.embedding").unwrap();
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
            "{found}, want {expected}"
        );
    }
}

/// Modules with an entry of their own: other bits, or none.
#[test]
fn entries_of_modules_count() {
    let (mut raw, mut floats) = quantised(4, 32, &Dtype::F16, false);
    let (shape, values) = golden_tensors("ar.ema.safetensors")
        .remove("output_layer.linear.weight")
        .unwrap();
    let head = Coded::new(&values, 8, 64, &Dtype::F16, false);
    head.put(
        &mut raw,
        "output_layer.linear",
        [shape[0], shape[1]],
        8,
        &Dtype::F16,
    );
    floats.insert("output_layer.linear.weight".into(), head.floats);
    let embedding = golden_tensors("ar.ema.safetensors")
        .remove("vocab_embed.embedding")
        .unwrap();
    raw.retain(|name, _| !name.contains("vocab_embed"));
    let stored = (Dtype::F32, embedding.0, bytes(&embedding.1, &Dtype::F32));
    // MLX's name for a module.
    raw.insert("backbone.vocab_embed.weight".into(), stored);
    floats.insert("vocab_embed.embedding".into(), embedding.1);
    let config = config(json!({
        "group_size": 32, "bits": 4,
        "backbone.output_layer.linear": {"group_size": 64, "bits": 8},
        "backbone.vocab_embed": false,
        "backbone.blocks.0.attn_out": true,
    }));
    let checkpoint = Checkpoint::from_safetensors_bytes(&config, file(&raw)).unwrap();
    for parameter in checkpoint.parameters() {
        assert_eq!(
            checkpoint.f32(&parameter.name).unwrap(),
            floats[&parameter.name]
        );
    }
    // As floats, it has the values that it represented, and no longer mentions bits.
    let mut bytes = Vec::new();
    write_safetensors(&checkpoint, &mut bytes, StoreDtype::F32).unwrap();
    let again = Checkpoint::from_safetensors_bytes(&ar_config(), bytes).unwrap();
    assert_eq!(
        again.f32("output_layer.linear.weight").unwrap(),
        floats["output_layer.linear.weight"]
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    const QKV: &str = "backbone.blocks.1.attn_qkv";
    let good = json!({"group_size": 32, "bits": 8});
    let (raw, _) = quantised(8, 32, &Dtype::F16, false);
    let with = |edit: &dyn Fn(&mut Raw)| {
        let mut raw = raw.clone();
        edit(&mut raw);
        file(&raw)
    };
    let same = || with(&|_| {});
    let of = |part: &str| format!("{QKV}.{part}");
    for (config, bytes, words) in [
        (ar_config(), same(), "have scales|no \"quantization\""),
        (
            config(json!({"group_size": 32, "bits": 3})),
            same(),
            "quantization.bits|3|4 or 8",
        ),
        (
            config(json!({"group_size": 16, "bits": 8})),
            same(),
            "quantization.group_size|16|32, 64 or 128",
        ),
        (
            config(json!({"group_size": 64, "bits": 8})),
            same(),
            "blocks.0.attn_out|scales has shape [64, 2]|8 bits in groups of 64|[64, 1]",
        ),
        (
            config(json!({"group_size": 32, "bits": 4})),
            same(),
            "groups of 32",
        ),
        (
            config(json!({"bits": 8})),
            same(),
            "quantization.group_size|32, 64 or 128",
        ),
        (
            config(json!({"group_size": 32, "bits": 8, "mode": "mxfp4"})),
            same(),
            "quantization.mode|mxfp4|affine",
        ),
        (
            config(json!({"group_size": 32, "bits": 8, "parameters": u64::MAX})),
            same(),
            "quantization.parameters|18446744073709551615|or left out",
        ),
        (
            config(json!({"group_size": 32, "bits": 8, "parameters": "many"})),
            same(),
            "quantization.parameters|many|or left out",
        ),
        (config(json!(true)), same(), "quantization|true|an object"),
        (
            config(json!({"group_size": 32, "bits": 8, QKV: {"group_size": 32, "bits": 2}})),
            same(),
            "quantization.bits|2 for \"backbone.blocks.1.attn_qkv\"|4 or 8",
        ),
        (
            config(json!({"group_size": 32, "bits": 8, QKV: false})),
            same(),
            "blocks.1.attn_qkv|have scales|not quantised",
        ),
        (
            config(good.clone()),
            with(&|raw| drop(raw.remove(&of("scales")))),
            "blocks.1.attn_qkv|scales is missing",
        ),
        (
            config(good.clone()),
            with(&|raw| drop(raw.remove(&of("biases")))),
            "blocks.1.attn_qkv|biases is missing",
        ),
        (
            config(good.clone()),
            with(&|raw| drop(raw.remove(&of("weight")))),
            "blocks.1.attn_qkv|weight is missing",
        ),
        (
            config(good.clone()),
            with(&|raw| {
                raw.remove(&of("scales"));
                raw.remove(&of("biases"));
            }),
            "blocks.1.attn_qkv|scales is missing",
        ),
        (
            config(good.clone()),
            with(&|raw| raw.get_mut(&of("weight")).unwrap().0 = Dtype::I32),
            "blocks.1.attn_qkv|weight holds i32|u32",
        ),
        (
            config(good.clone()),
            with(&|raw| raw.get_mut(&of("scales")).unwrap().0 = Dtype::I16),
            "blocks.1.attn_qkv|scales holds i16|f16",
        ),
        (
            config(good.clone()),
            with(&|raw| raw.get_mut(&of("biases")).unwrap().1 = vec![2, 192]),
            "blocks.1.attn_qkv|biases has shape [2, 192]|[192, 2]",
        ),
        (
            config(good.clone()),
            with(&|raw| raw.get_mut(&of("weight")).unwrap().1 = vec![192 * 16]),
            "blocks.1.attn_qkv|[3072]|not a matrix",
        ),
        (
            config(good.clone()),
            with(&|raw| raw.get_mut(&of("weight")).unwrap().1 = vec![192 * 16, 1]),
            "blocks.1.attn_qkv|[3072, 1]|not a matrix",
        ),
        // the embedding under both of its names
        (
            config(good.clone()),
            with(&|raw| {
                let floats = (Dtype::F32, vec![97, 64], vec![0; 4 * 97 * 64]);
                raw.insert("backbone.vocab_embed.embedding".into(), floats);
            }),
            "vocab_embed.embedding twice",
        ),
        // a whole matrix of another shape
        (
            config(good.clone()),
            with(&|raw| {
                raw.get_mut(&of("weight")).unwrap().1 = vec![96, 32];
                raw.get_mut(&of("scales")).unwrap().1 = vec![96, 4];
                raw.get_mut(&of("biases")).unwrap().1 = vec![96, 4];
            }),
            "blocks.1.attn_qkv.weight|[96, 128]|[192, 64]",
        ),
    ] {
        assert_told(Checkpoint::from_safetensors_bytes(&config, bytes), words);
    }
    // Floats, although the configuration says otherwise.
    let floats = common::golden("ar.ema.safetensors");
    let opened = Checkpoint::from_safetensors_bytes(&config(good.clone()), floats.clone());
    assert_told(opened, "they are floats without scales");
    let named = config(json!({"group_size": 64, "bits": 8, QKV: {"group_size": 32, "bits": 8}}));
    let opened = Checkpoint::from_safetensors_bytes(&named, floats);
    assert_told(opened, "blocks.1.attn_qkv|they are floats without scales");
    let two = |twin: Value| {
        let mut both: Value = serde_json::from_str(&config(good.clone())).unwrap();
        both["quantization_config"] = twin;
        Checkpoint::from_safetensors_bytes(&both.to_string(), same())
    };
    two(good.clone()).unwrap();
    assert_told(
        two(json!({"group_size": 32, "bits": 4})),
        "\"quantization\"|\"quantization_config\"",
    );
    assert_told(
        two(json!({"quant_method": "awq", "bits": 4})),
        "quant_method|awq|affine",
    );
}

#[test]
fn scales_must_be_finite() {
    for (part, place, value) in [("scales", 3, f16::NAN), ("biases", 0, f16::INFINITY)] {
        let (mut raw, _) = quantised(8, 32, &Dtype::F16, false);
        let (_, _, bytes) = raw
            .get_mut(&format!("backbone.blocks.0.mlp.0.{part}"))
            .unwrap();
        bytes[2 * place..2 * place + 2].copy_from_slice(&value.to_le_bytes());
        let config = config(json!({"group_size": 32, "bits": 8}));
        let checkpoint = Checkpoint::from_safetensors_bytes(&config, file(&raw)).unwrap();
        let read = checkpoint.f32("blocks.0.mlp.0.weight");
        assert_told(
            read,
            &format!("blocks.0.mlp.0.{part} holds|at index {place}|finite"),
        );
    }
}
