//! Turns text files into windows of tokens.
//!
//! Documents are tokenized once, each with the token that opens it and, if that is another one, the token that ends it.
//! Each epoch shuffles them, and cuts the concatenation into windows without gaps. What is left over at its end, less
//! than a window, is not used in that epoch. Epochs shuffle differently, so each cuts the text at other places and
//! leaves over another part; but a single document is always cut in the same way, and its end is never used. Which
//! window is used when depends only on (seed, number of the window).

use std::path::{Path, PathBuf};

use esolm::config::ModelConfig;
use esolm::rng::Stream;
use esolm::text::{TextError, parse_tokenizer};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, models::TrainerWrapper};

use crate::TrainError;
use crate::purpose;
use crate::recipe::Data;

/// The documents of text files, in the order of the files.
///
/// # Errors
/// If a file cannot be read or is not UTF-8.
pub fn documents(files: &[PathBuf], data: &Data) -> Result<Vec<String>, TrainError> {
    let mut all = Vec::new();
    for path in files {
        let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| TrainError::Utf8 {
            path: path.clone(),
            at: e.utf8_error().valid_up_to(),
        })?;
        let text = esolm::documents::normalize(&text);
        let documents = esolm::documents::split(&text, Some(&data.separator));
        let wanted = documents
            .into_iter()
            .filter(|d| !data.ascii_only || d.is_ascii());
        all.extend(wanted.map(String::from));
    }
    Ok(all)
}

/// A digest of documents: SHA-256 over the length and the bytes of each, in hexadecimal. Independent of file names,
/// line endings and byte order marks.
pub fn digest(documents: &[String]) -> String {
    let mut hash = Sha256::new();
    for document in documents {
        hash.update((document.len() as u64).to_le_bytes());
        hash.update(document);
    }
    hexadecimal(hash)
}

/// A digest of a tokenizer.json: SHA-256 of its text, in hexadecimal. Independent of line endings and byte order marks.
pub fn tokenizer_digest(json: &str) -> String {
    let text = esolm::documents::normalize(json);
    hexadecimal(Sha256::new_with_prefix(text.as_bytes()))
}

