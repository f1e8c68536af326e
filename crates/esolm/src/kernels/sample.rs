//! Draws tokens on the device: `shaders/sample.wgsl`, or `shaders/sample_parts.wgsl` and `shaders/sample_merge.wgsl` if a few rows of a
//! large vocabulary would leave most of a chip idle. The twin of both is [`esolm_core::sampler::sample_row`].

use esolm_core::sampler::kept::Filter;
use esolm_core::sampler::{NO_TOKEN, Sampler};
use esolm_shaders::{Form, SAMPLE, SAMPLE_MERGE, SAMPLE_PARTS, SUPPRESS, Shader};

use super::runtime::{Buffer, Gpu};
use super::work::{ENTRY, Extent};
use crate::adapter::AdapterKind;
use crate::error::EngineError;

/// What a launch reads and writes. Tables cover the whole pass.
pub struct Sample<'a> {
    /// [rows, stride], beginning with sampled row `held`.
    pub logits: &'a Buffer,
    /// First sampled row whose logits are held, at most `first`.
    pub held: usize,
    /// Floats per row of logits.
    pub stride: usize,
    /// The row table, which begins with the rows that are sampled.
    pub rows: &'a Buffer,
    /// (absolute sequence, noise position) pairs [sampled rows].
    pub draws: &'a Buffer,
    /// The token buffer.
    pub tokens: &'a Buffer,
    /// Given Gumbel values [sampled rows, V].
    pub noise: Option<&'a Buffer>,
    /// Memory for workgroups that share a row, if any may.
    pub shared: Option<&'a Shared>,
    /// First sampled row of this launch.
    pub first: usize,
    /// Sampled rows of this launch.
    pub count: usize,
    /// V, the mask column included.
    pub vocab: usize,
    /// The mask token.
    pub mask_index: u32,
    /// The key of the noise.
    pub seed: u64,
}

/// Smallest vocabulary whose rows are shared by workgroups.
const LARGE_VOCAB: usize = 32_000;
/// Most rows that are shared; more keep a chip busy with one workgroup each.
const MAX_ROWS: usize = 16;
/// Minimum columns of a part. Each part reads the others' results, which are as much as 3072 columns.
const MIN_COLUMNS: usize = 4096;
/// Most parts of a row.
const MAX_PARTS: usize = 64;
/// Words per row in [`Shared`]: the parts' largest logits, the crossings, and 3072 for each of the four stages.
const STATE_WORDS: usize = 2 * MAX_PARTS + 12 + 4 * 3072;
/// The launch of [`SAMPLE_PARTS`] before the stages of a filter, which are 0 to 3.
const TOP: u32 = 4;
/// The launch after them.
const DRAW: u32 = 5;

/// Memory through which workgroups that share a row exchange results. Nothing in it outlives a draw.
pub struct Shared {
    /// What the parts compute for each row until the kept tokens are determined.
    pub state: Buffer,
    /// The best token of each part, four words each.
    pub bests: Buffer,
}

impl Shared {
    /// Allocates memory for draws of up to `rows` rows; `None` if rows of this vocabulary are not shared, or on a software adapter, whose
    /// few cores gain less than it costs the parts to read one another's results.
    ///
    /// # Errors
    /// Same as [`Gpu::allocate`].
    pub fn allocate(
        gpu: &Gpu,
        what: &str,
        vocab: usize,
        rows: usize,
    ) -> Result<Option<Self>, EngineError> {
        let is_software = gpu.info.kind == AdapterKind::Software;
        let Some([state, bests]) = Self::words(vocab, rows).filter(|_| !is_software) else {
            return Ok(None);
        };
        Ok(Some(Self {
            state: gpu.allocate(what, state)?,
            bests: gpu.allocate(what, bests)?,
        }))
    }

    /// Words of the two buffers; `None` if rows are not shared.
    pub fn words(vocab: usize, rows: usize) -> Option<[usize; 2]> {
        let rows = rows.min(MAX_ROWS);
        (vocab >= LARGE_VOCAB).then_some([rows * STATE_WORDS, rows * MAX_PARTS * 4])
    }
}

/// Columns per part of a row.
fn columns(vocab: usize) -> usize {
    // Random numbers come four at a time.
    vocab
        .div_ceil(MAX_PARTS)
        .next_multiple_of(4)
        .max(MIN_COLUMNS)
}

