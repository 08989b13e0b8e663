//! Every row of the pointwise table on the GPU against the CPU, on ordinary and on hard arguments.

use super::dispatch::{GpuStep, Placed};
use super::kernel::{Fused, Operand};
use super::program::{Instr, Program};
use super::wgsl_fused::fused;
use super::wgsl_tests::{from_bytes, on_gpu::run, same, to_bytes, validate};
use crate::backend::cpu::memory::CpuBuffer;
use crate::backend::gpu::{from_gpu_bytes, test_gpu, to_gpu_bytes};
use crate::ops::pointwise::{Row, Rule, rows};
use crate::{DType, Shape};
use smallvec::smallvec;

/// Arguments: the row's domain, then every pair of hard values.
fn arguments(row: &Row, dtype: DType, n: usize) -> Vec<Vec<f64>> {
    let hard: Vec<f64> = match dtype {
        DType::F32 => {
            vec![0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 0.25, -7.25, 20.0, -20.0, 90.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]
        }
        DType::I32 => vec![0.0, 1.0, -1.0, 2.0, -7.0, 5.0, 31.0, 100.0, i32::MAX as f64, i32::MIN as f64],
        DType::U32 => vec![0.0, 1.0, 2.0, 7.0, 31.0, 100.0, u32::MAX as f64],
        DType::U8 => vec![0.0, 1.0, 2.0, 7.0, 100.0, 255.0],
        _ => vec![0.0, 1.0],
    };
    (0..row.domain.len())
        .map(|a| {
            let (lo, hi) = row.domain[a];
            let first = a == 0 && row.rule == Rule::Select;
            (0..n)
                .map(|i| {
                    if first {
                        return (i % 3 == 0) as u8 as f64;
                    }
                    let easy = lo + (hi - lo) * ((i * (7 + 4 * a) + 3) % 100) as f64 / 100.0;
                    let v = if i < 100 { easy } else { hard[(i - 100) / hard.len().pow(a as u32) % hard.len()] };
                    match dtype {
                        DType::F32 => v as f32 as f64,
                        DType::I32 => v as i32 as f64,
                        DType::U32 => v.abs() as u32 as f64,
                        DType::U8 => v.abs() as u8 as f64,
                        _ => (v != 0.0) as u8 as f64,
                    }
                })
                .collect()
        })
        .collect()
}

#[test]
fn the_table_agrees_on_both_backends() {
    let Some(gpu) = test_gpu() else { return };
    let mut cases = 0;
    let mut wrong = Vec::new();
    for row in rows() {
        for dtype in row.dtypes().filter(|d| d.on_gpu()) {
            if (row.def.wgsl)(dtype).is_none() {
                wrong.push(format!("{}: no GPU code for {dtype}", row.def.name));
                continue;
            }
            let n = 100 + 225;
            let args = arguments(row, dtype, n);
            let of = |a: usize| if a == 0 && row.rule == Rule::Select { DType::Bool } else { dtype };
            let out = match row.rule {
                Rule::Compare | Rule::Logical => DType::Bool,
                _ => dtype,
            };
            let mut program = Program::default();
            for a in 0..args.len() {
                program.push(Instr::Load(a as u16));
            }
            let y = program.push(Instr::Apply { def: &row.def, args: (0..args.len() as u16).collect(), dtype, out });
            program.stores = vec![(y, out)];
            let operands = (0..args.len()).map(|a| Operand { buffer: Some(a), dtype: of(a), strides: smallvec![1], offset: 0 }).collect();
            let k = Fused { shape: Shape::from(n), program, operands, scalars: vec![], outputs: vec![args.len()] };

            let host = |a: usize| from_gpu_bytes(of(a), to_bytes(of(a), &args[a]));
            let mut cpu: Vec<CpuBuffer> = (0..args.len()).map(|a| CpuBuffer::from_bytes(&host(a)).unwrap()).collect();
            cpu.push(CpuBuffer::new(n * out.size()).unwrap());
            crate::backend::cpu::fused(&k, &cpu.iter().collect::<Vec<_>>(), &[]);
            // SAFETY: nothing writes it now.
            let want = from_bytes(out, &to_gpu_bytes(out, &unsafe { cpu[args.len()].slice::<u8>() }[..n * out.size()]));

            let d = fused(&k, gpu.caps()).unwrap();
            validate(&d);
            let mut buffers: Vec<_> = (0..args.len()).map(|a| gpu.upload(&to_gpu_bytes(of(a), &host(a))).unwrap()).collect();
            buffers.push(gpu.alloc(n * out.gpu_size()).unwrap());
            run(gpu, vec![Placed { step: GpuStep::Dispatch(d), windows: vec![] }], &buffers.iter().collect::<Vec<_>>());
            let got = from_bytes(out, &gpu.read(&buffers[args.len()], n * out.gpu_size()).unwrap());
            for i in 0..n {
                let tolerance = if out == DType::F32 { 1e-5 * want[i].abs().max(0.1) } else { 0.0 };
                if !same(got[i], want[i]) && !((got[i] - want[i]).abs() <= tolerance) {
                    let at: Vec<f64> = args.iter().map(|a| a[i]).collect();
                    wrong.push(format!("{}({at:?}) as {dtype} is {} on the GPU, {} on the CPU", row.def.name, got[i], want[i]));
                }
            }
            cases += 1;
        }
    }
    println!("{cases} rows and dtypes");
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 100);
}
