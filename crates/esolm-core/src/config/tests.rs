//! Both spellings, round trips, and bad fields by name.

use super::*;

const ESOLM: &str = r#"{"model_type":"EsoLM","hidden_size":64,"cond_dim":32,"n_blocks":4,"n_heads":4,"model_length":32,
    "vocab_size":97,"mask_index":96,"alpha_0":0.5}"#;

#[test]
fn both_spellings_are_read() {
    let a = ModelConfig::from_json(ESOLM).unwrap();
    let b = ModelConfig::from_json(
        &ESOLM
            .replace("hidden_size", "hidden_dim")
            .replace("model_length", "length"),
    )
    .unwrap();
    assert_eq!(a, b);
    assert_eq!(
        (a.hidden, a.length, a.head_dim(), a.mask_index),
        (64, 32, 16, 96)
    );
    assert_eq!((a.attention, a.alpha_0), (AttentionKind::Causal, Some(0.5)));
    // The published upload script sets hidden_dim but leaves the default hidden_size in place.
    ModelConfig::from_json(&ESOLM.replace("{", r#"{"hidden_dim":64,"#)).unwrap();
}

#[test]
fn json_round_trip() {
    let base = ModelConfig::from_json(ESOLM).unwrap();
    let mdlm = ModelConfig {
        family: Family::Mdlm,
        attention: AttentionKind::Bidirectional,
        alpha_0: None,
        ..base.clone()
    };
    let ar = ModelConfig {
        family: Family::Ar,
        cond_dim: 0,
        prepend: Prepend::Mask,
        bos: Some(95),
        eos: Some(94),
        ..base.clone()
    };
    let a = ModelConfig {
        attention: AttentionKind::Mixed,
        dropout: 0.05,
        mask_index: 3,
        ..base.clone()
    };
    let bd3lm = ModelConfig {
        family: Family::Bd3Lm,
        attention: AttentionKind::Block,
        alpha_0: None,
        block_size: Some(4),
        noise_range: Some([0.001, 0.999]),
        ..base.clone()
    };
    let plain = ModelConfig {
        cond_dim: 0,
        block_size: Some(32),
        noise_range: None,
        ..bd3lm.clone()
    };
    let setdlm = ModelConfig {
        family: Family::SetDlm,
        attention: AttentionKind::Set,
        cond_dim: 0,
        alpha_0: None,
        bos: Some(95),
        eos: Some(94),
        dropout: 0.2,
        sets: Some(Sets {
            desired: 3,
            largest: 7,
            keeps_first: false,
            cache_by_time: true,
            pad: Some(1),
        }),
        ..base.clone()
    };
    let conditioned = ModelConfig {
        cond_dim: 32,
        ..setdlm.clone()
    };
    for config in [base, mdlm, ar, a, bd3lm, plain, setdlm, conditioned] {
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config);
    }
}

#[test]
fn bad_fields_are_named() {
    for (from, to, words) in [
        (
            "\"EsoLM\"",
            "\"mistral\"",
            ["model_type", "mistral", "EsoLM"],
        ),
        (
            "\"EsoLM\"",
            "\"llama\"",
            ["num_hidden_layers", "layers", "add it"],
        ),
        (
            "\"hidden_size\":64",
            "\"hidden_size\":64,\"hidden_dim\":63",
            ["hidden_size", "hidden_dim", "63"],
        ),
        (
            "\"hidden_size\":64",
            "\"hidden_size\":\"wide\"",
            ["hidden_size", "wide", "whole number"],
        ),
        (
            "\"hidden_size\":64,",
            "",
            ["hidden_size", "hidden_dim", "width"],
        ),
        (
            "\"hidden_size\":64",
            "\"hidden_size\":4294967296",
            ["hidden_size", "4294967296", "65536"],
        ),
        (
            "\"n_heads\":4",
            "\"n_heads\":3",
            ["n_heads", "3", "divides"],
        ),
        ("\"n_heads\":4", "\"n_heads\":64", ["n_heads", "64", "even"]),
        ("\"n_heads\":4", "\"n_heads\":0", ["n_heads", "0", "from 1"]),
        (
            "\"mask_index\":96",
            "\"mask_index\":97",
            ["mask_index", "97", "vocab_size"],
        ),
        (
            "\"alpha_0\":0.5",
            "\"alpha_0\":1.5",
            ["alpha_0", "1.5", "0 to 1"],
        ),
        (
            "\"alpha_0\":0.5",
            "\"time_conditioning\":true",
            ["time_conditioning", "true", "false"],
        ),
        (
            "\"alpha_0\":0.5",
            "\"prepend_token\":\"bos\"",
            ["prepend_token", "bos", "AR"],
        ),
        (
            "\"alpha_0\":0.5",
            "\"diffusion_attn_mode\":\"odd\"",
            ["diffusion_attn_mode", "odd", "mixed2"],
        ),
        (
            "\"n_blocks\":4",
            "\"n_blocks\":-1",
            ["n_blocks", "-1", "whole number"],
        ),
        ("}", "", ["not a JSON object", "config.json", "EOF"]),
    ] {
        let message = ModelConfig::from_json(&ESOLM.replace(from, to))
            .unwrap_err()
            .to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
}

#[test]
fn bad_blocks_are_named() {
    let bd3lm = r#"{"model_type":"bd3lm","hidden_dim":64,"cond_dim":32,"n_blocks":2,"n_heads":4,"model_length":32,"vocab_size":97,
        "block_size":4,"sampling_eps_min":0.001,"sampling_eps_max":0.999,"adaln":false}"#;
    let config = ModelConfig::from_json(bd3lm).unwrap();
    assert_eq!((config.cond_dim, config.block_size), (32, Some(4)));
    let nested = bd3lm.replace(
        "\"hidden_dim\":64",
        "\"backbone_config\":{\"hidden_size\":64}",
    );
    assert_eq!(ModelConfig::from_json(&nested).unwrap().cond_dim, 0);
    for (from, to, words) in [
        (
            "\"block_size\":4,",
            "",
            ["block_size", "no field", "divides"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":0",
            ["block_size", "0", "divides"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":5",
            ["block_size", "5", "32"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":18446744073709551615",
            ["block_size", "18446744073709551615", "32"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":4,\"backbone_config\":{\"block_size\":8}",
            ["block_size", "is 4", "is 8"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":4,\"backbone_config\":null",
            ["backbone_config", "is null", "object"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":4,\"noise_config\":[3]",
            ["noise_config", "a list", "object"],
        ),
        (
            "\"block_size\":4",
            "\"block_size\":4,\"dropout\":1e300",
            ["dropout", "is 1e300;", "0 to 1"],
        ),
        (
            "\"sampling_eps_min\":0.001",
            "\"sampling_eps_min\":1",
            ["sampling_eps_min", "is 1;", "0.999"],
        ),
        (
            "\"sampling_eps_max\":0.999",
            "\"sampling_eps_max\":1.5",
            ["sampling_eps_max", "1.5", "up to 1"],
        ),
        (
            "\"adaln\":false",
            "\"architectures\":[\"Duo\"]",
            ["architectures", "Duo", "another kind"],
        ),
    ] {
        let message = ModelConfig::from_json(&bd3lm.replace(from, to))
            .unwrap_err()
            .to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
    // Models of other families trained with the same code have these fields but do not use them.
    let mdlm = bd3lm
        .replace("bd3lm", "mdlm")
        .replace("\"block_size\":4", "\"block_size\":0");
    assert_eq!(ModelConfig::from_json(&mdlm).unwrap().block_size, None);
}

/// The published form has a BD3-LM's model type; only the class tells.
#[test]
fn a_setdlm_is_told_by_its_class() {
    let path = "../../tests/fixtures/golden-family/setdlm/owt_setdlm_smax8/config.json";
    let published = std::fs::read_to_string(path).unwrap();
    let config = ModelConfig::from_json(&published).unwrap();
    assert_eq!(
        (config.family, config.attention),
        (Family::SetDlm, AttentionKind::Set)
    );
    assert_eq!(
        (config.cond_dim, config.block_size, config.length),
        (0, None, 32)
    );
    let sets = config.sets.unwrap();
    assert_eq!((sets.desired, sets.largest), (4, 8));
    assert_eq!(
        (sets.keeps_first, sets.cache_by_time, sets.pad),
        (true, false, Some(95))
    );
    let named = published.replace("\"diffusion.BD3LM\"", "\"diffusion.SetDLM\"");
    assert_eq!(ModelConfig::from_json(&named).unwrap(), config);
    for (from, to, words) in [
        ("\"SetDLM\"", "\"MDLM\"", ["model_type", "BD3-LM", "MDLM"]),
        (
            "\"desired_block_size\": 4,",
            "",
            ["noise_config.desired_block_size", "no field", "set"],
        ),
        (
            "\"desired_block_size\": 4",
            "\"desired_block_size\": 9",
            ["desired_block_size", "is 9;", "max_block_size, which is 8"],
        ),
        (
            "\"max_block_size\": 8",
            "\"max_block_size\": 33",
            ["max_block_size", "33", "context length 32"],
        ),
        (
            "StaggeredNoise",
            "LinearNoise",
            ["_target_", "LinearNoise", "StaggeredNoise"],
        ),
        (
            "\"keep_clean_bos\": true",
            "\"keep_clean_bos\": 1",
            ["keep_clean_bos", "is 1;", "true or false"],
        ),
        (
            "\"block_size\": 32,\n  \"bos",
            "\"block_size\": 16,\n  \"bos",
            ["block_size", "16", "no blocks"],
        ),
        (
            "\"pad_token_id\": 95,\n  \"pad_vocab",
            "\"pad_token_id\": 97,\n  \"pad_vocab",
            ["pad_token_id", "97", "vocab_size"],
        ),
    ] {
        let edited = published.replace(from, to);
        assert_ne!(edited, published, "{from}");
        let message = ModelConfig::from_json(&edited).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{from}: {message:?} lacks {word:?}");
        }
    }
}

#[test]
fn messages_quote_little_of_the_file() {
    let flood = "\\u001b[2Jx".repeat(5000);
    for json in [
        format!("\"{flood}\""),
        ESOLM.replace("EsoLM", &flood),
        ESOLM.replace(
            "\"alpha_0\":0.5",
            &format!("\"diffusion_attn_mode\":\"{flood}\""),
        ),
        ESOLM.replace("\"alpha_0\":0.5", &format!("\"prepend_token\":\"{flood}\"")),
        ESOLM.replace("\"alpha_0\":0.5", &format!("\"alpha_0\":\"{flood}\"")),
    ] {
        let message = ModelConfig::from_json(&json).unwrap_err().to_string();
        assert!(
            message.len() < 1000 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
}

/// What a message shows of a path is all that is kept of it.
#[test]
fn long_paths_are_not_copied_for_every_value_within_them() {
    let name = "n".repeat(50_000);
    let twins = r#"{"mask_index":1,"mask_index":2}"#;
    let lists = format!("[{}{twins}]", "[],".repeat(50_000));
    let nested = format!("{{\"{name}\":{lists}}}");
    let json = ESOLM.replacen('{', &format!("{{\"first\":{nested},"), 1);
    let message = ModelConfig::from_json(&json).unwrap_err().to_string();
    let shown = format!("\"first.{}...\" of the configuration is 1 but", &name[..74]);
    assert!(message.starts_with(&shown), "{message}");
    let short = ESOLM.replacen('{', &format!("{{\"first\":{{\"list\":[3,{twins}]}},"), 1);
    let message = ModelConfig::from_json(&short).unwrap_err().to_string();
    assert!(
        message.starts_with("\"first.list.mask_index\" of"),
        "{message}"
    );
}

/// So that what is written can be read again.
#[test]
fn end_tokens_of_two_files_count_together() {
    let ends = |from: u32, to: u32| format!("{:?}", (from..to).collect::<Vec<_>>());
    let decoder = format!(
        r#"{{"model_type":"qwen3","architectures":["Qwen3ForCausalLM"],"hidden_size":64,"num_hidden_layers":2,
        "num_attention_heads":4,"intermediate_size":96,"max_position_embeddings":4096,"vocab_size":4096,
        "eos_token_id":{}}}"#,
        ends(0, 1000)
    );
    let config = ModelConfig::from_json(&decoder).unwrap();
    let add = |from, to| {
        let mut config = config.clone();
        let settings = format!("{{\"eos_token_id\":{}}}", ends(from, to));
        config.add_ends(&settings).map(|()| config)
    };
    let most = add(990, 1024).unwrap();
    assert_eq!(most.more_eos.len(), 1023);
    assert_eq!(ModelConfig::from_json(&most.to_json()).unwrap(), most);
    let message = add(990, 1025).unwrap_err().to_string();
    assert!(message.contains("a list of 1025 tokens"), "{message}");
}

#[test]
fn parameters_count_as_published() {
    // The published small model has 170 million parameters including embedding and output matrix (arXiv 2506.01928,
    // section 5).
    let small = r#"{"model_type":"EsoLM","hidden_size":768,"cond_dim":128,"n_blocks":12,"n_heads":12,"model_length":1024,"vocab_size":50258}"#;
    let config = ModelConfig::from_json(small).unwrap();
    let total: u64 = config.parameters().iter().map(ParamSpec::elements).sum();
    assert_eq!(total, 169_627_218);
    assert_eq!(config.mask_index, 50257);
    assert_eq!(config.parameters().len(), 9 + 10 * 12 + 1);
}
