use esolm_stories::TOKENIZER;
use proptest::prelude::*;

use super::*;
use crate::config::{AttentionKind, Family, Prepend};

const ENDS: Ends = Ends {
    bos: Some(0),
    eos: Some(0),
    more: Vec::new(),
};

fn config(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        family: Family::EsoLm,
        hidden: 192,
        cond_dim: 64,
        n_blocks: 6,
        n_heads: 6,
        length: 128,
        vocab_size,
        mask_index: vocab_size as u32 - 1,
        alpha_0: Some(0.25),
        prepend: Prepend::None,
        bos: None,
        eos: None,
        more_eos: Vec::new(),
        dropout: 0.0,
        attention: AttentionKind::Causal,
        block_size: None,
        noise_range: None,
        sets: None,
        decoder: None,
    }
}

fn codec() -> TextCodec {
    TextCodec::from_bytes(TOKENIZER.as_bytes(), &config(3969)).expect("the shipped tokenizer")
}

fn parts(template: &str) -> Vec<Part> {
    Template::parse(template).expect(template).parts
}

fn gap(tokens: usize) -> Part {
    Part::Gap {
        tokens,
        after_word: false,
    }
}

/// A gap after a word and a space.
fn gap_after_word(tokens: usize) -> Part {
    Part::Gap {
        tokens,
        after_word: true,
    }
}

fn given(text: &str) -> Part {
    Part::Given(text.into())
}

#[test]
fn the_shipped_tokenizer_fits_the_shipped_model() {
    let codec = codec();
    assert_eq!(codec.tokens(), 3968);
    assert_eq!(
        codec.ends(),
        ENDS,
        "found by name when the configuration is silent"
    );
}

#[test]
fn a_foreign_tokenizer_is_refused() {
    for vocab_size in [97, 3967, 3970, 50258] {
        let error = TextCodec::from_bytes(TOKENIZER.as_bytes(), &config(vocab_size))
            .expect_err("wrong size");
        assert!(
            matches!(error, TextError::Vocabulary { tokens: 3968, .. }),
            "{error}"
        );
    }
    // A tokenizer that contains the mask itself.
    assert!(TextCodec::from_bytes(TOKENIZER.as_bytes(), &config(3968)).is_ok());
    let mut inner_mask = config(3969);
    inner_mask.mask_index = 5;
    assert!(TextCodec::from_bytes(TOKENIZER.as_bytes(), &inner_mask).is_err());
    for bytes in [&b""[..], b"{}", b"{\"model\": 3}", b"\xff\xfe"] {
        let error = TextCodec::from_bytes(bytes, &config(3969)).expect_err("no tokenizer");
        assert!(matches!(error, TextError::Unusable(_)), "{error}");
    }
    let error = TextCodec::from_file("no/such/tokenizer.json".as_ref(), &config(3969));
    assert!(matches!(error, Err(TextError::Io { .. })));
}

#[test]
fn a_tokenizer_with_another_mask_token_is_refused() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/cases/mask.tokenizer.json"
    );
    let json = std::fs::read(path).expect("a fixture");
    let error = TextCodec::from_bytes(&json, &config(97)).expect_err("mask 96");
    assert!(
        matches!(&error, TextError::Mask { name, index: 4, mask_index: 96 } if name == "[MASK]"),
        "{error}"
    );
    let mut fitting = config(97);
    fitting.mask_index = 4;
    assert!(TextCodec::from_bytes(&json, &fitting).is_ok());
}

