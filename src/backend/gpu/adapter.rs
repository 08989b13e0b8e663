//! Which adapters there are, and how one is opened.

use super::{Counters, Gpu, disk, memory, pipeline, profile, read, run};
use crate::backend::exit::at_exit;
use crate::codegen::dispatch::{Caps, WORK};
use crate::{Error, Result};
use std::sync::{Arc, Mutex, OnceLock};

/// An adapter, and the GPU on it once somebody has opened it.
struct Entry {
    adapter: wgpu::Adapter,
    gpu: OnceLock<Result<&'static Gpu>>,
}

struct Registry {
    hardware: Vec<Entry>,
    software: Vec<Entry>,
}

/// Looked for once: a GPU that is plugged in later needs a new process.
static REGISTRY: OnceLock<Registry> = OnceLock::new();

fn registry() -> &'static Registry {
    REGISTRY.get_or_init(|| {
        let backends = [wgpu::Backends::VULKAN, wgpu::Backends::METAL, wgpu::Backends::DX12];
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
        desc.backends = backends.into_iter().collect();
        // Without VALIDATION_INDIRECT_CALL, which is on by default and clamps buffers to 4 GiB.
        desc.flags = wgpu::InstanceFlags::empty().with_env() - wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL;
        // Drivers swap rather than fail when memory runs out, so wgpu is asked to refuse first.
        desc.memory_budget_thresholds = wgpu::MemoryBudgetThresholds { for_resource_creation: Some(97), for_device_loss: None };
        let instance = wgpu::Instance::new(desc);
        let mut seen = Vec::new();
        let mut found = Registry { hardware: Vec::new(), software: Vec::new() };
        let mut all = Vec::new();
        for backend in backends {
            let mut adapters = pollster::block_on(instance.enumerate_adapters(backend));
            // The same GPU is often seen through two APIs: the first one keeps it.
            adapters.retain(|a| !seen.contains(&(a.get_info().vendor, a.get_info().device)));
            seen.extend(adapters.iter().map(|a| (a.get_info().vendor, a.get_info().device)));
            all.extend(adapters);
        }
        all.sort_by_key(|a| match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        });
        for adapter in all {
            let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
            let list = if software { &mut found.software } else { &mut found.hardware };
            list.push(Entry { adapter, gpu: OnceLock::new() });
        }
        found
    })
}

/// GPU `n` (hardware first); opened once, kept for the process's life. A software adapter only where `software` allows it and there is no
/// hardware one.
///
/// # Errors
/// `Error::Device` where there is no such adapter or the driver refuses it.
pub(crate) fn open(n: usize, software: bool) -> Result<&'static Gpu> {
    let found = registry();
    let list = if found.hardware.is_empty() && software { &found.software } else { &found.hardware };
    let Some(entry) = list.get(n) else {
        let names: Vec<String> = list.iter().map(|e| e.adapter.get_info().name).collect();
        let message = match names.len() {
            0 if found.software.is_empty() => "no GPU was found: is a Vulkan, Metal or DX12 driver installed?".to_string(),
            0 => "no hardware GPU was found".to_string(),
            k => format!("no GPU {n}: there are {k}, numbered from 0 ({})", names.join(", ")),
        };
        return Err(Error::Device { op: "Device::gpu", message });
    };
    let open = || {
        let gpu: &'static Gpu = Box::leak(Box::new(create(&entry.adapter, n)?));
        gpu.start_profile();
        if let Some(disk) = &gpu.disk {
            at_exit(|| disk.save());
        }
        Ok(gpu)
    };
    entry.gpu.get_or_init(open).clone()
}

/// The GPUs that the process has opened so far; opens none.
pub(crate) fn opened() -> impl Iterator<Item = &'static Gpu> {
    let lists = REGISTRY.get().into_iter().flat_map(|r| r.hardware.iter().chain(&r.software));
    lists.filter_map(|e| e.gpu.get()?.as_ref().ok().copied())
}

/// A device of one's own, so that a test of faults does not disturb the reads of others.
#[cfg(test)]
pub(super) fn open_private() -> Result<Gpu> {
    open(0, true)?;
    let found = registry();
    create(&found.hardware.first().unwrap_or(&found.software[0]).adapter, 0)
}

fn create(adapter: &wgpu::Adapter, number: usize) -> Result<Gpu> {
    let info = adapter.get_info();
    if info.device_type == wgpu::DeviceType::Cpu {
        eprintln!("fornax: gpu:{number} is {}, a software adapter: right, but slow", info.name);
    }
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_FLOAT32_ATOMIC
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    let features = adapter.features() & wanted;
    let limits = adapter.limits();
    let desc = wgpu::DeviceDescriptor {
        label: Some("fornax"),
        required_features: features,
        required_limits: limits.clone(),
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
        memory_hints: wgpu::MemoryHints::Performance,
        trace: wgpu::Trace::Off,
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&desc))
        .map_err(|e| Error::Device { op: "Device::gpu", message: format!("{} could not be opened: {e}", info.name) })?;
    let lost: Arc<OnceLock<String>> = Arc::default();
    let cell = lost.clone();
    device.set_device_lost_callback(move |reason, message| drop(cell.set(format!("{reason:?}: {message}"))));
    device.on_uncaptured_error(Arc::new(|e| eprintln!("fornax: an error of the GPU that nobody asked about: {e}")));
    let caps = Caps {
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        subgroup_min: info.subgroup_min_size,
        subgroup_max: info.subgroup_max_size,
        f16: features.contains(wgpu::Features::SHADER_F16),
        float_atomics: features.contains(wgpu::Features::SHADER_FLOAT32_ATOMIC),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
        max_bindings: limits.max_storage_buffers_per_shader_stage,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        max_binding: limits.max_storage_buffer_binding_size & !255,
        max_buffer: limits.max_buffer_size & !255,
        offset_alignment: limits.min_storage_buffer_offset_alignment.max(16),
        // The slowest discrete GPUs are about eight times as fast as the integrated ones that the bound is meant for.
        max_work: if info.device_type == wgpu::DeviceType::DiscreteGpu { 8 * WORK } else { WORK },
    };
    let fault = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("fault"),
        size: 16,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let disk = disk::DiskCache::open(&device, &info);
    let profiler = profile::Profiler::from_env(&caps, queue.get_timestamp_period());
    Ok(Gpu {
        profiler,
        name: info.name,
        number,
        caps,
        device,
        queue,
        uniform_alignment: limits.min_uniform_buffer_offset_alignment.max(16),
        max_uniform: limits.max_uniform_buffer_binding_size.min(1 << 16) as u32,
        checks: std::env::var("FORNAX_SHADER_CHECKS").is_ok_and(|v| v == "1"),
        pool: Arc::new(memory::Pool::new(memory_limit())),
        pipelines: pipeline::Pipelines::default(),
        disk,
        bind_groups: Mutex::new(run::BindGroups::default()),
        staging: read::Staging::default(),
        held: Mutex::default(),
        fault,
        faults: Mutex::default(),
        lost,
        counters: Counters::default(),
    })
}

/// `FORNAX_GPU_MEMORY`, in MiB: the most that tensors may take on a GPU.
fn memory_limit() -> u64 {
    let mib = std::env::var("FORNAX_GPU_MEMORY").ok().and_then(|v| v.parse::<u64>().ok());
    mib.map_or(u64::MAX, |m| m.saturating_mul(1 << 20))
}
