//! Weights as the kernels read them (`shaders/lib/weight_*.wgsl` and `table_q8.wgsl`), and the values that they stand for.

use esolm_core::quantise::{GROUP, Q4, Q8};
use half::f16;

use crate::weights::Weights;

/// Inputs of a group, in fours.
pub(super) const GROUP4: u32 = GROUP as u32 / 4;

/// The words of a matrix `[k, n]`, k and n multiples of four, whose `values` become those that the words stand for.
pub fn pack_matrix(values: &mut [f32], n: usize, weights: Weights) -> Vec<u32> {
    let groups = (values.len() / n).div_ceil(GROUP);
    match weights {
        Weights::F32 | Weights::F16 => pack_floats(values, weights),
        Weights::Q8 => {
            let mut codes = vec![[0u8; 4]; values.len() / 4];
            let mut scales = Vec::with_capacity(groups * n);
            for_groups(values, n, |place, column, weights| {
                let group = Q8::new(weights);
                for (i, code) in group.codes.into_iter().enumerate().take(weights.len()) {
                    codes[(place * GROUP + i) / 4 * n + column][i % 4] = code as u8;
                }
                scales.push(group.scale);
                weights.copy_from_slice(&group.weights()[..weights.len()]);
            });
            let mut words: Vec<u32> = codes.into_iter().map(u32::from_le_bytes).collect();
            words.extend(pack_halves(&scales));
            // They are read four at a time.
            words.resize(words.len().next_multiple_of(4), 0);
            words
        }
        Weights::Q4 => {
            let mut codes = vec![0u16; values.len() / 4];
            let (mut scales, mut offsets) = (Vec::new(), Vec::new());
            for_groups(values, n, |place, column, weights| {
                let group = Q4::new(weights);
                for (i, code) in group.codes.into_iter().enumerate().take(weights.len()) {
                    codes[(place * GROUP + i) / 4 * n + column] |= u16::from(code) << (i % 4 * 4);
                }
                scales.push(group.scale);
                offsets.push(group.offset);
                weights.copy_from_slice(&group.weights()[..weights.len()]);
            });
            let codes = codes.into_iter().map(f16::from_bits);
            let halves: Vec<f16> = codes.chain(scales).chain(offsets).collect();
            pack_halves(&halves)
        }
    }
}

/// The words of an embedding `[tokens, hidden]`, hidden a multiple of four, whose `values` become those that the words stand for.
pub fn pack_table(values: &mut [f32], hidden: usize, weights: Weights) -> Vec<u32> {
    if !weights.are_quantised() {
        return pack_floats(values, weights);
    }
    let mut words = Vec::with_capacity(values.len() / hidden * row_words(hidden, weights));
    for row in values.chunks_exact_mut(hidden) {
        let mut scales = Vec::new();
        for weights in row.chunks_mut(GROUP) {
            let group = Q8::new(weights);
            let codes = group.codes[..weights.len()].chunks_exact(4);
            words.extend(codes.map(|four| u32::from_le_bytes([0, 1, 2, 3].map(|i| four[i] as u8))));
            scales.push(group.scale);
            weights.copy_from_slice(&group.weights()[..weights.len()]);
        }
        words.extend(pack_halves(&scales));
    }
    words
}

/// Words of a token's row in an embedding.
pub(super) fn row_words(hidden: usize, weights: Weights) -> usize {
    match weights {
        Weights::F32 => hidden,
        Weights::F16 => hidden / 2,
        Weights::Q8 | Weights::Q4 => hidden / 4 + hidden.div_ceil(GROUP).div_ceil(2),
    }
}

/// Two f16 to a word, the first in the low half, as `unpack2x16float` reads them. An odd end is padded with zero.
pub fn pack_f16(values: &[f32]) -> Vec<u32> {
    let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    pack_halves(&halves)
}

fn pack_floats(values: &mut [f32], weights: Weights) -> Vec<u32> {
    if weights == Weights::F32 {
        return values.iter().map(|value| value.to_bits()).collect();
    }
    let words = pack_f16(values);
    for value in values {
        *value = f16::from_f32(*value).to_f32();
    }
    words
}

fn pack_halves(halves: &[f16]) -> Vec<u32> {
    let word = |pair: &[f16]| {
        let high = pair.get(1).map_or(0, |half| half.to_bits());
        u32::from(pair[0].to_bits()) | u32::from(high) << 16
    };
    halves.chunks(2).map(word).collect()
}

/// Calls `each` with the weights of every group of a matrix `[k, n]`, group by group of inputs and column by column: the number of the group,
/// the column and the weights, which are written back.
fn for_groups(values: &mut [f32], n: usize, mut each: impl FnMut(usize, usize, &mut [f32])) {
    for (place, rows) in values.chunks_mut(GROUP * n).enumerate() {
        let mut group = vec![0.0; rows.len() / n];
        for column in 0..n {
            for (to, row) in group.iter_mut().zip(rows.chunks_exact(n)) {
                *to = row[column];
            }
            each(place, column, &mut group);
            for (from, row) in group.iter().zip(rows.chunks_exact_mut(n)) {
                row[column] = *from;
            }
        }
    }
}
