//! What all generated shaders share: bindings, parameters, operand loads, stores, and the program as a WGSL function.

use super::dispatch::{Binding, Param, Slot};
use super::kernel::{Operand, ScalarRef};
use super::program::{Instr, Program, Reg};
use crate::{DType, Error, Result};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Mutex;

/// The WGSL type of a register.
pub(super) fn type_of(dtype: DType) -> Result<&'static str> {
    Ok(match dtype.compute() {
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::U32 | DType::U8 => "u32",
        DType::Bool => "bool",
        other => return Err(failed(format!("{other} does not exist on a GPU"))),
    })
}

pub(super) fn failed(message: String) -> Error {
    Error::Kernel { op: "codegen".into(), message }
}

/// A name for the profiler: what the kernel is and the functions it applies. Kept for the process's life, once for each name.
pub(crate) fn label(what: &str, program: &Program) -> &'static str {
    const MOST: usize = 8;
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut name = what.to_string();
    let mut names = program.instrs.iter().filter_map(|i| if let Instr::Apply { def, .. } = i { Some(def.name) } else { None });
    for def in names.by_ref().take(MOST) {
        name.push(' ');
        name.push_str(def);
    }
    let more = names.count();
    if more > 0 {
        let _ = write!(name, " +{more}");
    }
    let mut known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(found) = known.get(&*name) {
        return found;
    }
    let kept: &'static str = Box::leak(name.into_boxed_str());
    known.insert(kept);
    kept
}

/// How an operand moves over a collapsed iteration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Row-major: the linear index is the position.
    Linear,
    /// One element for all.
    Scalar,
    Strided,
}

/// The classes of a stride: they change the text, other values are parameters.
#[derive(Clone, Debug, PartialEq)]
enum Stride {
    Zero,
    One,
    Param(String),
}

/// An operand that the program reads.
pub(super) struct Access {
    /// Its number among the program's operands.
    pub k: usize,
    pub dtype: DType,
    pub walk: Walk,
    /// `None` for an operand that only gives its position.
    pub binding: Option<usize>,
    /// Four neighbours along the innermost dimension are loaded as whole words.
    pub vector: bool,
    offset: String,
    strides: Vec<Stride>,
}

/// A shader under construction.
#[derive(Default)]
pub(super) struct Builder {
    /// Stands in front of every name, so that hand-written kernels can include generated code.
    pub prefix: &'static str,
    pub first_binding: usize,
    /// The operand, if any, whose value the caller of `fx_program` has at hand.
    pub given: Option<usize>,
    /// The operands' buffers are the op's temporaries.
    pub temps: bool,
    /// Every load is of one element.
    pub elements_only: bool,
    pub fields: String,
    pub params: Vec<Param>,
    pub bindings: Vec<Binding>,
    /// Words in the array element of each binding: 1, 2 or 4.
    pub widths: Vec<u8>,
    pub scalars: Vec<String>,
    /// A parameter that is 0, which no compiler knows.
    pub zero: Option<String>,
}

/// Words in four elements: what one vector load takes.
fn natural_width(dtype: DType) -> u8 {
    dtype.gpu_size() as u8
}

const LANES: [&str; 4] = ["x", "y", "z", "w"];

impl Builder {
    /// Adds a parameter and returns the expression that reads it.
    pub fn field(&mut self, name: impl AsRef<str>, ty: &str, value: impl Into<Param>) -> String {
        let name = format!("{}{}", self.prefix, name.as_ref());
        // Writing to a String cannot fail.
        let _ = write!(self.fields, "{name}: {ty}, ");
        self.params.push(value.into());
        format!("p.{name}")
    }

    /// The binding of a slot: one, however often it is asked for.
    pub fn bind(&mut self, slot: Slot, write: bool) -> usize {
        if let Some(b) = self.bindings.iter().position(|b| b.slot == slot) {
            self.bindings[b].write |= write;
            return b;
        }
        self.bindings.push(Binding { slot, write });
        self.widths.push(1);
        self.bindings.len() - 1
    }

    /// Wants the binding as an array of four elements of this dtype.
    pub fn widen(&mut self, binding: usize, dtype: DType) {
        self.widths[binding] = self.widths[binding].max(natural_width(dtype).min(4));
    }

