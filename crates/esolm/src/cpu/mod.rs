//! Runs passes of a plan on the CPU: folded weights, a KV cache and Burn's Flex backend for all products. The backend is called by its
//! name, not through Burn's tensors: whoever lets those choose among backends carries the kernels of all of them, and in a browser that
//! is most of the download.
//!
//! What lies between two products (norm, bias, rotary, softmax, GELU, residual) is fused into loops over host memory, which Flex
//! hands over and takes back without a copy: as Burn operations they would be ten passes over the activations instead of one.

mod attention;
pub mod math;
mod product;

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::{ModelConfig, rotary_frequencies};
use esolm_core::rows::{Layout, MASKED, Row, StepRows};
use esolm_core::sampler::{MASK_LOGIT, NO_TOKEN, NoiseSource, are_finite, sample_row};
use esolm_core::trace::Counters;

use crate::error::EngineError;
use crate::executor::{Draw, Executor, NoiseKey, Pending};
#[cfg(not(target_family = "wasm"))]
use crate::measure::Rates;
#[cfg(not(target_family = "wasm"))]
use crate::measure::forms::{Comparison, Scope};
use crate::network::fold::Folding;

use attention::{Cache, Heads, spans};
use product::Matrix;

/// Most rows whose MLP is held at once.
const MLP_ROWS: usize = 1024;
/// Most rows whose logits are held at once.
const LOGIT_ROWS: usize = 64;

struct Block {
    qkv: Matrix,
    out: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A model on the CPU.
pub struct CpuExecutor {
    config: ModelConfig,
    heads: Heads,
    /// `[V, d]`.
    embedding: Vec<f32>,
    blocks: Vec<Block>,
    head: Matrix,
    state: State,
}

/// What belongs to the batch that runs.
#[derive(Default)]
struct State {
    layout: Layout,
    tokens: Vec<u32>,
    caches: Vec<Cache>,
    sampled: Sampled,
}

/// The sampled rows of the last pass.
#[derive(Default)]
struct Sampled {
    /// Normalised hidden states, `[sampled, d]`.
    x: Vec<f32>,
    keys: Vec<NoiseKey>,
    /// Where each token goes.
    targets: Vec<u32>,
}

impl CpuExecutor {
    /// Folds the constant conditioning, block by block.
    ///
    /// # Errors
    /// When a tensor of the checkpoint cannot be read.
    pub async fn load(ckpt: &Checkpoint) -> Result<Self, EngineError> {
        let config = ckpt.config().clone();
        ckpt.fetch("sigma_map.").await?;
        let folding = Folding::new(ckpt)?;
        // The largest first: while it is rearranged it is there twice.
        ckpt.fetch("output_layer.").await?;
        let head = Matrix::new(&folding.head()?);
        ckpt.fetch("vocab_embed.").await?;
        let embedding = folding.embedding()?;
        let mut blocks = Vec::with_capacity(config.n_blocks);
        for index in 0..config.n_blocks {
            ckpt.fetch(&format!("blocks.{index}.")).await?;
            let block = folding.block(index)?;
            blocks.push(Block {
                qkv: Matrix::new(&block.qkv),
                out: Matrix::new(&block.out),
                up: Matrix::new(&block.up),
                down: Matrix::new(&block.down),
            });
        }
        Ok(Self {
            heads: Heads {
                heads: config.n_heads,
                head_dim: config.head_dim(),
            },
            config,
            embedding,
            blocks,
            head,
            state: State::default(),
        })
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the KV cache that the current batch holds.
    pub fn cache_bytes(&self) -> usize {
        let block = attention::cache_bytes(&self.state.layout, self.heads).unwrap_or(0);
        block * self.state.caches.len()
    }

    /// Asks for the memory of all caches at once, so that too large a batch ends in a sentence.
    fn reserve(&self, layout: &Layout) -> Result<(), EngineError> {
        let bytes = attention::cache_bytes(layout, self.heads)
            .and_then(|bytes| bytes.checked_mul(self.blocks.len()));
        match bytes {
            Some(bytes) if Vec::<u8>::new().try_reserve_exact(bytes).is_ok() => Ok(()),
            _ => Err(EngineError::HostMemory {
                what: format!(
                    "the KV cache of {} sequences of {} slots",
                    layout.sequences, layout.slots
                ),
                bytes: bytes.map(|bytes| bytes as u64),
            }),
        }
    }

    /// Fills `out`, `width` values for each sampled row of the last pass, from the row's index and its logits `[V]`.
    fn for_logits<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        fill: impl Fn(usize, &mut [f32], &mut [T]) + Sync,
    ) {
        let vocab = self.config.vocab_size;
        let chunks = self.state.sampled.x.chunks(LOGIT_ROWS * self.config.hidden);
        for (chunk, (x, out)) in chunks.zip(out.chunks_mut(LOGIT_ROWS * width)).enumerate() {
            let product = self.head.product(x);
            let work = out.len() / width * vocab;
            math::for_chunks(out, width, work, |row, out| {
                let mut logits = vec![0.0; vocab];
                product.write_row(row, &mut logits);
                fill(chunk * LOGIT_ROWS + row, &mut logits, out);
            });
        }
    }

