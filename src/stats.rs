//! Counters of what the runtime did.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the runtime has done since the process started, and what memory it holds: a snapshot.
        ///
        /// ```
        /// use fornax::{Device, Tensor};
        /// let before = fornax::stats();
        /// let x = Tensor::ones(1000, Device::cpu());
        /// (&x * 2.0 + 1.0).exp().eval()?;
        /// assert_eq!(fornax::stats().since(&before).dispatches, 1);
        /// # Ok::<(), fornax::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Bytes that live CPU buffers hold.
            pub cpu_bytes: u64,
            /// The most bytes that live CPU buffers held since [`reset_peak`](crate::reset_peak).
            pub cpu_peak_bytes: u64,
            /// Bytes that the CPU pool keeps for reuse.
            pub cpu_pooled_bytes: u64,
            /// Bytes that live GPU buffers hold, over all GPUs in use.
            pub gpu_bytes: u64,
            /// The most bytes that they held since [`reset_peak`](crate::reset_peak).
            pub gpu_peak_bytes: u64,
            /// Bytes that the GPU pools keep for reuse.
            pub gpu_pooled_bytes: u64,
        }

        /// Counters of one kind each.
        #[repr(C)]
        pub(crate) struct Counters { $(pub $name: AtomicU64,)* }

        /// The process's counters.
        pub(crate) static COUNTERS: Counters = Counters { $($name: AtomicU64::new(0),)* };

        /// What this thread has counted: other tests run beside.
        #[cfg(test)]
        pub(crate) fn thread_stats() -> Stats {
            $(let $name = LOCAL.with_borrow(|l| l.get(&std::ptr::from_ref(&COUNTERS.$name).addr()).copied().unwrap_or(0));)*
            Stats { $($name,)* ..Stats::default() }
        }

        /// The counters now.
        ///
        /// ```
        /// use fornax::{Device, Tensor, stats};
        /// let x = Tensor::ones(100, Device::cpu());
        /// x.eval()?;
        /// assert!(stats().cpu_bytes >= 400);
        /// # Ok::<(), fornax::Error>(())
        /// ```
        pub fn stats() -> Stats {
            let (used, peak, pooled) = crate::backend::cpu::memory::usage();
            #[allow(unused_mut)]
            let mut stats = Stats {
                $($name: COUNTERS.$name.load(Ordering::Relaxed),)*
                cpu_bytes: used as u64,
                cpu_peak_bytes: peak as u64,
                cpu_pooled_bytes: pooled as u64,
                gpu_bytes: 0,
                gpu_peak_bytes: 0,
                gpu_pooled_bytes: 0,
            };
            #[cfg(feature = "wgpu")]
            for gpu in crate::backend::gpu::opened() {
                let g = gpu.stats();
                stats.dispatches += g.dispatches;
                stats.submits += g.submits;
                stats.gpu_bytes += g.in_use;
                stats.gpu_peak_bytes += g.peak;
                stats.gpu_pooled_bytes += g.pooled;
            }
            stats
        }

        impl Stats {
            /// What was counted after `earlier` (memory figures are taken as they are now).
            ///
            /// ```
            /// let before = fornax::stats();
            /// let x = fornax::Tensor::ones(3, fornax::Device::cpu());
            /// assert!(fornax::stats().since(&before).recorded >= 1);
            /// ```
            pub fn since(&self, earlier: &Stats) -> Stats {
                Stats { $($name: self.$name - earlier.$name,)* ..*self }
            }
        }
    };
}

counters! {
    /// Ops recorded.
    recorded,
    /// Flushes that ran something.
    flushes,
    /// Flushes whose plan was found in the cache.
    plan_hits,
    /// Flushes whose plan had to be made.
    plan_misses,
    /// Kernels run: a fused chain, a reduction, a product counts one. On the GPU, compute dispatches.
    dispatches,
    /// Command buffers submitted to a GPU.
    submits,
    /// Bytes of buffers that plans took from the pools.
    bytes_allocated,
    /// Outputs that were written over an input that nobody needs any more.
    donations,
    /// Owners' updates whose old value still had a reader, so that the new one needed memory of its own.
    donations_refused,
    /// Reads back to the host.
    reads,
}

#[cfg(test)]
thread_local! {
    static LOCAL: std::cell::RefCell<std::collections::HashMap<usize, u64>> = std::cell::RefCell::default();
}

/// Adds to a counter.
pub(crate) fn count(counter: &'static AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
    #[cfg(test)]
    LOCAL.with_borrow_mut(|l| *l.entry(std::ptr::from_ref(counter).addr()).or_insert(0) += n);
}

/// Starts a new measurement of peak memory.
///
/// ```
/// use fornax::{Device, Tensor};
/// fornax::reset_peak();
/// Tensor::ones(1000, Device::cpu()).eval()?;
/// assert!(fornax::stats().cpu_peak_bytes >= 4000);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn reset_peak() {
    crate::backend::cpu::memory::reset_peak();
    #[cfg(feature = "wgpu")]
    crate::backend::gpu::opened().for_each(|g| g.reset_peak());
}

/// Gives pooled memory back to the system.
///
/// ```
/// fornax::trim();
/// println!("{} bytes are kept for reuse", fornax::stats().cpu_pooled_bytes);
/// ```
pub fn trim() {
    crate::backend::cpu::memory::trim();
    #[cfg(feature = "wgpu")]
    crate::backend::gpu::opened().for_each(|g| g.trim());
}