    /// Whether four elements of this dtype are one element of the binding's array.
    pub fn is_vector(&self, binding: usize, dtype: DType) -> bool {
        self.widths[binding] == natural_width(dtype)
    }

    fn name(&self, binding: usize) -> String {
        format!("{}b{}", self.prefix, binding)
    }

    /// The storage declarations.
    pub fn declarations(&self) -> String {
        let mut out = String::new();
        for (b, (binding, width)) in self.bindings.iter().zip(&self.widths).enumerate() {
            let ty = ["u32", "vec2<u32>", "", "vec4<u32>"][*width as usize - 1];
            let access = if binding.write { "read_write" } else { "read" };
            let at = b + self.first_binding;
            let _ = writeln!(out, "@group(0) @binding({at}) var<storage, {access}> {}: array<{ty}>;", self.name(b));
        }
        out
    }

    /// The accesses of a program's operands over a collapsed shape. `base` gives the first element of each binding's window (in elements
    /// of the operand). `linear` allows [`Walk::Linear`]; `quads` says that the kernel walks in steps of four along the innermost
    /// dimension, whose size is a multiple of four.
    pub fn accesses(
        &mut self,
        program: &Program,
        shape: &[usize],
        operands: &[Operand],
        base: &dyn Fn(&Operand) -> usize,
        start: usize,
        linear: bool,
        quads: bool,
    ) -> Result<Vec<Access>> {
        let dense = crate::layout::row_major(shape);
        let mut out = Vec::new();
        for (k, o) in operands.iter().enumerate() {
            let used = program.instrs.iter().find_map(|i| match i {
                Instr::Load(n) if *n as usize == k => Some(true),
                Instr::Index(n) if *n as usize == k => Some(false),
                _ => None,
            });
            let Some(load) = used.filter(|_| self.given != Some(k)) else { continue };
            let moves = |d: usize| shape[d] != 1 && o.strides[d] != 0;
            let walk = if !(0..shape.len()).any(moves) {
                Walk::Scalar
            } else if linear && (0..shape.len()).all(|d| shape[d] == 1 || o.strides[d] == dense[d]) {
                Walk::Linear
            } else {
                Walk::Strided
            };
            let binding = match (load, o.buffer) {
                (false, _) => None,
                (true, Some(b)) => Some(self.bind(if self.temps { Slot::Temp(b) } else { Slot::Buffer(b) }, false)),
                (true, None) => return Err(failed(format!("operand {k} is loaded and has no buffer"))),
            };
            // It may be below zero: positions wrap, and the coordinates bring them back.
            let shift = if walk == Walk::Linear { start } else { 0 };
            let origin = (o.offset + shift) as isize - if binding.is_some() { base(o) as isize } else { 0 };
            let offset = self.field(format!("o{k}"), "u32", Param::Word(origin as u32));
            let mut strides = Vec::new();
            for d in 0..shape.len() {
                strides.push(match o.strides[d] {
                    _ if walk != Walk::Strided || !moves(d) => Stride::Zero,
                    1 => Stride::One,
                    s => Stride::Param(self.field(format!("s{k}_{d}"), "u32", s as i32)),
                });
            }
            let last = shape.len() - 1;
            let aligned = origin % 4 == 0
                && !self.elements_only
                && match walk {
                    Walk::Linear => true,
                    Walk::Scalar => false,
                    Walk::Strided => quads && strides[last] == Stride::One && (0..last).all(|d| !moves(d) || o.strides[d] % 4 == 0),
                };
            if let (Some(b), true) = (binding, aligned) {
                self.widen(b, o.dtype);
            }
            type_of(o.dtype)?;
            out.push(Access { k, dtype: o.dtype, walk, binding, vector: aligned, offset, strides });
        }
        Ok(out)
    }

