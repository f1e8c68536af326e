//! How well a model predicts a corpus: nats and bits per token, bits per byte, perplexity.

use std::f64::consts::LN_2;
use std::ops::Range;

use esolm_core::config::{Family, ModelConfig};
use esolm_core::documents;
use esolm_core::passes::{Mean, Window};
use esolm_core::text::{Altered, TextCodec, TextError};
use esolm_core::trace;
use serde::{Deserialize, Serialize};
use web_time::Instant;

use crate::engine::Engine;
use crate::error::{Error, ItemError};
use crate::files::Shared;
use crate::likelihood::{
    Likelihood, LikelihoodOptions, Progress, Purpose, Summary, TextScore, beginning, between_texts,
    evaluate, first_is_free, opening,
};
use crate::score::Score;

/// The data to evaluate on.
#[derive(Clone, Debug)]
pub enum Corpus {
    /// Texts, one per document.
    Documents(Vec<String>),
    /// Token sequences.
    Tokens {
        /// Tokens `[N, L]`.
        tokens: Vec<Vec<u32>>,
        /// One order per sequence `[N, L]`, used instead of random ones.
        orders: Option<Vec<Vec<u32>>>,
    },
}

/// How a corpus is split into windows and scored.
#[derive(Clone, Debug, Default)]
pub struct PerplexityOptions {
    /// Orders, draws and seed.
    pub likelihood: Likelihood,
    /// Tokens per window. Default: the model's context.
    pub length: Option<usize>,
    /// Use only the first windows.
    pub max_windows: Option<usize>,
    /// Skip documents with non-ASCII characters.
    pub ascii_only: bool,
    /// Score each document by itself, given its opening token, instead of packing documents into windows without gaps.
    pub per_document: bool,
    /// Whether documents open with the beginning-of-text token. Default: as for
    /// [`ScoreOptions::bos`](crate::ScoreOptions::bos), except that packed documents are always separated by the token.
    pub bos: Option<bool>,
    /// With `per_document`, one number per document, which keys its random numbers regardless of what else is scored.
    /// If empty, windows are numbered consecutively.
    pub numbers: Vec<u32>,
    /// Receives progress.
    pub progress: Progress,
}

/// A quantity in every unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Nats per token.
    pub nats_per_token: f64,
    /// Standard error of `nats_per_token` over windows, if there are several.
    pub standard_error: Option<f64>,
    /// Bits per token.
    pub bits_per_token: f64,
    /// Bits per byte of the documents' text, if there is text.
    pub bits_per_byte: Option<f64>,
    /// Perplexity per token.
    pub ppl: f64,
}

/// The bound: its two parts, and their sum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nelbo {
    /// The diffusion part, in nats per token.
    pub diffusion: f64,
    /// The sequential part, in nats per token.
    pub sequential: f64,
    /// The sum.
    pub total: Figure,
    /// The two parts in every unit.
    #[serde(skip)]
    pub parts: [Figure; 2],
}

/// Results on a corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Fraction of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// Orders of the exact likelihood.
    pub orders: u32,
    /// Draws of the bound.
    pub draws: u32,
    /// Seed of orders and draws.
    #[serde(with = "trace::seed")]
    pub seed: u64,
    /// Windows that were scored.
    pub windows: usize,
    /// Tokens per full window.
    pub length: usize,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Bytes of the documents' text in the windows; `None` for given tokens.
    pub bytes: Option<usize>,
    /// Documents whose text is in the windows; 0 for given tokens.
    pub documents: usize,
    /// Documents skipped for non-ASCII characters.
    pub dropped_documents: usize,
    /// Documents that the tokenizer does not preserve; the altered text is what was scored.
    #[serde(default)]
    pub altered_documents: usize,
    /// The bound, if computed.
    pub nelbo: Option<Nelbo>,
    /// The exact likelihood, if computed.
    pub exact: Option<Figure>,
    /// Seconds taken, excluding loading.
    pub seconds: f64,
    /// With `per_document`, the score of each document and its number in the corpus.
    #[serde(skip)]
    pub per_document: Vec<(usize, Score)>,
    /// The first altered document: its number in the corpus, and what the tokenizer made of it.
    #[serde(skip)]
    pub altered: Option<(usize, Altered)>,
    /// The score of each window.
    #[serde(skip)]
    pub per_window: Vec<TextScore>,
    /// Text of the token that opens every document, if there is one.
    #[serde(skip)]
    pub opening: Option<String>,
    /// Tokens of the last window.
    #[serde(skip)]
    pub last_window: usize,
}

