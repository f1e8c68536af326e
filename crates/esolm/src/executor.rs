//! What runs the passes of a plan: the trait implemented for CPU and GPU, and the checks done before calling it.
//! Kernels run without bounds checks, so safety rests on these.

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

/// A result that is available once the device gets there.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + 'a>>;

/// Alignment in tokens of a write to part of the token buffer, since binding part of a GPU buffer requires an offset
/// that is a multiple of 256 bytes.
pub const TOKEN_ALIGN: usize = 64;

/// The words that key the noise of a sampled row: the absolute index of its sequence, and the token's position in the
/// sequence's part of the token buffer.
pub type NoiseKey = [u32; 2];

/// How a pass's tokens are drawn, on any executor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw<'a> {
    /// Temperature and top-p.
    pub sampler: Sampler,
    /// Keys the noise, together with sequence and position.
    pub seed: u64,
    /// Gumbel values `[sampled rows, V]` to use instead of seeded ones, for a replay.
    pub noise: Option<&'a [f32]>,
    /// Tokens that are never drawn and do not count in a confidence.
    pub suppressed: &'a [u32],
    /// Tokens that may be drawn but do not count in a confidence; their own confidence is 0.
    pub unsure: &'a [u32],
}

impl Draw<'_> {
    /// Whether rows drawn this way and rows drawn like `other`, neither with given noise, can form one share.
    pub fn is_like(&self, other: &Draw) -> bool {
        (self.sampler, self.seed) == (other.sampler, other.seed)
            && (self.suppressed, self.unsure) == (other.suppressed, other.unsure)
    }
}

/// How a range of a pass's sampled rows is drawn.
#[derive(Clone, Debug)]
pub struct Share<'a> {
    /// Indices into the sampled rows.
    pub rows: Range<usize>,
    /// How they are drawn; given noise covers the whole pass.
    pub draw: Draw<'a>,
}

/// A model on a device with one running batch: its KV cache, and its tokens in a flat buffer. Callers
/// ([`crate::engine::Engine`]) have checked rows, targets and noise, and start a batch or run a pass before calling
/// what depends on one.
pub trait Executor {
    /// Reserves the memory of a batch whose largest pass has `rows` rows, `sampled` of them sampled. Without this,
    /// memory is requested as the batch grows.
    ///
    /// # Errors
    /// If the host does not have enough memory.
    fn prepare(&mut self, layout: &Layout, rows: usize, sampled: usize) -> Result<(), EngineError>;

    /// Prepares the cache and the token buffer for a batch. `tokens` is flat, `layout.tokens` long.
    ///
    /// # Errors
    /// If they do not fit the device.
    fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError>;

    /// Runs all blocks over the rows of `step` and keeps the hidden states of its sampled rows. `keys` has one entry
    /// per sampled row.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn pass(&mut self, step: &StepRows, keys: &[NoiseKey]) -> Result<(), EngineError>;

    /// Draws a token for each sampled row of the last pass and writes it to the row's target, or [`NO_TOKEN`] if the
    /// row's logits are not finite. Nothing is read back.
    ///
    /// # Errors
    /// A failure on the device may surface only at the next read.
    fn draw(&mut self, draw: &Draw) -> Result<(), EngineError>;

    /// Like [`Executor::draw`], for rows drawn in different ways: `shares` cover the sampled rows in order.
    ///
    /// # Errors
    /// See [`Executor::draw`].
    fn draw_each(&mut self, shares: &[Share]) -> Result<(), EngineError>;

    /// Overwrites part of the token buffer, starting at a multiple of [`TOKEN_ALIGN`], after all passes so far.
    ///
    /// # Errors
    /// If no batch was started.
    fn write(&mut self, first: usize, tokens: &[u32]) -> Result<(), EngineError>;

    /// Exchanges the running batch with the one set aside by the previous call, of which there is none at first.
    fn swap(&mut self);

    /// Draws a token for each sampled row of the last pass, and writes those that `choice` reveals to their rows'
    /// targets; only entries that hold the mask token are written to. A row whose logits are not finite draws
    /// [`NO_TOKEN`], which is always revealed. Nothing is read back. `shares` cover the sampled rows in order and
    /// differ only in their seeds.
    ///
    /// # Errors
    /// See [`Executor::draw`].
    fn reveal(&mut self, shares: &[Share], choice: &Choice) -> Result<(), EngineError>;

