//! Runs passes of a plan on the CPU with folded weights and a KV cache. Its products and attention (`packed`,
//! `attention`) are written once over a trait of vector operations (`simd`) and compiled for each instruction set
//! (`level`).
//!
//! A pass runs inside the thread pool and computes in reused memory (`pass::Scratch`).

mod attention;
mod centre;
mod embedding;
mod estimate;
mod inputs;
mod level;
pub mod math;
mod packed;
mod pass;
mod product;
#[cfg(not(target_family = "wasm"))]
mod rates;
mod rotary;
mod shape;
mod simd;
mod stream;

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::ModelConfig;
use esolm_core::plan::SlotMove;
use esolm_core::reveal::{Choice, Outcome, choose, confidence};
use esolm_core::rows::{Layout, MASKED, Row, StepRows};
use esolm_core::sampler::{
    MASK_LOGIT, NO_TOKEN, NoiseSource, Sampler, are_finite, sample_row, suppress,
};
use esolm_core::trace::Counters;

use crate::error::EngineError;
use crate::executor::{Draw, Executor, NoiseKey, Pending, Share};
#[cfg(not(target_family = "wasm"))]
use crate::measure::Rates;
#[cfg(not(target_family = "wasm"))]
use crate::measure::forms::{Comparison, Scope};
use crate::memory::{self, MemoryUse};
use crate::network::fold::{self, Folding, Linear, Part};
use crate::network::store::group_bytes;
use crate::weights::{Activations, Weights};

use attention::{Cache, Heads};
use embedding::Embedding;
use esolm_core::quantise::GROUP;
use estimate::Largest;
use level::{Level, Work};
use pass::{Block, QkNorm, Scratch, for_logits};
use product::Matrix;
use shape::Shape;
use simd::Simd;

/// A model on the CPU.
pub struct CpuExecutor {
    config: ModelConfig,
    shape: Shape,
    /// `None` if it is tied to the output matrix.
    embedding: Option<Embedding>,
    blocks: Vec<Block>,
    head: Matrix,
    /// The batch whose memory was reserved, and its largest pass.
    prepared: (Layout, Largest),
    state: State,
    /// Both for the batch set aside.
    aside: ((Layout, Largest), State),
}

/// State of the running batch.
#[derive(Default)]
struct State {
    layout: Layout,
    tokens: Vec<u32>,
    caches: Vec<Cache>,
    sampled: Sampled,
    scratch: Scratch,
}

/// The sampled rows of the last pass. Their hidden states are in the scratch memory.
#[derive(Default)]
struct Sampled {
    keys: Vec<NoiseKey>,
    /// Where each token is written.
    targets: Vec<u32>,
    /// The tokens drawn.
    drawn: Vec<Drawn>,
    /// Outcome of the last choice.
    outcome: Outcome,
}

/// A drawn token, and its confidence if needed.
#[derive(Clone, Copy, Default)]
struct Drawn {
    token: u32,
    confidence: u32,
}

/// Upper bounds in bytes for loading a network on the CPU, and for the cache of one text as long as its context, both
/// with a margin for what estimates leave out.
pub fn memory_needed(config: &ModelConfig, weights: Weights) -> [u64; 2] {
    let layout = Layout {
        sequences: 1,
        slots: config.length,
        tokens: config.length,
    };
    let cache = estimate::cache(config, &layout, Heads::of(config));
    [estimate::model(config, weights), cache].map(memory::with_margin)
}

