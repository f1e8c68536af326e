//! Drawing tokens on the device: `shaders/sample.wgsl`. Its twin is [`esolm_core::sampler::sample_row`].

use esolm_core::sampler::{NO_TOKEN, Sampler};
use esolm_shaders::{Form, SAMPLE};

use super::runtime::{Buffer, Gpu};
use super::work::{ENTRY, Extent};
use crate::adapter::AdapterKind;

/// What a launch reads and writes. Tables are those of the whole pass; logits are those of `first..first + count` alone.
pub struct Sample<'a> {
    /// [count, stride].
    pub logits: &'a Buffer,
    /// Floats a row of logits.
    pub stride: usize,
    /// Rows of the pass that are sampled.
    pub sampled: &'a Buffer,
    /// The row table.
    pub rows: &'a Buffer,
    /// [sampled rows] pairs (absolute sequence, noise position).
    pub draws: &'a Buffer,
    /// The token buffer.
    pub tokens: &'a Buffer,
    /// Given Gumbel values [sampled rows, V].
    pub noise: Option<&'a Buffer>,
    /// First sampled row of this launch.
    pub first: usize,
    /// Sampled rows of this launch.
    pub count: usize,
    /// V, the mask column included.
    pub vocab: usize,
    /// The mask token.
    pub mask_index: u32,
    /// Keys the noise.
    pub seed: u64,
}

/// Draws a token for each sampled row and writes it to the token buffer, [`NO_TOKEN`] where the row's logits are not finite.
pub fn sample(gpu: &Gpu, sampler: &Sampler, io: &Sample) {
    let wg = if gpu.info.kind == AdapterKind::Software {
        32
    } else {
        256
    };
    let greedy = sampler.temperature <= 0.0;
    let source = match (greedy, io.noise) {
        (true, _) => "GREEDY",
        (false, Some(_)) => "GIVEN",
        (false, None) => "SEEDED",
    };
    // A greedy draw keeps the largest logit, which every nucleus holds; a nucleus of all is none.
    let top_p = sampler.top_p.filter(|&p| !greedy && p < 1.0);
    let vocab = io.vocab as u32;
    let params = vec![
        wg,
        vocab,
        u32::from(source.as_bytes()[1]),
        u32::from(top_p.is_some()),
    ];
    let kernel = gpu.kernel(&SAMPLE, params, wg, || {
        let mut flags = vec![source];
        flags.extend(top_p.map(|_| "TOP_P"));
        Form {
            constants: vec![
                ("WG", wg),
                ("VOCAB", vocab),
                ("GUMBEL_DOMAIN", esolm_core::rng::GUMBEL_DOMAIN),
                ("NO_TOKEN", NO_TOKEN),
            ],
            flags,
            ..Default::default()
        }
    });
    let mut buffers = vec![io.logits, io.sampled, io.rows, io.tokens];
    if !greedy {
        buffers.push(io.noise.unwrap_or(io.draws));
    }
    let scale = if greedy {
        1.0
    } else {
        1.0 / sampler.temperature
    };
    let info = [
        io.first as u32,
        io.count as u32,
        io.stride as u32,
        io.mask_index,
        io.seed as u32,
        (io.seed >> 32) as u32,
        scale.to_bits(),
        top_p.unwrap_or(1.0).to_bits(),
    ];
    let extent = extent(io.count, io.vocab, source, top_p.is_some());
    gpu.launch(&kernel, &extent, &buffers, &info);
}

/// Operations of an entry's seeded noise: a quarter of ten rounds of Philox in 32-bit words, and two logarithms.
const NOISE: u64 = 128;

/// A workgroup a row, with the passes that it takes over the logits.
pub(super) fn extent(rows: usize, vocab: usize, source: &str, top_p: bool) -> Extent {
    let entry = match source {
        "SEEDED" => ENTRY + NOISE,
        // What is given is read as the logits are.
        "GIVEN" => 2 * ENTRY,
        _ => ENTRY,
    };
    // The largest logit, the mass, and a pass for each bit of the threshold.
    let nucleus = if top_p { (2 + 32) * ENTRY } else { 0 };
    Extent::line(rows, (entry + nucleus) * vocab as u64)
}