    /// Copies the contents of cache slots to other slots, one move after another. No move writes a slot that a later
    /// move reads.
    ///
    /// # Errors
    /// See [`Executor::draw`].
    fn move_slots(&mut self, moves: &[SlotMove]) -> Result<(), EngineError>;

    /// The outcome of the last [`Executor::reveal`], unaffected by work queued later. Its tokens are read only if
    /// `wanted`, and are otherwise empty.
    fn outcome(&mut self, wanted: bool) -> Pending<'static, Outcome>;

    /// Logits `[sampled, V]` of the last pass. The mask token's column is left as computed.
    fn logits(&mut self) -> Pending<'_, Vec<f32>>;

    /// For each sampled row of the last pass, the natural log-probability of its token in `targets`, excluding the mask
    /// token; NaN if the row's logits are not finite. The logits stay on the device.
    fn score<'a>(&'a mut self, targets: &'a [u32]) -> Pending<'a, Vec<f32>>;

    /// The current token buffer, unaffected by work queued later.
    fn tokens(&mut self) -> Pending<'static, Vec<u32>>;

    /// Waits until all launched work is done.
    fn wait(&self) -> Pending<'_, ()>;

    /// What has been done since the device was opened.
    fn counters(&self) -> Counters;

    /// Measured rates of the device; on a GPU, of its kernels on this model's matrices. Not available in browsers: it
    /// also runs Burn's matmul kernels, which would double the size of the wasm module.
    #[cfg(not(target_family = "wasm"))]
    fn rates(&self) -> Pending<'_, Rates>;

    /// Times the variants of every kernel at this model's shapes; `None` on the CPU.
    #[cfg(not(target_family = "wasm"))]
    fn compare(&self, scope: &Scope) -> Pending<'_, Option<Vec<Comparison>>>;

    /// Releases the model and returns its memory to the device.
    ///
    /// # Errors
    /// If the device is lost.
    fn close(self: Box<Self>) -> Result<(), EngineError>;
}

/// Checks that a batch's tokens fit its layout and the vocabulary. Unknown tokens are `mask`, which need not be in the
/// vocabulary.
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

/// Checks that no row reads the mask if the model has none.
///
/// # Errors
/// [`EngineError::Rows`] naming the first row that does.
pub fn check_masked(step: &StepRows, mask: Option<u32>) -> Result<(), EngineError> {
    let mut rows = step.rows.iter();
    match rows.position(|row| row.source == MASKED && mask.is_none()) {
        Some(index) => Err(EngineError::Rows(format!(
            "row {index} reads the mask, which the model does not have"
        ))),
        None => Ok(()),
    }
}

/// The noise keys of a checked pass. `ids` has the absolute index of each sequence in the batch, so that a text does
/// not depend on its batch.
///
/// # Errors
/// If a sampled row has no target, or the ids do not cover the batch.
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

/// Checks that a choice covers all sampled rows of a pass, and that no group spans sequences.
///
/// # Errors
/// [`EngineError::Rows`] if not.
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

/// Checks that the tokens excluded from a draw are in the vocabulary.
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

/// Checks that a token was drawn and is not the mask.
///
/// # Errors
/// [`EngineError::NotFinite`] or [`EngineError::MaskDrawn`], with the number of the text and the position in it.
pub fn check_drawn(text: u32, position: u32, token: u32, mask: u32) -> Result<(), EngineError> {
    match token {
        NO_TOKEN => Err(EngineError::NotFinite { text, position }),
        token if token == mask => Err(EngineError::MaskDrawn { text, position }),
        _ => Ok(()),
    }
}

/// Checks that the logits `[sampled, vocab]` of a pass are finite, except for the mask's. `text` maps a sequence of the
/// batch to its number.
///
/// # Errors
/// [`EngineError::NotFinite`] for the first row whose logits are not.
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

/// Checks that every sampled row has a token to predict.
///
/// # Errors
/// [`EngineError::Rows`] if the numbers differ, or a token is outside the vocabulary.
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