    /// Adds the program's scalars to the parameters, and the zero where [`hidden`](Builder::hidden) needs it.
    pub fn add_scalars(&mut self, program: &Program, refs: &[ScalarRef]) -> Result<()> {
        if program.instrs.iter().any(|i| repeated(i).is_some()) {
            self.zero = Some(self.field("zero", "u32", 0usize));
        }
        for (i, (&dtype, &scalar)) in program.scalars.iter().zip(refs).enumerate() {
            let ty = type_of(dtype)?;
            let field = self.field(format!("v{i}"), if ty == "bool" { "u32" } else { ty }, Param::Remote { scalar, dtype });
            self.scalars.push(if ty == "bool" { format!("({field} != 0u)") } else { field });
        }
        if refs.len() < program.scalars.len() {
            return Err(failed("a scalar of the program has no source".into()));
        }
        Ok(())
    }

    /// Word `index` (an expression) of a binding.
    pub fn word(&self, binding: usize, index: &str) -> String {
        let name = self.name(binding);
        match self.widths[binding] {
            4 => format!("{name}[({index}) >> 2u][({index}) & 3u]"),
            2 => format!("{name}[({index}) >> 1u][({index}) & 1u]"),
            _ => format!("{name}[{index}]"),
        }
    }

    /// The element at position `e` (the name of a variable), as its compute type.
    pub fn element(&self, a: &Access, e: &str) -> String {
        let Some(b) = a.binding else { return e.to_string() };
        match a.dtype {
            DType::F16 => format!("unpack2x16float({})[{e} & 1u]", self.word(b, &format!("{e} >> 1u"))),
            DType::BF16 => format!("bitcast<f32>(({} >> (({e} & 1u) * 16u)) << 16u)", self.word(b, &format!("{e} >> 1u"))),
            DType::U8 => format!("(({} >> (({e} & 3u) * 8u)) & 255u)", self.word(b, &format!("{e} >> 2u"))),
            d => from_word(d, &self.word(b, e)),
        }
    }

    /// Loads the four elements from position `e` (a variable, a multiple of four) on into `x{k}_0` to `x{k}_3`.
    pub fn vector(&self, out: &mut String, a: &Access, e: &str) {
        let (k, pre) = (a.k, self.prefix);
        let Some(b) = a.binding.filter(|&b| self.is_vector(b, a.dtype)) else {
            for j in 0..4 {
                let _ = writeln!(out, "    let {pre}e{k}_{j} = {e} + {j}u;");
                let _ = writeln!(out, "    let {pre}x{k}_{j} = {};", self.element(a, &format!("{pre}e{k}_{j}")));
            }
            return;
        };
        let _ = writeln!(out, "    let {pre}w{k} = {}[{e} >> 2u];", self.name(b));
        for j in 0..4 {
            let value = match a.dtype {
                DType::F16 => format!("unpack2x16float({pre}w{k}.{}).{}", LANES[j / 2], LANES[j % 2]),
                DType::BF16 if j % 2 == 0 => format!("bitcast<f32>({pre}w{k}.{} << 16u)", LANES[j / 2]),
                DType::BF16 => format!("bitcast<f32>({pre}w{k}.{} & 0xffff0000u)", LANES[j / 2]),
                DType::U8 => format!("(({pre}w{k} >> {}u) & 255u)", j * 8),
                d => from_word(d, &format!("{pre}w{k}.{}", LANES[j])),
            };
            let _ = writeln!(out, "    let {pre}x{k}_{j} = {value};");
        }
    }

    /// Stores `y{i}_0` to `y{i}_3` (of the register type of `dtype`) at element `at`, a multiple of four.
    pub fn store(&self, out: &mut String, binding: usize, dtype: DType, at: &str, y: &dyn Fn(usize) -> String) -> Result<()> {
        if !self.is_vector(binding, dtype) {
            return Err(failed("a buffer is written in place with elements of another size".into()));
        }
        let value = match dtype {
            DType::F16 => format!("vec2<u32>(fx_pack_f16({}, {}), fx_pack_f16({}, {}))", y(0), y(1), y(2), y(3)),
            DType::BF16 => format!("vec2<u32>(fx_pack_bf16({}, {}), fx_pack_bf16({}, {}))", y(0), y(1), y(2), y(3)),
            DType::U8 => {
                format!("({} & 255u) | (({} & 255u) << 8u) | (({} & 255u) << 16u) | ({} << 24u)", y(0), y(1), y(2), y(3))
            }
            d => format!("vec4<u32>({}, {}, {}, {})", to_word(d, &y(0)), to_word(d, &y(1)), to_word(d, &y(2)), to_word(d, &y(3))),
        };
        let _ = writeln!(out, "    {}[{at} >> 2u] = {value};", self.name(binding));
        Ok(())
    }

