//! Tokenizers with which the library would fail otherwise than by an error.

use serde_json::{Value, json};

use super::*;

fn checked(file: &Value) -> Result<(), Fault> {
    check(file.to_string().as_bytes())
}

fn bpe(prefix: &str, vocabulary: &[&str], merges: &Value) -> Result<(), Fault> {
    let vocabulary: serde_json::Map<String, Value> = (0..)
        .zip(vocabulary)
        .map(|(id, name)| (name.to_string(), Value::from(id)))
        .collect();
    checked(&json!({
        "model": {"type": "BPE", "merges": merges, "vocab": vocabulary, "continuing_subword_prefix": prefix}
    }))
}

#[test]
fn long_tokens_of_unigram_models_are_refused() {
    let unigram = |length: usize| {
        let vocabulary = json!([["<unk>", 0.0], ["a".repeat(length), -1.0]]);
        checked(&json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}}))
    };
    assert_eq!(unigram(MAX_PIECE_BYTES), Ok(()));
    assert_eq!(unigram(200_000), Err(Fault::LongToken(200_000)));
    let long = "a".repeat(9000);
    assert_eq!(checked(&json!({"model": {"vocab": {long: 1}}})), Ok(()));
    assert!(matches!(check(b"not JSON"), Err(Fault::Json(_))));
}

#[test]
fn merges_must_make_tokens() {
    let tokens = ["a", "b", "ab", "#b", "é", "aé"];
    let merge = |left: &str, right: &str| Err(Fault::Merge(left.into(), right.into()));
    for (prefix, merges, expected) in [
        ("", json!([["a", "b"]]), Ok(())),
        ("", json!(["#version: 0.2", "a b", "a é"]), Ok(())),
        ("#", json!([["a", "#b"]]), Ok(())),
        ("", json!([]), Ok(())),
        // Longer than any token, or as long as one that there is.
        ("", json!([["aé", "aé"]]), merge("aé", "aé")),
        ("", json!(["b a"]), merge("b", "a")),
        ("", json!([["a", "c"]]), merge("a", "c")),
        // A right part shorter than what is cut off, or cut within a character.
        ("###", json!([["a", "b"]]), merge("a", "b")),
        ("#", json!([["a", "é"]]), merge("a", "é")),
    ] {
        assert_eq!(bpe(prefix, &tokens, &merges), expected, "{prefix} {merges}");
    }
}

#[test]
fn tables_of_characters_are_checked_wherever_they_are() {
    let table = |bytes: &[u8]| json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)});
    let words = |first: u32, rest: u32, text: &str| {
        let words = [first].into_iter().chain([rest; 255]);
        let array: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        [&1024u32.to_le_bytes(), &array[..], text.as_bytes()].concat()
    };
    // No word has a value, or each is one; the text is that of the first.
    assert_eq!(check_charsmap(&words(0, 0, "é\0abc\0")), Some(3));
    assert_eq!(check_charsmap(&words(0, 1 << 31, "")), Some(0));
    let good = table(&words(0, 0, ""));
    let bad = [
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}),
        json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        json!({"type": "Precompiled", "precompiled_charsmap": "?"}),
        json!({"type": "Precompiled", "precompiled_charsmap": null}),
        json!({"type": "Precompiled"}),
        json!({"precompiled_charsmap": ""}),
        // The first word is not a node, its child or its value is elsewhere, or a value is within a character.
        table(&words(u32::MAX, 0, "")),
        table(&words(1 << 18, 0, "")),
        table(&words(1 << 8, 1, "")),
        table(&words(0, 1 << 31 | 1, "é")),
    ];
    let within = |step: &Value| {
        let list = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, step]});
        let deeper = json!({"type": "Sequence", "normalizers": [list]});
        [step.clone(), list, deeper].map(|steps| checked(&json!({"normalizer": steps})))
    };
    assert_eq!(within(&good), [Ok(()), Ok(()), Ok(())]);
    for step in bad {
        for found in within(&step) {
            assert_eq!(found, Err(Fault::Characters), "{step}");
        }
    }
}

