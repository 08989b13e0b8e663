//! Plans on the GPU: compiled once, encoded into one compute pass, one submit.

use super::pipeline::Pipeline;
use super::profile::Timer;
use super::{Gpu, GpuBuffer, lock};
use crate::codegen::dispatch::{Caps, Dispatch, GpuStep, Param, Placed, Slot, Window, work};
use crate::{Error, Result};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// A plan's steps with their pipelines: ready to be encoded any number of times.
pub(crate) struct Compiled {
    steps: Vec<Step>,
    /// The parameter blocks of all steps, one after the other at aligned places.
    params: Vec<(usize, Param)>,
    /// Words in all of them, padding included.
    words: usize,
    /// Bytes that every parameter binding shows: the largest block.
    window: u32,
    /// The largest storage binding that the plan was made for, and the most work of a submit.
    max_binding: u64,
    max_work: u64,
    blocks: Mutex<Blocks>,
}

#[allow(clippy::large_enum_variant)] // almost all are dispatches
enum Step {
    Dispatch {
        label: &'static str,
        pipeline: Arc<Pipeline>,
        bindings: SmallVec<[(Slot, Window); 8]>,
        params: Option<u32>,
        groups: [u32; 3],
        flops: u64,
    },
    Zero {
        buffer: usize,
        window: Window,
    },
}

/// Copies of the parameters on the GPU. A replay with the same words writes nothing; one with other words takes the next copy, so that it
/// need not wait for the replay before it.
#[derive(Default)]
struct Blocks {
    copies: SmallVec<[Block; 3]>,
    current: usize,
}

struct Block {
    buffer: wgpu::Buffer,
    group: wgpu::BindGroup,
    words: Vec<u32>,
}

/// Bind groups by layout, buffers and ranges, in two generations: when the young one is full, the old one goes.
#[derive(Default)]
pub(super) struct BindGroups {
    young: HashMap<GroupKey, wgpu::BindGroup>,
    old: HashMap<GroupKey, wgpu::BindGroup>,
}

type GroupKey = (u32, SmallVec<[(u64, u64, u64); 8]>);

const GENERATION: usize = 4096;

impl BindGroups {
    pub fn clear(&mut self) {
        *self = BindGroups::default();
    }

    fn get(&mut self, key: GroupKey, build: impl FnOnce(&GroupKey) -> wgpu::BindGroup) -> wgpu::BindGroup {
        if let Some(group) = self.young.get(&key) {
            return group.clone();
        }
        let group = self.old.remove(&key).unwrap_or_else(|| build(&key));
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, group.clone());
        group
    }
}

/// The first byte of a window of a tensor that starts at byte `start` of its buffer, and the one past its last.
fn range(b: &GpuBuffer, start: u64, window: &Window) -> (u64, u64) {
    let (from, end) = (start + window.from, b.padded());
    (from, if window.bytes == 0 { end } else { end.min(from + window.bytes) })
}

impl Gpu {
    /// Builds (or finds) the pipelines. `limits` are the capabilities that the steps were made for.
    ///
    /// # Errors
    /// `Error::Kernel` with the compiler's message where a shader does not compile.
    pub fn compile(&self, steps: Vec<Placed>, limits: &Caps) -> Result<Compiled> {
        self.alive()?;
        let dispatches: Vec<&Dispatch> =
            steps.iter().filter_map(|p| if let GpuStep::Dispatch(d) = &p.step { Some(d) } else { None }).collect();
        let mut pipelines = self.pipelines(&dispatches)?.into_iter();
        let align = self.uniform_alignment as usize / 4;
        let mut plan = Compiled {
            steps: Vec::new(),
            params: Vec::new(),
            words: 0,
            window: 0,
            max_binding: limits.max_binding,
            max_work: limits.max_work,
            blocks: Mutex::default(),
        };
        for placed in &steps {
            let step = match &placed.step {
                GpuStep::Zero(Slot::Buffer(buffer)) => {
                    Step::Zero { buffer: *buffer, window: placed.windows.first().copied().unwrap_or_default() }
                }
                GpuStep::Zero(slot) => return Err(self.failed("zero", format!("a plan's buffer is wanted, not {slot:?}"))),
                GpuStep::UnlessInPlace(d) => {
                    return Err(self.failed(d.label, "the plan decides whether this step runs: UnlessInPlace must be gone".into()));
                }
                GpuStep::Dispatch(d) => {
                    let pipeline = pipelines.next().ok_or_else(|| self.failed(d.label, "no pipeline".into()))?;
                    let mut bindings = SmallVec::new();
                    for (k, b) in d.bindings.iter().enumerate() {
                        if !matches!(b.slot, Slot::Buffer(_) | Slot::Fault) {
                            return Err(self.failed(d.label, format!("binding {k} is not placed: {:?}", b.slot)));
                        }
                        let window = placed.windows.get(k).copied().unwrap_or_default();
                        if window.from % self.caps.offset_alignment as u64 != 0 {
                            return Err(self.failed(d.label, format!("binding {k} is at byte {}, which is not aligned", window.from)));
                        }
                        bindings.push((b.slot, window));
                    }
                    if d.groups.iter().any(|&g| g > 65_535) {
                        return Err(self.failed(d.label, format!("{:?} workgroups: at most 65535 a dimension", d.groups)));
                    }
                    let params = (!d.params.is_empty()).then(|| {
                        let at = plan.words.next_multiple_of(align);
                        plan.params.extend(d.params.iter().enumerate().map(|(i, &p)| (at + i, p)));
                        plan.words = at + d.params.len();
                        // Structs with vec4 members are multiples of 16 bytes.
                        plan.window = plan.window.max((d.params.len() as u32 * 4).next_multiple_of(16));
                        at as u32 * 4
                    });
                    Step::Dispatch { label: d.label, pipeline, bindings, params, groups: d.groups, flops: d.flops }
                }
            };
            plan.steps.push(step);
        }
        if plan.window > self.max_uniform {
            return Err(self.failed("params", format!("a block of {} bytes: at most {}", plan.window, self.max_uniform)));
        }
        Ok(plan)
    }