    /// A register under another name that compilers cannot tell to be the same value: they fold `x - x` to 0 and `x / x` to 1, whatever x is.
    fn hidden(&self, reg: Reg) -> String {
        let zero = self.zero.as_deref().unwrap_or("0u");
        format!("bitcast<f32>(bitcast<u32>(r{reg}) ^ {zero})")
    }

    /// The program as a function `fx_program` of the loaded elements and positions; returns a struct `FxOut` of its stores `y0`, `y1`, ….
    /// Puts in front what it needs.
    pub fn program(&self, program: &Program, operands: &[Operand]) -> Result<String> {
        let pre = self.prefix;
        let types = register_types(program, operands)?;
        let mut preludes: Vec<&str> = Vec::new();
        let mut body = String::new();
        let mut helpers = String::new();
        for (i, instr) in program.instrs.iter().enumerate() {
            let value = match instr {
                Instr::Load(k) => format!("{pre}x{k}"),
                Instr::Index(k) => format!("{pre}x{k}"),
                Instr::Scalar(k) => self.scalars.get(*k as usize).cloned().ok_or_else(|| failed(format!("no scalar {k}")))?,
                Instr::Apply { def, args, dtype, out } => {
                    let text = (def.wgsl)(*dtype)
                        .ok_or_else(|| Error::Kernel { op: def.name.into(), message: format!("there is no GPU code for {dtype}") })?;
                    for chunk in chunks(def.prelude) {
                        if !preludes.contains(&chunk) {
                            preludes.push(chunk);
                        }
                    }
                    let value = match repeated(instr) {
                        Some(reg) => {
                            let _ = writeln!(body, "    let r{i}x = {};", self.hidden(reg));
                            substitute(text, args, Some(i))
                        }
                        None => substitute(text, args, None),
                    };
                    // A u8 lives in a word: what leaves its eight bits wraps, as on the CPU.
                    if *out == DType::U8 { format!("({value}) & 255u") } else { value }
                }
                Instr::Cast { arg, from, to } => {
                    let stored_only = !program.instrs.iter().any(|other| reads(other, i as Reg));
                    cast(&mut helpers, &format!("r{arg}"), *from, *to, stored_only)?
                }
            };
            let _ = writeln!(body, "    let r{i}: {} = {value};", type_of(types[i])?);
        }
        let mut members = String::new();
        let mut results = Vec::new();
        for (n, (reg, dtype)) in program.stores.iter().enumerate() {
            let _ = write!(members, "y{n}: {}, ", type_of(*dtype)?);
            let from = types[*reg as usize];
            results.push(if type_of(from)? == type_of(*dtype)? {
                format!("r{reg}")
            } else {
                cast(&mut helpers, &format!("r{reg}"), from, *dtype, true)?
            });
            match dtype {
                DType::F16 => need(&mut helpers, PACK_F16),
                DType::BF16 => need(&mut helpers, PACK_BF16),
                _ => {}
            }
        }
        let mut args = Vec::new();
        for (k, o) in operands.iter().enumerate() {
            if let Some(position) = program.instrs.iter().find_map(|i| match i {
                Instr::Load(n) if *n as usize == k => Some(false),
                Instr::Index(n) if *n as usize == k => Some(true),
                _ => None,
            }) {
                args.push(format!("{pre}x{k}: {}", if position { "u32" } else { type_of(o.dtype)? }));
            }
        }
        let mut out = helpers;
        for chunk in preludes {
            out.push_str(chunk);
            out.push('\n');
        }
        let _ = write!(
            out,
            "struct FxOut {{ {members} }}\nfn fx_program({}) -> FxOut {{\n{body}    return FxOut({});\n}}\n",
            args.join(", "),
            results.join(", ")
        );
        Ok(out)
    }

