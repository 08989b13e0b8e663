//! The blocks of Inception v3, A to E, and its auxiliary head.

use super::blocks::{ConvBnAct, global_mean, join, steps};
use crate::nn::{Forward, Linear, Module};
use crate::{Options, PoolOptions, Result, Tensor};

/// A 1×1 block.
fn point(inputs: usize, outputs: usize, o: Options) -> Result<ConvBnAct> {
    ConvBnAct::basic(inputs, outputs, 1, steps(1, 0), o)
}

/// A block with an odd kernel that keeps the size.
fn same(inputs: usize, outputs: usize, [h, w]: [usize; 2], o: Options) -> Result<ConvBnAct> {
    ConvBnAct::basic(inputs, outputs, [h, w], steps(1, [h / 2, w / 2]), o)
}

/// A 3×3 block that halves the size.
fn half(inputs: usize, outputs: usize, o: Options) -> Result<ConvBnAct> {
    ConvBnAct::basic(inputs, outputs, 3, steps(2, 0), o)
}

/// The mean over 3×3, the size kept.
fn smooth(x: &Tensor) -> Result<Tensor> {
    x.try_avg_pool2d(3, PoolOptions { stride: Some(1.into()), padding: 1.into(), ..PoolOptions::default() })
}

/// The maximum over 3×3, the size halved.
fn shrink(x: &Tensor) -> Result<Tensor> {
    x.try_max_pool2d(3, PoolOptions { stride: Some(2.into()), ..PoolOptions::default() })
}

/// Blocks one after the other.
fn chain<const N: usize>(blocks: [&ConvBnAct; N], x: &Tensor) -> Result<Tensor> {
    blocks.into_iter().try_fold(x.clone(), |x, block| block.forward(&x))
}

/// Branches of 1×1, 5×5, twice 3×3, and a mean.
#[derive(Module)]
pub(super) struct InceptionA {
    branch1x1: ConvBnAct,
    branch5x5_1: ConvBnAct,
    branch5x5_2: ConvBnAct,
    branch3x3dbl_1: ConvBnAct,
    branch3x3dbl_2: ConvBnAct,
    branch3x3dbl_3: ConvBnAct,
    branch_pool: ConvBnAct,
}

impl InceptionA {
    pub(super) fn new(inputs: usize, pool: usize, o: Options) -> Result<InceptionA> {
        Ok(InceptionA {
            branch1x1: point(inputs, 64, o)?,
            branch5x5_1: point(inputs, 48, o)?,
            branch5x5_2: same(48, 64, [5, 5], o)?,
            branch3x3dbl_1: point(inputs, 64, o)?,
            branch3x3dbl_2: same(64, 96, [3, 3], o)?,
            branch3x3dbl_3: same(96, 96, [3, 3], o)?,
            branch_pool: point(inputs, pool, o)?,
        })
    }
}

impl Forward for InceptionA {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        join([
            self.branch1x1.forward(x)?,
            chain([&self.branch5x5_1, &self.branch5x5_2], x)?,
            chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], x)?,
            self.branch_pool.forward(&smooth(x)?)?,
        ])
    }
}

/// Branches of 3×3, twice 3×3, and a maximum, the size halved.
#[derive(Module)]
pub(super) struct InceptionB {
    branch3x3: ConvBnAct,
    branch3x3dbl_1: ConvBnAct,
    branch3x3dbl_2: ConvBnAct,
    branch3x3dbl_3: ConvBnAct,
}

impl InceptionB {
    pub(super) fn new(inputs: usize, o: Options) -> Result<InceptionB> {
        Ok(InceptionB {
            branch3x3: half(inputs, 384, o)?,
            branch3x3dbl_1: point(inputs, 64, o)?,
            branch3x3dbl_2: same(64, 96, [3, 3], o)?,
            branch3x3dbl_3: half(96, 96, o)?,
        })
    }
}

impl Forward for InceptionB {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let double = chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], x)?;
        join([self.branch3x3.forward(x)?, double, shrink(x)?])
    }
}

/// Branches of 1×1, 7×7 as 1×7 and 7×1, twice that, and a mean.
#[derive(Module)]
pub(super) struct InceptionC {
    branch1x1: ConvBnAct,
    branch7x7_1: ConvBnAct,
    branch7x7_2: ConvBnAct,
    branch7x7_3: ConvBnAct,
    branch7x7dbl_1: ConvBnAct,
    branch7x7dbl_2: ConvBnAct,
    branch7x7dbl_3: ConvBnAct,
    branch7x7dbl_4: ConvBnAct,
    branch7x7dbl_5: ConvBnAct,
    branch_pool: ConvBnAct,
}

impl InceptionC {
    pub(super) fn new(inputs: usize, middle: usize, o: Options) -> Result<InceptionC> {
        Ok(InceptionC {
            branch1x1: point(inputs, 192, o)?,
            branch7x7_1: point(inputs, middle, o)?,
            branch7x7_2: same(middle, middle, [1, 7], o)?,
            branch7x7_3: same(middle, 192, [7, 1], o)?,
            branch7x7dbl_1: point(inputs, middle, o)?,
            branch7x7dbl_2: same(middle, middle, [7, 1], o)?,
            branch7x7dbl_3: same(middle, middle, [1, 7], o)?,
            branch7x7dbl_4: same(middle, middle, [7, 1], o)?,
            branch7x7dbl_5: same(middle, 192, [1, 7], o)?,
            branch_pool: point(inputs, 192, o)?,
        })
    }
}

