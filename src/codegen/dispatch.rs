//! GPU work as data: what an op's `gpu` returns, and what the GPU backend encodes.

use std::borrow::Cow;

/// A buffer that a GPU step touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// Input `i` of the op: row-major from the binding's first element.
    Input(usize),
    /// Output `i` of the op.
    Output(usize),
    /// Temporary `i` of the op (see [`GpuKernel::temps`]).
    Temp(usize),
    /// A buffer of the plan, by its index (generated kernels and epilogue operands).
    Buffer(usize),
    /// The device's fault word: `atomic<u32>`, read and write. A kernel that meets an index out of range does `atomicMax` with its
    /// [`Param::Fault`].
    Fault,
}

/// A storage binding: `@group(0) @binding(k)` for the k-th of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Binding {
    pub slot: Slot,
    /// `var<storage, read_write>` rather than `var<storage, read>`.
    pub write: bool,
}

/// One word of the parameter block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Param {
    Word(u32),
    /// The word that stands for this step's op in the fault word. Of two ops that fault, the one with the larger word is told.
    Fault,
    /// Scalar `index` of the op itself, as a word of this compute dtype, filled in at each replay.
    Scalar {
        index: usize,
        dtype: crate::DType,
    },
    /// A scalar of another node of the flush (generated kernels).
    Remote {
        scalar: super::kernel::ScalarRef,
        dtype: crate::DType,
    },
}

impl From<u32> for Param {
    fn from(v: u32) -> Self {
        Param::Word(v)
    }
}
impl From<usize> for Param {
    fn from(v: usize) -> Self {
        Param::Word(v as u32)
    }
}
impl From<i32> for Param {
    fn from(v: i32) -> Self {
        Param::Word(v as u32)
    }
}
impl From<f32> for Param {
    fn from(v: f32) -> Self {
        Param::Word(v.to_bits())
    }
}

/// One compute dispatch. The shader's entry point is `main`; its storage bindings are `@group(0) @binding(0..)` in the order of
/// `bindings`, its parameters, if any, a struct of 4-byte members (or vec4s) at `@group(1) @binding(0) var<uniform>`, in the order of
/// `params`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub label: &'static str,
    /// The final WGSL text: the key of the pipeline.
    pub source: Cow<'static, str>,
    pub bindings: Vec<Binding>,
    pub params: Vec<Param>,
    /// Workgroups; each at most 65,535 (see [`grid`]).
    pub groups: [u32; 3],
    /// Floating-point operations, for the profiler (0: memory-bound).
    pub flops: u64,
}

/// A step of an op on the GPU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GpuStep {
    Dispatch(Dispatch),
    /// The same, left out where the op runs in place (output 0 is input 0's memory): copies input 0 to output 0 for ops that then change a
    /// part of it. The planner makes it a plain `Dispatch` or drops it; the backend never sees it.
    UnlessInPlace(Dispatch),
    /// Sets every byte of a buffer to zero.
    Zero(Slot),
}

/// The part of a buffer that a binding shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its first byte: a multiple of [`Caps::offset_alignment`].
    pub from: u64,
    /// Its length; 0 for all up to the end of the buffer.
    pub bytes: u64,
}

impl Window {
    /// The smallest window that shows both.
    pub fn with(&self, other: &Window) -> Window {
        let from = self.from.min(other.from);
        Window { from, bytes: (self.from + self.bytes).max(other.from + other.bytes) - from }
    }
}

impl crate::layout::Layout {
    /// The window that shows all elements, of `size` bytes each.
    pub fn window(&self, size: usize, caps: &Caps) -> Window {
        let span = |negative: bool| -> isize {
            let part = |(&d, &s): (&usize, &isize)| if (s < 0) == negative { (d as isize - 1) * s } else { 0 };
            self.shape.iter().zip(&self.strides).map(part).sum()
        };
        if self.numel() == 0 {
            return Window { from: 0, bytes: 16 };
        }
        let (low, high) = (self.offset as isize + span(true), self.offset as isize + span(false) + 1);
        let from = (low as usize * size / caps.alignment() * caps.alignment()) as u64;
        Window { from, bytes: ((high as usize * size) as u64 - from).next_multiple_of(16) }
    }
}

/// A step with the windows of its bindings (of what it clears, for `Zero`); a window that is missing shows the whole buffer.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub step: GpuStep,
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    pub windows: Vec<Window>,
}

/// What an op does on the GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GpuKernel {
    /// Sizes in bytes of temporaries, alive during this op only.
    pub temps: Vec<usize>,
    pub steps: Vec<GpuStep>,
}

/// What the adapter offers. Kernels choose their variant by it; tests try every profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caps {
    pub subgroups: bool,
    pub subgroup_min: u32,
    pub subgroup_max: u32,
    pub f16: bool,
    /// 32-bit float atomics in storage buffers.
    pub float_atomics: bool,
    pub timestamps: bool,
    pub max_bindings: u32,
    pub max_workgroup_bytes: u32,
    pub max_workgroup_invocations: u32,
    /// The largest storage binding in bytes.
    pub max_binding: u64,
    pub max_buffer: u64,
    /// Alignment in bytes of a storage binding's offset.
    pub offset_alignment: u32,
    /// The most work of a dispatch, and of a submit, as [`work`] counts it.
    pub max_work: u64,
}

/// An estimate of a dispatch's time, in operations: a byte that is bound counts as four. A slow integrated GPU does some 50 billion of them a
/// second with kernels like ours (50 GFLOP/s, 12 GB/s).
pub(crate) fn work(flops: u64, bytes: u64) -> u64 {
    flops.max(bytes.saturating_mul(4))
}

/// Half a second of work on a slow integrated GPU. A watchdog resets the device after about two.
pub(crate) const WORK: u64 = 25_000_000_000;

impl Caps {
    /// The alignment in bytes of a window.
    pub fn alignment(&self) -> usize {
        self.offset_alignment.max(16) as usize
    }

    /// WebGPU's defaults: what every adapter has.
    pub const PORTABLE: Caps = Caps {
        subgroups: false,
        subgroup_min: 0,
        subgroup_max: 0,
        f16: false,
        float_atomics: false,
        timestamps: false,
        max_bindings: 8,
        max_workgroup_bytes: 16 << 10,
        max_workgroup_invocations: 256,
        max_binding: 128 << 20,
        max_buffer: 256 << 20,
        offset_alignment: 256,
        max_work: WORK,
    };
}

/// Folds `n` workgroups into a grid within 65,535 a dimension. A shader finds its place as
/// `let group = wid.x + wid.y * num.x;` (`@builtin(workgroup_id) wid`, `@builtin(num_workgroups) num`) and returns where `group >= n`.
pub(crate) fn grid(n: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    if n <= MAX {
        return [n as u32, 1, 1];
    }
    let rows = n.div_ceil(MAX);
    [n.div_ceil(rows) as u32, rows as u32, 1]
}
