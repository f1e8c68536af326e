//! Runs the passes of a plan on a GPU: folded weights, the KV cache and the tokens stay on the device.

mod estimate;
mod load;
mod pass;
mod recordings;
mod reveal;
mod suppress;
mod tables;

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::ModelConfig;
use esolm_core::plan::SlotMove;
use esolm_core::reveal::{Choice, Outcome};
use esolm_core::rows::{Layout, StepRows};
use esolm_core::trace::Counters;

use crate::adapter::AdapterKind;
use crate::device::{LoadOptions, Precision};
use crate::error::EngineError;
use crate::executor::{Draw, Executor, NoiseKey, Pending, Share};
use crate::kernels::attention::Geometry;
use crate::kernels::embed::Embedding;
use crate::kernels::norm::Norm;
use crate::kernels::product::{Activation, Matrix, ROW_PAD};
use crate::kernels::residual::STREAM_ROWS;
use crate::kernels::rotary::rotary_table;
use crate::kernels::runtime::{Buffer, Gpu};
use crate::kernels::sample::Shared;
use crate::kernels::score::{Score, score};
use crate::kernels::slots::move_slots;
#[cfg(not(target_family = "wasm"))]
use crate::measure::{
    Rates,
    forms::{Comparison, Scope, Subject, compare},
    rates,
};
use crate::memory::{self, MemoryUse};
use crate::network::store::group_bytes;
use crate::variants::Chosen;
use crate::weights::Weights;
use load::Loaded;
use recordings::Recordings;
use reveal::Choosing;
use tables::{PLACE_BYTES, RECORDED_ROWS, Tables, filled};

/// Most rows for which MLP activations, or q, k and v to be normalised, are held at once; a multiple of 64, so that parts of buffers stay
/// aligned.
const MLP_ROWS: usize = 2048;
/// Positions whose angles are uploaded at the start; more are added when a text reaches them.
const POSITIONS: usize = 2048;
/// Bytes of logits held at once.
const LOGITS_BYTES: usize = 64 << 20;

struct Block {
    qkv: Matrix,
    /// Weights of the norms of q's and k's heads, in pair order like these, if there are such norms.
    head_gains: Option<Buffer>,
    out: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A model on a GPU.
pub struct GpuExecutor {
    config: ModelConfig,
    norm: Norm,
    activation: Activation,
    /// `None` if the output matrix is the embedding.
    embedding: Option<Embedding>,
    blocks: Vec<Block>,
    /// The weight of the last norm, if it is not folded into the output matrix.
    head_gain: Option<Buffer>,
    head: Matrix,
    rotary: Buffer,
    /// Number of positions in `rotary`.
    positions: usize,
    chosen: Chosen,
    cache: Precision,
    state: Option<State>,
    /// The batch that was set aside.
    aside: Option<State>,
    /// Dropped last, since recordings keep a device from being closed.
    gpu: Gpu,
}

/// The state of a batch.
struct State {
    layout: Layout,
    tokens: Buffer,
    kv: Vec<(Buffer, Buffer)>,
    scratch: Scratch,
    /// Place of the tables of passes that may be recorded.
    place: Buffer,
    recordings: Recordings,
    choosing: Option<Choosing>,
    /// Tables of the last pass.
    tables: Option<Tables>,
    /// Keys of its sampled rows.
    keys: Vec<NoiseKey>,
}

/// Activations, sized for the largest pass so far.
struct Scratch {
    rows: usize,
    sampled: usize,
    x: Buffer,
    normed: Buffer,
    /// q, k and v of heads that are normalised before they are rotated.
    stored: Buffer,
    q: Buffer,
    attended: Buffer,
    mid: Buffer,
    picked: Buffer,
    logits: Buffer,
    drawing: Option<Shared>,
}

/// Number of positions at the start. Prepended elements may add one to the context.
fn positions(config: &ModelConfig) -> usize {
    (config.length + 1).min(POSITIONS)
}

/// Bytes of a network's weights on a GPU, and bytes of the machine's own memory that loading takes, for a GPU with memory of its own
/// whose bindings hold any matrix.
pub fn memory_needed(config: &ModelConfig, weights: Weights) -> [u64; 2] {
    let host = estimate::passing(config, weights, u64::MAX);
    [
        estimate::weight_bytes(config, weights),
        memory::with_margin(host),
    ]
}

impl GpuExecutor {
    /// Folds the constant conditioning and uploads the weights block by block.
    ///
    /// # Errors
    /// If the checkpoint is inconsistent, a shape suits no kernel, or the device does not have enough memory.
    pub async fn load(
        gpu: Gpu,
        ckpt: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<Self, EngineError> {
        let weights = options.weights_of(ckpt).await?;
        let host = estimate::model(ckpt.config(), weights, &gpu.info);
        memory::ask(MemoryUse::Model, host + group_bytes(ckpt))?;
        let loaded = Loaded::upload(&gpu, ckpt, weights).await;
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Refused memory must not stay in the runtime's pool for the next model.
                let _ = gpu.submit().and_then(|()| gpu.clean_up());
                return Err(error);
            }
        };
        let config = ckpt.config().clone();
        Ok(Self {
            chosen: Chosen::by_table(gpu.info.kind).with(&options.variants),
            gpu,
            positions: positions(&config),
            norm: match &config.decoder {
                Some(decoder) => Norm::Rms {
                    eps: decoder.eps as f32,
                },
                None => Norm::Layer,
            },
            activation: match config.decoder {
                Some(_) => Activation::Silu,
                None => Activation::Gelu,
            },
            config,
            embedding: loaded.embedding,
            blocks: loaded.blocks,
            head_gain: loaded.head_gain,
            head: loaded.head,
            rotary: loaded.rotary,
            cache: options.kv_cache,
            state: None,
            aside: None,
        })
    }