/// The library would panic, or reserve more memory than there is.
#[test]
fn tokenizers_with_which_the_library_fails_are_refused() {
    let model = |merges: &str| {
        format!(
            r#"{{"type": "BPE", "vocab": {{"a": 0, "b": 1}}, "merges": {merges}, "continuing_subword_prefix": "é"}}"#
        )
    };
    let table = |table: &str| {
        let normalizer = format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{table}"}}"#);
        format!(
            r#"{{"version": "1.0", "normalizer": {normalizer}, "model": {}}}"#,
            model("[]")
        )
    };
    for json in [
        table("AAAAAA=="),
        table("/////w=="),
        format!(
            r#"{{"version": "1.0", "model": {}}}"#,
            model(r#"[["a", "b"]]"#)
        ),
    ] {
        let error = TextCodec::from_bytes(json.as_bytes(), &config(3)).expect_err(&json);
        assert!(matches!(error, TextError::Unusable(_)), "{error}");
    }
}

#[test]
fn a_vocabulary_may_be_padded() {
    let mut padded = config(4032);
    padded.mask_index = 3968;
    let json = [b"\xef\xbb\xbf", TOKENIZER.as_bytes()].concat();
    let codec = TextCodec::from_bytes(&json, &padded).expect("padded");
    let unused: Vec<u32> = (3969..4032).collect();
    assert_eq!(codec.unused_tokens(), unused);
    assert!(self::codec().unused_tokens().is_empty());
    // Padded to any size if the tokens end at the mask; if the mask was only assumed to be the last index, the message
    // says so.
    let mut odd = config(3971);
    odd.mask_index = 3968;
    let codec = TextCodec::from_bytes(&json, &odd).expect("padded");
    assert_eq!(codec.unused_tokens(), [3969, 3970]);
    let told = |vocab_size| {
        let refused = TextCodec::from_bytes(&json, &config(vocab_size));
        refused
            .expect_err("refused")
            .to_string()
            .contains("mask_index")
    };
    assert!(told(4032) && told(3971) && !told(97) && !told(3967) && !told(50258));
    // One that comes with the model may be padded to any size, within reason.
    let own = |vocab_size| TextCodec::read(&json, &config(vocab_size), true);
    assert_eq!(own(3971).expect("own").unused_tokens(), [3968, 3969]);
    for vocab_size in [97, 3967, 50258] {
        assert!(own(vocab_size).is_err(), "{vocab_size}");
    }
}

#[test]
fn text_goes_there_and_back() {
    let codec = codec();
    for text in [
        "",
        "Once upon a time, there was a little girl.",
        " leading and trailing ",
        "two  spaces\n\nand lines\t",
        "Grüße, 你好 🦀 \u{0}",
        "a<|endoftext|>b",
    ] {
        let tokens = codec.encode(text).expect(text);
        assert_eq!(codec.decode(&tokens), text);
    }
    assert_eq!(codec.encode("a<|endoftext|>b").expect("special")[1], 0);
    assert_eq!(
        codec.decode_plain(&codec.encode("a<|endoftext|>b").expect("special")),
        "ab"
    );
    // The mask has no text.
    assert_eq!(codec.decode(&[3968]), "");
}

#[test]
fn the_mask_is_no_text() {
    let codec = TextCodec::from_bytes(TOKENIZER.as_bytes(), &config(3968)).expect("mask inside");
    let name = codec.tokenizer.id_to_token(3967).expect("last token");
    let text = codec.decode(&[3967]);
    assert!(matches!(codec.encode(&text), Err(TextError::MaskInText(found)) if found == name));
}

#[test]
fn what_a_tokenizer_changes_is_told() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/cases/lower-case.tokenizer.json"
    );
    let json = std::fs::read(path).expect("a fixture");
    let mut small = config(97);
    small.mask_index = 4;
    let lower = TextCodec::from_bytes(&json, &small).expect("fits");
    let altered = |codec: &TextCodec, text: &str| {
        let tokens = codec.encode(text).expect("tokens");
        let altered = codec.altered(text, &tokens);
        altered.map(|Altered { given, kept }| format!("{given} > {kept}"))
    };
    assert_eq!(altered(&lower, "hello,  world.\nthe cats"), None);
    let long = format!("{}the Cat sat.", "once upon a time ".repeat(30));
    for (text, told) in [
        ("Hello world", "Hello world > hello world"),
        (&long, "Cat sat. > cat sat."),
        ("once é", "é > [UNK]"),
        ("the cat 🦀🦀", "🦀🦀 > [UNK]"),
        ("once \u{0}", "once \\0 > once"),
    ] {
        assert_eq!(altered(&lower, text).as_deref(), Some(told));
    }
    assert_eq!(altered(&codec(), " Two  spaces\n"), None);

    let template = |text: &str| {
        let template = Template::parse(text).expect("a template");
        template.place(&lower, &[], 64).map(drop)
    };
    assert_eq!(template("once  upon ____ time."), Ok(()));
    assert!(matches!(
        template("Once ____ time."),
        Err(TextError::Lossy(Altered { given, .. })) if given == "Once"
    ));
}

