//! Measured rates of a device, and how close the products come to them, for the benchmark. Nothing here affects how a
//! model runs.

pub mod forms;
pub mod prediction;
pub mod work;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use web_time::Instant;

use crate::adapter::AdapterKind;
use crate::error::EngineError;
use crate::kernels::copy::copy;
use crate::kernels::peak::{FLOPS, peak};
use crate::kernels::product::{Finish, Matrix, ProductVariant, product};
use crate::kernels::runtime::{Buffer, Gpu};
use crate::variants::Chosen;

/// Rows of the products that are measured.
const FEW: usize = 2;
const MANY: usize = 256;
/// Floats in the copy that is measured: 64 MiB each way, more than any cache holds.
const COPY: usize = 16 << 20;
/// Launches timed together, of four floats each.
const LAUNCHES: usize = 256;
/// Minimum duration of what is timed, in seconds: waiting for a GPU takes a fraction of a millisecond.
const ENOUGH: f64 = 0.01;
/// Maximum number of times that work is repeated to take that long.
const MOST_TIMES: usize = 256;

/// Rates of a device.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rates {
    /// Memory bandwidth in bytes per second: reading with all cores, or reading and writing in a plain copy on a GPU.
    pub memory_bytes: f64,
    /// Peak floating-point operations per second: Burn's f32 product on all cores (crate gemm), or arithmetic in
    /// registers on a GPU.
    pub flops: f64,
    /// Operations per second of the model's own product with 256 rows, in the format of its weights and activations.
    pub product_flops: f64,
    /// Seconds of overhead per launch: of an empty kernel that was recorded, or of work shared by all cores and waited for.
    pub launch_seconds: f64,
    /// Rates of individual GPU kernels.
    pub kernels: Option<KernelRates>,
}

/// Rates of a GPU's kernels.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct KernelRates {
    /// Bytes of weights per second read by the product of two rows.
    pub few_row_bytes: f64,
    /// Floating-point operations per second of Burn's own matmul, with 256 rows in f32.
    pub burn_flops: f64,
}

/// Measures with one matrix of each block, all of the same shape.
///
/// # Errors
/// If the device fails or does not have enough memory.
pub async fn rates(gpu: &Gpu, chosen: &Chosen, matrices: &[&Matrix]) -> Result<Rates, EngineError> {
    let first = matrices
        .first()
        .ok_or_else(|| EngineError::Shape("a model without blocks".into()))?;
    let (k, n) = (first.k, first.padded());
    let (source, target) = (
        gpu.allocate("the copy", COPY)?,
        gpu.allocate("the copy", COPY)?,
    );
    let seconds = best(gpu, &target, || copy(gpu, &source, &target, COPY)).await?;
    let memory_bytes = (COPY * 8) as f64 / seconds;
    let launch = || (0..LAUNCHES).for_each(|_| copy(gpu, &source, &target, 4));
    best(gpu, &target, launch).await?;
    // Recorded, as most passes are.
    let recording = gpu.record(launch);
    let seconds = best(gpu, &target, || match &recording {
        // A failure surfaces when the device is waited for.
        Some(recording) => drop(gpu.replay(recording)),
        None => launch(),
    })
    .await?;
    let launch_seconds = seconds / LAUNCHES as f64;

    let x = gpu.floats(vec![0.0; MANY * k])?;
    let out = gpu.allocate("the product", MANY * n)?;
    let run = |variant: ProductVariant, rows: usize, matrix: &Matrix| {
        product(
            gpu,
            variant,
            None,
            &x,
            0..rows,
            matrix,
            &Finish::Store(&out),
        );
    };
    let seconds = best(gpu, &out, || {
        matrices.iter().for_each(|m| run(chosen.few, FEW, m))
    })
    .await?;
    let few_row_bytes = matrices.iter().map(|m| m.weight_bytes()).sum::<u64>() as f64 / seconds;
    let many = chosen.product(MANY, n);
    let seconds = best(gpu, &out, || run(many, MANY, first)).await?;
    let flops = (2 * MANY * k * n) as f64;
    let product_flops = flops / seconds;

    let (a, b) = (
        Tensor::<2>::ones([MANY, k], gpu.device()),
        Tensor::<2>::ones([k, n], gpu.device()),
    );
    let burn_seconds = least(async |times| {
        for _ in 1..times {
            a.clone().matmul(b.clone());
        }
        gpu.wait(a.clone().matmul(b.clone())).await
    })
    .await?;

    // A large GPU runs 2048 invocations on each of some hundred units.
    let (invocations, rounds) = match gpu.info.kind {
        AdapterKind::Software => (64 * 256, 2000),
        _ => (64 * 4096, 2000),
    };
    let sums = gpu.allocate("the peak", invocations * 4)?;
    let seconds = best(gpu, &sums, || peak(gpu, &sums, invocations, rounds, 0.5)).await?;
    Ok(Rates {
        memory_bytes,
        flops: (FLOPS * u64::from(rounds) * invocations as u64) as f64 / seconds,
        product_flops,
        launch_seconds,
        kernels: Some(KernelRates {
            few_row_bytes,
            burn_flops: flops / burn_seconds,
        }),
    })
}

/// The shortest time in seconds that `work`, which writes `written`, takes.
async fn best(gpu: &Gpu, written: &Buffer, work: impl Fn()) -> Result<f64, EngineError> {
    least(async |times| {
        (0..times).for_each(|_| work());
        gpu.check(&[written]).await
    })
    .await
}

/// The shortest time in seconds of five runs, after one that compiles. `work` does its work a given number of times and waits for it.
async fn least(work: impl AsyncFn(usize) -> Result<(), EngineError>) -> Result<f64, EngineError> {
    let time = async |times| {
        let begin = Instant::now();
        work(times).await?;
        Ok::<f64, EngineError>(begin.elapsed().as_secs_f64())
    };
    work(1).await?;
    let mut times = 1;
    while times < MOST_TIMES && time(times).await? < ENOUGH {
        times *= 2;
    }
    let mut least = f64::MAX;
    for _ in 0..5 {
        least = least.min(time(times).await? / times as f64);
    }
    Ok(least)
}
