//! The embedding and the output matrix, which have a row for each token. They are the largest matrices of a network with few blocks, or a
//! large vocabulary, so they are read and folded some tokens at a time.

use std::ops::Range;

use esolm_core::checkpoint::{CheckpointError, Rows, Values};
use esolm_core::config::{DECODER_EMBEDDING, DECODER_HEAD, Decoder};
use esolm_core::quantise::{GROUP, Groups, Q8};
use esolm_core::sampler::NEVER;

use super::{Before, Folding, Layer, Linear};
use crate::error::EngineError;

/// Tokens that are read at a time.
pub const TOKENS: usize = 4096;

/// So many tokens, [`TOKENS`] at a time, from `first` on.
pub fn parts(tokens: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = tokens.end;
    let part = move |first| first..end.min(first + TOKENS);
    tokens.step_by(TOKENS).map(part)
}

/// The token embedding, or that of some tokens.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[V, d]`.
    pub values: Vec<f32>,
    /// d.
    pub hidden: usize,
    /// The groups `[V, groups]` that it was stored in, where they are those of the engine.
    pub groups: Option<Groups>,
    /// The tensor that it is.
    pub name: &'static str,
}

impl Embedding {
    /// The tensor that it is in the networks of models/dit.py.
    pub const NAME: &str = "vocab_embed.embedding";

    /// An embedding `[V, hidden]` that was not stored in groups.
    pub fn new(values: Vec<f32>, hidden: usize) -> Self {
        Self {
            values,
            hidden,
            groups: None,
            name: Self::NAME,
        }
    }

    /// The groups of a token's row in 8 bits, as they were stored or rounded. The last may be short.
    pub fn q8(&self, token: usize) -> impl Iterator<Item = Q8> {
        let stored = match &self.groups {
            Some(Groups::Q8(groups)) => Some(groups),
            _ => None,
        };
        let first = token * self.hidden.div_ceil(GROUP);
        let row = self.values[token * self.hidden..(token + 1) * self.hidden].chunks(GROUP);
        let group = move |(index, weights)| match stored {
            Some(groups) => groups[first + index],
            None => Q8::new(weights),
        };
        row.enumerate().map(group)
    }

    /// Those of all its tokens, `[V, groups]`.
    pub fn all_q8(&self) -> impl Iterator<Item = Q8> {
        (0..self.tokens()).flat_map(|token| self.q8(token))
    }

    /// V, or how many tokens these are.
    pub fn tokens(&self) -> usize {
        self.values.len() / self.hidden
    }
}

/// The token embedding as it is read.
pub struct EmbeddingRows<'a> {
    rows: Rows<'a>,
    hidden: usize,
    name: &'static str,
}

impl EmbeddingRows<'_> {
    /// Tokens, and the width of the network.
    pub fn sizes(&self) -> [usize; 2] {
        [self.rows.count(), self.hidden]
    }

    /// That of some tokens.
    ///
    /// # Errors
    /// When it cannot be read.
    ///
    /// # Panics
    /// When one of them lies outside of the vocabulary.
    pub fn part(&self, tokens: Range<usize>) -> Result<Embedding, CheckpointError> {
        let Values { floats, groups } = self.rows.read(tokens)?;
        Ok(Embedding {
            values: floats,
            hidden: self.hidden,
            groups,
            name: self.name,
        })
    }
}

/// The output matrix as it is read and folded.
pub struct HeadRows<'a> {
    name: String,
    rows: Rows<'a>,
    /// `None` where the last norm stays outside.
    before: Option<Before>,
    bias: Option<Vec<f32>>,
    /// Tokens that must not be drawn, ascending.
    never: &'a [u32],
    n_in: usize,
}

impl HeadRows<'_> {
    /// Inputs and outputs of the matrix.
    pub fn sizes(&self) -> [usize; 2] {
        [self.n_in, self.rows.count()]
    }

    /// The matrix of some tokens.
    ///
    /// # Errors
    /// When it cannot be read, or the folded weights overflow.
    ///
    /// # Panics
    /// When one of them lies outside of the vocabulary.
    pub fn linear(&self, tokens: Range<usize>) -> Result<Linear, EngineError> {
        let layer = Layer {
            name: self.name.clone(),
            values: self.rows.read(tokens.clone())?,
            bias: self.bias.as_ref().map(|bias| bias[tokens.clone()].to_vec()),
        };
        let layer = match &self.before {
            Some(before) => before.put_into(layer),
            None => layer,
        };
        let mut linear = layer.finish(self.n_in)?;
        for &token in self.never {
            if tokens.contains(&(token as usize)) {
                linear.bias[token as usize - tokens.start] = NEVER;
            }
        }
        Ok(linear)
    }
}

impl<'a> Folding<'a> {
    /// The token embedding `[V, d]`, as it is.
    ///
    /// # Errors
    /// When the tensor cannot be read.
    pub fn embedding_rows(&self) -> Result<EmbeddingRows<'a>, CheckpointError> {
        let name = match self.config().decoder {
            Some(_) => DECODER_EMBEDDING,
            None => Embedding::NAME,
        };
        Ok(EmbeddingRows {
            rows: self.ckpt.rows(name)?,
            hidden: self.config().hidden,
            name,
        })
    }

    /// The output matrix `[d, V]`, which takes the plain normalised hidden state, times [`Folding::head_scale`] where there is one. Tokens
    /// that must not be drawn have a bias that forbids it.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn head_rows(&self) -> Result<HeadRows<'a>, EngineError> {
        Ok(HeadRows {
            never: self.ckpt.unused_tokens(),
            ..self.open_head_rows()?
        })
    }

    /// As [`Folding::head_rows`], with the biases of all tokens as they are.
    ///
    /// # Errors
    /// As there.
    pub fn open_head_rows(&self) -> Result<HeadRows<'a>, EngineError> {
        let (tensor, before) = match &self.config().decoder {
            None => {
                let d = self.config().hidden;
                let chunks = self.modulation("output_layer")?;
                let chunk = |i: usize| chunks.as_ref().map(|all| &all[i * d..(i + 1) * d]);
                let before = self.before("output_layer.norm_final", chunk(0), chunk(1))?;
                ("output_layer.linear.weight", Some(before))
            }
            // One that is the embedding stays as it is.
            Some(Decoder { tied: true, .. }) => (DECODER_EMBEDDING, None),
            Some(_) => (DECODER_HEAD, Some(self.before("model.norm", None, None)?)),
        };
        Ok(HeadRows {
            rows: self.ckpt.rows(tensor)?,
            bias: self.optional(&tensor.replace("weight", "bias"))?,
            name: tensor.into(),
            before,
            never: &[],
            n_in: self.config().hidden,
        })
    }
}