fn hexadecimal(hash: Sha256) -> String {
    let bytes = hash.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tokenizer, and the tokens that open and end documents.
pub struct TextTokens {
    tokenizer: Tokenizer,
    /// Number of tokens, excluding the mask; a tokenizer trained here gets the mask as the next token.
    pub count: usize,
    /// Begins each document; ends the previous one too, unless [`TextTokens::closing`] does.
    pub end: u32,
    /// Ends each document, if it is not the token that begins it.
    closing: Option<u32>,
    /// The mask, if it is one of the tokens and so might occur in a text.
    mask: Option<u32>,
}

impl TextTokens {
    /// Reads a tokenizer.json whose end-of-text token is called `end`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a tokenizer, or does not have such a token.
    pub fn open(path: &Path, end: &str) -> Result<Self, TrainError> {
        let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
        Self::from_bytes(&bytes, end)
    }

    /// The same, from the file's bytes.
    ///
    /// # Errors
    /// See [`TextTokens::open`].
    pub fn from_bytes(bytes: &[u8], end: &str) -> Result<Self, TrainError> {
        Self::new(read(bytes)?, end)
    }

    /// A model's own tokenizer, whose tokens may include the mask. Documents begin with the token called `end` or, if
    /// there is none, with the one that begins the model's texts, or otherwise the one that ends them. If the model
    /// ends its texts with another token than that, so do the documents, as in the published data: it would not learn
    /// otherwise where a text ends.
    ///
    /// # Errors
    /// If it is not a tokenizer, or does not have such a token.
    pub fn of_model(json: &str, end: &str, config: &ModelConfig) -> Result<Self, TrainError> {
        let tokenizer = read(json.as_bytes())?;
        let opening = tokenizer.token_to_id(end).or(config.bos).or(config.eos);
        let mask = config.mask_index;
        let opening = opening.filter(|&token| token != mask).ok_or_else(|| {
            TrainError::Tokenizer(format!(
                "it has no token {end:?}, and the model names none that opens a text"
            ))
        })?;
        Ok(Self {
            count: config.vocab_size - 1,
            end: opening,
            closing: (config.eos).filter(|&token| token != opening && token != mask),
            mask: tokenizer.id_to_token(mask).map(|_| mask),
            tokenizer,
        })
    }

    /// Whether both have the same tokens.
    pub fn has_tokens_of(&self, other: &Self) -> bool {
        self.tokenizer.get_vocab(true) == other.tokenizer.get_vocab(true)
    }

    /// Trains a byte-level BPE of `size` tokens, the first of which is `end`.
    ///
    /// # Errors
    /// Errors of the tokenizers library.
    pub fn train(documents: &[String], size: usize, end: &str) -> Result<Self, TrainError> {
        let unusable = |e: tokenizers::Error| TrainError::Tokenizer(e.to_string());
        let trainer = BpeTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(end, true)])
            .build();
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        tokenizer
            .train(&mut TrainerWrapper::from(trainer), documents.iter())
            .map_err(unusable)?;
        let trained = Self::new(tokenizer, end)?;
        if trained.count != size {
            return Err(TrainError::Tokenizer(format!(
                "the text gives a BPE of {} tokens, not of {size}",
                trained.count
            )));
        }
        Ok(trained)
    }

    fn new(tokenizer: Tokenizer, end: &str) -> Result<Self, TrainError> {
        let end = tokenizer
            .token_to_id(end)
            .ok_or_else(|| TrainError::Tokenizer(format!("it has no token {end:?}")))?;
        let vocabulary = tokenizer.get_vocab(true);
        // The trained model's mask comes after the tokens, and the model's reader would find two masks.
        let added = tokenizer.get_added_tokens_decoder();
        let special = |index| added.get(&index).is_some_and(|token| token.special);
        let named =
            (vocabulary.iter()).map(|(name, &index)| (name.as_str(), index, special(index)));
        let masks = esolm::config::mask_tokens(named).unwrap_or_default();
        if let Some((mask, _)) = masks.first() {
            return Err(TrainError::Tokenizer(format!(
                "it has the mask token {mask:?} already, and training adds one"
            )));
        }
        let largest = vocabulary.into_values().max();
        Ok(Self {
            count: largest.map_or(0, |index| index as usize + 1),
            end,
            closing: None,
            mask: None,
            tokenizer,
        })
    }

    /// The text of the tokenizer.json.
    ///
    /// # Errors
    /// Errors of the tokenizers library.
    pub fn json(&self) -> Result<String, TrainError> {
        self.tokenizer
            .to_string(true)
            .map_err(|e| TrainError::Tokenizer(e.to_string()))
    }

    /// The tokens of each document, with the token that opens it and, if another one ends it, that one.
    ///
    /// # Errors
    /// Errors of the tokenizers library.
    pub fn encode(&self, documents: &[String]) -> Result<Vec<Vec<u32>>, TrainError> {
        let encode = |document: &String| {
            let encoding = self
                .tokenizer
                .encode_fast(document.as_str(), false)
                .map_err(|e| TrainError::Tokenizer(e.to_string()))?;
            if let Some(mask) = self.mask.filter(|mask| encoding.get_ids().contains(mask)) {
                let name = self.tokenizer.id_to_token(mask);
                return Err(TrainError::MaskInText(name.unwrap_or_default()));
            }
            Ok(std::iter::once(self.end)
                .chain(encoding.get_ids().iter().copied())
                .chain(self.closing)
                .collect())
        };
        documents.par_iter().map(encode).collect()
    }
}

fn read(json: &[u8]) -> Result<Tokenizer, TrainError> {
    parse_tokenizer(json).map_err(|error| match error {
        TextError::Unusable(reason) => TrainError::Tokenizer(reason),
        other => TrainError::Text(other),
    })
}

