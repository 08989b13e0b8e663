//! Pipelines, by the text of their shader.

use super::{Gpu, lock};
use crate::codegen::dispatch::{Binding, Dispatch};
use crate::{Error, Result};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Which of a shader's storage bindings are written, and whether it has parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    pub writes: SmallVec<[bool; 8]>,
    pub params: bool,
}

/// Layouts are shared by all pipelines of a pattern, so that bind groups are too.
pub(super) struct Layouts {
    pub id: u32,
    pub storage: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layouts: Arc<Layouts>,
}

type Key = (Cow<'static, str>, Pattern);

#[derive(Default)]
pub(super) struct Pipelines {
    built: Mutex<HashMap<Key, Arc<Pipeline>>>,
    layouts: Mutex<HashMap<Pattern, Arc<Layouts>>>,
    uniform: Mutex<Option<wgpu::BindGroupLayout>>,
}

impl Pipelines {
    pub fn count(&self) -> usize {
        lock(&self.built).len()
    }
}

/// The dispatch's shader, and its binding pattern. A buffer that a dispatch reads and writes through several bindings must be bound
/// `read_write` in all of them: then the text is changed to say so.
fn resolve(d: &Dispatch) -> Key {
    let shared = |b: &Binding| !b.write && d.bindings.iter().any(|o| o.write && o.slot == b.slot);
    let mut source = d.source.clone();
    let mut writes = SmallVec::new();
    for (k, b) in d.bindings.iter().enumerate() {
        writes.push(b.write || shared(b));
        if shared(b) {
            source = Cow::Owned(bind_read_write(&source, k));
        }
    }
    (source, Pattern { writes, params: !d.params.is_empty() })
}

/// Changes storage binding `k` of a shader from `read` to `read_write`.
fn bind_read_write(source: &str, k: usize) -> String {
    let mut out = String::with_capacity(source.len() + 8);
    let mut found = false;
    for line in source.split_inclusive('\n') {
        found |= line.contains("@group(0)") && line.contains(&format!("@binding({k})"));
        if found && line.contains("var<storage") {
            out.push_str(&line.replacen("var<storage, read>", "var<storage, read_write>", 1).replacen(
                "var<storage>",
                "var<storage, read_write>",
                1,
            ));
            found = false;
        } else {
            out.push_str(line);
        }
    }
    out
}

impl Gpu {
    /// Finds or builds the pipelines of some dispatches, in order.
    pub(super) fn pipelines(&self, dispatches: &[&Dispatch]) -> Result<Vec<Arc<Pipeline>>> {
        let keys: Vec<Key> = dispatches.iter().map(|d| resolve(d)).collect();
        let mut missing: Vec<(&Key, &'static str)> = Vec::new();
        {
            let built = lock(&self.pipelines.built);
            for (key, d) in keys.iter().zip(dispatches) {
                if !built.contains_key(key) && !missing.iter().any(|(k, _)| *k == key) {
                    missing.push((key, d.label));
                }
            }
        }
        // The lock is not held here: two threads may build the same pipeline, which is only a waste.
        let new = self.build_all(&missing)?;
        let mut built = lock(&self.pipelines.built);
        for ((key, _), pipeline) in missing.into_iter().zip(new) {
            built.insert(key.clone(), pipeline);
        }
        Ok(keys.iter().map(|k| built[k].clone()).collect())
    }

    /// Builds on several threads: a pipeline takes milliseconds. Not on rayon's, whose workers would take up other work while they wait, and
    /// the caller holds locks.
    fn build_all(&self, missing: &[(&Key, &'static str)]) -> Result<Vec<Arc<Pipeline>>> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(missing.len());
        if threads < 2 {
            return missing.iter().map(|(key, label)| self.build(key, label)).collect();
        }
        let next = AtomicUsize::new(0);
        let take = || {
            let i = next.fetch_add(1, Ordering::Relaxed);
            missing.get(i).map(|m| (i, m))
        };
        let built: Vec<OnceLock<Result<Arc<Pipeline>>>> = missing.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    while let Some((i, (key, label))) = take() {
                        let _ = built[i].set(self.build(key, label));
                    }
                });
            }
        });
        built
            .into_iter()
            .map(|cell| cell.into_inner().unwrap_or_else(|| Err(self.failed("compile", "a thread ended early".into()))))
            .collect()
    }

    fn build(&self, (source, pattern): &Key, label: &str) -> Result<Arc<Pipeline>> {
        self.alive()?;
        if pattern.writes.len() as u32 > self.caps.max_bindings {
            let message = format!("{} storage bindings, and this device has {}", pattern.writes.len(), self.caps.max_bindings);
            return Err(self.failed(label, message));
        }
        dump(source, label);
        let layouts = self.layouts(pattern);
        let (pipeline, error) = self.scoped(|| {
            let desc = wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(source)) };
            // Division is checked even so: a zero divisor in a user's data must not be undefined.
            let unchecked = wgpu::ShaderRuntimeChecks { int_div_checks: true, ..wgpu::ShaderRuntimeChecks::unchecked() };
            let checks = if self.checks { wgpu::ShaderRuntimeChecks::checked() } else { unchecked };
            // SAFETY: the shaders are this crate's; they check their own bounds, which the tests also run with checks on.
            let module = unsafe { self.device.create_shader_module_trusted(desc, checks) };
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(label),
                layout: Some(&layouts.pipeline),
                module: &module,
                entry_point: Some("main"),
                // Our kernels write workgroup memory before they read it.
                compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
                cache: self.disk.as_ref().map(|d| &d.cache),
            })
        });
        match error {
            None => {
                self.disk.iter().for_each(|d| d.built());
                Ok(Arc::new(Pipeline { pipeline, layouts }))
            }
            Some(error) => {
                self.alive()?;
                Err(Error::Kernel { op: label.into(), message: format!("the shader does not compile: {error}\n{source}") })
            }
        }
    }

    /// The layout of a parameter block: one uniform with a dynamic offset.
    pub(super) fn uniform_layout(&self) -> wgpu::BindGroupLayout {
        let build = || {
            let ty = wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Uniform, has_dynamic_offset: true, min_binding_size: None };
            let entry = wgpu::BindGroupLayoutEntry { binding: 0, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None };
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("params"), entries: &[entry] })
        };
        lock(&self.pipelines.uniform).get_or_insert_with(build).clone()
    }

    fn layouts(&self, pattern: &Pattern) -> Arc<Layouts> {
        let uniform = self.uniform_layout();
        let mut known = lock(&self.pipelines.layouts);
        if let Some(found) = known.get(pattern) {
            return found.clone();
        }
        let entries = pattern.writes.iter().enumerate().map(|(k, &write)| wgpu::BindGroupLayoutEntry {
            binding: k as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !write },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        });
        let entries: Vec<_> = entries.collect();
        let storage = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let groups = [Some(&storage), Some(&uniform)];
        let pipeline = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: if pattern.params { &groups } else { &groups[..1] },
            immediate_size: 0,
        });
        let layouts = Arc::new(Layouts { id: known.len() as u32, storage, pipeline });
        known.insert(pattern.clone(), layouts.clone());
        layouts
    }
}

/// `FORNAX_DUMP=dir`: writes each shader to a file there. What cannot be written is only said, for this is a debugging aid.
fn dump(source: &str, label: &str) {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let Some(dir) = std::env::var_os("FORNAX_DUMP").filter(|d| !d.is_empty()) else { return };
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let name: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(80).collect();
    let path = std::path::Path::new(&dir).join(format!("{name}-{:016x}.wgsl", hasher.finish()));
    if let Err(e) = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, source)) {
        eprintln!("fornax: FORNAX_DUMP: {}: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::bind_read_write;

    #[test]
    fn a_shared_binding_becomes_read_write() {
        let text = "@group(0) @binding(0) var<storage, read> a: array<f32>;\n@group(0) @binding(1)\nvar<storage> b: array<f32>;\n";
        assert!(bind_read_write(text, 0).starts_with("@group(0) @binding(0) var<storage, read_write> a"));
        let second = bind_read_write(text, 1);
        assert!(second.contains("var<storage, read_write> b") && second.contains("var<storage, read> a"));
    }
}