    /// Runs the blocks and returns the normalised hidden state of the sampled rows, `[sampled, d]`.
    fn hidden_states(&mut self, step: &StepRows) -> Vec<f32> {
        if step.rows.is_empty() {
            return Vec::new();
        }
        let hidden = self.config.hidden;
        let mut x = self.embed(&step.rows);
        let rotary = Rotary::new(&step.rows, self.heads.head_dim);
        let all = spans(&step.rows);
        let last = self.blocks.len() - 1;
        for (index, (block, cache)) in self.blocks.iter().zip(&mut self.state.caches).enumerate() {
            let mut qkv = block.qkv(&math::normalise(&x, hidden), &rotary, self.heads);
            cache.scatter(&step.rows, &qkv.k, &qkv.v);
            let attended = if index < last {
                cache.attend(&step.rows, &all, &qkv.q, &qkv.k, &qkv.v)
            } else {
                // Of the others only keys and values are wanted, and those are written.
                for values in [&mut x, &mut qkv.q, &mut qkv.k, &mut qkv.v] {
                    *values = select(values, &step.sampled, hidden);
                }
                let rows: Vec<Row> = step
                    .sampled
                    .iter()
                    .map(|&i| step.rows[i as usize])
                    .collect();
                cache.attend(&rows, &spans(&rows), &qkv.q, &qkv.k, &qkv.v)
            };
            if attended.is_empty() {
                continue;
            }
            block.out.product(&attended).add_to(&mut x);
            for x in x.chunks_mut(MLP_ROWS * hidden) {
                block.mlp(x, hidden);
            }
        }
        math::normalise(&x, hidden)
    }

    /// Embeddings of the rows' tokens, `[rows, d]`.
    fn embed(&self, rows: &[Row]) -> Vec<f32> {
        let hidden = self.config.hidden;
        let mut x = Vec::with_capacity(rows.len() * hidden);
        for row in rows {
            let token = match row.source {
                MASKED => self.config.mask_index,
                source => self.state.tokens[source as usize],
            };
            match token {
                // Whoever reads the tokens finds it; nothing that comes of it may pass for a text until then.
                NO_TOKEN => x.resize(x.len() + hidden, f32::NAN),
                token => x.extend(&self.embedding[token as usize * hidden..][..hidden]),
            }
        }
        x
    }
}

impl Executor for CpuExecutor {
    fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError> {
        if self.state.layout.sequences != layout.sequences
            || self.state.layout.slots != layout.slots
        {
            // Where the memory does not suffice, nothing of the batch before may pass for that of the next one.
            self.state = State::default();
            self.reserve(layout)?;
            let cache = |_| Cache::new(layout, self.heads);
            self.state.caches = (0..self.blocks.len()).map(cache).collect();
        }
        self.state.layout = *layout;
        self.state.tokens = tokens.to_vec();
        self.state.sampled = Sampled::default();
        Ok(())
    }

    fn pass(&mut self, step: &StepRows, keys: &[NoiseKey]) -> Result<(), EngineError> {
        let target = |&index: &u32| step.rows[index as usize].target;
        self.state.sampled = Sampled {
            x: self.hidden_states(step),
            keys: keys.to_vec(),
            targets: step.sampled.iter().map(target).collect(),
        };
        Ok(())
    }

    fn draw(&mut self, draw: &Draw) -> Result<(), EngineError> {
        let vocab = self.config.vocab_size;
        let sampled = &self.state.sampled;
        let mut drawn = vec![0u32; sampled.keys.len()];
        self.for_logits(&mut drawn, 1, |index, logits, drawn| {
            let [sequence, position] = sampled.keys[index];
            let noise = match draw.noise {
                Some(noise) => NoiseSource::Given(&noise[index * vocab..(index + 1) * vocab]),
                None => NoiseSource::Seeded {
                    seed: draw.seed,
                    sequence,
                    position,
                },
            };
            drawn[0] = sample_row(logits, self.config.mask_index, &draw.sampler, noise);
        });
        let state = &mut self.state;
        for (&target, token) in state.sampled.targets.iter().zip(drawn) {
            state.tokens[target as usize] = token;
        }
        Ok(())
    }