    /// The kernel variants in use.
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Number of recorded passes of the running batch, at most 32.
    pub fn recorded(&self) -> usize {
        self.state
            .as_ref()
            .map_or(0, |state| state.recordings.len())
    }

    /// Drops the running batch and leaves its memory to the next one.
    pub fn end(&mut self) {
        self.state = None;
    }

    fn scratch(&self, rows: usize, sampled: usize) -> Result<Scratch, EngineError> {
        let pad = |n: usize| n.next_multiple_of(ROW_PAD);
        let (rows, sampled) = (pad(rows), pad(sampled));
        let (hidden, q_width) = (self.config.hidden, self.config.q_width());
        let held = rows.min(MLP_ROWS);
        let stored = match self.has_head_norms() {
            true => held * (q_width + 2 * self.config.kv_width()),
            false => 0,
        };
        let gpu = &self.gpu;
        let name = format!("a pass of {rows} rows");
        Ok(Scratch {
            rows,
            sampled,
            x: gpu.allocate(&name, rows.max(STREAM_ROWS) * hidden)?,
            normed: gpu.allocate(&name, rows * hidden)?,
            stored: gpu.allocate(&name, stored)?,
            q: gpu.allocate(&name, rows * q_width)?,
            attended: gpu.allocate(&name, rows * q_width)?,
            mid: gpu.allocate(&name, held * self.config.inner())?,
            picked: gpu.allocate(&name, sampled * hidden)?,
            logits: gpu.allocate(&name, sampled.min(self.logit_rows()) * self.head.padded())?,
            drawing: Shared::allocate(gpu, &name, self.head.n, sampled)?,
        })
    }

    /// Maximum number of sampled rows whose logits are held at once.
    fn logit_rows(&self) -> usize {
        let limit = (LOGITS_BYTES as u64).min(self.gpu.info.max_binding_bytes()) as usize;
        (limit / (self.head.padded() * 4) / ROW_PAD * ROW_PAD).max(ROW_PAD)
    }

    fn geometry(&self, slots: usize) -> Geometry {
        Geometry {
            heads: self.config.n_heads,
            kv_heads: self.config.kv_heads(),
            head_dim: self.config.head_dim(),
            slots,
            cache: self.cache,
            kind: self.gpu.info.kind,
        }
    }

    fn has_head_norms(&self) -> bool {
        self.blocks.iter().any(|block| block.head_gains.is_some())
    }

    /// Extends the angles to at least `positions` positions.
    fn reach(&mut self, positions: usize) -> Result<(), EngineError> {
        if positions <= self.positions {
            return Ok(());
        }
        let positions = positions.next_power_of_two();
        let (head_dim, base) = (self.config.head_dim(), self.config.rotary_base());
        let table = || self.gpu.floats(rotary_table(positions, head_dim, base));
        self.rotary = self.gpu.scoped(table)?;
        self.positions = positions;
        if let Some(state) = &mut self.state {
            // Recordings still use the old angles.
            state.recordings = Recordings::default();
        }
        Ok(())
    }

    /// The running batch.
    fn started(&self) -> Result<&State, EngineError> {
        let none = || EngineError::Rows("no batch was started".into());
        self.state.as_ref().ok_or_else(none)
    }

    /// The running batch and the tables of its last pass.
    fn passed(&self) -> Result<(&State, &Tables), EngineError> {
        let state = self.started()?;
        let none = || EngineError::Rows("no pass was run".into());
        Ok((state, state.tables.as_ref().ok_or_else(none)?))
    }

