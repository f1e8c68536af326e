//! One pass: rows going through the blocks, in reused memory.
//!
//! Everything between two products is fused into them: norms and rounding into reading rows; bias, GELU or gate, and
//! the residual into writing results.

use esolm_core::config::ModelConfig;
use esolm_core::rows::Row;

use super::attention::{Cache, Heads};
use super::centre;
use super::inputs::{Form, Inputs, Source};
use super::math;
use super::packed::{Finish, Target};
use super::product::Matrix;
use super::rotary::Rotary;
use super::shape::Shape;
use super::stream::{self, Gated, Joined, Moments, Normed, Panels, Scaled, padded};
use crate::error::EngineError;
use crate::memory::{self, MemoryUse};

/// Maximum rows per product.
pub(super) const ROWS: usize = 256;
/// Maximum rows of logits held at once.
pub(super) const LOGIT_ROWS: usize = 64;

/// The matrices of a block.
pub(super) struct Block {
    pub(super) qkv: Matrix,
    /// The norms of q and k per head, if there are any.
    pub(super) qk_norm: Option<QkNorm>,
    pub(super) out: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

/// Working memory of passes. It grows to the largest pass ([`super::estimate::pass`]) and is kept.
#[derive(Default)]
pub(super) struct Scratch {
    /// The residual stream, `[panels, rows, 64]`.
    pub(super) x: Vec<f32>,
    /// `[heads, rows, wide]`, scaled by 1 / sqrt(head_dim).
    q: Vec<f32>,
    /// `[heads, rows, wide]`.
    attended: Vec<f32>,
    /// Keys of the rows of a product, `[kv_heads, rows, wide]`.
    k: Vec<f32>,
    /// The rows of a product.
    inputs: Inputs,
    moments: Vec<Moments>,
    /// Output of a product, `[panels, rows, 64]`.
    product: Vec<f32>,
    /// `[LOGIT_ROWS, V]`.
    logits: Vec<f32>,
    rotary: Rotary,
    /// The rows in the last block's attention.
    rows: Vec<Row>,
    /// If requested, the means of the norms' outputs, one after the other.
    pub(super) means: Option<Vec<Vec<f32>>>,
}

impl Scratch {
    /// Makes room for a pass of `rows` rows, `sampled` of them sampled.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn reserve(
        &mut self,
        purpose: MemoryUse,
        config: &ModelConfig,
        form: Form,
        rows: usize,
        sampled: usize,
    ) -> Result<(), EngineError> {
        let (shape, vocab) = (Shape::of(config), config.vocab_size);
        let Heads {
            heads, kv_heads, ..
        } = shape.heads;
        let joined = heads * shape.heads.wide();
        let (some, drawn) = (rows.min(ROWS), sampled.min(LOGIT_ROWS));
        let wide = (some * shape.widest_product()).max(drawn * padded(vocab));
        for (buffer, len) in [
            (&mut self.x, rows * padded(shape.hidden)),
            (&mut self.q, rows * joined),
            (&mut self.attended, rows * joined),
            (&mut self.k, some * kv_heads * shape.heads.wide()),
            (&mut self.product, wide),
            (&mut self.logits, drawn * vocab),
        ] {
            memory::grown(purpose, buffer, len, 0.0)?;
        }
        memory::grown(purpose, &mut self.moments, some, Moments::default())?;
        self.inputs
            .reserve(purpose, form, some, shape.widest_input())
    }

    /// Initialises row `row` of `rows` with what `write` writes, `[hidden]`.
    pub(super) fn embed(
        &mut self,
        rows: usize,
        row: usize,
        hidden: usize,
        write: impl FnOnce(&mut [f32]),
    ) {
        // Not in use yet.
        let line = &mut self.product[..hidden];
        write(line);
        stream::write_row(&mut self.x, rows, row, line);
    }

    /// Computes the rows' rotary angles.
    pub(super) fn turn(&mut self, rows: &[Row], heads: Heads, base: f64) {
        self.rotary.fill(rows, heads.head_dim, base);
    }

