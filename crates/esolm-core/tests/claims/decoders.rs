//! Decoders of the Qwen3, Qwen2 and Llama kinds: which configurations are supported, what is rejected by name, and the
//! errors for their folders. `ESOLM_GOLDEN_LLM` names a folder of golden files to use instead of the repository's.

use std::path::{Path, PathBuf};

use esolm_core::checkpoint::{Checkpoint, CheckpointError, OpenOptions};
use esolm_core::config::{ConfigError, Family, ModelConfig, NO_MASK, ReadAs};
use serde_json::{Value, json};

use crate::common::{Folder, Tensors, assert_told, golden, golden_tensors, pack};

/// Supported models, by `model_type` and class.
const RUN: [(&str, &str); 7] = [
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("llama", "LlamaForCausalLM"),
    ("a2d-qwen3", "A2DQwen3LMHeadModel"),
    ("a2d-qwen2", "A2DQwen2LMHeadModel"),
    ("a2d-llama", "A2DLlamaLMHeadModel"),
    ("sdar", "SDARForCausalLM"),
];

fn read(config: &Value, said: &ReadAs) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_json_as(&config.to_string(), said)
}

/// Sets what the golden configurations leave open.
fn said(config: &Value) -> ReadAs {
    let is_open = (config["model_type"].as_str()).is_some_and(|name| name.starts_with("a2d"));
    let is_told = config["mask_token_id"].is_u64();
    ReadAs {
        family: is_open.then_some(Family::Bd3Lm),
        block_size: is_open.then_some(32),
        mask: (!is_told).then_some(7),
    }
}

fn golden_configs() -> Vec<(PathBuf, Value)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden-llm");
    let folder = std::env::var_os("ESOLM_GOLDEN_LLM").map_or(own, PathBuf::from);
    let entries = std::fs::read_dir(folder.join("configs")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|end| end == "json") && !path.ends_with("INDEX.json")
    });
    files.sort();
    let read = |path: PathBuf| {
        let config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (path, config)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn golden_llm_configs() {
    let (mut run, mut refused) = (0, 0);
    for (path, config) in golden_configs() {
        let model_type = config["model_type"].as_str().unwrap();
        let class = config["architectures"][0].as_str().unwrap();
        let read = read(&config, &said(&config));
        if !RUN.contains(&(model_type, class)) {
            let message = read.expect_err(&path.display().to_string()).to_string();
            println!("{}: {message}", path.display());
            assert!(
                message.contains(model_type) || message.contains(class),
                "{message}"
            );
            refused += 1;
            continue;
        }
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let decoder = read.decoder.unwrap();
        let size = |field: &str| config[field].as_u64().unwrap() as usize;
        assert_eq!(read.hidden, size("hidden_size"));
        assert_eq!(read.n_blocks, size("num_hidden_layers"));
        assert_eq!(read.n_heads, size("num_attention_heads"));
        assert_eq!(decoder.kv_heads, size("num_key_value_heads"));
        assert_eq!(decoder.inner, size("intermediate_size"));
        assert_eq!(read.length, size("max_position_embeddings"));
        assert_eq!(read.vocab_size, size("vocab_size"));
        let head_dim = config["head_dim"].as_u64().map(|width| width as usize);
        let head_dim = head_dim.unwrap_or(read.hidden / read.n_heads);
        assert_eq!((decoder.head_dim, read.head_dim()), (head_dim, head_dim));
        assert_eq!(Some(decoder.tied), config["tie_word_embeddings"].as_bool());
        assert_eq!(Some(decoder.eps), config["rms_norm_eps"].as_f64());
        let base = config["rope_theta"].as_f64();
        let base = base.or(config["rope_parameters"]["rope_theta"].as_f64());
        assert_eq!(Some(decoder.rotary_base), base);
        let (family, block) = match model_type {
            "qwen3" | "qwen2" | "llama" => (Family::Ar, None),
            "sdar" => (Family::Bd3Lm, Some(4)),
            _ => (Family::Bd3Lm, Some(32)),
        };
        assert_eq!((read.family, read.block_size), (family, block));
        let mask = config["mask_token_id"].as_u64().unwrap_or(7) as u32;
        let mask = if family == Family::Ar { NO_MASK } else { mask };
        assert_eq!(read.mask_index, mask);
        assert_eq!(ModelConfig::from_json(&read.to_json()).unwrap(), read);
        run += 1;
    }
    println!("{run} run, {refused} refused");
    assert!(run > 0 && refused > 0);
}

/// A small decoder.
fn small() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "head_dim": 32, "intermediate_size": 160,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": 151,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu", "tie_word_embeddings": true
    })
}

