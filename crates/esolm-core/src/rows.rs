//! What an executor runs: the rows of one forward pass. Every mask of the model family is a prefix of slots plus the row's own
//! slot, so no dense mask exists anywhere (docs/architecture.md).

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

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
    /// Place in the kv_cache.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepRows {
    /// Rows, grouped by ascending sequence.
    pub rows: Vec<Row>,
    /// Indices of rows whose logits are wanted, ascending.
    pub sampled: Vec<u32>,
}

/// Sizes of a batch on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Sequences.
    pub sequences: usize,
    /// Cache slots a sequence.
    pub slots: usize,
    /// Length of the flat token buffer: the same share for each sequence.
    pub tokens: usize,
}

/// The attention masks of the published code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskMode {
    /// Slot i sees slots up to i: Eso-LM (B), AR.
    Causal,
    /// Every slot sees every slot: MDLM.
    Bidirectional,
    /// Clean slots causal, masked slots see all: Eso-LM (A), sequential.
    Mixed,
    /// Clean slots see all clean ones, masked slots causal: Eso-LM (A), diffusion.
    Mixed2,
}

/// Why rows cannot be made from given arrays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Arrays of different sizes.
    #[error("{name} has {found} entries in row {row} where sort_idx has {expected}; give arrays of the same shape [B, L]")]
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
    /// A sort order that is no permutation.
    #[error("row {row} of sort_idx is no permutation of 0..{length}; each natural position must stand in it once")]
    Order {
        /// The row of the batch.
        row: usize,
        /// Length of the sequence.
        length: usize,
    },
    /// A token outside the vocabulary.
    #[error("{name} holds the token {token} in row {row}, beyond the vocabulary of {vocab}")]
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
    /// No sequence at all.
    #[error("sort_idx is empty; give at least one sequence of at least one token")]
    Empty,
    /// Sequential mode without its second half.
    #[error("sequential mode reads x0_sorted beside zt_sorted; add it to the input")]
    NoClean,
}

/// Whether `order` holds each of 0..len once.
pub fn is_permutation(order: &[u32]) -> bool {
    let mut seen = vec![false; order.len()];
    order.iter().all(|&p| seen.get_mut(p as usize).is_some_and(|s| !std::mem::replace(s, true)))
}

/// The pass that a whole-sequence forward of the published code makes, from arrays in sorted order: every row of `zt_sorted` is
/// sampled. In sequential mode `x0_sorted` takes slots 0..L and the rows of `zt_sorted` slots L..2L, each seeing the clean
/// tokens of lower slots and itself. Returns the layout, the token buffer and the rows.
///
/// # Errors
/// When shapes differ, an order is no permutation or a token lies outside the vocabulary.
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
    let x0_sorted = if sequential { Some(x0_sorted.ok_or(RowsError::NoClean)?) } else { None };
    for (row, order) in sort_idx.iter().enumerate() {
        if order.len() != length || !is_permutation(order) {
            return Err(RowsError::Order { row, length });
        }
        for (name, array) in [("zt_sorted", Some(zt_sorted)), ("x0_sorted", x0_sorted)] {
            let Some(array) = array else { continue };
            let found = array.get(row).map_or(0, Vec::len);
            if found != length {
                return Err(RowsError::Shape { name, row, found, expected: length });
            }
            if let Some(&token) = array[row].iter().find(|&&t| t as usize >= vocab) {
                return Err(RowsError::Token { name, row, token, vocab });
            }
        }
    }
    let halves = if sequential { 2 } else { 1 };
    let span = length * halves;
    let mut tokens = Vec::with_capacity(sort_idx.len() * span);
    let mut step = StepRows::default();
    for (sequence, order) in sort_idx.iter().enumerate() {
        let (z, x) = (&zt_sorted[sequence], x0_sorted.map(|x| &x[sequence]));
        let clean = z.iter().filter(|&&t| t != mask_index).count();
        let first = tokens.len();
        let mut push = |slot: usize, i: usize, prefix: usize, wanted: bool| {
            if wanted {
                step.sampled.push(step.rows.len() as u32);
            }
            step.rows.push(Row {
                sequence: sequence as u32,
                slot: slot as u32,
                position: order[i],
                prefix: prefix as u32,
                source: (first + slot) as u32,
                target: (first + slot) as u32,
            });
        };
        if let Some(x) = x {
            tokens.extend(x);
            for i in 0..length {
                let prefix = if mode == MaskMode::Mixed { clean.max(i + 1) } else { i + 1 };
                push(i, i, prefix, false);
            }
            for i in 0..length {
                push(length + i, i, i, true);
            }
        } else {
            for (i, &token) in z.iter().enumerate() {
                let prefix = match mode {
                    MaskMode::Causal => i + 1,
                    MaskMode::Bidirectional => length,
                    MaskMode::Mixed => if token == mask_index { length } else { i + 1 },
                    MaskMode::Mixed2 => if token == mask_index { i + 1 } else { clean },
                };
                push(i, i, prefix, true);
            }
        }
        tokens.extend(z);
    }
    let layout = Layout { sequences: sort_idx.len(), slots: span, tokens: tokens.len() };
    Ok((layout, tokens, step))
}
