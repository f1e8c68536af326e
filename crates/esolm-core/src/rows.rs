//! What an executor runs: the rows of a forward pass. Every attention mask of the model family is a prefix of slots
//! plus a range around the row's own slot, so no dense mask is ever built (docs/architecture.md).

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::config::Family;
use crate::order::is_permutation;

/// As a source, stands for the mask token.
pub const MASKED: u32 = u32::MAX;
/// As a target, stands for none.
pub const NO_TARGET: u32 = u32::MAX;

/// One row that enters the network, laid out as in `shaders/lib/row.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable, Serialize, Deserialize)]
pub struct Row {
    /// Index of its sequence in the batch.
    pub sequence: u32,
    /// Slot in the KV cache.
    pub slot: u32,
    /// Natural position, for the rotary embedding.
    pub position: u32,
    /// It attends to the slots 0..prefix,
    pub prefix: u32,
    /// and to the slots `own[0]..own[1]`, which lie beyond the prefix and include its own slot; empty if its own slot is
    /// within the prefix.
    pub own: [u32; 2],
    /// Index into the flat token buffer, or [`MASKED`].
    pub source: u32,
    /// Index into the flat token buffer to which the drawn token is written, or [`NO_TARGET`].
    pub target: u32,
}

/// [`Row::own`] of a row in `slot` that, beyond its prefix, attends only to its own slot.
pub fn own_slot(slot: u32, prefix: u32) -> [u32; 2] {
    if slot < prefix {
        [prefix; 2]
    } else {
        [slot, slot + 1]
    }
}

impl Row {
    /// Number of slots that it attends to.
    pub fn seen(&self) -> usize {
        self.prefix as usize + self.own[1].saturating_sub(self.own[0]) as usize
    }

    /// Whether it attends to `slot`.
    pub fn sees(&self, slot: u32) -> bool {
        slot < self.prefix || (self.own[0]..self.own[1]).contains(&slot)
    }

    /// The slots that it attends to, ascending.
    pub fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.prefix as usize).chain(self.own[0] as usize..self.own[1] as usize)
    }

    /// Whether its own range is valid in a cache of `slots` slots.
    pub fn is_sound(&self, slots: usize) -> bool {
        let [start, end] = self.own;
        let own = match self.slot < self.prefix {
            true => start == end,
            false => self.prefix <= start && (start..end).contains(&self.slot),
        };
        own && self.prefix as usize <= slots && end as usize <= slots
    }
}

/// One forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRows {
    /// Rows, grouped by ascending sequence.
    pub rows: Vec<Row>,
    /// Indices of the rows whose logits are needed, ascending.
    pub sampled: Vec<u32>,
}

/// Sizes of a batch on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Sequences.
    pub sequences: usize,
    /// Cache slots per sequence.
    pub slots: usize,
    /// Length of the flat token buffer, divided equally among the sequences.
    pub tokens: usize,
}

/// The attention masks of the published code. Rows are clean if their token is not the mask; clean rows come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskMode {
    /// Slot i sees slots up to i: Eso-LM (B), AR.
    Causal,
    /// Every slot sees every slot: MDLM.
    Bidirectional,
    /// Clean slots are causal, masked slots see all; with clean targets (sequential), clean slots see all clean ones:
    /// Eso-LM (A).
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

