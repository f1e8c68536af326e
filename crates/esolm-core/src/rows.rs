//! What an executor runs: the rows of one forward pass. Every mask of the model family is a prefix of slots plus the row's own
//! slot, so no dense mask exists anywhere (docs/architecture.md).

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::order::is_permutation;

/// A source that stands for the mask token.
pub const MASKED: u32 = u32::MAX;
/// A target that stands for none.
pub const NO_TARGET: u32 = u32::MAX;

/// One row that enters the network; the layout is that of `shaders/lib/row.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable, Serialize, Deserialize)]
pub struct Row {
    /// Sequence of the batch, from 0.
    pub sequence: u32,
    /// Place in the KV cache.
    pub slot: u32,
    /// Natural position, for the rotary embedding.
    pub position: u32,
    /// Attends to slots 0..prefix, and always to its own slot, even where slot >= prefix.
    pub prefix: u32,
    /// Index into the flat token buffer, or [`MASKED`].
    pub source: u32,
    /// Index into the flat token buffer where the drawn token goes, or [`NO_TARGET`].
    pub target: u32,
}

/// One forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRows {
    /// Rows, grouped by ascending sequence.
    pub rows: Vec<Row>,
    /// Indices of rows whose logits are wanted, ascending.
    pub sampled: Vec<u32>,
}

/// Sizes of a batch on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Sequences.
    pub sequences: usize,
    /// Cache slots a sequence.
    pub slots: usize,
    /// Length of the flat token buffer: the same share for each sequence.
    pub tokens: usize,
}

/// The attention masks of the published code. A clean row holds a token other than the mask; clean rows come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskMode {
    /// Slot i sees slots up to i: Eso-LM (B), AR.
    Causal,
    /// Every slot sees every slot: MDLM.
    Bidirectional,
    /// Clean slots causal, masked slots see all; beside clean targets (sequential) clean slots see all clean ones: Eso-LM (A).
    Mixed,
    /// Clean slots see all clean ones, masked slots causal: Eso-LM (A), diffusion.
    Mixed2,
}

impl std::fmt::Display for MaskMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            MaskMode::Causal => "causal",
            MaskMode::Bidirectional => "bidirectional",
            MaskMode::Mixed => "mixed",
            MaskMode::Mixed2 => "mixed2",
        })
    }
}

/// Why rows cannot be made from given arrays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Arrays of different sizes.
    #[error(
        "{name} has {found} entries in row {row} where sort_idx has {expected}; give arrays of the same shape [B, L]"
    )]
    Shape {
        /// The array.
        name: &'static str,
        /// The row of the batch.
        row: usize,
        /// Its entries.
        found: usize,
        /// What was expected.
        expected: usize,
    },
    /// A sort order that is not a permutation.
    #[error(
        "row {row} of sort_idx is not a permutation of 0..{length}; each natural position must stand in it once"
    )]
    Order {
        /// The row of the batch.
        row: usize,
        /// Length of the sequence.
        length: usize,
    },
    /// A token outside the vocabulary.
    #[error(
        "{name} holds the token {token} in row {row}, beyond the vocabulary of {vocab}; use data made for this model"
    )]
    Token {
        /// The array.
        name: &'static str,
        /// The row of the batch.
        row: usize,
        /// The token.
        token: u32,
        /// V.
        vocab: usize,
    },
    /// Longer sequences than the model's context.
    #[error(
        "sort_idx has sequences of {length} tokens, but the model's context is {context}; give shorter ones"
    )]
    Context {
        /// Tokens of a sequence.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// No sequence at all.
    #[error("sort_idx is empty; give at least one sequence of at least one token")]
    Empty,
    /// More than the row table can address.
    #[error(
        "{rows} sequences of {length} tokens are too many for one pass; give at most {max} tokens in all"
    )]
    Size {
        /// Sequences.
        rows: usize,
        /// Tokens of each.
        length: usize,
        /// Largest number of tokens.
        max: usize,
    },
    /// A mask that sequential mode does not have.
    #[error("sequential mode knows the masks causal and mixed, not {0}; choose one of those")]
    SequentialMode(MaskMode),
    /// Sequential mode without its second half.
    #[error("sequential mode reads x0_sorted beside zt_sorted; add it to the input")]
    NoClean,
}

/// Most tokens of a batch, so that indices stay far below [`MASKED`] and [`NO_TARGET`] and buffers below any device's memory.
pub const MAX_TOKENS: usize = 1 << 26;

