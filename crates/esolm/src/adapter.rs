//! How a driver or browser describes an adapter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares system memory.
    Integrated,
    /// A GPU in a virtual machine.
    Virtual,
    /// A software adapter (lavapipe, WARP, SwiftShader).
    Software,
    /// Not reported by the driver or browser.
    Unknown,
}

/// The adapter limits that decide what fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterLimits {
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Maximum storage buffers per shader stage.
    pub storage_buffers: u32,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Maximum invocations per workgroup.
    pub workgroup_invocations: u32,
}

/// An adapter as described by its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// Index for `gpu:N`.
    pub index: usize,
    /// Name of the adapter.
    pub name: String,
    /// Graphics API: vulkan, metal, dx12, browser_webgpu.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// The kind of adapter.
    pub kind: AdapterKind,
    /// Its limits.
    pub limits: AdapterLimits,
}

impl AdapterInfo {
    /// Most bytes that a kernel can bind at once.
    pub fn max_binding_bytes(&self) -> u64 {
        self.limits
            .max_binding_bytes
            .min(self.limits.max_buffer_bytes)
    }

    pub(crate) fn of(index: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        Self {
            index,
            name: info.name,
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info)
                .trim()
                .to_string(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
                wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
                wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
                wgpu::DeviceType::Cpu => AdapterKind::Software,
                wgpu::DeviceType::Other => AdapterKind::Unknown,
            },
            limits: AdapterLimits {
                max_binding_bytes: limits.max_storage_buffer_binding_size,
                max_buffer_bytes: limits.max_buffer_size,
                storage_buffers: limits.max_storage_buffers_per_shader_stage,
                workgroup_bytes: limits.max_compute_workgroup_storage_size,
                workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            },
        }
    }
}

impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, {})",
            self.name,
            self.backend,
            serde_json::to_string(&self.kind)
                .unwrap_or_default()
                .trim_matches('"')
        )
    }
}

/// The card that a WebGL context's `RENDERER` names, for people; `None` where it names none: browsers put words of their own in its place, and
/// a renderer in software says nothing of the card beside it.
#[cfg(any(test, target_family = "wasm"))]
pub(crate) fn name_of_renderer(renderer: &str) -> Option<String> {
    const MASKS: [&str; 3] = ["Mozilla", "WebKit WebGL", "Generic Renderer"];
    const SOFTWARE: [&str; 4] = ["llvmpipe", "softpipe", "swiftshader", "basic render"];
    // Firefox names one card for all of a generation, and says so.
    let (renderer, similar) = match renderer.strip_suffix(", or similar") {
        Some(renderer) => (renderer, " (or similar)"),
        None => (renderer, ""),
    };
    // ANGLE (vendor, card and interface, version)
    let card = match renderer.strip_prefix("ANGLE (") {
        Some(inside) => inside.trim_end_matches(')').split(", ").nth(1)?,
        None => renderer,
    };
    let card = card.split(" Direct3D").next().unwrap_or(card).trim();
    let lower = card.to_lowercase();
    let is_named = !card.is_empty()
        && !MASKS.contains(&card)
        && !SOFTWARE.iter().any(|software| lower.contains(software));
    is_named.then(|| format!("{card}{similar}"))
}

#[cfg(test)]
mod tests {
    use super::name_of_renderer;

    #[test]
    fn cards_are_named_as_webgl_names_them() {
        let cases = [
            (
                "NVIDIA GeForce GTX 980, or similar",
                Some("NVIDIA GeForce GTX 980 (or similar)"),
            ),
            (
                "ANGLE (NVIDIA, NVIDIA GeForce GTX 980 Direct3D11 vs_5_0 ps_5_0), or similar",
                Some("NVIDIA GeForce GTX 980 (or similar)"),
            ),
            (
                "ANGLE (Intel, Intel(R) HD Graphics 400 Direct3D11 vs_5_0 ps_5_0, D3D11)",
                Some("Intel(R) HD Graphics 400"),
            ),
            ("Apple M1", Some("Apple M1")),
            ("llvmpipe, or similar", None),
            (
                "ANGLE (Microsoft, Microsoft Basic Render Driver Direct3D11 vs_5_0 ps_5_0)",
                None,
            ),
            ("ANGLE (Google)", None),
            ("WebKit WebGL", None),
            ("Mozilla", None),
            ("", None),
        ];
        for (renderer, name) in cases {
            assert_eq!(name_of_renderer(renderer).as_deref(), name, "{renderer}");
        }
    }
}
