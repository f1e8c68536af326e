//! Device selection: the user's choice, the adapters that exist, and opening one for Burn.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use burn_wgpu::WgpuSetup;
use esolm_core::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::error::{DeviceFault, EngineError};
use crate::kernels::runtime::Gpu;
use crate::kernels::watch::Watch;
use crate::network::store::stored_form;
use crate::variants::{Chosen, Variants};
use crate::weights::{Activations, Weights};

#[cfg(target_family = "wasm")]
mod browser;
#[cfg(target_family = "wasm")]
pub use browser::facts;

pub use crate::adapter::{AdapterInfo, AdapterKind, AdapterLimits};
pub use crate::kernels::Precision;

/// The requested device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first real GPU that works, otherwise the CPU. Never a software adapter: the CPU path is faster.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first adapter (real GPUs come first), or the one with this index in [`adapters`].
    Gpu(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu(None)),
            _ => text
                .strip_prefix("gpu:")
                .and_then(|index| index.parse().ok())
                .map(|index| Self::Gpu(Some(index)))
                .ok_or_else(|| EngineError::Option {
                    option: "device",
                    value: text.to_string(),
                    allowed: "auto, cpu, gpu or gpu:N",
                }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(None) => f.write_str("gpu"),
            Self::Gpu(Some(index)) => write!(f, "gpu:{index}"),
        }
    }
}

/// Options for loading a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// The device to run on.
    pub device: DeviceChoice,
    /// Weight format; `None` keeps the format in which the checkpoint stores them
    /// ([`stored_form`](crate::network::store::stored_form)).
    pub weights: Option<Weights>,
    /// Format of activations in products with quantised weights.
    pub activations: Activations,
    /// Precision of the KV cache on a GPU.
    pub kv_cache: Precision,
    /// Kernel variants to force.
    pub variants: Variants,
}

impl LoadOptions {
    /// The weight format to use for a checkpoint.
    ///
    /// # Errors
    /// If one of its tensors cannot be read.
    pub(crate) async fn weights_of(&self, ckpt: &Checkpoint) -> Result<Weights, EngineError> {
        match self.weights {
            Some(weights) => Ok(weights),
            None => stored_form(ckpt).await,
        }
    }
}

/// The device that runs a model. Its `Display` is one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The adapter, or `None` for the CPU.
    pub adapter: Option<AdapterInfo>,
    /// The kernel variants, if on a GPU.
    pub variants: Option<Chosen>,
    /// Format of the weights.
    pub weights: Weights,
    /// Format of activations in products with them.
    #[serde(default)]
    pub activations: Activations,
    /// Precision of the KV cache.
    pub kv_cache: Precision,
    /// Whether this is the CPU because `auto` found no working GPU.
    pub is_fallback: bool,
    /// The GPUs that `auto` tried first, in order.
    #[serde(default)]
    pub passed_over: Vec<PassedOver>,
}

/// A GPU that `auto` tried and skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The GPU.
    pub adapter: AdapterInfo,
    /// What failed, in machine-readable form.
    pub fault: DeviceFault,
    /// What failed, in words that follow the name of the GPU.
    pub reason: String,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was passed over: {}", self.adapter.name, self.reason)
    }
}

impl DeviceInfo {
    /// Whether this is a software adapter, which is slower than the CPU path.
    pub fn is_software(&self) -> bool {
        let kind = self.adapter.as_ref().map(|adapter| adapter.kind);
        kind == Some(AdapterKind::Software)
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.adapter {
            Some(adapter) => write!(
                f,
                "{adapter}, {} weights, {} kv_cache",
                self.weights, self.kv_cache
            )?,
            None if self.weights == Weights::F32 => f.write_str("CPU, f32")?,
            None => write!(f, "CPU, {} weights", self.weights)?,
        }
        if self.activations != Activations::F32 {
            write!(f, ", {} activations", self.activations)?;
        }
        for passed_over in &self.passed_over {
            write!(f, "; {passed_over}")?;
        }
        if self.is_fallback && self.passed_over.is_empty() {
            f.write_str("; no real GPU was found")?;
        }
        if self.is_software() {
            f.write_str("; a software adapter, the CPU is faster")?;
        }
        Ok(())
    }
}