impl CpuExecutor {
    /// Folds the constant conditioning and rounds the weights, block by block.
    ///
    /// # Errors
    /// If a tensor of the checkpoint cannot be read or represented, or there is not enough memory.
    pub async fn load(
        ckpt: &Checkpoint,
        weights: Weights,
        activations: Activations,
    ) -> Result<Self, EngineError> {
        let config = ckpt.config().clone();
        start_threads()?;
        let bytes = estimate::model(&config, weights) + group_bytes(ckpt);
        memory::ask(MemoryUse::Model, bytes)?;
        fold::fetch(ckpt, Part::Condition).await?;
        let folding = Folding::new(ckpt)?.with_stretch(GROUP);
        // The largest part first, while nothing else is held.
        fold::fetch(ckpt, Part::Head).await?;
        let ends = weights.at_the_ends();
        let head = Matrix::of_head(&folding.head_rows()?, ends, activations)?;
        let head = head.scaled(folding.head_scale()?);
        let is_tied = config.decoder.is_some_and(|decoder| decoder.tied);
        let embedding = match is_tied {
            true => None,
            false => {
                fold::fetch(ckpt, Part::Embedding).await?;
                Some(Embedding::new(&folding.embedding_rows()?, ends)?)
            }
        };
        let matrix = |linear: &Linear| Matrix::new(linear, weights, activations);
        let mut blocks = Vec::with_capacity(config.n_blocks);
        for index in 0..config.n_blocks {
            fold::fetch(ckpt, Part::Block(index)).await?;
            let block = folding.block(index)?;
            blocks.push(Block {
                qkv: matrix(&block.qkv)?,
                qk_norm: block
                    .qk_norm
                    .zip(config.decoder)
                    .map(|(norm, decoder)| QkNorm {
                        q: norm.q,
                        k: norm.k,
                        eps: decoder.eps as f32,
                    }),
                out: matrix(&block.out)?,
                up: matrix(&block.up)?,
                down: matrix(&block.down)?,
            });
        }
        let mut model = Self {
            shape: Shape::of(&config),
            config,
            embedding,
            blocks,
            head,
            prepared: Default::default(),
            state: State::default(),
            aside: Default::default(),
        };
        model.centre()?;
        Ok(model)
    }

    /// The network's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the running batch's KV cache.
    pub fn cache_bytes(&self) -> usize {
        let block = attention::cache_bytes(&self.state.layout, self.shape.heads) as usize;
        block * self.state.caches.len()
    }

    /// Whether the existing caches fit a batch.
    fn has_caches(&self, layout: &Layout) -> bool {
        let state = &self.state;
        let sizes = |layout: &Layout| (layout.sequences, layout.slots);
        !state.caches.is_empty() && sizes(&state.layout) == sizes(layout)
    }

    /// Runs the blocks, leaving the hidden states of the sampled rows.
    fn run(&mut self, step: &StepRows) {
        let rows = &step.rows;
        if rows.is_empty() {
            return;
        }
        self.embed(rows);
        let State {
            caches, scratch, ..
        } = &mut self.state;
        scratch.turn(rows, self.shape.heads, self.config.rotary_base());
        let last = self.blocks.len() - 1;
        for (index, (block, cache)) in self.blocks.iter().zip(caches).enumerate() {
            // Only keys and values of the other rows are needed in the last block.
            let sampled = (index == last).then_some(&step.sampled[..]);
            block.run(rows, sampled, self.shape, cache, scratch);
        }
    }

    /// Draws a token for each sampled row, and calls `confidence` with how it was drawn, its logits and its key.
    fn draw_rows(
        &mut self,
        shares: &[Share],
        confidence: impl Fn(&Draw, &mut [f32], NoiseKey, u32) -> u32 + Sync,
    ) {
        let (config, head) = (&self.config, &self.head);
        let (vocab, mask) = (config.vocab_size, config.mask_index);
        let State {
            sampled: Sampled { keys, drawn, .. },
            scratch,
            ..
        } = &mut self.state;
        drawn.resize(keys.len(), Drawn::default());
        math::on_all_cores(|| {
            let out = (&mut drawn[..], 1);
            for_logits(
                head,
                config,
                scratch,
                keys.len(),
                out,
                |index, logits, drawn| {
                    let share = shares.partition_point(|share| share.rows.end <= index);
                    let draw = &shares[share].draw;
                    let [sequence, position] = keys[index];
                    let noise = match draw.noise {
                        Some(noise) => {
                            NoiseSource::Given(&noise[index * vocab..(index + 1) * vocab])
                        }
                        None => NoiseSource::Seeded {
                            seed: draw.seed,
                            sequence,
                            position,
                        },
                    };
                    suppress(logits, draw.suppressed);
                    let token = Level::best().run(DrawRow {
                        logits,
                        mask,
                        sampler: &draw.sampler,
                        noise,
                    });
                    drawn[0] = Drawn {
                        token,
                        confidence: confidence(draw, logits, keys[index], token),
                    };
                },
            );
        });
    }