/// Documents shuffled and cut into windows in each epoch.
pub struct Windows {
    documents: Vec<Vec<u32>>,
    length: usize,
    seed: u64,
    count: u64,
    /// The current epoch, and its windows concatenated.
    cut: Option<(u64, Vec<u32>)>,
}

impl Windows {
    /// Windows of `length` tokens.
    ///
    /// # Errors
    /// [`TrainError::TooLittle`] if there is not a single one.
    pub fn new(documents: Vec<Vec<u32>>, length: usize, seed: u64) -> Result<Self, TrainError> {
        let tokens: usize = documents.iter().map(Vec::len).sum();
        if tokens < length {
            return Err(TrainError::TooLittle {
                what: "training",
                tokens,
                documents: documents.len(),
                length,
            });
        }
        Ok(Self {
            documents,
            length,
            seed,
            count: (tokens / length) as u64,
            cut: None,
        })
    }

    /// Number of windows per epoch.
    pub fn per_epoch(&self) -> u64 {
        self.count
    }

    /// Window number `index` in the endless sequence of epochs, `[length]`.
    pub fn get(&mut self, index: u64) -> &[u32] {
        let (epoch, index) = (index / self.count, index % self.count);
        if self.cut.as_ref().is_none_or(|(cut, _)| *cut != epoch) {
            self.cut = Some((epoch, self.epoch(epoch)));
        }
        let (_, tokens) = self.cut.as_ref().expect("it was just cut");
        &tokens[index as usize * self.length..][..self.length]
    }

    fn epoch(&self, epoch: u64) -> Vec<u32> {
        let mut stream = Stream::new(self.seed, epoch as u32, purpose::EPOCH);
        let mut order: Vec<usize> = (0..self.documents.len()).collect();
        stream.shuffle(&mut order);
        let tokens: Vec<u32> = order
            .iter()
            .flat_map(|&i| self.documents[i].iter().copied())
            .collect();
        let mut windows: Vec<usize> = (0..self.count as usize).collect();
        stream.shuffle(&mut windows);
        windows
            .iter()
            .flat_map(|&i| tokens[i * self.length..][..self.length].iter().copied())
            .collect()
    }
}