#[test]
fn tokens_cover_bytes_of_the_text_that_was_given() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/cases/lower-case.tokenizer.json"
    );
    let json = std::fs::read(path).expect("a fixture");
    let mut small = config(97);
    small.mask_index = 4;
    let lower = TextCodec::from_bytes(&json, &small).expect("fits");
    let text = "Hello, ÉÉ WORLD.";
    let covered = [0, 1, 2, 3, 4, 5, 9].map(|count| lower.covered(text, count));
    assert_eq!(covered.map(Result::unwrap), [0, 5, 6, 11, 17, 18, 18]);
    let codec = codec();
    let text = "the é 🦀 cat";
    let tokens = codec.encode(text).expect("tokens");
    for count in 0..=tokens.len() {
        let kept = codec.decode(&tokens[..count]);
        let whole = kept.trim_end_matches(char::REPLACEMENT_CHARACTER);
        assert_eq!(codec.covered(text, count), Ok(whole.len()), "{kept}");
    }
}

#[test]
fn a_text_ends_at_the_first_end_of_text() {
    let cut = |tokens: &'static [u32], given| until_eos(tokens, given, &ENDS);
    assert_eq!(cut(&[0, 5, 6, 0, 7], 0), [0, 5, 6]);
    assert_eq!(cut(&[5, 6, 0, 7], 0), [5, 6]);
    assert_eq!(cut(&[0, 0, 5, 0], 1), [0, 0, 5]);
    assert_eq!(
        cut(&[0, 5, 0, 7, 0, 8], 4),
        [0, 5, 0, 7],
        "given tokens are not cut"
    );
    assert_eq!(cut(&[0, 0], 0), [0, 0]);
    assert!(cut(&[], 3).is_empty());
    assert_eq!(until_eos(&[5, 0, 6], 0, &Ends::default()), [5, 0, 6]);
    let two = Ends {
        bos: Some(1),
        eos: Some(2),
        more: vec![7],
    };
    assert_eq!(until_eos(&[1, 5, 2, 6], 0, &two), [1, 5]);
    assert_eq!(until_eos(&[1, 7, 5, 6, 7, 2], 0, &two), [1, 7, 5, 6]);
    let codec = codec();
    let mut tokens = vec![0];
    tokens.extend(codec.encode("The end.").expect("text"));
    tokens.push(0);
    tokens.extend(codec.encode("Next").expect("text"));
    assert_eq!(codec.text(&tokens, 0), "The end.");
}

#[test]
fn templates_are_read_as_documented() {
    assert_eq!(
        parts("Once ____ a time"),
        [given("Once"), gap_after_word(4), given(" a time")]
    );
    assert_eq!(
        parts("Once ____{12} a time"),
        [given("Once"), gap_after_word(12), given(" a time")]
    );
    assert_eq!(parts("_{3}"), [gap(3)]);
    assert_eq!(parts("__ ____{3}__x"), [gap(7), given("x")]);
    assert_eq!(parts("a__b"), [given("a"), gap(2), given("b")]);
    assert_eq!(parts("a  __"), [given("a "), gap(2)], "one space goes");
    assert_eq!(parts("a\n__\nb"), [given("a\n"), gap(2), given("\nb")]);
    assert_eq!(
        parts(r"a\_b \\ \x __\{2}"),
        [given(r"a_b \ \x"), gap_after_word(2), given("{2}")]
    );
    assert_eq!(parts("é__é"), [given("é"), gap(2), given("é")]);
}

#[test]
fn faulty_templates_are_named() {
    let error = |template: &str| Template::parse(template).expect_err(template).to_string();
    assert!(error("Once upon").contains("no gap"));
    assert!(error(r"\_\_").contains("no gap"));
    assert!(error("").contains("no gap"));
    assert!(
        error("a ____{} b").contains("\"____{}\""),
        "{}",
        error("a ____{} b")
    );
    assert!(
        error("a ____{12").contains("\"____{12\""),
        "{}",
        error("a ____{12")
    );
    assert!(error("a ____{x} b").contains("\"____{x}\""));
    assert!(error("a ____{ü").contains("____{ü"));
    assert!(error("a ____{0} b").contains("is empty"));
    assert!(error("____{99999999999999999999999999999}").contains("too long"));
    assert!(error("____{16777217}").contains("too long"));
}

