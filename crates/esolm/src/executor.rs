//! What runs the passes of a plan: the contract of the CPU and the GPU, and the checks above both. Kernels run without bounds checks, so
//! this is where safety lies.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use esolm_core::plan::SlotMove;
use esolm_core::reveal::{Choice, Outcome};
use esolm_core::rows::{Layout, MASKED, NO_TARGET, StepRows};
use esolm_core::sampler::{NO_TOKEN, Sampler, are_finite};
use esolm_core::trace::Counters;

use crate::error::EngineError;
#[cfg(not(target_family = "wasm"))]
use crate::measure::Rates;
#[cfg(not(target_family = "wasm"))]
use crate::measure::forms::{Comparison, Scope};

/// What comes when a device is done.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + 'a>>;

/// A stretch of the token buffer that is written over begins at a multiple of so many tokens, since a part of a GPU's buffer begins at a
/// multiple of 256 bytes.
pub const TOKEN_ALIGN: usize = 64;

/// The words that key the noise of a sampled row: absolute index of its sequence, and position of the token within the sequence's part of
/// the token buffer.
pub type NoiseKey = [u32; 2];

/// How a pass's tokens are drawn, the same for every executor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw<'a> {
    /// Temperature and top-p.
    pub sampler: Sampler,
    /// Keys the noise together with the sequence and the position.
    pub seed: u64,
    /// Given Gumbel values `[sampled rows, V]` instead of the seeded ones (a replay).
    pub noise: Option<&'a [f32]>,
    /// Tokens of the vocabulary that are not drawn, nor take part in a confidence.
    pub suppressed: &'a [u32],
    /// Tokens of the vocabulary that may be drawn, but take no part in a confidence, so that their own is 0.
    pub unsure: &'a [u32],
}

impl Draw<'_> {
    /// Whether rows drawn so and rows drawn like `other`, without given noise, can be one share.
    pub fn is_like(&self, other: &Draw) -> bool {
        (self.sampler, self.seed) == (other.sampler, other.seed)
            && (self.suppressed, self.unsure) == (other.suppressed, other.unsure)
    }
}

/// How a stretch of a pass's sampled rows is drawn.
#[derive(Clone, Debug)]
pub struct Share<'a> {
    /// Indices among the sampled rows.
    pub rows: Range<usize>,
    /// How they are drawn; given noise is that of the whole pass.
    pub draw: Draw<'a>,
}

/// A model on a device with one running batch: its KV cache, and its tokens in a flat buffer. Callers have checked rows, targets and noise
/// ([`crate::engine::Engine`] does); a call that needs a batch or a pass comes after one.
pub trait Executor {
    /// Asks for the memory of a batch whose largest pass has `rows` rows, `sampled` of them sampled, before anything is done. A batch that
    /// was not asked for is asked for as it grows.
    ///
    /// # Errors
    /// When this machine's memory does not suffice.
    fn prepare(&mut self, layout: &Layout, rows: usize, sampled: usize) -> Result<(), EngineError>;

    /// Prepares the cache and the token buffer `tokens` (flat, `layout.tokens` long) for a batch.
    ///
    /// # Errors
    /// When they do not fit the device.
    fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError>;

    /// Runs all blocks over the rows of `step` and keeps the hidden states of its sampled rows. `keys` has one entry for each of those.
    ///
    /// # Errors
    /// When memory does not suffice.
    fn pass(&mut self, step: &StepRows, keys: &[NoiseKey]) -> Result<(), EngineError>;

    /// Draws a token for each sampled row of the last pass and writes it to the row's target, [`NO_TOKEN`] where its logits are not finite.
    /// Nothing is read back.
    ///
    /// # Errors
    /// What fails on the device may show only at the next read.
    fn draw(&mut self, draw: &Draw) -> Result<(), EngineError>;

    /// As [`Executor::draw`] where not all rows are drawn alike: `shares` cover the sampled rows one after the other.
    ///
    /// # Errors
    /// As [`Executor::draw`].
    fn draw_each(&mut self, shares: &[Share]) -> Result<(), EngineError>;

    /// Writes over a stretch of the token buffer that begins at a multiple of [`TOKEN_ALIGN`], after all passes so far.
    ///
    /// # Errors
    /// When no batch was started.
    fn write(&mut self, first: usize, tokens: &[u32]) -> Result<(), EngineError>;

    /// Sets the running batch aside and takes up the one that was set aside before; at first there is none.
    fn swap(&mut self);

