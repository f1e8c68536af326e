//! What a checkpoint says about itself is respected, wherever it says it: which token is the mask, and what kind of
//! network it has. Run with `--nocapture` to read the messages.

mod common;
#[path = "claims/decoders.rs"]
mod decoders;
#[path = "claims/network.rs"]
mod network;

use common::forge::{Value, dict, global, int, list, none, object, text};
use common::forged::Forged;
use common::{Folder, assert_told, case_path, golden, golden_path};
use esolm_core::checkpoint::{Checkpoint, CheckpointError, OpenOptions};
use esolm_core::config::ModelConfig;

fn open(path: &std::path::Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default())
}

fn open_with(
    path: &std::path::Path,
    folder: &Folder,
    config: &str,
) -> Result<Checkpoint, CheckpointError> {
    let options = OpenOptions {
        config: Some(folder.write("given.json", config.as_bytes())),
        raw_weights: false,
        ..OpenOptions::default()
    };
    Checkpoint::open(path.to_str().unwrap(), &options)
}

/// The configuration of the golden MDLM with more fields.
fn mdlm(more: &str) -> String {
    let config = String::from_utf8(golden("mdlm.config.json")).unwrap();
    config.replacen('{', &format!("{{{more}"), 1)
}

fn mdlm_folder(config: &str) -> Folder {
    let folder = Folder::new("claims");
    folder.write("config.json", config.as_bytes());
    folder.write("model.safetensors", &golden("mdlm.ema.safetensors"));
    folder
}

const MINI: &str = r#"{"model_type":"mdlm","hidden_dim":16,"cond_dim":8,"n_blocks":1,"n_heads":2,"model_length":8"#;

#[test]
fn pickled_tokenizers_of_every_class_name_the_mask() {
    for (name, mask) in [("slow-bert", 4), ("bert", 13), ("text8", 4)] {
        let checkpoint = open(&case_path(&format!("{name}.ckpt"))).unwrap();
        assert_eq!(checkpoint.config().mask_index, mask, "{name}");
        assert!(checkpoint.mask_told());
        assert!(checkpoint.unused_tokens().is_empty(), "{name}");
    }
    let checkpoint = open(&case_path("sentencepiece.ckpt")).unwrap();
    assert_eq!(
        (checkpoint.config().mask_index, checkpoint.mask_told()),
        (96, true)
    );
    let silent = open(&golden_path("mini_mdlm.ckpt")).unwrap();
    assert_eq!(
        (silent.config().mask_index, silent.mask_told()),
        (96, false)
    );
}

#[test]
fn what_no_tokenizer_tells_is_not_guessed() {
    let tokenizer = |fields: &[(&str, Value)]| object(global("some", "Tokenizer"), dict(fields));
    let opened = |value: Value| Forged::with(|f| f.tokenizer = Some(value)).open();
    let added = object(
        global("tokenizers", "AddedToken"),
        dict(&[("content", text("<m>"))]),
    );
    let numbered = [b"}".to_vec(), int(1), added, b"s".to_vec()].concat();
    let special = ("_special_tokens_map", dict(&[("mask_token", text("<m>"))]));
    for fields in [
        vec![("mask_token_id", int(1))],
        vec![("_mask_id", int(1)), ("mask_token", text("<m>"))],
        vec![special.clone(), ("encoder", dict(&[("<m>", int(1))]))],
        vec![
            ("_mask_token", text("<m>")),
            ("vocab", dict(&[("a", int(0)), ("<m>", int(1))])),
        ],
        vec![special.clone(), ("_added_tokens_decoder", numbered)],
    ] {
        let checkpoint = opened(tokenizer(&fields)).unwrap();
        assert_eq!(
            (checkpoint.config().mask_index, checkpoint.mask_told()),
            (1, true)
        );
    }
    // It says that there is no mask token, so one was appended.
    for fields in [
        vec![("_special_tokens_map", dict(&[("mask_token", none())]))],
        vec![("mask_token", none())],
    ] {
        let checkpoint = opened(tokenizer(&fields)).unwrap();
        assert_eq!(
            (checkpoint.config().mask_index, checkpoint.mask_told()),
            (2, false)
        );
    }
    for value in [
        tokenizer(&[]),
        tokenizer(&[("pieces", list(&[]))]),
        tokenizer(std::slice::from_ref(&special)),
        tokenizer(&[
            special.clone(),
            ("a", dict(&[("<m>", int(0))])),
            ("b", dict(&[("<m>", int(1))])),
        ]),
        text("gpt2"),
    ] {
        assert_told(
            opened(value),
            "which token is the mask|mask_index|tokenizer in the checkpoint",
        );
    }
    // An argument of the module is as good as the tokenizer.
    let argument = |index| {
        Forged::with(|f| {
            f.tokenizer = Some(tokenizer(&[("mask_token_id", int(1))]));
            f.parameters.push(("mask_index", int(index)));
        })
    };
    assert_eq!(argument(1).open().unwrap().config().mask_index, 1);
    assert_told(
        argument(0).open(),
        "\"mask_index\" of the checkpoint is 0|tokenizer in the checkpoint is 1",
    );
    assert_told(
        opened(tokenizer(&[("mask_token_id", int(7))])),
        "mask token of the tokenizer in the checkpoint is 7|below vocab_size, which is 3",
    );
}