impl Forward for InceptionC {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let double = [&self.branch7x7dbl_1, &self.branch7x7dbl_2, &self.branch7x7dbl_3, &self.branch7x7dbl_4, &self.branch7x7dbl_5];
        join([
            self.branch1x1.forward(x)?,
            chain([&self.branch7x7_1, &self.branch7x7_2, &self.branch7x7_3], x)?,
            chain(double, x)?,
            self.branch_pool.forward(&smooth(x)?)?,
        ])
    }
}

/// Branches of 3×3, 7×7 and 3×3, and a maximum, the size halved.
#[derive(Module)]
pub(super) struct InceptionD {
    branch3x3_1: ConvBnAct,
    branch3x3_2: ConvBnAct,
    branch7x7x3_1: ConvBnAct,
    branch7x7x3_2: ConvBnAct,
    branch7x7x3_3: ConvBnAct,
    branch7x7x3_4: ConvBnAct,
}

impl InceptionD {
    pub(super) fn new(inputs: usize, o: Options) -> Result<InceptionD> {
        Ok(InceptionD {
            branch3x3_1: point(inputs, 192, o)?,
            branch3x3_2: half(192, 320, o)?,
            branch7x7x3_1: point(inputs, 192, o)?,
            branch7x7x3_2: same(192, 192, [1, 7], o)?,
            branch7x7x3_3: same(192, 192, [7, 1], o)?,
            branch7x7x3_4: half(192, 192, o)?,
        })
    }
}

impl Forward for InceptionD {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        join([
            chain([&self.branch3x3_1, &self.branch3x3_2], x)?,
            chain([&self.branch7x7x3_1, &self.branch7x7x3_2, &self.branch7x7x3_3, &self.branch7x7x3_4], x)?,
            shrink(x)?,
        ])
    }
}

/// Branches of 1×1, 3×3 as 1×3 beside 3×1, the same after a 3×3, and a mean.
#[derive(Module)]
pub(super) struct InceptionE {
    branch1x1: ConvBnAct,
    branch3x3_1: ConvBnAct,
    branch3x3_2a: ConvBnAct,
    branch3x3_2b: ConvBnAct,
    branch3x3dbl_1: ConvBnAct,
    branch3x3dbl_2: ConvBnAct,
    branch3x3dbl_3a: ConvBnAct,
    branch3x3dbl_3b: ConvBnAct,
    branch_pool: ConvBnAct,
}

impl InceptionE {
    pub(super) fn new(inputs: usize, o: Options) -> Result<InceptionE> {
        Ok(InceptionE {
            branch1x1: point(inputs, 320, o)?,
            branch3x3_1: point(inputs, 384, o)?,
            branch3x3_2a: same(384, 384, [1, 3], o)?,
            branch3x3_2b: same(384, 384, [3, 1], o)?,
            branch3x3dbl_1: point(inputs, 448, o)?,
            branch3x3dbl_2: same(448, 384, [3, 3], o)?,
            branch3x3dbl_3a: same(384, 384, [1, 3], o)?,
            branch3x3dbl_3b: same(384, 384, [3, 1], o)?,
            branch_pool: point(inputs, 192, o)?,
        })
    }
}

impl Forward for InceptionE {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let square = self.branch3x3_1.forward(x)?;
        let double = chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2], x)?;
        join([
            self.branch1x1.forward(x)?,
            self.branch3x3_2a.forward(&square)?,
            self.branch3x3_2b.forward(&square)?,
            self.branch3x3dbl_3a.forward(&double)?,
            self.branch3x3dbl_3b.forward(&double)?,
            self.branch_pool.forward(&smooth(x)?)?,
        ])
    }
}

/// The auxiliary head of [`Inception3`](super::Inception3), from 17×17 (what is left of 299×299).
#[derive(Module)]
pub struct InceptionAux {
    conv0: ConvBnAct,
    conv1: ConvBnAct,
    /// To the classes.
    pub fc: Linear,
}

#[fornax_derive::fallible]
impl InceptionAux {
    /// A head for so many channels.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs: usize, num_classes: usize, options: impl Into<Options>) -> Result<InceptionAux> {
        let o = options.into();
        Ok(InceptionAux {
            conv0: point(inputs, 128, o)?,
            conv1: ConvBnAct::basic(128, 768, 5, steps(1, 0), o)?,
            fc: Linear::try_new(768, num_classes, o)?,
        })
    }
}

impl Forward for InceptionAux {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.try_avg_pool2d(5, PoolOptions { stride: Some(3.into()), ..PoolOptions::default() })?;
        self.fc.forward(&global_mean(&chain([&self.conv0, &self.conv1], &x)?)?)
    }
}
