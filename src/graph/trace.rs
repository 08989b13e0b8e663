//! Dumps: what was claimed and what a plan does, as text. `FORNAX_DUMP=dir` writes one file a plan; the GPU backend adds the shaders.

use super::claim::{Claim, Ref};
use super::plan::{Plan, Source, Step, Work};
use crate::codegen::kernel::Operand;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The claimed nodes, one a line: `12 k matmul(3, leaf 0) -> f32 [64, 10]`; `k` marks what is kept.
pub(super) fn claim(claim: &Claim) -> String {
    let mut s = String::new();
    let name = |r: &Ref| match *r {
        Ref::Entry(i, 0) => format!("{i}"),
        Ref::Entry(i, out) => format!("{i}.{out}"),
        Ref::Leaf(i, out) => format!("leaf {i}.{out}"),
    };
    for (i, l) in claim.leaves.iter().enumerate() {
        let outs: Vec<String> = l.node.outs.iter().map(|m| format!("{} {}", m.dtype, m.layout.shape)).collect();
        writeln!(s, "leaf {i}{} {}", if l.donated { " (donated)" } else { "" }, outs.join(", ")).unwrap_or_default();
    }
    for (i, e) in claim.entries.iter().enumerate() {
        let inputs: Vec<String> = e.inputs.iter().map(name).collect();
        let outs: Vec<String> = e.node.outs.iter().map(|m| format!("{} {}", m.dtype, m.layout.shape)).collect();
        let keep = if e.keep { "k" } else { " " };
        writeln!(s, "{i} {keep} {}({}) -> {}", e.op.name(), inputs.join(", "), outs.join(", ")).unwrap_or_default();
    }
    s
}

fn operands(list: &[Operand]) -> String {
    let one = |o: &Operand| match o.buffer {
        Some(b) => format!("b{b}:{}{:?}+{}", o.dtype, &o.strides[..], o.offset),
        None => format!("index{:?}+{}", &o.strides[..], o.offset),
    };
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// One step, on a line; generated programs follow indented.
pub(super) fn step(claim: &Claim, step: &Step) -> String {
    let mut s = String::new();
    let program = |s: &mut String, p: &crate::codegen::program::Program| {
        for (i, instr) in p.instrs.iter().enumerate() {
            writeln!(s, "    r{i} = {instr:?}").unwrap_or_default();
        }
    };
    match &step.work {
        Work::Fused(k) => {
            writeln!(s, "fused {} reads {} writes {:?}", k.shape, operands(&k.operands), k.outputs).unwrap_or_default();
            program(&mut s, &k.program);
        }
        Work::Reduce(k) => {
            writeln!(s, "{:?} {} over {:?} reads {} writes [{}]", k.kind, k.shape, k.reduced, operands(&k.operands), k.output)
                .unwrap_or_default();
            program(&mut s, &k.program);
        }
        Work::Op { entry, inputs, outputs, epilogue, in_place } => {
            let ports = |l: &[super::plan::Port]| l.iter().map(|p| format!("b{}", p.buffer)).collect::<Vec<_>>().join(" ");
            let name = claim.entries[*entry].op.name();
            let how = if *in_place { " in place" } else { "" };
            writeln!(s, "{name} (entry {entry}){how} reads {} writes {}", ports(inputs), ports(outputs)).unwrap_or_default();
            if let Some(e) = epilogue {
                writeln!(s, "  epilogue {} reads {}", e.shape, operands(&e.operands)).unwrap_or_default();
                program(&mut s, &e.program);
            }
        }
    }
    s
}

fn folder() -> Option<&'static Path> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIR.get_or_init(|| std::env::var_os("FORNAX_DUMP").filter(|d| !d.is_empty()).map(PathBuf::from)).as_deref()
}

/// Writes a new plan where `FORNAX_DUMP` says; a folder that cannot be written is told once on stderr and stops nothing.
pub(super) fn dump(c: &Claim, plan: &Plan) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let Some(dir) = folder() else { return };
    let mut s = claim(c);
    for (i, b) in plan.buffers.iter().enumerate() {
        match b {
            Source::Leaf(l, out) => writeln!(s, "b{i} = leaf {l}.{out}"),
            Source::Fresh(bytes) => writeln!(s, "b{i} = {bytes} bytes"),
            Source::Arena(start) => writeln!(s, "b{i} at byte {start} of the arena of {}", plan.arena),
        }
        .unwrap_or_default();
    }
    plan.steps.iter().for_each(|t| s.push_str(&step(c, t)));
    let n = NUMBER.fetch_add(1, Ordering::Relaxed);
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(format!("plan-{n:04}.txt")), s));
    if let Err(e) = written
        && n == 0
    {
        eprintln!("fornax: FORNAX_DUMP={}: {e}", dir.display());
    }
}