    /// The call of [`program`](Builder::program)'s function on element `j` of the loads.
    pub fn call(&self, accesses: &[Access], j: usize) -> String {
        let args: Vec<String> = accesses.iter().map(|a| format!("{}x{}_{j}", self.prefix, a.k)).collect();
        format!("fx_program({})", args.join(", "))
    }
}

impl Access {
    /// The position at some coordinates (an expression for each dimension).
    pub fn position(&self, coords: &[String]) -> String {
        let mut out = self.offset.clone();
        for (c, s) in coords.iter().zip(&self.strides) {
            match s {
                Stride::Zero => {}
                Stride::One => {
                    let _ = write!(out, " + {c}");
                }
                Stride::Param(s) => {
                    let _ = write!(out, " + {c} * {s}");
                }
            }
        }
        out
    }

    pub fn offset(&self) -> &str {
        &self.offset
    }

    /// The stride along the innermost dimension as an expression; `None` where the operand does not move along it.
    pub fn inner(&self) -> Option<&str> {
        match self.strides.last() {
            None | Some(Stride::Zero) => None,
            Some(Stride::One) => Some("1u"),
            Some(Stride::Param(s)) => Some(s),
        }
    }
}

/// The dtypes of a program's registers.
pub(super) fn register_types(program: &Program, operands: &[Operand]) -> Result<Vec<DType>> {
    let mut types: Vec<DType> = Vec::with_capacity(program.instrs.len());
    for instr in &program.instrs {
        types.push(match instr {
            Instr::Load(k) => operands.get(*k as usize).ok_or_else(|| failed(format!("no operand {k}")))?.dtype.compute(),
            Instr::Scalar(k) => *program.scalars.get(*k as usize).ok_or_else(|| failed(format!("no scalar {k}")))?,
            Instr::Index(_) => DType::U32,
            Instr::Apply { out, .. } => out.compute(),
            Instr::Cast { to, .. } => to.compute(),
        });
    }
    Ok(types)
}

fn reads(instr: &Instr, reg: Reg) -> bool {
    match instr {
        Instr::Apply { args, .. } => args.contains(&reg),
        Instr::Cast { arg, .. } => *arg == reg,
        _ => false,
    }
}

/// The float register that stands as both arguments of a function.
fn repeated(instr: &Instr) -> Option<Reg> {
    match instr {
        Instr::Apply { args, dtype: DType::F32, .. } if args.len() == 2 && args[0] == args[1] => Some(args[0]),
        _ => None,
    }
}

/// Replaces `$0`, `$1`, … by registers, `$1` by `r{i}x` where instruction `i` hides its second argument.
fn substitute(text: &str, args: &[Reg], hidden: Option<usize>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(&rest[..at]);
        let k = rest[at + 1..at + 1 + digits].parse::<usize>().ok();
        match (k.and_then(|k| args.get(k)), hidden) {
            (Some(_), Some(i)) if k == Some(1) => {
                let _ = write!(out, "r{i}x");
            }
            (Some(r), _) => {
                let _ = write!(out, "r{r}");
            }
            // The compiler will show it.
            (None, _) => out.push_str(&rest[at..at + 1 + digits]),
        }
        rest = &rest[at + 1 + digits..];
    }
    out.push_str(rest);
    out
}

/// The top-level declarations of a prelude: several preludes may contain the same one.
pub(crate) fn chunks(prelude: &str) -> Vec<&str> {
    let starts_here = |at: usize| ["fn ", "const ", "struct ", "alias "].iter().any(|k| prelude[at..].starts_with(k));
    let mut starts: Vec<usize> = (0..prelude.len())
        .filter(|&at| (at == 0 || prelude.as_bytes()[at - 1] == b'\n') && prelude.is_char_boundary(at) && starts_here(at))
        .collect();
    starts.push(prelude.len());
    starts.windows(2).map(|w| prelude[w[0]..w[1]].trim()).collect()
}

/// A word as an element of a 4-byte dtype.
fn from_word(dtype: DType, word: &str) -> String {
    match dtype {
        DType::F32 => format!("bitcast<f32>({word})"),
        DType::I32 => format!("bitcast<i32>({word})"),
        DType::Bool => format!("({word} != 0u)"),
        _ => word.to_string(),
    }
}