/// Why given arrays do not make valid rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Arrays have different sizes.
    #[error(
        "{name} has {found} entries in row {row} where {other} has {expected}; give arrays of the same shape [B, L]"
    )]
    Shape {
        /// The array.
        name: &'static str,
        /// The array that it must match.
        other: &'static str,
        /// The row of the batch.
        row: usize,
        /// Entries found.
        found: usize,
        /// Entries expected.
        expected: usize,
    },
    /// A sort order is not a permutation.
    #[error(
        "row {row} of sort_idx is not a permutation of 0..{length}; each natural position must stand in it once"
    )]
    Order {
        /// The row of the batch.
        row: usize,
        /// Length of the sequence.
        length: usize,
    },
    /// A token is outside the vocabulary.
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
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The sequences are longer than the model's context.
    #[error(
        "{name} has sequences of {length} tokens, but the model's context is {context}; give shorter ones"
    )]
    Context {
        /// The array.
        name: &'static str,
        /// Tokens per sequence.
        length: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// There is no sequence.
    #[error("{0} is empty; give at least one sequence of at least one token")]
    Empty(&'static str),
    /// The block size is zero.
    #[error("the block size is 0; blocks have at least one token")]
    BlockSize,
    /// The model has no block size, and none was given.
    #[error("{} names no block size; give one", .0.one())]
    NoBlockSize(Family),
    /// There are more tokens than the row table can address.
    #[error(
        "{rows} sequences of {length} tokens are too many for one pass; give at most {max} tokens in all"
    )]
    Size {
        /// Sequences.
        rows: usize,
        /// Tokens per sequence.
        length: usize,
        /// Largest number of tokens.
        max: usize,
    },
    /// Sequential mode does not have this mask.
    #[error("sequential mode knows the masks causal and mixed, not {0}; choose one of those")]
    SequentialMode(MaskMode),
    /// Sequential mode lacks its second array.
    #[error("sequential mode reads x0_sorted beside zt_sorted; add it to the input")]
    NoClean,
}

/// Maximum tokens per batch, so that indices stay far below [`MASKED`] and [`NO_TARGET`], and buffers fit into any
/// device's memory.
pub const MAX_TOKENS: usize = 1 << 26;

