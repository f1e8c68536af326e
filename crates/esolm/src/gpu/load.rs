//! Loads a checkpoint onto a GPU: folds, reorders and uploads it one block at a time.

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::ModelConfig;

use super::{Block, positions};
use crate::error::EngineError;
use crate::kernels::embed::Embedding;
use crate::kernels::product::Matrix;
use crate::kernels::rotary::{pair_order, rotary_table};
use crate::kernels::runtime::{Buffer, Gpu};
use crate::network::fold::{Folding, Linear, Part, QkNorm, check_range, fetch};
use crate::weights::Weights;

/// The parts of a checkpoint on the device.
pub(super) struct Loaded {
    /// `None` if the output matrix is the embedding.
    pub embedding: Option<Embedding>,
    pub blocks: Vec<Block>,
    /// The weight of the last norm, if it is not folded.
    pub head_gain: Option<Buffer>,
    pub head: Matrix,
    pub rotary: Buffer,
}

impl Loaded {
    pub async fn upload(
        gpu: &Gpu,
        ckpt: &Checkpoint,
        weights: Weights,
    ) -> Result<Self, EngineError> {
        let ends = weights.at_the_ends();
        let config = ckpt.config();
        let head_dim = config.head_dim();
        if !head_dim.is_multiple_of(4) || head_dim > 128 {
            return Err(EngineError::Shape(format!(
                "heads of {head_dim} columns (multiples of 4 up to 128 are taken)"
            )));
        }
        fetch(ckpt, Part::Condition).await?;
        let folding = Folding::new(ckpt)?;
        let upload = |linear: &Linear, weights: Weights| {
            check_range(&linear.name, &linear.weight, weights)?;
            gpu.scoped(|| Matrix::upload(gpu, linear, weights))
        };
        let embedding = match is_tied(config) {
            true => None,
            false => {
                fetch(ckpt, Part::Embedding).await?;
                let table = folding.embedding_rows()?;
                Some(gpu.scoped(|| Embedding::upload_rows(gpu, &table, ends))?)
            }
        };
        let (q_width, kv_width) = (config.q_width(), config.kv_width());
        let order = pair_order(q_width + 2 * kv_width, q_width + kv_width, head_dim);
        let mut blocks = Vec::with_capacity(config.n_blocks);
        for index in 0..config.n_blocks {
            fetch(ckpt, Part::Block(index)).await?;
            let block = folding.block(index)?;
            let paired = block.qkv.with_columns(&order);
            let whole = |linear: &Linear| {
                let matrix = upload(linear, weights)?;
                match matrix.is_whole() {
                    true => Ok(matrix),
                    false => Err(EngineError::Memory {
                        what: linear.name.clone(),
                        bytes: matrix.weight_bytes(),
                        limit: gpu.info.max_binding_bytes(),
                    }),
                }
            };
            let block = Block {
                qkv: whole(&paired)?,
                head_gains: block.qk_norm.map(|norm| gains(gpu, &norm)).transpose()?,
                out: whole(&block.out)?,
                up: whole(&block.up)?,
                down: whole(&block.down)?,
            };
            // Uploads are queued; without a submit they would all be held in memory at once.
            gpu.submit()?;
            blocks.push(block);
        }
        fetch(ckpt, Part::Head).await?;
        let head = folding.head_rows()?;
        let head = gpu.scoped(|| Matrix::upload_head(gpu, &head, ends))?;
        let head_gain = folding.head_scale()?;
        let head_gain = head_gain.map(|gain| gpu.floats(gain)).transpose()?;
        let angles = rotary_table(positions(config), head_dim, config.rotary_base());
        let rotary = gpu.floats(angles)?;
        let all: Vec<&Buffer> = blocks
            .iter()
            .flat_map(|b| [&b.qkv, &b.out, &b.up, &b.down])
            .chain([&head])
            .flat_map(Matrix::buffers)
            .chain(blocks.iter().filter_map(|b| b.head_gains.as_ref()))
            .chain(embedding.iter().flat_map(Embedding::buffers))
            .chain(&head_gain)
            .chain([&rotary])
            .collect();
        gpu.check(&all).await?;
        Ok(Self {
            embedding,
            blocks,
            head_gain,
            head,
            rotary,
        })
    }
}

/// Whether the output matrix is the embedding.
pub(super) fn is_tied(config: &ModelConfig) -> bool {
    config.decoder.is_some_and(|decoder| decoder.tied)
}

/// The weights of the norms of q's and k's heads, `[2, head_dim]`, in pair order like the columns.
fn gains(gpu: &Gpu, norm: &QkNorm) -> Result<Buffer, EngineError> {
    let head_dim = norm.q.len();
    let order = pair_order(head_dim, head_dim, head_dim);
    let paired = |values: &[f32]| order.iter().map(|&c| values[c]).collect::<Vec<f32>>();
    gpu.floats([paired(&norm.q), paired(&norm.k)].concat())
}