    fn logits(&mut self) -> Pending<'_, Vec<f32>> {
        let vocab = self.config.vocab_size;
        let mut all = vec![0.0; self.state.sampled.keys.len() * vocab];
        self.for_logits(&mut all, vocab, |_, logits, out| {
            out.copy_from_slice(logits)
        });
        Box::pin(std::future::ready(Ok(all)))
    }

    fn score<'a>(&'a mut self, targets: &'a [u32]) -> Pending<'a, Vec<f32>> {
        let mask = self.config.mask_index;
        let mut scores = vec![0.0; targets.len()];
        self.for_logits(&mut scores, 1, |index, logits, score| {
            if !are_finite(logits, mask) {
                score[0] = f32::NAN;
                return;
            }
            logits[mask as usize] = MASK_LOGIT;
            let top = math::max(logits, f32::MIN);
            let wanted = logits[targets[index] as usize] - top;
            score[0] = wanted - math::exp_sum(logits, top).ln();
        });
        Box::pin(std::future::ready(Ok(scores)))
    }

    fn tokens(&mut self) -> Pending<'static, Vec<u32>> {
        Box::pin(std::future::ready(Ok(self.state.tokens.clone())))
    }

    fn wait(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    #[cfg(not(target_family = "wasm"))]
    fn rates(&self) -> Pending<'_, Option<Rates>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    #[cfg(not(target_family = "wasm"))]
    fn compare(&self, _scope: &Scope) -> Pending<'_, Option<Vec<Comparison>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

/// The rows `indices` of `values` `[rows, width]`.
fn select(values: &[f32], indices: &[u32], width: usize) -> Vec<f32> {
    indices
        .iter()
        .flat_map(|&i| &values[i as usize * width..][..width])
        .copied()
        .collect()
}

/// Cosines and sines of each row's rotary angles, `[rows, head_dim / 2]`.
struct Rotary {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    fn new(rows: &[Row], head_dim: usize) -> Self {
        let frequencies: Vec<f32> = rotary_frequencies(head_dim).collect();
        let angles = rows
            .iter()
            .flat_map(|row| frequencies.iter().map(move |f| row.position as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Self { cos, sin }
    }

    /// Turns each pair (i, i + head_dim / 2) of each head of a row.
    fn turn(&self, row: usize, values: &mut [f32], head_dim: usize) {
        let half = head_dim / 2;
        let cos = &self.cos[row * half..(row + 1) * half];
        let sin = &self.sin[row * half..(row + 1) * half];
        for head in values.chunks_exact_mut(head_dim) {
            let (a, b) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// Queries (scaled by 1 / sqrt(head_dim)), keys and values of the rows, `[rows, d]` each, q and k turned.
struct Qkv {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Block {
    fn qkv(&self, x: &[f32], rotary: &Rotary, heads: Heads) -> Qkv {
        let hidden = heads.hidden();
        let rows = x.len() / hidden;
        let product = self.qkv.product(x);
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        let zeros = || vec![0.0; rows * hidden];
        let mut qkv = Qkv {
            q: zeros(),
            k: zeros(),
            v: zeros(),
        };
        let mut all = vec![0.0; 3 * hidden];
        for row in 0..rows {
            product.write_row(row, &mut all);
            let (q, kv) = all.split_at_mut(hidden);
            let (k, v) = kv.split_at_mut(hidden);
            rotary.turn(row, q, heads.head_dim);
            rotary.turn(row, k, heads.head_dim);
            q.iter_mut().for_each(|q| *q *= scale);
            let at = row * hidden..(row + 1) * hidden;
            qkv.q[at.clone()].copy_from_slice(q);
            qkv.k[at.clone()].copy_from_slice(k);
            qkv.v[at].copy_from_slice(v);
        }
        qkv
    }

    /// Adds the MLP of the normalised `x` `[rows, d]` to it.
    fn mlp(&self, x: &mut [f32], hidden: usize) {
        let product = self.up.product(&math::normalise(x, hidden));
        let width = self.up.n_out();
        let mut inner = vec![0.0; x.len() / hidden * width];
        let work = inner.len();
        math::for_chunks(&mut inner, width, work, |row, out| {
            for (first, values, bias) in product.row(row) {
                math::gelu(&mut out[first..first + values.len()], values, bias);
            }
        });
        self.down.product(&inner).add_to(x);
    }
}