fn instance() -> wgpu::Instance {
    let new = || {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // No OpenGL: its compute support lacks limits that the kernels need.
        descriptor.backends = wgpu::Backends::PRIMARY;
        wgpu::Instance::new(descriptor)
    };
    #[cfg(target_family = "wasm")]
    return new();
    #[cfg(not(target_family = "wasm"))]
    {
        // One for the process: when the last one goes, drivers are unloaded, and NVIDIA's then crashes threads that ran it.
        static INSTANCE: std::sync::OnceLock<wgpu::Instance> = std::sync::OnceLock::new();
        INSTANCE.get_or_init(new).clone()
    }
}

/// All adapters, real GPUs first, each with its index for `gpu:N`. A browser offers at most one.
async fn enumerate(instance: &wgpu::Instance) -> Vec<(AdapterInfo, wgpu::Adapter)> {
    #[cfg(target_family = "wasm")]
    return browser::adapter(instance).await.into_iter().collect();
    #[cfg(not(target_family = "wasm"))]
    {
        let mut adapters = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
        adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
            wgpu::DeviceType::Cpu => 3,
        });
        adapters
            .into_iter()
            .enumerate()
            .map(|(index, adapter)| (AdapterInfo::of(index, &adapter), adapter))
            .collect()
    }
}

/// The adapters of this machine, in the order in which `gpu:N` counts them. Blocks until the drivers answer.
#[cfg(not(target_family = "wasm"))]
pub fn adapters() -> Vec<AdapterInfo> {
    pollster::block_on(enumerate(&instance()))
        .into_iter()
        .map(|(info, _)| info)
        .collect()
}

/// A GPU that a model might run on.
pub(crate) struct Candidate {
    /// The adapter behind it.
    pub(crate) info: AdapterInfo,
    pub(crate) state: CandidateState,
}

#[allow(clippy::large_enum_variant, reason = "there are a few, for a moment")]
pub(crate) enum CandidateState {
    Closed {
        instance: wgpu::Instance,
        adapter: wgpu::Adapter,
        limits: wgpu::Limits,
    },
    /// The device shared by all models of a page or worker.
    #[cfg(target_family = "wasm")]
    Open(Device, Watch),
}

impl Candidate {
    fn new(instance: &wgpu::Instance, (info, adapter): (AdapterInfo, wgpu::Adapter)) -> Self {
        Self {
            info,
            state: CandidateState::Closed {
                instance: instance.clone(),
                // The adapter's own limits, since large matrices need large bindings.
                limits: adapter.limits(),
                adapter,
            },
        }
    }

    /// Whether `auto` considers it.
    fn is_real(&self) -> bool {
        self.info.kind != AdapterKind::Software
    }

