//! Text to tokens and back: the tokenizer, where a text begins and ends, prompts, and infill templates.
//!
//! Tokenizers are Hugging Face `tokenizer.json` files. Truncation, padding and automatic special tokens requested by
//! such a file are disabled: a prompt becomes its own tokens and nothing else.

mod check;
mod template;

use std::str::SplitWhitespace;

pub use template::{Part, Placed, Template, TemplateError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokenizers::{DecoderWrapper, Tokenizer};

#[cfg(not(target_family = "wasm"))]
use crate::checkpoint::read_tokenizer;
use crate::checkpoint::{Checkpoint, TokenizerError};
use crate::config::{Family, ModelConfig, mask_tokens, unused_tokens};
use crate::message::shorten;

pub use crate::stop::Ends;

/// Ends a turn of a chat.
const TURN_END: &str = "<|im_end|>";
/// Names of end-of-text tokens in published tokenizers, the most likely one first.
const END_NAMES: [&str; 5] = ["<|endoftext|>", "</s>", "<eos>", "[SEP]", "<|end_of_text|>"];
/// The same for beginning-of-text tokens. GPT-2 uses one token for both.
const BEGIN_NAMES: [&str; 5] = [
    "<|endoftext|>",
    "<s>",
    "<bos>",
    "[CLS]",
    "<|begin_of_text|>",
];

/// Upper bound of the padding that rounds up a vocabulary's size.
const MAX_PADDING: usize = 1024;

/// Why text cannot be tokenized. Every message names the cause and the remedy.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TextError {
    /// The file cannot be read.
    #[error("cannot read the tokenizer {path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// The operating system's answer.
        reason: String,
    },
    /// The file is not a tokenizer in any known form.
    #[error("the tokenizer {path} {source}; give the tokenizer.json that belongs to the model")]
    File {
        /// The file.
        path: String,
        /// What it is.
        source: TokenizerError,
    },
    /// The text is not a tokenizer.
    #[error("the tokenizer is not usable ({0}); give the tokenizer.json that belongs to the model")]
    Unusable(String),
    /// Tokenizer and model have different vocabularies.
    #[error(
        "the tokenizer has {tokens} tokens, but the model's vocabulary of {vocab_size}{} needs {expected}; \
         give the tokenizer.json that the model was trained with{}",
        if *.has_mask { " (mask included)" } else { "" },
        if *.may_be_padded {
            ", or, if the vocabulary is padded beyond it, a configuration whose \"mask_index\" says which token is the mask"
        } else {
            ""
        }
    )]
    Vocabulary {
        /// Largest token index of the tokenizer, plus one.
        tokens: usize,
        /// V of the model.
        vocab_size: usize,
        /// Whether the mask is one of them.
        has_mask: bool,
        /// Sizes that would fit: "2048", or "2048 or 2049".
        expected: String,
        /// Whether the mask may merely have been assumed to be the last index, while the vocabulary is really padded.
        may_be_padded: bool,
    },
    /// Tokenizer and model have different mask tokens.
    #[error(
        "the tokenizer's mask token \"{name}\" is {index}, but the model's mask is {mask_index}; give the tokenizer.json that the \
         model was trained with, or correct \"mask_index\" in the configuration"
    )]
    Mask {
        /// Its name.
        name: String,
        /// Its index.
        index: u32,
        /// The model's.
        mask_index: u32,
    },
    /// The tokenizer alters words that must be kept as given.
    #[error(
        "{0}, so the words would not stay as they are given; write the text as the tokenizer does"
    )]
    Lossy(Altered),
    /// The tokenizer library failed on this text.
    #[error("the tokenizer cannot encode the text ({0}); write it in other words")]
    Encode(String),
    /// The text contains the mask token.
    #[error(
        "the text contains {0:?}, the model's mask token; leave it out, or give an infill template with a gap"
    )]
    MaskInText(String),
    /// The template is malformed or too long.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl TextError {
    /// Whether the tokenizer is at fault, rather than the text.
    pub fn is_of_tokenizer(&self) -> bool {
        match self {
            Self::Io { .. }
            | Self::File { .. }
            | Self::Unusable(_)
            | Self::Vocabulary { .. }
            | Self::Mask { .. } => true,
            Self::Lossy(_) | Self::Encode(_) | Self::MaskInText(_) | Self::Template(_) => false,
        }
    }
}

