//! Measures the processor's memory bandwidth and arithmetic, for the benchmark.

use std::hint::black_box;

use burn::backend::flex::FlexTensor;
use burn::backend::flex::ops::matmul::matmul;
use burn::tensor::TensorData;
use esolm_core::quantise::GROUP;
use web_time::Instant;

use super::inputs::{Inputs, Source};
use super::math;
use super::packed::{Finish, Target};
use super::product::Matrix;
use crate::error::EngineError;
use crate::measure::Rates;
use crate::memory::{self, MemoryUse};

/// Numbers in the memory that is read: 512 MiB, far more than a large cache.
const READ: usize = 128 << 20;
/// Pieces into which it is split for the cores.
const PIECES: usize = 256;
/// Size of the square matrices multiplied: large enough to keep every core busy, small enough for their caches.
const SIZE: usize = 768;

/// Rows in the model's product.
const ROWS: usize = 256;
/// Synchronisations of the cores per run.
const WAITS: usize = 1000;

/// Measures all rates; products use one of the model's matrices.
///
/// # Errors
/// If there is not enough memory.
pub(super) fn rates(matrix: &Matrix, n_in: usize) -> Result<Rates, EngineError> {
    let purpose = MemoryUse::Rates;
    let mut values = memory::zeros(purpose, READ)?;
    // Pages never written to would all map to the same zero page.
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
    let mut inputs = Inputs::default();
    inputs.reserve(purpose, matrix.form(), ROWS, n_in)?;
    inputs.fill(matrix.form(), ROWS, n_in, &Ones);
    let mut out = memory::zeros(purpose, ROWS * matrix.padded())?;
    let product = best(|| {
        math::on_all_cores(|| {
            let target = Target {
                values: &mut out,
                rows: ROWS,
                first: 0,
            };
            matrix.product(&inputs, Finish::Store, target);
        });
    });
    let mut counts = [0u32; PIECES];
    let wait = best(|| {
        math::on_all_cores(|| {
            for _ in 0..WAITS {
                math::for_chunks(&mut counts, 1, usize::MAX, |_, count| count[0] += 1);
            }
        });
        black_box(&counts);
    });
    Ok(Rates {
        memory_bytes: (READ * 4) as f64 / read,
        flops: (2 * SIZE * SIZE * SIZE) as f64 / multiply,
        product_flops: (2 * ROWS * n_in * matrix.padded()) as f64 / product,
        launch_seconds: wait / WAITS as f64,
        kernels: None,
    })
}

/// Rows of ones.
struct Ones;

impl Source for Ones {
    #[inline(always)]
    fn read(&self, _row: usize, _group: usize, to: &mut [f32; GROUP]) {
        to.fill(1.0);
    }
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