#[test]
fn configurations_and_tokenizers_agree_on_the_mask() {
    let mask = |config: &str, tokenizer: Option<&str>| {
        let folder = mdlm_folder(config);
        if let Some(name) = tokenizer {
            folder.write("tokenizer.json", &std::fs::read(case_path(name)).unwrap());
        }
        let told =
            |checkpoint: Checkpoint| (checkpoint.config().mask_index, checkpoint.mask_told());
        open(folder.path("").as_path()).map(told)
    };
    let inside = Some("mask.tokenizer.json");
    assert_eq!(
        mask(&mdlm(r#""mask_token_id": 4,"#), None).unwrap(),
        (4, true)
    );
    assert_eq!(
        mask(
            &mdlm(r#""tokenization_config": {"mask_token_id": 4},"#),
            None
        )
        .unwrap(),
        (4, true)
    );
    assert_eq!(mask(&mdlm(""), inside).unwrap(), (4, true));
    assert_eq!(
        mask(&mdlm(r#""mask_index": 4, "mask_token_id": 4,"#), inside).unwrap(),
        (4, true)
    );
    assert_eq!(
        mask(&mdlm(r#""mask_token_id": null,"#), None).unwrap(),
        (96, false)
    );
    assert_told(
        mask(&mdlm(r#""mask_index": 96, "mask_token_id": 4,"#), None),
        "\"mask_index\" of the configuration is 96|\"mask_token_id\" of the configuration is 4|correct",
    );
    assert_told(
        mask(&mdlm(r#""mask_index": 96,"#), inside),
        "\"mask_index\" of the configuration is 96|\"[MASK]\" of tokenizer.json is 4",
    );
    assert_told(
        mask(&mdlm(r#""mask_token_id": -1,"#), None),
        "mask_token_id|-1|token index",
    );
    let folder = mdlm_folder(&mdlm(""));
    folder.write("tokenizer.json", b"{\"added_tokens\": [");
    assert_told(
        open(folder.path("").as_path()),
        "which token is the mask|from tokenizer.json",
    );
}

#[test]
fn the_smaller_files_of_a_tokenizer_name_the_mask_too() {
    let mask = |files: &[(&str, &str)]| {
        let folder = mdlm_folder(&mdlm(""));
        for (name, text) in files {
            folder.write(name, text.as_bytes());
        }
        let told =
            |checkpoint: Checkpoint| (checkpoint.config().mask_index, checkpoint.mask_told());
        open(&folder.path("")).map(told)
    };
    let vocab = ("vocab.txt", "[PAD]\r\n[UNK]\r\n<m>\r\n");
    let config = ("tokenizer_config.json", r#"{"mask_token": "<m>"}"#);
    let map = (
        "special_tokens_map.json",
        r#"{"mask_token": {"content": "<m>"}}"#,
    );
    let table = ("vocab.json", r#"{"a": 0, "<m>": 2}"#);
    let added = ("added_tokens.json", r#"{"<m>": 2}"#);
    let decoder = r#"{"mask_token": "<m>", "added_tokens_decoder": {"2": {"content": "<m>"}}}"#;
    let whole = (
        "tokenizer.json",
        r#"{"added_tokens": [{"id": 2, "content": "<m>"}]}"#,
    );
    for files in [
        &[vocab, config][..],
        &[map, table],
        &[map, added],
        &[("tokenizer_config.json", decoder)],
        &[whole, config, map],
        &[("vocab.txt", "[PAD]\n[UNK]\n[MASK]\n")],
    ] {
        assert_eq!(mask(files).unwrap(), (2, true), "{files:?}");
    }
    assert_eq!(
        mask(&[("tokenizer_config.json", r#"{"mask_token": null}"#)]).unwrap(),
        (96, false)
    );
    assert_told(
        mask(&[config]),
        "which token is the mask|from tokenizer_config.json",
    );
    assert_told(
        mask(&[map, ("vocab.txt", "a\n")]),
        "which token is the mask|from special_tokens_map.json",
    );
    assert_told(
        mask(&[
            config,
            table,
            (
                "tokenizer.json",
                r#"{"added_tokens": [{"id": 4, "content": "[MASK]"}]}"#,
            ),
        ]),
        "\"<m>\" of tokenizer_config.json is 2|\"[MASK]\" of tokenizer.json is 4",
    );
}

/// A tokenizer.json of the golden vocabulary with these added tokens.
fn added(tokens: &[(u32, &str, bool)]) -> String {
    let vocab = (0..97).map(|index| (format!("t{index}"), index));
    let vocab: std::collections::BTreeMap<_, u32> = vocab.collect();
    let added: Vec<_> = (tokens.iter())
        .map(|(id, content, special)| {
            serde_json::json!({"id": id, "content": content, "special": special})
        })
        .collect();
    serde_json::json!({"added_tokens": added, "model": {"vocab": vocab}}).to_string()
}

#[test]
fn special_tokens_with_a_name_like_a_masks_are_the_mask() {
    let mask = |config: &str, tokens: &[(u32, &str, bool)]| {
        let folder = mdlm_folder(config);
        folder.write("tokenizer.json", added(tokens).as_bytes());
        let told =
            |checkpoint: Checkpoint| (checkpoint.config().mask_index, checkpoint.mask_told());
        open(&folder.path("")).map(told)
    };
    for name in ["<|mdm_mask|>", "MASK", "<MASK_0>", "[gMASK]"] {
        assert_eq!(mask(&mdlm(""), &[(4, name, true)]).unwrap(), (4, true));
        assert_told(
            mask(&mdlm(r#""mask_index": 7,"#), &[(4, name, true)]),
            &format!("\"mask_index\" of the configuration is 7|\"{name}\" of tokenizer.json is 4"),
        );
        // An ordinary word of the vocabulary may have this name.
        assert_eq!(mask(&mdlm(""), &[(4, name, false)]).unwrap(), (96, false));
        let usual = [(5, "[MASK]", true), (4, name, true)];
        assert_eq!(mask(&mdlm(""), &usual).unwrap(), (5, true));
    }
    let two = [(4, "<mask_1>", true), (5, "<mask_2>", true)];
    assert_told(
        mask(&mdlm(""), &two),
        "which token is the mask|tokenizer.json|\"<mask_1>\" and \"<mask_2>\"|mask_index",
    );
    assert_eq!(mask(&mdlm(r#""mask_index": 5,"#), &two).unwrap(), (5, true));
}

#[test]
fn sections_and_generation_configs_name_the_mask() {
    for section in [
        "model",
        "algo",
        "tokenizer",
        "tokenizer_config",
        "generation_config",
    ] {
        for field in ["mask_token_id", "mask_index", "mask_id"] {
            let within = format!(r#""{section}": {{"{field}": 4}},"#);
            let config = ModelConfig::from_json(&mdlm(&within)).unwrap();
            assert_eq!(config.mask_index, 4, "{within}");
            let both = mdlm(&format!(r#"{within} "mask_index": 5,"#));
            assert_told(
                ModelConfig::from_json(&both),
                &format!(
                    "\"mask_index\" of the configuration is 5|\"{section}.{field}\" of the configuration is 4"
                ),
            );
        }
    }
    let generation = |config: &str, text: &str| {
        let folder = mdlm_folder(config);
        folder.write("generation_config.json", text.as_bytes());
        let told =
            |checkpoint: Checkpoint| (checkpoint.config().mask_index, checkpoint.mask_told());
        open(&folder.path("")).map(told)
    };
    let four = r#"{"mask_token_id": 4}"#;
    assert_eq!(generation(&mdlm(""), four).unwrap(), (4, true));
    assert_eq!(
        generation(&mdlm(""), r#"{"eos_token_id": 4}"#).unwrap(),
        (96, false)
    );
    assert_told(
        generation(&mdlm(r#""mask_index": 5,"#), four),
        "\"mask_index\" of the configuration is 5|\"mask_token_id\" of generation_config.json is 4",
    );
    assert_told(
        generation(&mdlm(""), r#"{"mask_token_id": "4"}"#),
        "generation_config.json|mask_token_id|token index",
    );
    assert_told(
        generation(&mdlm(""), "{"),
        "which token is the mask|from generation_config.json",
    );
}

/// A message names the field that is actually present.
#[test]
fn masks_beyond_the_vocabulary_are_named_as_they_are_written() {
    for field in ["mask_token_id", "mask_index", "mask_id"] {
        assert_told(
            ModelConfig::from_json(&mdlm(&format!(r#""{field}": 97,"#))),
            &format!("\"{field}\" of the configuration is 97|below vocab_size, which is 97"),
        );
    }
}

/// A guess is not written into a converted checkpoint.
#[cfg(not(target_family = "wasm"))]
#[test]
fn a_guessed_mask_is_not_written() {
    use esolm_core::checkpoint::{SHARD_BYTES, StoreDtype, write_hf_folder};
    for (more, index, told) in [("", 96, false), (r#""mask_token_id": 4,"#, 4, true)] {
        let folder = mdlm_folder(&mdlm(more));
        let out = folder.path("out");
        write_hf_folder(
            &open(&folder.path("")).unwrap(),
            &out,
            StoreDtype::F32,
            SHARD_BYTES,
        )
        .unwrap();
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert_eq!(config.contains("mask_index"), told);
        let again = open(&out).unwrap();
        assert_eq!(
            (again.config().mask_index, again.mask_told()),
            (index, told)
        );
    }
}

#[test]
fn in_a_padded_vocabulary_the_mask_must_be_told() {
    let padded = |config: &str| {
        let folder = mdlm_folder(config);
        let tokenizer = br#"{"model": {"vocab": {"a": 0, "b": 1, "d": 3}}}"#;
        folder.write("tokenizer.json", tokenizer);
        open(&folder.path(""))
    };
    assert_told(
        padded(&mdlm("")),
        "which token is the mask|97 is padded|4 tokens|mask_index",
    );
    let unused = padded(&mdlm(r#""mask_index": 5,"#))
        .unwrap()
        .unused_tokens()
        .to_vec();
    assert_eq!(unused[..4], [2, 4, 6, 7]);
    assert_eq!(unused.len(), 97 - 4);
    assert!(
        open(&golden_path("mini_esolm.ckpt"))
            .unwrap()
            .unused_tokens()
            .is_empty()
    );
}

/// Every file with the vocabulary determines which indices have no token, but only if it contains the whole vocabulary.
#[test]
fn vocabularies_of_every_kind_tell_padding() {
    let folder = mdlm_folder(&mdlm(r#""mask_index": 5,"#));
    let unused = |name: &str, text: &str| {
        let path = folder.write(name, text.as_bytes());
        let opened = open(&folder.path("")).unwrap();
        std::fs::remove_file(path).unwrap();
        opened.unused_tokens().len()
    };
    assert_eq!(unused("vocab.txt", "a\nb\nc\n"), 97 - 4);
    assert_eq!(unused("vocab.json", r#"{"a": 0, "b": 2}"#), 97 - 3);
    assert_eq!(unused("added_tokens.json", r#"{"<x>": 0}"#), 0);
    assert_eq!(
        unused(
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"1": {"content": "<x>"}}}"#
        ),
        0
    );

    let tokenizer = |fields: &[(&str, Value)]| {
        let value = object(global("some", "Tokenizer"), dict(fields));
        let opened = Forged::with(|f| f.tokenizer = Some(value)).open().unwrap();
        opened.unused_tokens().to_vec()
    };
    let mask = || ("mask_token_id", int(2));
    let vocab = dict(&[("a", int(0))]);
    assert_eq!(tokenizer(&[mask(), ("vocab", vocab.clone())]), [1]);
    let numbers = [b"}".to_vec(), int(0), text("a"), b"s".to_vec()].concat();
    assert_eq!(tokenizer(&[mask(), ("ids_to_tokens", numbers)]), [1]);
    let added = dict(&[("b", int(1))]);
    let both = [
        mask(),
        ("_vocab_str_to_int", vocab),
        ("added_tokens_encoder", added.clone()),
    ];
    assert!(tokenizer(&both).is_empty());
    assert!(tokenizer(&[mask(), ("added_tokens_encoder", added)]).is_empty());
}

#[test]
fn a_byte_order_mark_is_no_part_of_json() {
    let config = format!("\u{feff}{}", mdlm("").replace('\n', "\r\n"));
    let folder = mdlm_folder(&config);
    let tokenizer = std::fs::read(case_path("mask.tokenizer.json")).unwrap();
    folder.write(
        "tokenizer.json",
        &["\u{feff}".as_bytes(), &tokenizer].concat(),
    );
    assert_eq!(open(&folder.path("")).unwrap().config().mask_index, 4);
}

#[test]
fn a_given_configuration_does_not_silence_the_checkpoint() {
    let folder = Folder::new("beside");
    let bert = case_path("text8.ckpt");
    let given = open_with(&bert, &folder, &format!("{MINI}}}")).unwrap();
    assert_eq!((given.config().mask_index, given.mask_told()), (4, true));
    // What only the file knows is taken from it.
    assert_eq!(open_with(&bert, &folder, "{}").unwrap().config().n_heads, 2);
    for (more, words) in [
        (
            r#","mask_index":34"#,
            "\"mask_index\" of the configuration is 34|\"[MASK]\" of the tokenizer in the checkpoint is 4",
        ),
        (
            r#","n_heads":4"#,
            "\"n_heads\" of the configuration is 4|what the checkpoint says of itself is 2",
        ),
        (
            r#","model_type":"EsoLM""#,
            "the family of the configuration is Eso-LM|MDLM",
        ),
    ] {
        // A field that occurs twice is refused for that reason.
        let named = more.split(':').next().unwrap().trim_start_matches(',');
        let fields = MINI.trim_start_matches('{').split(',');
        let others: Vec<_> = fields.filter(|field| !field.starts_with(named)).collect();
        let config = format!("{{{}{more}}}", others.join(","));
        assert_told(open_with(&bert, &folder, &config), words);
    }
    for name in ["time-conditioned.ckpt", "mdlm-old-time.ckpt"] {
        let opened = open_with(&case_path(name), &folder, &format!("{MINI}}}"));
        assert_told(
            opened,
            "time_conditioning\" of the checkpoint is true|constant",
        );
    }
    let ar = r#"{"model_type":"ar"}"#;
    open_with(&case_path("ar-old.ckpt"), &folder, ar).unwrap();

    // A folder's own config.json is considered too.
    let duo = mdlm_folder(
        &String::from_utf8(std::fs::read(case_path("duo.config.json")).unwrap()).unwrap(),
    );
    let weights = duo.path("model.safetensors");
    assert_told(open(&weights), "model_type|\"DUO\"|Duo");
    for spec in [duo.path(""), weights] {
        assert_told(open_with(&spec, &folder, &mdlm("")), "\"DUO\"|Duo");
    }
    let broken = mdlm_folder("{");
    open_with(&broken.path(""), &folder, &mdlm("")).unwrap();
}
