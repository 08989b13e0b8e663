//! Running pending nodes.

use super::Tensor;
use crate::Result;

/// Computes the roots.
pub(crate) fn flush(_roots: &[Tensor]) -> Result<()> {
    Ok(())
}