    /// Embeds the rows' tokens.
    fn embed(&mut self, rows: &[Row]) {
        let State {
            tokens, scratch, ..
        } = &mut self.state;
        for (index, row) in rows.iter().enumerate() {
            let token = match row.source {
                MASKED => self.config.mask_index,
                source => tokens[source as usize],
            };
            scratch.embed(rows.len(), index, self.config.hidden, |to| match token {
                // Whoever reads the tokens will find it; until then, NaN keeps anything derived from it from passing
                // for a text.
                NO_TOKEN => to.fill(f32::NAN),
                token => match &self.embedding {
                    Some(embedding) => embedding.write(token as usize, to),
                    None => self.head.column(token as usize, to),
                },
            });
        }
    }
}

/// Starts the thread pool. Threads take memory too, so they are started before any is reserved.
fn start_threads() -> Result<(), EngineError> {
    #[cfg(not(target_family = "wasm"))]
    if let Err(error) = rayon::ThreadPoolBuilder::new().build_global()
        // Without a source, the error means that the pool already exists.
        && let Some(cause) = std::error::Error::source(&error)
    {
        return Err(EngineError::Thread(cause.to_string()));
    }
    // An allocator reserves address space for each thread at its first allocation, some 64 MiB with glibc.
    #[cfg(not(target_family = "wasm"))]
    rayon::broadcast(|_| drop(std::hint::black_box(vec![0u8; 64])));
    Ok(())
}

/// Draws from a row of logits.
struct DrawRow<'a> {
    logits: &'a [f32],
    mask: u32,
    sampler: &'a Sampler,
    noise: NoiseSource<'a>,
}

impl Work for DrawRow<'_> {
    type Output = u32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> u32 {
        sample_row(self.logits, self.mask, self.sampler, self.noise)
    }
}

