//! Likelihoods of texts: the exact log-likelihood in given or random orders, and the NELBO.
//!
//! docs/likelihood.md has the formulas. [`crate::forward_process`] and [`crate::passes`] build the passes; this module
//! runs them in batches and sums up the results. A text's result does not depend on its batch: random numbers are keyed
//! by (seed, number of the text, draw).

mod draws;

use std::ops::Range;
use std::sync::Arc;

use esolm_core::config::{AttentionKind, Family, ModelConfig, Prepend};
use esolm_core::forward_process::draw_time;
use esolm_core::order::is_permutation;
use esolm_core::passes::{Mean, Pass, Window, assemble, autoregressive, exact, log_mean_exp};
use esolm_core::request::{NO_BOS, opens};
use esolm_core::rows::Layout;
use esolm_core::text::TextCodec;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::{Error, LikelihoodError};
use crate::turn::turn;
use draws::{blocks_pass, exact_pass, noised_pass, set_pass};

/// Rows per pass that keep a CPU or a software adapter busy.
const ROWS_CPU: usize = 2048;
/// Rows per pass that keep a GPU busy.
const ROWS_GPU: usize = 8192;
/// Bytes of keys per block that a batch may take, unless set otherwise.
pub(crate) const CACHE_BYTES: usize = 16 << 20;

/// How texts are scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LikelihoodOptions {
    /// Fraction of the tokens that diffusion writes, in [0, 1]. Eso-LMs only.
    pub alpha_0: f64,
    /// Number of orders whose likelihoods the exact likelihood averages; 0 skips it. An AR model has only one order.
    pub orders: u32,
    /// Number of noise draws that the NELBO averages; 0 skips it. AR models have no NELBO.
    pub draws: u32,
    /// Keys all random numbers.
    pub seed: u64,
    /// Texts per pass. Default: as many as keep the device busy.
    pub batch: Option<usize>,
}

/// Default number of draws where single texts are compared by the bound because the model has no exact likelihood.
const DRAWS: u32 = 32;

/// Options of a likelihood. Defaults depend on the model and on the purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Likelihood {
    /// See [`LikelihoodOptions::alpha_0`].
    pub alpha_0: Option<f64>,
    /// See [`LikelihoodOptions::orders`].
    pub orders: Option<u32>,
    /// See [`LikelihoodOptions::draws`].
    pub draws: Option<u32>,
    /// See [`LikelihoodOptions::seed`]. In JSON, a number or a string of digits. Default: 0.
    #[serde(with = "esolm_core::trace::optional_seed")]
    pub seed: Option<u64>,
    /// See [`LikelihoodOptions::batch`].
    pub batch: Option<usize>,
}

/// What a likelihood is used for, which determines its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Scoring single texts: one order from left to right, or the bound if the model has no exact likelihood.
    Score,
    /// Evaluating a corpus: one order drawn with the model's own alpha_0, and the bound.
    Perplexity,
}

/// Upper limit of orders, draws, and texts per pass. Beyond it there are too many passes to list.
const MAX_REPEATS: u32 = 1 << 16;

