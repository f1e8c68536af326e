//! Likelihoods of single texts: how likely a text is, which of several continuations is likelier, and how likely a
//! middle is given the text on both sides.

use std::f64::consts::LN_2;
use std::ops::Range;

use esolm_core::config::{Family, ModelConfig};
use esolm_core::documents;
use esolm_core::passes::Window;
use esolm_core::text::{Altered, TextCodec};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::{Error, ItemError};
use crate::files::Shared;
use crate::likelihood::{
    Likelihood, LikelihoodOptions, Progress, Purpose, TextScore, between_texts, evaluate,
    first_is_free, opening,
};

/// A text to score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ScoreItem {
    /// A text by itself.
    Text(String),
    /// Several continuations of one context, each scored given the context. Trailing whitespace of the context counts
    /// as part of the choices.
    Choices {
        /// The context, which is given.
        context: String,
        /// The continuations.
        choices: Vec<String>,
    },
    /// The middle of a text, scored given the text on both sides.
    Infill {
        /// The text before.
        prefix: String,
        /// The text to score.
        middle: String,
        /// The text after.
        suffix: String,
    },
}

/// How texts are scored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Flat")]
pub struct ScoreOptions {
    /// Orders, draws and seed. By default, an exact likelihood goes from left to right.
    pub likelihood: Likelihood,
    /// Whether texts open with the beginning-of-text token, which is not itself scored. Default: yes; for decoders,
    /// only if the tokenizer adds that token to every text. An AR decoder does not score the first token of a text that
    /// has no opening token.
    pub bos: Option<bool>,
    /// One number per item, which keys the item's random numbers regardless of what else is scored. If empty, texts are
    /// numbered consecutively, including choices and the pieces of texts that were cut.
    pub numbers: Vec<u32>,
    /// Receives progress.
    pub progress: Progress,
}

/// The options as represented in JSON. serde's `flatten` would let misspelt names through.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flat {
    alpha_0: Option<f64>,
    orders: Option<u32>,
    draws: Option<u32>,
    #[serde(with = "esolm_core::trace::optional_seed")]
    seed: Option<u64>,
    batch: Option<usize>,
    bos: Option<bool>,
}

impl From<Flat> for ScoreOptions {
    fn from(flat: Flat) -> Self {
        Self {
            likelihood: Likelihood {
                alpha_0: flat.alpha_0,
                orders: flat.orders,
                draws: flat.draws,
                seed: flat.seed,
                batch: flat.batch,
            },
            bos: flat.bos,
            numbers: Vec::new(),
            progress: Progress::default(),
        }
    }
}

impl ScoreOptions {
    /// Checks everything that needs neither the tokenizer nor the network.
    ///
    /// # Errors
    /// If an option does not apply to the family, or for the first item that cannot be scored.
    pub fn check(&self, config: &ModelConfig, items: &[ScoreItem]) -> Result<(), Error> {
        self.resolve(config, items).map(drop)
    }

    fn resolve(
        &self,
        config: &ModelConfig,
        items: &[ScoreItem],
    ) -> Result<LikelihoodOptions, Error> {
        let likelihood = self.likelihood.resolve(config, Purpose::Score)?;
        for (index, item) in items.iter().enumerate() {
            item.check(config)
                .map_err(|source| Error::Item { index, source })?;
        }
        Ok(likelihood)
    }
}

impl ScoreItem {
    fn check(&self, config: &ModelConfig) -> Result<(), ItemError> {
        match self {
            Self::Choices { choices, .. } if choices.is_empty() => Err(ItemError::NoChoices),
            Self::Choices { choices, .. } if choices.iter().any(String::is_empty) => {
                Err(ItemError::EmptyChoice)
            }
            Self::Infill { .. } if matches!(config.family, Family::Ar | Family::Bd3Lm) => {
                Err(ItemError::LeftToRight(config.family))
            }
            _ => Ok(()),
        }
    }
}

/// How likely a text is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Natural logarithm of the probability.
    pub logp: f64,
    /// Whether `logp` is exact; otherwise it is a lower bound.
    pub exact: bool,
    /// Tokens that were scored.
    pub tokens: usize,
    /// UTF-8 bytes of the text.
    pub bytes: usize,
    /// -logp per token, if a token was scored.
    pub nats_per_token: Option<f64>,
    /// -log2 p per byte, if the text has bytes and a token was scored.
    pub bits_per_byte: Option<f64>,
}

impl Score {
    /// The score of a text of `bytes` bytes of which no token is scored, because it has none or only one that nothing
    /// predicts. What is certain has log-probability 0, and there is nothing to report per token or byte.
    pub fn nothing(bytes: usize, exact: bool) -> Self {
        Self {
            logp: 0.0,
            exact,
            tokens: 0,
            bytes,
            nats_per_token: None,
            bits_per_byte: None,
        }
    }

    /// The score of a text of `bytes` bytes and `all` tokens, summed over its windows. If nothing predicts one of its tokens,
    /// that one counts per byte like the others.
    pub(crate) fn of(windows: &[TextScore], all: usize, bytes: usize, exact: bool) -> Self {
        let tokens = windows.iter().map(|score| score.tokens).sum();
        if tokens == 0 {
            return Self::nothing(bytes, exact);
        }
        let logp = windows.iter().map(TextScore::log_likelihood).sum::<f64>();
        let share = |n: usize| (n > 0).then(|| -logp / n as f64);
        Self {
            logp,
            exact,
            tokens,
            bytes,
            nats_per_token: share(tokens),
            bits_per_byte: share(bytes).map(|nats| nats / LN_2 * (all as f64 / tokens as f64)),
        }
    }
}

