//! What can go wrong while a model is loaded or run. Each message is one sentence that names the thing and the remedy.

use esolm_core::checkpoint::CheckpointError;
use esolm_core::plan::PlanError;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The plan does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No adapter answers to the choice.
    #[error(
        "no GPU adapter was found ({0}); install a Vulkan, Metal or DirectX 12 driver, or use --device cpu"
    )]
    NoAdapter(String),
    /// The adapter's index is not there.
    #[error("there is no GPU adapter {index}; `esolm devices` lists the {count} that are here")]
    AdapterIndex {
        /// The index asked for.
        index: usize,
        /// How many adapters there are.
        count: usize,
    },
    /// A text that names no device.
    #[error("`{0}` is no device; use auto, cpu, gpu or gpu:N with N from `esolm devices`")]
    DeviceChoice(String),
    /// An unknown value of an option.
    #[error("`{value}` is no {option}; use {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The values it takes.
        allowed: &'static str,
    },
    /// The device failed or went away.
    #[error(
        "the GPU stopped working ({0}); run again, and if it stays so use --device cpu or a smaller batch"
    )]
    Device(String),
    /// Something is larger than the device takes.
    #[error("{what} needs {} MiB, but this device holds at most {} MiB in one piece; use a shorter length, a smaller batch, f16 or --device cpu", mib(*.bytes), mib(*.limit))]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Its bytes.
        bytes: u64,
        /// The bytes that fit.
        limit: u64,
    },
    /// The device's memory does not suffice.
    #[error(
        "the GPU has no memory left for this ({0}); use a shorter length, a smaller batch, f16 or --device cpu"
    )]
    DeviceMemory(String),
    /// The device refuses a kernel.
    #[error(
        "the GPU's driver refuses a kernel ({0}); use --device cpu, and report it with the name of the GPU"
    )]
    Kernel(String),
    /// The machine's own memory does not suffice.
    #[error(
        "{what} needs more memory than this machine gives{}; use a shorter length or a smaller batch",
        bytes.map_or(String::new(), |bytes| format!(" ({} MiB)", mib(bytes)))
    )]
    HostMemory {
        /// What was to be allocated.
        what: String,
        /// Its bytes, if they can be counted.
        bytes: Option<u64>,
    },
    /// A shape that the kernels do not take.
    #[error("the GPU kernels do not take {0}; use --device cpu")]
    Shape(String),
    /// Rows, tokens or noise that do not fit each other.
    #[error("the pass is inconsistent: {0}")]
    Rows(String),
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl EngineError {
    /// The device's own words on one line.
    pub(crate) fn lost(error: &impl std::fmt::Debug) -> Self {
        let text = format!("{error:?}");
        let line = text.split('\n').next().unwrap_or_default();
        Self::Device(line.chars().take(300).collect())
    }
}