impl Likelihood {
    fn check_ranges(&self, purpose: Purpose) -> Result<(), Error> {
        let range = |option, value: &dyn ToString, range: String| {
            let value = value.to_string();
            Err(Error::Range {
                option,
                value,
                range,
            })
        };
        if let Some(alpha_0) = self.alpha_0.filter(|a| !(0.0..=1.0).contains(a)) {
            return range("alpha_0", &alpha_0, "from 0 to 1".into());
        }
        // A corpus can do without one of the two figures; a score has only one.
        let least = u32::from(purpose == Purpose::Score);
        for (option, count) in [("orders", self.orders), ("draws", self.draws)] {
            if let Some(count) = count.filter(|n| !(least..=MAX_REPEATS).contains(n)) {
                return range(option, &count, format!("from {least} to {MAX_REPEATS}"));
            }
        }
        match self.batch {
            Some(n) if !(1..=MAX_REPEATS as usize).contains(&n) => {
                range("batch", &n, format!("from 1 to {MAX_REPEATS}"))
            }
            _ => Ok(()),
        }
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`Error::Range`], and [`Error::NotApplicable`] for options that the model's family does not have.
    pub fn resolve(
        &self,
        config: &ModelConfig,
        purpose: Purpose,
    ) -> Result<LikelihoodOptions, Error> {
        self.check_ranges(purpose)?;
        let autoregressive = config.family == Family::Ar;
        let bound = without_exact(config).is_some();
        let score = purpose == Purpose::Score;
        let why = match (config.family, bound) {
            (Family::Ar, _) => "an AR model, whose likelihood is exact in its one order",
            (Family::Mdlm, _) => {
                "an MDLM, which writes all by diffusion and has no exact likelihood"
            }
            (Family::Bd3Lm, true) => {
                "a BD3-LM with blocks of several tokens, which has no exact likelihood"
            }
            (Family::Bd3Lm, false) => {
                "a BD3-LM with blocks of one token, whose likelihood is exact in its one order"
            }
            (Family::SetDlm, _) => "a SetDLM, whose likelihood is exact in each of its orders",
            (Family::EsoLm, true) => "an Eso-LM (A), which has no exact likelihood",
            (Family::EsoLm, false) => "a model with an exact likelihood",
        };
        let has_alpha_0 = |alpha_0| match config.family {
            Family::EsoLm => true,
            Family::Mdlm | Family::Bd3Lm => alpha_0 == 1.0,
            Family::Ar | Family::SetDlm => false,
        };
        // These leave nothing for a bound.
        let only_exact = matches!(config.family, Family::Ar | Family::SetDlm);
        let one_order = matches!(config.family, Family::Ar | Family::Bd3Lm);
        let foreign = [
            ("alpha_0", self.alpha_0.is_some_and(|a| !has_alpha_0(a))),
            (
                "orders",
                self.orders.is_some_and(|n| {
                    bound && n > 0
                        || one_order && n > 1
                        || autoregressive && n != 1
                        || only_exact && n == 0
                }),
            ),
            (
                "draws",
                self.draws
                    .is_some_and(|n| !bound && (score || only_exact && n != 0)),
            ),
        ];
        if let Some(&(option, _)) = foreign.iter().find(|(_, is_foreign)| *is_foreign) {
            return Err(Error::NotApplicable { option, why });
        }
        let default_draws = match (bound, score) {
            (true, true) => DRAWS,
            (false, true) => 0,
            (_, false) => u32::from(!only_exact),
        };
        let alpha_0 = match config.family {
            Family::Mdlm | Family::Bd3Lm | Family::SetDlm => 1.0,
            Family::Ar => 0.0,
            Family::EsoLm if score && !bound => self.alpha_0.unwrap_or(0.0),
            Family::EsoLm => self.alpha_0.or(config.alpha_0).unwrap_or(1.0),
        };
        let orders = if bound { 0 } else { self.orders.unwrap_or(1) };
        if config.family == Family::EsoLm && alpha_0 == 0.0 && orders > 1 {
            return Err(Error::NotApplicable {
                option: "orders",
                why: "alpha_0 = 0, where tokens have only one order",
            });
        }
        Ok(LikelihoodOptions {
            alpha_0,
            orders,
            draws: self.draws.unwrap_or(default_draws),
            seed: self.seed.unwrap_or(0),
            batch: self.batch,
        })
    }
}

/// Callback that receives the numbers of passes done and in total, and may stop the work by returning false. Both
/// numbers are 0 while texts are still being tokenized. The default does nothing.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(usize, usize) -> bool + Send + Sync>>);