/// The first `most` windows of documents in their original order, for validation.
///
/// # Errors
/// [`TrainError::TooLittle`] if there is not a single one.
pub fn first_windows(
    documents: &[Vec<u32>],
    length: usize,
    most: usize,
) -> Result<Vec<Vec<u32>>, TrainError> {
    let tokens: Vec<u32> = documents.concat();
    let windows: Vec<Vec<u32>> = tokens
        .chunks_exact(length)
        .take(most)
        .map(<[u32]>::to_vec)
        .collect();
    if windows.is_empty() {
        return Err(TrainError::TooLittle {
            what: "hold-out",
            tokens: tokens.len(),
            documents: documents.len(),
            length,
        });
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Windows {
        let documents = (0..40u32).map(|d| (0..7).map(|i| d * 10 + i).collect());
        Windows::new(documents.collect(), 9, 3).unwrap()
    }

    #[test]
    fn a_tokenizer_with_a_mask_token_is_refused() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/cases/");
        let path = Path::new(root).join("mask.tokenizer.json");
        let refused = TextTokens::open(&path, "<|endoftext|>").err().unwrap();
        assert!(refused.to_string().contains("[MASK]"), "{refused}");
    }

    #[test]
    fn documents_are_the_same_from_every_system() {
        let plain = "[data]\ntrain = [\"a\"]\nseparator = \"\\n--\\n\"\n";
        let foreign = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
        let path = std::env::temp_dir().join(format!("esolm-documents-{}", std::process::id()));
        let text = "one\ntwo\n--\nthree\n";
        let read = |recipe: &str, text: &str| {
            std::fs::write(&path, text).unwrap();
            let data = crate::Recipe::parse(recipe, &[]).unwrap().data;
            documents(std::slice::from_ref(&path), &data).unwrap()
        };
        let [native, other] = [read(plain, text), read(&foreign(plain), &foreign(text))];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(native, ["one\ntwo", "three"]);
        assert_eq!(native, other);
        assert_eq!(digest(&native), digest(&other));
        assert_ne!(digest(&native), digest(&["one\ntwo\nthree".into()]));
    }

    #[test]
    fn an_epoch_holds_each_token_once_and_epochs_differ() {
        let mut windows = windows();
        let count = windows.per_epoch();
        assert_eq!(count, 40 * 7 / 9);
        let mut epochs = (0..2).map(|epoch| {
            let all: Vec<u32> = (0..count)
                .flat_map(|i| windows.get(epoch * count + i).to_vec())
                .collect();
            let mut sorted = all.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), all.len());
            all
        });
        let (first, second) = (epochs.next().unwrap(), epochs.next().unwrap());
        assert_ne!(first, second);
    }

    #[test]
    fn a_window_does_not_depend_on_what_was_read_before() {
        let wanted = windows().get(50).to_vec();
        let mut other = windows();
        for i in [3, 70, 50] {
            other.get(i);
        }
        assert_eq!(other.get(50), wanted);
    }

    #[test]
    fn a_trained_tokenizer_reads_back() {
        let text = "the cat sat on the mat and the dog sat on the cat ".repeat(20);
        let documents = vec![text.clone(), "other words, é and ü".into()];
        let tokens = TextTokens::train(&documents, 280, "<|endoftext|>").unwrap();
        let again = TextTokens::from_bytes(tokens.json().unwrap().as_bytes(), "<|endoftext|>");
        let again = again.unwrap();
        let encoded = again.encode(&documents).unwrap();
        assert_eq!(encoded, tokens.encode(&documents).unwrap());
        assert!(encoded.iter().all(|tokens| tokens[0] == again.end));
        assert_eq!(again.tokenizer.decode(&encoded[0], true).unwrap(), text);
    }

    #[test]
    fn documents_end_as_the_texts_of_the_model_that_training_starts_from() {
        let documents = vec!["the cat sat".to_string(), "on the mat".into()];
        let tokens = TextTokens::train(&documents, 257, "<|endoftext|>").unwrap();
        let (json, plain) = (tokens.json().unwrap(), tokens.encode(&documents).unwrap());
        let recipe = crate::Recipe::parse("[data]\ntrain = [\"a\"]\n", &[]).unwrap();
        let config = recipe.config(tokens.count, tokens.end).unwrap();
        let encoded = |name: &str, bos, eos| {
            let config = ModelConfig {
                bos,
                eos,
                ..config.clone()
            };
            let tokens = TextTokens::of_model(&json, name, &config).unwrap();
            tokens.encode(&documents).unwrap()
        };
        // One token between documents, as in a training from random weights.
        let mask = Some(config.mask_index);
        for (bos, eos) in [
            (Some(0), Some(0)),
            (Some(3), Some(0)),
            (Some(0), None),
            (None, mask),
        ] {
            assert_eq!(encoded("<|endoftext|>", bos, eos), plain);
        }
        assert_eq!(encoded("none", None, Some(0)), plain);
        let around = |opening: u32, closing: u32| -> Vec<Vec<u32>> {
            let inside = plain.iter().map(|document| &document[1..]);
            inside
                .map(|inside| [&[opening], inside, &[closing]].concat())
                .collect()
        };
        assert_eq!(encoded("none", Some(3), Some(4)), around(3, 4));
        assert_eq!(encoded("<|endoftext|>", Some(0), Some(4)), around(0, 4));
    }

    #[test]
    fn a_single_document_is_cut_alike_in_every_epoch() {
        let mut windows = Windows::new(vec![(0..20).collect()], 6, 3).unwrap();
        for epoch in 0..3 {
            let all = (0..3).map(|i| windows.get(epoch * 3 + i).to_vec());
            let mut all: Vec<Vec<u32>> = all.collect();
            all.sort_unstable();
            assert_eq!(all.concat(), (0..18).collect::<Vec<u32>>());
        }
    }
}