    /// Draws a token for each sampled row of the last pass, and writes those that `choice` lets become known to their rows' targets; only
    /// places that hold the mask token are written to. A row whose logits are not finite draws [`NO_TOKEN`], which becomes known at once.
    /// Nothing is read back. `shares` cover the sampled rows one after the other, and differ in their seeds alone.
    ///
    /// # Errors
    /// As [`Executor::draw`].
    fn reveal(&mut self, shares: &[Share], choice: &Choice) -> Result<(), EngineError>;

    /// Copies what slots of the cache hold to other slots, one move after the other; none writes what a later one reads.
    ///
    /// # Errors
    /// As [`Executor::draw`].
    fn move_slots(&mut self, moves: &[SlotMove]) -> Result<(), EngineError>;

    /// What the last [`Executor::reveal`] came to, whatever is queued later. Its tokens are read only where they are `wanted`, and are empty
    /// else.
    fn outcome(&mut self, wanted: bool) -> Pending<'static, Outcome>;

    /// Logits `[sampled, V]` of the last pass, the mask token's column untouched.
    fn logits(&mut self) -> Pending<'_, Vec<f32>>;

    /// For each sampled row of the last pass the log-probability of its token in `targets`, natural logarithm, the mask token left out;
    /// NaN where its logits are not finite. Logits stay on the device.
    fn score<'a>(&'a mut self, targets: &'a [u32]) -> Pending<'a, Vec<f32>>;

    /// The token buffer as it is now, whatever is queued later.
    fn tokens(&mut self) -> Pending<'static, Vec<u32>>;

    /// Waits until everything that was launched is done.
    fn wait(&self) -> Pending<'_, ()>;

    /// What was done since the device was opened.
    fn counters(&self) -> Counters;

    /// Rates of the device, a GPU's kernels on this model's matrices. Not for browsers: it multiplies by Burn's kernels as
    /// well, which would double the wasm module.
    #[cfg(not(target_family = "wasm"))]
    fn rates(&self) -> Pending<'_, Rates>;

    /// Every form that a kernel could run in against the others, at this model's shapes; nothing on the CPU.
    #[cfg(not(target_family = "wasm"))]
    fn compare(&self, scope: &Scope) -> Pending<'_, Option<Vec<Comparison>>>;

    /// Gives up the model, and its memory back to the device.
    ///
    /// # Errors
    /// When the device is lost.
    fn close(self: Box<Self>) -> Result<(), EngineError>;
}

/// Checks that a batch's tokens fit its layout and the vocabulary; what is not known is `mask`, which need not be one of its tokens.
///
/// # Errors
/// [`EngineError::Rows`] saying what does not fit.
pub fn check_tokens(
    layout: &Layout,
    tokens: &[u32],
    vocab: usize,
    mask: u32,
) -> Result<(), EngineError> {
    if tokens.len() != layout.tokens {
        return Err(EngineError::Rows(format!(
            "{} tokens for a layout of {}",
            tokens.len(),
            layout.tokens
        )));
    }
    let mut tokens = tokens.iter();
    match tokens.find(|&&token| token as usize >= vocab && token != mask) {
        Some(token) => Err(EngineError::Rows(format!(
            "the token {token} is beyond the vocabulary of {vocab}"
        ))),
        None => Ok(()),
    }
}

/// Checks that a pass stays inside its layout.
///
/// # Errors
/// [`EngineError::Rows`] naming the first row that does not fit.
pub fn check_rows(layout: &Layout, positions: usize, step: &StepRows) -> Result<(), EngineError> {
    let mut last = 0;
    for (index, row) in step.rows.iter().enumerate() {
        let inside = (row.sequence as usize) < layout.sequences
            && row.is_sound(layout.slots)
            && (row.position as usize) < positions
            && (row.source == MASKED || (row.source as usize) < layout.tokens)
            && (row.target == NO_TARGET || (row.target as usize) < layout.tokens)
            && row.sequence >= last;
        if !inside {
            return Err(EngineError::Rows(format!(
                "row {index} ({row:?}) does not fit the layout {layout:?} with {positions} positions"
            )));
        }
        last = row.sequence;
    }
    let rows = step.rows.len();
    match step.sampled.iter().find(|&&index| index as usize >= rows) {
        Some(index) => Err(EngineError::Rows(format!("sampled row {index} of {rows}"))),
        None => Ok(()),
    }
}

/// Checks that no row reads the mask of a model that has none.
///
/// # Errors
/// [`EngineError::Rows`] naming the first that does.
pub fn check_masked(step: &StepRows, mask: Option<u32>) -> Result<(), EngineError> {
    let mut rows = step.rows.iter();
    match rows.position(|row| row.source == MASKED && mask.is_none()) {
        Some(index) => Err(EngineError::Rows(format!(
            "row {index} reads the mask, which the model does not have"
        ))),
        None => Ok(()),
    }
}

