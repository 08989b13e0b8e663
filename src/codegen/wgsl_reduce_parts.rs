//! How a reduction whose operands exceed the largest binding is cut.

use super::dispatch::{Caps, work};
use super::kernel::Operand;
use super::wgsl_program::failed;
use crate::layout::Layout;
use crate::{Result, Shape};

/// More partial results than this are a mistake.
const MAX_RANGES: usize = 4096;

/// Some neighbouring outputs, from output `first` on.
pub(super) struct Region {
    pub shape: Shape,
    pub operands: Vec<Operand>,
    pub first: usize,
    /// What their elements are reduced in: one range, or several in their order.
    pub ranges: Vec<Part>,
}

/// A range of the reduced elements.
#[derive(Clone)]
pub(super) struct Part {
    pub shape: Shape,
    pub operands: Vec<Operand>,
    /// The place of its first element among the reduced ones.
    pub position: usize,
}

/// `len` steps of a dimension from `start` on.
fn narrow(shape: &Shape, operands: &[Operand], dim: usize, start: usize, len: usize) -> (Shape, Vec<Operand>) {
    let mut shape = shape.clone();
    shape[dim] = len;
    let mut operands = operands.to_vec();
    for o in &mut operands {
        o.offset = (o.offset as isize + start as isize * o.strides[dim]) as usize;
    }
    (shape, operands)
}

/// By how much the operands exceed what fits: bytes past the largest binding, and work past a dispatch's.
fn excess(shape: &Shape, operands: &[Operand], caps: &Caps) -> (u64, u64) {
    let (mut past, mut bytes) = (0, 0);
    for o in operands.iter().filter(|o| o.buffer.is_some()) {
        let l = Layout { shape: shape.clone(), strides: o.strides.clone(), offset: o.offset };
        past += l.window(o.dtype.gpu_size(), caps).bytes.saturating_sub(caps.max_binding);
        bytes += (shape.numel() * o.dtype.gpu_size()) as u64;
    }
    (past, work(0, bytes).saturating_sub(caps.max_work))
}

/// Cuts a reduction over a collapsed shape.
///
/// # Errors
/// `Error::Kernel` where no cut makes the operands fit.
pub(super) fn regions(shape: &Shape, reduced: &[bool], operands: &[Operand], caps: &Caps) -> Result<Vec<Region>> {
    let mut out = Vec::new();
    cut(shape, reduced, operands, 0, caps, &mut out)?;
    Ok(out)
}

fn cut(shape: &Shape, reduced: &[bool], operands: &[Operand], first: usize, caps: &Caps, out: &mut Vec<Region>) -> Result<()> {
    let now = excess(shape, operands, caps);
    let whole = Part { shape: shape.clone(), operands: operands.to_vec(), position: 0 };
    let region = |ranges| Region { shape: shape.clone(), operands: operands.to_vec(), first, ranges };
    if now == (0, 0) || shape.numel() == 0 {
        out.push(region(vec![whole]));
        return Ok(());
    }
    // The halves of the outermost kept dimension are neighbours in the output.
    let halves = (0..shape.rank()).find(|&d| !reduced[d] && shape[d] > 1).map(|d| {
        let half = shape[d] / 2;
        let inner: usize = (d + 1..shape.rank()).filter(|&e| !reduced[e]).map(|e| shape[e]).product();
        (narrow(shape, operands, d, 0, half), narrow(shape, operands, d, half, shape[d] - half), first + half * inner)
    });
    let helps = halves.as_ref().is_some_and(|(_, high, _)| {
        let then = excess(&high.0, &high.1, caps);
        if now.0 > 0 { then.0 <= now.0 / 4 * 3 } else { then.1 <= now.1 / 4 * 3 }
    });
    if !helps && let Some(parts) = ranges(shape, reduced, operands, caps) {
        // A partial result of each range, an output.
        let outputs: usize = (0..shape.rank()).filter(|&d| !reduced[d]).map(|d| shape[d]).product();
        if halves.is_none() || (outputs * parts.len() * 4) as u64 <= caps.max_binding {
            out.push(region(parts));
            return Ok(());
        }
    }
    // Where nothing helps at once, halving the outputs leads to a dimension that does.
    let Some((low, high, middle)) = halves else {
        let message = format!("a reduction over {shape:?}: this device binds at most {} bytes, and no part of it fits", caps.max_binding);
        return Err(failed(message));
    };
    cut(&low.0, reduced, &low.1, first, caps, out)?;
    cut(&high.0, reduced, &high.1, middle, caps, out)
}

/// Ranges of the reduced elements that fit, in their order: halves of the outermost reduced dimension, then of the next.
fn ranges(shape: &Shape, reduced: &[bool], operands: &[Operand], caps: &Caps) -> Option<Vec<Part>> {
    let mut out = Vec::new();
    let mut stack = vec![Part { shape: shape.clone(), operands: operands.to_vec(), position: 0 }];
    while let Some(part) = stack.pop() {
        if excess(&part.shape, &part.operands, caps) == (0, 0) {
            out.push(part);
            continue;
        }
        let d = (0..shape.rank()).find(|&d| reduced[d] && part.shape[d] > 1)?;
        if out.len() + stack.len() > MAX_RANGES {
            return None;
        }
        let inner: usize = (d + 1..shape.rank()).filter(|&e| reduced[e]).map(|e| part.shape[e]).product();
        let half = part.shape[d] / 2;
        for (start, len) in [(half, part.shape[d] - half), (0, half)] {
            let (shape, operands) = narrow(&part.shape, &part.operands, d, start, len);
            stack.push(Part { shape, operands, position: part.position + start * inner });
        }
    }
    Some(out)
}