/// The result of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// One score, or one per choice.
    pub scores: Vec<Score>,
    /// The text is longer than the model's context and was scored in windows that are independent of each other.
    pub is_cut: bool,
    /// Number of texts whose context did not fit and was truncated at its far ends.
    pub shortened: usize,
    /// The text as the tokenizer altered it, if decoding does not give the original back: this is what was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altered: Option<Altered>,
}

/// Scores all items. `go_on` is asked between passes.
pub(crate) async fn score(
    engine: &mut Engine,
    shared: &Shared,
    items: &[ScoreItem],
    options: &ScoreOptions,
    go_on: &dyn Fn() -> bool,
) -> Result<Vec<Scored>, Error> {
    let config = &shared.config;
    let likelihood = options.resolve(config, items)?;
    let mut reader = Reader {
        codec: shared.codec()?,
        config,
        opening: opening(config, shared.codec()?, options.bos)?,
        windows: Vec::new(),
    };
    let mut pieces: Vec<Pieces> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        between_texts(&options.progress, go_on).await?;
        let first = reader.windows.len();
        let read = reader.item(item);
        if let Some(&number) = options.numbers.get(index) {
            Window::number_by(&mut reader.windows[first..], number);
        }
        pieces.push(read.map_err(|source| Error::Item { index, source })?);
    }
    let progress = &mut |done, all| options.progress.go_on(done, all) && go_on();
    let scores = evaluate(engine, &reader.windows, None, &likelihood, progress).await?;
    let scores = scores.ok_or(Error::Stopped)?;
    let scored = pieces.into_iter().map(|pieces| Scored {
        is_cut: pieces.is_cut,
        shortened: pieces.shortened,
        altered: pieces.altered,
        scores: (pieces.texts.into_iter())
            .map(|(windows, bytes)| {
                let all = reader.windows[windows.clone()].iter().map(Window::scored);
                Score::of(&scores[windows], all.sum(), bytes, likelihood.orders > 0)
            })
            .collect(),
    });
    Ok(scored.collect())
}

#[derive(Default)]
struct Pieces {
    /// Windows and bytes of each text.
    texts: Vec<(Range<usize>, usize)>,
    is_cut: bool,
    shortened: usize,
    altered: Option<Altered>,
}

/// Turns texts into windows.
struct Reader<'a> {
    codec: &'a TextCodec,
    config: &'a ModelConfig,
    opening: Option<u32>,
    windows: Vec<Window>,
}

impl Reader<'_> {
    fn encode(&self, text: &str, pieces: &mut Pieces) -> Result<Vec<u32>, ItemError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = self.codec.encode(text)?;
        if pieces.altered.is_none() {
            pieces.altered = self.codec.altered(text, &tokens);
        }
        Ok(tokens)
    }

    fn item(&mut self, item: &ScoreItem) -> Result<Pieces, ItemError> {
        let mut pieces = Pieces::default();
        match item {
            ScoreItem::Text(text) => {
                let first = self.windows.len();
                let tokens = self.encode(text, &mut pieces)?;
                self.windows.extend(documents::alone(
                    &tokens,
                    self.opening,
                    self.config.length,
                    first_is_free(self.config),
                    first as u32,
                ));
                pieces.is_cut = self.windows.len() - first > 1;
                pieces.texts.push((first..self.windows.len(), text.len()));
            }
            ScoreItem::Choices { context, choices } => {
                self.choices(context, choices, &mut pieces)?;
            }
            ScoreItem::Infill {
                prefix,
                middle,
                suffix,
            } => {
                // Each part is tokenized by itself, as in a template.
                let [prefix, middle, suffix] = documents::spaces_after(prefix, middle, suffix);
                let before = self.encode(&prefix, &mut pieces)?;
                let scored = self.encode(&middle, &mut pieces)?;
                let after = self.encode(&suffix, &mut pieces)?;
                self.between(&before, &scored, &after, middle.len(), &mut pieces)?;
            }
        }
        Ok(pieces)
    }

    /// The choices given their context. Context and choice are tokenized as one text, as the model would read them; the
    /// tokens that this shares with the tokens of the context alone are the context.
    fn choices(
        &mut self,
        context: &str,
        choices: &[String],
        pieces: &mut Pieces,
    ) -> Result<(), ItemError> {
        // Tokenizers attach a space to the word that follows it.
        let (context, space) = context.split_at(context.trim_end().len());
        let alone = self.encode(context, pieces)?;
        for choice in choices {
            let whole = self.encode(&format!("{context}{space}{choice}"), pieces)?;
            let same = (alone.iter().zip(&whole)).take_while(|(a, b)| a == b);
            let (before, scored) = whole.split_at(same.count());
            self.between(before, scored, &[], space.len() + choice.len(), pieces)?;
        }
        Ok(())
    }

    /// Adds `scored` tokens between given ones, which are truncated at their far ends if they do not fit.
    fn between(
        &mut self,
        before: &[u32],
        scored: &[u32],
        after: &[u32],
        bytes: usize,
        pieces: &mut Pieces,
    ) -> Result<(), ItemError> {
        let opening = self.opening.into_iter();
        let before: Vec<u32> = opening.chain(before.iter().copied()).collect();
        let at = self.windows.len();
        let (window, is_shortened) = documents::between(
            &before,
            scored,
            after,
            self.config.length,
            first_is_free(self.config),
            at as u32,
        )?;
        pieces.shortened += usize::from(is_shortened);
        pieces.texts.push((at..at + 1, bytes));
        self.windows.push(window);
        Ok(())
    }
}
