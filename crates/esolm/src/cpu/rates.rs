//! What the processor reads from memory and multiplies a second, measured for the bench.

use std::hint::black_box;

use burn::backend::flex::FlexTensor;
use burn::backend::flex::ops::matmul::matmul;
use burn::tensor::TensorData;
use web_time::Instant;

use super::math;
use crate::error::EngineError;
use crate::measure::Rates;
use crate::memory::{self, MemoryUse};

/// Numbers of the memory that is read: 512 MiB, of which a large cache holds a small part.
const READ: usize = 128 << 20;
/// Pieces of it, which the cores share.
const PIECES: usize = 256;
/// Size of the multiplied squares: large enough for every core, small enough for their caches.
const SIZE: usize = 768;

/// Measures both.
///
/// # Errors
/// When memory does not suffice.
pub(super) fn rates() -> Result<Rates, EngineError> {
    let purpose = MemoryUse::Rates;
    let mut values = memory::zeros(purpose, READ)?;
    // Pages that were never written would all be the same one.
    values.fill(1.0);
    let mut sums = [0.0f32; PIECES];
    let read = best(|| {
        math::for_chunks(&mut sums, 1, READ, |piece, sum| {
            sum[0] = math::sum(&values[piece * (READ / PIECES)..][..READ / PIECES]);
        });
        black_box(&sums);
    });
    let square = || -> Result<FlexTensor, EngineError> {
        let values = memory::zeros(purpose, SIZE * SIZE)?;
        Ok(FlexTensor::from_data(TensorData::new(values, [SIZE, SIZE])))
    };
    let (a, b) = (square()?, square()?);
    let multiply = best(|| {
        black_box(matmul(a.clone(), b.clone()));
    });
    Ok(Rates {
        memory_bytes: (READ * 4) as f64 / read,
        flops: (2 * SIZE * SIZE * SIZE) as f64 / multiply,
        kernels: None,
    })
}

/// Seconds of the best of eight runs.
fn best(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..8 {
        let begin = Instant::now();
        work();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}
