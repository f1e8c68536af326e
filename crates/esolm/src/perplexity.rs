//! How well a model predicts a corpus: nats and bits a token, bits a byte, perplexity.

use std::f64::consts::LN_2;
use std::ops::Range;

use esolm_core::config::{Family, ModelConfig};
use esolm_core::documents;
use esolm_core::passes::{Mean, Window};
use esolm_core::text::{Altered, TextCodec, TextError};
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

/// What is measured on.
#[derive(Clone, Debug)]
pub enum Corpus {
    /// Texts, one a document.
    Documents(Vec<String>),
    /// Sequences of tokens.
    Tokens {
        /// Tokens `[N, L]`.
        tokens: Vec<Vec<u32>>,
        /// The order of each sequence `[N, L]`, instead of drawn ones.
        orders: Option<Vec<Vec<u32>>>,
    },
}

/// How a corpus is cut and scored.
#[derive(Clone, Debug, Default)]
pub struct PerplexityOptions {
    /// Orders, draws and seed.
    pub likelihood: Likelihood,
    /// Tokens of a window. Default: the model's context.
    pub length: Option<usize>,
    /// Measure on the first windows alone.
    pub max_windows: Option<usize>,
    /// Leave out documents with characters beyond ASCII.
    pub ascii_only: bool,
    /// Score each document by itself, given its opening token, instead of packing them without gaps.
    pub per_document: bool,
    /// Whether documents open with the beginning-of-text token. Default: as of [`ScoreOptions::bos`](crate::ScoreOptions::bos); packed ones
    /// are then divided by the token all the same.
    pub bos: Option<bool>,
    /// Numbers of documents that are scored by themselves, one for each, which key their random numbers whatever they are scored with. Where
    /// there are none, windows are numbered as they come.
    pub numbers: Vec<u32>,
    /// Hears how far it is.
    pub progress: Progress,
}

/// A quantity in every unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Nats a token.
    pub nats_per_token: f64,
    /// Its standard error over windows, where there are several.
    pub standard_error: Option<f64>,
    /// Bits a token.
    pub bits_per_token: f64,
    /// Bits a byte of the documents' text, where there is text.
    pub bits_per_byte: Option<f64>,
    /// Perplexity a token.
    pub ppl: f64,
}

/// The bound, in its two parts and in all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nelbo {
    /// The diffusion part, nats a token.
    pub diffusion: f64,
    /// The sequential part, nats a token.
    pub sequential: f64,
    /// Both.
    pub total: Figure,
    /// The two parts in every unit.
    #[serde(skip)]
    pub parts: [Figure; 2],
}

/// What a corpus measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Share of the tokens that diffusion writes.
    pub alpha_0: f64,
    /// Orders of the exact likelihood.
    pub orders: u32,
    /// Draws of the bound.
    pub draws: u32,
    /// Seed of both.
    pub seed: u64,
    /// Windows that were scored.
    pub windows: usize,
    /// Tokens of a full window.
    pub length: usize,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Bytes of the documents' text in the windows; nothing for given tokens.
    pub bytes: Option<usize>,
    /// Documents whose text is in the windows; none for given tokens.
    pub documents: usize,
    /// Documents that were left out for their characters.
    pub dropped_documents: usize,
    /// Documents whose words the tokenizer does not keep: what it makes of them is scored.
    #[serde(default)]
    pub altered_documents: usize,
    /// The bound, where it was computed.
    pub nelbo: Option<Nelbo>,
    /// The exact likelihood, where it was computed.
    pub exact: Option<Figure>,
    /// Seconds that it took, without loading.
    pub seconds: f64,
    /// The score of each document scored by itself, with its number in the corpus.
    #[serde(skip)]
    pub per_document: Vec<(usize, Score)>,
    /// The first of the altered documents, by its number in the corpus, and what the tokenizer made of it.
    #[serde(skip)]
    pub altered: Option<(usize, Altered)>,
    /// What each window scored.
    #[serde(skip)]
    pub per_window: Vec<TextScore>,
    /// Text of the token that opens every document, if one does.
    #[serde(skip)]
    pub opening: Option<String>,
    /// Tokens of the last window.
    #[serde(skip)]
    pub last_window: usize,
}

/// A document that was read.
struct Document {
    /// Its number in the corpus, left out ones counted.
    index: usize,
    /// Bytes of its text, of the part that is scored.
    bytes: usize,
    /// Its windows, where it is scored by itself.
    windows: Option<Range<usize>>,
}

/// A corpus as windows.
#[derive(Default)]
struct Cut {
    windows: Vec<Window>,
    orders: Option<Vec<Vec<u32>>>,
    documents: Vec<Document>,
    dropped: usize,
    /// How many the tokenizer changed, and the first of them.
    altered: (usize, Option<(usize, Altered)>),
    bytes: Option<usize>,
    opening: Option<String>,
}

impl PerplexityOptions {
    /// Checks what needs neither the tokenizer nor the network.
    ///
    /// # Errors
    /// For options that are foreign to the family or leave nothing to compute, too long windows, and a corpus without documents.
    pub fn check(&self, config: &ModelConfig, corpus: &Corpus) -> Result<(), Error> {
        self.resolve(config, corpus).map(drop)
    }

    fn resolve(&self, config: &ModelConfig, corpus: &Corpus) -> Result<LikelihoodOptions, Error> {
        let likelihood = self.likelihood.resolve(config, Purpose::Perplexity)?;
        if likelihood.orders == 0 && likelihood.draws == 0 {
            return Err(Error::NothingToCompute);
        }
        let context = config.length;
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

    /// Given orders are for a model with an exact likelihood in any order, and for one order.
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

/// Measures; `go_on` is asked between passes.
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
        // Nats a token times tokens a byte, of all tokens of the text: where nothing predicts the first token of a window, it counts
        // as much as the others.
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
            let own = &per_window[document.windows.clone()?];
            let score = Score::of(own, document.bytes, options.orders > 0);
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

/// How documents become windows.
struct Reader<'a> {
    codec: &'a TextCodec,
    config: &'a ModelConfig,
    options: &'a PerplexityOptions,
    length: usize,
    go_on: &'a dyn Fn() -> bool,
}

impl Reader<'_> {
    /// A document's tokens, unless nobody wants them any more.
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

    /// All documents put together, as many tokens of them as the first `max_windows` windows hold.
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