/// A document that was read.
struct Document {
    /// Its number in the corpus, including skipped documents.
    index: usize,
    /// Bytes of the part of its text that is scored.
    bytes: usize,
    /// Its windows, if it is scored by itself.
    windows: Option<Range<usize>>,
}

/// A corpus split into windows.
#[derive(Default)]
struct Cut {
    windows: Vec<Window>,
    orders: Option<Vec<Vec<u32>>>,
    documents: Vec<Document>,
    dropped: usize,
    /// Number of documents that the tokenizer altered, and the first of them.
    altered: (usize, Option<(usize, Altered)>),
    bytes: Option<usize>,
    opening: Option<String>,
}

impl PerplexityOptions {
    /// Checks everything that needs neither the tokenizer nor the network.
    ///
    /// # Errors
    /// If an option does not apply to the family, the options leave nothing to compute, windows are empty or too long,
    /// or the corpus has no documents.
    pub fn check(&self, config: &ModelConfig, corpus: &Corpus) -> Result<(), Error> {
        self.resolve(config, corpus).map(drop)
    }

    fn resolve(&self, config: &ModelConfig, corpus: &Corpus) -> Result<LikelihoodOptions, Error> {
        let likelihood = self.likelihood.resolve(config, Purpose::Perplexity)?;
        if likelihood.orders == 0 && likelihood.draws == 0 {
            return Err(Error::NothingToCompute);
        }
        let context = config.length;
        let counts = [("length", self.length), ("max_windows", self.max_windows)];
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err(Error::Range {
                option,
                value: "0".into(),
                range: "at least 1".into(),
            });
        }
        match corpus {
            Corpus::Tokens { tokens, orders } => {
                let length = tokens.iter().map(Vec::len).max().unwrap_or(0);
                if length > context {
                    return Err(Error::LongSequences { length, context });
                }
                if let Some(orders) = orders {
                    self.check_orders(config, tokens.len(), orders.len(), &likelihood)?;
                }
            }
            Corpus::Documents(documents) => {
                let length = self.length.unwrap_or(context);
                if length > context {
                    return Err(Error::Context { length, context });
                }
                if !documents.iter().any(|document| self.keeps(document)) {
                    let dropped = documents.len();
                    return Err(Error::NoDocument { dropped });
                }
            }
        }
        Ok(likelihood)
    }

    /// Given orders need a model with an exact likelihood in any order, and allow only one order per sequence.
    fn check_orders(
        &self,
        config: &ModelConfig,
        sequences: usize,
        orders: usize,
        likelihood: &LikelihoodOptions,
    ) -> Result<(), Error> {
        let not = |option, why| Err(Error::NotApplicable { option, why });
        if orders != sequences {
            return Err(Error::Orders { orders, sequences });
        }
        if self.likelihood.orders.is_some_and(|n| n > 1) {
            return not("orders", "sequences that come with an order each");
        }
        match config.family {
            Family::Ar => not("sort_idx", "an AR model, which has one order"),
            Family::Mdlm => not("sort_idx", "an MDLM, which has no exact likelihood"),
            Family::Bd3Lm => not("sort_idx", "a BD3-LM, whose blocks go left to right"),
            Family::EsoLm | Family::SetDlm if likelihood.orders == 0 => {
                not("sort_idx", "a run without the exact likelihood")
            }
            Family::EsoLm | Family::SetDlm => Ok(()),
        }
    }

    fn keeps(&self, document: &str) -> bool {
        !self.ascii_only || document.is_ascii()
    }
}