/// An element of a 4-byte dtype as a word.
pub(super) fn to_word(dtype: DType, value: &str) -> String {
    match dtype {
        DType::Bool => format!("select(0u, 1u, {value})"),
        DType::U32 => value.to_string(),
        _ => format!("bitcast<u32>({value})"),
    }
}

/// Adds a helper function to a text once.
pub(super) fn need(helpers: &mut String, text: &str) {
    if !helpers.contains(text) {
        helpers.push_str(text);
    }
}

/// A conversion of a register. `stored_only`: the result only goes to memory, where the store rounds it.
pub(super) fn cast(helpers: &mut String, arg: &str, from: DType, to: DType, stored_only: bool) -> Result<String> {
    let (a, b) = (type_of(from)?, type_of(to)?);
    let value = match (a, b) {
        ("f32", "f32") => arg.to_string(),
        ("f32", "i32") => {
            need(helpers, F32_TO_I32);
            format!("fx_f32_to_i32({arg})")
        }
        ("f32", "u32") => {
            need(helpers, F32_TO_U32);
            format!("fx_f32_to_u32({arg})")
        }
        // By its bits, so that NaN is true.
        ("f32", "bool") => format!("(bitcast<u32>({arg}) & 0x7fffffffu) != 0u"),
        ("bool", "f32") => format!("select(0.0, 1.0, {arg})"),
        ("bool", "i32") => format!("select(0i, 1i, {arg})"),
        ("bool", "u32") => format!("select(0u, 1u, {arg})"),
        ("i32", "bool") => format!("{arg} != 0i"),
        ("u32", "bool") => format!("{arg} != 0u"),
        (a, b) if a == b => arg.to_string(),
        (_, b) => format!("{b}({arg})"),
    };
    Ok(match to {
        DType::U8 if a == "f32" => format!("min({value}, 255u)"),
        DType::U8 if from != DType::U8 && a != "bool" => format!("({value}) & 255u"),
        DType::F16 if !stored_only && from != DType::F16 => {
            need(helpers, PACK_F16);
            format!("unpack2x16float(fx_f16_bits({value})).x")
        }
        DType::BF16 if !stored_only && from != DType::BF16 => {
            need(helpers, PACK_BF16);
            format!("bitcast<f32>(fx_bf16_bits({value}) << 16u)")
        }
        _ => value,
    })
}

const F32_TO_I32: &str = "fn fx_f32_to_i32(x: f32) -> i32 {
    if ((bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u) { return 0i; }
    if (x >= 2147483648.0) { return 2147483647i; }
    if (x <= -2147483648.0) { return -2147483647i - 1i; }
    return i32(x);
}
";

const F32_TO_U32: &str = "fn fx_f32_to_u32(x: f32) -> u32 {
    if ((bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u || x <= 0.0) { return 0u; }
    if (x >= 4294967296.0) { return 0xffffffffu; }
    return u32(x);
}
";

/// Rounds to nearest even, where drivers are free in `pack2x16float`. Below 2^-14, adding 0.5 leaves the f16 subnormal in the low bits.
pub(super) const PACK_F16: &str = "fn fx_f16_bits(x: f32) -> u32 {
    let u = bitcast<u32>(x);
    let sign = (u >> 16u) & 0x8000u;
    let a = u & 0x7fffffffu;
    if (a > 0x7f800000u) { return sign | 0x7e00u; }
    if (a >= 0x477ff000u) { return sign | 0x7c00u; }
    if (a < 0x38800000u) { return sign | (bitcast<u32>(bitcast<f32>(a) + 0.5) - 0x3f000000u); }
    return sign | ((a - 0x38000000u + 0xfffu + ((a >> 13u) & 1u)) >> 13u);
}
fn fx_pack_f16(x: f32, y: f32) -> u32 { return fx_f16_bits(x) | (fx_f16_bits(y) << 16u); }
";

pub(super) const PACK_BF16: &str = "fn fx_bf16_bits(x: f32) -> u32 {
    let u = bitcast<u32>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) { return (u >> 16u) | 0x40u; }
    return (u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u;
}
fn fx_pack_bf16(x: f32, y: f32) -> u32 { return fx_bf16_bits(x) | (fx_bf16_bits(y) << 16u); }
";
