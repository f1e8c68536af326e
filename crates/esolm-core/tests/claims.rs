//! What a checkpoint says about itself counts, wherever it stands: which token is the mask, and that the network is of the kind that is
//! computed. Run with `--nocapture` to read the messages.

mod common;

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
    // It says that it has none, so one was appended.
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
    // An argument of the module counts as the tokenizer does.
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
        "mask_index|7|below vocab_size",
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
        assert_told(open_with(&bert, &folder, &format!("{MINI}{more}}}")), words);
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

    // A folder's own config.json counts as well.
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
