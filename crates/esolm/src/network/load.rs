//! Parameters of a [`Network`] from a checkpoint. Names are the published ones without `backbone.`.

use burn::module::{Param, ParamId};
use burn::nn::{DropoutConfig, Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor, TensorData};
use esolm_core::checkpoint::{Checkpoint, CheckpointError};
use esolm_core::config::ModelConfig;

use super::fold::transpose;
use super::{AdaLn, Attention, Block, Network, OutputLayer, TimestepEmbedder};

/// Puts parameters onto a device.
pub(super) struct Loader<'a> {
    pub ckpt: &'a Checkpoint,
    pub device: &'a Device,
}

impl Loader<'_> {
    pub(super) fn vector(&self, name: &str) -> Result<Param<Tensor<1>>, CheckpointError> {
        let values = self.ckpt.f32(name)?;
        let shape = [values.len()];
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        Ok(Param::initialized(ParamId::new(), tensor))
    }

    pub(super) fn matrix(&self, values: Vec<f32>, shape: [usize; 2]) -> Param<Tensor<2>> {
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        Param::initialized(ParamId::new(), tensor)
    }

    /// A vector that not every network has.
    fn optional(&self, name: &str) -> Result<Option<Param<Tensor<1>>>, CheckpointError> {
        let there = self.ckpt.has(name);
        there.then(|| self.vector(name)).transpose()
    }

    /// PyTorch holds `[out, in]`, Burn `[in, out]`.
    pub(super) fn linear(&self, name: &str, n_in: usize) -> Result<Linear, CheckpointError> {
        let values = self.ckpt.f32(&format!("{name}.weight"))?;
        let n_out = values.len() / n_in;
        Ok(Linear {
            weight: self.matrix(transpose(&values, n_out, n_in), [n_in, n_out]),
            bias: self.optional(&format!("{name}.bias"))?,
        })
    }

    fn norm(&self, name: &str, hidden: usize) -> Result<LayerNorm, CheckpointError> {
        let mut norm = LayerNormConfig::new(hidden)
            .with_bias(false)
            .with_epsilon(1e-5)
            .init(self.device);
        norm.gamma = self.vector(&format!("{name}.weight"))?;
        norm.beta = self.optional(&format!("{name}.bias"))?;
        Ok(norm)
    }

    fn ada_ln(&self, at: &str, config: &ModelConfig) -> Result<Option<AdaLn>, CheckpointError> {
        (config.cond_dim > 0)
            .then(|| {
                let linear = self.linear(&format!("{at}.adaLN_modulation"), config.cond_dim)?;
                Ok(AdaLn { linear })
            })
            .transpose()
    }

    fn block(&self, index: usize, config: &ModelConfig) -> Result<Block, CheckpointError> {
        let hidden = config.hidden;
        let at = format!("blocks.{index}");
        let linear = |name: &str, n_in| self.linear(&format!("{at}.{name}"), n_in);
        Ok(Block {
            norm1: self.norm(&format!("{at}.norm1"), hidden)?,
            attention: Attention {
                qkv: linear("attn_qkv", hidden)?,
                out: linear("attn_out", hidden)?,
                n_heads: config.n_heads,
            },
            norm2: self.norm(&format!("{at}.norm2"), hidden)?,
            mlp_up: linear("mlp.0", hidden)?,
            mlp_down: linear("mlp.2", 4 * hidden)?,
            ada_ln: self.ada_ln(&at, config)?,
            dropout: DropoutConfig::new(config.dropout).init(),
        })
    }
}

impl Network {
    /// Loads the parameters onto a device.
    ///
    /// # Errors
    /// When a tensor of the checkpoint cannot be read.
    pub fn load(ckpt: &Checkpoint, device: &Device) -> Result<Self, CheckpointError> {
        let config = ckpt.config();
        let hidden = config.hidden;
        let loader = Loader { ckpt, device };
        let sigma_map = (config.cond_dim > 0)
            .then(|| {
                Ok::<_, CheckpointError>(TimestepEmbedder {
                    mlp_in: loader
                        .linear("sigma_map.mlp.0", esolm_core::config::TIMESTEP_EMBEDDING)?,
                    mlp_out: loader.linear("sigma_map.mlp.2", config.cond_dim)?,
                })
            })
            .transpose()?;
        Ok(Self {
            vocab_embed: Embedding {
                weight: loader.matrix(
                    ckpt.f32("vocab_embed.embedding")?,
                    [config.vocab_size, hidden],
                ),
            },
            sigma_map,
            blocks: (0..config.n_blocks)
                .map(|index| loader.block(index, config))
                .collect::<Result<_, _>>()?,
            output_layer: OutputLayer {
                norm_final: loader.norm("output_layer.norm_final", hidden)?,
                linear: loader.linear("output_layer.linear", hidden)?,
                ada_ln: loader.ada_ln("output_layer", config)?,
            },
            n_heads: config.n_heads,
            mask_index: config.mask_index as usize,
        })
    }
}
