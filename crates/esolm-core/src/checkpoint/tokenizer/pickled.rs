//! Pickled tokenizers. Published checkpoints contain tokenizers of many classes, but the class is not needed to read
//! one: the fields contain an index (`mask_token_id`), or the token's name and a table that includes it, and what is
//! needed to encode text.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use esolm_checkpoint::Value;

use super::draft::{Added, Draft};
use super::words::Bert;
use super::{TokenizerError, TokenizerForm, TokenizerJson, byte_level, sentencepiece, words};
use crate::checkpoint::lightning::state;
use crate::message::shorten;

/// Fields in which tokenizers written in Python store their vocabulary, as a map from tokens to indices or the reverse.
const VOCABULARIES: [&str; 6] = [
    "vocab",
    "ids_to_tokens",
    "encoder",
    "decoder",
    "_vocab_str_to_int",
    "_vocab_int_to_str",
];
/// Fields with additional tokens.
const ADDED: [&str; 4] = [
    "added_tokens_encoder",
    "added_tokens_decoder",
    "_added_tokens_encoder",
    "_added_tokens_decoder",
];

/// Maximum bytes read from its tables. A pickle of a few megabytes can contain tables that refer to a long text many
/// times, and it would be copied each time. The largest published tokenizers need half of it.
const MAX_BYTES: usize = 128 << 20;
/// Bytes that an entry of a table takes in addition to its text.
const ENTRY_BYTES: usize = 32;
/// Maximum bytes of the name of a special token, which is compared with all others.
const MAX_NAME: usize = 1024;
/// Maximum fields of the objects within a tokenizer, such as an `AddedToken`: many can share the same fields.
const MAX_FIELDS: usize = 256;

/// What could be read from a pickled tokenizer.
pub(in super::super) struct Tokenizer {
    /// Name (as part of a sentence) and index of the mask token; `Ok(None)` if it says that there is none, and a
    /// description of the tokenizer if this is unknown.
    pub mask: Result<Option<(String, u32)>, String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// The text of a `tokenizer.json` and the form that it was made from, or why there is none.
    pub json: Result<(String, TokenizerForm), TokenizerError>,
    /// Its tokens, if it has no `tokenizer.json`.
    pub table: TokenizerJson,
}

impl Tokenizer {
    pub fn read(value: Value<'_>) -> Self {
        let unread = || Err(value.to_string());
        let Some(fields) = state(value).filter(|state| state.dict().is_some()) else {
            return Self {
                mask: unread(),
                bos: None,
                eos: None,
                json: Err(TokenizerError::Unknown(value.to_string())),
                table: TokenizerJson::default(),
            };
        };
        let mut pickled = Pickled {
            fields,
            json: None,
            left: Cell::new(Some(MAX_BYTES)),
        };
        let json = pickled.text();
        let json = match pickled.left.get() {
            Some(_) => json.unwrap_or_else(|| Err(TokenizerError::Unknown(value.to_string()))),
            None => Err(TokenizerError::TooLarge(MAX_BYTES)),
        };
        pickled.json = json
            .as_ref()
            .ok()
            .and_then(|(text, _)| TokenizerJson::parse(text));
        let plain = |name: &str| pickled.special(name).ok().flatten().map(|(_, index)| index);
        Self {
            mask: pickled.special("mask").or_else(|()| unread()),
            bos: plain("bos"),
            eos: plain("eos"),
            table: match pickled.json {
                Some(_) => TokenizerJson::default(),
                None => pickled.table().unwrap_or_default(),
            },
            json,
        }
    }
}

struct Pickled<'a> {
    fields: Value<'a>,
    json: Option<TokenizerJson>,
    /// Bytes that may still be read from its tables; none if they had more.
    left: Cell<Option<usize>>,
}

impl<'a> Pickled<'a> {
    /// Name and index of the special token "mask", "bos" or "eos"; an error if the fields do not determine it.
    fn special(&self, kind: &str) -> Result<Option<(String, u32)>, ()> {
        let ids = [
            format!("{kind}_token_id"),
            format!("_{kind}_token_id"),
            format!("_{kind}_id"),
        ];
        let said = ids.iter().find_map(|field| self.fields.get(field)?.int());
        if let Some(index) = said {
            let index = u32::try_from(index).map_err(drop)?;
            return Ok(Some((String::new(), index)));
        }
        let Some(name) = self.named(kind)? else {
            return Ok(None);
        };
        let index = self.index(name).ok_or(())?;
        Ok(Some((format!(" \"{}\"", shorten(name)), index)))
    }

