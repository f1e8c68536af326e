//! Weights as the kernels read them (`shaders/lib/weight_*.wgsl` and `table_q8.wgsl`), and the values that they represent.

use std::ops::Range;

use esolm_core::quantise::GROUP;
use half::f16;

use crate::network::fold::{Embedding, Linear};
use crate::weights::Weights;

/// Inputs per group, in fours.
pub(super) const GROUP4: u32 = GROUP as u32 / 4;

/// The words of a matrix with a multiple of four inputs, padded with zeros to a multiple of four columns. Columns can be packed in any
/// number of parts, so that a large matrix never has to be in memory as floats all at once.
pub struct Packing {
    words: Vec<u32>,
    inputs: usize,
    /// Padded to a multiple of four.
    columns: usize,
    weights: Weights,
    /// For each column, the sum of the values that its weights represent.
    sums: Vec<f64>,
}

impl Packing {
    /// Creates a matrix of zeros with these numbers of inputs and columns.
    pub fn new(inputs: usize, columns: usize, weights: Weights) -> Self {
        let columns = columns.next_multiple_of(4);
        let (values, groups) = (inputs * columns, inputs.div_ceil(GROUP) * columns);
        let words = match weights {
            Weights::F32 => values,
            Weights::F16 => values / 2,
            // Words are read four at a time.
            Weights::Q8 => (values / 4 + groups / 2).next_multiple_of(4),
            Weights::Q4 => values / 8 + groups,
        };
        Self {
            words: vec![0; words],
            inputs,
            columns,
            weights,
            sums: vec![0.0; columns],
        }
    }

    /// Packs `columns` of `linear` as the columns from `first` on.
    pub fn push(&mut self, linear: &Linear, columns: Range<usize>, first: usize) {
        match self.weights {
            Weights::F32 | Weights::F16 => self.push_floats(linear, columns, first),
            Weights::Q8 => self.push_q8(linear, columns, first),
            Weights::Q4 => self.push_q4(linear, columns, first),
        }
    }

    fn push_floats(&mut self, linear: &Linear, columns: Range<usize>, first: usize) {
        for (input, row) in linear.weight.chunks_exact(linear.n_out).enumerate() {
            for (column, &weight) in (first..).zip(&row[columns.clone()]) {
                let place = input * self.columns + column;
                let value = if self.weights == Weights::F32 {
                    self.words[place] = weight.to_bits();
                    weight
                } else {
                    let half = f16::from_f32(weight);
                    self.set_half(place, half);
                    half.to_f32()
                };
                self.sums[column] += f64::from(value);
            }
        }
    }

    fn push_q8(&mut self, linear: &Linear, columns: Range<usize>, first: usize) {
        let scales = self.inputs * self.columns / 2;
        self.for_groups(columns, first, |packing, place, from, to| {
            let group = linear.q8(from, place);
            let codes = group.codes.as_chunks::<4>().0;
            for (word, codes) in packing.fours(place).zip(codes) {
                let codes = codes.map(|code| code as u8);
                packing.words[word * packing.columns + to] = u32::from_le_bytes(codes);
            }
            packing.set_half(scales + place * packing.columns + to, group.scale);
            packing.add(to, place, &group.weights());
        });
    }

    fn push_q4(&mut self, linear: &Linear, columns: Range<usize>, first: usize) {
        let scales = self.inputs / 4 * self.columns;
        let offsets = scales + self.inputs.div_ceil(GROUP) * self.columns;
        self.for_groups(columns, first, |packing, place, from, to| {
            let group = linear.q4(from, place);
            let codes = group.codes.as_chunks::<4>().0;
            for (half, codes) in packing.fours(place).zip(codes) {
                let [a, b, c, d] = codes.map(u16::from);
                let half_word = f16::from_bits(a | b << 4 | c << 8 | d << 12);
                packing.set_half(half * packing.columns + to, half_word);
            }
            let beside = place * packing.columns + to;
            packing.set_half(scales + beside, group.scale);
            packing.set_half(offsets + beside, group.offset);
            packing.add(to, place, &group.weights());
        });
    }

    /// Calls `each` with every group, its column in the source matrix and its column here.
    fn for_groups(
        &mut self,
        columns: Range<usize>,
        first: usize,
        each: impl Fn(&mut Self, usize, usize, usize),
    ) {
        for group in 0..self.inputs.div_ceil(GROUP) {
            for (to, from) in (first..).zip(columns.clone()) {
                each(self, group, from, to);
            }
        }
    }

    /// The range of a group's inputs, in fours.
    fn fours(&self, group: usize) -> Range<usize> {
        let group4 = GROUP4 as usize;
        group * group4..(self.inputs / 4).min((group + 1) * group4)
    }

    /// Adds the weights of a group to the sum of its column.
    fn add(&mut self, column: usize, group: usize, weights: &[f32; GROUP]) {
        let there = GROUP.min(self.inputs - group * GROUP);
        for &weight in &weights[..there] {
            self.sums[column] += f64::from(weight);
        }
    }

    /// Writes one half of a word; that half must be zero before.
    fn set_half(&mut self, index: usize, half: f16) {
        self.words[index / 2] |= u32::from(half.to_bits()) << (16 * (index % 2));
    }

    /// The words, and for each column, including padding, the sum of the values that its weights represent.
    pub fn finish(self) -> (Vec<u32>, Vec<f64>) {
        (self.words, self.sums)
    }
}

/// Packs the rows of `tokens` from an embedding whose width is a multiple of four.
pub fn pack_table(table: &Embedding, tokens: Range<usize>, weights: Weights) -> Vec<u32> {
    let hidden = table.hidden;
    if !weights.are_quantised() {
        let values = &table.values[tokens.start * hidden..tokens.end * hidden];
        return match weights {
            Weights::F32 => values.iter().map(|value| value.to_bits()).collect(),
            _ => pack_f16(values),
        };
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

/// Words per row of an embedding.
pub(super) fn row_words(hidden: usize, weights: Weights) -> usize {
    match weights {
        Weights::F32 => hidden,
        Weights::F16 => hidden / 2,
        Weights::Q8 | Weights::Q4 => hidden / 4 + hidden.div_ceil(GROUP).div_ceil(2),
    }
}

/// Packs two f16 to a word, the first in the low half, as `unpack2x16float` reads them. An odd last value is padded with zero.
pub fn pack_f16(values: &[f32]) -> Vec<u32> {
    let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    pack_halves(&halves)
}

fn pack_halves(halves: &[f16]) -> Vec<u32> {
    let word = |pair: &[f16]| {
        let high = pair.get(1).map_or(0, |half| half.to_bits());
        u32::from(pair[0].to_bits()) | u32::from(high) << 16
    };
    halves.chunks(2).map(word).collect()
}
