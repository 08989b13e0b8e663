//! Reading: a copy into mapped memory, together with the fault word.

use super::{Gpu, GpuBuffer, lock};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// The most that one copy reads: larger tensors come in pieces.
const CHUNK: u64 = 64 << 20;

/// Mappable buffers that nobody reads now, by size.
#[derive(Default)]
pub(super) struct Staging {
    free: Mutex<BTreeMap<u64, Vec<wgpu::Buffer>>>,
}

impl Staging {
    pub fn clear(&self) {
        lock(&self.free).clear();
    }
}

impl Gpu {
    /// The first `bytes` of a buffer. `Error::Index` where the fault word was set since the last read (which clears it).
    ///
    /// # Errors
    /// `Error::DeviceLost`, `Error::OutOfMemory`, `Error::Index`.
    pub fn read(&self, buffer: &GpuBuffer, bytes: usize) -> Result<Vec<u8>> {
        self.alive()?;
        if bytes as u64 > buffer.padded() {
            return Err(self.failed("read", format!("{bytes} bytes of {buffer:?}")));
        }
        let mut out = Vec::with_capacity(bytes);
        let mut fault = false;
        loop {
            let want = ((bytes - out.len()) as u64).min(CHUNK);
            fault |= self.read_piece(buffer, out.len() as u64, want, &mut out)?;
            if out.len() == bytes {
                break;
            }
        }
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        if fault {
            let message = "an index was out of range in an op computed since this device was last read (gather, index_select, embedding, scatter, \
                           the classes of cross_entropy, …): it read 0 or wrote nothing. The fault belongs to the device, not to the tensor \
                           read"
                .into();
            return Err(Error::Index { op: "read", message });
        }
        Ok(out)
    }

    /// Appends bytes `from..from + want` to `out`; true if the fault word was set.
    fn read_piece(&self, buffer: &GpuBuffer, from: u64, want: u64, out: &mut Vec<u8>) -> Result<bool> {
        let copied = want.next_multiple_of(16);
        // The fault word comes first.
        let capacity = (copied + 16).next_power_of_two().max(256);
        let pooled = lock(&self.staging.free).get_mut(&capacity).and_then(Vec::pop);
        let ((staging, index), error) = self.scoped(|| {
            let staging = pooled.unwrap_or_else(|| {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                self.device.create_buffer(&wgpu::BufferDescriptor { label: Some("read"), size: capacity, usage, mapped_at_creation: false })
            });
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            encoder.copy_buffer_to_buffer(&self.fault, 0, &staging, 0, 16);
            if copied > 0 {
                encoder.copy_buffer_to_buffer(buffer.raw(), from, &staging, 16, copied);
            }
            let index = self.submit(Some(encoder.finish()));
            (staging, index)
        });
        self.alive()?;
        match error {
            None => {}
            Some(wgpu::Error::OutOfMemory { .. }) => {
                let message = "for the copy to the host".into();
                return Err(Error::OutOfMemory { device: self.label(), bytes: capacity as usize, message });
            }
            Some(e) => return Err(self.failed("read", e.to_string())),
        }
        let (send, receive) = std::sync::mpsc::channel();
        staging.slice(..16 + copied).map_async(wgpu::MapMode::Read, move |r| drop(send.send(r)));
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None });
        self.alive()?;
        waited.map_err(|e| self.failed("read", e.to_string()))?;
        // Another thread's poll may be running the callback just now: it ends soon.
        let mapped = receive.recv().map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string()));
        mapped.map_err(|e| self.failed("read", e))?;
        let fault = {
            let view = staging.slice(..16 + copied).get_mapped_range().map_err(|e| self.failed("read", e.to_string()))?;
            out.extend_from_slice(&view[16..16 + want as usize]);
            view[..4] != [0; 4]
        };
        staging.unmap();
        if capacity <= CHUNK * 2 {
            let mut free = lock(&self.staging.free);
            let list = free.entry(capacity).or_default();
            if list.len() < 4 {
                list.push(staging);
            }
        }
        if fault {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            encoder.clear_buffer(&self.fault, 0, None);
            self.submit(Some(encoder.finish()));
        }
        Ok(fault)
    }
}
