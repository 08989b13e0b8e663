//! Reading: a copy into mapped memory, together with the fault word. The copy is submitted at once; whoever wants the bytes waits for it, on
//! this thread or as a future.

use super::{Gpu, GpuBuffer, lock};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

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

/// Whether a piece has arrived, and who waits for it.
#[derive(Default)]
struct Arrival {
    state: Mutex<(Option<Result<(), String>>, Option<Waker>)>,
    told: Condvar,
}

impl Arrival {
    fn tell(&self, result: Result<(), String>) {
        let waker = {
            let mut state = lock(&self.state);
            state.0.get_or_insert(result);
            state.1.take()
        };
        self.told.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wait(&self) -> Result<(), String> {
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = &state.0 {
                return result.clone();
            }
            state = self.told.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<(), String>> {
        let mut state = lock(&self.state);
        match &state.0 {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                state.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A copy on its way.
struct Piece {
    staging: wgpu::Buffer,
    capacity: u64,
    want: u64,
    copied: u64,
    index: wgpu::SubmissionIndex,
    arrival: Arc<Arrival>,
}

/// A read that was submitted: its bytes, as a future.
pub(crate) struct Reading {
    gpu: &'static Gpu,
    pieces: Vec<Piece>,
    /// Pieces that have arrived.
    arrived: usize,
}

impl Future for Reading {
    type Output = Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(piece) = self.pieces.get(self.arrived) {
            match piece.arrival.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => self.arrived += 1,
            }
        }
        let pieces = std::mem::take(&mut self.pieces);
        self.arrived = 0;
        Poll::Ready(self.gpu.collect_pieces(pieces))
    }
}

impl Gpu {
    /// `bytes` of a buffer from byte `from` (a multiple of 16) on. `Error::Index` where the fault word was set since the last read (which
    /// clears it).
    ///
    /// # Errors
    /// `Error::DeviceLost`, `Error::OutOfMemory`, `Error::Index`.
    pub fn read_from(&self, buffer: &GpuBuffer, from: u64, bytes: usize) -> Result<Vec<u8>> {
        // Piece by piece: the staging memory is reused.
        let (mut out, mut fault) = (Vec::with_capacity(bytes), 0);
        for (at, want) in pieces(from, bytes) {
            let piece = self.start_piece(buffer, at, want)?;
            let waited = self.device.poll(wgpu::PollType::Wait { submission_index: Some(piece.index.clone()), timeout: None });
            self.alive()?;
            waited.map_err(|e| self.failed("read", e.to_string()))?;
            // Another thread's poll may be running the callback just now: it ends soon.
            let arrived = piece.arrival.wait();
            fault = self.finish_piece(piece, arrived, &mut out)?.max(fault);
        }
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        if fault != 0 { Err(self.fault_of(fault)) } else { Ok(out) }
    }

    /// The first `bytes` of a buffer.
    #[cfg(test)]
    pub fn read(&self, buffer: &GpuBuffer, bytes: usize) -> Result<Vec<u8>> {
        self.read_from(buffer, 0, bytes)
    }

    /// As [`read_from`](Gpu::read_from), submitted at once and waited for by a thread of its own, which wakes the future.
    pub fn read_async(&'static self, buffer: &GpuBuffer, from: u64, bytes: usize) -> Result<Reading> {
        let pieces = pieces(from, bytes).map(|(at, want)| self.start_piece(buffer, at, want)).collect::<Result<Vec<_>>>()?;
        let arrivals: Vec<Arc<Arrival>> = pieces.iter().map(|p| p.arrival.clone()).collect();
        let last = pieces.last().map(|p| p.index.clone());
        let wait = move || {
            let waited = self.device.poll(wgpu::PollType::Wait { submission_index: last, timeout: None });
            if let Err(e) = waited {
                arrivals.iter().for_each(|a| a.tell(Err(e.to_string())));
            }
        };
        let thread = std::thread::Builder::new().name("fornax-read".into()).spawn(wait);
        thread.map_err(|e| self.failed("read", format!("no thread to wait on: {e}")))?;
        Ok(Reading { gpu: self, pieces, arrived: 0 })
    }

    fn collect_pieces(&self, pieces: Vec<Piece>) -> Result<Vec<u8>> {
        self.alive()?;
        let (mut out, mut fault) = (Vec::new(), 0);
        for piece in pieces {
            let arrived = piece.arrival.wait();
            fault = self.finish_piece(piece, arrived, &mut out)?.max(fault);
        }
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        if fault != 0 { Err(self.fault_of(fault)) } else { Ok(out) }
    }

    /// Submits the copy of `want` bytes from byte `from` on, and of the fault word.
    fn start_piece(&self, buffer: &GpuBuffer, from: u64, want: u64) -> Result<Piece> {
        self.alive()?;
        if from + want > buffer.padded() {
            return Err(self.failed("read", format!("{want} bytes from {from} on of {buffer:?}")));
        }
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
        let arrival = Arc::<Arrival>::default();
        let told = arrival.clone();
        staging.slice(..16 + copied).map_async(wgpu::MapMode::Read, move |r| told.tell(r.map_err(|e| e.to_string())));
        Ok(Piece { staging, capacity, want, copied, index, arrival })
    }

    /// Appends a piece that has arrived to `out`; the fault word, which is cleared.
    fn finish_piece(&self, piece: Piece, arrived: Result<(), String>, out: &mut Vec<u8>) -> Result<u32> {
        arrived.map_err(|e| self.failed("read", e))?;
        let Piece { staging, capacity, want, copied, .. } = piece;
        let fault = {
            let view = staging.slice(..16 + copied).get_mapped_range().map_err(|e| self.failed("read", e.to_string()))?;
            out.extend_from_slice(&view[16..16 + want as usize]);
            u32::from_le_bytes([view[0], view[1], view[2], view[3]])
        };
        staging.unmap();
        if capacity <= CHUNK * 2 {
            let mut free = lock(&self.staging.free);
            let list = free.entry(capacity).or_default();
            if list.len() < 4 {
                list.push(staging);
            }
        }
        if fault != 0 {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            encoder.clear_buffer(&self.fault, 0, None);
            self.submit(Some(encoder.finish()));
        }
        Ok(fault)
    }
}

/// First byte and length of each piece of a read; one piece even where nothing is read, for the fault word.
fn pieces(from: u64, bytes: usize) -> impl Iterator<Item = (u64, u64)> {
    let bytes = bytes as u64;
    (0..bytes.div_ceil(CHUNK).max(1)).map(move |k| (from + k * CHUNK, (bytes - k * CHUNK).min(CHUNK)))
}