    /// Feeds the normalised rows `first..first + count` of `rows` to the product with `matrix`.
    pub(super) fn norm(
        &mut self,
        matrix: &Matrix,
        shape: Shape,
        rows: usize,
        first: usize,
        count: usize,
    ) {
        let Shape { hidden, norm, .. } = shape;
        let x = Panels {
            values: &self.x,
            rows,
        };
        let moments = &mut self.moments[..count];
        stream::moments(x, norm, hidden, first, moments);
        let normed = |centre| Normed {
            x,
            width: hidden,
            moments,
            first,
            centre,
        };
        if matrix.scale().is_empty() {
            let source = normed(matrix.centre());
            Self::enter(
                &mut self.inputs,
                &mut self.means,
                matrix,
                hidden,
                count,
                &source,
            );
            return;
        }
        let source = Scaled {
            normed: normed(&[]),
            scale: matrix.scale(),
            centre: matrix.centre(),
        };
        Self::enter(
            &mut self.inputs,
            &mut self.means,
            matrix,
            hidden,
            count,
            &source,
        );
    }

    fn enter(
        inputs: &mut Inputs,
        means: &mut Option<Vec<Vec<f32>>>,
        matrix: &Matrix,
        hidden: usize,
        count: usize,
        source: &impl Source,
    ) {
        if let Some(means) = means {
            means.push(centre::mean(source, count, hidden));
        }
        inputs.fill(matrix.form(), count, hidden, source);
    }
}

/// Norms of q and k, per head.
pub(super) struct QkNorm {
    /// For query heads, `[head_dim]`.
    pub(super) q: Vec<f32>,
    /// For key heads, `[head_dim]`.
    pub(super) k: Vec<f32>,
    pub(super) eps: f32,
}

impl QkNorm {
    fn apply(&self, head: &mut [f32], weights: &[f32]) {
        let square = math::sum_of(head, head, |a, b| a * b) / head.len() as f32;
        let scale = stream::inverse_root(square, self.eps);
        for (x, weight) in head.iter_mut().zip(weights) {
            *x *= scale * weight;
        }
    }
}

/// Splits `rows` rows into parts that go through a product together: first row and count.
fn parts(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows)
        .step_by(ROWS)
        .map(move |first| (first, ROWS.min(rows - first)))
}

impl Block {
    /// Runs the block over all `rows`. If `sampled` is given, keys and values are written for all rows, but the rest is
    /// computed only for the sampled ones, and only those are left.
    pub(super) fn run(
        &self,
        rows: &[Row],
        sampled: Option<&[u32]>,
        shape: Shape,
        cache: &mut Cache,
        scratch: &mut Scratch,
    ) {
        let heads = shape.heads;
        self.qkv(rows, shape, cache, scratch);
        let Some(sampled) = sampled else {
            let size = rows.len() * heads.heads * heads.wide();
            let out = &mut scratch.attended[..size];
            cache.attend(rows, &scratch.q[..size], out);
            self.after(rows.len(), shape, scratch);
            return;
        };
        let wide = heads.wide();
        let size = rows.len() * heads.heads * wide;
        stream::keep(&mut scratch.q[..size], rows.len(), wide, sampled);
        let size = rows.len() * padded(shape.hidden);
        let panel = padded(1);
        stream::keep(&mut scratch.x[..size], rows.len(), panel, sampled);
        scratch.rows.clear();
        let kept = sampled.iter().map(|&i| rows[i as usize]);
        scratch.rows.extend(kept);
        let size = sampled.len() * heads.heads * wide;
        let out = &mut scratch.attended[..size];
        cache.attend(&scratch.rows, &scratch.q[..size], out);
        self.after(sampled.len(), shape, scratch);
    }