/// Draws a token for each sampled row and writes it to the token buffer, or [`NO_TOKEN`] if the row's logits are not finite.
pub fn sample(gpu: &Gpu, sampler: &Sampler, io: &Sample) {
    let wg = if gpu.info.kind == AdapterKind::Software {
        32
    } else {
        256
    };
    let greedy = sampler.temperature <= 0.0;
    let source = match (greedy, io.noise) {
        (true, _) => None,
        (false, Some(_)) => Some("GIVEN"),
        (false, None) => Some("SEEDED"),
    };
    let filter = Filter::new(sampler);
    let vocab = io.vocab as u32;
    let shared = io.shared.filter(|_| io.count <= MAX_ROWS);
    let kernel = |shader: &'static Shader| {
        let params = vec![
            wg,
            vocab,
            source.map_or(0, |name| u32::from(name.as_bytes()[0])),
            u32::from(filter.is_some()),
        ];
        gpu.kernel(shader, params, wg, || Form {
            constants: vec![
                ("WG", wg),
                ("VOCAB", vocab),
                ("GUMBEL_DOMAIN", esolm_core::rng::GUMBEL_DOMAIN),
                ("NO_TOKEN", NO_TOKEN),
                ("MAX_PARTS", MAX_PARTS as u32),
                ("STATE_WORDS", STATE_WORDS as u32),
            ],
            flags: source.into_iter().chain(filter.map(|_| "FILTER")).collect(),
            ..Default::default()
        })
    };
    let scale = if greedy {
        1.0
    } else {
        1.0 / sampler.temperature
    };
    let kept = filter.unwrap_or(Filter::NONE);
    let info = |columns: usize, stage: u32, former: u32| {
        [
            io.first as u32,
            io.count as u32,
            io.stride as u32,
            columns as u32,
            io.seed as u32,
            (io.seed >> 32) as u32,
            io.mask_index,
            kept.mask_logit.to_bits(),
            scale.to_bits(),
            kept.rate.to_bits(),
            kept.top_k,
            kept.top_p,
            kept.reach,
            stage,
            former,
            u32::from(kept.drops_crossing),
            (io.first - io.held) as u32,
            0,
            0,
            0,
        ]
    };
    let random = (!greedy).then(|| io.noise.unwrap_or(io.draws));
    let Some(shared) = shared else {
        let mut buffers = vec![io.logits, io.rows, io.tokens];
        buffers.extend(random);
        let extent = extent(io.count, io.vocab, source, filter.as_ref());
        let info = info(io.vocab, DRAW, DRAW);
        return gpu.launch(&kernel(&SAMPLE), &extent, &buffers, &info);
    };
    let columns = columns(io.vocab);
    let parts = io.vocab.div_ceil(columns);
    let mut buffers = vec![io.logits, &shared.bests];
    buffers.extend(random);
    buffers.extend(filter.map(|_| &shared.state));
    let stages = [
        (filter.is_some(), TOP),
        (kept.top_k > 0, 0),
        (kept.top_k > 0, 1),
        (kept.top_p > 0, 2),
        (kept.top_p > 0, 3),
        (true, DRAW),
    ];
    let mut former = TOP;
    for (_, stage) in stages.into_iter().filter(|(is_needed, _)| *is_needed) {
        let source = if stage == DRAW { source } else { None };
        let extent = Extent {
            grid: [parts, io.count, 1],
            each: entry(source) * columns as u64,
        };
        let info = info(columns, stage, former);
        gpu.launch(&kernel(&SAMPLE_PARTS), &extent, &buffers, &info);
        former = stage;
    }
    let merge = gpu.kernel(&SAMPLE_MERGE, vec![wg], wg, || Form {
        constants: vec![("WG", wg), ("NO_TOKEN", NO_TOKEN)],
        ..Default::default()
    });
    let buffers = [&shared.bests, io.rows, io.tokens];
    let extent = Extent::line(
        io.count.div_ceil(wg as usize),
        u64::from(wg) * ENTRY * parts as u64,
    );
    let info = [io.first as u32, io.count as u32, parts as u32, 0];
    gpu.launch(&merge, &extent, &buffers, &info);
}

/// Makes the `tokens` tokens in `suppressed` impossible in `count` rows of `logits`, of `stride` floats each, from row `first` on.
pub fn suppress(
    gpu: &Gpu,
    logits: &Buffer,
    stride: usize,
    [first, count]: [usize; 2],
    suppressed: &Buffer,
    tokens: usize,
) {
    let kernel = gpu.kernel(&SUPPRESS, vec![], SUPPRESS_WG, || Form {
        constants: vec![("WG", SUPPRESS_WG)],
        ..Default::default()
    });
    let info = [first as u32, count as u32, stride as u32, tokens as u32];
    let extent = suppress_extent(count, tokens);
    gpu.launch(&kernel, &extent, &[logits, suppressed], &info);
}

/// Invocations per workgroup of [`suppress`].
const SUPPRESS_WG: u32 = 64;

/// Each invocation reads a token and writes a logit.
pub(super) fn suppress_extent(rows: usize, tokens: usize) -> Extent {
    Extent {
        grid: [tokens.div_ceil(SUPPRESS_WG as usize), rows, 1],
        each: 2 * ENTRY * u64::from(SUPPRESS_WG),
    }
}

/// Operations per entry for seeded noise: a quarter of ten rounds of Philox in 32-bit words, and two logarithms.
const NOISE: u64 = 128;

/// Operations per entry when drawing tokens.
fn entry(source: Option<&str>) -> u64 {
    match source {
        Some("SEEDED") => ENTRY + NOISE,
        // Given noise is read as the logits are.
        Some(_) => 2 * ENTRY,
        None => ENTRY,
    }
}

/// One workgroup per row, with the passes that it makes over the logits.
pub(super) fn extent(
    rows: usize,
    vocab: usize,
    source: Option<&str>,
    filter: Option<&Filter>,
) -> Extent {
    let passes = filter.map_or(0, Filter::passes);
    Extent::line(rows, (entry(source) + passes * ENTRY) * vocab as u64)
}
