//! What the unit tests of kernel ops share: calling a CPU kernel on plain vectors, and checking the shaders of its GPU form.

use crate::backend::Storage;
use crate::backend::cpu::memory::CpuBuffer;
use crate::backend::cpu::{Arg, CpuCtx};
use crate::codegen::dispatch::{Caps, GpuStep};
use crate::graph::{GpuCtx, Meta, Node, Op};
use crate::layout::Layout;
use crate::{DType, Device, Tensor};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Reproducible numbers between -1 and 1.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    for _ in 0..8 {
        next();
    }
    (0..n).map(|_| next()).collect()
}

/// Panics where two lists differ by more than `tolerance`, relative to their size.
pub(crate) fn close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * (1.0 + e.abs()) || (g.is_nan() && e.is_nan()), "{what}: element {i} is {g}, not {e}");
    }
}

/// Output 0 of an op's CPU kernel.
pub(crate) fn cpu<T: bytemuck::Pod>(op: &dyn Op, inputs: &[(&[T], &Layout)], dtype: DType) -> Vec<T> {
    let inputs: Vec<_> = inputs.iter().map(|&(v, l)| (bytemuck::cast_slice(v), l, dtype)).collect();
    run(op, &inputs)
}

/// The same for an op over f64 whose second input is an index.
pub(crate) fn cpu_indexed(op: &dyn Op, x: (&[f64], &Layout), index: (&[i32], &Layout)) -> Vec<f64> {
    run(op, &[(bytemuck::cast_slice(x.0), x.1, DType::F64), (bytemuck::cast_slice(index.0), index.1, DType::I32)])
}

/// The same for inputs of several dtypes, as bytes.
pub(crate) fn run_mixed<T: bytemuck::Pod>(op: &dyn Op, inputs: &[(&[u8], &Layout, DType)]) -> Vec<T> {
    run(op, inputs)
}

fn run<T: bytemuck::Pod>(op: &dyn Op, inputs: &[(&[u8], &Layout, DType)]) -> Vec<T> {
    let buffers: Vec<CpuBuffer> = inputs.iter().map(|(bytes, ..)| CpuBuffer::from_bytes(bytes).unwrap()).collect();
    let metas: Vec<Meta> = inputs.iter().map(|&(_, l, dtype)| Meta { dtype, layout: l.clone() }).collect();
    let outs = op.infer(&metas.iter().collect::<Vec<_>>()).unwrap();
    let memory: Vec<CpuBuffer> = outs.iter().map(|o| CpuBuffer::new(o.layout.numel() * o.dtype.size()).unwrap()).collect();
    // What was left in the memory must not matter.
    memory.iter().for_each(|m| unsafe { m.slice_mut::<u8>() }.fill(0xff));
    let inputs: Vec<Arg> = metas.iter().zip(&buffers).map(|(m, buffer)| Arg { buffer, layout: &m.layout, dtype: m.dtype }).collect();
    let outputs: Vec<Arg> = outs.iter().zip(&memory).map(|(o, buffer)| Arg { buffer, layout: &o.layout, dtype: o.dtype }).collect();
    let fault = AtomicU32::new(0);
    let ctx = CpuCtx { op: op.name(), inputs: &inputs, outputs: &outputs, scalars: op.scalars(), fault: &fault };
    op.cpu(&ctx).unwrap();
    ctx.output::<T>(0).to_vec()
}

impl Tensor {
    /// A tensor of this shape without a value, for shape rules.
    pub(crate) fn test_leaf(meta: Meta) -> Tensor {
        let storage = Storage::Cpu(CpuBuffer::new(meta.layout.numel() * meta.dtype.size()).unwrap());
        Node::leaf(Device::cpu(), meta, Arc::new(storage), false)
    }
}

/// Parses and validates every shader of the op's GPU form for these inputs.
pub(crate) fn validate(op: &dyn Op, inputs: &[Meta]) {
    let outputs = op.infer(&inputs.iter().collect::<Vec<_>>()).unwrap();
    let ctx = GpuCtx { inputs, outputs: &outputs, caps: &Caps::PORTABLE, epilogue: None };
    for step in op.gpu(&ctx).unwrap().steps {
        let GpuStep::Dispatch(d) = step else { continue };
        assert!(d.bindings.len() <= 8 && d.groups.iter().all(|&g| (1..=65_535).contains(&g)), "{}: {:?}", d.label, d.groups);
        let module = naga::front::wgsl::parse_str(&d.source).unwrap_or_else(|e| panic!("{}: {}", d.label, e.emit_to_string(&d.source)));
        let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all()).validate(&module);
        info.unwrap_or_else(|e| panic!("{}: {}", d.label, e.emit_to_string(&d.source)));
        let params = module.global_variables.iter().find(|(_, v)| v.space == naga::AddressSpace::Uniform);
        if let Some((_, v)) = params {
            let size = module.types[v.ty].inner.size(module.to_ctx()) as usize;
            assert_eq!(size, d.params.len() * 4, "{}: the parameters", d.label);
        }
        let storage = module.global_variables.iter().filter(|(_, v)| matches!(v.space, naga::AddressSpace::Storage { .. })).count();
        assert_eq!(storage, d.bindings.len(), "{}: the bindings", d.label);
    }
}