    /// Makes room for the activations of a pass.
    fn grow(&mut self, step: &StepRows) -> Result<(), EngineError> {
        let held = &self.started()?.scratch;
        let [rows, sampled] = filled(step, &self.chosen);
        if rows > held.rows || sampled > held.sampled {
            let (rows, sampled) = (rows.max(held.rows), sampled.max(held.sampled));
            let scratch = self.gpu.scoped(|| self.scratch(rows, sampled))?;
            if let Some(state) = &mut self.state {
                state.recordings = Recordings::default();
                state.scratch = scratch;
            }
        }
        Ok(())
    }
}

impl Executor for GpuExecutor {
    fn prepare(&mut self, layout: &Layout, rows: usize, sampled: usize) -> Result<(), EngineError> {
        // A GPU with memory of its own reports a shortage itself.
        if self.gpu.info.kind != AdapterKind::Software {
            return Ok(());
        }
        let purpose = MemoryUse::Batch {
            sequences: layout.sequences,
            slots: layout.slots,
        };
        let largest = [rows, sampled.min(self.logit_rows())];
        let bytes = estimate::batch(&self.config, layout, largest, self.cache);
        memory::ask(purpose, bytes)
    }

    fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError> {
        if self.gpu.take_refused() {
            // Refused memory does not exist, although the runtime's pool believes that it does.
            self.state = None;
            self.aside = None;
            self.gpu.clean_up()?;
        }
        let longest = layout.slots.max(tokens.len() / layout.sequences.max(1));
        self.reach(longest)?;
        let what = format!(
            "the KV cache of {} sequences of {} slots",
            layout.sequences, layout.slots
        );
        // In 64 bits, since usize has 32 in a browser.
        let bytes = [layout.sequences, layout.slots, self.config.kv_width()]
            .iter()
            .try_fold(self.cache.bytes(), |product, &n| {
                product.checked_mul(n as u64)
            })
            .unwrap_or(u64::MAX);
        self.gpu.fits(&what, bytes)?;
        let words = (bytes / 4) as usize;
        let same = self
            .state
            .as_ref()
            .is_some_and(|state| state.layout == *layout);
        let kept = if same { self.state.take() } else { None };
        if let Some(mut state) = kept {
            self.gpu.write(&state.tokens, bytemuck::cast_slice(tokens));
            state.tables = None;
            self.state = Some(state);
            return Ok(());
        }
        self.state = None;
        let state = self.gpu.scoped(|| {
            let cache = || self.gpu.allocate(&what, words);
            let kv: Result<Vec<_>, EngineError> = (0..self.blocks.len())
                .map(|_| Ok((cache()?, cache()?)))
                .collect();
            Ok::<_, EngineError>(State {
                layout: *layout,
                tokens: self.gpu.words(tokens.to_vec())?,
                kv: kv?,
                scratch: self.scratch(1, 1)?,
                place: self.gpu.allocate("a row table", PLACE_BYTES / 4)?,
                recordings: Recordings::default(),
                choosing: None,
                tables: None,
                keys: Vec::new(),
            })
        })?;
        self.state = Some(state);
        Ok(())
    }

    fn pass(&mut self, step: &StepRows, keys: &[NoiseKey]) -> Result<(), EngineError> {
        self.grow(step)?;
        let last = step.rows.iter().map(|row| row.position as usize).max();
        self.reach(last.map_or(0, |last| last + 1))?;
        let none = || EngineError::Rows("no batch was started".into());
        let mut state = self.state.take().ok_or_else(none)?;
        let passed = self.gpu.scoped(|| {
            let tables = Tables::upload(&self.gpu, &self.chosen, &state.place, step, keys);
            if tables.all.rows <= RECORDED_ROWS {
                let mut recordings = std::mem::take(&mut state.recordings);
                let shape = [tables.all, tables.wanted];
                let run = recordings.run(&self.gpu, shape, || self.launch(&state, &tables));
                state.recordings = recordings;
                run?;
            } else {
                self.launch(&state, &tables);
            }
            Ok::<_, EngineError>(tables)
        });
        let passed = passed.map(|tables| state.tables = Some(tables));
        state.keys.clear();
        state.keys.extend_from_slice(keys);
        self.state = Some(state);
        passed
    }

    fn draw(&mut self, draw: &Draw) -> Result<(), EngineError> {
        let rows = 0..self.passed()?.1.sampled;
        self.draw_each(&[Share { rows, draw: *draw }])
    }

    fn draw_each(&mut self, shares: &[Share]) -> Result<(), EngineError> {
        let (state, _) = self.passed()?;
        self.gpu
            .scoped(|| self.draw_to(shares, &state.tokens, |_, _, _| ()))?;
        self.gpu.submit()
    }

    fn reveal(&mut self, shares: &[Share], choice: &Choice) -> Result<(), EngineError> {
        self.choose(shares, choice)
    }

