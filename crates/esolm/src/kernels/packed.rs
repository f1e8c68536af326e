//! Weights as the kernels read them (`shaders/lib/weight_*.wgsl` and `table_q8.wgsl`), and the values that they stand for.

use std::ops::Range;

use esolm_core::quantise::GROUP;
use half::f16;

use crate::network::fold::{Embedding, Linear};
use crate::weights::Weights;

/// Inputs of a group, in fours.
pub(super) const GROUP4: u32 = GROUP as u32 / 4;

/// The words of some columns of a matrix with a multiple of four inputs, filled up to a multiple of four columns with zeros, and the values
/// `[inputs, columns]` that they stand for.
pub fn pack_matrix(
    linear: &Linear,
    columns: Range<usize>,
    weights: Weights,
) -> (Vec<u32>, Vec<f32>) {
    let n = columns.len().next_multiple_of(4);
    let mut values = vec![0.0; linear.n_in * n];
    let rows = linear.weight.chunks_exact(linear.n_out);
    for (row, values) in rows.zip(values.chunks_exact_mut(n)) {
        values[..columns.len()].copy_from_slice(&row[columns.clone()]);
    }
    let groups = linear.n_in.div_ceil(GROUP);
    let halves = || vec![f16::ZERO; groups * n];
    // Calls `each` with the group, its column, and the inputs of the group.
    let for_groups = |each: &mut dyn FnMut(usize, usize, Range<usize>)| {
        for group in 0..groups {
            for column in 0..columns.len() {
                each(
                    group,
                    column,
                    group * GROUP..linear.n_in.min((group + 1) * GROUP),
                );
            }
        }
    };
    let words = match weights {
        Weights::F32 | Weights::F16 => pack_floats(&mut values, weights),
        Weights::Q8 => {
            let mut codes = vec![[0u8; 4]; values.len() / 4];
            let mut scales = halves();
            for_groups(&mut |place, column, inputs| {
                let group = linear.q8(columns.start + column, place);
                for ((k, code), weight) in inputs.zip(group.codes).zip(group.weights()) {
                    codes[k / 4 * n + column][k % 4] = code as u8;
                    values[k * n + column] = weight;
                }
                scales[place * n + column] = group.scale;
            });
            let mut words: Vec<u32> = codes.into_iter().map(u32::from_le_bytes).collect();
            words.extend(pack_halves(&scales));
            // They are read four at a time.
            words.resize(words.len().next_multiple_of(4), 0);
            words
        }
        Weights::Q4 => {
            let mut codes = vec![0u16; values.len() / 4];
            let (mut scales, mut offsets) = (halves(), halves());
            for_groups(&mut |place, column, inputs| {
                let group = linear.q4(columns.start + column, place);
                for ((k, code), weight) in inputs.zip(group.codes).zip(group.weights()) {
                    codes[k / 4 * n + column] |= u16::from(code) << (k % 4 * 4);
                    values[k * n + column] = weight;
                }
                scales[place * n + column] = group.scale;
                offsets[place * n + column] = group.offset;
            });
            let codes = codes.into_iter().map(f16::from_bits);
            let halves: Vec<f16> = codes.chain(scales).chain(offsets).collect();
            pack_halves(&halves)
        }
    };
    (words, values)
}

/// The words of some tokens' rows of an embedding whose width is a multiple of four.
pub fn pack_table(table: &Embedding, tokens: Range<usize>, weights: Weights) -> Vec<u32> {
    let hidden = table.hidden;
    if !weights.are_quantised() {
        let mut values = table.values[tokens.start * hidden..tokens.end * hidden].to_vec();
        return pack_floats(&mut values, weights);
    }
    let mut words = Vec::with_capacity(tokens.len() * row_words(hidden, weights));
    for token in tokens {
        let mut scales = Vec::new();
        for (group, first) in table.q8(token).zip((0..hidden).step_by(GROUP)) {
            let codes = group.codes[..GROUP.min(hidden - first)].chunks_exact(4);
            words.extend(codes.map(|four| u32::from_le_bytes([0, 1, 2, 3].map(|i| four[i] as u8))));
            scales.push(group.scale);
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
