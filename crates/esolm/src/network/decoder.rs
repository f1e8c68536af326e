//! Decoders of the Qwen3, Qwen2 and Llama kinds as Burn modules, in their published, unfolded form.
//!
//! *Qwen3 Technical Report*, arXiv 2505.09388; the reference is `models/qwen3/modeling_qwen3.py` of transformers, with `qwen2` and `llama`
//! beside it, and `modeling_sdar.py` of SDAR (arXiv 2510.06303), which computes the same. A token embedding, N layers of attention and MLP,
//! each with a root mean square norm (arXiv 1910.07467) before it, and an output matrix, which may be the embedding. Query heads share heads of keys and values (arXiv 2305.13245); the MLP has a
//! gate (arXiv 2002.05202). Some networks norm q and k of every head before they are turned, others have biases there.
//!
//! The diffusion language models that are made of them have the same network: which rows attend to which is data.

use burn::module::{Module, Param};
use burn::nn::{Embedding, Linear};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor};
use esolm_core::checkpoint::{Checkpoint, CheckpointError};
use esolm_core::config::{DECODER_EMBEDDING, Decoder, ModelConfig};

use super::attention::{EXCLUDED, Rotary};
use super::load::Loader;

/// x / sqrt(mean(x^2) + eps) times a weight, over the last dimension.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d]`.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    /// The same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let square = x.clone().square().mean_dim(D - 1);
        x / (square + self.eps).sqrt() * self.weight.val().unsqueeze()
    }
}

/// softmax(q kT / sqrt(head_dim)) v, query head h with the keys and values of head h / (heads / kv_heads).
#[derive(Module, Debug)]
pub struct SharedAttention {
    /// `q_proj`, d to (head, head_dim).
    pub q: Linear,
    /// `k_proj`, d to (kv_head, head_dim).
    pub k: Linear,
    /// `v_proj`, d to (kv_head, head_dim).
    pub v: Linear,
    /// `o_proj`, (head, head_dim) to d.
    pub out: Linear,
    /// Of every query head.
    pub q_norm: Option<RmsNorm>,
    /// Of every head of keys.
    pub k_norm: Option<RmsNorm>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl SharedAttention {
    /// What a product gives of `x` `[B, R, d]`, by heads and normed: `[B, heads, R, head_dim]`.
    fn heads(
        &self,
        linear: &Linear,
        heads: usize,
        norm: Option<&RmsNorm>,
        x: Tensor<3>,
    ) -> Tensor<4> {
        let [batch, rows, _] = x.dims();
        let y = linear.forward(x);
        let y = y.reshape([batch, rows, heads, self.head_dim]);
        match norm {
            Some(norm) => norm.forward(y),
            None => y,
        }
        .swap_dims(1, 2)
    }

    /// Keys, turned, and values of `x` `[B, R, d]`: what a cache holds, `[B, kv_heads, R, head_dim]` each.
    pub fn keys_values(&self, x: Tensor<3>, rotary: &Rotary) -> [Tensor<4>; 2] {
        let k = self.heads(&self.k, self.kv_heads, self.k_norm.as_ref(), x.clone());
        [rotary.apply(k), self.heads(&self.v, self.kv_heads, None, x)]
    }

    /// Attends within `x` `[B, R, d]`.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotary: &Rotary,
        mask: Option<&Tensor<3, Bool>>,
    ) -> Tensor<3> {
        let [batch, rows, _] = x.dims();
        let [k, v] = self.keys_values(x.clone(), rotary);
        let q = rotary.apply(self.heads(&self.q, self.heads, self.q_norm.as_ref(), x));
        // Each head of keys and values as often as it is read.
        let group = self.heads / self.kv_heads;
        let shared = |x: Tensor<4>| {
            let x = x.unsqueeze_dim::<5>(2);
            x.expand([batch, self.kv_heads, group, rows, self.head_dim])
                .reshape([batch, self.heads, rows, self.head_dim])
        };
        let mut scores = q.matmul(shared(k).swap_dims(2, 3)) / (self.head_dim as f64).sqrt();
        if let Some(mask) = mask {
            let excluded: Tensor<4, Bool> = mask.clone().bool_not().unsqueeze_dim(1);
            scores = scores.mask_fill(excluded.expand([batch, self.heads, rows, rows]), EXCLUDED);
        }
        let attended = softmax(scores, 3).matmul(shared(v)).swap_dims(1, 2);
        let width = self.heads * self.head_dim;
        self.out.forward(attended.reshape([batch, rows, width]))
    }
}

/// Attention and MLP, each with a norm before it, and added to the residual stream.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// `input_layernorm`.
    pub norm1: RmsNorm,
    /// `self_attn`.
    pub attention: SharedAttention,
    /// `post_attention_layernorm`.
    pub norm2: RmsNorm,
    /// `mlp.gate_proj`, d to the inner width.
    pub gate: Linear,
    /// `mlp.up_proj`, d to the inner width.
    pub up: Linear,
    /// `mlp.down_proj`, the inner width to d.
    pub down: Linear,
}