/// Evaluates a corpus; `go_on` is asked between passes.
pub(crate) async fn measure(
    engine: &mut Engine,
    shared: &Shared,
    corpus: Corpus,
    options: &PerplexityOptions,
    go_on: &dyn Fn() -> bool,
) -> Result<Perplexity, Error> {
    let config = &shared.config;
    let likelihood = options.resolve(config, &corpus)?;
    let (cut, length) = match corpus {
        Corpus::Tokens { tokens, orders } => {
            let length = tokens.first().map_or(0, Vec::len);
            (Cut::tokens(tokens, orders, options), length)
        }
        Corpus::Documents(documents) => {
            let length = options.length.unwrap_or(config.length);
            let reader = Reader {
                codec: shared.codec()?,
                config,
                options,
                length,
                go_on,
            };
            let cut = match options.per_document {
                true => reader.alone(&documents).await?,
                false => reader.packed(&documents).await?,
            };
            (cut, length)
        }
    };
    let unpredicted = usize::from(first_is_free(config));
    if cut.windows.iter().all(|w| w.tokens.len() <= unpredicted) {
        return Err(Error::NoToken);
    }
    let began = Instant::now();
    let progress = &mut |done, all| options.progress.go_on(done, all) && go_on();
    let orders = cut.orders.as_deref();
    let scores = evaluate(engine, &cut.windows, orders, &likelihood, progress).await?;
    let scores = scores.ok_or(Error::Stopped)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(cut.report(scores, &likelihood, length, seconds))
}

impl Cut {
    fn tokens(
        mut tokens: Vec<Vec<u32>>,
        mut orders: Option<Vec<Vec<u32>>>,
        options: &PerplexityOptions,
    ) -> Self {
        let most = options.max_windows.unwrap_or(usize::MAX);
        tokens.truncate(most);
        if let Some(orders) = &mut orders {
            orders.truncate(most);
        }
        let windows = (0..).zip(tokens);
        Self {
            windows: windows
                .map(|(n, tokens)| Window::whole(tokens, n))
                .collect(),
            orders,
            ..Self::default()
        }
    }

    fn report(
        self,
        per_window: Vec<TextScore>,
        options: &LikelihoodOptions,
        length: usize,
        seconds: f64,
    ) -> Perplexity {
        let summary = Summary::of(&per_window);
        // Nats per token times tokens per byte, over all tokens of the text: a first token of a window that nothing
        // predicts counts like the others.
        let text_tokens: usize = self.windows.iter().map(Window::scored).sum();
        let per_byte = (self.bytes)
            .filter(|&bytes| bytes > 0)
            .map(|bytes| text_tokens as f64 / bytes as f64);
        let figure = |mean: Mean| Figure {
            nats_per_token: mean.per_token,
            standard_error: mean.standard_error,
            bits_per_token: mean.per_token / LN_2,
            bits_per_byte: per_byte.map(|ratio| mean.per_token / LN_2 * ratio),
            ppl: mean.per_token.exp(),
        };
        let per_document = self.documents.iter().filter_map(|document| {
            let windows = document.windows.clone()?;
            let all = self.windows[windows.clone()].iter().map(Window::scored);
            let own = &per_window[windows];
            let score = Score::of(own, all.sum(), document.bytes, options.orders > 0);
            Some((document.index, score))
        });
        Perplexity {
            alpha_0: options.alpha_0,
            orders: options.orders,
            draws: options.draws,
            seed: options.seed,
            windows: self.windows.len(),
            length,
            tokens: summary.tokens,
            bytes: self.bytes,
            documents: self.documents.len(),
            dropped_documents: self.dropped,
            altered_documents: self.altered.0,
            nelbo: (options.draws > 0).then(|| Nelbo {
                diffusion: summary.diffusion.per_token,
                sequential: summary.sequential.per_token,
                total: figure(summary.nelbo),
                parts: [figure(summary.diffusion), figure(summary.sequential)],
            }),
            exact: summary.exact.map(figure),
            seconds,
            per_document: per_document.collect(),
            altered: self.altered.1,
            per_window,
            opening: self.opening,
            last_window: self.windows.last().map_or(0, |window| window.tokens.len()),
        }
    }
}

