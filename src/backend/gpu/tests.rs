//! The backend by itself, on whatever adapter there is.

use super::*;
use crate::codegen::dispatch::{Binding, Dispatch, GpuStep, Param, Placed, Slot, Window};

/// The GPU to test on. Without one the test is skipped, unless `FORNAX_REQUIRE_GPU=1`.
pub(crate) fn test_gpu() -> Option<&'static Gpu> {
    match open(0, true) {
        Ok(gpu) => Some(gpu),
        Err(e) if std::env::var("FORNAX_REQUIRE_GPU").is_ok_and(|v| v == "1") => panic!("FORNAX_REQUIRE_GPU=1, and {e}"),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

const ADD: &str = "
struct Params { n: u32, by: f32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.n) { b[id.x] = a[id.x] + p.by; }
}
";

fn add(from: usize, to: usize, n: usize, by: f32) -> Placed {
    let binding = |i: usize, write| Binding { slot: Slot::Buffer(i), write };
    let step = GpuStep::Dispatch(Dispatch {
        label: "add",
        source: ADD.into(),
        bindings: vec![binding(from, false), binding(to, true)],
        params: vec![n.into(), by.into()],
        groups: [n.div_ceil(64) as u32, 1, 1],
        flops: 0,
    });
    Placed { step, windows: vec![Window::default(); 2] }
}

fn word(_: &Param) -> u32 {
    0
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
}

#[test]
fn uploads_runs_and_reads() {
    let Some(gpu) = test_gpu() else { return };
    let x: Vec<f32> = (0..1001).map(|i| i as f32).collect();
    let a = gpu.upload(bytemuck::cast_slice(&x)).unwrap();
    let b = gpu.alloc(1001 * 4).unwrap();
    // 0 → 1, 1 → 1 (in place), zero 0.
    let plan = gpu
        .compile(
            vec![
                add(0, 1, 1001, 1.0),
                add(1, 1, 1001, 0.5),
                Placed { step: GpuStep::Zero(Slot::Buffer(0)), windows: vec![] },
                add(0, 1, 1, 0.25),
            ],
            gpu.caps(),
        )
        .unwrap();
    gpu.run(&plan, &[&a, &b], &word).unwrap();
    let out = floats(&gpu.read(&b, 1001 * 4).unwrap());
    assert_eq!((out[0], out[1], out[1000]), (0.25, 2.5, 1001.5));
    assert!(gpu.read(&a, 4004).unwrap().iter().all(|&v| v == 0));
    assert_eq!(gpu.read(&b, 0).unwrap(), Vec::<u8>::new());
    let empty = gpu.upload(&[]).unwrap();
    assert_eq!(gpu.read(&empty, 0).unwrap(), Vec::<u8>::new());
    let odd = gpu.upload(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]).unwrap();
    assert_eq!(gpu.read(&odd, 17).unwrap()[12..], [13, 14, 15, 16, 17]);
    let copy = gpu.alloc(17).unwrap();
    gpu.copy(&odd, &copy).unwrap();
    assert_eq!(gpu.read(&copy, 17).unwrap()[16], 17);
}

#[test]
fn replays_change_parameters_and_threads_do_not_mix_them() {
    let Some(gpu) = test_gpu() else { return };
    let mut placed = add(0, 1, 4, 0.0);
    if let GpuStep::Dispatch(d) = &mut placed.step {
        let scalar = crate::codegen::kernel::ScalarRef { entry: 0, index: 0 };
        d.params[1] = Param::Remote { scalar, dtype: crate::DType::F32 };
    }
    let plan = gpu.compile(vec![placed], gpu.caps()).unwrap();
    std::thread::scope(|s| {
        for t in 0..4 {
            let plan = &plan;
            s.spawn(move || {
                for i in 0..50 {
                    let a = gpu.upload(bytemuck::cast_slice(&[i as f32; 4])).unwrap();
                    let b = gpu.alloc(16).unwrap();
                    gpu.run(plan, &[&a, &b], &|_| (t as f32 * 1000.0).to_bits()).unwrap();
                    drop(a);
                    assert_eq!(floats(&gpu.read(&b, 16).unwrap()), [i as f32 + t as f32 * 1000.0; 4]);
                }
            });
        }
    });
}

