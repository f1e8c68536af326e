//! The decoder folders that the cases read.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::common::{Folder, chat_model, root};

fn at(folder: &Folder, name: &str) -> PathBuf {
    folder.path().join("decoders").join(name)
}

/// A folder of the golden Qwen2 with some fields of its configuration changed.
fn changed(folder: &Folder, name: &str, fields: Value) {
    let golden = root().join("tests/fixtures/golden-llm/models/qwen2");
    let out = at(folder, name);
    std::fs::create_dir_all(&out).expect("a new folder");
    let config = std::fs::read(golden.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    let all = config.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    std::fs::write(out.join("config.json"), config.to_string()).expect("writable");
    let weights = golden.join("model.safetensors");
    std::fs::copy(weights, out.join("model.safetensors")).expect("writable");
}

/// Creates the folders.
pub fn prepare(folder: &Folder) {
    let a2d = json!({"model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"]});
    changed(folder, "qwen2", json!({}));
    changed(folder, "a2d", a2d.clone());
    let told = json!({"mask_token_id": 150});
    let mut masked = a2d;
    masked
        .as_object_mut()
        .expect("an object")
        .extend(told.as_object().expect("an object").clone());
    changed(folder, "a2d-mask", masked);
    let dream = json!({"model_type": "Dream", "architectures": ["DreamModel"]});
    changed(folder, "dream", dream);
    let moe = json!({"architectures": ["Qwen2MoeForCausalLM"]});
    changed(folder, "moe", moe);
    // Its end-of-text token is not a token.
    changed(folder, "ends", json!({}));
    let settings = json!({"eos_token_id": [150, "<|im_end|>"]});
    std::fs::write(
        at(folder, "ends").join("generation_config.json"),
        settings.to_string(),
    )
    .expect("writable");
    changed(
        folder,
        "yarn",
        json!({"rope_scaling": {"rope_type": "yarn", "factor": 4}}),
    );
    changed(folder, "wide", json!({"intermediate_size": 145}));
    changed(folder, "theta", json!({"rope_theta": 1e308}));
    changed(folder, "minus", json!({"eos_token_id": -1}));
    changed(folder, "heads", json!({"num_attention_heads": 70_000}));
    changed(
        folder,
        "twice",
        json!({"rope_parameters": {"rope_theta": 7}}),
    );
    let config = at(folder, "twice").join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let text = text.replace("\"rope_theta\":7", "\"rope_theta\":7,\"rope_theta\":8");
    std::fs::write(config, text).expect("writable");
    let ar = json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]});
    chat_model(&at(folder, "chat"), &ar);
    chat_model(&at(folder, "chat-blocks"), &json!({}));
    chat_model(
        &at(folder, "chat-short"),
        &json!({"max_position_embeddings": 64}),
    );
    for (name, template) in [
        ("open", "{% for m in messages %}".to_string()),
        ("reads", "{% include '/etc/passwd' %}".into()),
        (
            "deep",
            format!("{{{{ {}1{} }}}}", "(".repeat(500), ")".repeat(500)),
        ),
        ("long", "x".repeat(300_000)),
    ] {
        std::fs::write(at(folder, &format!("{name}.jinja")), template).expect("writable");
    }
    let saved = json!({"esolm_chat": 9, "model": "m", "messages": []});
    std::fs::write(at(folder, "saved.json"), saved.to_string()).expect("writable");
    std::fs::write(
        at(folder, "saved-bad.json"),
        "{\"esolm_chat\": 1, \"messages\"",
    )
    .expect("writable");
    // Two files, one truncated and one missing.
    for (name, is_there) in [("cut", true), ("gone", false)] {
        changed(folder, name, json!({}));
        let out = at(folder, name);
        let whole = std::fs::read(out.join("model.safetensors")).expect("weights");
        std::fs::remove_file(out.join("model.safetensors")).expect("it is there");
        if is_there {
            let cut = &whole[..whole.len() - 4];
            std::fs::write(out.join("model-1.safetensors"), cut).expect("writable");
        }
        let index = json!({"weight_map": {"model.norm.weight": "model-1.safetensors"}});
        std::fs::write(out.join("model.safetensors.index.json"), index.to_string())
            .expect("writable");
    }
}