/// What a tokenizer makes of a text that decoding does not give back: one without capital letters turns "Hello" into
/// "hello".
#[derive(Debug, Error, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[error("the tokenizer turns \"{given}\" into \"{kept}\"")]
pub struct Altered {
    /// The original, from the first altered word on, shortened.
    pub given: String,
    /// What the tokens decode to.
    pub kept: String,
}

/// Maximum number of words that [`Altered`] shows.
const SHOWN_WORDS: usize = 8;

impl Altered {
    fn new(given: &str, kept: &str) -> Self {
        let (from, to) = (given.split_whitespace(), kept.split_whitespace());
        let same = from.clone().zip(to.clone()).take_while(|(a, b)| a == b);
        let same = same.count();
        // If one of them ends here, show the last word before, for orientation.
        let is_over = from.clone().nth(same).is_none() || to.clone().nth(same).is_none();
        let first = same - usize::from(is_over).min(same);
        let shown = |words: SplitWhitespace<'_>| {
            let words: Vec<&str> = words.skip(first).take(SHOWN_WORDS).collect();
            shorten(&words.join(" "))
        };
        let (from, to) = (shown(from), shown(to));
        let is_space = from == to;
        Self {
            given: if is_space { shorten(given) } else { from },
            kept: if is_space { shorten(kept) } else { to },
        }
    }
}

/// A tokenizer that has been checked against a model's vocabulary.
#[derive(Debug, Clone)]
pub struct TextCodec {
    tokenizer: Tokenizer,
    /// Largest token index plus one.
    tokens: usize,
    unused: Vec<u32>,
    /// Whether tokens are sequences of bytes, so that a text can be cut anywhere without losing bytes.
    byte_level: bool,
    mask: u32,
    /// Whether the tokenizer itself adds the beginning-of-text token to a text.
    puts_bos: bool,
    ends: Ends,
}

/// Reads a `tokenizer.json`, whatever model it belongs to, without its padding and truncation. The file is checked
/// first, since the library trusts it.
///
/// # Errors
/// [`TextError::Unusable`].
pub fn parse_tokenizer(json: &[u8]) -> Result<Tokenizer, TextError> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    check::check(json).map_err(|fault| TextError::Unusable(fault.to_string()))?;
    let unusable = |error: tokenizers::Error| TextError::Unusable(one_line(&error.to_string()));
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(unusable)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(unusable)?;
    Ok(tokenizer)
}

impl TextCodec {
    /// Reads a `tokenizer.json` from bytes and checks that it belongs to the model: its tokens must be the model's
    /// vocabulary, with or without the mask token (index `mask_index`).
    ///
    /// # Errors
    /// [`TextError::Unusable`], [`TextError::Vocabulary`].
    pub fn from_bytes(json: &[u8], config: &ModelConfig) -> Result<Self, TextError> {
        Self::read(json, config, false)
    }

