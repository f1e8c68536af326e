//! What a tokenizer says of special tokens: one pickled into a checkpoint, or a `tokenizer.json`.
//!
//! Published checkpoints pickle tokenizers of many classes, and no class is needed to read one: its fields hold an index
//! (`mask_token_id`), or the token's name and a table that has it.

use esolm_checkpoint::Value;
use serde::Deserialize;

use super::lightning::state;
use crate::config::{Claims, mask_tokens, unused_tokens};
use crate::documents::normalize;
use crate::message::shorten;

/// Fields in which tokenizers written in Python hold their vocabulary, tokens with indices or the other way round.
const VOCABULARIES: [&str; 6] = [
    "vocab",
    "ids_to_tokens",
    "encoder",
    "decoder",
    "_vocab_str_to_int",
    "_vocab_int_to_str",
];
/// Fields with tokens beside it.
const ADDED: [&str; 4] = [
    "added_tokens_encoder",
    "added_tokens_decoder",
    "_added_tokens_encoder",
    "_added_tokens_decoder",
];

/// A pickled tokenizer, as far as it can be read.
pub(super) struct Tokenizer {
    /// Name (as part of a sentence) and index of the mask token; `Ok(None)` where it says that there is none, and what it is where
    /// nothing can be found out.
    pub mask: Result<Option<(String, u32)>, String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// The text of its `tokenizer.json`; tokenizers written in Python have none.
    pub json: Option<String>,
    /// Its tokens, where it has no `tokenizer.json`.
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
                json: None,
                table: TokenizerJson::default(),
            };
        };
        let json = (fields.get("_tokenizer").and_then(state)).and_then(text_of_bytes);
        let parsed = json.as_deref().and_then(TokenizerJson::parse);
        let pickled = Pickled {
            fields,
            json: parsed,
        };
        let plain = |name: &str| pickled.special(name).ok().flatten().map(|(_, index)| index);
        Self {
            mask: pickled.special("mask").or_else(|()| unread()),
            bos: plain("bos"),
            eos: plain("eos"),
            table: match pickled.json {
                Some(_) => TokenizerJson::default(),
                None => pickled.table(),
            },
            json: json.filter(|_| pickled.json.is_some()),
        }
    }
}

struct Pickled<'a> {
    fields: Value<'a>,
    json: Option<TokenizerJson>,
}