/// The pass that a whole-sequence forward of the published code makes (models/dit.py), from arrays `[B, L]` in sorted order.
/// Returns the layout, the token buffer and the rows.
///
/// * Diffusion: the row of slot i reads `zt_sorted[i]` at position `sort_idx[i]`; all rows are sampled.
/// * `sequential`: 2L rows a sequence. `x0_sorted` takes the slots 0..L, row i attending to `0..i + 1`, with [`MaskMode::Mixed`] at
///   least to all tokens that are clean in z. `zt_sorted` takes the slots L..2L, which are sampled: row i attends to the clean
///   tokens of slots `0..i` and to itself.
///
/// The masks that count clean tokens take that many first slots for them, as the published masks do.
///
/// # Errors
/// When shapes differ, an order is not a permutation, a token lies outside the vocabulary, or sequential mode lacks `x0_sorted` or
/// does not have the mask.
pub fn forward_rows(
    mode: MaskMode,
    sequential: bool,
    sort_idx: &[Vec<u32>],
    zt_sorted: &[Vec<u32>],
    x0_sorted: Option<&[Vec<u32>]>,
    mask_index: u32,
    vocab: usize,
) -> Result<(Layout, Vec<u32>, StepRows), RowsError> {
    let length = sort_idx.first().map_or(0, Vec::len);
    if length == 0 {
        return Err(RowsError::Empty);
    }
    let span = if sequential { 2 * length } else { length };
    if sort_idx.len() > MAX_TOKENS / span {
        return Err(RowsError::Size {
            rows: sort_idx.len(),
            length,
            max: MAX_TOKENS,
        });
    }
    if sequential && !matches!(mode, MaskMode::Causal | MaskMode::Mixed) {
        return Err(RowsError::SequentialMode(mode));
    }
    let x0_sorted = if sequential {
        Some(x0_sorted.ok_or(RowsError::NoClean)?)
    } else {
        None
    };
    for (row, order) in sort_idx.iter().enumerate() {
        if order.len() != length || !is_permutation(order) {
            return Err(RowsError::Order { row, length });
        }
    }
    check_tokens("zt_sorted", zt_sorted, sort_idx, vocab)?;
    if let Some(x0_sorted) = x0_sorted {
        check_tokens("x0_sorted", x0_sorted, sort_idx, vocab)?;
    }

    let mut tokens = Vec::with_capacity(sort_idx.len() * span);
    let mut step = StepRows::default();
    for (sequence, order) in sort_idx.iter().enumerate() {
        let z = &zt_sorted[sequence];
        let clean = z.iter().filter(|&&token| token != mask_index).count();
        let first = tokens.len();
        let mut push = |slot: usize, prefix: usize, wanted: bool| {
            if wanted {
                step.sampled.push(step.rows.len() as u32);
            }
            let token = (first + slot) as u32;
            step.rows.push(Row {
                sequence: sequence as u32,
                slot: slot as u32,
                position: order[slot % length],
                prefix: prefix as u32,
                source: token,
                target: if wanted { token } else { NO_TARGET },
            });
        };
        if let Some(x0_sorted) = x0_sorted {
            let least = if mode == MaskMode::Mixed { clean } else { 0 };
            (0..length).for_each(|i| push(i, least.max(i + 1), false));
            (0..length).for_each(|i| push(length + i, i, true));
            tokens.extend(&x0_sorted[sequence]);
        } else {
            for i in 0..length {
                let prefix = match mode {
                    MaskMode::Bidirectional => length,
                    MaskMode::Mixed if i >= clean => length,
                    MaskMode::Mixed2 if i < clean => clean,
                    MaskMode::Causal | MaskMode::Mixed | MaskMode::Mixed2 => i + 1,
                };
                push(i, prefix, true);
            }
        }
        tokens.extend(z);
    }
    let layout = Layout {
        sequences: sort_idx.len(),
        slots: span,
        tokens: tokens.len(),
    };
    Ok((layout, tokens, step))
}

/// Checks that `array` has the shape of `sort_idx` and holds tokens of the vocabulary.
fn check_tokens(
    name: &'static str,
    array: &[Vec<u32>],
    sort_idx: &[Vec<u32>],
    vocab: usize,
) -> Result<(), RowsError> {
    for (row, order) in sort_idx.iter().enumerate() {
        let tokens = array.get(row).map_or(&[][..], Vec::as_slice);
        if tokens.len() != order.len() {
            return Err(RowsError::Shape {
                name,
                row,
                found: tokens.len(),
                expected: order.len(),
            });
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(RowsError::Token {
                name,
                row,
                token,
                vocab,
            });
        }
    }
    Ok(())
}
