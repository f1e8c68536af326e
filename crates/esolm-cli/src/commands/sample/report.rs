//! Texts as JSON.

use esolm::Model;
use esolm::stop::Finish;
use esolm::text::Altered;
use esolm::trace::{Footer, Header, optional_seed};
use serde::Serialize;

/// A text.
#[derive(Serialize)]
pub struct Sequence {
    /// Its number.
    pub sequence: u32,
    /// `null` without a tokenizer.
    pub text: Option<String>,
    pub tokens: Vec<u32>,
    pub finish: Finish,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Option<f32>>>,
}

/// A text on a line of its own: its number and the seed are enough to write it again.
#[derive(Serialize)]
pub struct TextLine {
    #[serde(with = "optional_seed")]
    pub seed: Option<u64>,
    #[serde(flatten)]
    pub sequence: Sequence,
    /// The model extended a given word in every attempt.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub run_on: bool,
    /// How the tokenizer changed the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altered: Option<Altered>,
}

/// The texts as they are printed; `raw` shows all tokens.
pub fn texts(model: &Model, header: &Header, footer: &Footer, raw: bool) -> Vec<String> {
    let codec = model.codec().filter(|_| raw);
    (footer.tokens.iter().zip(&footer.text))
        .map(|(tokens, text)| match codec {
            Some(codec) if !tokens.contains(&header.mask_index) => codec.decode(tokens),
            _ => text.clone(),
        })
        .collect()
}

/// The same, with the facts about each text.
pub fn sequences(model: &Model, header: &Header, footer: &Footer, raw: bool) -> Vec<Sequence> {
    let texts = texts(model, header, footer, raw).into_iter().enumerate();
    texts
        .map(|(index, text)| Sequence {
            sequence: header.first + index as u32,
            text: model.codec().map(|_| text),
            tokens: footer.tokens[index].clone(),
            finish: footer.finish[index],
            logprobs: footer.logprobs.get(index).cloned(),
        })
        .collect()
}

/// Lines for all texts. Changes to the prompt by the tokenizer are included only if there is one text.
pub fn lines(model: &Model, header: &Header, footer: &Footer, raw: bool) -> Vec<TextLine> {
    let sequences = sequences(model, header, footer, raw)
        .into_iter()
        .enumerate();
    sequences
        .map(|(index, sequence)| TextLine {
            seed: Some(header.seed),
            sequence,
            run_on: footer.run_on.contains(&index),
            altered: header.altered.clone().filter(|_| header.batch == 1),
        })
        .collect()
}
