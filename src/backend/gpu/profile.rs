//! `FORNAX_PROFILE=1`: the time of every dispatch on the GPU, and a table of it at the end.

use super::{Gpu, lock};
use crate::Result;
use crate::codegen::dispatch::Caps;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;

/// The most queries that one set may hold.
const QUERIES: u32 = 4096;

/// Times by kernel.
pub(super) struct Profiler {
    /// Nanoseconds of a tick.
    period: f64,
    rows: Mutex<BTreeMap<&'static str, Row>>,
}

#[derive(Default, Clone)]
struct Row {
    count: u64,
    nanoseconds: f64,
    bytes: u64,
    flops: u64,
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
        if !std::env::var("FORNAX_PROFILE").is_ok_and(|v| v == "1") {
            return None;
        }
        if !caps.timestamps {
            eprintln!("fornax: FORNAX_PROFILE=1, but this adapter has no timestamps");
            return None;
        }
        Some(Profiler { period: period as f64, rows: Mutex::default() })
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
        let mut rows = lock(&profiler.rows);
        for ((label, bytes, flops), t) in timer.dispatches.iter().zip(ticks.chunks_exact(2)) {
            let row = rows.entry(label).or_default();
            row.count += 1;
            row.nanoseconds += t[1].saturating_sub(t[0]) as f64 * profiler.period;
            row.bytes += bytes;
            row.flops += flops;
        }
        Ok(())
    }

    /// The table of kernels with their times, the longest first; `None` without `FORNAX_PROFILE=1`.
    pub fn profile(&self) -> Option<String> {
        let mut rows: Vec<(&str, Row)> = lock(&self.profiler.as_ref()?.rows).iter().map(|(k, r)| (*k, r.clone())).collect();
        rows.sort_by(|a, b| b.1.nanoseconds.total_cmp(&a.1.nanoseconds));
        let total: f64 = rows.iter().map(|r| r.1.nanoseconds).sum();
        let mut out = format!("{}: {:.3} ms in kernels\n", self.label(), total / 1e6);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:>10} {:>6} {:>8} {:>10} {:>9} {:>9}  kernel", "ms", "%", "count", "us each", "GB/s", "GFLOP/s");
        for (label, r) in rows {
            let _ = writeln!(
                out,
                "{:>10.3} {:>6.1} {:>8} {:>10.2} {:>9.1} {:>9.1}  {label}",
                r.nanoseconds / 1e6,
                100.0 * r.nanoseconds / total.max(1.0),
                r.count,
                r.nanoseconds / 1e3 / r.count as f64,
                r.bytes as f64 / r.nanoseconds.max(1.0),
                r.flops as f64 / r.nanoseconds.max(1.0),
            );
        }
        Some(out)
    }
}

static PROFILED: Mutex<Vec<&'static Gpu>> = Mutex::new(Vec::new());

/// Prints a GPU's table when the process ends.
pub(super) fn at_exit(gpu: &'static Gpu) {
    unsafe extern "C" {
        fn atexit(callback: extern "C" fn()) -> std::ffi::c_int;
    }
    extern "C" fn print() {
        for gpu in lock(&PROFILED).iter() {
            eprintln!("{}", gpu.profile().unwrap_or_default());
        }
    }
    if gpu.profiler.is_none() {
        return;
    }
    let mut list = lock(&PROFILED);
    list.push(gpu);
    if list.len() == 1 {
        // SAFETY: the C library's function on every platform that we run on; the callback touches only statics and does not unwind.
        unsafe { atexit(print) };
    }
}
