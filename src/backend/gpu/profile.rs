//! `FORNAX_PROFILE=1`: the time of every dispatch on the GPU, by timestamps.

use super::Gpu;
use crate::Result;
use crate::backend::exit::at_exit;
use crate::backend::profile::{self, Peak, Table};
use crate::codegen::dispatch::{Binding, Caps, Dispatch, GpuStep, Placed, Slot, grid};

/// The most queries that one set may hold.
const QUERIES: u32 = 4096;

/// Multiply-adds in registers: what the arithmetic of a device can do at most.
const MULTIPLY_ADDS: &str = "
struct Params { rounds: u32, factor: f32 }

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var a = vec4<f32>(f32(id.x));
    var b = a + 1.0;
    var c = a + 2.0;
    var d = a + 3.0;
    let m = vec4<f32>(p.factor);
    for (var i = 0u; i < p.rounds; i++) {
        a = fma(a, m, b);
        b = fma(b, m, c);
        c = fma(c, m, d);
        d = fma(d, m, a);
    }
    if (id.x < arrayLength(&out)) { out[id.x] = a + b + c + d; }
}
";

/// Times by kernel.
pub(super) struct Profiler {
    /// Nanoseconds of a tick.
    period: f64,
    table: Table,
}

/// The queries of one submit.
pub(super) struct Timer {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    mapped: wgpu::Buffer,
    dispatches: Vec<(&'static str, u64, u64)>,
}

impl Profiler {
    /// A profiler where the environment asks for one and the adapter has timestamps.
    pub fn from_env(caps: &Caps, period: f32) -> Option<Profiler> {
        if !profile::wanted() {
            return None;
        }
        if !caps.timestamps {
            eprintln!("fornax: FORNAX_PROFILE=1, but this adapter has no timestamps");
            return None;
        }
        Some(Profiler { period: period as f64, table: Table::new() })
    }

    /// The queries for one submit.
    pub fn timer(&self, device: &wgpu::Device) -> Option<Timer> {
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: QUERIES as u64 * 8,
                usage,
                mapped_at_creation: false,
            })
        };
        Some(Timer {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            mapped: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            dispatches: Vec::new(),
        })
    }
}

impl Timer {
    /// Marks the start of a dispatch; false where the set is full.
    pub fn begin(&mut self, pass: &mut wgpu::ComputePass<'static>, label: &'static str) -> bool {
        let at = self.dispatches.len() as u32 * 2;
        if at + 2 > QUERIES {
            return false;
        }
        pass.write_timestamp(&self.set, at);
        self.dispatches.push((label, 0, 0));
        true
    }

    /// Marks its end.
    pub fn end(&mut self, pass: &mut wgpu::ComputePass<'static>, bytes: u64, flops: u64) {
        if let Some(last) = self.dispatches.last_mut() {
            (last.1, last.2) = (bytes, flops);
        }
        pass.write_timestamp(&self.set, self.dispatches.len() as u32 * 2 - 1);
    }

    /// Brings the times to where the host reads them.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let n = self.dispatches.len() as u32 * 2;
        if n > 0 {
            encoder.resolve_query_set(&self.set, 0..n, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.mapped, 0, n as u64 * 8);
        }
    }
}

impl Gpu {
    /// Waits for a submit and adds its times to the table.
    pub(super) fn collect(&self, timer: Timer) -> Result<()> {
        let Some(profiler) = &self.profiler else { return Ok(()) };
        let n = timer.dispatches.len() as u64 * 16;
        if n == 0 {
            return Ok(());
        }
        timer.mapped.slice(..n).map_async(wgpu::MapMode::Read, |_| {});
        self.wait()?;
        let view = timer.mapped.slice(..n).get_mapped_range().map_err(|e| self.failed("profile", e.to_string()))?;
        let ticks: Vec<u64> = view.chunks_exact(8).map(|w| w.iter().rev().fold(0, |v, &b| v << 8 | b as u64)).collect();
        for ((label, bytes, flops), t) in timer.dispatches.iter().zip(ticks.chunks_exact(2)) {
            profiler.table.add(label, t[1].saturating_sub(t[0]) as f64 * profiler.period, *bytes, *flops);
        }
        Ok(())
    }

    /// The table of kernels with their times; `None` without `FORNAX_PROFILE=1`.
    pub fn profile(&self) -> Option<String> {
        Some(self.profiler.as_ref()?.table.text(&self.label()))
    }

    /// Where a profile is wanted: measures what the device can do, and prints the table when the process ends.
    pub(super) fn start_profile(&'static self) {
        let Some(profiler) = &self.profiler else { return };
        match self.peak() {
            Ok(peak) => profiler.table.set_peak(peak),
            Err(e) => eprintln!("fornax: FORNAX_PROFILE=1, but the peaks of {} could not be measured: {e}", self.label()),
        }
        profiler.table.take();
        at_exit(|| eprintln!("{}", self.profile().unwrap_or_default()));
    }

    /// A copy of 64 MiB, and a loop of multiply-adds.
    fn peak(&self) -> Result<Peak> {
        let words = (64 << 20).min(self.caps.max_binding as usize) / 4;
        let (from, to) = (self.alloc(words * 4)?, self.alloc(words * 4)?);
        let binding = |i, write| Binding { slot: Slot::Buffer(i), write };
        let step = |label, source: &'static str, bindings, params, groups, flops| Placed {
            step: GpuStep::Dispatch(Dispatch { label, source: source.into(), bindings, params, groups, flops }),
            windows: Vec::new(),
        };
        let (groups, rounds) = (2048u64, 512u64);
        let steps = vec![
            step(
                "copy",
                include_str!("../../../shaders/copy.wgsl"),
                vec![binding(0, false), binding(1, true)],
                vec![words.into()],
                grid(words.div_ceil(256)),
                0,
            ),
            step(
                "multiply-adds",
                MULTIPLY_ADDS,
                vec![binding(1, true)],
                vec![(rounds as u32).into(), 0.5f32.into()],
                [groups as u32, 1, 1],
                groups * 256 * rounds * 4 * 4 * 2,
            ),
        ];
        let plan = self.compile(steps, &self.caps)?;
        let mut best = Peak { bandwidth: 0.0, flops: 0.0 };
        let Some(profiler) = &self.profiler else { return Ok(best) };
        for _ in 0..3 {
            self.run_at(&plan, &[(&from, 0), (&to, 0)], &|_| 0)?;
            for r in profiler.table.take().into_values() {
                let rate = |n: u64| n as f64 / r.nanoseconds.max(1.0);
                // The loop's few stores count for nothing, and the copy has no arithmetic.
                best.flops = best.flops.max(rate(r.flops));
                if r.flops == 0 {
                    best.bandwidth = best.bandwidth.max(rate(r.bytes));
                }
            }
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loop_is_valid() {
        let module = naga::front::wgsl::parse_str(super::MULTIPLY_ADDS).unwrap();
        let mut v = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
        v.validate(&module).unwrap();
    }
}
