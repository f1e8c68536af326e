//! GPUs that fail while a model loads. They need an adapter; here `auto` is given a software one, which it would
//! otherwise skip.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use esolm_core::checkpoint::{ByteSource, Reading};
use esolm_core::config::ReadAs;

use super::*;
use crate::device::{CandidateState, PassedOver};
use crate::error::DeviceFault;

const AUTO: LoadOptions = LoadOptions {
    device: DeviceChoice::Auto,
    weights: None,
    activations: Activations::F32,
    kv_cache: Precision::F32,
    variants: crate::variants::Variants {
        few: None,
        many: None,
        attention: None,
    },
};

fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden/");
    std::fs::read(format!("{folder}{name}")).expect("golden data")
}

/// Weights that destroy a device after a given number of reads.
struct Weights {
    bytes: Vec<u8>,
    reads: AtomicUsize,
    device: Arc<OnceLock<wgpu::Device>>,
}

/// Reads before the device is destroyed; some blocks are on it by then.
const READS: usize = 30;

impl ByteSource for Weights {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Reading<'_> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == READS
            && let Some(device) = self.device.get()
        {
            device.destroy();
        }
        let part = self.bytes[range.start as usize..range.end as usize].to_vec();
        Box::pin(std::future::ready(Ok(part)))
    }
}

/// A checkpoint. If `device` is set, that device is lost while the checkpoint is read.
async fn checkpoint(bytes: Vec<u8>, device: &Arc<OnceLock<wgpu::Device>>) -> Checkpoint {
    let config = String::from_utf8(golden("model_a.config.json")).expect("text");
    let weights = Weights {
        bytes,
        reads: AtomicUsize::new(0),
        device: device.clone(),
    };
    let weights = esolm_core::checkpoint::Weights::File(Box::new(weights));
    let opened =
        Checkpoint::from_source(Some(&config), None, weights, false, ReadAs::default()).await;
    opened.expect("the golden model")
}

async fn one() -> Candidate {
    let found = candidates(DeviceChoice::Gpu(None)).await;
    let mut all = found.expect("these tests need an adapter; `cargo xtask test` installs one");
    all.remove(0)
}

/// Tries a broken GPU with a working one behind it.
async fn falls_back(
    broken: Candidate,
    ckpt: &Checkpoint,
    device: &OnceLock<wgpu::Device>,
) -> PassedOver {
    let load = async |candidate: Candidate| {
        let gpu = candidate.open().await?;
        // The first one opened is the broken one.
        let _ = device.set(gpu.watch.device.clone());
        put_on(gpu, ckpt, &AUTO).await
    };
    let all = vec![broken, one().await];
    let found = first_that_works(DeviceChoice::Auto, all, load).await;
    let Found {
        on_gpu,
        mut passed_over,
    } = found.expect("the next one");
    let (mut executor, _) = on_gpu.expect("the sound one");
    rehearse(&mut executor, ckpt.config())
        .await
        .expect("it works");
    assert_eq!(passed_over.len(), 1);
    passed_over.remove(0)
}

#[test]
fn a_device_lost_while_a_model_loads_is_passed_over() {
    pollster::block_on(async {
        let device = Arc::default();
        let ckpt = checkpoint(golden("model_a.ema.safetensors"), &device).await;
        let said = falls_back(one().await, &ckpt, &device).await;
        assert_eq!(said.fault, DeviceFault::Lost, "{said}");
    });
}

#[test]
fn a_device_that_refuses_memory_is_passed_over() {
    pollster::block_on(async {
        let ckpt = checkpoint(golden("model_a.ema.safetensors"), &Arc::default()).await;
        // A limit that the adapter reports.
        let mut small = one().await;
        small.info.limits.max_binding_bytes = 1 << 10;
        let said = falls_back(small, &ckpt, &OnceLock::new()).await;
        assert_eq!(said.fault, DeviceFault::Memory, "{said}");
        // A limit that the adapter enforces but does not report.
        let mut liar = one().await;
        let CandidateState::Closed { limits, .. } = &mut liar.state;
        limits.max_buffer_size = 1 << 10;
        limits.max_storage_buffer_binding_size = 1 << 10;
        falls_back(liar, &ckpt, &OnceLock::new()).await;
    });
}

#[test]
fn a_device_that_refuses_a_kernel_is_passed_over() {
    pollster::block_on(async {
        let ckpt = checkpoint(golden("model_a.ema.safetensors"), &Arc::default()).await;
        let mut weak = one().await;
        let CandidateState::Closed { limits, .. } = &mut weak.state;
        limits.max_compute_invocations_per_workgroup = 1;
        limits.max_compute_workgroup_size_x = 1;
        let said = falls_back(weak, &ckpt, &OnceLock::new()).await;
        assert!(
            matches!(said.fault, DeviceFault::Kernel | DeviceFault::Lost),
            "{said}"
        );
    });
}

/// Burn keeps devices for as long as the process runs, and drivers allow only some dozens.
#[test]
fn a_device_is_closed_with_its_model() {
    pollster::block_on(async {
        let ckpt = checkpoint(golden("model_a.ema.safetensors"), &Arc::default()).await;
        let gpu = one().await.open().await.expect("a device");
        let is_open = gpu.watch.is_open();
        let (executor, _) = put_on(gpu, &ckpt, &AUTO).await.expect("it runs");
        assert!(is_open());
        drop(executor);
        assert!(!is_open());
    });
}

#[test]
fn an_error_of_the_checkpoint_is_one_on_every_device() {
    pollster::block_on(async {
        let ckpt = checkpoint(golden("model_a.ema.safetensors"), &Arc::default()).await;
        let fails = async |_: Candidate| -> Result<(), EngineError> {
            // None of it has been fetched.
            ckpt.f32("vocab_embed.embedding")?;
            Ok(())
        };
        let all = vec![one().await, one().await];
        let failed = first_that_works(DeviceChoice::Auto, all, fails).await.err();
        assert!(
            matches!(failed, Some(EngineError::Checkpoint(_))),
            "{failed:?}"
        );
    });
}

#[test]
fn a_gpu_that_was_asked_for_is_never_passed_over() {
    pollster::block_on(async {
        let fails = async |_: Candidate| -> Result<(), EngineError> {
            Err(EngineError::Device("gone".into()))
        };
        let choice = DeviceChoice::Gpu(None);
        let failed = first_that_works(choice, vec![one().await], fails).await;
        assert!(matches!(failed.err(), Some(EngineError::Device(_))));
    });
}