    /// `own` says that the tokenizer comes with the model.
    fn read(json: &[u8], config: &ModelConfig, own: bool) -> Result<Self, TextError> {
        let tokenizer = parse_tokenizer(json)?;
        let vocabulary = tokenizer.get_vocab(true);
        let largest = vocabulary.values().max();
        let tokens = largest.map_or(0, |&index| index as usize + 1);
        let added = tokenizer.get_added_tokens_decoder();
        let special = |index| added.get(&index).is_some_and(|token| token.special);
        let named =
            (vocabulary.iter()).map(|(name, &index)| (name.as_str(), index, special(index)));
        // If several tokens merely have mask-like names, the configuration decides.
        let masks = mask_tokens(named).unwrap_or_default();
        // A model without a mask may have a tokenizer shared with other models.
        let other =
            (masks.into_iter()).find(|&(_, index)| config.mask().is_some_and(|mask| index != mask));
        if let Some((name, index)) = other {
            return Err(TextError::Mask {
                name: shorten(name),
                index,
                mask_index: config.mask_index,
            });
        }
        let byte_level = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));

        // The published code appends the mask to a tokenizer that has none.
        let mask_is_last =
            (config.mask()).is_some_and(|mask| mask as usize + 1 == config.vocab_size);
        let appended = usize::from(mask_is_last && tokens < config.vocab_size);
        let fits = match config.vocab_size.checked_sub(tokens + appended) {
            None => false,
            Some(0) => true,
            // A vocabulary padded to a round size. If the tokenizer does not come with the model, it is more likely the
            // wrong one, unless its tokens end where the mask was appended.
            Some(padding) => {
                let is_round = !mask_is_last && config.vocab_size.is_multiple_of(8);
                let ends_at_mask = config.mask_index as usize == tokens;
                padding < MAX_PADDING && (own || is_round || ends_at_mask)
            }
        };
        if !fits {
            let expected = if mask_is_last {
                format!("{} or {}", config.vocab_size - 1, config.vocab_size)
            } else {
                config.vocab_size.to_string()
            };
            return Err(TextError::Vocabulary {
                tokens,
                vocab_size: config.vocab_size,
                has_mask: config.mask().is_some(),
                expected,
                may_be_padded: mask_is_last
                    && tokens + 1 < config.vocab_size
                    && config.vocab_size - tokens < MAX_PADDING,
            });
        }
        let named = |names: &[&str]| names.iter().find_map(|name| tokenizer.token_to_id(name));
        let own_opening = own_opening(&tokenizer);
        // A decoder read in training what its tokenizer adds, even where the configuration names another token.
        let opening = own_opening.filter(|_| config.decoder.is_some());
        let mut ends = Ends {
            bos: (opening.or(config.bos)).or_else(|| named(&BEGIN_NAMES)),
            eos: config.eos.or_else(|| named(&END_NAMES)),
            more: config.more_eos.clone(),
        };
        ends.more.extend(turn_end(&tokenizer, config));
        ends.more.retain(|token| ends.eos != Some(*token));
        ends.more.sort_unstable();
        ends.more.dedup();
        let indices = vocabulary.into_values();
        Ok(Self {
            tokenizer,
            unused: unused_tokens(indices, config.vocab_size, config.mask_index),
            tokens,
            byte_level,
            mask: config.mask_index,
            puts_bos: own_opening.is_some() && own_opening == ends.bos,
            ends,
        })
    }

    /// Like [`TextCodec::from_bytes`], from a file, which may also be in another tokenizer format
    /// ([`crate::checkpoint::read_tokenizer`]).
    ///
    /// # Errors
    /// Also [`TextError::Io`].
    #[cfg(not(target_family = "wasm"))]
    pub fn from_file(path: &std::path::Path, config: &ModelConfig) -> Result<Self, TextError> {
        Self::from_bytes(&read_file(path)?, config)
    }

    /// The tokenizer that comes with a checkpoint, in a separate file or inside, if there is one.
    ///
    /// # Errors
    /// See [`TextCodec::from_bytes`]; natively also [`TextError::Io`].
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Option<Self>, TextError> {
        #[cfg(not(target_family = "wasm"))]
        if let Some(path) = checkpoint.tokenizer_path() {
            return Self::read(&read_file(&path)?, checkpoint.config(), true).map(Some);
        }
        let json = checkpoint.tokenizer_json();
        json.map(|json| Self::read(json.as_bytes(), checkpoint.config(), true))
            .transpose()
    }

    /// Indices of the model's vocabulary that have no token and are not the mask.
    pub fn unused_tokens(&self) -> &[u32] {
        &self.unused
    }

    /// The tokenizer as the text of a `tokenizer.json`: identical for all files that define the same tokenizer.
    ///
    /// # Errors
    /// [`TextError::Unusable`] if it cannot be written.
    pub fn json(&self) -> Result<String, TextError> {
        (self.tokenizer.to_string(false))
            .map_err(|error| TextError::Unusable(one_line(&error.to_string())))
    }

    /// Number of tokens: the largest index plus one.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The tokens that begin and end a text: those in the model's configuration, otherwise the tokenizer's tokens with
    /// a conventional name such as `<|endoftext|>`. A decoder's texts begin with what the tokenizer itself adds to a
    /// text, if it adds something.
    pub fn ends(&self) -> Ends {
        self.ends.clone()
    }

    /// The index of a special token, by name.
    pub fn special_token(&self, name: &str) -> Option<u32> {
        let index = self.tokenizer.token_to_id(name)?;
        let added = self.tokenizer.get_added_tokens_decoder();
        added
            .get(&index)
            .filter(|token| token.special)
            .map(|_| index)
    }

    /// Whether the tokenizer itself adds the beginning-of-text token to a text. For some models it does; others have no
    /// such token.
    pub fn puts_bos(&self) -> bool {
        self.puts_bos
    }

    /// The token with a name: one of the vocabulary, or a text that is a single token.
    pub fn token(&self, name: &str) -> Option<u32> {
        let named = self.tokenizer.token_to_id(name);
        named.or_else(|| match &self.encode(name).ok()?[..] {
            [token] => Some(*token),
            _ => None,
        })
    }

    /// Tokenizes a text, adding no tokens. The name of a special token in the text, such as `<|endoftext|>`, becomes
    /// that token. Decoding need not give the same text back, see [`TextCodec::altered`].
    ///
    /// # Errors
    /// [`TextError::MaskInText`], [`TextError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let tokens = self.encode_all(text)?;
        if tokens.contains(&self.mask) {
            let name = self.tokenizer.id_to_token(self.mask);
            return Err(TextError::MaskInText(name.unwrap_or_default()));
        }
        Ok(tokens)
    }

    /// Like [`TextCodec::encode`], but allows the mask token, which no model can continue.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode_all(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| TextError::Encode(one_line(&error.to_string())))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// How `tokens`, the tokens of `text`, differ from it when decoded, if they do: a tokenizer may be lower-case only,
    /// or lack some characters. White space only counts if tokens are bytes, since other tokenizers drop it and add it
    /// back.
    pub fn altered(&self, text: &str, tokens: &[u32]) -> Option<Altered> {
        let kept = self.decode(tokens);
        let is_same = kept == text
            || (!self.byte_level && kept.split_whitespace().eq(text.split_whitespace()));
        (!is_same).then(|| Altered::new(text, &kept))
    }

    /// Number of bytes of a text covered by its first `count` tokens; a character counts only if it is complete.
    ///
    /// # Errors
    /// See [`TextCodec::encode`].
    pub fn covered(&self, text: &str, count: usize) -> Result<usize, TextError> {
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|error| TextError::Encode(one_line(&error.to_string())))?;
        let spans = encoding.get_offsets();
        let end = match count.checked_sub(1).and_then(|last| spans.get(last)) {
            Some(&(_, end)) => end,
            None => return Ok(if count == 0 { 0 } else { text.len() }),
        };
        // Tokens that are parts of a character all have the character's span.
        Ok(spans.get(count).map_or(end, |&(start, _)| end.min(start)))
    }

    /// The text of all tokens, including the names of special ones. Tokens without text (the mask) are skipped; invalid
    /// UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.decode_with(tokens, false)
    }

    /// Like [`TextCodec::decode`], without special tokens.
    pub fn decode_plain(&self, tokens: &[u32]) -> String {
        self.decode_with(tokens, true)
    }

    fn decode_with(&self, tokens: &[u32], skip_special: bool) -> String {
        // Decoding fails only if a tokenizer.json has a faulty decoder rule; then decode token by token.
        self.tokenizer
            .decode(tokens, skip_special)
            .unwrap_or_else(|_| {
                tokens
                    .iter()
                    .filter_map(|&token| self.tokenizer.id_to_token(token))
                    .collect()
            })
    }

    /// The text for a reader: without the beginning-of-text token and other special tokens, up to the first end of text
    /// that comes after the first `given` tokens and after at least one other token.
    ///
    /// `given` is the length of the part that contains given words (a prompt, or an infill template up to its last
    /// word), which is never cut.
    pub fn text(&self, tokens: &[u32], given: usize) -> String {
        self.decode_plain(until_eos(tokens, given, &self.ends))
    }

    /// Whether `tokens` leave the given words of a template intact: at no position in `word_ends`
    /// ([`Placed::word_ends`]) does a letter or digit follow. An incomplete character counts as a letter, since it
    /// could have become one.
    pub fn keeps_words(&self, tokens: &[u32], word_ends: &[usize]) -> bool {
        let goes_on = |c: char| c.is_alphanumeric() || c == char::REPLACEMENT_CHARACTER;
        word_ends.iter().all(|&position| {
            // Decoded together with the word's last token, since decoders drop a space or a continuation marker at the
            // beginning of a text.
            let before = position.saturating_sub(1);
            let from = |start: usize| self.decode_plain(tokens.get(start..).unwrap_or_default());
            let word = self.decode_plain(tokens.get(before..position).unwrap_or_default());
            let (whole, alone) = (from(before), from(position));
            let rest = whole.strip_prefix(&word).unwrap_or(&alone);
            !rest.starts_with(goes_on)
        })
    }
}