impl Progress {
    /// Calls `hear` after each pass, on the model's thread.
    pub fn new(hear: impl Fn(usize, usize) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    pub(crate) fn go_on(&self, done: usize, all: usize) -> bool {
        self.0.as_ref().is_none_or(|hear| hear(done, all))
    }
}

/// Yields to the browser between texts being tokenized, since tokenizing may take longer than scoring.
///
/// # Errors
/// [`Error::Stopped`] if the result is no longer wanted.
pub(crate) async fn between_texts(
    progress: &Progress,
    go_on: &dyn Fn() -> bool,
) -> Result<(), Error> {
    turn().await;
    match progress.go_on(0, 0) && go_on() {
        true => Ok(()),
        false => Err(Error::Stopped),
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// Whether nothing predicts the first token of a window. This is so for a BD3-LM, a SetDLM trained that way, and an AR
/// model with no token prepended.
pub(crate) fn first_is_free(config: &ModelConfig) -> bool {
    match config.family {
        Family::Ar => config.prepend == Prepend::None,
        // Training leaves the first token of every text clean.
        Family::Bd3Lm => true,
        Family::SetDlm => config.sets.is_some_and(|sets| sets.keeps_first),
        Family::EsoLm | Family::Mdlm => false,
    }
}

/// The range of a window's tokens that is scored.
pub(crate) fn scored(config: &ModelConfig, window: &Window) -> Range<usize> {
    let Range { start, end } = window.free;
    let first = usize::from(first_is_free(config)).min(end);
    start.max(first)..end
}

/// The token that begins a document: if `said` asks for one, or, by default, if the model's texts open with it.
pub(crate) fn beginning(
    config: &ModelConfig,
    codec: &TextCodec,
    said: Option<bool>,
) -> Result<Option<u32>, Error> {
    let ends = codec.ends();
    let token = ends.bos.or(ends.eos);
    if said == Some(true) && token.is_none() {
        let option = "bos";
        return Err(Error::NotApplicable {
            option,
            why: NO_BOS,
        });
    }
    let opens = said.unwrap_or_else(|| opens(config, Some(codec)));
    Ok(token.filter(|_| opens))
}

/// As [`beginning`], for a document scored by itself: none if the model already reads a token before every text.
pub(crate) fn opening(
    config: &ModelConfig,
    codec: &TextCodec,
    said: Option<bool>,
) -> Result<Option<u32>, Error> {
    let token = beginning(config, codec, said)?;
    Ok(token.filter(|_| config.prepend == Prepend::None))
}

/// Likelihood of a text, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextScore {
    /// Tokens that were scored.
    pub tokens: usize,
    /// The diffusion part of the NELBO, averaged over the draws; 0 if there is none.
    pub diffusion: f64,
    /// The sequential part of the NELBO.
    pub sequential: f64,
    /// log p(x | order) for each order.
    pub log_p: Vec<f64>,
}

impl TextScore {
    /// The NELBO: in expectation, an upper bound of -log p(x).
    pub fn nelbo(&self) -> f64 {
        self.diffusion + self.sequential
    }

    /// log p(x): exact if there are orders, otherwise the lower bound.
    pub fn log_likelihood(&self) -> f64 {
        self.exact().unwrap_or_else(|| -self.nelbo())
    }

    /// log((1/K) sum over K orders of p(x | order)), if there are orders.
    pub fn exact(&self) -> Option<f64> {
        (!self.log_p.is_empty()).then(|| log_mean_exp(&self.log_p))
    }
}

/// Means over texts, in nats per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Tokens that were scored.
    pub tokens: usize,
    /// The diffusion part of the NELBO.
    pub diffusion: Mean,
    /// The sequential part of the NELBO.
    pub sequential: Mean,
    /// The NELBO.
    pub nelbo: Mean,
    /// -log p(x), if every text has an exact one.
    pub exact: Option<Mean>,
}

impl Summary {
    /// Means over all texts, with standard errors over texts.
    pub fn of(scores: &[TextScore]) -> Self {
        let tokens: Vec<usize> = scores.iter().map(|s| s.tokens).collect();
        let mean = |value: &dyn Fn(&TextScore) -> f64| {
            let values: Vec<f64> = scores.iter().map(value).collect();
            Mean::of(&values, &tokens)
        };
        let all: Option<Vec<f64>> = scores.iter().map(TextScore::exact).collect();
        Self {
            tokens: tokens.iter().sum(),
            diffusion: mean(&|s| s.diffusion),
            sequential: mean(&|s| s.sequential),
            nelbo: mean(&TextScore::nelbo),
            exact: all.map(|all| {
                let nll: Vec<f64> = all.iter().map(|log_p| -log_p).collect();
                Mean::of(&nll, &tokens)
            }),
        }
    }
}

/// The reason why a model has no exact likelihood in any order, or `None` if it has one. Causal attention makes it
/// exact.
pub fn without_exact(config: &ModelConfig) -> Option<&'static str> {
    match (config.family, config.attention) {
        (Family::Mdlm, _) => Some("an MDLM"),
        (Family::Bd3Lm, _) => match config.block_size {
            // Every token sees exactly the clean tokens before it.
            Some(1) => None,
            _ => Some("a BD3-LM with blocks of several tokens"),
        },
        (Family::EsoLm, AttentionKind::Causal) | (Family::Ar | Family::SetDlm, _) => None,
        (Family::EsoLm, _) => Some("an Eso-LM (A)"),
    }
}

