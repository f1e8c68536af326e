//! Runs passes of a plan on the CPU: folded weights, a KV cache and Burn's Flex backend for all products. The backend is called by its
//! name, not through Burn's tensors: whoever lets those choose among backends carries the kernels of all of them, and in a browser that
//! is most of the download.
//!
//! What lies between two products (norm, bias, rotary, softmax, GELU, residual) is fused into loops over host memory, which Flex
//! hands over and takes back without a copy: as Burn operations they would be ten passes over the activations instead of one.

mod attention;
mod embedding;
mod estimate;
pub mod math;
mod packed;
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
use crate::memory::{self, MemoryUse};
use crate::network::fold::{Folding, Linear};
use crate::network::store::group_bytes;
use crate::weights::{Activations, Weights};

use attention::{Cache, Heads, spans};
use embedding::Embedding;
use estimate::Largest;
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
    embedding: Embedding,
    blocks: Vec<Block>,
    head: Matrix,
    /// The batch whose memory was asked for, and its largest pass.
    prepared: (Layout, Largest),
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
    /// Folds the constant conditioning and rounds the weights, block by block.
    ///
    /// # Errors
    /// When a tensor of the checkpoint cannot be read or held, or memory does not suffice.
    pub async fn load(
        ckpt: &Checkpoint,
        weights: Weights,
        activations: Activations,
    ) -> Result<Self, EngineError> {
        let config = ckpt.config().clone();
        start_threads()?;
        let bytes = estimate::model(&config, weights) + group_bytes(ckpt);
        memory::ask(MemoryUse::Model, bytes)?;
        ckpt.fetch("sigma_map.").await?;
        let folding = Folding::new(ckpt)?;
        // The largest first: while it is rearranged it is there twice.
        ckpt.fetch("output_layer.").await?;
        let ends = weights.at_the_ends();
        let head = Matrix::new(&folding.head()?, ends, activations)?;
        ckpt.fetch("vocab_embed.").await?;
        let embedding = Embedding::new(folding.embedding()?, ends)?;
        let matrix = |linear: &Linear| Matrix::new(linear, weights, activations);
        let mut blocks = Vec::with_capacity(config.n_blocks);
        for index in 0..config.n_blocks {
            ckpt.fetch(&format!("blocks.{index}.")).await?;
            let block = folding.block(index)?;
            blocks.push(Block {
                qkv: matrix(&block.qkv)?,
                out: matrix(&block.out)?,
                up: matrix(&block.up)?,
                down: matrix(&block.down)?,
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
            prepared: Default::default(),
            state: State::default(),
        })
    }

    /// What the network is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the KV cache that the current batch holds.
    pub fn cache_bytes(&self) -> usize {
        let block = attention::cache_bytes(&self.state.layout, self.heads) as usize;
        block * self.state.caches.len()
    }

    /// Whether the caches that there are suit a batch.
    fn has_caches(&self, layout: &Layout) -> bool {
        let state = &self.state;
        let sizes = |layout: &Layout| (layout.sequences, layout.slots);
        !state.caches.is_empty() && sizes(&state.layout) == sizes(layout)
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
    fn hidden_states(&mut self, step: &StepRows) -> Result<Vec<f32>, EngineError> {
        if step.rows.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.config.hidden;
        let purpose = batch(&self.state.layout);
        let zeros = |rows: usize| memory::zeros(purpose, rows * hidden);
        let mut x = self.embed(&step.rows)?;
        let rotary = Rotary::new(&step.rows, self.heads.head_dim);
        let all = spans(&step.rows);
        let last = self.blocks.len() - 1;
        for (index, (block, cache)) in self.blocks.iter().zip(&mut self.state.caches).enumerate() {
            let out = Qkv {
                q: zeros(step.rows.len())?,
                k: zeros(step.rows.len())?,
                v: zeros(step.rows.len())?,
            };
            let mut qkv = block.qkv(&math::normalise(&x, hidden), &rotary, self.heads, out);
            cache.scatter(&step.rows, &qkv.k, &qkv.v);
            let attended = if index < last {
                let out = zeros(step.rows.len())?;
                cache.attend(&step.rows, &all, &qkv.q, &qkv.k, &qkv.v, out)
            } else {
                // Of the others only keys and values are wanted, and those are written.
                for values in [&mut x, &mut qkv.q, &mut qkv.k, &mut qkv.v] {
                    *values = select(purpose, values, &step.sampled, hidden)?;
                }
                let rows: Vec<Row> = step
                    .sampled
                    .iter()
                    .map(|&i| step.rows[i as usize])
                    .collect();
                let out = zeros(rows.len())?;
                cache.attend(&rows, &spans(&rows), &qkv.q, &qkv.k, &qkv.v, out)
            };
            if attended.is_empty() {
                continue;
            }
            block.out.product(&attended).add_to(&mut x);
            for x in x.chunks_mut(MLP_ROWS * hidden) {
                block.mlp(x, hidden);
            }
        }
        Ok(math::normalise(&x, hidden))
    }

    /// Embeddings of the rows' tokens, `[rows, d]`.
    fn embed(&self, rows: &[Row]) -> Result<Vec<f32>, EngineError> {
        let hidden = self.config.hidden;
        let purpose = batch(&self.state.layout);
        let mut x = memory::with_capacity(purpose, rows.len() * hidden)?;
        for row in rows {
            let token = match row.source {
                MASKED => self.config.mask_index,
                source => self.state.tokens[source as usize],
            };
            match token {
                // Whoever reads the tokens finds it; nothing that comes of it may pass for a text until then.
                NO_TOKEN => x.resize(x.len() + hidden, f32::NAN),
                token => self.embedding.write(token as usize, &mut x),
            }
        }
        Ok(x)
    }
}

/// Starts the threads that share the work. They take memory as well, and are to have it before any is asked for.
fn start_threads() -> Result<(), EngineError> {
    #[cfg(not(target_family = "wasm"))]
    if let Err(error) = rayon::ThreadPoolBuilder::new().build_global()
        // There is no cause where they were started before.
        && let Some(cause) = std::error::Error::source(&error)
    {
        return Err(EngineError::Thread(cause.to_string()));
    }
    // An allocator sets address space apart for each thread at its first allocation, some 64 MiB with glibc.
    #[cfg(not(target_family = "wasm"))]
    rayon::broadcast(|_| drop(std::hint::black_box(vec![0u8; 64])));
    Ok(())
}

/// What the memory of a batch is for.
fn batch(layout: &Layout) -> MemoryUse {
    MemoryUse::Batch {
        sequences: layout.sequences,
        slots: layout.slots,
    }
}

impl Executor for CpuExecutor {
    fn prepare(&mut self, layout: &Layout, rows: usize, sampled: usize) -> Result<(), EngineError> {
        let mut largest = Largest { rows, sampled };
        if self.prepared.0 == *layout {
            let before = self.prepared.1;
            if rows <= before.rows && sampled <= before.sampled {
                return Ok(());
            }
            largest.rows = rows.max(before.rows);
            largest.sampled = sampled.max(before.sampled);
        }
        let mut bytes = estimate::pass(&self.config, layout.slots, largest, self.heads);
        if !self.has_caches(layout) {
            // Where the memory does not suffice, nothing of the batch before may pass for that of the next one.
            self.state = State::default();
            self.prepared = Default::default();
            let cache = estimate::cache(&self.config, layout, self.heads);
            bytes = bytes.saturating_add(cache);
        }
        memory::ask(batch(layout), bytes)?;
        self.prepared = (*layout, largest);
        Ok(())
    }

    fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError> {
        self.prepare(layout, 0, 0)?;
        if !self.has_caches(layout) {
            self.state = State::default();
            let cache = |_| Cache::new(layout, self.heads);
            let caches: Result<_, _> = (0..self.blocks.len()).map(cache).collect();
            self.state.caches = caches?;
        }
        self.state.layout = *layout;
        self.state.tokens = tokens.to_vec();
        self.state.sampled = Sampled::default();
        Ok(())
    }

    fn pass(&mut self, step: &StepRows, keys: &[NoiseKey]) -> Result<(), EngineError> {
        let layout = self.state.layout;
        self.prepare(&layout, step.rows.len(), step.sampled.len())?;
        let target = |&index: &u32| step.rows[index as usize].target;
        self.state.sampled = Sampled::default();
        self.state.sampled = Sampled {
            x: self.hidden_states(step)?,
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
        let rows = self.state.sampled.keys.len();
        let all = memory::zeros(MemoryUse::Logits { rows }, rows * vocab).map(|mut all| {
            self.for_logits(&mut all, vocab, |_, logits, out| {
                out.copy_from_slice(logits);
            });
            all
        });
        Box::pin(std::future::ready(all))
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
fn select(
    purpose: MemoryUse,
    values: &[f32],
    indices: &[u32],
    width: usize,
) -> Result<Vec<f32>, EngineError> {
    let mut out = memory::with_capacity(purpose, indices.len() * width)?;
    for &index in indices {
        out.extend_from_slice(&values[index as usize * width..][..width]);
    }
    Ok(out)
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
        let zeros = vec![0.0; rows.len() * frequencies.len()];
        let mut rotary = Self {
            cos: zeros.clone(),
            sin: zeros,
        };
        let places = rotary.sin.iter_mut().zip(&mut rotary.cos);
        for ((sin, cos), angle) in places.zip(angles) {
            (*sin, *cos) = angle.sin_cos();
        }
        rotary
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
    /// Fills `qkv`, zeros of `[rows, d]` each, from the normalised `x`.
    fn qkv(&self, x: &[f32], rotary: &Rotary, heads: Heads, mut qkv: Qkv) -> Qkv {
        let hidden = heads.hidden();
        let rows = x.len() / hidden;
        let product = self.qkv.product(x);
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
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