impl DecoderLayer {
    /// The hidden state `[B, R, d]` after this layer.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotary: &Rotary,
        mask: Option<&Tensor<3, Bool>>,
    ) -> Tensor<3> {
        let attended = self
            .attention
            .forward(self.norm1.forward(x.clone()), rotary, mask);
        let x = x + attended;
        let h = self.norm2.forward(x.clone());
        x + self
            .down
            .forward(silu(self.gate.forward(h.clone())) * self.up.forward(h))
    }
}

/// The whole decoder.
#[derive(Module, Debug)]
pub struct DecoderNetwork {
    /// `embed_tokens`, `[V, d]`.
    pub embedding: Embedding,
    /// `layers`.
    pub layers: Vec<DecoderLayer>,
    /// `norm`.
    pub norm: RmsNorm,
    /// `lm_head`, d to V; `None` where it is the embedding.
    pub head: Option<Linear>,
    head_dim: usize,
    rotary_base: f64,
}

impl DecoderNetwork {
    /// Logits `[B, R, V]` of the tokens `[B, R]` at the positions `[B, R]`. `mask` `[B, R, R]` is true where a row may attend to a column;
    /// `None`: everywhere.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: Option<Tensor<3, Bool>>,
    ) -> Tensor<3> {
        let rotary = self.rotary(positions);
        let mut x = self.embedding.forward(tokens);
        for layer in &self.layers {
            x = layer.forward(x, &rotary, mask.as_ref());
        }
        let x = self.norm.forward(x);
        match &self.head {
            Some(head) => head.forward(x),
            None => {
                let table = self.embedding.weight.val().transpose();
                x.matmul(table.unsqueeze())
            }
        }
    }

    /// Rotary angles of the positions `[B, R]`.
    pub fn rotary(&self, positions: Tensor<2, Int>) -> Rotary {
        Rotary::new(positions, self.head_dim, self.rotary_base)
    }

    /// Loads the parameters of a decoder onto a device.
    ///
    /// # Errors
    /// When a tensor of the checkpoint cannot be read; of a network of another kind it has none of them.
    pub fn load(ckpt: &Checkpoint, device: &Device) -> Result<Self, CheckpointError> {
        let config = ckpt.config();
        let missing = || CheckpointError::NoSuchTensor {
            name: DECODER_EMBEDDING.into(),
            family: config.family,
        };
        let decoder = config.decoder.as_ref().ok_or_else(missing)?;
        let layers = Layers {
            loader: Loader { ckpt, device },
            config,
            decoder,
        };
        let loader = &layers.loader;
        Ok(Self {
            embedding: Embedding {
                weight: loader.matrix(
                    ckpt.f32(DECODER_EMBEDDING)?,
                    [config.vocab_size, config.hidden],
                ),
            },
            layers: (0..config.n_blocks)
                .map(|index| layers.layer(index))
                .collect::<Result<_, _>>()?,
            norm: layers.norm("model.norm")?,
            head: match decoder.tied {
                true => None,
                false => Some(loader.linear("lm_head", config.hidden)?),
            },
            head_dim: decoder.head_dim,
            rotary_base: decoder.rotary_base,
        })
    }
}

/// What loads the layers.
struct Layers<'a> {
    loader: Loader<'a>,
    config: &'a ModelConfig,
    decoder: &'a Decoder,
}

impl Layers<'_> {
    fn norm(&self, name: &str) -> Result<RmsNorm, CheckpointError> {
        Ok(RmsNorm {
            weight: self.loader.vector(&format!("{name}.weight"))?,
            eps: self.decoder.eps,
        })
    }

    fn layer(&self, index: usize) -> Result<DecoderLayer, CheckpointError> {
        let at = format!("model.layers.{index}");
        let (config, decoder) = (self.config, self.decoder);
        let linear = |name: &str, n_in| self.loader.linear(&format!("{at}.{name}"), n_in);
        let norm = |name: &str| self.norm(&format!("{at}.{name}"));
        let of_head = |name: &str| match decoder.has_qk_norm() {
            true => norm(name).map(Some),
            false => Ok(None),
        };
        Ok(DecoderLayer {
            norm1: norm("input_layernorm")?,
            attention: SharedAttention {
                q: linear("self_attn.q_proj", config.hidden)?,
                k: linear("self_attn.k_proj", config.hidden)?,
                v: linear("self_attn.v_proj", config.hidden)?,
                out: linear("self_attn.o_proj", config.q_width())?,
                q_norm: of_head("self_attn.q_norm")?,
                k_norm: of_head("self_attn.k_norm")?,
                heads: config.n_heads,
                kv_heads: decoder.kv_heads,
                head_dim: decoder.head_dim,
            },
            norm2: norm("post_attention_layernorm")?,
            gate: linear("mlp.gate_proj", config.hidden)?,
            up: linear("mlp.up_proj", config.hidden)?,
            down: linear("mlp.down_proj", decoder.inner)?,
        })
    }
}
