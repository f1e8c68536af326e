//! Sort orders: which natural position is taken when.

use crate::rng::Stream;

/// Whether `order` contains each of 0, 1, ..., its length - 1 exactly once.
pub fn is_permutation(order: &[u32]) -> bool {
    let mut seen = vec![false; order.len()];
    order.iter().all(|&position| {
        seen.get_mut(position as usize)
            .is_some_and(|seen| !std::mem::replace(seen, true))
    })
}

/// The index of every natural position in `order`, which must be a permutation ([`is_permutation`]). Out-of-range
/// entries are ignored.
pub fn inverse(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0; order.len()];
    for (place, &position) in (0..).zip(order) {
        if let Some(entry) = places.get_mut(position as usize) {
            *entry = place;
        }
    }
    places
}

/// The order of Eso-LM's sampler (`generate_samples` of the published algo.py): `diffusion` of the positions in `free`
/// (ascending), chosen and ordered uniformly at random, then the others in ascending order.
///
/// All positions are shuffled once, regardless of `diffusion`.
pub fn random_then_ascending(free: &[u32], diffusion: usize, stream: &mut Stream) -> Vec<u32> {
    let mut order = free.to_vec();
    stream.shuffle(&mut order);
    order[diffusion.min(free.len())..].sort_unstable();
    order
}

/// Blocks of positions that are far apart: block i takes the entries i, i + n, i + 2n, ... of `free`, with n = `blocks`
/// (the sub-contexts of the published sampler). There are at most as many blocks as positions, no block is empty, and
/// together they contain every position once.
///
/// With a stream, the positions within each block are shuffled, and then the blocks.
pub fn strided_blocks(free: &[u32], blocks: usize, shuffle: Option<&mut Stream>) -> Vec<Vec<u32>> {
    let blocks = blocks.min(free.len());
    let mut all: Vec<Vec<u32>> = (0..blocks)
        .map(|i| free.iter().copied().skip(i).step_by(blocks).collect())
        .collect();
    if let Some(stream) = shuffle {
        for block in &mut all {
            stream.shuffle(block);
        }
        stream.shuffle(&mut all);
    }
    all
}

/// The steps of scaling-dllms' schedule `block`: positions 0 to `length` are divided into blocks of `size` adjacent
/// positions. Each step takes the same offset of every block, with the offsets in random order. The last block may be
/// shorter; a `size` of 0 counts as 1.
pub fn block_steps(length: u32, size: u32, stream: &mut Stream) -> Vec<Vec<u32>> {
    let size = size.max(1);
    let mut places: Vec<u32> = (0..size.min(length)).collect();
    stream.shuffle(&mut places);
    let of_all = |place| (place..length).step_by(size as usize).collect();
    places.into_iter().map(of_all).collect()
}

/// The steps of scaling-dllms' schedule `block_autoregressive`: positions 0 to `length` are divided into `regions`,
/// each with the same number of blocks of `size` adjacent positions. Region by region, the first position of each block
/// is taken in a step of its own, then the next positions of all blocks at once, so that every block is written from
/// left to right. The last blocks may be shorter or missing; 0 counts as 1.
pub fn block_autoregressive_steps(length: u32, size: u32, regions: u32) -> Vec<Vec<u32>> {
    let (size, regions) = (size.max(1), regions.max(1));
    // There are no more blocks than positions, so nothing overflows.
    let blocks = length.div_ceil(size).div_ceil(regions);
    let mut steps = Vec::new();
    let starts = (0..length.div_ceil(size)).map(|block| block * size);
    let starts: Vec<u32> = starts.collect();
    for region in starts.chunks(blocks.max(1) as usize) {
        steps.extend(region.iter().map(|&start| vec![start]));
        for place in 1..size.min(length) {
            let step = region.iter().map(|start| start + place);
            let step: Vec<u32> = step.filter(|&position| position < length).collect();
            if step.is_empty() {
                break;
            }
            steps.push(step);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn permutations_are_told_from_others() {
        assert!(is_permutation(&[]));
        assert!(is_permutation(&[2, 0, 1]));
        assert!(!is_permutation(&[0, 0, 1]));
        assert!(!is_permutation(&[0, 1, 3]));
        assert!(!is_permutation(&[u32::MAX]));
    }

    #[test]
    fn inverse_of_inverse() {
        let order = [3, 0, 4, 1, 2];
        assert_eq!(inverse(&order), [1, 3, 4, 0, 2]);
        assert_eq!(inverse(&inverse(&order)), order);
    }

    #[test]
    fn the_rest_ascends() {
        let free: Vec<u32> = (0..20).filter(|p| p % 3 != 0).collect();
        let order = random_then_ascending(&free, 5, &mut Stream::new(7, 0, Purpose::Order));
        assert!(order[5..].is_sorted());
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, free);
        let more = random_then_ascending(&free, 8, &mut Stream::new(7, 0, Purpose::Order));
        assert_eq!(order[..5], more[..5], "one shuffle decides");
    }

    #[test]
    fn blocks_of_neighbours_go_in_step() {
        let mut stream = Stream::new(7, 0, Purpose::Order);
        let steps = block_steps(12, 4, &mut stream);
        assert_eq!(steps.len(), 4);
        for step in &steps {
            assert_eq!(*step, [step[0], step[0] + 4, step[0] + 8]);
        }
        assert!(is_permutation(&steps.concat()));
        // A block that does not fit is shorter, and none is larger than the text.
        let steps = block_steps(7, 5, &mut stream);
        assert!(is_permutation(&steps.concat()));
        assert_eq!(steps.iter().map(Vec::len).max(), Some(2));
        assert_eq!(block_steps(3, u32::MAX, &mut stream).len(), 3);
        assert_eq!(block_steps(3, 0, &mut stream), [[0, 1, 2]]);
        assert!(block_steps(0, 3, &mut stream).is_empty());
    }

    #[test]
    fn regions_go_one_after_the_other_and_their_blocks_at_once() {
        let steps = block_autoregressive_steps(12, 3, 2);
        let expected: [&[u32]; 8] = [&[0], &[3], &[1, 4], &[2, 5], &[6], &[9], &[7, 10], &[8, 11]];
        assert_eq!(steps, expected);
        assert_eq!(block_autoregressive_steps(4, 1, 1).concat(), [0, 1, 2, 3]);
        assert_eq!(block_autoregressive_steps(4, 9, 9).concat(), [0, 1, 2, 3]);
        for (length, size, regions) in [(11, 4, 2), (7, 2, 3), (5, u32::MAX, u32::MAX), (6, 0, 0)] {
            let order = block_autoregressive_steps(length, size, regions).concat();
            assert_eq!(order.len(), length as usize);
            assert!(
                is_permutation(&order),
                "{length} {size} {regions}: {order:?}"
            );
        }
        assert!(block_autoregressive_steps(0, 2, 2).is_empty());
    }

    #[test]
    fn blocks_are_strided() {
        let free: Vec<u32> = (0..7).collect();
        assert_eq!(
            strided_blocks(&free, 3, None),
            [vec![0, 3, 6], vec![1, 4], vec![2, 5]]
        );
        assert_eq!(strided_blocks(&free, 9, None).len(), 7);
        assert!(strided_blocks(&[], 9, None).is_empty());
    }
}