/// With some fields changed; null removes a field.
fn with(more: Value) -> Value {
    let mut config = small();
    let fields = config.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    fields.retain(|name, value| !value.is_null() || more[name.as_str()].is_array());
    config
}

#[test]
fn decoders_are_read_in_every_spelling() {
    let plain = read(&small(), &ReadAs::default()).unwrap();
    for more in [
        json!({"rope_theta": null, "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}}),
        json!({"rope_theta": 1000000, "rope_scaling": {"type": "default"}}),
        json!({"sliding_window": 4096, "use_sliding_window": false, "max_window_layers": 28}),
        json!({"layer_types": ["full_attention", "full_attention"], "dtype": "bfloat16"}),
        json!({"torch_dtype": "bfloat16", "use_cache": false, "attention_bias": false, "mlp_bias": false}),
        json!({"auto_map": {"AutoTokenizer": ["tokenization.Other", null]}, "pad_token_id": 3}),
        json!({"architectures": null}),
        json!({"bos_token_id": [], "num_experts": 0, "hidden_act": "swish"}),
    ] {
        assert_eq!(
            read(&with(more.clone()), &ReadAs::default()).unwrap(),
            plain,
            "{more}"
        );
    }
    let ends = read(&with(json!({"eos_token_id": [5, 6]})), &ReadAs::default()).unwrap();
    assert_eq!(ends.eos, Some(5));
    let narrow = with(json!({"head_dim": null, "num_key_value_heads": null, "rope_theta": null}));
    let narrow = read(&narrow, &ReadAs::default()).unwrap();
    assert_eq!(
        (narrow.head_dim(), narrow.kv_heads(), narrow.rotary_base()),
        (16, 4, 10000.0)
    );
}

#[test]
fn decoders_that_cannot_be_run_are_told() {
    let class =
        |model_type: &str, class: &str| json!({"model_type": model_type, "architectures": [class]});
    for (more, words) in [
        (
            class("qwen3", "Qwen3MoeForCausalLM"),
            "architectures|Qwen3MoeForCausalLM|mixture of experts",
        ),
        (
            class("qwen3_moe", "Qwen3MoeForCausalLM"),
            "mixture of experts",
        ),
        (class("qwen3", "EfficientDLM"), "EfficientDLM|Efficient-DLM"),
        (
            class("qwen3", "Qwen3ForSequenceClassification"),
            "\"qwen3\"|Qwen3ForSequenceClassification",
        ),
        (
            class("qwen3", "LlamaForCausalLM"),
            "\"qwen3\"|LlamaForCausalLM",
        ),
        (
            class("llada", "LLaDAMoEModelLM"),
            "LLaDAMoEModelLM|LLaDA-MoE",
        ),
        (class("sdar_moe", "SDARMoeForCausalLM"), "SDAR-MoE"),
        (
            class("mistral", "MistralForCausalLM"),
            "model_type|\"mistral\"|\"qwen3\"",
        ),
        (
            json!({"auto_map": {"AutoModel": "modeling_dream.DreamModel"}}),
            "auto_map|DreamModel|Dream",
        ),
        (
            json!({"use_sliding_window": true, "sliding_window": 32}),
            "use_sliding_window|true",
        ),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types|sliding_attention",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "rope_scaling|\"yarn\"",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "rope_scaling|\"linear\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}),
            "rope_parameters|\"llama3\"",
        ),
        (
            json!({"rope_parameters": {"rope_theta": 500}}),
            "rope_theta|1000000|500",
        ),
        (json!({"rope_scaling": 3}), "rope_scaling|3|object"),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor|0.5",
        ),
        (
            json!({"hidden_act": "gelu"}),
            "hidden_act|\"gelu\"|\"silu\"",
        ),
        (json!({"num_experts": 8}), "num_experts|8"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads|3|4"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads|0"),
        (json!({"num_attention_heads": 0}), "num_attention_heads|0"),
        (json!({"head_dim": 31}), "head_dim|31|even"),
        (
            json!({"head_dim": null, "num_attention_heads": 7}),
            "num_attention_heads|7|64",
        ),
        (json!({"head_dim": 1u64 << 40}), "head_dim"),
        (json!({"head_dim": 65536}), "num_attention_heads|4"),
        (json!({"intermediate_size": 0}), "intermediate_size|0"),
        (json!({"intermediate_size": u64::MAX}), "intermediate_size"),
        (json!({"hidden_size": null}), "hidden_size"),
        (
            json!({"num_hidden_layers": 1000000}),
            "\"num_hidden_layers\"|1000000",
        ),
        (
            json!({"max_position_embeddings": 0}),
            "\"max_position_embeddings\"|0",
        ),
        (json!({"vocab_size": 1}), "vocab_size|1"),
        (json!({"eos_token_id": 151}), "eos_token_id|151"),
        (json!({"eos_token_id": "x"}), "eos_token_id|\"x\""),
        (json!({"eos_token_id": -1}), "eos_token_id|-1"),
        (json!({"bos_token_id": [-1, 3]}), "bos_token_id|-1"),
        (json!({"layer_types": 3}), "layer_types|3"),
        (
            json!({"architectures": "Qwen3ForCausalLM"}),
            "architectures|list",
        ),
        (json!({"auto_map": []}), "auto_map|object"),
        (json!({"rope_theta": 1e308}), "rope_theta\" is 1e308"),
        (
            json!({"rope_theta": 1e308, "rope_parameters": {"rope_theta": 5e-324}}),
            "is 1e308|is 5e-324",
        ),
        (json!({"rms_norm_eps": 1e308}), "rms_norm_eps\" is 1e308"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps|0"),
        (json!({"rms_norm_eps": "1e-6"}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta|0"),
        (json!({"rope_theta": -5}), "rope_theta|-5"),
        (
            json!({"tie_word_embeddings": "yes"}),
            "tie_word_embeddings|true or false",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}),
            "gptq",
        ),
        (
            class("a2d-qwen3", "A2DQwen3LMHeadModel"),
            "\"a2d-qwen3\"|MDLM|BD3-LM",
        ),
        (class("sdar", "SDARForCausalLM"), "mask_token_id"),
    ] {
        assert_told(read(&with(more), &ReadAs::default()), words);
    }
}

/// A JSON parser uses the last of two values of a field, at any depth.
#[test]
fn fields_that_stand_in_a_decoder_twice_are_told() {
    let text =
        with(json!({"rope_theta": null, "rope_parameters": {"rope_theta": 500}})).to_string();
    let twice = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}: {text}");
        ModelConfig::from_json(&text.replace(from, to))
    };
    let theta = "\"rope_theta\":500";
    assert_told(
        twice(theta, "\"rope_theta\":500,\"rope_theta\":501"),
        "\"rope_parameters.rope_theta\"|500|501|remove",
    );
    assert_told(
        twice(
            "\"vocab_size\":151",
            "\"vocab_size\":151,\"vocab_size\":152",
        ),
        "\"vocab_size\"|151|152",
    );
    assert_told(
        twice("[\"Qwen3ForCausalLM\"]", "[{\"a\": 1, \"a\": []}]"),
        "\"architectures.a\"|is 1|a list",
    );
    assert!(twice(theta, "\"rope_theta\":500,\"rope_theta\":500").is_ok());
}