    /// Opens a device with those of the `optional` features that the adapter supports.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if the driver refuses to create a device.
    async fn open_with(self, optional: wgpu::Features) -> Result<Gpu, EngineError> {
        let info = self.info;
        let (instance, adapter, limits) = match self.state {
            CandidateState::Closed {
                instance,
                adapter,
                limits,
            } => (instance, adapter, limits),
            #[cfg(target_family = "wasm")]
            CandidateState::Open(device, watch) => return Gpu::new(device, info, watch),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("esolm"),
            required_features: adapter.features() & optional,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = (adapter.request_device(&descriptor).await)
            .map_err(|error| EngineError::refused(&info.name, &error))?;
        let backend = adapter.get_info().backend;
        let setup = WgpuSetup {
            instance,
            adapter,
            device: device.clone(),
            queue,
            backend,
        };
        let opened: Device = Device::wgpu_options()
            // The engine submits its work itself, step by step. The runtime caches 512 blocks of uniforms, does not keep those that
            // queued launches found there from being evicted, and gives an evicted one to the next launch. So fewer launches
            // may be queued than there are blocks that no recording holds.
            .tasks_max(128)
            .setup(setup)
            .init()
            .map_err(|error| EngineError::refused(&info.name, &error))?;
        let watch = Watch::new(&device);
        #[cfg(target_family = "wasm")]
        browser::keep(&opened, &info, &watch);
        Gpu::new(opened, info, watch)
    }

    /// Opens a device for the engine's kernels, which need no optional features.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if the driver refuses to create a device.
    pub(crate) async fn open(self) -> Result<Gpu, EngineError> {
        self.open_with(wgpu::Features::empty()).await
    }
}

/// The GPUs to try for `choice`, in order: all real ones for `auto`, none for the CPU. In a browser all models share
/// one device until it is lost or refuses something.
///
/// # Errors
/// If a GPU was requested and there is none.
pub(crate) async fn candidates(choice: DeviceChoice) -> Result<Vec<Candidate>, EngineError> {
    if choice == DeviceChoice::Cpu {
        return Ok(Vec::new());
    }
    #[cfg(target_family = "wasm")]
    if let Some((device, info, watch)) = browser::opened() {
        let state = CandidateState::Open(device, watch);
        let open = Candidate { info, state };
        if choice != DeviceChoice::Auto || open.is_real() {
            return Ok(vec![open]);
        }
    }
    let instance = instance();
    let found = enumerate(&instance).await;
    let count = found.len();
    let mut all = (found.into_iter()).map(|adapter| Candidate::new(&instance, adapter));
    match choice {
        DeviceChoice::Gpu(index) => {
            let index = index.unwrap_or(0);
            match all.nth(index) {
                Some(one) => Ok(vec![one]),
                None if count == 0 => Err(EngineError::NoAdapter("no driver answered".into())),
                None => Err(EngineError::AdapterIndex { index, count }),
            }
        }
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(all.filter(Candidate::is_real).collect()),
    }
}

/// The result of choosing a device.
pub(crate) struct Found<T> {
    /// What runs on a GPU, or `None` if the CPU is to be used.
    pub(crate) on_gpu: Option<T>,
    /// The GPUs that `auto` tried first.
    pub(crate) passed_over: Vec<PassedOver>,
}

/// Tries `candidates` in turn until `go` succeeds with one. With `auto`, a GPU that fails is skipped; any other error,
/// such as one of the checkpoint, would recur on every device and ends the search.
///
/// # Errors
/// The first error of `go` that is not the GPU's fault, or any error if a specific GPU was requested.
pub(crate) async fn first_that_works<T>(
    choice: DeviceChoice,
    candidates: Vec<Candidate>,
    mut go: impl AsyncFnMut(Candidate) -> Result<T, EngineError>,
) -> Result<Found<T>, EngineError> {
    let mut passed_over = Vec::new();
    for candidate in candidates {
        let adapter = candidate.info.clone();
        match (go(candidate).await, choice) {
            (Ok(runs), _) => {
                return Ok(Found {
                    on_gpu: Some(runs),
                    passed_over,
                });
            }
            (Err(error), DeviceChoice::Auto) => {
                let Some(fault) = error.device_fault() else {
                    return Err(error);
                };
                passed_over.push(PassedOver {
                    adapter,
                    fault,
                    reason: error.of_named_gpu(),
                });
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(Found {
        on_gpu: None,
        passed_over,
    })
}

/// Opens the GPU named by `choice`, or returns `None` if the CPU is to be used.
///
/// # Errors
/// If a GPU was requested and there is none, or its driver refuses to create a device.
pub async fn open(choice: DeviceChoice) -> Result<Option<Gpu>, EngineError> {
    let all = candidates(choice).await?;
    let found = first_that_works(choice, all, Candidate::open).await?;
    Ok(found.on_gpu)
}

/// A Burn device for tensors, as used by training and the reference pass, and its name. On a GPU, Burn's gather kernels
/// use 64-bit integers, which the adapter has to support.
///
/// # Errors
/// See [`open`].
pub async fn tensors(choice: DeviceChoice) -> Result<(Device, String), EngineError> {
    let all = candidates(choice).await?;
    let open = async |candidate: Candidate| candidate.open_with(wgpu::Features::SHADER_INT64).await;
    let found = first_that_works(choice, all, open).await?;
    let (device, mut name) = match found.on_gpu {
        Some(gpu) => {
            let name = gpu.info.to_string();
            (gpu.into_device(), name)
        }
        None => (Device::flex(), "CPU".into()),
    };
    for passed_over in found.passed_over {
        name += &format!("; {passed_over}");
    }
    Ok((device, name))
}
