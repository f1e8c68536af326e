//! What the blocks of a network have in common: sizes, and which of two kinds of blocks they are.
//!
//! Blocks of models/dit.py have layer norms and GELU between two matrices of their MLP; those of decoders have norms by the mean square, and
//! a gate beside. Both are one path: they differ in what is measured of a row before a product, and in how a product ends.

use esolm_core::config::ModelConfig;
use esolm_core::quantise::GROUP;

use super::attention::Heads;
use super::packed::{Finish, PANEL};
use super::stream::padded;

// A panel of gates and ups gives one group of what enters the next product.
const _: () = assert!(PANEL == 2 * GROUP);

/// What a norm measures of a row.
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

/// Sizes that all blocks share, and their kind.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Width of the model.
    pub(super) hidden: usize,
    pub(super) heads: Heads,
    /// Width inside the MLP.
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

    /// Columns of the product for q, k and v.
    pub(super) fn qkv(self) -> usize {
        self.heads.width() + 2 * self.heads.kv_width()
    }

    /// Columns of the first product of the MLP: gates and ups in turns of a group each, the last of them filled up.
    pub(super) fn up(self) -> usize {
        match self.is_gated {
            true => 2 * self.inner.next_multiple_of(GROUP),
            false => self.inner,
        }
    }

    /// How the first product of the MLP ends.
    pub(super) fn up_finish(self) -> Finish {
        match self.is_gated {
            true => Finish::Gate,
            false => Finish::Gelu,
        }
    }

    /// Columns that are held for a row of the widest product inside a block.
    pub(super) fn widest_product(self) -> usize {
        let widths = [self.qkv(), self.up(), self.hidden];
        widths.map(padded).into_iter().max().unwrap_or(0)
    }

    /// Columns of the widest row that enters a product.
    pub(super) fn widest_input(self) -> usize {
        self.hidden.max(self.heads.width()).max(self.inner)
    }

    /// The matrices of a block, inputs and outputs.
    pub(super) fn matrices(self) -> [[usize; 2]; 4] {
        [
            [self.hidden, self.qkv()],
            [self.heads.width(), self.hidden],
            [self.hidden, self.up()],
            [self.inner, self.hidden],
        ]
    }
}
