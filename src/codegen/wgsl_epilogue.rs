//! Epilogues: pointwise code that a hand-written kernel runs on each of its results before it stores it.

use super::dispatch::{Binding, Param};
use super::kernel::{Epilogue, collapse};
use super::wgsl_fused::coordinates;
use super::wgsl_program::{Builder, Walk, failed};
use crate::{DType, Result};
use std::fmt::Write;

/// What a kernel's template splices in.
pub(crate) struct EpilogueCode {
    /// Storage variables and `fn epilogue(value: f32, i: u32) -> f32`, for `{{EPILOGUE}}`: `i` is the row-major index of the element, which
    /// must be one of the output's. It reads the kernel's uniform, whose name is `p`.
    pub declarations: String,
    /// Members for the end of the kernel's parameter struct, for `{{EPILOGUE_FIELDS}}`.
    pub fields: String,
    /// What follows the kernel's own bindings.
    pub bindings: Vec<Binding>,
    /// What follows the kernel's own parameters.
    pub params: Vec<Param>,
}

/// The code of an epilogue whose first storage binding is `first_binding`; without one, the identity.
///
/// # Errors
/// `Error::Kernel` for dtypes or functions that the GPU does not have.
pub(crate) fn epilogue(e: Option<&Epilogue>, first_binding: usize) -> Result<EpilogueCode> {
    let Some(e) = e else {
        let declarations = "fn epilogue(value: f32, i: u32) -> f32 { return value; }\n".into();
        return Ok(EpilogueCode { declarations, fields: String::new(), bindings: Vec::new(), params: Vec::new() });
    };
    if e.program.stores.len() != 1 || e.program.stores[0].1 != DType::F32 {
        return Err(failed(format!("an epilogue stores one f32, not {:?}", e.program.stores)));
    }
    let (mut shape, mut operands) = (e.shape.clone(), e.operands.clone());
    collapse(&mut shape, None, &mut operands);
    let mut b = Builder { prefix: "e", first_binding, given: Some(0), elements_only: true, ..Builder::default() };
    let accesses = b.accesses(&e.program, &shape, &operands, &|_| 0, 0, true, false)?;
    let strided = accesses.iter().any(|a| a.walk == Walk::Strided);
    let sizes: Vec<String> =
        if strided { (1..shape.rank()).map(|d| b.field(format!("d{d}"), "u32", shape[d])).collect() } else { Vec::new() };
    b.add_scalars(&e.program, &e.scalars)?;
    let mut body = String::new();
    let coords = if strided { coordinates(&mut body, "i", &sizes, false) } else { Vec::new() };
    let mut args: Vec<String> = Vec::new();
    if e.program.instrs.iter().any(|i| matches!(i, super::program::Instr::Load(0))) {
        args.push("value".into());
    }
    for a in &accesses {
        let position = match a.walk {
            Walk::Linear => format!("i + {}", a.offset()),
            _ => a.position(&coords),
        };
        let at = format!("at{}", a.k);
        let _ = writeln!(body, "    let {at} = {position};\n    let x{} = {};", a.k, b.element(a, &at));
        args.push(format!("x{}", a.k));
    }
    let program = b.program(&e.program, &operands)?;
    let declarations = format!(
        "{}{program}fn epilogue(value: f32, i: u32) -> f32 {{\n{body}    return fx_program({}).y0;\n}}\n",
        b.declarations(),
        args.join(", ")
    );
    Ok(EpilogueCode { declarations, fields: b.fields, bindings: b.bindings, params: b.params })
}
