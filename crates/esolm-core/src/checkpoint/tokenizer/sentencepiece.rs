//! SentencePiece models as described by `sentencepiece_model.proto`, converted to tokenizers of the tokenizers library.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::TokenizerError;
use super::draft::{Added, Draft, vocabulary};

/// Largest model that is read; published ones with 260,000 pieces have 5 MB.
const MAX_BYTES: usize = 8 << 20;
/// Maximum bytes of a piece: the library stores the pieces of a unigram model in a trie as deep as the longest piece,
/// and walks it recursively.
pub(crate) const MAX_PIECE_BYTES: usize = 4096;
/// Maximum length of a BPE piece, since every split of every piece is tried. SentencePiece trains pieces of 16
/// characters.
const MAX_PIECE: usize = 256;
/// Maximum merges derived from pieces.
const MAX_MERGES: usize = 1 << 20;
/// The trainer's `ModelType`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;
const CHARACTERS: u64 = 4;
/// SentencePiece's replacement for a space.
const SPACE: &str = "\u{2581}";
/// A piece with a score this far below all others is chosen only if there is no alternative.
const NEVER: f64 = 1000.0;

/// `ModelProto`, as far as needed.
#[derive(Default)]
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    trainer: Trainer,
    normalizer: Normalizer<'a>,
}

/// `SentencePiece`.
struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: Kind,
}

/// `TrainerSpec`.
struct Trainer {
    model_type: u64,
    treat_whitespace_as_suffix: bool,
    byte_fallback: bool,
}

/// `NormalizerSpec`.
struct Normalizer<'a> {
    precompiled_charsmap: &'a [u8],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            model_type: UNIGRAM,
            treat_whitespace_as_suffix: false,
            byte_fallback: false,
        }
    }
}

impl Default for Normalizer<'_> {
    fn default() -> Self {
        Self {
            precompiled_charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// `Type` of a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl<'a> Model<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut model = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Wire::Bytes(trainer)) => model.trainer = Trainer::read(trainer)?,
                (3, Wire::Bytes(normalizer)) => model.normalizer = Normalizer::read(normalizer)?,
                _ => {}
            }
        }
        Some(model)
    }
}

impl<'a> Piece<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut piece = Self {
            text: "",
            score: 0.0,
            kind: Kind::Normal,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?,
                (2, Wire::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Wire::Number(kind)) => piece.kind = Kind::of(kind)?,
                _ => {}
            }
        }
        // Required by SentencePiece; it also keeps the number of pieces proportional to the bytes.
        let fits = (1..=MAX_PIECE_BYTES).contains(&piece.text.len());
        (fits && piece.score.is_finite()).then_some(piece)
    }
}

impl Trainer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut trainer = Self::default();
        for field in Fields(bytes) {
            match field? {
                (3, Wire::Number(kind)) => trainer.model_type = kind,
                (24, Wire::Number(flag)) => trainer.treat_whitespace_as_suffix = flag != 0,
                (35, Wire::Number(flag)) => trainer.byte_fallback = flag != 0,
                _ => {}
            }
        }
        Some(trainer)
    }
}

impl<'a> Normalizer<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut normalizer = Self::default();
        for field in Fields(bytes) {
            match field? {
                (2, Wire::Bytes(table)) => normalizer.precompiled_charsmap = table,
                (3, Wire::Number(flag)) => normalizer.add_dummy_prefix = flag != 0,
                (4, Wire::Number(flag)) => normalizer.remove_extra_whitespaces = flag != 0,
                (5, Wire::Number(flag)) => normalizer.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Some(normalizer)
    }
}