/// Turns documents into windows.
struct Reader<'a> {
    codec: &'a TextCodec,
    config: &'a ModelConfig,
    options: &'a PerplexityOptions,
    length: usize,
    go_on: &'a dyn Fn() -> bool,
}

impl Reader<'_> {
    /// A document's tokens.
    async fn encode(&self, index: usize, document: &str, cut: &mut Cut) -> Result<Vec<u32>, Error> {
        between_texts(&self.options.progress, self.go_on).await?;
        let tokens = self.codec.encode(document).map_err(item(index))?;
        if let Some(altered) = self.codec.altered(document, &tokens) {
            cut.altered.0 += 1;
            cut.altered.1.get_or_insert((index, altered));
        }
        Ok(tokens)
    }

    fn text_of(&self, opening: Option<u32>) -> Option<String> {
        opening.map(|token| self.codec.decode(&[token]))
    }

    /// All documents concatenated, up to the tokens that the first `max_windows` windows hold.
    async fn packed(&self, all: &[String]) -> Result<Cut, Error> {
        let most = (self.options.max_windows).and_then(|windows| windows.checked_mul(self.length));
        let said = self.options.bos;
        let opening = beginning(self.config, self.codec, said)?;
        let between = beginning(self.config, self.codec, said.or(Some(true))).unwrap_or_default();
        let mut stream: Vec<u32> = Vec::new();
        let mut cut = Cut {
            opening: self.text_of(opening),
            ..Cut::default()
        };
        for (index, document) in all.iter().enumerate() {
            if most.is_some_and(|most| stream.len() >= most) {
                break;
            }
            if !self.options.keeps(document) {
                cut.dropped += 1;
                continue;
            }
            stream.extend(match cut.documents.is_empty() {
                true => opening,
                false => between,
            });
            let mut tokens = self.encode(index, document, &mut cut).await?;
            let mut bytes = document.len();
            let left = most.map_or(usize::MAX, |most| most.saturating_sub(stream.len()));
            if tokens.len() > left {
                tokens.truncate(left);
                bytes = self.codec.covered(document, left).map_err(item(index))?;
            }
            stream.extend(tokens);
            cut.documents.push(Document {
                index,
                bytes,
                windows: None,
            });
        }
        cut.windows = documents::windows(&stream, self.length);
        cut.bytes = Some(cut.documents.iter().map(|document| document.bytes).sum());
        Ok(cut)
    }

    /// Each document by itself.
    async fn alone(&self, all: &[String]) -> Result<Cut, Error> {
        let opening = opening(self.config, self.codec, self.options.bos)?;
        let overlap = first_is_free(self.config);
        let mut cut = Cut {
            opening: self.text_of(opening),
            ..Cut::default()
        };
        for (index, document) in all.iter().enumerate() {
            if !self.options.keeps(document) {
                cut.dropped += 1;
                continue;
            }
            let tokens = self.encode(index, document, &mut cut).await?;
            let first = cut.windows.len();
            let mut windows =
                documents::alone(&tokens, opening, self.length, overlap, first as u32);
            if let Some(&number) = self.options.numbers.get(index) {
                Window::number_by(&mut windows, number);
            }
            cut.windows.extend(windows);
            cut.documents.push(Document {
                index,
                bytes: document.len(),
                windows: Some(first..cut.windows.len()),
            });
        }
        cut.bytes = Some(cut.documents.iter().map(|document| document.bytes).sum());
        Ok(cut)
    }
}

/// The error of a document.
fn item(index: usize) -> impl Fn(TextError) -> Error {
    move |error| Error::Item {
        index,
        source: ItemError::Text(error),
    }
}
