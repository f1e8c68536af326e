//! Mesa's AMD driver without a card: it opens a null device for any of its chips, which compiles for real and runs nothing.
//!
//! wgpu cannot open such a device, as it asks for more than this one answers; so pipelines are made through Vulkan itself.

use std::ffi::CStr;

use ash::{ext, khr, vk};

use crate::Error;
use crate::convert::{Buffer, Parsed};

/// The columns of the table: the driver's name of a statistic, and the table's.
const STATISTICS: [(&str, &str); 8] = [
    ("Subgroups per SIMD", "waves"),
    ("VGPRs", "vgprs"),
    ("SGPRs", "sgprs"),
    ("Spilled VGPRs", "spilled_vgprs"),
    ("Spilled SGPRs", "spilled_sgprs"),
    ("Scratch size", "scratch_bytes"),
    ("LDS size", "lds_bytes"),
    ("Code size", "code_bytes"),
];
const COUNT: usize = STATISTICS.len() + 1;
/// What the table calls the numbers of [`Compiler::compile`].
pub const COLUMNS: [&str; COUNT] = {
    let mut names = ["lanes"; COUNT];
    let mut index = 0;
    while index < STATISTICS.len() {
        names[index + 1] = STATISTICS[index].1;
        index += 1;
    }
    names
};

/// A null device.
pub struct Compiler {
    /// Keeps the library loaded.
    _entry: ash::Entry,
    instance: ash::Instance,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    /// The driver's version: `Mesa 25.0.7`.
    pub version: String,
}

impl Compiler {
    /// Opens the null device of a chip, for which the environment asks the driver.
    ///
    /// # Errors
    /// Sentences about what is missing on this machine.
    pub fn open(chip: &str) -> Result<Self, Error> {
        // SAFETY: the library is the system's Vulkan loader, and stays loaded while its functions are used.
        let entry = unsafe { ash::Entry::load() }.map_err(|e| Error::Loader(e.to_string()))?;
        let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&app);
        // SAFETY: everything that `create` refers to outlives the call; so it does in all calls below.
        let instance = unsafe { entry.create_instance(&create, None) }.map_err(Error::Driver)?;
        let opened = device(&instance, chip);
        let (device, version) = opened.inspect_err(|_| {
            // SAFETY: nothing of the instance is left.
            unsafe { instance.destroy_instance(None) }
        })?;
        Ok(Self {
            executables: khr::pipeline_executable_properties::Device::new(&instance, &device),
            _entry: entry,
            instance,
            device,
            version,
        })
    }

    /// Compiles a shader; the numbers are those that [`COLUMNS`] names.
    ///
    /// # Errors
    /// [`Error::Conversion`] where naga refuses it, [`Error::Compilation`] where the driver does, [`Error::Statistic`] where it tells
    /// too little.
    pub fn compile(&self, shader: &Parsed) -> Result<[u64; COUNT], Error> {
        let words = shader.spirv()?;
        let bindings: Vec<_> = shader
            .bindings()
            .map(|(place, kind)| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(place.binding)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
                    .descriptor_type(match kind {
                        Buffer::Storage => vk::DescriptorType::STORAGE_BUFFER,
                        Buffer::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                    })
            })
            .collect();
        let device = &self.device;
        // What is made here is freed with the process, which compiles and ends.
        // SAFETY: naga writes valid SPIR-V, and the layout is that of the bindings it has.
        unsafe {
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [device.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&layout, None)?;
            let code = vk::ShaderModuleCreateInfo::default().code(&words);
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(device.create_shader_module(&code, None)?)
                .name(c"main");
            let create = vk::ComputePipelineCreateInfo::default()
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR)
                .stage(stage)
                .layout(layout);
            let pipelines = device
                .create_compute_pipelines(vk::PipelineCache::null(), &[create], None)
                .map_err(|(_, e)| e)?;
            self.statistics(pipelines[0])
        }
    }

    /// # Safety
    /// `pipeline` is a compute pipeline of this device that captures statistics.
    unsafe fn statistics(&self, pipeline: vk::Pipeline) -> Result<[u64; COUNT], Error> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: as the caller says.
        let properties = unsafe { self.executables.get_pipeline_executable_properties(&info) }?;
        let lanes = properties.first().ok_or(Error::Statistic("executable"))?;
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: as the caller says; the first executable is there.
        let told = unsafe { self.executables.get_pipeline_executable_statistics(&info) }?;
        let mut numbers = [u64::from(lanes.subgroup_size); COUNT];
        for (number, (name, _)) in numbers[1..].iter_mut().zip(STATISTICS) {
            let found = told.iter().find(|statistic| {
                statistic
                    .name_as_c_str()
                    .is_ok_and(|told| told.to_bytes() == name.as_bytes())
                    && statistic.format == vk::PipelineExecutableStatisticFormatKHR::UINT64
            });
            let found = found.ok_or(Error::Statistic(name))?;
            // SAFETY: the format says which member of the union it is.
            *number = unsafe { found.value.u64 };
        }
        Ok(numbers)
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: nothing else refers to the two any more, and the null device has run nothing to wait for.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

/// The null device, with the buffer checks that wgpu asks for too, as they change what the compiler may do; and the driver's version.
fn device(instance: &ash::Instance, chip: &str) -> Result<(ash::Device, String), Error> {
    let text = |text: Result<&CStr, _>| text.unwrap_or_default().to_string_lossy().into_owned();
    // SAFETY: the handles are those that the instance gave just now.
    unsafe {
        let physical = instance
            .enumerate_physical_devices()
            .map_err(Error::Driver)?;
        let physical = *physical.first().ok_or(Error::NoDevice)?;
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        instance.get_physical_device_properties2(physical, &mut properties);
        // A version that does not heed the environment would show a real card.
        let name = text(properties.properties.device_name_as_c_str());
        if !name.contains(&format!("RADV {}", chip.to_uppercase())) {
            return Err(Error::OtherDevice(name));
        }
        let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
        let extensions = [
            khr::pipeline_executable_properties::NAME.as_ptr(),
            ext::robustness2::NAME.as_ptr(),
        ];
        let mut executables = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
            .pipeline_executable_info(true);
        let mut robust =
            vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
        let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut executables)
            .push_next(&mut robust);
        let device = instance
            .create_device(physical, &create, None)
            .map_err(Error::Driver)?;
        Ok((device, text(driver.driver_info_as_c_str())))
    }
}