/// The noise keys of a pass that was checked. `ids` has the absolute index of each sequence of the batch, so that a text does not depend
/// on the batch it is in.
///
/// # Errors
/// When a sampled row has no target or the ids do not cover the batch.
pub fn noise_keys(
    layout: &Layout,
    step: &StepRows,
    ids: &[u32],
) -> Result<Vec<NoiseKey>, EngineError> {
    if ids.len() != layout.sequences {
        return Err(EngineError::Rows(format!(
            "{} sequence ids for a batch of {}",
            ids.len(),
            layout.sequences
        )));
    }
    let span = (layout.tokens / layout.sequences.max(1)).max(1) as u32;
    let key = |&index: &u32| {
        let row = step.rows[index as usize];
        match row.target {
            NO_TARGET => Err(EngineError::Rows(format!(
                "sampled row {index} has no target"
            ))),
            target => Ok([ids[row.sequence as usize], target % span]),
        }
    };
    step.sampled.iter().map(key).collect()
}

/// Checks that a choice is one of all sampled rows of a pass, within sequences.
///
/// # Errors
/// [`EngineError::Rows`] where it is not.
pub fn check_choice(step: &StepRows, choice: &Choice) -> Result<(), EngineError> {
    let sequence = |row: u32| step.rows[step.sampled[row as usize] as usize].sequence;
    let is_within = choice.holds(step.sampled.len())
        && choice.groups.iter().all(|group| {
            let mut rows = group.first..group.first + group.rows;
            rows.all(|row| sequence(row) == sequence(group.first))
        });
    match is_within {
        true => Ok(()),
        false => Err(EngineError::Rows(format!(
            "a choice of {} groups does not fit {} sampled rows",
            choice.groups.len(),
            step.sampled.len()
        ))),
    }
}

/// Checks that the tokens which a draw leaves out are tokens of the vocabulary.
///
/// # Errors
/// [`EngineError::Rows`] naming the first that is not.
pub fn check_vocabulary(draw: &Draw, vocab: usize) -> Result<(), EngineError> {
    let mut tokens = draw.suppressed.iter().chain(draw.unsure);
    match tokens.find(|&&token| token as usize >= vocab) {
        Some(token) => Err(EngineError::Rows(format!(
            "the token {token} to leave out is beyond the vocabulary of {vocab}"
        ))),
        None => Ok(()),
    }
}

/// Checks that a token was drawn, and not the mask.
///
/// # Errors
/// [`EngineError::NotFinite`] or [`EngineError::MaskDrawn`] with the number of the text and the position in it.
pub fn check_drawn(text: u32, position: u32, token: u32, mask: u32) -> Result<(), EngineError> {
    match token {
        NO_TOKEN => Err(EngineError::NotFinite { text, position }),
        token if token == mask => Err(EngineError::MaskDrawn { text, position }),
        _ => Ok(()),
    }
}

/// Checks that the logits `[sampled, vocab]` of a pass are finite, the mask's apart. `text` numbers a sequence of the batch.
///
/// # Errors
/// [`EngineError::NotFinite`] with the first row whose logits are not.
pub fn check_logits(
    step: &StepRows,
    logits: &[f32],
    vocab: usize,
    mask: u32,
    text: impl Fn(u32) -> u32,
) -> Result<(), EngineError> {
    for (&row, logits) in step.sampled.iter().zip(logits.chunks(vocab)) {
        if !are_finite(logits, mask) {
            let row = step.rows[row as usize];
            return Err(EngineError::NotFinite {
                text: text(row.sequence),
                position: row.position,
            });
        }
    }
    Ok(())
}

/// Checks that every sampled row has a token of the vocabulary to predict.
///
/// # Errors
/// [`EngineError::Rows`] where one has none, or one outside the vocabulary.
pub fn check_targets(step: &StepRows, targets: &[u32], vocab: usize) -> Result<(), EngineError> {
    if targets.len() != step.sampled.len() {
        return Err(EngineError::Rows(format!(
            "{} tokens to predict for {} sampled rows",
            targets.len(),
            step.sampled.len()
        )));
    }
    match targets.iter().find(|&&token| token as usize >= vocab) {
        Some(token) => Err(EngineError::Rows(format!(
            "the token {token} to predict is beyond the vocabulary of {vocab}"
        ))),
        None => Ok(()),
    }
}
