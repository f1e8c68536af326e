//! What a network's blocks have in common: their sizes, and which of two kinds they are.
//!
//! Blocks of models/dit.py have layer norms, and an MLP with GELU between its two matrices. Those of decoders have RMS
//! norms and a gated MLP. Both take the same path; they differ in what a norm computes from a row, and in the epilogue
//! of a product.

use esolm_core::config::ModelConfig;
use esolm_core::quantise::GROUP;

use super::attention::Heads;
use super::packed::{Finish, PANEL};
use super::stream::padded;

// A panel of gates and ups yields one group of the next product's input.
const _: () = assert!(PANEL == 2 * GROUP);

/// What a norm computes from a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Norm {
    /// (x - mean) / sqrt(var + 1e-5).
    Layer,
    /// x / sqrt(mean(x^2) + eps).
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
}

/// Sizes and kind of all blocks.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Width of the model.
    pub(super) hidden: usize,
    pub(super) heads: Heads,
    /// Inner width of the MLP.
    pub(super) inner: usize,
    pub(super) norm: Norm,
    /// Whether the MLP has a gate.
    pub(super) is_gated: bool,
}

impl Shape {
    pub(super) fn of(config: &ModelConfig) -> Self {
        Self {
            hidden: config.hidden,
            heads: Heads::of(config),
            inner: config.inner(),
            norm: match &config.decoder {
                None => Norm::Layer,
                Some(decoder) => Norm::Rms {
                    eps: decoder.eps as f32,
                },
            },
            is_gated: config.decoder.is_some(),
        }
    }

    /// Columns of the query-key-value product.
    pub(super) fn qkv(self) -> usize {
        self.heads.width() + 2 * self.heads.kv_width()
    }

    /// Columns of the MLP's first product. With a gate, gates and ups alternate in groups, the last of them
    /// zero-padded.
    pub(super) fn up(self) -> usize {
        match self.is_gated {
            true => 2 * self.inner.next_multiple_of(GROUP),
            false => self.inner,
        }
    }

    /// Epilogue of the MLP's first product.
    pub(super) fn up_finish(self) -> Finish {
        match self.is_gated {
            true => Finish::Gate,
            false => Finish::Gelu,
        }
    }

    /// Padded columns of the widest product in a block.
    pub(super) fn widest_product(self) -> usize {
        let widths = [self.qkv(), self.up(), self.hidden];
        widths.map(padded).into_iter().max().unwrap_or(0)
    }

    /// Columns of the widest product input.
    pub(super) fn widest_input(self) -> usize {
        self.hidden.max(self.heads.width()).max(self.inner)
    }

    /// Inputs and outputs of a block's matrices.
    pub(super) fn matrices(self) -> [[usize; 2]; 4] {
        [
            [self.hidden, self.qkv()],
            [self.heads.width(), self.hidden],
            [self.hidden, self.up()],
            [self.inner, self.hidden],
        ]
    }
}