#[test]
fn no_chain_of_steps_makes_a_text_much_longer() {
    let regex = |regex: &str, with: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": with});
    let text = |text: &str, with: &str| json!({"type": "Replace", "pattern": {"String": text}, "content": with});
    let prepend = |text: &str| json!({"type": "Prepend", "prepend": text});
    let kind = |kind: &str| json!({"type": kind});
    let of = |place: &str, list: &str, steps: &[Value]| {
        checked(&json!({place: {"type": "Sequence", list: steps}}))
    };
    let normalizers = |steps: &[Value]| of("normalizer", "normalizers", steps);
    let published = [
        vec![prepend("▁"), text(" ", "▁")],
        vec![
            regex("^ +| +$", ""),
            regex(" {2,}", " "),
            prepend("▁"),
            text(" ", "▁"),
        ],
        vec![
            text("``", "\""),
            text("''", "\""),
            kind("NFKD"),
            kind("StripAccents"),
            kind("Lowercase"),
            regex(" {2,}", "▁"),
        ],
        vec![kind("NFC"), regex("\\s+", " "), kind("Lowercase")],
        vec![kind("BertNormalizer")],
        // Saved again and again.
        vec![
            vec![
                kind("NFKD"),
                kind("StripAccents"),
                kind("Lowercase"),
                regex(" {2,}", " ")
            ];
            30
        ]
        .concat(),
    ];
    for steps in published {
        assert_eq!(normalizers(&steps), Ok(()), "{steps:?}");
    }
    for steps in [
        vec![text("a", "aa"); 20],
        vec![text("", "a"); 20],
        vec![regex("a", "aa"); 20],
        vec![text("aa", &"a".repeat(9000))],
        vec![prepend("aaa"); 20],
        vec![prepend(&"a".repeat(900_000))],
        vec![
            vec![
                kind("NFD"),
                text("\u{301}", "\u{390}"),
                text("\u{308}", "\u{390}"),
            ];
            20
        ]
        .concat(),
        vec![vec![regex(".", "ﷺ"), kind("NFKD")]; 3].concat(),
        vec![vec![kind("Lowercase"), kind("NFKC"), text("a", "ﷺ")]; 3].concat(),
        [vec![regex(".", "一")], vec![kind("BertNormalizer"); 8]].concat(),
        vec![regex("(?=a)", "a"); 20],
        vec![regex(" {0,2}", " "); 20],
        vec![json!({"type": "NFC", "pattern": {"String": "a"}, "content": "aa"}); 20],
        vec![json!({"type": "Nmt", "suffix": ""}); 20],
        vec![kind("ByteLevel"); 20],
        vec![json!({"add_prefix_space": true}); 20],
        vec![json!({"normalizers": vec![text("a", "aa"); 10]}); 2],
    ] {
        assert_eq!(normalizers(&steps), Err(Fault::Growth), "{steps:?}");
    }
    let suffix = vec![json!({"type": "BPEDecoder", "suffix": ""}); 20];
    assert_eq!(of("decoder", "decoders", &suffix), Err(Fault::Growth));
    let bytes = vec![kind("ByteLevel"); 20];
    assert_eq!(
        of("pre_tokenizer", "pretokenizers", &bytes),
        Err(Fault::Growth)
    );
    assert_eq!(of("pre_tokenizer", "pretokenizers", &bytes[..3]), Ok(()));
    let pieces = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"});
    let pieces = vec![pieces; 7];
    assert_eq!(
        of("pre_tokenizer", "pretokenizers", &pieces),
        Err(Fault::Growth)
    );
    assert_eq!(of("pre_tokenizer", "pretokenizers", &pieces[..2]), Ok(()));
    // Both lengthen the same text; what is decoded is another.
    let letters = json!({"type": "Sequence", "normalizers": vec![text("a", "aa"); 7]});
    for (place, list, told) in [
        ("pre_tokenizer", "pretokenizers", Err(Fault::Growth)),
        ("decoder", "decoders", Ok(())),
    ] {
        let after = json!({"type": "Sequence", list: &bytes[..3]});
        assert_eq!(checked(&json!({"normalizer": letters, place: after})), told);
    }
    assert_eq!(normalizers(&vec![kind("Strip"); 300]), Err(Fault::Steps));
}

#[test]
fn values_with_which_a_step_would_fail_are_refused() {
    let fault = |step: &str, field| {
        let step = step.to_string();
        Err(Fault::Step { step, field })
    };
    let strip = |stop: usize| {
        checked(&json!({"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": stop}}))
    };
    assert_eq!(strip(0), Ok(()));
    assert_eq!(strip(1), fault("Strip", "stop"));
    let pieces = |length: usize| {
        checked(&json!({"pre_tokenizer": {"type": "FixedLength", "length": length}}))
    };
    assert_eq!(pieces(5), Ok(()));
    assert_eq!(pieces(0), fault("FixedLength", "length"));
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let template = |single: &[Value]| {
        let tokens = json!({"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}});
        let template = json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens});
        checked(&json!({"post_processor": {"type": "Sequence", "processors": [template]}}))
    };
    assert_eq!(template(&[token("<s>"), text("A"), token("<s>")]), Ok(()));
    for single in [
        [token("<s>"), text("B")],
        [token("</s>"), text("A")],
        [text("A"), text("A")],
        [text("A"), json!("A")],
    ] {
        assert_eq!(template(&single), fault("TemplateProcessing", "single"));
    }
    let twice = r#"{"decoder": {"type": "Fuse", "type": "Strip"}}"#;
    for (file, words) in [
        (twice, "twice"),
        (r#"{"decoder": null, "decoder": null}"#, "duplicate field"),
        (
            r#"{"model": {"vocab": {}, "vocab": {}}}"#,
            "duplicate field",
        ),
    ] {
        let fault = check(file.as_bytes()).expect_err(file).to_string();
        assert!(fault.contains(words), "{fault}");
    }
    assert_eq!(checked(&json!({"normalizer": ["aa"]})), Err(Fault::List));
}
