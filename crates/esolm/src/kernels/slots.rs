//! Moves slots of the KV cache: `shaders/move_slots.wgsl`.

use esolm_shaders::{Form, MOVE_SLOTS};

use super::runtime::{Buffer, Gpu};
use super::work::{BYTE, Extent};

const WG: u32 = 64;

/// Copies rows of `words` words in both the keys and the values of `cache`. `rows` holds `count` pairs of row numbers (from, to); no row
/// is both read and written.
pub fn move_slots(gpu: &Gpu, rows: &Buffer, cache: &(Buffer, Buffer), count: usize, words: usize) {
    let kernel = gpu.kernel(&MOVE_SLOTS, vec![], WG, || Form {
        constants: vec![("WG", WG)],
        ..Default::default()
    });
    let info = [count as u32, words as u32, 0, 0];
    gpu.launch(
        &kernel,
        &extent(count, words),
        &[rows, &cache.0, &cache.1],
        &info,
    );
}

/// One workgroup per row, whose words are read and written in both.
pub(super) fn extent(rows: usize, words: usize) -> Extent {
    Extent::line(rows, 2 * 2 * 4 * BYTE * words as u64)
}
