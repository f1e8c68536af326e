//! Sort orders: which natural position is taken when.

use crate::rng::Stream;

/// Whether `order` holds each of 0, 1, ..., its length - 1 once.
pub fn is_permutation(order: &[u32]) -> bool {
    let mut seen = vec![false; order.len()];
    order.iter().all(|&position| {
        seen.get_mut(position as usize)
            .is_some_and(|seen| !std::mem::replace(seen, true))
    })
}

/// The place of every natural position in `order`, which must be a permutation ([`is_permutation`]); entries that point outside are
/// left out.
pub fn inverse(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0; order.len()];
    for (place, &position) in (0..).zip(order) {
        if let Some(entry) = places.get_mut(position as usize) {
            *entry = place;
        }
    }
    places
}

/// The order of Eso-LM's sampler (`generate_samples` of the published algo.py): `diffusion` of the positions `free`, which ascend,
/// uniformly random in choice and order, then the others ascending.
///
/// One shuffle of all positions decides, whatever `diffusion` is.
pub fn random_then_ascending(free: &[u32], diffusion: usize, stream: &mut Stream) -> Vec<u32> {
    let mut order = free.to_vec();
    stream.shuffle(&mut order);
    order[diffusion.min(free.len())..].sort_unstable();
    order
}

/// Blocks of positions that lie far apart: block i takes entries i, i + n, i + 2n, ... of `free`, n = `blocks` (the sub-contexts of
/// the published sampler). There are at most as many blocks as positions, none is empty, and together they hold every
/// position once.
///
/// With a stream, the positions within each block and then the order of the blocks are shuffled.
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
