//! Arithmetic in registers: `shaders/peak.wgsl`. The bench measures an adapter's peak with it.

use esolm_shaders::{Form, PEAK};

use super::runtime::{Buffer, Gpu};
use super::work::Extent;

const WG: u32 = 64;

/// Floating-point operations per invocation and round.
pub const FLOPS: u64 = 8 * 4 * 2;

/// Runs `rounds` rounds in each of `invocations` (a multiple of 64); `out` holds four floats per invocation.
pub fn peak(gpu: &Gpu, out: &Buffer, invocations: usize, rounds: u32, factor: f32) {
    let kernel = gpu.kernel(&PEAK, vec![], WG, || Form {
        constants: vec![("WG", WG)],
        ..Default::default()
    });
    let each = FLOPS * u64::from(rounds) * u64::from(WG);
    let extent = Extent::line(invocations / WG as usize, each);
    gpu.launch(&kernel, &extent, &[out], &[rounds, factor.to_bits(), 0, 0]);
}

/// The twin: the four equal floats of invocation `id`.
pub fn peak_twin(id: u32, rounds: u32, factor: f32) -> f32 {
    let start = (id % 7) as f32;
    (0..8)
        .map(|r| (0..rounds).fold(start + r as f32, |acc, _| acc.mul_add(factor, start)))
        .sum()
}