impl Kind {
    fn of(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Iterates over the fields of a protocol buffers message with their numbers; yields `None` if the bytes are invalid.
/// (For four messages, a protobuf compiler with its procedural macros is not worth it.)
struct Fields<'a>(&'a [u8]);

/// A value on the wire.
enum Wire<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for place in 0..10 {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Wire::Number(self.number()?),
            1 => self.take(8).map(|_| Wire::Eight)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Reads the bytes of a model.
pub(super) fn read(bytes: &[u8], more: Vec<Added>) -> Result<Draft, TokenizerError> {
    let unusable = |what: &str| Err(TokenizerError::SentencePiece(what.into()));
    if bytes.len() > MAX_BYTES {
        return unusable(&format!(
            "{} bytes, at most {MAX_BYTES} are read",
            bytes.len()
        ));
    }
    let Some(model) = Model::read(bytes).filter(|model| !model.pieces.is_empty()) else {
        return unusable("its bytes are not those of a model");
    };
    let pieces = || (0u32..).zip(&model.pieces);
    let mut unknown = pieces().filter(|(_, piece)| piece.kind == Kind::Unknown);
    let (Some((unknown, _)), None) = (unknown.next(), unknown.next()) else {
        return unusable("it has not one piece for what is unknown");
    };
    let ids: HashMap<&str, u32> = pieces().map(|(id, piece)| (piece.text, id)).collect();
    if ids.len() < model.pieces.len() {
        return unusable("two pieces are the same");
    }
    if model.trainer.treat_whitespace_as_suffix {
        let what = "that writes spaces behind words";
        return Err(TokenizerError::SentencePieceKind(what));
    }
    let byte_fallback = model.trainer.byte_fallback;
    let is_added = |kind| matches!(kind, Kind::Unknown | Kind::Control | Kind::UserDefined);
    let mut added: Vec<Added> = pieces()
        .filter(|(_, piece)| is_added(piece.kind))
        .map(|(id, piece)| Added {
            id,
            content: piece.text.into(),
            special: piece.kind != Kind::UserDefined,
        })
        .collect();
    // Tokens added after the pieces; the library cannot assign them other indices.
    let mut behind = more;
    behind.sort_by_key(|token| token.id);
    let mut next = model.pieces.len() as u32;
    behind.retain(|token| {
        let follows = token.id == next && !ids.contains_key(token.content.as_str());
        next += u32::from(follows);
        follows
    });
    added.extend(behind);
    let network = match model.trainer.model_type {
        UNIGRAM => unigram(&model.pieces, unknown, byte_fallback),
        kind @ (BPE | CHARACTERS) => {
            let merges = match kind {
                BPE => merges(&model.pieces, &ids)?,
                _ => Vec::new(),
            };
            let tokens = pieces().map(|(id, piece)| (piece.text.to_string(), id));
            json!({
                "type": "BPE", "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "unk_token": model.pieces[unknown as usize].text, "fuse_unk": true, "byte_fallback": byte_fallback,
                "ignore_merges": false, "vocab": vocabulary(tokens, &added)?, "merges": merges,
            })
        }
        _ => return Err(TokenizerError::SentencePieceKind("of whole words")),
    };
    Ok(Draft {
        normalizer: model.normalizer.steps()?,
        pre_tokenizer: Value::Null,
        model: network,
        decoder: model.normalizer.decoder(),
        added,
    })
}

/// The pieces with their scores. Pieces that SentencePiece itself never finds in a text rank below all others.
fn unigram(pieces: &[Piece<'_>], unknown: u32, byte_fallback: bool) -> Value {
    let scores = (pieces.iter()).filter(|piece| piece.kind == Kind::Normal);
    let least = scores
        .map(|piece| f64::from(piece.score))
        .fold(0.0, f64::min);
    let score = |piece: &Piece<'_>| match piece.kind {
        Kind::Unused | Kind::Byte => least - NEVER,
        _ => f64::from(piece.score),
    };
    let entries: Vec<Value> = (pieces.iter())
        .map(|piece| json!([piece.text, score(piece)]))
        .collect();
    json!({"type": "Unigram", "unk_id": unknown, "vocab": entries, "byte_fallback": byte_fallback})
}

/// The merges of BPE. SentencePiece joins the two neighbours whose concatenation has the highest score, so every split
/// of a piece into two others is a merge.
fn merges<'a>(
    pieces: &[Piece<'a>],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[&'a str; 2]>, TokenizerError> {
    let unusable = |what: String| Err(TokenizerError::SentencePiece(what));
    let normal = |text: &str| {
        let id = *ids.get(text)?;
        (pieces[id as usize].kind == Kind::Normal).then_some(id)
    };
    let mut merges = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.kind == Kind::Normal) {
        let length = piece.text.len();
        if length > MAX_PIECE {
            return unusable(format!(
                "a piece of {length} bytes, at most {MAX_PIECE} are read"
            ));
        }
        for (cut, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(cut);
            if let (Some(first), Some(second)) = (normal(left), normal(right)) {
                merges.push((piece.score, first, second, [left, right]));
            }
        }
        if merges.len() > MAX_MERGES {
            return unusable("its pieces can be cut in too many ways".into());
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    Ok(merges.into_iter().map(|(.., pair)| pair).collect())
}

impl Normalizer<'_> {
    fn space(&self) -> &'static str {
        match self.escape_whitespaces {
            true => SPACE,
            false => " ",
        }
    }