impl Pickled<'_> {
    /// Name and index of the special token "mask", "bos" or "eos"; an error where its fields do not tell.
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
        // Newer versions keep the names of special tokens in one map, older ones in fields of their own.
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
        let Some(token) = named.into_iter().flatten().find(|token| !token.is_none()) else {
            return if told { Ok(None) } else { Err(()) };
        };
        let name = name_of(token).ok_or(())?;
        let index = self.index(name).ok_or(())?;
        Ok(Some((format!(" \"{}\"", shorten(name)), index)))
    }

    /// All tokens, where it has its vocabulary in a field.
    fn table(&self) -> TokenizerJson {
        let mut table = TokenizerJson::default();
        self.add(&VOCABULARIES, &mut table);
        if table.count() > 0 {
            self.add(&ADDED, &mut table);
        }
        table
    }

    fn add(&self, fields: &[&str], table: &mut TokenizerJson) {
        let tables = fields
            .iter()
            .filter_map(|name| self.fields.get(name)?.dict());
        for (key, value) in tables.flatten() {
            let (token, index) = match key.int() {
                Some(index) => (name_of(value), Some(index)),
                None => (name_of(key), value.int()),
            };
            let index = index.and_then(|index| u32::try_from(index).ok());
            if let (Some(token), Some(index)) = (token, index) {
                table.add(token, index, false);
            }
        }
    }

    /// The index of a token in any table of the tokenizer, from names to indices or the other way round; `None` also where two of
    /// them differ.
    fn index(&self, name: &str) -> Option<u32> {
        let fields = self.fields.dict()?;
        let tables = fields.filter(|(field, _)| field.text() != Some("_special_tokens_map"));
        let in_table = |table: Value<'_>| {
            let by_name = table.get(name).and_then(Value::int);
            by_name.or_else(|| {
                let entry = table
                    .dict()?
                    .find(|&(index, token)| index.int().is_some() && name_of(token) == Some(name));
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
}

/// The text of a token, which may be an `AddedToken` around it.
fn name_of(token: Value<'_>) -> Option<&str> {
    token
        .text()
        .or_else(|| state(token)?.get("content")?.text())
}

/// The text of a bytes value. Protocol 2 has no bytes: it calls `_codecs.encode(text, 'latin1')`.
fn text_of_bytes(value: Value<'_>) -> Option<String> {
    let Some(call) = value.object() else {
        return value.text().map(str::to_string);
    };
    let mut args = call.args.tuple()?;
    let (text, encoding) = (args.next()?, args.next()?);
    if call.class.global() != Some(("_codecs", "encode")) || encoding.text() != Some("latin1") {
        return None;
    }
    let bytes = text
        .text()?
        .chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

/// A `tokenizer.json`, as far as its special tokens need it.
#[derive(Deserialize, Default)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize, Default)]
struct Model {
    /// Names with indices, or, of a Unigram model, pairs of name and score in the order of their indices.
    #[serde(default)]
    vocab: serde_json::Value,
}

impl TokenizerJson {
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(&normalize(text)).ok()
    }

    /// The indices of a vocabulary of `vocab_size` that have no token.
    pub fn unused(&self, vocab_size: usize, mask: u32) -> Vec<u32> {
        unused_tokens(self.tokens().map(|(_, index)| index), vocab_size, mask)
    }

    /// The largest index plus one; 0 without tokens.
    pub fn count(&self) -> usize {
        self.tokens()
            .map(|(_, index)| index as usize + 1)
            .max()
            .unwrap_or(0)
    }

    pub fn index(&self, name: &str) -> Option<u32> {
        self.tokens()
            .find_map(|(token, index)| (token == name).then_some(index))
    }

    pub fn add(&mut self, content: &str, id: u32, special: bool) {
        self.added_tokens.push(AddedToken {
            id,
            content: content.into(),
            special,
        });
    }

    #[cfg(not(target_family = "wasm"))]
    pub fn extend(&mut self, other: Self) {
        self.added_tokens.extend(other.added_tokens);
    }

    /// Tells `claims` which tokens are the mask by their names. Where these do not tell, returns why,
    /// beginning with `file`, the name of the file.
    pub fn tell_masks(&self, file: &str, claims: &mut Claims) -> Option<String> {
        let added = self.added_tokens.iter();
        let special = added.map(|token| (token.content.as_str(), token.id, token.special));
        let tokens = self.tokens().map(|(name, index)| (name, index, false));
        match mask_tokens(special.chain(tokens)) {
            Ok(masks) => {
                for (name, index) in masks {
                    let said = format!("\"{}\" of {file} is {index}", shorten(name));
                    claims.mask_is(said, index);
                }
                None
            }
            Err([first, second]) => Some(format!(
                "{file}, whose special tokens \"{}\" and \"{}\" are both named like one",
                shorten(first),
                shorten(second)
            )),
        }
    }

    fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let added = self
            .added_tokens
            .iter()
            .map(|token| (token.content.as_str(), token.id));
        let named = self.model.vocab.as_object().into_iter().flatten();
        let named =
            named.filter_map(|(name, id)| Some((name.as_str(), u32::try_from(id.as_u64()?).ok()?)));
        let listed = self.model.vocab.as_array().into_iter().flatten();
        let listed = (0u32..)
            .zip(listed)
            .filter_map(|(id, pair)| Some((pair.get(0)?.as_str()?, id)));
        added.chain(named).chain(listed)
    }
}
