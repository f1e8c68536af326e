//! Tokenizers in every form in which they come with checkpoints, compared with the tokens of the original programs
//! (`tests/fixtures/tokenizers`), and tokenizers that cannot be read. Run with `--nocapture` to read the messages.

mod common;

use std::path::{Path, PathBuf};

use common::forge::{Value, boolean, call, dict, global, int, none, object, text, tuple};
use common::forged::Forged;
use common::{Folder, assert_told, case_path, golden};
use esolm_core::checkpoint::{
    Checkpoint, OpenOptions, SHARD_BYTES, StoreDtype, TokenizerForm, read_tokenizer,
    write_hf_folder,
};
use esolm_core::text::TextCodec;
use tokenizers::Tokenizer;

/// A text, its tokens, and their decoded text if recorded.
type Case = (String, Vec<u32>, Option<String>);

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers");
    folder.join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes(name)).unwrap()
}

fn cases(list: &serde_json::Value) -> Vec<Case> {
    let case = |case: &serde_json::Value| {
        let ids = case[1].as_array().unwrap().iter();
        (
            case[0].as_str().unwrap().to_string(),
            ids.map(|id| id.as_u64().unwrap() as u32).collect(),
            case.get(2).and_then(|text| text.as_str()).map(String::from),
        )
    };
    list.as_array().unwrap().iter().map(case).collect()
}

/// Checks that the text becomes the recorded tokens, and these the recorded text.
fn check(name: &str, json: &str, cases: &[Case]) {
    let tokenizer: Tokenizer = json.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
    for (text, ids, said) in cases {
        let encoded = tokenizer.encode(text.as_str(), false).unwrap();
        assert_eq!(
            encoded.get_ids(),
            ids,
            "{name}: {text:?} as {:?}",
            encoded.get_tokens()
        );
        if let Some(said) = said {
            assert_eq!(
                &tokenizer.decode(ids, false).unwrap(),
                said,
                "{name}: {text:?}"
            );
        }
    }
}

fn of_file(path: &Path) -> (String, TokenizerForm) {
    let read = read_tokenizer(path, std::fs::read(path).unwrap());
    let (json, form) = read.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (String::from_utf8(json).unwrap(), form)
}

/// The tokenizer of a checkpoint that contains this pickled one.
fn of_pickle(fields: &[(&str, Value)]) -> Result<(String, TokenizerForm), String> {
    let mut fields = fields.to_vec();
    fields.push(("mask_token_id", int(2)));
    let value = object(global("some", "Tokenizer"), dict(&fields));
    let opened = Forged::with(|f| f.tokenizer = Some(value)).open().unwrap();
    match opened.tokenizer_form().unwrap() {
        Ok(form) => Ok((opened.tokenizer_json().unwrap().into(), *form)),
        Err(error) => {
            assert!(opened.tokenizer_json().is_none());
            Err(format!("the tokenizer {error}"))
        }
    }
}