    /// Name of the special token "mask", "bos", "eos" or "unk"; an error if the fields do not determine it.
    fn named(&self, kind: &str) -> Result<Option<&'a str>, ()> {
        // Newer versions store the names of special tokens in one map, older ones in separate fields.
        let (map, name) = (
            self.fields.get("_special_tokens_map"),
            format!("{kind}_token"),
        );
        let named = [
            map.and_then(|map| map.get(&name)),
            self.fields.get(&format!("_{name}")),
            self.fields.get(&name),
        ];
        let told = map.is_some() || named.iter().any(Option::is_some);
        match named.into_iter().flatten().find(|token| !token.is_none()) {
            Some(token) => (name_of(token).filter(|name| name.len() <= MAX_NAME))
                .ok_or(())
                .map(Some),
            None if told => Ok(None),
            None => Err(()),
        }
    }

    /// Takes the bytes of an entry of a table from those that may be read.
    fn spend(&self, bytes: usize) -> Option<()> {
        let left = (self.left.get()).and_then(|left| left.checked_sub(bytes + ENTRY_BYTES));
        self.left.set(left);
        left.map(drop)
    }

    /// The text of a value, if it may still be read.
    fn read(&self, value: Value<'a>) -> Option<&'a str> {
        self.spend(value.bytes()?.len())?;
        value.text()
    }

    /// All tokens, if its vocabulary is in a field; none if there is too much text in it.
    fn table(&self) -> Option<TokenizerJson> {
        let mut table = TokenizerJson::default();
        let mut add = |fields: &[&str]| {
            let tokens = self.tokens(fields);
            tokens.for_each(|(name, index)| table.add(name, index, false));
            table.count() > 0
        };
        if add(&VOCABULARIES) {
            add(&ADDED);
        }
        self.left.get().map(|_| table)
    }

    /// Names and indices in the tables of these fields, which map names to indices or the reverse.
    fn tokens(&self, fields: &[&str]) -> impl Iterator<Item = (&'a str, u32)> + use<'a, '_> {
        let fields: Vec<Value<'a>> = (fields.iter())
            .filter_map(|name| self.fields.get(name))
            .collect();
        let pairs = fields.into_iter().filter_map(Value::dict).flatten();
        pairs.filter_map(|(key, value)| {
            let (token, index) = match key.int() {
                Some(index) => (value, Some(index)),
                None => (key, value.int()),
            };
            Some((self.read(named(token)?)?, u32::try_from(index?).ok()?))
        })
    }

    /// The index of a token in any of the tokenizer's tables, which map names to indices or the reverse; `None` also if
    /// two of them disagree.
    fn index(&self, name: &str) -> Option<u32> {
        let fields = self.fields.dict()?;
        let mut seen = HashSet::new();
        let tables = fields.filter(|(field, table)| {
            field.bytes() != Some(b"_special_tokens_map") && seen.insert(table.id())
        });
        let in_table = |table: Value<'_>| {
            let by_name = table.get(name).and_then(Value::int);
            by_name.or_else(|| {
                let is_named = |token| {
                    let found = named(token).and_then(Value::bytes);
                    found == Some(name.as_bytes())
                };
                let entry = table
                    .dict()?
                    .find(|&(index, token)| index.int().is_some() && is_named(token));
                entry?.0.int()
            })
        };
        let mut found: Vec<u32> = tables
            .filter_map(|(_, table)| u32::try_from(in_table(table)?).ok())
            .chain(self.json.as_ref().and_then(|json| json.index(name)))
            .collect();
        found.sort_unstable();
        found.dedup();
        <[u32; 1]>::try_from(found).ok().map(|[index]| index)
    }

    /// The text of a `tokenizer.json`; `None` if the fields match no known form.
    fn text(&self) -> Option<Result<(String, TokenizerForm), TokenizerError>> {
        if let Some(text) = self
            .fields
            .get("_tokenizer")
            .and_then(state)
            .and_then(bytes)
        {
            let text = String::from_utf8(text.into_owned()).ok();
            let text = text.filter(|text| TokenizerJson::parse(text).is_some());
            return Some(
                text.ok_or(TokenizerError::Json)
                    .map(|text| (text, TokenizerForm::Fast)),
            );
        }
        let (draft, form) = None
            .or_else(|| Some((self.sentencepiece()?, TokenizerForm::SentencePiece)))
            .or_else(|| Some((self.tiktoken()?, TokenizerForm::Tiktoken)))
            .or_else(|| Some((self.gpt2()?, TokenizerForm::Gpt2)))
            .or_else(|| Some((self.bert()?, TokenizerForm::Bert)))
            .or_else(|| Some((self.characters()?, TokenizerForm::Characters)))?;
        Some(draft.map(|draft| (draft.text(), form)))
    }

    /// Tokens outside the vocabulary.
    fn added(&self) -> Vec<Added> {
        let described = self
            .fields
            .get("_added_tokens_decoder")
            .and_then(Value::dict);
        let ordinary: HashSet<u32> = described
            .into_iter()
            .flatten()
            .filter(|&(_, token)| {
                let special = field(token, "special").and_then(Value::boolean);
                special == Some(false)
            })
            .filter_map(|(index, _)| u32::try_from(index.int()?).ok())
            .collect();
        let mut added: Vec<Added> = self
            .tokens(&ADDED)
            .map(|(content, id)| Added {
                id,
                content: content.into(),
                special: !ordinary.contains(&id),
            })
            .collect();
        for kind in ["mask", "bos", "eos", "unk", "pad", "sep", "cls"] {
            if let (Ok(Some(name)), Ok(Some((_, id)))) = (self.named(kind), self.special(kind))
                && self.index(name) == Some(id)
            {
                added.push(Added {
                    id,
                    content: name.into(),
                    special: true,
                });
            }
        }
        added
    }

    /// A field with a SentencePiece model: its bytes, a processor that contains them, or, if transformers left them
    /// out, neither.
    fn sentencepiece(&self) -> Option<Result<Draft, TokenizerError>> {
        let processor = |(_, value): (Value<'a>, Value<'a>)| {
            let class = value.object()?.class.global();
            let is_one = class.is_some_and(|(_, name)| name.ends_with("SentencePieceProcessor"));
            let has_one = field(value, "model_proto").is_some();
            (is_one || has_one).then(|| state(value).and_then(model_bytes))
        };
        let found = match self.fields.get("sp_model_proto").and_then(bytes) {
            Some(model) => Some(model),
            None => match self.fields.dict()?.find_map(processor) {
                Some(model) => model,
                // The slow tokenizers of transformers, some of which store only the path of the file.
                None => self.fields.get("sp_model").map(|_| None)?,
            },
        };
        if self.fields.get("fairseq_offset").is_some() {
            let what = "whose pieces it numbers anew";
            return Some(Err(TokenizerError::SentencePieceKind(what)));
        }
        Some(match found {
            Some(model) => sentencepiece::read(&model, self.added()),
            None => Err(TokenizerError::ModelElsewhere),
        })
    }

    /// A field with a tiktoken encoding.
    fn tiktoken(&self) -> Option<Result<Draft, TokenizerError>> {
        let encoding = |(_, value): (Value<'a>, Value<'a>)| {
            let is_one = value.object()?.class.global() == Some(("tiktoken.core", "Encoding"));
            let has_ranks = field(value, "mergeable_ranks").is_some();
            (is_one || has_ranks).then(|| state(value))
        };
        let encoding = self.fields.dict()?.find_map(encoding)?;
        // tiktoken's own encodings are pickled by name.
        if let Some(name) = encoding.and_then(Value::text) {
            return Some(Err(TokenizerError::NamedEncoding(shorten(name))));
        }
        let read = || {
            let encoding = encoding?;
            let pattern = encoding.get("pat_str")?.text()?;
            let pairs = encoding.get("mergeable_ranks")?.dict()?;
            let index = |value: Value<'_>| u32::try_from(value.int()?).ok();
            let ranks: Option<Vec<(Cow<'a, [u8]>, u32)>> = pairs
                .map(|(token, rank)| {
                    self.spend(length(token)?)?;
                    Some((bytes(token)?, index(rank)?))
                })
                .collect();
            let special = encoding.get("special_tokens")?.dict()?;
            let special: Option<Vec<Added>> = special
                .map(|(name, id)| {
                    Some(Added {
                        id: index(id)?,
                        content: self.read(name)?.into(),
                        special: true,
                    })
                })
                .collect();
            Some((pattern, ranks?, special?))
        };
        Some(match read() {
            Some((pattern, ranks, special)) => {
                let ranks: HashMap<&[u8], u32> = ranks
                    .iter()
                    .map(|(token, rank)| (&**token, *rank))
                    .collect();
                byte_level::tiktoken(pattern, &ranks, special)
            }
            None => Err(TokenizerError::Vocabulary(
                "that is not one of tiktoken".into(),
            )),
        })
    }

    fn gpt2(&self) -> Option<Result<Draft, TokenizerError>> {
        let ranks = self.fields.get("bpe_ranks")?.dict()?;
        let merge = |(pair, rank): (Value<'a>, Value<'a>)| {
            let mut pair = pair.tuple()?;
            let (left, right) = (self.read(pair.next()?)?, self.read(pair.next()?)?);
            Some((rank.int()?, [left.to_string(), right.to_string()]))
        };
        let Some(mut merges) = ranks.map(merge).collect::<Option<Vec<_>>>() else {
            let text = "whose merges are not pairs of tokens".into();
            return Some(Err(TokenizerError::Vocabulary(text)));
        };
        merges.sort_by_key(|(rank, _)| *rank);
        let merges = merges.into_iter().map(|(_, pair)| pair).collect();
        let space = self.fields.get("add_prefix_space").and_then(Value::boolean);
        Some(byte_level::gpt2(
            self.names("encoder"),
            merges,
            space == Some(true),
            self.added(),
        ))
    }

    fn bert(&self) -> Option<Result<Draft, TokenizerError>> {
        let pieces = self.fields.get("wordpiece_tokenizer").and_then(state)?;
        let basic = self.fields.get("basic_tokenizer").and_then(state);
        let own = Bert::default();
        let flag = |name: &str| basic?.get(name)?.boolean();
        let options = Bert {
            lower_case: flag("do_lower_case").unwrap_or(own.lower_case),
            strip_accents: flag("strip_accents"),
            chinese_characters: flag("tokenize_chinese_chars").unwrap_or(own.chinese_characters),
            basic: basic.is_some(),
            unknown: (pieces.get("unk_token").and_then(name_of)).map_or(own.unknown, Into::into),
            longest_word: (pieces.get("max_input_chars_per_word").and_then(Value::int))
                .and_then(|longest| u32::try_from(longest).ok())
                .unwrap_or(own.longest_word),
        };
        Some(words::bert(self.names("vocab"), &options, self.added()))
    }

    fn characters(&self) -> Option<Result<Draft, TokenizerError>> {
        let _ = self.fields.get("_vocab_str_to_int")?.dict()?;
        let unknown = self.named("unk").ok().flatten().unwrap_or("[UNK]");
        Some(words::characters(
            self.names("_vocab_str_to_int"),
            unknown,
            self.added(),
        ))
    }

    fn names(&self, field: &str) -> Vec<(String, u32)> {
        let tokens = self.tokens(&[field]);
        tokens
            .map(|(name, index)| (name.to_string(), index))
            .collect()
    }
}

