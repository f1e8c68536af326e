//! One pass over whole sequences, for comparison with other implementations.

use std::ops::Range;

use esolm_core::config::ModelConfig;
use esolm_core::rows::{Layout, MaskMode, RowsError, StepRows, block_rows, forward_rows, set_rows};
use serde::Deserialize;

/// One pass over whole sequences, as the published code runs it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Flat")]
pub enum Forward {
    /// Arrays `[B, L]` in sorted order.
    Sorted {
        /// Which rows attend to which.
        mode: MaskMode,
        /// The natural position of each slot.
        sort_idx: Vec<Vec<u32>>,
        /// Tokens; the mask token where unknown.
        zt_sorted: Vec<Vec<u32>>,
        /// The clean tokens, if there are two rows per token as in the sequential loss.
        x0_sorted: Option<Vec<Vec<u32>>>,
    },
    /// Arrays `[B, L]` in natural order, noised block by block: a row of `xt` attends to its own block of `xt` and to
    /// earlier blocks of `x0`.
    Blocks {
        /// Tokens per block. Default: the model's block size.
        block_size: Option<usize>,
        /// Tokens; the mask token where unknown.
        xt: Vec<Vec<u32>>,
        /// The clean tokens.
        x0: Vec<Vec<u32>>,
    },
    /// Arrays `[B, L]` in generation order. Each token is predicted from a mask that attends to itself and to the
    /// tokens earlier in the order, as in a SetDLM.
    Sets {
        /// The natural position of each slot.
        sort_idx: Vec<Vec<u32>>,
        /// The clean tokens.
        x0_sorted: Vec<Vec<u32>>,
    },
}

/// A pass as represented in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    mode: Option<MaskMode>,
    sort_idx: Option<Vec<Vec<u32>>>,
    zt_sorted: Option<Vec<Vec<u32>>>,
    x0_sorted: Option<Vec<Vec<u32>>>,
    block_size: Option<usize>,
    xt: Option<Vec<Vec<u32>>>,
    x0: Option<Vec<Vec<u32>>>,
}

impl TryFrom<Flat> for Forward {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let missing = |name| format!("missing field `{name}`");
        let is_sorted = flat.mode.is_some() || flat.sort_idx.is_some() || flat.zt_sorted.is_some();
        let is_blocks = flat.xt.is_some() || flat.x0.is_some() || flat.block_size.is_some();
        if is_blocks && (is_sorted || flat.x0_sorted.is_some()) {
            return Err("xt and x0 are for a pass over blocks, which has no other arrays".into());
        }
        if is_blocks {
            return Ok(Self::Blocks {
                block_size: flat.block_size,
                xt: flat.xt.ok_or_else(|| missing("xt"))?,
                x0: flat.x0.ok_or_else(|| missing("x0"))?,
            });
        }
        if let (None, None, Some(x0_sorted)) = (flat.mode, &flat.zt_sorted, &flat.x0_sorted) {
            return Ok(Self::Sets {
                sort_idx: flat.sort_idx.ok_or_else(|| missing("sort_idx"))?,
                x0_sorted: x0_sorted.clone(),
            });
        }
        Ok(Self::Sorted {
            mode: flat.mode.ok_or_else(|| missing("mode"))?,
            sort_idx: flat.sort_idx.ok_or_else(|| missing("sort_idx"))?,
            zt_sorted: flat.zt_sorted.ok_or_else(|| missing("zt_sorted"))?,
            x0_sorted: flat.x0_sorted,
        })
    }
}

type Pass = (Layout, Vec<u32>, StepRows);

impl Forward {
    /// Most rows that go through the network at once, so that memory does not grow with the batch.
    const ROWS_AT_ONCE: usize = 2048;

    /// Checks the arrays against each other and against a model.
    ///
    /// # Errors
    /// [`RowsError`] for the first mismatch.
    pub fn check(&self, config: &ModelConfig) -> Result<(), RowsError> {
        self.passes(config).try_for_each(|pass| pass.map(drop))
    }

    /// The array that sets the shape of the others, and its name.
    fn shape(&self) -> (&'static str, &[Vec<u32>]) {
        match self {
            Self::Sorted { sort_idx, .. } | Self::Sets { sort_idx, .. } => ("sort_idx", sort_idx),
            Self::Blocks { xt, .. } => ("xt", xt),
        }
    }

    /// Number of tokens, each of which gets logits.
    pub(crate) fn tokens(&self) -> usize {
        self.shape().1.iter().map(Vec::len).sum()
    }

    /// The passes over the whole input, a few sequences each.
    pub(crate) fn passes<'a>(
        &'a self,
        config: &'a ModelConfig,
    ) -> impl Iterator<Item = Result<Pass, RowsError>> + 'a {
        let (other, shape) = self.shape();
        let (count, length) = (shape.len(), shape.first().map_or(0, Vec::len));
        let (rows_of_token, beside) = match self {
            Self::Sorted {
                zt_sorted,
                x0_sorted,
                ..
            } => (
                1 + usize::from(x0_sorted.is_some()),
                vec![
                    ("zt_sorted", Some(zt_sorted)),
                    ("x0_sorted", x0_sorted.as_ref()),
                ],
            ),
            Self::Blocks { x0, .. } => (2, vec![("x0", Some(x0))]),
            Self::Sets { x0_sorted, .. } => (2, vec![("x0_sorted", Some(x0_sorted))]),
        };
        let share = (Self::ROWS_AT_ONCE / (length.max(1) * rows_of_token)).max(1);
        let extra =
            (beside.into_iter()).find_map(|(name, rows)| Some((name, rows?.get(count)?.len())));
        // At least one, so that empty input is reported as such.
        let starts = (0..count.max(1)).step_by(share);
        starts.map(move |start| {
            let context = config.length;
            if length > context {
                return Err(RowsError::Context {
                    name: other,
                    length,
                    context,
                });
            }
            if let Some((name, found)) = extra {
                return Err(RowsError::Shape {
                    name,
                    other,
                    row: count,
                    found,
                    expected: 0,
                });
            }
            self.pass(config, start..(start + share).min(count))
        })
    }

    /// The pass over a range of sequences.
    fn pass(&self, config: &ModelConfig, range: Range<usize>) -> Result<Pass, RowsError> {
        let vocab = config.vocab_size;
        match self {
            Self::Sorted {
                mode,
                sort_idx,
                zt_sorted,
                x0_sorted,
            } => forward_rows(
                *mode,
                x0_sorted.is_some(),
                part(sort_idx, &range),
                part(zt_sorted, &range),
                x0_sorted.as_deref().map(|rows| part(rows, &range)),
                config.mask_index,
                vocab,
            ),
            Self::Blocks { block_size, xt, x0 } => {
                let size = block_size.or(config.block_size);
                let size = size.ok_or(RowsError::NoBlockSize(config.family))?;
                block_rows(size, part(xt, &range), part(x0, &range), vocab)
            }
            Self::Sets {
                sort_idx,
                x0_sorted,
            } => set_rows(
                part(sort_idx, &range),
                part(x0_sorted, &range),
                config.mask_index,
                vocab,
            ),
        }
    }
}

fn part<'a>(rows: &'a [Vec<u32>], range: &Range<usize>) -> &'a [Vec<u32>] {
    rows.get(range.clone()).unwrap_or_default()
}
