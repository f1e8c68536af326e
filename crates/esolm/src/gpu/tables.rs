//! The tables of a pass on the device.

use esolm_core::rows::{Layout, Row, StepRows};

use crate::executor::NoiseKey;
use crate::kernels::runtime::{Buffer, Gpu};

/// Alignment of a part of an upload, bytes.
const ALIGN: usize = 256;

/// The tables of one pass on the device.
pub(super) struct Tables {
    pub rows: Buffer,
    pub sampled: Buffer,
    /// Number of sampled rows.
    pub count: usize,
    pub spans: Buffer,
    pub keys: Buffer,
    /// Most rows of a sequence.
    pub longest: usize,
    /// The largest prefix.
    pub prefix: usize,
}

impl Tables {
    /// Uploads them in one piece.
    pub fn upload(gpu: &Gpu, layout: &Layout, step: &StepRows, keys: &[NoiseKey]) -> Self {
        let mut spans = vec![[0u32; 2]; layout.sequences];
        for (index, row) in step.rows.iter().enumerate() {
            let span = &mut spans[row.sequence as usize];
            if span[1] == 0 {
                span[0] = index as u32;
            }
            span[1] += 1;
        }
        let sections: [&[u8]; 4] = [
            bytemuck::cast_slice(&step.rows),
            bytemuck::cast_slice(&step.sampled),
            bytemuck::cast_slice(&spans),
            bytemuck::cast_slice(keys),
        ];
        let mut bytes = Vec::new();
        let starts: Vec<usize> = sections
            .iter()
            .map(|section| {
                let start = bytes.len();
                bytes.extend_from_slice(section);
                // An empty section still binds something.
                bytes.resize((bytes.len().max(start + 1)).next_multiple_of(ALIGN), 0);
                start
            })
            .collect();
        let buffer = gpu.upload(&bytes);
        let part = |i: usize| {
            let end = starts.get(i + 1).copied().unwrap_or(bytes.len());
            buffer.part(starts[i] as u64, (end - starts[i]) as u64)
        };
        Self {
            rows: part(0),
            sampled: part(1),
            count: step.sampled.len(),
            spans: part(2),
            keys: part(3),
            longest: spans.iter().map(|s| s[1] as usize).max().unwrap_or(0),
            prefix: step
                .rows
                .iter()
                .map(|r: &Row| r.prefix as usize)
                .max()
                .unwrap_or(0),
        }
    }
}