#[test]
fn what_a_configuration_leaves_open_is_said() {
    let open = with(json!({"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"]}));
    let as_one = |family, block_size| ReadAs {
        family: Some(family),
        block_size,
        mask: Some(148),
    };
    let mdlm = read(&open, &as_one(Family::Mdlm, Some(4))).unwrap();
    assert_eq!(
        (mdlm.family, mdlm.block_size, mdlm.mask_index),
        (Family::Mdlm, None, 148)
    );
    let blocks = read(&open, &as_one(Family::Bd3Lm, Some(7))).unwrap();
    assert_eq!((blocks.family, blocks.block_size), (Family::Bd3Lm, Some(7)));
    for config in [mdlm, blocks] {
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config);
    }
    assert_told(read(&open, &as_one(Family::Bd3Lm, None)), "block");
    // All at once.
    let all = read(&open, &ReadAs::default()).unwrap_err().to_string();
    assert!(
        all.contains("MDLM") && all.contains("mask_token_id"),
        "{all}"
    );
    let blocks = ReadAs {
        family: Some(Family::Bd3Lm),
        ..ReadAs::default()
    };
    assert_told(read(&open, &blocks), "block|mask_token_id");
    assert_told(
        read(&open, &as_one(Family::Bd3Lm, Some(5000))),
        "block_size|5000|4096",
    );
    assert_told(read(&open, &as_one(Family::Ar, None)), "AR");
    let beyond = ReadAs {
        mask: Some(151),
        ..as_one(Family::Mdlm, None)
    };
    assert_told(read(&open, &beyond), "151");
    assert_told(read(&small(), &as_one(Family::Mdlm, None)), "MDLM|AR");
    let sdar = with(
        json!({"model_type": "sdar", "architectures": ["SDARForCausalLM"], "mask_token_id": 148}),
    );
    assert_eq!(read(&sdar, &ReadAs::default()).unwrap().block_size, Some(4));
    let longer = ReadAs {
        block_size: Some(16),
        ..ReadAs::default()
    };
    assert_eq!(read(&sdar, &longer).unwrap().block_size, Some(16));
    assert_told(read(&sdar, &as_one(Family::Mdlm, None)), "MDLM|BD3-LM");
}