    /// Encodes and submits: `buffers` are the plan's, by index, each with the byte (a multiple of 256) at which its tensor starts; `word`
    /// gives the value of a `Param::Remote`.
    ///
    /// # Errors
    /// `Error::DeviceLost`, `Error::OutOfMemory`, or `Error::Kernel` for what wgpu refuses.
    pub fn run_at(&self, plan: &Compiled, buffers: &[(&GpuBuffer, u64)], word: &dyn Fn(&Param) -> u32) -> Result<()> {
        self.alive()?;
        if plan.steps.is_empty() {
            return Ok(());
        }
        let (done, error) = self.scoped(|| {
            // Held until the submit, so that another thread's replay of this plan cannot change the parameters in between.
            let mut blocks = lock(&plan.blocks);
            // The parameters that are written next would change those of commands that are held back.
            self.submit_held();
            let mut timer = self.profiler.as_ref().and_then(|p| p.timer(&self.device));
            let commands = self.encode(plan, &mut blocks, buffers, word, timer.as_mut())?;
            let mut commands = commands.into_iter().peekable();
            while let Some(c) = commands.next() {
                if commands.peek().is_none() && super::HOLD.get() && timer.is_none() {
                    lock(&self.held).push(c);
                } else {
                    self.submit(Some(c));
                }
            }
            Ok(timer)
        });
        let timer = done?;
        self.alive()?;
        match error {
            None => timer.map_or(Ok(()), |t| self.collect(t)),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(Error::OutOfMemory { device: self.label(), bytes: 0, message: "while kernels were submitted".into() })
            }
            Some(error) => Err(self.failed("run", error.to_string())),
        }
    }

    /// As `run_at`, with every tensor at the start of its buffer.
    #[cfg(test)]
    pub fn run(&self, plan: &Compiled, buffers: &[&GpuBuffer], word: &dyn Fn(&Param) -> u32) -> Result<()> {
        self.run_at(plan, &buffers.iter().map(|&b| (b, 0)).collect::<Vec<_>>(), word)
    }

    /// One command buffer, or several where the work of one would be too long for a watchdog.
    fn encode(
        &self,
        plan: &Compiled,
        blocks: &mut Blocks,
        buffers: &[(&GpuBuffer, u64)],
        word: &dyn Fn(&Param) -> u32,
        mut timer: Option<&mut Timer>,
    ) -> Result<Vec<wgpu::CommandBuffer>> {
        let buffer = |i: usize| buffers.get(i).copied().ok_or_else(|| self.failed("run", format!("the plan has no buffer {i}")));
        let params = self.write_params(plan, blocks, word)?;
        let new_encoder = || self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        let mut encoder = new_encoder();
        let mut finished = Vec::new();
        let mut pass: Option<wgpu::ComputePass<'static>> = None;
        let mut current: Option<&Arc<Pipeline>> = None;
        let (mut count, mut done) = (0, 0u64);
        for step in &plan.steps {
            match step {
                Step::Zero { buffer: i, window } => {
                    // A clear costs a new pass, about a microsecond; a fill kernel would cost about the same, and pages of new memory
                    // would be cleared twice.
                    drop(pass.take());
                    let (b, start) = buffer(*i)?;
                    let (from, to) = range(b, start, window);
                    encoder.clear_buffer(b.raw(), from, Some(to.saturating_sub(from)));
                }
                Step::Dispatch { label, pipeline, bindings, params: at, groups, flops } => {
                    if groups.contains(&0) {
                        continue;
                    }
                    let (group, bytes) = self.bind_group(label, pipeline, bindings, plan.max_binding, &buffer)?;
                    let work = work(*flops, bytes);
                    if done > 0 && done.saturating_add(work) > plan.max_work {
                        drop(pass.take());
                        finished.push(std::mem::replace(&mut encoder, new_encoder()).finish());
                        done = 0;
                    }
                    done += work;
                    let pass = pass.get_or_insert_with(|| {
                        current = None;
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None }).forget_lifetime()
                    });
                    if !current.is_some_and(|p| Arc::ptr_eq(p, pipeline)) {
                        pass.set_pipeline(&pipeline.pipeline);
                        current = Some(pipeline);
                    }
                    pass.set_bind_group(0, &group, &[]);
                    if let (Some(at), Some(params)) = (at, params) {
                        pass.set_bind_group(1, params, &[*at]);
                    }
                    let begun = timer.as_mut().is_some_and(|t| t.begin(pass, label));
                    pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                    count += 1;
                    if let (true, Some(t)) = (begun, timer.as_mut()) {
                        t.end(pass, bytes, *flops);
                    }
                }
            }
        }
        drop(pass);
        if let Some(t) = timer {
            t.resolve(&mut encoder);
        }
        self.counters.dispatches.fetch_add(count, Ordering::Relaxed);
        finished.push(encoder.finish());
        Ok(finished)
    }

    /// Brings the plan's parameters onto the GPU, where they are not there already.
    fn write_params<'a>(
        &self,
        plan: &Compiled,
        blocks: &'a mut Blocks,
        word: &dyn Fn(&Param) -> u32,
    ) -> Result<Option<&'a wgpu::BindGroup>> {
        if plan.params.is_empty() {
            return Ok(None);
        }
        let mut words = vec![0u32; plan.words];
        for (at, param) in &plan.params {
            words[*at] = match param {
                Param::Word(w) => *w,
                other => word(other),
            };
        }
        if blocks.copies.get(blocks.current).is_some_and(|b| b.words == words) {
            return Ok(blocks.copies.get(blocks.current).map(|b| &b.group));
        }
        if blocks.copies.len() < 3 {
            // The last block's window must lie within the buffer.
            let size = (plan.words as u64 * 4 + plan.window as u64).next_multiple_of(16);
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let binding = wgpu::BufferBinding { buffer: &buffer, offset: 0, size: wgpu::BufferSize::new(plan.window as u64) };
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("params"),
                layout: &self.uniform_layout(),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
            });
            blocks.current = blocks.copies.len();
            blocks.copies.push(Block { buffer, group, words: Vec::new() });
        } else {
            blocks.current = (blocks.current + 1) % 3;
        }
        let block = &mut blocks.copies[blocks.current];
        // Runs at the start of the next submit, whoever makes it: after the last replay that read this copy.
        self.queue.write_buffer(&block.buffer, 0, bytemuck::cast_slice(&words));
        block.words = words;
        Ok(Some(&block.group))
    }

    /// The bind group of a dispatch, and the bytes that it shows.
    fn bind_group<'a>(
        &self,
        label: &str,
        pipeline: &Pipeline,
        bindings: &[(Slot, Window)],
        max_binding: u64,
        buffer: &dyn Fn(usize) -> Result<(&'a GpuBuffer, u64)>,
    ) -> Result<(wgpu::BindGroup, u64)> {
        let mut key: GroupKey = (pipeline.layouts.id, SmallVec::new());
        let mut raws: SmallVec<[&wgpu::Buffer; 8]> = SmallVec::new();
        let mut bytes = 0;
        for (k, (slot, window)) in bindings.iter().enumerate() {
            let (id, raw, from, to) = match slot {
                Slot::Buffer(i) => {
                    let (b, start) = buffer(*i)?;
                    let (from, to) = range(b, start, window);
                    (b.id(), b.raw(), from, to)
                }
                _ => (0, &self.fault, 0, 16),
            };
            if from >= to {
                return Err(self.failed(label, format!("binding {k} starts at byte {from} of {to}")));
            }
            if to - from > max_binding {
                let message = format!("binding {k} has {} bytes: this device binds at most {max_binding}", to - from);
                return Err(self.failed(label, message));
            }
            bytes += to - from;
            key.1.push((id, from, to - from));
            raws.push(raw);
        }
        let group = lock(&self.bind_groups).get(key, |key| {
            self.counters.bind_groups.fetch_add(1, Ordering::Relaxed);
            let entries: SmallVec<[wgpu::BindGroupEntry; 8]> = key
                .1
                .iter()
                .zip(&raws)
                .enumerate()
                .map(|(k, (&(_, offset, size), raw))| {
                    let binding = wgpu::BufferBinding { buffer: raw, offset, size: wgpu::BufferSize::new(size) };
                    wgpu::BindGroupEntry { binding: k as u32, resource: wgpu::BindingResource::Buffer(binding) }
                })
                .collect();
            self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layouts.storage, entries: &entries })
        });
        Ok((group, bytes))
    }

    /// Copies all bytes of one buffer to another that is at least as long.
    #[cfg(test)]
    pub fn copy(&self, from: &GpuBuffer, to: &GpuBuffer) -> Result<()> {
        self.alive()?;
        let size = from.padded();
        if to.padded() < size || from.id() == to.id() {
            return Err(self.failed("copy", format!("{from:?} does not fit into {to:?}")));
        }
        let ((), error) = self.scoped(|| {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            encoder.copy_buffer_to_buffer(from.raw(), 0, to.raw(), 0, size);
            self.submit(Some(encoder.finish()));
        });
        self.alive()?;
        error.map_or(Ok(()), |e| Err(self.failed("copy", e.to_string())))
    }
}