/// The quantity of a text that a pass contributes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exact,
    Diffusion,
    Sequential,
}

/// One pass over one text, for the order or draw numbered `draw`.
#[derive(Clone, Copy)]
struct Job {
    kind: Kind,
    text: u32,
    draw: u32,
}

/// Scores `windows` one by one. `orders`, if given, has one order per text, used instead of random ones. `progress`
/// receives the numbers of passes done and in total; returning false stops the run, and there is no result.
pub async fn evaluate(
    engine: &mut Engine,
    windows: &[Window],
    orders: Option<&[Vec<u32>]>,
    options: &LikelihoodOptions,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Vec<TextScore>>, LikelihoodError> {
    let config = engine.config().clone();
    check(&config, windows, orders, options)?;
    let prepended = prepended(&config)?;
    let jobs = jobs(&config, windows, orders.is_some(), options);
    let mut scores = vec![TextScore::default(); windows.len()];
    for (score, window) in scores.iter_mut().zip(windows) {
        score.tokens = scored(&config, window).len();
    }
    let layout = layout(engine, windows, options.batch, jobs.len());
    // Reserves the batch's cache; each pass asks for the rest once its rows are known.
    engine.prepare(&layout, 0, 0)?;
    let shift = draw_time(options.seed, 0, 0);
    let mut done = 0;
    for batch in jobs.chunks(layout.sequences) {
        let passes: Vec<Pass> = batch
            .iter()
            .map(|job| {
                let window = &windows[job.text as usize];
                let order = orders.map(|orders| &orders[job.text as usize][..]);
                let free = scored(&config, window);
                match (config.family, job.kind) {
                    (Family::Ar, _) => autoregressive(&window.tokens, free, prepended),
                    (Family::Bd3Lm, Kind::Exact) => {
                        let order: Vec<u32> = (0..window.tokens.len() as u32).collect();
                        exact(&window.tokens, &order, free.start)
                    }
                    (Family::SetDlm, _) => set_pass(window, order, job.draw, &config, options),
                    (Family::Bd3Lm, _) => blocks_pass(window, *job, &config, shift, options),
                    (_, Kind::Exact) => exact_pass(window, order, job.draw, options),
                    _ => noised_pass(window, *job, &config, shift, options),
                }
            })
            .collect();
        let (tokens, step, targets) = assemble(&passes, &layout);
        if !targets.is_empty() {
            engine.start(&layout, &tokens)?;
            let all = engine.score(&step, &targets).await?;
            let mut rest = &all[..];
            for (job, pass) in batch.iter().zip(&passes) {
                let (own, others) = rest.split_at(pass.scored.len());
                rest = others;
                let log_p = pass.total(own);
                if !log_p.is_finite() {
                    let text = job.text as usize;
                    return Err(LikelihoodError::NotFinite { text });
                }
                add(&mut scores[job.text as usize], job.kind, log_p, options);
            }
        } else {
            for job in batch {
                add(&mut scores[job.text as usize], job.kind, 0.0, options);
            }
        }
        done += batch.len();
        turn().await;
        if !progress(done, jobs.len()) {
            return Ok(None);
        }
    }
    Ok(Some(scores))
}

fn add(score: &mut TextScore, kind: Kind, log_p: f64, options: &LikelihoodOptions) {
    let share = 1.0 / f64::from(options.draws.max(1));
    match kind {
        Kind::Exact => score.log_p.push(log_p),
        Kind::Diffusion => score.diffusion -= share * log_p,
        Kind::Sequential => score.sequential -= share * log_p,
    }
}

fn check(
    config: &ModelConfig,
    windows: &[Window],
    orders: Option<&[Vec<u32>]>,
    options: &LikelihoodOptions,
) -> Result<(), LikelihoodError> {
    if let Some(what) = without_exact(config)
        && options.orders > 0
    {
        return Err(LikelihoodError::NoExact(what));
    }
    for (text, window) in windows.iter().enumerate() {
        let vocab = config.vocab_size;
        let outside = |&&token: &&u32| token as usize >= vocab || token == config.mask_index;
        if let Some(&token) = window.tokens.iter().find(outside) {
            return Err(LikelihoodError::Token { text, token, vocab });
        }
        if let Some(orders) = orders {
            let order = orders.get(text).map_or(&[][..], Vec::as_slice);
            let length = window.tokens.len();
            if order.len() != length || !is_permutation(order) {
                return Err(LikelihoodError::Order { text, length });
            }
            if first_is_free(config) && order.first().is_some_and(|&first| first != 0) {
                return Err(LikelihoodError::FirstOfOrder { text });
            }
        }
    }
    Ok(())
}

/// The token that an AR model reads before a text.
pub(crate) fn prepended(config: &ModelConfig) -> Result<Option<u32>, LikelihoodError> {
    match config.prepend {
        Prepend::None => Ok(None),
        Prepend::Mask => Ok(Some(config.mask_index)),
        Prepend::Bos => config.bos.map(Some).ok_or(LikelihoodError::NoBos),
    }
}

/// All passes that are needed, text by text, so that the passes of a batch are of similar length.
fn jobs(
    config: &ModelConfig,
    windows: &[Window],
    given_orders: bool,
    options: &LikelihoodOptions,
) -> Vec<Job> {
    let orders = match config.family {
        Family::Ar | Family::Bd3Lm => options.orders.min(1),
        _ if given_orders => options.orders.min(1),
        _ => options.orders,
    };
    let draws = |kind| match (config.family, kind) {
        (Family::Ar | Family::SetDlm, _) => 0,
        (Family::Mdlm | Family::Bd3Lm, Kind::Sequential) => 0,
        (Family::EsoLm, Kind::Diffusion) if options.alpha_0 == 0.0 => 0,
        (Family::EsoLm, Kind::Sequential) if options.alpha_0 == 1.0 => 0,
        _ => options.draws,
    };
    let kinds = [
        (Kind::Exact, orders),
        (Kind::Diffusion, draws(Kind::Diffusion)),
        (Kind::Sequential, draws(Kind::Sequential)),
    ];
    let mut jobs = Vec::new();
    for (kind, repeats) in kinds {
        for text in 0..windows.len() as u32 {
            jobs.extend((0..repeats).map(|draw| Job { kind, text, draw }));
        }
    }
    jobs
}

/// Rows per pass that keep the engine's device busy.
pub(crate) fn busy_rows(engine: &Engine) -> usize {
    let device = engine.device();
    let real_gpu = device.adapter.is_some() && !device.is_software();
    if real_gpu { ROWS_GPU } else { ROWS_CPU }
}

/// The layout shared by all batches, so that caches are allocated once. It has room for at most `passes` sequences.
fn layout(engine: &Engine, windows: &[Window], batch: Option<usize>, passes: usize) -> Layout {
    let longest = windows
        .iter()
        .map(|w| w.tokens.len())
        .max()
        .unwrap_or(0)
        .max(1);
    let tokens: usize = windows.iter().map(|w| w.tokens.len()).sum();
    let mean = (2 * tokens).div_ceil(windows.len().max(1)).max(1);
    let slots = 2 * longest;
    let rows = busy_rows(engine);
    let cached = slots * engine.config().hidden * 4;
    let sequences = batch.unwrap_or_else(|| (rows / mean).min(CACHE_BYTES / cached));
    let sequences = sequences.min(passes).max(1);
    Layout {
        sequences,
        slots,
        tokens: sequences * longest,
    }
}