    fn move_slots(&mut self, moves: &[SlotMove]) -> Result<(), EngineError> {
        let state = self.started()?;
        let slots = state.layout.slots as u32;
        let row = |m: &SlotMove| [m.sequence * slots + m.from, m.sequence * slots + m.to];
        let rows: Vec<u32> = moves.iter().flat_map(row).collect();
        let width = self.geometry(state.layout.slots).kv_width();
        let words = width * self.cache.bytes() as usize / 4;
        self.gpu.scoped(|| {
            let rows = self.gpu.words(rows)?;
            for cache in &state.kv {
                move_slots(&self.gpu, &rows, cache, moves.len(), words);
            }
            Ok::<_, EngineError>(())
        })
    }

    fn outcome(&mut self, wanted: bool) -> Pending<'static, Outcome> {
        self.chosen_tokens(wanted)
    }

    fn write(&mut self, first: usize, tokens: &[u32]) -> Result<(), EngineError> {
        let bytes: &[u8] = bytemuck::cast_slice(tokens);
        let buffer = &self.started()?.tokens;
        let part = buffer.part(first as u64 * 4, bytes.len() as u64);
        self.gpu.write(&part, bytes);
        Ok(())
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.state, &mut self.aside);
    }

    fn logits(&mut self) -> Pending<'_, Vec<f32>> {
        Box::pin(async {
            let (state, tables) = self.passed()?;
            let (stride, vocab) = (self.head.padded(), self.head.n);
            let rows = tables.sampled;
            let mut all = memory::with_capacity(MemoryUse::Logits { rows }, rows * vocab)?;
            for (first, count) in self.in_parts(tables.sampled) {
                self.gpu.scoped(|| self.head(&state.scratch, first, count));
                let held = state
                    .scratch
                    .logits
                    .part(0, (count * stride * 4).next_multiple_of(4) as u64);
                for row in self.gpu.read_floats(&held).await?.chunks(stride) {
                    all.extend_from_slice(&row[..vocab]);
                }
            }
            Ok(all)
        })
    }

    fn score<'a>(&'a mut self, targets: &'a [u32]) -> Pending<'a, Vec<f32>> {
        Box::pin(async move {
            let (state, _) = self.passed()?;
            let wanted = self.gpu.words(targets.to_vec())?;
            let scores = self.gpu.allocate("the scores of a pass", targets.len())?;
            for (first, count) in self.in_parts(targets.len()) {
                let io = Score {
                    logits: &state.scratch.logits,
                    stride: self.head.padded(),
                    wanted: &wanted,
                    scores: &scores,
                    first,
                    count,
                    vocab: self.head.n,
                    mask_index: self.config.mask_index,
                };
                self.gpu.scoped(|| {
                    self.head(&state.scratch, first, count);
                    score(&self.gpu, &io);
                });
            }
            let mut read = self.gpu.read_floats(&scores).await?;
            // A buffer holds at least four values.
            read.truncate(targets.len());
            Ok(read)
        })
    }

    fn tokens(&mut self) -> Pending<'static, Vec<u32>> {
        let reading = self.started().map(|state| self.gpu.read(&state.tokens));
        Box::pin(async move { Ok(bytemuck::pod_collect_to_vec(&reading?.await?)) })
    }

    fn wait(&self) -> Pending<'_, ()> {
        Box::pin(async {
            let tokens: Vec<&Buffer> = self.state.iter().map(|state| &state.tokens).collect();
            self.gpu.check(&tokens).await
        })
    }

    fn counters(&self) -> Counters {
        self.gpu.counters()
    }

    #[cfg(not(target_family = "wasm"))]
    fn rates(&self) -> Pending<'_, Rates> {
        Box::pin(async {
            let matrices: Vec<&Matrix> = self.blocks.iter().map(|block| &block.qkv).collect();
            rates(&self.gpu, &self.chosen, &matrices).await
        })
    }

    #[cfg(not(target_family = "wasm"))]
    fn compare(&self, scope: &Scope) -> Pending<'_, Option<Vec<Comparison>>> {
        let scope = *scope;
        Box::pin(async move {
            let of = |matrix: fn(&Block) -> &Matrix| self.blocks.iter().map(matrix).collect();
            let subject = Subject {
                qkv: of(|block| &block.qkv),
                out: of(|block| &block.out),
                up: of(|block| &block.up),
                down: of(|block| &block.down),
                head: &self.head,
                norm: self.norm,
                activation: self.activation,
                has_head_norms: self.has_head_norms(),
                rotary: &self.rotary,
                geometry: self.geometry(scope.length),
            };
            Ok(Some(compare(&self.gpu, &subject, &scope).await?))
        })
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        let Self {
            gpu,
            embedding,
            blocks,
            head_gain,
            head,
            rotary,
            state,
            aside,
            ..
        } = *self;
        drop((embedding, blocks, head_gain, head, rotary, state, aside));
        gpu.submit()?;
        gpu.clean_up()
    }
}
