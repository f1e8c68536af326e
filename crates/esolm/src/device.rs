//! Which device runs a model: the choice, the adapters there are, and opening one for Burn.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use burn_wgpu::WgpuSetup;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::kernels::runtime::Gpu;
use crate::kernels::watch::Watch;
use crate::variants::{Chosen, Variants};

#[cfg(target_family = "wasm")]
mod browser;
#[cfg(target_family = "wasm")]
pub use browser::facts;

pub use crate::adapter::{AdapterInfo, AdapterKind, AdapterLimits};
pub use crate::kernels::Precision;

/// The device asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A real GPU where there is one, else the CPU. A software adapter is never chosen: Burn's CPU backend is faster.
    #[default]
    Auto,
    /// Burn's CPU backend.
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

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Precision of the weights on a GPU; the CPU computes with f32.
    pub weights: Precision,
    /// Precision of the KV cache on a GPU.
    pub kv_cache: Precision,
    /// Forced kernel variants.
    pub variants: Variants,
}

/// What runs a model; displayed as one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The adapter, or nothing for the CPU.
    pub adapter: Option<AdapterInfo>,
    /// The kernel variants, on a GPU.
    pub variants: Option<Chosen>,
    /// Precision of the weights.
    pub weights: Precision,
    /// Precision of the KV cache.
    pub kv_cache: Precision,
    /// The CPU runs because `auto` found no real GPU.
    pub is_fallback: bool,
}

impl DeviceInfo {
    /// Whether it is an adapter in software, which is slower than the CPU path.
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
            None => f.write_str("CPU (Burn flex), f32")?,
        }
        if self.is_fallback {
            f.write_str("; no real GPU was found")?;
        }
        if self.is_software() {
            f.write_str("; a software adapter, the CPU is faster")?;
        }
        Ok(())
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // OpenGL has no place here: its compute lacks limits that the kernels need.
    descriptor.backends = wgpu::Backends::PRIMARY;
    wgpu::Instance::new(descriptor)
}

/// Adapters, real GPUs before software ones, each with its index for `gpu:N`. A browser has one at most.
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

/// The adapters of this machine, as `gpu:N` counts them. Blocks while drivers answer.
#[cfg(not(target_family = "wasm"))]
pub fn adapters() -> Vec<AdapterInfo> {
    pollster::block_on(enumerate(&instance()))
        .into_iter()
        .map(|(info, _)| info)
        .collect()
}

/// Opens the GPU that `choice` names, or nothing where the CPU should run. In a browser all models share one device, until it is lost or
/// refuses something.
///
/// # Errors
/// When a GPU was asked for and there is none, or its driver refuses a device.
pub async fn open(choice: DeviceChoice) -> Result<Option<Gpu>, EngineError> {
    #[cfg(target_family = "wasm")]
    if let Some((device, info, watch)) = browser::opened()
        && (matches!(choice, DeviceChoice::Gpu(_))
            || choice == DeviceChoice::Auto && info.kind != AdapterKind::Software)
    {
        return Gpu::new(device, info, watch).map(Some);
    }
    // Nothing optional is used by the engine's kernels.
    open_with(choice, wgpu::Features::empty()).await
}

/// As [`open`], with those of the `wished` features that the adapter has.
async fn open_with(
    choice: DeviceChoice,
    wished: wgpu::Features,
) -> Result<Option<Gpu>, EngineError> {
    let wanted = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Auto => None,
        DeviceChoice::Gpu(index) => Some(index.unwrap_or(0)),
    };
    let instance = instance();
    let mut found = enumerate(&instance).await;
    let count = found.len();
    let at = match wanted {
        None => match found
            .iter()
            .position(|(info, _)| info.kind != AdapterKind::Software)
        {
            Some(at) => at,
            None => return Ok(None),
        },
        Some(_) if count == 0 => return Err(EngineError::NoAdapter("no driver answered".into())),
        Some(index) if index >= count => return Err(EngineError::AdapterIndex { index, count }),
        Some(index) => index,
    };
    let (info, adapter) = found.swap_remove(at);
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            label: Some("esolm"),
            required_features: adapter.features() & wished,
            // The adapter's own, since large matrices need large bindings.
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        })
        .await
        .map_err(|e| EngineError::NoAdapter(format!("{} refuses a device: {e}", info.name)))?;
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup {
        instance,
        adapter,
        device: device.clone(),
        queue,
        backend,
    };
    let opened: Device = Device::wgpu_options()
        // The engine submits by itself, step by step; the runtime's own limit only has to stay out of the way.
        .tasks_max(512)
        .setup(setup)
        .init()
        .map_err(|e| EngineError::NoAdapter(e.to_string()))?;
    let watch = Watch::new(&device);
    #[cfg(target_family = "wasm")]
    browser::keep(&opened, &info, &watch);
    Gpu::new(opened, info, watch).map(Some)
}

/// A Burn device for tensors, as training and the reference pass use it, with what it is called. On a GPU, Burn's kernels that pick
/// rows use 64-bit integers, which the adapter must have.
///
/// # Errors
/// As [`open`].
pub async fn tensors(choice: DeviceChoice) -> Result<(Device, String), EngineError> {
    Ok(
        match open_with(choice, wgpu::Features::SHADER_INT64).await? {
            Some(gpu) => (gpu.device().clone(), gpu.info.to_string()),
            None => (Device::flex(), "CPU".into()),
        },
    )
}
