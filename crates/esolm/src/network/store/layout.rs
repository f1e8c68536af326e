//! Which tensors a folded network is stored as, and in which order.

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::{DECODER_EMBEDDING, DECODER_HEAD, Decoder, ModelConfig};

use crate::network::fold::Embedding;

/// The published module that holds the networks of models/dit.py.
const NETWORK: &str = "backbone";

/// A matrix `[n_out, n_in]`.
#[derive(Clone)]
pub(super) struct Matrix {
    /// What the names of its tensors begin with.
    pub module: String,
    /// The name of its tensor where it stays floats.
    pub floats: String,
    pub n_in: usize,
    pub n_out: usize,
    /// Whether it has a bias, or gets one from what is folded into it.
    pub has_bias: bool,
}

impl Matrix {
    fn new(module: impl Into<String>, [n_in, n_out]: [usize; 2], has_bias: bool) -> Self {
        let module = module.into();
        Self {
            floats: format!("{module}.weight"),
            module,
            n_in,
            n_out,
            has_bias,
        }
    }

    pub(super) fn values(&self) -> usize {
        self.n_in * self.n_out
    }

    /// The matrix of a block of which this is the first block's.
    fn of_block(&self, index: usize) -> Self {
        let name = |name: &str| name.replacen(".0.", &format!(".{index}."), 1);
        Self {
            module: name(&self.module),
            floats: name(&self.floats),
            ..self.clone()
        }
    }
}

/// One or more tensors.
pub(super) enum Tensor {
    /// The embedding, or the output matrix.
    End(Matrix),
    OfBlock(Matrix),
    /// A vector of so many floats.
    Floats(String, usize),
}

/// The matrices of a network, and its norms.
pub(super) struct Layout {
    pub embedding: Matrix,
    /// Those of the first block, in the order of `FoldedBlock::matrices`: where that has several in one, in the order of its columns.
    pub block: Vec<Matrix>,
    /// Norms of the first block with their widths: those that are not folded, then both that are.
    norms: Vec<(String, usize)>,
    /// `None` where the output matrix is the embedding.
    pub head: Option<Matrix>,
    /// The last norm, with its width.
    last: (String, usize),
}

impl Layout {
    pub(super) fn of(ckpt: &Checkpoint) -> Self {
        match &ckpt.config().decoder {
            None => Self::published(ckpt),
            Some(decoder) => Self::decoder(ckpt, decoder),
        }
    }

    /// Of a network of models/dit.py.
    fn published(ckpt: &Checkpoint) -> Self {
        let config = ckpt.config();
        let d = config.hidden;
        let is_shifted = |norm: &str| config.cond_dim > 0 || ckpt.has(&format!("{norm}.bias"));
        let matrix = |name: &str, norm: Option<&str>, sizes| {
            let has_bias = ckpt.has(&format!("{name}.bias")) || norm.is_some_and(is_shifted);
            Matrix::new(format!("{NETWORK}.{name}"), sizes, has_bias)
        };
        let (norm1, norm2) = ("blocks.0.norm1", "blocks.0.norm2");
        let norm = |norm: &str| (format!("{NETWORK}.{norm}.weight"), d);
        let last = "output_layer.norm_final";
        let sizes = [d, config.vocab_size];
        Self {
            embedding: Matrix {
                floats: format!("{NETWORK}.{}", Embedding::NAME),
                ..matrix("vocab_embed", None, sizes)
            },
            block: vec![
                matrix("blocks.0.attn_qkv", Some(norm1), [d, 3 * d]),
                matrix("blocks.0.attn_out", None, [d, d]),
                matrix("blocks.0.mlp.0", Some(norm2), [d, 4 * d]),
                matrix("blocks.0.mlp.2", None, [4 * d, d]),
            ],
            norms: vec![norm(norm1), norm(norm2)],
            head: Some(matrix("output_layer.linear", Some(last), sizes)),
            last: norm(last),
        }
    }

    fn decoder(ckpt: &Checkpoint, decoder: &Decoder) -> Self {
        let config = ckpt.config();
        let (d, inner) = (config.hidden, decoder.inner);
        let [q, kv] = [config.q_width(), config.kv_width()];
        let matrix =
            |module: &str, sizes| Matrix::new(module, sizes, ckpt.has(&format!("{module}.bias")));
        let of_block = |name: &str, sizes| matrix(&format!("model.layers.0.{name}"), sizes);
        let norm = |name: &str, width| (format!("model.layers.0.{name}.weight"), width);
        let of_heads = ["self_attn.q_norm", "self_attn.k_norm"];
        let mut norms = of_heads.map(|name| norm(name, decoder.head_dim)).to_vec();
        norms.retain(|_| decoder.has_qk_norm());
        norms.extend(["input_layernorm", "post_attention_layernorm"].map(|name| norm(name, d)));
        let end = |tensor: &str| {
            let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
            matrix(module, [d, config.vocab_size])
        };
        Self {
            embedding: end(DECODER_EMBEDDING),
            block: vec![
                of_block("self_attn.q_proj", [d, q]),
                of_block("self_attn.k_proj", [d, kv]),
                of_block("self_attn.v_proj", [d, kv]),
                of_block("self_attn.o_proj", [q, d]),
                of_block("mlp.gate_proj", [d, inner]),
                of_block("mlp.up_proj", [d, inner]),
                of_block("mlp.down_proj", [inner, d]),
            ],
            norms,
            head: (!decoder.tied).then(|| end(DECODER_HEAD)),
            last: ("model.norm.weight".into(), d),
        }
    }

    /// The embedding, and the output matrix unless it is the same.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Matrix> {
        [&self.embedding].into_iter().chain(&self.head)
    }

    /// All that is stored, in its order.
    pub(super) fn tensors(&self, config: &ModelConfig) -> Vec<Tensor> {
        let mut tensors = vec![Tensor::End(self.embedding.clone())];
        for index in 0..config.n_blocks {
            let matrices = self.block.iter().map(|matrix| matrix.of_block(index));
            tensors.extend(matrices.map(Tensor::OfBlock));
            tensors.extend(self.norms.iter().map(|(name, width)| {
                Tensor::Floats(name.replacen(".0.", &format!(".{index}."), 1), *width)
            }));
        }
        tensors.extend(self.head.clone().map(Tensor::End));
        let (name, width) = self.last.clone();
        tensors.push(Tensor::Floats(name, width));
        tensors
    }
}
