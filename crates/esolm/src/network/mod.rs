//! The network of the Eso-LM family as Burn modules, in its published, unfolded form.
//!
//! *Esoteric Language Models*, arXiv 2506.01928; the reference is `models/dit.py` of the GitHub repository
//! s-sahoo/Eso-LMs. One transformer serves Eso-LM, MDLM (arXiv 2406.07524) and AR: a token embedding, N pre-norm blocks
//! with rotary attention and adaLN modulation, and an untied output layer. Some networks, including most AR ones, have
//! neither `sigma_map` nor adaLN. At run time the families differ only in which rows may attend to which, and that is
//! data (`mask.rs`).
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`Network`] and its forward pass |
//! | `block.rs` | one transformer block, adaLN, the output layer |
//! | `attention.rs` | rotary positions and masked attention |
//! | `decoder.rs` | [`DecoderNetwork`]: decoders of the Qwen3, Qwen2 and Llama kinds |
//! | `timestep.rs` | `sigma_map`, the embedding of the noise level |
//! | `mask.rs` | the reference pass over a step's rows: prefixes become a dense mask |
//! | `load.rs` | parameters from a checkpoint |
//! | `fold.rs`, `fold/decoder.rs` | constant folding for inference: conditioning, and weights of norms |
//! | `store.rs` | writing quantised folded networks to a folder, and the format in which they are run |
//!
//! This is the reference definition, used for training and for tests. The executors run the folded form with a cache
//! and never build a mask.

mod attention;
mod block;
mod decoder;
pub mod fold;
mod load;
mod mask;
pub mod store;
mod timestep;

use burn::module::Module;
use burn::nn::Embedding;
use burn::tensor::{Bool, Int, Tensor, activation::silu};
use esolm_core::config::ROTARY_BASE;

pub use attention::{Attention, Rotary};
pub use block::{AdaLn, Block, Modulation, OutputLayer, gelu_tanh};
pub use decoder::{DecoderLayer, DecoderNetwork, RmsNorm, SharedAttention};
pub use mask::StepInput;
pub use timestep::TimestepEmbedder;

/// The backbone (class `DIT` of models/dit.py; with blocks of `DDiTBlockCausal` where there is no adaLN).
#[derive(Module, Debug)]
pub struct Network {
    /// Token embedding, `[V, d]`, not tied to the output.
    pub vocab_embed: Embedding,
    /// Embedding of the noise level; `None` without adaLN.
    pub sigma_map: Option<TimestepEmbedder>,
    /// The transformer blocks.
    pub blocks: Vec<Block>,
    /// Final norm and logits.
    pub output_layer: OutputLayer,
    n_heads: usize,
    mask_index: usize,
}

/// What every block reads besides the hidden state.
pub struct Context {
    /// Rotary angles of the rows.
    pub rotary: Rotary,
    /// `[B, R, R]`: true where the row (second dimension) may attend to the column; `None` lets all rows attend to all.
    pub mask: Option<Tensor<3, Bool>>,
    /// Conditioning vectors `[B, 1, cond_dim]`, after the outer SiLU; `None` without adaLN.
    pub condition: Option<Tensor<3>>,
}

impl Network {
    /// Logits `[B, R, V]` of the tokens `[B, R]` at the natural positions `[B, R]`.
    ///
    /// `mask` `[B, R, R]` is true where a row may attend to a column (`None`: everywhere). `sigma` `[B]` is the noise level; the
    /// published algorithms replace it by zero always, which is what `None` means. Without adaLN it is ignored. The mask token's column of the
    /// logits is untouched.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: Option<Tensor<3, Bool>>,
        sigma: Option<Tensor<1>>,
    ) -> Tensor<3> {
        let context = self.context(positions, mask, sigma);
        let mut x = self.vocab_embed.forward(tokens);
        for block in &self.blocks {
            x = block.forward(x, &context);
        }
        self.output_layer.forward(x, context.condition)
    }

    /// What the blocks read besides the hidden state; arguments as for [`Network::forward`].
    pub fn context(
        &self,
        positions: Tensor<2, Int>,
        mask: Option<Tensor<3, Bool>>,
        sigma: Option<Tensor<1>>,
    ) -> Context {
        let [batch, _] = positions.dims();
        let condition = self.sigma_map.as_ref().map(|sigma_map| {
            let sigma = sigma.unwrap_or_else(|| Tensor::zeros([batch], &positions.device()));
            self.condition(sigma_map, sigma).unsqueeze_dim(1)
        });
        let [_, hidden] = self.vocab_embed.weight.dims();
        Context {
            rotary: Rotary::new(positions, hidden / self.n_heads, ROTARY_BASE),
            mask,
            condition,
        }
    }

    /// The conditioning vector of sigma = 0, which the published algorithms hand the network always, `[1, cond_dim]`; `None` without adaLN.
    pub fn constant_condition(&self) -> Option<Tensor<2>> {
        let sigma_map = self.sigma_map.as_ref()?;
        let device = self.vocab_embed.weight.val().device();
        Some(self.condition(sigma_map, Tensor::zeros([1], &device)))
    }

    /// The conditioning vectors `[B, cond_dim]`, `t_cond` of the published code.
    fn condition(&self, sigma_map: &TimestepEmbedder, sigma: Tensor<1>) -> Tensor<2> {
        silu(sigma_map.forward(sigma))
    }
}
