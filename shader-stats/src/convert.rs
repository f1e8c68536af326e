//! A shader's text as the engine launches it, in the languages that drivers read: what wgpu does on Vulkan, Metal and Direct3D 12.

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage};

use crate::Error;

/// Every shader's entry point.
const ENTRY: &str = "main";

/// Nothing is checked while a kernel runs: Burn's runtime asks wgpu for that in the mode in which the engine launches.
const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// A valid shader.
pub struct Parsed {
    module: Module,
    info: ModuleInfo,
}

/// What kind of buffer a binding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    Storage,
    Uniform,
}

impl Parsed {
    /// # Errors
    /// [`Error::Conversion`] with naga's words.
    pub fn new(text: &str) -> Result<Self, Error> {
        let refused = |why| Error::conversion("WGSL", why);
        let module =
            naga::front::wgsl::parse_str(text).map_err(|e| refused(e.emit_to_string(text)))?;
        // Of naga's capabilities only the one that every WebGPU device has: `unpack2x16float` and its like.
        let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .map_err(|e| refused(e.emit_to_string(text)))?;
        Ok(Self { module, info })
    }

    /// The buffers, all in group 0.
    pub fn bindings(&self) -> impl Iterator<Item = (ResourceBinding, Buffer)> {
        self.module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let kind = match variable.space {
                    AddressSpace::Uniform => Buffer::Uniform,
                    _ => Buffer::Storage,
                };
                Some((variable.binding?, kind))
            })
    }

    /// For Vulkan.
    ///
    /// # Errors
    /// [`Error::Conversion`] with naga's words.
    pub fn spirv(&self) -> Result<Vec<u32>, Error> {
        let options = spv::Options {
            lang_version: (1, 6),
            flags: spv::WriterFlags::empty(),
            fake_missing_bindings: false,
            binding_map: self
                .bindings()
                .map(|(place, _)| {
                    let target = spv::BindingInfo {
                        descriptor_set: place.group,
                        binding: place.binding,
                        binding_array_size: None,
                    };
                    (place, target)
                })
                .collect(),
            bounds_check_policies: UNCHECKED,
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            emit_int_div_checks: false,
            ..spv::Options::default()
        };
        let entry = spv::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: ENTRY.into(),
        };
        spv::write_vec(&self.module, &self.info, &options, Some(&entry))
            .map_err(|e| Error::conversion("SPIR-V", e))
    }

    /// For Metal.
    ///
    /// # Errors
    /// [`Error::Conversion`] with naga's words.
    pub fn msl(&self) -> Result<String, Error> {
        let mut resources = msl::EntryPointResources::default();
        for (slot, (place, _)) in (0..).zip(self.bindings()) {
            let target = msl::BindTarget {
                buffer: Some(slot),
                mutable: true,
                ..Default::default()
            };
            resources.resources.insert(place, target);
            resources.sizes_buffer = Some(slot + 1);
        }
        let options = msl::Options {
            // The oldest that wgpu runs compute on.
            lang_version: (2, 0),
            per_entry_point_map: [(ENTRY.into(), resources)].into(),
            fake_missing_bindings: false,
            bounds_check_policies: UNCHECKED,
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            emit_int_div_checks: false,
            ..msl::Options::default()
        };
        let entry = msl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, ENTRY.into())),
            ..Default::default()
        };
        let (text, info) = msl::write_string(&self.module, &self.info, &options, &entry)
            .map_err(|e| Error::conversion("MSL", e))?;
        for name in info.entry_point_names {
            name.map_err(|e| Error::conversion("MSL", e))?;
        }
        Ok(text)
    }

    /// For Direct3D 12.
    ///
    /// # Errors
    /// [`Error::Conversion`] with naga's words.
    pub fn hlsl(&self) -> Result<String, Error> {
        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V5_1,
            binding_map: (0..)
                .zip(self.bindings())
                .map(|(register, (place, _))| {
                    let target = hlsl::BindTarget {
                        register,
                        ..Default::default()
                    };
                    (place, target)
                })
                .collect(),
            fake_missing_bindings: false,
            zero_initialize_workgroup_memory: false,
            restrict_indexing: false,
            force_loop_bounding: false,
            ..hlsl::Options::default()
        };
        let entry = hlsl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, ENTRY.into())),
        };
        let mut text = String::new();
        let info = hlsl::Writer::new(&mut text, &options, &entry)
            .write(&self.module, &self.info, None)
            .map_err(|e| Error::conversion("HLSL", e))?;
        for name in info.entry_point_names {
            name.map_err(|e| Error::conversion("HLSL", e))?;
        }
        Ok(text)
    }
}