/// What a batch's memory is for.
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
        let mut bytes = estimate::pass(&self.config, largest, self.shape.heads);
        if !self.has_caches(layout) {
            // If memory runs out now, the previous batch must not be mistaken for the next one.
            self.state = State::default();
            self.prepared = Default::default();
            let cache = estimate::cache(&self.config, layout, self.shape.heads);
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
            let cache = |_| Cache::new(layout, self.shape.heads);
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
        let State {
            scratch, sampled, ..
        } = &mut self.state;
        sampled.keys.clear();
        sampled.targets.clear();
        let (purpose, form) = (batch(&layout), self.head.form());
        let (rows, wanted) = (step.rows.len(), step.sampled.len());
        scratch.reserve(purpose, &self.config, form, rows, wanted)?;
        math::on_all_cores(|| self.run(step));
        let sampled = &mut self.state.sampled;
        sampled.keys.extend_from_slice(keys);
        let target = |&index: &u32| step.rows[index as usize].target;
        sampled.targets.extend(step.sampled.iter().map(target));
        Ok(())
    }

    fn draw(&mut self, draw: &Draw) -> Result<(), EngineError> {
        let rows = 0..self.state.sampled.keys.len();
        self.draw_each(&[Share { rows, draw: *draw }])
    }

    fn draw_each(&mut self, shares: &[Share]) -> Result<(), EngineError> {
        self.draw_rows(shares, |_, _, _, _| 0);
        let State {
            tokens, sampled, ..
        } = &mut self.state;
        for (&target, drawn) in sampled.targets.iter().zip(&sampled.drawn) {
            tokens[target as usize] = drawn.token;
        }
        Ok(())
    }

    fn write(&mut self, first: usize, tokens: &[u32]) -> Result<(), EngineError> {
        self.state.tokens[first..][..tokens.len()].copy_from_slice(tokens);
        Ok(())
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.prepared, &mut self.aside.0);
        std::mem::swap(&mut self.state, &mut self.aside.1);
    }

    fn reveal(&mut self, shares: &[Share], choice: &Choice) -> Result<(), EngineError> {
        let (mask, by) = (self.config.mask_index, choice.rule.by);
        self.draw_rows(shares, |draw, logits, key, token| {
            let own = by.of_key(draw.seed, key);
            let asked = || {
                suppress(logits, draw.unsure);
                confidence(by, &draw.sampler, logits, mask, token)
            };
            own.or_else(asked).unwrap_or(0)
        });
        let State {
            tokens, sampled, ..
        } = &mut self.state;
        let of = |part: fn(&Drawn) -> u32| sampled.drawn.iter().map(part).collect::<Vec<_>>();
        let (drawn, confidences) = (of(|drawn| drawn.token), of(|drawn| drawn.confidence));
        let targets = &sampled.targets;
        sampled.outcome = choose(choice, mask, &drawn, &confidences, targets, tokens);
        Ok(())
    }

    fn move_slots(&mut self, moves: &[SlotMove]) -> Result<(), EngineError> {
        for cache in &mut self.state.caches {
            for SlotMove { sequence, from, to } in moves {
                cache.move_slot(*sequence as usize, *from as usize, *to as usize);
            }
        }
        Ok(())
    }

    fn outcome(&mut self, wanted: bool) -> Pending<'static, Outcome> {
        let mut outcome = self.state.sampled.outcome.clone();
        if !wanted {
            outcome.tokens.clear();
        }
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn logits(&mut self) -> Pending<'_, Vec<f32>> {
        let (config, head) = (&self.config, &self.head);
        let vocab = config.vocab_size;
        let State {
            sampled, scratch, ..
        } = &mut self.state;
        let rows = sampled.keys.len();
        let all = memory::zeros(MemoryUse::Logits { rows }, rows * vocab).map(|mut all| {
            math::on_all_cores(|| {
                for_logits(
                    head,
                    config,
                    scratch,
                    rows,
                    (&mut all, vocab),
                    |_, logits, out| {
                        out.copy_from_slice(logits);
                    },
                );
            });
            all
        });
        Box::pin(std::future::ready(all))
    }

    fn score<'a>(&'a mut self, targets: &'a [u32]) -> Pending<'a, Vec<f32>> {
        let (config, head) = (&self.config, &self.head);
        let mask = config.mask_index;
        let scratch = &mut self.state.scratch;
        let mut scores = vec![0.0; targets.len()];
        math::on_all_cores(|| {
            let (rows, out) = (targets.len(), (&mut scores[..], 1));
            for_logits(head, config, scratch, rows, out, |index, logits, score| {
                if !are_finite(logits, mask) {
                    score[0] = f32::NAN;
                    return;
                }
                // Not every model has a mask.
                if let Some(logit) = logits.get_mut(mask as usize) {
                    *logit = MASK_LOGIT;
                }
                let top = math::max(logits, f32::MIN);
                let wanted = logits[targets[index] as usize] - top;
                score[0] = wanted - math::exp_sum(logits, top).ln();
            });
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
    fn rates(&self) -> Pending<'_, Rates> {
        let matrix = &self.blocks[0].qkv;
        Box::pin(std::future::ready(rates::rates(matrix, self.config.hidden)))
    }

    #[cfg(not(target_family = "wasm"))]
    fn compare(&self, _scope: &Scope) -> Pending<'_, Option<Vec<Comparison>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}
