//! The tables of a pass on the device.

use esolm_core::rows::{Row, StepRows};

use crate::executor::NoiseKey;
use crate::kernels::runtime::{Buffer, Gpu};
use crate::variants::FEW_ROWS;

/// Alignment of a part of an upload, bytes.
const ALIGN: usize = 256;
/// Bytes of the tables of up to [`FEW_ROWS`] rows: rows, spans and keys.
const FEW_SIZES: [usize; 3] = [
    (FEW_ROWS * size_of::<Row>()).next_multiple_of(ALIGN),
    (FEW_ROWS * size_of::<[u32; 2]>()).next_multiple_of(ALIGN),
    (FEW_ROWS * size_of::<NoiseKey>()).next_multiple_of(ALIGN),
];
/// All of them.
pub(super) const FEW_BYTES: usize = FEW_SIZES[0] + FEW_SIZES[1] + FEW_SIZES[2];

/// Rows that come first in the row table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Leading {
    pub rows: usize,
    /// The spans that they are in.
    pub spans: usize,
    /// Most rows of a span.
    pub longest: usize,
    /// None of them sees more slots: a power of two, so that few passes differ.
    pub reach: usize,
}

impl Leading {
    fn of(rows: &[Row], spans: &[[u32; 2]]) -> Self {
        let seen = rows.iter().map(Row::seen).max().unwrap_or(0);
        Self {
            rows: rows.len(),
            spans: spans.len(),
            longest: spans.iter().map(|s| s[1] as usize).max().unwrap_or(0),
            reach: seen.next_power_of_two(),
        }
    }
}

/// The tables of one pass on the device.
pub(super) struct Tables {
    /// The rows whose logits are wanted, then the others.
    pub rows: Buffer,
    /// Neighbours of one sequence, either kind on its own.
    pub spans: Buffer,
    pub keys: Buffer,
    pub all: Leading,
    /// Those whose logits are wanted.
    pub wanted: Leading,
}

/// The rows whose logits are wanted, then the others, each in their order.
fn wanted_first(step: &StepRows) -> Vec<Row> {
    let mut is_wanted = vec![false; step.rows.len()];
    for &index in &step.sampled {
        is_wanted[index as usize] = true;
    }
    let of = |wanted: bool| {
        let rows = step.rows.iter().zip(&is_wanted);
        rows.filter(move |&(_, &is)| is == wanted)
            .map(|(&row, _)| row)
    };
    of(true).chain(of(false)).collect()
}

/// Neighbours of one sequence among `rows`, which begin at row `first` of the table: the first of them, and how many.
fn spans(rows: &[Row], mut first: u32) -> Vec<[u32; 2]> {
    let runs = rows.chunk_by(|a, b| a.sequence == b.sequence);
    runs.map(|run| {
        let span = [first, run.len() as u32];
        first += span[1];
        span
    })
    .collect()
}

impl Tables {
    /// Uploads them in one piece; those of few rows to `few`, [`FEW_BYTES`] large, where each has a place of its own.
    pub fn upload(gpu: &Gpu, few: &Buffer, step: &StepRows, keys: &[NoiseKey]) -> Self {
        let rows = wanted_first(step);
        let (wanted, others) = rows.split_at(step.sampled.len());
        let mut spans_of_all = spans(wanted, 0);
        let of_wanted = spans_of_all.len();
        spans_of_all.extend(spans(others, wanted.len() as u32));
        let sections: [&[u8]; 3] = [
            bytemuck::cast_slice(&rows),
            bytemuck::cast_slice(&spans_of_all),
            bytemuck::cast_slice(keys),
        ];
        let is_few = rows.len() <= FEW_ROWS;
        let sizes = match is_few {
            true => FEW_SIZES,
            // An empty section still binds something.
            false => sections.map(|section| section.len().max(1).next_multiple_of(ALIGN)),
        };
        let starts = [0, sizes[0], sizes[0] + sizes[1]];
        let mut bytes = vec![0; sizes.iter().sum()];
        for (section, start) in sections.into_iter().zip(starts) {
            bytes[start..][..section.len()].copy_from_slice(section);
        }
        let buffer = match is_few {
            true => {
                gpu.write(few, &bytes);
                few.clone()
            }
            false => gpu.upload(&bytes),
        };
        let part = |i: usize| buffer.part(starts[i] as u64, sizes[i] as u64);
        Self {
            wanted: Leading::of(wanted, &spans_of_all[..of_wanted]),
            all: Leading::of(&rows, &spans_of_all),
            rows: part(0),
            spans: part(1),
            keys: part(2),
        }
    }
}