#[test]
fn faults_are_reported_once() {
    let Some(_) = test_gpu() else { return };
    let gpu = adapter::open_private().unwrap();
    let source = "@group(0) @binding(0) var<storage, read_write> fault: array<atomic<u32>>;
@compute @workgroup_size(1) fn main() { atomicMax(&fault[0], 1u); }";
    let step = GpuStep::Dispatch(Dispatch {
        label: "fault",
        source: source.into(),
        bindings: vec![Binding { slot: Slot::Fault, write: true }],
        params: vec![],
        groups: [1, 1, 1],
        flops: 0,
    });
    let plan = gpu.compile(vec![Placed { step, windows: vec![] }], gpu.caps()).unwrap();
    let b = gpu.upload(&[7; 16]).unwrap();
    gpu.run(&plan, &[], &word).unwrap();
    assert!(matches!(gpu.read(&b, 16), Err(Error::Index { .. })));
    assert_eq!(gpu.read(&b, 16).unwrap(), [7; 16]);
}

#[test]
fn errors_say_what_is_wrong() {
    let Some(gpu) = test_gpu() else { return };
    let mut bad = add(0, 1, 4, 0.0);
    if let GpuStep::Dispatch(d) = &mut bad.step {
        d.source = "fn main( {".into();
    }
    assert!(matches!(gpu.compile(vec![bad], gpu.caps()), Err(Error::Kernel { op, .. }) if op == "add"));
    let huge = gpu.alloc(usize::MAX / 4).unwrap_err();
    assert!(huge.to_string().contains("at most"), "{huge}");
    assert!(matches!(open(99, true), Err(Error::Device { .. })));
}

#[test]
fn the_pool_gives_memory_back() {
    let Some(_) = test_gpu() else { return };
    let gpu = adapter::open_private().unwrap();
    let size = (5 << 20) + 777;
    let id = gpu.alloc(size).unwrap().id();
    assert_eq!(gpu.alloc(size - 500).unwrap().id(), id);
    // Pooled memory of another size makes room before a request fails.
    gpu.set_memory_limit(8 << 20);
    let b = gpu.alloc(7 << 20).unwrap();
    assert_eq!((gpu.stats().pooled, gpu.stats().in_use), (0, 7 << 20));
    assert!(matches!(gpu.alloc(2 << 20), Err(Error::OutOfMemory { .. })));
    drop(b);
    gpu.alloc(2 << 20).unwrap();
}

#[test]
fn a_lost_device_stays_lost() {
    let Some(_) = test_gpu() else { return };
    let gpu = adapter::open_private().unwrap();
    let a = gpu.upload(&[1; 16]).unwrap();
    let plan = gpu.compile(vec![add(0, 0, 4, 1.0)], gpu.caps()).unwrap();
    gpu.device.destroy();
    let _ = gpu.wait();
    let lost = |r: Result<()>| assert!(matches!(r, Err(Error::DeviceLost { .. })), "{r:?}");
    lost(gpu.run(&plan, &[&a], &word));
    lost(gpu.read(&a, 16).map(drop));
    lost(gpu.alloc(16).map(drop));
    lost(gpu.upload(&[1]).map(drop));
    lost(gpu.compile(vec![add(0, 1, 4, 1.0)], gpu.caps()).map(drop));
}

#[test]
fn bools_are_words() {
    use crate::DType;
    assert_eq!(to_gpu_bytes(DType::Bool, &[1, 0, 1])[..], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(from_gpu_bytes(DType::Bool, vec![0, 0, 0, 0, 1, 0, 0, 0]), [0, 1]);
}
