//! Folding of decoders of the Qwen3, Qwen2 and Llama kinds.
//!
//! A norm here is x / sqrt(mean(x^2) + eps) times a weight w, and W (n w) = (W diag(w)) n: so the weights of both norms of a layer go into the
//! columns of the matrices after them, and that of the last norm into those of an output matrix of its own. An output matrix that is the
//! embedding stays as it is, so that it is held once, and rows are scaled by the weight when they enter it ([`Folding::head_scale`]).
//! q, k and v become one matrix, and so do gate and up.

use std::ops::Range;

use esolm_core::checkpoint::{CheckpointError, Values};
use esolm_core::config::Decoder;
use esolm_core::quantise::{GROUP, Groups, Q4, Q8};

use super::{FoldedBlock, Folding, Layer, QkNorm};
use crate::error::EngineError;

impl Folding<'_> {
    /// The matrices of layer `index`.
    pub(super) fn decoder_block(
        &self,
        index: usize,
        decoder: &Decoder,
    ) -> Result<FoldedBlock, EngineError> {
        let hidden = self.config().hidden;
        let at = format!("model.layers.{index}");
        let layer = |name: &str| self.layer(&format!("{at}.{name}"));
        let before = |norm: &str| self.before(&format!("{at}.{norm}"), None, None);
        let vector = |name: &str| self.ckpt.f32(&format!("{at}.self_attn.{name}.weight"));
        let [q, k, v] = ["q", "k", "v"].map(|part| layer(&format!("self_attn.{part}_proj")));
        let qkv = stacked(
            format!("{at}.self_attn.{{q,k,v}}_proj.weight"),
            vec![q?, k?, v?],
            hidden,
        );
        let gate_up = in_turns(
            format!("{at}.mlp.{{gate,up}}_proj.weight"),
            layer("mlp.gate_proj")?,
            layer("mlp.up_proj")?,
            hidden,
            self.stretch,
        );
        Ok(FoldedBlock {
            qkv: before("input_layernorm")?.fold(qkv)?,
            qk_norm: match decoder.has_qk_norm() {
                true => Some(QkNorm {
                    q: vector("q_norm")?,
                    k: vector("k_norm")?,
                }),
                false => None,
            },
            out: layer("self_attn.o_proj")?.finish(self.config().q_width())?,
            up: before("post_attention_layernorm")?.fold(gate_up)?,
            down: layer("mlp.down_proj")?.finish(decoder.inner)?,
        })
    }

    /// What rows that the last norm left, without its weight, are multiplied by before they enter the output matrix, `[d]`; `None` where
    /// that is folded into it.
    ///
    /// # Errors
    /// When the tensor cannot be read.
    pub fn head_scale(&self) -> Result<Option<Vec<f32>>, CheckpointError> {
        match &self.config().decoder {
            Some(Decoder { tied: true, .. }) => self.ckpt.f32("model.norm.weight").map(Some),
            _ => Ok(None),
        }
    }
}

/// The rows `[n_out, n_in]` of several matrices, one after the other.
fn stacked(name: String, layers: Vec<Layer>, n_in: usize) -> Layer {
    let has_bias = layers.iter().any(|layer| layer.bias.is_some());
    let mut rows = Stack::new(n_in, layers.iter());
    for layer in &layers {
        let count = layer.values.floats.len() / n_in;
        rows.push(layer, 0..count);
    }
    rows.into_layer(name, has_bias)
}

/// The rows `[inner, n_in]` of two matrices: `stretch` of the first, as many of the second, and so on, the last stretches filled up with
/// zeros.
fn in_turns(name: String, first: Layer, second: Layer, n_in: usize, stretch: usize) -> Layer {
    let inner = first.values.floats.len() / n_in;
    let layers = [&first, &second];
    let has_bias = layers.iter().any(|layer| layer.bias.is_some());
    let mut rows = Stack::new(n_in, layers.into_iter());
    for from in (0..inner).step_by(stretch) {
        let to = inner.min(from + stretch);
        for layer in layers {
            rows.push(layer, from..to);
            rows.push_zeros(stretch - (to - from));
        }
    }
    rows.into_layer(name, has_bias)
}

/// Rows of several matrices that become one. It keeps the groups in which they were stored where all have such of as many bits.
struct Stack {
    n_in: usize,
    values: Values,
    bias: Vec<f32>,
}

impl Stack {
    fn new<'a>(n_in: usize, mut layers: impl Iterator<Item = &'a Layer> + Clone) -> Self {
        let mut all = layers.clone().map(|layer| &layer.values.groups);
        let groups = match layers.next().and_then(|first| first.values.groups.as_ref()) {
            Some(Groups::Q8(_)) if all.all(|g| matches!(g, Some(Groups::Q8(_)))) => {
                Some(Groups::Q8(Vec::new()))
            }
            Some(Groups::Q4(_)) if all.all(|g| matches!(g, Some(Groups::Q4(_)))) => {
                Some(Groups::Q4(Vec::new()))
            }
            _ => None,
        };
        Self {
            n_in,
            values: Values {
                floats: Vec::new(),
                groups,
            },
            bias: Vec::new(),
        }
    }

    /// Adds rows of one of the matrices.
    fn push(&mut self, layer: &Layer, rows: Range<usize>) {
        let floats = &layer.values.floats[rows.start * self.n_in..rows.end * self.n_in];
        self.values.floats.extend(floats);
        match &layer.bias {
            Some(own) => self.bias.extend(&own[rows.clone()]),
            None => self.bias.resize(self.bias.len() + rows.len(), 0.0),
        }
        let per_row = self.n_in.div_ceil(GROUP);
        let of = rows.start * per_row..rows.end * per_row;
        match (&mut self.values.groups, &layer.values.groups) {
            (Some(Groups::Q8(all)), Some(Groups::Q8(own))) => all.extend(&own[of]),
            (Some(Groups::Q4(all)), Some(Groups::Q4(own))) => all.extend(&own[of]),
            _ => {}
        }
    }

    fn push_zeros(&mut self, rows: usize) {
        let row = vec![0.0; self.n_in];
        let per_row = self.n_in.div_ceil(GROUP);
        for _ in 0..rows {
            self.values.floats.extend(&row);
            self.bias.push(0.0);
        }
        let zeros = [0.0; GROUP];
        match &mut self.values.groups {
            Some(Groups::Q8(all)) => all.resize(all.len() + rows * per_row, Q8::new(&zeros)),
            Some(Groups::Q4(all)) => all.resize(all.len() + rows * per_row, Q4::new(&zeros)),
            None => {}
        }
    }

    fn into_layer(self, name: String, has_bias: bool) -> Layer {
        Layer {
            name,
            values: self.values,
            bias: has_bias.then_some(self.bias),
        }
    }
}
