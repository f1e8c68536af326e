//! Folding of decoders of the Qwen3, Qwen2 and Llama kinds.
//!
//! A norm here is x / sqrt(mean(x^2) + eps) times a weight w, and W (n w) = (W diag(w)) n: so the weights of both norms of a layer go into the
//! columns of the matrices after them, and that of the last norm into those of an output matrix of its own. An output matrix that is the
//! embedding stays as it is, so that it is held once, and rows are scaled by the weight when they enter it ([`Folding::head_scale`]).
//! q, k and v become one matrix, and so do gate and up.

use esolm_core::checkpoint::{CheckpointError, Values};
use esolm_core::config::{DECODER_EMBEDDING, DECODER_HEAD, Decoder};

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

    /// The output matrix, with the last norm in it unless it is the embedding.
    pub(super) fn decoder_head(&self, decoder: &Decoder) -> Result<Layer, EngineError> {
        let module = |tensor: &'static str| tensor.strip_suffix(".weight").unwrap_or(tensor);
        Ok(match decoder.tied {
            true => self.layer(module(DECODER_EMBEDDING))?,
            false => {
                let before = self.before("model.norm", None, None)?;
                before.put_into(self.layer(module(DECODER_HEAD))?)
            }
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
    let (mut floats, mut bias) = (Vec::new(), Vec::new());
    for layer in layers {
        let rows = layer.values.floats.len() / n_in;
        floats.extend(layer.values.floats);
        bias.extend(layer.bias.unwrap_or_else(|| vec![0.0; rows]));
    }
    Layer {
        name,
        values: Values {
            floats,
            groups: None,
        },
        bias: has_bias.then_some(bias),
    }
}

/// The rows `[inner, n_in]` of two matrices: `stretch` of the first, as many of the second, and so on, the last stretches filled up with
/// zeros.
fn in_turns(name: String, first: Layer, second: Layer, n_in: usize, stretch: usize) -> Layer {
    let inner = first.values.floats.len() / n_in;
    let width = 2 * inner.next_multiple_of(stretch);
    let mut floats = Vec::with_capacity(width * n_in);
    let has_bias = first.bias.is_some() || second.bias.is_some();
    let mut bias = Vec::with_capacity(width);
    for from in (0..inner).step_by(stretch) {
        let to = inner.min(from + stretch);
        for layer in [&first, &second] {
            floats.extend(&layer.values.floats[from * n_in..to * n_in]);
            floats.resize(floats.len() + (stretch - (to - from)) * n_in, 0.0);
            if let Some(own) = &layer.bias {
                bias.extend(&own[from..to]);
            }
            bias.resize(floats.len() / n_in, 0.0);
        }
    }
    Layer {
        name,
        values: Values {
            floats,
            groups: None,
        },
        bias: has_bias.then_some(bias),
    }
}