fn qwen2(name: &str) -> Vec<u8> {
    golden(&format!("../golden-llm/models/qwen2/{name}"))
}

fn tensors() -> Tensors {
    golden_tensors("../golden-llm/models/qwen2/model.safetensors")
}

/// A folder of the golden Qwen2 with changed fields and tensors.
fn folder(more: Value, change: impl FnOnce(&mut Tensors)) -> Folder {
    let mut config: Value = serde_json::from_slice(&qwen2("config.json")).unwrap();
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let mut all = tensors();
    change(&mut all);
    let folder = Folder::new("decoder");
    folder.write("config.json", config.to_string().as_bytes());
    folder.write("model.safetensors", &pack(&all, "F32"));
    folder
}

fn open(folder: &Folder, read_as: ReadAs) -> Result<Checkpoint, CheckpointError> {
    let options = OpenOptions {
        read_as,
        ..OpenOptions::default()
    };
    Checkpoint::open(folder.spec(), &options)
}

#[test]
fn folders_of_decoders_hold_what_they_must() {
    let plain = open(&folder(json!({}), |_| ()), ReadAs::default()).unwrap();
    let decoder = plain.config().decoder.unwrap();
    assert!(!decoder.tied && plain.ignored().is_empty() && plain.mask_told());
    for (name, words) in [
        ("model.layers.1.mlp.up_proj.weight", "missing|[144, 64]"),
        ("model.layers.0.self_attn.k_proj.bias", "missing|[32]"),
        ("lm_head.weight", "missing|[153, 64]"),
        ("model.norm.weight", "missing|[64]"),
    ] {
        let broken = folder(json!({}), |all| drop(all.remove(name).expect(name)));
        assert_told(open(&broken, ReadAs::default()), &format!("{name}|{words}"));
    }
    for more in [
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.o_proj.bias",
    ] {
        let broken = folder(json!({}), |all| {
            all.insert(more.into(), (vec![64], vec![0.0; 64]));
        });
        assert_told(
            open(&broken, ReadAs::default()),
            &format!("{more}|not a part"),
        );
    }
    let other = folder(json!({"intermediate_size": 145}), |_| ());
    assert_told(
        open(&other, ReadAs::default()),
        "gate_proj|[144, 64]|[145, 64]",
    );

    // A tied output matrix is the embedding, whatever else is present; frequencies are computed.
    let tied = folder(json!({"tie_word_embeddings": true}), |all| {
        let frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq";
        all.insert(frequencies.into(), (vec![8], vec![1.0; 8]));
    });
    let tied = open(&tied, ReadAs::default()).unwrap();
    assert!(tied.config().decoder.unwrap().tied);
    let ignored = [
        "lm_head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ];
    assert_eq!(tied.ignored(), ignored);
    let silent = |all: &mut Tensors| drop(all.remove("lm_head.weight"));
    let silent = folder(json!({"tie_word_embeddings": null}), silent);
    assert!(
        open(&silent, ReadAs::default())
            .unwrap()
            .config()
            .decoder
            .unwrap()
            .tied
    );
}

#[test]
fn every_end_of_text_token_is_taken() {
    let ends = |config: Value, settings: Option<&str>| {
        let folder = folder(config, |_| {});
        if let Some(settings) = settings {
            folder.write("generation_config.json", settings.as_bytes());
        }
        open(&folder, ReadAs::default()).map(|opened| {
            let config = opened.config();
            // What is written can be read.
            let again = ModelConfig::from_json(&config.to_json()).unwrap();
            assert_eq!((again.eos, &again.more_eos), (config.eos, &config.more_eos));
            (config.eos, config.more_eos.clone())
        })
    };
    let list = json!({"eos_token_id": [4, 9, 4, 7]});
    for (config, settings, expected) in [
        (json!({"eos_token_id": 4}), None, (Some(4), vec![])),
        (list.clone(), None, (Some(4), vec![9, 7])),
        (list, Some(r#"{"eos_token_id": 9}"#), (Some(4), vec![9, 7])),
        // A token that is not in the vocabulary is never drawn.
        (
            json!({"eos_token_id": 4}),
            Some(r#"{"eos_token_id": [9, 4, 151643], "temperature": 0.6}"#),
            (Some(4), vec![9]),
        ),
        (
            json!({"eos_token_id": null}),
            Some(r#"{"eos_token_id": [9, 4]}"#),
            (Some(9), vec![4]),
        ),
        (json!({"eos_token_id": null}), Some("{}"), (None, vec![])),
    ] {
        assert_eq!(ends(config, settings).unwrap(), expected, "{settings:?}");
    }
    let refused = ends(json!({}), Some(r#"{"eos_token_id": "</s>"}"#));
    assert_told(refused, "generation_config.json|eos_token_id|token index");
    let refused = ends(json!({"eos_token_id": [4, 5000]}), None);
    assert_told(refused, "eos_token_id|5000|below vocab_size");
    // Each token drawn is compared with all of them.
    let many = |count: usize| json!({"eos_token_id": vec![4; count]});
    let told = "eos_token_id\" is a list of 1025 tokens|at most 1024";
    assert_eq!(ends(many(1024), None).unwrap(), (Some(4), vec![]));
    assert_told(ends(many(1025), None), told);
    assert_told(ends(json!({}), Some(&many(1025).to_string())), told);
}

#[test]
fn decoders_come_in_several_files() {
    let all = tensors();
    let folder = Folder::new("decoder-shards");
    folder.write("config.json", &qwen2("config.json"));
    let mut map = serde_json::Map::new();
    let (first, second): (Tensors, Tensors) = (all.into_iter().enumerate()).fold(
        Default::default(),
        |(mut a, mut b), (i, (name, tensor))| {
            let file = ["a.safetensors", "b.safetensors"][i % 2];
            map.insert(format!("backbone.{name}"), file.into());
            if i % 2 == 0 {
                a.insert(name, tensor)
            } else {
                b.insert(name, tensor)
            };
            (a, b)
        },
    );
    let index = json!({"metadata": {}, "weight_map": map});
    folder.write("model.safetensors.index.json", index.to_string().as_bytes());
    folder.write("a.safetensors", &pack(&first, "F32"));
    let whole = pack(&second, "F32");
    folder.write("b.safetensors", &whole);
    let opened = open(&folder, ReadAs::default()).unwrap();
    assert_eq!(opened.f32("model.norm.weight").unwrap().len(), 64);
    folder.write("b.safetensors", &whole[..whole.len() - 100]);
    assert_told(open(&folder, ReadAs::default()), "b.safetensors");
    std::fs::remove_file(folder.path("b.safetensors")).unwrap();
    assert_told(open(&folder, ReadAs::default()), "b.safetensors|not there");
}

/// The mask token is determined by the tokenizer's files, whichever of them are present.
#[test]
fn masks_of_decoders_are_found_beside_them() {
    let a2d = json!({"model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"]});
    let mdlm = ReadAs {
        family: Some(Family::Mdlm),
        ..ReadAs::default()
    };
    let folder = || folder(a2d.clone(), |_| ());
    assert_told(open(&folder(), mdlm), "mask_token_id");
    assert_told(open(&folder(), ReadAs::default()), "\"a2d-qwen2\"");
    let map = json!({"mask_token": {"content": "<|mask|>"}}).to_string();
    let added = json!({"<|im_end|>": 149, "<|mask|>": 150}).to_string();
    let decoder = json!({"added_tokens_decoder": {"150": {"content": "<|mask|>", "special": true}}, "mask_token": "<|mask|>"});
    let fast = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": 150, "content": "<|mask|>", "special": true}]});
    for files in [
        vec![("added_tokens.json", added.clone())],
        vec![
            ("special_tokens_map.json", map),
            ("added_tokens.json", added),
        ],
        vec![("tokenizer_config.json", decoder.to_string())],
        vec![("tokenizer.json", fast.to_string())],
    ] {
        let folder = folder();
        for (name, text) in &files {
            folder.write(name, text.as_bytes());
        }
        let opened = open(&folder, mdlm).unwrap_or_else(|error| panic!("{files:?}: {error}"));
        assert_eq!(opened.config().mask_index, 150, "{files:?}");
        let other = ReadAs {
            mask: Some(7),
            ..mdlm
        };
        assert_told(open(&folder, other), "150|7");
    }
}
