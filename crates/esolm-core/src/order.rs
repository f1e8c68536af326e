//! Sort orders: which natural position takes which slot. Random for what diffusion writes, ascending for what the sequential
//! phase writes (paper section 4; `algo.py` of the published code).

use crate::rng::Stream;

/// `free` (ascending positions) in an order whose first `diffusion` entries are a uniformly random sample in random order and
/// whose rest ascends.
pub fn random_then_ascending(free: &[u32], diffusion: usize, stream: &mut Stream) -> Vec<u32> {
    let mut order = free.to_vec();
    stream.shuffle(&mut order);
    order[diffusion.min(free.len())..].sort_unstable();
    order
}

/// Blocks of the blockwise schedule over `free` with `steps` steps: block i takes entries i, i + steps, ..., so that tokens of
/// one step lie far apart. Only the first `diffusion` tokens are dealt out; empty blocks are dropped.
pub fn blocks(free: &[u32], steps: usize, diffusion: usize) -> Vec<Vec<u32>> {
    let steps = steps.clamp(1, free.len().max(1));
    let mut left = diffusion.min(free.len());
    let mut blocks = Vec::new();
    for i in 0..steps {
        let block: Vec<u32> = free.iter().skip(i).step_by(steps).take(left).copied().collect();
        left -= block.len();
        if !block.is_empty() {
            blocks.push(block);
        }
    }
    blocks
}
