//! A checkpoint onto a GPU: folded, reordered and uploaded, a block at a time.

use esolm_core::checkpoint::Checkpoint;

use super::{Block, positions};
use crate::error::EngineError;
use crate::kernels::embed::Embedding;
use crate::kernels::product::{Matrix, pair_order, rotary_table};
use crate::kernels::runtime::{Buffer, Gpu};
use crate::network::fold::{self, Folding, Linear, check_range};
use crate::weights::Weights;

/// What of a checkpoint is on the device.
pub(super) struct Loaded {
    pub embedding: Embedding,
    pub blocks: Vec<Block>,
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
        if config.decoder.is_some() {
            return Err(EngineError::CpuOnly {
                what: "a decoder of this kind".into(),
            });
        }
        ckpt.fetch("sigma_map.").await?;
        let folding = Folding::new(ckpt)?;
        let upload = |linear: &Linear, weights: Weights| {
            check_range(&linear.name, &linear.weight, weights)?;
            gpu.scoped(|| Matrix::upload(gpu, linear, weights))
        };
        ckpt.fetch("vocab_embed.").await?;
        let table = folding.embedding()?;
        check_range(fold::Embedding::NAME, &table.values, ends)?;
        let embedding = gpu.scoped(|| Embedding::upload(gpu, &table, ends))?;
        drop(table);
        let order = pair_order(config.hidden, head_dim);
        let mut blocks = Vec::with_capacity(config.n_blocks);
        for index in 0..config.n_blocks {
            ckpt.fetch(&format!("blocks.{index}.")).await?;
            let block = folding.block(index)?;
            let paired = block.qkv.with_columns(&order);
            let block = Block {
                qkv: upload(&paired, weights)?,
                out: upload(&block.out, weights)?,
                up: upload(&block.up, weights)?,
                down: upload(&block.down, weights)?,
            };
            if ![&block.qkv, &block.out, &block.up, &block.down]
                .iter()
                .all(|m| m.is_whole())
            {
                return Err(EngineError::Shape(format!(
                    "a width of {} on an adapter that binds {} MiB at most",
                    config.hidden,
                    gpu.info.max_binding_bytes() >> 20
                )));
            }
            // Uploads are queued; without a submit they would all be held in memory at once.
            gpu.submit()?;
            blocks.push(block);
        }
        ckpt.fetch("output_layer.").await?;
        let head = upload(&folding.head()?, ends)?;
        let rotary = gpu.floats(rotary_table(
            positions(config),
            head_dim,
            config.rotary_base(),
        ))?;
        let all: Vec<&Buffer> = blocks
            .iter()
            .flat_map(|b| [&b.qkv, &b.out, &b.up, &b.down])
            .chain([&head])
            .flat_map(Matrix::buffers)
            .chain(embedding.buffers())
            .chain([&rotary])
            .collect();
        gpu.check(&all).await?;
        Ok(Self {
            embedding,
            blocks,
            head,
            rotary,
        })
    }
}