/// `tokens` up to, but not including, the first end of text. A beginning-of-text token and end-of-text tokens at the
/// start of the sequence do not end it, nor does one among the first `given` tokens.
pub fn until_eos<'t>(tokens: &'t [u32], given: usize, ends: &Ends) -> &'t [u32] {
    if !ends.has_end() {
        return tokens;
    }
    let opening = tokens
        .iter()
        .take_while(|&&token| ends.is_end(token) || Some(token) == ends.bos)
        .count();
    let from = opening.max(given.min(tokens.len()));
    let end = tokens[from..]
        .iter()
        .position(|&token| ends.is_end(token))
        .map_or(tokens.len(), |index| from + index);
    &tokens[..end]
}

/// The token that the tokenizer itself adds before a text, if it adds one. The text is not empty, since with an empty
/// one, a token that is added at the end would come first as well.
fn own_opening(tokenizer: &Tokenizer) -> Option<u32> {
    let encoding = tokenizer.encode_fast("a", true).ok()?;
    let is_added = encoding.get_special_tokens_mask().first() == Some(&1);
    let first = encoding.get_ids().first().copied();
    first.filter(|_| is_added)
}

/// The token with which the published samplers of diffusion decoders end a text regardless of the configuration, if the
/// tokenizer has it.
fn turn_end(tokenizer: &Tokenizer, config: &ModelConfig) -> Option<u32> {
    let diffuses = config.decoder.is_some() && config.family != Family::Ar;
    let index = tokenizer.token_to_id(TURN_END).filter(|_| diffuses)?;
    let added = tokenizer.get_added_tokens_decoder();
    added.get(&index).filter(|token| token.special)?;
    Some(index)
}

#[cfg(not(target_family = "wasm"))]
fn read_file(path: &std::path::Path) -> Result<Vec<u8>, TextError> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| TextError::Io {
        path: name(),
        reason: error.to_string(),
    })?;
    let read = read_tokenizer(path, bytes);
    let (json, _) = read.map_err(|source| TextError::File {
        path: name(),
        source,
    })?;
    Ok(json)
}

/// An external message as part of a sentence: one line of bounded length.
fn one_line(message: &str) -> String {
    shorten(&message.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests;
