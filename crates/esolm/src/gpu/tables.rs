//! The tables of a pass on the device.

use esolm_core::rows::{MASKED, NO_TARGET, Row, StepRows};

use crate::executor::NoiseKey;
use crate::kernels::NOWHERE;
use crate::kernels::runtime::{Buffer, Gpu};
use crate::variants::Chosen;

/// Alignment in bytes of the parts of an upload.
const ALIGN: usize = 256;
/// Rows of the largest pass whose tables have a fixed place, which a recorded pass requires. Larger ones take the device longer than
/// their launches take the host.
pub(super) const RECORDED_ROWS: usize = 256;
/// Bytes of the tables of [`RECORDED_ROWS`] rows: rows, spans, up to half of which may be empty, and keys.
pub(super) const PLACE_BYTES: usize =
    RECORDED_ROWS * (size_of::<Row>() + 2 * size_of::<[u32; 2]>() + size_of::<NoiseKey>());
/// The row with which passes are padded: no other row sees it, as it stores no keys and values, and no token is drawn from it. It attends
/// to a slot that always exists.
const FILLING: Row = Row {
    sequence: 0,
    slot: NOWHERE,
    position: 0,
    prefix: 0,
    own: [0, 1],
    source: MASKED,
    target: NO_TARGET,
};

/// The leading rows of the row table. All numbers are rounded up, so that few passes differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Leading {
    pub rows: usize,
    /// Number of their spans, including empty ones.
    pub spans: usize,
    /// Upper bound of the rows of a span.
    pub longest: usize,
    /// Upper bound of the slots that a row sees.
    pub reach: usize,
}

impl Leading {
    /// Describes `rows`, which lie in `spans` and are padded to `filled` rows.
    fn of(rows: &[Row], filled: usize, spans: &[[u32; 2]], chosen: &Chosen) -> Self {
        let seen = rows.iter().map(Row::seen).max().unwrap_or(0);
        let longest = spans.iter().map(|s| s[1] as usize).max().unwrap_or(0);
        Self {
            rows: filled,
            spans: spans.len(),
            longest: chosen.filled(longest),
            reach: seen.next_power_of_two(),
        }
    }
}

/// The number of rows to which a pass is padded, and how many of them continue where only the wanted rows must: the wanted ones, padded
/// with other rows of the pass.
pub(super) fn filled(step: &StepRows, chosen: &Chosen) -> [usize; 2] {
    let rows = chosen.filled(step.rows.len());
    [rows, chosen.filled(step.sampled.len()).min(rows)]
}

/// The tables of one pass on the device.
pub(super) struct Tables {
    /// The rows whose logits are wanted, then the others.
    pub rows: Buffer,
    /// Spans of adjacent rows of one sequence, separately for either kind.
    pub spans: Buffer,
    pub keys: Buffer,
    /// Number of rows whose logits are wanted.
    pub sampled: usize,
    pub all: Leading,
    /// The rows whose logits are wanted, and their padding.
    pub wanted: Leading,
}

/// The rows whose logits are wanted, then the others, each in their original order.
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

/// Spans of adjacent rows of one sequence among `rows`, which begin at row `first` of the table: (first row, number of rows). Empty
/// spans round their number up to a power of two.
fn spans(rows: &[Row], mut first: u32) -> Vec<[u32; 2]> {
    let runs = rows.chunk_by(|a, b| a.sequence == b.sequence);
    let mut spans: Vec<_> = runs
        .map(|run| {
            let span = [first, run.len() as u32];
            first += span[1];
            span
        })
        .collect();
    if !spans.is_empty() {
        spans.resize(spans.len().next_power_of_two(), [0; 2]);
    }
    spans
}

impl Tables {
    /// Uploads the tables in one piece. Those of up to [`RECORDED_ROWS`] rows go to `place`, of [`PLACE_BYTES`], with the same layout in
    /// all passes with equal [`Leading`] rows.
    pub fn upload(
        gpu: &Gpu,
        chosen: &Chosen,
        place: &Buffer,
        step: &StepRows,
        keys: &[NoiseKey],
    ) -> Self {
        let [count, going_on] = filled(step, chosen);
        let mut rows = wanted_first(step);
        let sampled = step.sampled.len();
        let (wanted, others) = rows.split_at(sampled);
        let mut all_spans = spans(wanted, 0);
        let of_wanted = all_spans.len();
        all_spans.extend(spans(others, sampled as u32));
        let leading = Leading::of(wanted, going_on, &all_spans[..of_wanted], chosen);
        let all = Leading::of(&rows, count, &all_spans, chosen);
        rows.resize(count, FILLING);
        let sections: [&[u8]; 3] = [
            bytemuck::cast_slice(&rows),
            bytemuck::cast_slice(&all_spans),
            bytemuck::cast_slice(keys),
        ];
        // There is room for keys of all rows that continue; an empty section still binds something.
        let sizes = [
            sections[0].len(),
            sections[1].len(),
            going_on * size_of::<NoiseKey>(),
        ]
        .map(|size| size.max(1).next_multiple_of(ALIGN));
        let starts = [0, sizes[0], sizes[0] + sizes[1]];
        let mut bytes = vec![0; sizes.iter().sum()];
        for (section, start) in sections.into_iter().zip(starts) {
            bytes[start..][..section.len()].copy_from_slice(section);
        }
        let buffer = match count <= RECORDED_ROWS {
            true => {
                let part = place.part(0, bytes.len() as u64);
                gpu.write(&part, &bytes);
                part
            }
            false => gpu.upload(&bytes),
        };
        let part = |i: usize| buffer.part(starts[i] as u64, sizes[i] as u64);
        Self {
            rows: part(0),
            spans: part(1),
            keys: part(2),
            sampled,
            all,
            wanted: leading,
        }
    }
}