    /// Preprocessing of a text: characters are mapped, leading, trailing and repeated spaces removed, one space is
    /// prepended, and spaces become [`SPACE`].
    fn steps(&self) -> Result<Value, TokenizerError> {
        let replace = |regex: &str, with: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": with});
        let mut steps = Vec::new();
        if !self.precompiled_charsmap.is_empty() {
            check_charsmap(self.precompiled_charsmap).ok_or_else(|| {
                TokenizerError::SentencePiece("its table of characters is damaged".into())
            })?;
            let table = STANDARD.encode(self.precompiled_charsmap);
            steps.push(json!({"type": "Precompiled", "precompiled_charsmap": table}));
        }
        if self.remove_extra_whitespaces {
            steps.push(replace("^ +| +$", ""));
            steps.push(replace(" {2,}", " "));
        }
        if self.add_dummy_prefix {
            steps.push(json!({"type": "Prepend", "prepend": self.space()}));
        }
        if self.escape_whitespaces {
            steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
        }
        Ok(json!({"type": "Sequence", "normalizers": steps}))
    }

    fn decoder(&self) -> Value {
        let mut steps = Vec::new();
        if self.escape_whitespaces {
            steps.push(json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}));
        }
        steps.extend([json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
        if self.add_dummy_prefix {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    }
}

/// Whether the library can look up characters in this table without leaving it, which it does not check itself: the
/// bytes of the longest text that a character becomes. The table is a double array in blocks of 256 words, followed by
/// the texts that its values point to, each terminated by a zero.
pub(crate) fn check_charsmap(bytes: &[u8]) -> Option<usize> {
    /// Marks a word that is a value, and so no node.
    const VALUE: u32 = 1 << 31;
    /// Marks a node with a value, which is its first child.
    const HAS_VALUE: u32 = 1 << 8;
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
    let (array, texts) = rest.split_at_checked(size)?;
    let texts = std::str::from_utf8(texts).ok()?;
    let words: Vec<u32> = (array.chunks_exact(4))
        .map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default()))
        .collect();
    let is_whole = size.is_multiple_of(4 * 256) && !words.is_empty();
    let is_text = |word: u32| texts.is_char_boundary((word & !VALUE) as usize);
    let stays = |(at, &word): (usize, &u32)| {
        // The library starts at the first word without asking what it is.
        if word & VALUE != 0 && at > 0 {
            return is_text(word);
        }
        // Its children are at an offset, and a byte changes the last eight bits of an index.
        let offset = (word as usize >> 10) << ((word & (1 << 9)) >> 6);
        let child = words.get(at ^ offset);
        child.is_some_and(|&child| word & HAS_VALUE == 0 || is_text(child))
    };
    let longest = texts.split('\0').map(str::len).max();
    longest.filter(|_| is_whole && words.iter().enumerate().all(stays))
}