    /// Computes the rotated and scaled queries of all rows; keys and values go to the cache.
    fn qkv(&self, rows: &[Row], shape: Shape, cache: &mut Cache, scratch: &mut Scratch) {
        let heads = shape.heads;
        let (head_dim, wide) = (heads.head_dim, heads.wide());
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (first, count) in parts(rows.len()) {
            scratch.norm(&self.qkv, shape, rows.len(), first, count);
            let product = &mut scratch.product[..count * self.qkv.padded()];
            let target = Target {
                values: product,
                rows: count,
                first: 0,
            };
            self.qkv.product(&scratch.inputs, Finish::Store, target);
            let product = Panels {
                values: product,
                rows: count,
            };
            let rotary = &scratch.rotary;
            let q = &mut scratch.q[..rows.len() * heads.heads * wide];
            let work = count * heads.width() * 2;
            math::for_chunks(q, rows.len() * wide, work, |head, q| {
                let q = q[first * wide..].chunks_exact_mut(wide).take(count);
                for (row, q) in q.enumerate() {
                    let q = &mut q[..head_dim];
                    product.copy(row, head * head_dim, q);
                    if let Some(norm) = &self.qk_norm {
                        norm.apply(q, &norm.q);
                    }
                    rotary.turn(first + row, q);
                    q.iter_mut().for_each(|q| *q *= scale);
                }
            });
            let k = &mut scratch.k[..count * heads.kv_heads * wide];
            let (of_k, of_v) = (heads.width(), heads.width() + heads.kv_width());
            math::for_chunks(k, count * wide, work, |head, k| {
                for (row, k) in k.chunks_exact_mut(wide).enumerate() {
                    let k = &mut k[..head_dim];
                    product.copy(row, of_k + head * head_dim, k);
                    if let Some(norm) = &self.qk_norm {
                        norm.apply(k, &norm.k);
                    }
                    rotary.turn(first + row, k);
                }
            });
            cache.scatter(&rows[first..first + count], k, |row, head, to| {
                product.copy(row, of_v + head * head_dim, to);
            });
        }
    }

    /// Adds the attention output and then the MLP to the rows.
    fn after(&self, rows: usize, shape: Shape, scratch: &mut Scratch) {
        let heads = shape.heads;
        for (first, count) in parts(rows) {
            let attended = Joined {
                values: &scratch.attended,
                rows,
                first,
                heads,
            };
            scratch
                .inputs
                .fill(self.out.form(), count, heads.width(), &attended);
            let x = rows * self.out.padded();
            let target = Target {
                values: &mut scratch.x[..x],
                rows,
                first,
            };
            self.out.product(&scratch.inputs, Finish::Add, target);

            scratch.norm(&self.up, shape, rows, first, count);
            let values = &mut scratch.product[..count * self.up.padded()];
            let target = Target {
                values,
                rows: count,
                first: 0,
            };
            self.up.product(&scratch.inputs, shape.up_finish(), target);
            let (inputs, form, inner) = (&mut scratch.inputs, self.down.form(), shape.inner);
            match shape.is_gated {
                true => inputs.fill(
                    form,
                    count,
                    inner,
                    &Gated {
                        values,
                        rows: count,
                    },
                ),
                false => inputs.fill(
                    form,
                    count,
                    inner,
                    &Panels {
                        values,
                        rows: count,
                    },
                ),
            }
            let target = Target {
                values: &mut scratch.x[..x],
                rows,
                first,
            };
            self.down.product(&scratch.inputs, Finish::Add, target);
        }
    }
}

/// Fills `out` with `width` values per row that the last block left, computed from the row's index and its logits
/// `[V]`.
pub(super) fn for_logits<T: Send>(
    head: &Matrix,
    config: &ModelConfig,
    scratch: &mut Scratch,
    rows: usize,
    (out, width): (&mut [T], usize),
    fill: impl Fn(usize, &mut [f32], &mut [T]) + Sync,
) {
    let (shape, vocab) = (Shape::of(config), config.vocab_size);
    for (part, out) in out.chunks_mut(LOGIT_ROWS * width).enumerate() {
        let (first, count) = (part * LOGIT_ROWS, out.len() / width);
        scratch.norm(head, shape, rows, first, count);
        let product = &mut scratch.product[..count * head.padded()];
        let target = Target {
            values: product,
            rows: count,
            first: 0,
        };
        head.product(&scratch.inputs, Finish::Store, target);
        let product = Panels {
            values: product,
            rows: count,
        };
        let logits = (&mut scratch.logits[..count * vocab], vocab);
        let work = count * vocab;
        math::for_pairs(logits, (out, width), work, |row, logits, out| {
            product.copy(row, 0, logits);
            fill(first + row, logits, out);
        });
    }
}
