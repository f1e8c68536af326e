//! Puts a model on the device that was asked for, or with `auto` on the first that works.

use esolm_core::checkpoint::Checkpoint;
use esolm_core::config::ModelConfig;
use esolm_core::rows::{Layout, MASKED, Row, StepRows};
use esolm_core::sampler::Sampler;

use crate::cpu::CpuExecutor;
use crate::device::{
    Candidate, DeviceChoice, DeviceInfo, Found, LoadOptions, Precision, candidates,
    first_that_works,
};
use crate::error::EngineError;
use crate::executor::{Draw, Executor};
use crate::gpu::GpuExecutor;
use crate::kernels::runtime::Gpu;
use crate::weights::Activations;

/// Loads a checkpoint onto a device.
///
/// # Errors
/// When the checkpoint is inconsistent, no device answers to the choice, or memory does not suffice.
pub async fn place(
    ckpt: &Checkpoint,
    options: &LoadOptions,
) -> Result<(Box<dyn Executor>, DeviceInfo), EngineError> {
    // Asked once: the form in which weights are stored is found by reading some of them.
    let weights = options.weights_of(ckpt).await?;
    let options = &LoadOptions {
        weights: Some(weights),
        ..*options
    };
    let activations = options.activations;
    if activations == Activations::Q8 && !weights.are_quantised() {
        return Err(EngineError::Activations { weights });
    }
    let all = candidates(options.device).await?;
    let load = async |candidate: Candidate| on_gpu(candidate, ckpt, options).await;
    let Found {
        on_gpu,
        passed_over,
    } = first_that_works(options.device, all, load).await?;
    if let Some((executor, device)) = on_gpu {
        let device = DeviceInfo {
            passed_over,
            ..device
        };
        return Ok((Box::new(executor), device));
    }
    let device = DeviceInfo {
        adapter: None,
        variants: None,
        weights,
        activations,
        kv_cache: Precision::F32,
        is_fallback: options.device == DeviceChoice::Auto,
        passed_over,
    };
    Ok((
        Box::new(CpuExecutor::load(ckpt, weights, activations).await?),
        device,
    ))
}

async fn on_gpu(
    candidate: Candidate,
    ckpt: &Checkpoint,
    options: &LoadOptions,
) -> Result<(GpuExecutor, DeviceInfo), EngineError> {
    put_on(candidate.open().await?, ckpt, options).await
}

async fn put_on(
    gpu: Gpu,
    ckpt: &Checkpoint,
    options: &LoadOptions,
) -> Result<(GpuExecutor, DeviceInfo), EngineError> {
    if options.activations == Activations::Q8 {
        return Err(EngineError::CpuOnly {
            what: "activations of 8 bits".into(),
        });
    }
    let adapter = gpu.info.clone();
    let mut executor = GpuExecutor::load(gpu, ckpt, options).await?;
    if options.device == DeviceChoice::Auto {
        rehearse(&mut executor, ckpt.config()).await?;
    }
    let device = DeviceInfo {
        adapter: Some(adapter),
        variants: Some(*executor.chosen()),
        weights: options.weights_of(ckpt).await?,
        activations: options.activations,
        kv_cache: options.kv_cache,
        is_fallback: false,
        passed_over: Vec::new(),
    };
    Ok((executor, device))
}

/// Rows of a rehearsal: more than any form of a kernel for few rows takes.
const REHEARSED_ROWS: usize = 128;

/// Runs a pass of many rows and one of a single row through every kernel that writes or scores a text. Kernels are compiled when they are
/// first launched; a driver that refuses one should show it while there is another device to go on to.
async fn rehearse(executor: &mut GpuExecutor, config: &ModelConfig) -> Result<(), EngineError> {
    let slots = REHEARSED_ROWS.min(config.length);
    let layout = Layout {
        sequences: 1,
        slots,
        tokens: slots,
    };
    executor.start(&layout, &vec![config.mask().unwrap_or(0); slots])?;
    for count in [slots, 1] {
        let rows = (0..count as u32).map(|slot| Row {
            sequence: 0,
            slot,
            position: slot,
            prefix: slot + 1,
            own: [slot + 1; 2],
            source: config.mask().map_or(slot, |_| MASKED),
            target: slot,
        });
        let step = StepRows {
            rows: rows.collect(),
            sampled: (0..count as u32).collect(),
        };
        let keys: Vec<_> = (0..count as u32).map(|slot| [0, slot]).collect();
        executor.pass(&step, &keys)?;
        for top_p in [None, Some(0.9)] {
            let sampler = Sampler {
                top_p,
                ..Sampler::default()
            };
            executor.draw(&Draw {
                sampler,
                ..Draw::default()
            })?;
        }
        executor.score(&vec![0; count]).await?;
    }
    executor.wait().await?;
    executor.end();
    Ok(())
}

#[cfg(test)]
mod tests;
