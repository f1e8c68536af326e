//! A plain copy: `shaders/copy.wgsl`. The bench measures an adapter's bandwidth with it.

use esolm_shaders::{COPY, Form};

use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};

const WG: u32 = 64;

/// Copies the first `len` floats (a multiple of four) of `source` to `out`.
pub fn copy(gpu: &Gpu, source: &Buffer, out: &Buffer, len: usize) {
    let kernel = gpu.kernel(&COPY, vec![], WG, || Form {
        constants: vec![("WG", WG)],
        ..Default::default()
    });
    // Each invocation reads and writes four floats.
    let each = 4 * 8 * BYTE * u64::from(WG);
    gpu.launch(
        &kernel,
        &Extent::line((len / 4).div_ceil(WG as usize), each),
        &[source, out],
        &[(len / 4) as u32, 0, 0, 0],
    );
}