/// A token as a string, possibly wrapped in an `AddedToken`.
fn named(token: Value<'_>) -> Option<Value<'_>> {
    match token.bytes() {
        Some(_) => Some(token),
        None => field(token, "content"),
    }
}

/// The text of a token.
fn name_of(token: Value<'_>) -> Option<&str> {
    named(token)?.text()
}

/// A field of an object within the tokenizer.
fn field<'a>(object: Value<'a>, name: &str) -> Option<Value<'a>> {
    let fields = state(object)?;
    match fields.dict()?.len() {
        0..=MAX_FIELDS => fields.get(name),
        _ => None,
    }
}

/// The model in the state of a SentencePieceProcessor: its bytes, or fields that contain them.
fn model_bytes(state: Value<'_>) -> Option<Cow<'_, [u8]>> {
    let fields = ["model_proto", "serialized_model_proto"];
    bytes(state).or_else(|| fields.iter().find_map(|field| bytes(state.get(field)?)))
}

/// The bytes of a bytes object. Pickle protocol 2 has no bytes type, and calls `_codecs.encode(text, 'latin1')`
/// instead.
fn bytes(value: Value<'_>) -> Option<Cow<'_, [u8]>> {
    if value.object().is_none() {
        return value.bytes().map(Cow::Borrowed);
    }
    let bytes = encoded(value)?
        .text()?
        .chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect::<Option<Vec<u8>>>()?;
    Some(Cow::Owned(bytes))
}

/// The text of such a call.
fn encoded(value: Value<'_>) -> Option<Value<'_>> {
    let call = value.object()?;
    let mut args = call.args.tuple()?;
    let (text, encoding) = (args.next()?, args.next()?);
    let is_call = call.class.global() == Some(("_codecs", "encode"));
    (is_call && encoding.bytes() == Some(b"latin1")).then_some(text)
}

/// The length of [`bytes`], or, if they are in a call, of its text.
fn length(value: Value<'_>) -> Option<usize> {
    let text = encoded(value).unwrap_or(value);
    text.bytes().map(<[u8]>::len)
}