/// Bytes as in pickle protocols from 3 on.
fn raw(bytes: &[u8]) -> Value {
    [b"B".as_slice(), &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

fn pairs(pairs: &[(Value, Value)]) -> Value {
    let items: Vec<u8> = pairs
        .iter()
        .flat_map(|(k, v)| [k.clone(), v.clone()].concat())
        .collect();
    [b"}(".as_slice(), &items, b"u"].concat()
}

const MODELS: [&str; 6] = [
    "unigram",
    "unigram-bytes",
    "bpe",
    "bpe-bytes",
    "bpe-symbols",
    "char",
];

#[test]
fn sentencepiece_models_give_its_tokens() {
    let expected = json("expected.json");
    for name in MODELS {
        let file = format!("{name}.model");
        let (json, form) = of_file(&fixture(&file));
        assert_eq!(form, TokenizerForm::SentencePiece);
        // The unknown token is written as its name here, and as a symbol there.
        let mut cases = cases(&expected[name]);
        for said in cases.iter_mut().filter_map(|case| case.2.as_mut()) {
            *said = said.replace(" \u{2047} ", "<unk>");
        }
        check(name, &json, &cases);
        // Pickled by each of the classes that contain one.
        let class = || global("sentencepiece", "SentencePieceProcessor");
        let model = || raw(&bytes(&file));
        let fields = dict(&[("_add_bos", boolean(false)), ("model_proto", model())]);
        for field in [
            ("processor", object(class(), fields)),
            ("sp_model", object(class(), model())),
            ("sp_model_proto", model()),
        ] {
            assert_eq!(of_pickle(&[field]).unwrap().0, json, "{name}");
        }
    }
}

#[test]
fn ranks_give_the_tokens_of_tiktoken() {
    let text_of = |name| String::from_utf8(bytes(name)).unwrap();
    let ranks: Vec<(Value, Value)> = text_of("ranks.tiktoken")
        .lines()
        .map(|line| {
            let (token, rank) = line.split_once(' ').unwrap();
            (raw(&base64(token)), int(rank.parse().unwrap()))
        })
        .collect();
    let special = ["<unk>", "<s>", "</s>", "<mask>"];
    let special: Vec<_> = (0..)
        .zip(special)
        .map(|(id, name)| (text(name), int(id)))
        .collect();
    for case in json("ranks.json").as_array().unwrap() {
        let encoding = dict(&[
            ("name", text("own")),
            ("pat_str", text(case["pattern"].as_str().unwrap())),
            ("mergeable_ranks", pairs(&ranks)),
            ("special_tokens", pairs(&special)),
        ]);
        let encoding = object(global("tiktoken.core", "Encoding"), encoding);
        let (json, form) = of_pickle(&[("_model", encoding)]).unwrap();
        assert_eq!(form, TokenizerForm::Tiktoken);
        check("ranks", &json, &cases(&case["texts"]));
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let four = |four: &[u8]| {
        let bits = (four.iter()).fold(0u32, |bits, &digit| bits << 6 | u32::from(digit));
        let bits = bits << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(four).collect()
}

#[test]
fn tokenizers_of_published_checkpoints_give_their_tokens() {
    let expected = json("expected.json");
    for (name, form) in [
        ("bert", TokenizerForm::Bert),
        ("text8", TokenizerForm::Characters),
        ("tiktoken", TokenizerForm::Tiktoken),
    ] {
        let path = case_path(&format!("{name}.ckpt"));
        let opened = Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!(opened.tokenizer_form(), Some(&Ok(form)));
        check(
            name,
            opened.tokenizer_json().unwrap(),
            &cases(&expected[name]),
        );
        TextCodec::of_checkpoint(&opened).unwrap().unwrap();
    }
}

#[test]
fn vocabularies_in_files_give_their_tokens() {
    let expected = json("expected.json");
    let folder = Folder::new("vocabularies");
    let path = folder.write("vocab.txt", &bytes("vocab.txt"));
    let (json, form) = of_file(&path);
    assert_eq!(form, TokenizerForm::Bert);
    check("bert", &json, &cases(&expected["bert"]));
    folder.write("tokenizer_config.json", br#"{"do_lower_case": false}"#);
    check(
        "bert-cased",
        &of_file(&path).0,
        &cases(&expected["bert-cased"]),
    );

    let table = r#"{"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "<|endoftext|>": 5}"#;
    let path = folder.write("vocab.json", table.as_bytes());
    let read = || read_tokenizer(&path, table.into());
    assert_told(read(), "merges.txt");
    // A folder, and a file that is too long.
    std::fs::create_dir(folder.path("merges.txt")).unwrap();
    assert_told(read(), "merges.txt");
    std::fs::remove_dir(folder.path("merges.txt")).unwrap();
    let long = std::fs::File::create(folder.path("merges.txt")).unwrap();
    long.set_len(1 << 40).unwrap();
    drop(long);
    assert_told(read(), "merges.txt");
    folder.write("merges.txt", "#version: 0.2\na b\nĠ ab\n".as_bytes());
    let (json, form) = of_file(&path);
    assert_eq!(form, TokenizerForm::Gpt2);
    let case = |text: &str, ids: &[u32]| (text.to_string(), ids.to_vec(), Some(text.to_string()));
    let both = [case("ab ab", &[3, 4]), case("<|endoftext|>ba", &[5, 1, 0])];
    check("gpt2", &json, &both);
    // A token may be called like a part of a tokenizer.json.
    let table = table.replacen('}', r#", "model": 6, "vocab": 7, "version": 8}"#, 1);
    let path = folder.write("vocab.json", table.as_bytes());
    let (json, form) = of_file(&path);
    assert_eq!(form, TokenizerForm::Gpt2);
    check("gpt2", &json, &both);
    // The same, pickled.
    let strings = |names: &[(&str, i32)]| {
        let pair = |&(name, id): &(&str, i32)| (text(name), int(id));
        pairs(&names.iter().map(pair).collect::<Vec<_>>())
    };
    let names = [("a", 0), ("b", 1), ("Ġ", 2), ("ab", 3), ("Ġab", 4)];
    let ranks = pairs(&[
        (tuple(&[text("Ġ"), text("ab")]), int(1)),
        (tuple(&[text("a"), text("b")]), int(0)),
    ]);
    let (json, _) = of_pickle(&[
        ("encoder", strings(&names)),
        ("bpe_ranks", ranks),
        ("added_tokens_encoder", strings(&[("<|endoftext|>", 5)])),
    ])
    .unwrap();
    check("gpt2, pickled", &json, &both);
}

/// A folder's tokenizer in another format is used like a tokenizer.json, and becomes one when the folder is rewritten.
#[test]
fn folders_of_every_form_become_folders_with_a_tokenizer_json() {
    let folder = Folder::new("forms of tokenizers");
    let config = String::from_utf8(golden("mdlm.config.json")).unwrap();
    folder.write("config.json", config.as_bytes());
    folder.write("model.safetensors", &golden("mdlm.ema.safetensors"));
    // A SentencePiece model with as many pieces as the network has tokens, apart from the mask.
    let tokens = 96;
    let model = cut(&bytes("char.model"), tokens);
    folder.write("tokenizer.model", &model);
    let opened = Checkpoint::open(folder.spec(), &OpenOptions::default()).unwrap();
    assert_eq!(
        opened.tokenizer_form(),
        Some(&Ok(TokenizerForm::SentencePiece))
    );
    let codec = TextCodec::of_checkpoint(&opened).unwrap().unwrap();
    let ids = codec.encode("the cat").unwrap();
    assert_eq!(codec.decode(&ids), "the cat");

    let out = folder.path("out");
    write_hf_folder(&opened, &out, StoreDtype::F32, SHARD_BYTES).unwrap();
    assert!(out.join("tokenizer.json").is_file());
    let again = Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
    let codec = TextCodec::of_checkpoint(&again).unwrap().unwrap();
    assert_eq!(codec.encode("the cat").unwrap(), ids);

    // If it cannot be read, there is none, and an error says why.
    folder.write("tokenizer.model", b"\xff\xff");
    std::fs::write(
        folder.path("config.json"),
        config.replacen('{', r#"{"mask_index": 96,"#, 1),
    )
    .unwrap();
    let opened = Checkpoint::open(folder.spec(), &OpenOptions::default()).unwrap();
    assert!(opened.tokenizer_path().is_none());
    let error = opened.tokenizer_form().unwrap().as_ref().unwrap_err();
    assert!(error.to_string().contains("SentencePiece"), "{error}");
}

/// Decoders treat the first token of a text specially; whether what follows extends a given word is still detected.
#[test]
fn words_that_go_on_are_found_whatever_the_decoder() {
    let path = case_path("bert.ckpt");
    let opened = Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
    let codec = TextCodec::of_checkpoint(&opened).unwrap().unwrap();
    let word = codec.encode("cat").unwrap();
    let with = |after: &str| [&word[..], &codec.encode(after).unwrap()[..]].concat();
    let cats = codec.encode("cats").unwrap();
    assert!(!codec.keeps_words(&cats, &[word.len()]), "cats");
    assert!(codec.keeps_words(&with("sat"), &[word.len()]), "cat sat");
    assert!(codec.keeps_words(&with("."), &[word.len()]), "cat.");

    let config = String::from_utf8(golden("mdlm.config.json")).unwrap();
    let config = esolm_core::config::ModelConfig::from_json(&config).unwrap();
    let folder = Folder::new("words");
    let model = folder.write("tokenizer.model", &cut(&bytes("char.model"), 96));
    let codec = TextCodec::from_file(&model, &config).unwrap();
    let word = codec.encode("cat").unwrap();
    for (text, keeps) in [("cats", false), ("cat sat", true), ("cat. ", true)] {
        let tokens = codec.encode(text).unwrap();
        assert_eq!(codec.keeps_words(&tokens, &[word.len()]), keeps, "{text}");
    }
}

/// The model with only its first pieces.
fn cut(model: &[u8], pieces: usize) -> Vec<u8> {
    let (mut out, mut rest, mut count) = (Vec::new(), model, 0);
    while let [tag, length, ..] = *rest {
        // Small models have fields of less than 128 bytes before the settings of their trainer.
        let end = match length < 128 {
            true => 2 + usize::from(length),
            false => rest.len(),
        };
        if tag != 10 || count < pieces {
            out.extend(&rest[..end]);
        }
        count += usize::from(tag == 10);
        rest = &rest[end..];
    }
    let missing = pieces.saturating_sub(count);
    for number in 0..missing {
        let name = format!("\u{4e00}{number}");
        let length = name.len() as u8;
        let piece = [
            &[10, length + 7, 10, length],
            name.as_bytes(),
            &[21, 0, 0, 0, 0],
        ]
        .concat();
        out.splice(0..0, piece);
    }
    out
}

#[test]
fn every_checkpoint_becomes_a_folder_that_opens_again() {
    let folder = Folder::new("converted");
    for name in [
        "bert",
        "slow-bert",
        "text8",
        "sentencepiece",
        "tiktoken",
        "ar-old",
        "torch-compile",
    ] {
        let path = case_path(&format!("{name}.ckpt"));
        let opened = Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
        let out = folder.path(name);
        write_hf_folder(&opened, &out, StoreDtype::F32, SHARD_BYTES).unwrap();
        let again = Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!(again.config(), opened.config(), "{name}");
        assert_eq!(again.mask_told(), opened.mask_told(), "{name}");
        assert_eq!(again.unused_tokens(), opened.unused_tokens(), "{name}");
        for parameter in opened.parameters() {
            let name = &parameter.name;
            assert_eq!(
                opened.f32(name).unwrap(),
                again.f32(name).unwrap(),
                "{name}"
            );
        }
        let codec = |checkpoint| TextCodec::of_checkpoint(checkpoint).unwrap();
        match (codec(&opened), codec(&again)) {
            (Some(one), Some(other)) => {
                let text = "the end of it, and to the house";
                assert_eq!(
                    one.encode(text).unwrap(),
                    other.encode(text).unwrap(),
                    "{name}"
                );
                assert_eq!(one.ends(), other.ends(), "{name}");
            }
            (None, None) => assert!(opened.tokenizer_json().is_none()),
            _ => panic!("{name}: one of the two has a tokenizer"),
        }
    }
}

#[test]
fn tokenizers_that_cannot_be_read_say_why() {
    let processor = |model: Value| {
        let class = global("sentencepiece", "SentencePieceProcessor");
        [("processor", object(class, dict(&[("model_proto", model)])))]
    };
    let told = |fields: &[(&str, Value)], words: &str| assert_told(of_pickle(fields), words);
    told(&[("other", int(1))], "some.Tokenizer|from its fields");
    told(&[("sp_model", none())], "refers to a SentencePiece model");
    told(&processor(none()), "refers to a SentencePiece model");
    told(&processor(raw(b"no model")), "cannot be read|bytes");
    told(&processor(raw(b"")), "cannot be read");
    told(&processor(raw(&bytes("word.model"))), "of whole words");
    told(
        &processor(raw(&bytes("suffix.model"))),
        "spaces behind words",
    );
    let model = bytes("bpe.model");
    for length in 0..model.len() {
        // Truncated anywhere, it is either a model with fewer settings or an error.
        let _ = of_pickle(&processor(raw(&model[..length])));
    }
    let twice = [&model[..], &model[..]].concat();
    told(&processor(raw(&twice)), "one piece for what is unknown");
    told(
        &[("sp_model_proto", raw(&model)), ("fairseq_offset", int(1))],
        "numbers anew",
    );
    let encoding = |state: Value| {
        let class = global("tiktoken.core", "Encoding");
        [("_model", object(class, state))]
    };
    told(&encoding(text("cl100k_base")), "cl100k_base|the name alone");
    told(
        &encoding(dict(&[("pat_str", text("."))])),
        "not one of tiktoken",
    );
    let long = dict(&[
        ("pat_str", text(".")),
        ("mergeable_ranks", pairs(&[(raw(&[b'a'; 300]), int(0))])),
        ("special_tokens", dict(&[])),
    ]);
    told(&encoding(long), "300 bytes");
    let words = dict(&[("0 ", int(0)), ("1 ", int(1)), ("[UNK]", int(2))]);
    told(&[("_vocab_str_to_int", words)], "\"0 \"|how text is split");
    let letters = dict(&[("a", int(0))]);
    told(&[("_vocab_str_to_int", letters)], "[UNK]");
    let same = dict(&[("a", int(0)), ("b", int(0)), ("[UNK]", int(2))]);
    told(&[("_vocab_str_to_int", same)], "the index 0");

    let folder = Folder::new("unread tokenizers");
    let file = |name: &str, bytes: &[u8]| {
        read_tokenizer(&folder.write(name, bytes), bytes.into())
            .map_err(|e| format!("the file {e}"))
    };
    assert_told(
        file("some.model", b"\x00\x01\xff"),
        "SentencePiece model|cannot be read",
    );
    assert_told(
        file("own.model", b"no model"),
        "SentencePiece model|cannot be read",
    );
    assert_told(file("picture.png", b"\x89PNG\xff"), "neither");
    assert_told(file("notes.md", b"# Notes"), "neither");
    assert_told(file("gpt2.tiktoken", b"IQ== 0\nIg== 1\n"), "the pattern");
    assert_told(file("vocab.txt", b"a\nb\n"), "[UNK]");
    assert_told(file("vocab.json", b"{\"a\": 0}"), "merges.txt");
}

/// A value, and how to refer to it again.
fn shared(value: &Value, memo: u8) -> (Value, Value) {
    ([&value[..], &[b'q', memo]].concat(), vec![b'h', memo])
}

/// A table of as many entries, each of which refers to the same key.
fn repeated(key: &[u8], value: &[u8], entries: usize) -> Value {
    let entry = [key, value].concat();
    [b"}(".as_slice(), &entry.repeat(entries), b"u"].concat()
}

/// A pickle refers to a value with two bytes, so what is read from it must not be as large as all that it refers to.
#[test]
fn tables_that_say_the_same_many_times_are_refused_soon() {
    let (long, again) = shared(&text(&"a".repeat(1 << 20)), 200);
    let entries = 300_000;
    let said = "many times";
    let told = |fields: &[(&str, Value)], words: &str| {
        let started = std::time::Instant::now();
        assert_told(of_pickle(fields), words);
        let seconds = started.elapsed().as_secs();
        assert!(seconds < 20, "{seconds} s");
    };
    let by_name = || repeated(&again, &int(0), entries);
    let by_index = || repeated(&int(0), &again, entries);
    let unk = ("_unk_token", text("[UNK]"));
    for field in [
        ("_vocab_str_to_int", by_name()),
        ("_vocab_str_to_int", by_index()),
        ("_added_tokens_encoder", by_name()),
    ] {
        let letters = dict(&[("a", int(0)), ("[UNK]", int(1))]);
        let letters = ("_vocab_str_to_int", letters);
        let mut fields = vec![("first", long.clone()), unk.clone(), field];
        if fields[2].0 != letters.0 {
            fields.push(letters);
        }
        told(&fields, said);
    }
    let pair = tuple(&[again.clone(), again.clone()]);
    told(
        &[
            ("first", long.clone()),
            ("encoder", dict(&[])),
            ("bpe_ranks", repeated(&pair, &int(0), entries)),
        ],
        said,
    );
    // Bytes as in pickle protocol 2, which are decoded.
    let args = tuple(&[again.clone(), text("latin1")]);
    let (call, again_call) = shared(&call(global("_codecs", "encode"), args), 201);
    let encoding = dict(&[
        ("pat_str", text(".")),
        ("mergeable_ranks", repeated(&again_call, &int(0), entries)),
        ("special_tokens", dict(&[])),
    ]);
    let encoding = object(global("tiktoken.core", "Encoding"), encoding);
    told(
        &[
            ("first", long.clone()),
            ("second", call.clone()),
            ("_model", encoding),
        ],
        said,
    );

    // The same table or object in many fields, and the same fields in many objects, are looked at once, or not at all.
    let (table, table_again) = shared(&repeated(&text("b"), &int(0), entries), 202);
    let fields = dict(&[("content", text("c"))]);
    let many_fields = [
        &fields[..],
        b"(",
        &[text("d"), none()].concat().repeat(entries),
        b"u",
    ]
    .concat();
    let (many_fields, fields_again) = shared(&many_fields, 203);
    let (token, token_again) = shared(&object(global("a", "AddedToken"), fields_again), 204);
    let processor = [global("a", "B"), b")R".to_vec(), call, b"b".to_vec()].concat();
    let (processor, processor_again) = shared(&processor, 205);
    let mut all = vec![
        ("first", long),
        ("second", processor),
        ("third", many_fields),
        ("fourth", token),
        ("fifth", table),
        ("sixth", repeated(&int(0), &token_again, entries)),
        ("_mask_token", text("[MASK]")),
        ("_bos_token", text("[BOS]")),
    ];
    all.extend(vec![("other", table_again); 20_000]);
    all.extend(vec![("other", processor_again); entries]);
    told(&all, "from its fields");
}

/// A character table comes from the file and is looked up without checks, so one that a text could leave is refused.
#[test]
fn damaged_tables_of_characters_are_refused() {
    let model = bytes("unigram.model");
    let mut refused = 0;
    for at in (0..model.len()).step_by(997) {
        let mut broken = model.clone();
        broken[at] ^= 0xff;
        let path = fixture("unigram.model");
        let Ok((json, _)) = read_tokenizer(&path, broken) else {
            refused += 1;
            continue;
        };
        let Ok(tokenizer) = Tokenizer::from_bytes(&json) else {
            continue;
        };
        for text in [
            "Café ﬁne ① ２０２４ ℌ",
            "東京 日本語",
            "a\u{301}\u{200b}\u{a0}",
        ] {
            let _ = tokenizer.encode(text, false);
        }
    }
    println!("{refused} refused");
    assert!(refused > 0);
}
