//! Log-probabilities of given tokens: groups of texts, one pass per group. When serving, they run alongside the running batch.

use std::ops::Range;

use async_channel::Sender;
use esolm_core::config::{Family, ModelConfig};
use esolm_core::passes::{Pass, Window, assemble, autoregressive, exact};
use esolm_core::rows::Layout;

use super::log_probs::{LogProb, log_prob};
use super::{LOGITS_BYTES, ServingError};
use crate::engine::Engine;
use crate::error::{EngineError, Error, LikelihoodError};
use crate::executor::TOKEN_ALIGN;
use crate::likelihood::{
    CACHE_BYTES, Likelihood, Purpose, busy_rows, prepended, scored, without_exact,
};
use crate::turn::turn;

/// A request for the log-probabilities of given tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Echo {
    /// The tokens, at most the context length.
    pub tokens: Vec<u32>,
    /// The first this many tokens are given, not scored.
    pub given: usize,
    /// Fraction of the tokens that are scored in a random order, in [0, 1]; the rest follow from left to right. Eso-LMs
    /// only. Default: 0, all from left to right.
    pub alpha_0: Option<f64>,
    /// Keys the random order.
    pub seed: u64,
    /// How many of the most likely tokens to report along with each token.
    pub top: usize,
}

impl Echo {
    /// Checks that a model can score this.
    ///
    /// # Errors
    /// If the model has no exact likelihood, an option is out of range or does not apply to its family, or the tokens
    /// do not fit it.
    pub(super) fn check(&self, config: &ModelConfig) -> Result<(), Error> {
        if config.family == Family::SetDlm {
            return Err(Error::NotApplicable {
                option: "echo",
                why: "a SetDLM, whose tokens are scored set by set",
            });
        }
        if let Some(what) = without_exact(config) {
            return Err(LikelihoodError::NoExact(what).into());
        }
        let likelihood = Likelihood {
            alpha_0: self.alpha_0,
            ..Likelihood::default()
        };
        likelihood.resolve(config, Purpose::Score)?;
        prepended(config)?;
        let (length, context) = (self.tokens.len(), config.length);
        if length > context {
            return Err(Error::LongSequences { length, context });
        }
        let vocab = config.vocab_size;
        let outside = |&&token: &&u32| token as usize >= vocab || token == config.mask_index;
        match self.tokens.iter().find(outside) {
            None => Ok(()),
            Some(&token) => {
                let text = 0;
                Err(LikelihoodError::Token { text, token, vocab }.into())
            }
        }
    }

    /// The pass that predicts the tokens, and the position of each prediction.
    fn pass(&self, config: &ModelConfig) -> Result<(Pass, Vec<usize>), Error> {
        let window = Window {
            free: self.given.min(self.tokens.len())..self.tokens.len(),
            tokens: self.tokens.clone(),
            number: 0,
        };
        let free: Range<usize> = scored(config, &window);
        if free.is_empty() {
            return Ok((Pass::default(), Vec::new()));
        }
        if config.family == Family::Ar {
            let pass = autoregressive(&window.tokens, free, prepended(config)?);
            let places = pass.scored.iter().map(|s| s.place as usize).collect();
            return Ok((pass, places));
        }
        let order = match config.family {
            Family::Bd3Lm => (0..window.tokens.len() as u32).collect(),
            _ => window.order(self.seed, 0, self.alpha_0.unwrap_or(0.0)),
        };
        let given = match config.family {
            Family::Bd3Lm => free.start,
            _ => window.tokens.len() - window.scored(),
        };
        let pass = exact(&window.tokens, &order, given);
        let places = (pass.scored.iter())
            .map(|s| order[s.place as usize] as usize)
            .collect();
        Ok((pass, places))
    }
}

/// Result for each token of an [`Echo`]: `None` if it is given, or if nothing precedes it.
pub type Echoed = Vec<Option<LogProb>>;

/// An [`Echo`] and the channel to its caller.
pub(super) struct EchoJob {
    pub echo: Echo,
    pub told: Sender<Result<Echoed, ServingError>>,
    /// Run it alone, because the device failed the first time.
    pub is_alone: bool,
}

impl EchoJob {
    pub fn tell(&self, told: Result<Echoed, ServingError>) {
        // The receiver may be gone.
        let _ = self.told.try_send(told);
    }
}