/// The pass of a whole-sequence forward in the published code (models/dit.py), from arrays `[B, L]` in sorted order.
/// Returns the layout, the token buffer and the rows.
///
/// * Diffusion: the row of slot i reads `zt_sorted[i]` at position `sort_idx[i]`; all rows are sampled.
/// * `sequential`: 2L rows per sequence. `x0_sorted` takes the slots 0..L; row i attends to `0..i + 1`, and with
///   [`MaskMode::Mixed`] at least to all tokens that are clean in z. `zt_sorted` takes the slots L..2L, which are
///   sampled; row i attends to the clean tokens of slots `0..i` and to itself.
///
/// Masks that depend on the number of clean tokens assume, as the published ones do, that these take the first slots.
///
/// # Errors
/// If shapes differ, an order is not a permutation, a token is outside the vocabulary, or sequential mode lacks
/// `x0_sorted` or does not support the mask.
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
        return Err(RowsError::Empty("sort_idx"));
    }
    let span = if sequential { 2 * length } else { length };
    check_size(sort_idx.len(), length, span)?;
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
    check_tokens("zt_sorted", zt_sorted, "sort_idx", sort_idx, vocab)?;
    if let Some(x0_sorted) = x0_sorted {
        check_tokens("x0_sorted", x0_sorted, "sort_idx", sort_idx, vocab)?;
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
                own: own_slot(slot as u32, prefix as u32),
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

/// A SetDLM's pass over whole texts, from arrays `[B, L]` in generation order: 2L rows per sequence, of which the
/// masked ones are sampled. Returns the layout, the token buffer and the rows.
///
/// `x0_sorted` takes the slots 0..L; row i attends to `0..i + 1`. Masks for the same tokens take the slots L..2L; row i
/// attends to the slots `0..i` and to itself.
///
/// # Errors
/// If shapes differ, an order is not a permutation, or a token is outside the vocabulary.
pub fn set_rows(
    sort_idx: &[Vec<u32>],
    x0_sorted: &[Vec<u32>],
    mask_index: u32,
    vocab: usize,
) -> Result<(Layout, Vec<u32>, StepRows), RowsError> {
    let masks = |order: &Vec<u32>| vec![mask_index; order.len()];
    let masks: Vec<Vec<u32>> = sort_idx.iter().map(masks).collect();
    let (mode, x0) = (MaskMode::Causal, Some(x0_sorted));
    forward_rows(mode, true, sort_idx, &masks, x0, mask_index, vocab)
}

/// A BD3-LM's pass over texts whose blocks of `block` tokens are noised one by one, from arrays `[B, L]` in natural
/// order: 2L rows per sequence, of which those of `xt` are sampled. Returns the layout, the token buffer and the rows.
///
/// `x0` takes the slots 0..L; each row attends to its own block and earlier ones. `xt` takes the slots L..2L; each row
/// attends to the blocks of `x0` before its own, and to its own block of `xt`. If `block` does not divide the length,
/// the last block is shorter.
///
/// # Errors
/// If shapes differ, there are no tokens, a token is outside the vocabulary, or the block size is zero.
pub fn block_rows(
    block: usize,
    xt: &[Vec<u32>],
    x0: &[Vec<u32>],
    vocab: usize,
) -> Result<(Layout, Vec<u32>, StepRows), RowsError> {
    let length = xt.first().map_or(0, Vec::len);
    if length == 0 {
        return Err(RowsError::Empty("xt"));
    }
    if block == 0 {
        return Err(RowsError::BlockSize);
    }
    let span = 2 * length;
    check_size(xt.len(), length, span)?;
    if let Some(row) = xt.iter().position(|tokens| tokens.len() != length) {
        return Err(RowsError::Shape {
            name: "xt",
            other: "its first row",
            row,
            found: xt[row].len(),
            expected: length,
        });
    }
    check_tokens("xt", xt, "x0", x0, vocab)?;
    check_tokens("x0", x0, "xt", xt, vocab)?;

    let mut tokens = Vec::with_capacity(xt.len() * span);
    let mut step = StepRows::default();
    for (sequence, (xt, x0)) in xt.iter().zip(x0).enumerate() {
        let first = tokens.len() as u32;
        for slot in 0..span as u32 {
            let is_noised = slot as usize >= length;
            if is_noised {
                step.sampled.push(step.rows.len() as u32);
            }
            let position = slot % length as u32;
            step.rows.push(Row {
                sequence: sequence as u32,
                source: first + slot,
                target: if is_noised { first + slot } else { NO_TARGET },
                ..block_row(position, is_noised, block, length)
            });
        }
        tokens.extend(x0);
        tokens.extend(xt);
    }
    let layout = Layout {
        sequences: xt.len(),
        slots: span,
        tokens: tokens.len(),
    };
    Ok((layout, tokens, step))
}

/// The row of a clean or a noised token of a BD3-LM's text of `length` tokens. Clean tokens have the slots 0..length,
/// noised ones the slots after them.
pub(crate) fn block_row(position: u32, is_noised: bool, block: usize, length: usize) -> Row {
    let first = position as usize / block * block;
    let end = (first + block).min(length);
    let (offset, prefix) = match is_noised {
        true => (length, first),
        false => (0, end),
    };
    Row {
        sequence: 0,
        slot: offset as u32 + position,
        position,
        prefix: prefix as u32,
        own: match is_noised {
            true => [first, end].map(|p| (length + p) as u32),
            false => [prefix as u32; 2],
        },
        source: position,
        target: NO_TARGET,
    }
}

/// Checks that the row table can address `sequences` sequences of `length` tokens with `span` rows each.
fn check_size(sequences: usize, length: usize, span: usize) -> Result<(), RowsError> {
    match sequences > MAX_TOKENS / span {
        true => Err(RowsError::Size {
            rows: sequences,
            length,
            max: MAX_TOKENS,
        }),
        false => Ok(()),
    }
}

/// Checks that `array` has the shape of another one and contains tokens of the vocabulary.
fn check_tokens(
    name: &'static str,
    array: &[Vec<u32>],
    other: &'static str,
    shape: &[Vec<u32>],
    vocab: usize,
) -> Result<(), RowsError> {
    for (row, like) in shape.iter().enumerate() {
        let tokens = array.get(row).map_or(&[][..], Vec::as_slice);
        if tokens.len() != like.len() {
            return Err(RowsError::Shape {
                name,
                other,
                row,
                found: tokens.len(),
                expected: like.len(),
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