#[test]
fn given_words_are_placed_word_for_word() {
    let codec = codec();
    let template = Template::parse("Once ____{12} a time, Lily ___ the end.").expect("template");
    let placed = template.place(&codec, &[0], 128).expect("fits");
    assert_eq!(placed.known[0], (0, 0));
    let mut at = 1;
    let mut known = placed.known[1..].iter();
    for part in &template.parts {
        match part {
            Part::Gap { tokens, .. } => at += *tokens as u32,
            Part::Given(text) => {
                let n = codec.encode(text).expect("text").len();
                let piece: Vec<_> = known.by_ref().take(n).copied().collect();
                assert!(piece.iter().map(|&(p, _)| p).eq(at..at + n as u32));
                let tokens: Vec<u32> = piece.into_iter().map(|(_, token)| token).collect();
                assert_eq!(codec.decode(&tokens), *text);
                at += n as u32;
            }
        }
    }
    assert_eq!(at as usize, placed.length);
    assert_eq!(placed.given, placed.length);
    let placed = Template::parse("The end__").map(|t| t.place(&codec, &[], 9));
    let placed = placed.expect("template").expect("fits");
    assert_eq!(placed.length, placed.given + 2);

    let exact = template
        .place(&codec, &[0], placed_length(&template, &codec))
        .expect("fits");
    assert_eq!(exact.length, placed_length(&template, &codec));
    let error = template
        .place(&codec, &[0], exact.length - 1)
        .expect_err("too long");
    assert!(
        error
            .to_string()
            .contains(&format!("needs {} tokens", exact.length)),
        "{error}"
    );
    assert!(
        error.to_string().contains("15 in gaps, 1 to open the text"),
        "{error}"
    );
    // No allocation of that size.
    let huge = Template::parse("_{16777216}_{16777216}").expect("template");
    assert!(huge.place(&codec, &[], 128).is_err());
}

#[test]
fn given_words_are_not_written_on() {
    let codec = codec();
    let template = Template::parse("The cat __, the__ end").expect("template");
    let placed = template.place(&codec, &[0], 128).expect("fits");
    let at = 1 + codec.encode("The cat").expect("text").len();
    assert_eq!(
        placed.word_ends,
        [at],
        "a gap that touches its word may go on with it"
    );
    let mut tokens = vec![0; placed.length];
    for &(position, token) in &placed.known {
        tokens[position as usize] = token;
    }
    let mut keeps = |first: &str| {
        tokens[at] = codec.encode(first).expect("text")[0];
        codec.keeps_words(&tokens, &placed.word_ends)
    };
    assert!(keeps(" sat") && keeps(".") && keeps("\n"));
    assert!(!keeps("s") && !keeps("7"));
    assert!(!keeps("é"), "its first byte alone");
    assert!(keeps("<|endoftext|>"), "the comma follows");
    assert!(codec.keeps_words(&[], &placed.word_ends));
}

fn placed_length(template: &Template, codec: &TextCodec) -> usize {
    template.place(codec, &[0], 1000).expect("fits").length
}

proptest! {
    /// Whatever the model writes into the gaps, including broken UTF-8, the given texts stay in order, byte for byte.
    #[test]
    fn given_texts_survive_any_filling(
        texts in prop::collection::vec("[ -^`-~é🦀\n]{1,12}", 1..4),
        fill in prop::collection::vec(1u32..3968, 40),
    ) {
        let codec = codec();
        let escaped: Vec<String> = texts.iter().map(|t| t.replace('\\', r"\\").replace('{', r"\{")).collect();
        let template = Template::parse(&format!("___{}__", escaped.join("____{5}"))).expect("template");
        let placed = template.place(&codec, &[], 1000).expect("fits");
        let mut tokens: Vec<u32> = fill.iter().cycle().take(placed.length).copied().collect();
        for &(position, token) in &placed.known {
            tokens[position as usize] = token;
        }
        let text = codec.decode(&tokens);
        let mut rest = text.as_str();
        for part in &template.parts {
            if let Part::Given(piece) = part {
                let at = rest.find(piece.as_str());
                prop_assert!(at.is_some(), "{piece:?} is not in {rest:?}");
                rest = &rest[at.unwrap_or(0) + piece.len()..];
            }
        }
    }

    #[test]
    fn no_template_panics(template in "[_{}0-9a\\\\ é]{0,24}") {
        let _ = Template::parse(&template);
    }
}