/// How many of the first of these texts share a pass. Beside each stands whether it is to have one of its own.
pub(super) fn group<'a>(
    engine: &Engine,
    echoes: impl IntoIterator<Item = (&'a Echo, bool)>,
) -> usize {
    let config = engine.config();
    let most_rows = busy_rows(engine);
    let most_logits = LOGITS_BYTES / (4 * config.vocab_size);
    let (mut count, mut tokens, mut longest) = (0, 0, 0);
    for (echo, is_alone) in echoes {
        let own = echo.tokens.len();
        tokens += own;
        longest = own.max(longest);
        let layout = layout(count + 1, longest);
        let cached = layout.sequences * layout.slots * config.hidden * 4;
        let is_much = 2 * tokens > most_rows || tokens > most_logits || cached > CACHE_BYTES;
        if count > 0 && (is_alone || is_much) {
            break;
        }
        count += 1;
        if is_alone {
            break;
        }
    }
    count
}

/// The layout of a pass of `texts` texts. Sizes are rounded up to powers of two, so that caches can often be reused.
fn layout(texts: usize, longest: usize) -> Layout {
    let (sequences, tokens) = (texts.next_power_of_two(), longest.next_power_of_two());
    Layout {
        sequences,
        slots: 2 * tokens,
        // One more token may be prepended.
        tokens: sequences * (tokens + 1).next_multiple_of(TOKEN_ALIGN),
    }
}

/// Scores the texts of one pass, setting the running batch aside meanwhile, and reports the results.
///
/// # Errors
/// If the device fails; then nothing has been reported.
pub(super) async fn run(engine: &mut Engine, jobs: &[EchoJob]) -> Result<(), EngineError> {
    let echoes: Vec<&Echo> = jobs.iter().map(|job| &job.echo).collect();
    engine.swap();
    let scored = score(engine, &echoes).await;
    engine.swap();
    for (job, scored) in jobs.iter().zip(scored?) {
        job.tell(scored.map_err(ServingError::Model));
    }
    Ok(())
}

/// The log-probabilities of all texts, group after group. `go_on` is asked between passes.
///
/// # Errors
/// As [`Model::echo`](crate::Model::echo).
pub(crate) async fn all(
    engine: &mut Engine,
    echoes: &[Echo],
    go_on: &dyn Fn() -> bool,
) -> Result<Vec<Echoed>, Error> {
    for echo in echoes {
        echo.check(engine.config())?;
    }
    let mut told = Vec::with_capacity(echoes.len());
    while let left @ [_, ..] = &echoes[told.len()..] {
        let count = group(engine, left.iter().map(|echo| (echo, false)));
        let echoes: Vec<&Echo> = left[..count].iter().collect();
        for echoed in score(engine, &echoes).await? {
            told.push(echoed?);
        }
        turn().await;
        if !go_on() {
            return Err(Error::Stopped);
        }
    }
    Ok(told)
}

async fn score(
    engine: &mut Engine,
    echoes: &[&Echo],
) -> Result<Vec<Result<Echoed, Error>>, EngineError> {
    let config = engine.config().clone();
    let read: Vec<_> = echoes.iter().map(|echo| echo.pass(&config)).collect();
    let empty = Pass::default();
    let passes: Vec<Pass> = (read.iter())
        .map(|read| read.as_ref().map_or(&empty, |(pass, _)| pass).clone())
        .collect();
    let longest = echoes.iter().map(|echo| echo.tokens.len()).max();
    let layout = layout(echoes.len(), longest.unwrap_or(0).max(1));
    let (tokens, step, targets) = assemble(&passes, &layout);
    let logits = match targets.is_empty() {
        true => Vec::new(),
        false => {
            engine.start(&layout, &tokens)?;
            engine.unchecked_logits(&step).await?
        }
    };
    let (mask, vocab) = (config.mask_index, config.vocab_size);
    let mut rows = logits.chunks(vocab.max(1));
    let told = echoes.iter().zip(read).map(|(echo, read)| {
        let (pass, places) = read?;
        let mut echoed = vec![None; echo.tokens.len()];
        // Consumes all of its rows first, so that the next text's rows follow.
        let own: Vec<&[f32]> = rows.by_ref().take(pass.scored.len()).collect();
        for ((logits, scored), place) in own.into_iter().zip(&pass.scored).zip(places) {
            let one = log_prob(logits, mask, scored.token, echo.top);
            echoed[place] = Some(one.ok_or(LikelihoodError::NotFinite { text: 0 })?);
        }
        Ok(echoed)
    });
    Ok(told.collect())
}
