//! Building blocks of Inception-v3 (Szegedy et al., 2016), named as in torchvision.

use crate::kernels::avg_pool::{Pool, pool3x3};
use crate::kernels::conv::{Padding, conv2d_relu};
use candle_core::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;

/// The eps of every batch normalisation in the network.
const EPS: f64 = 1e-3;

/// Kernel size and stride of a unit. Kernels with odd sides keep the image size (`same`) or use
/// only whole windows.
#[derive(Clone, Copy)]
pub struct Kernel {
    height: usize,
    width: usize,
    stride: usize,
    padded: bool,
}

/// Keeps the image size.
pub const fn same(height: usize, width: usize) -> Kernel {
    Kernel { height, width, stride: 1, padded: true }
}

/// 3x3, whole windows only.
pub const fn valid(stride: usize) -> Kernel {
    Kernel { height: 3, width: 3, stride, padded: false }
}

pub const POINT: Kernel = same(1, 1);

/// `BasicConv2d`: convolution, batch normalisation with fixed statistics, ReLU. The normalisation
/// is folded into weight and bias on loading, in f64.
pub struct Unit {
    pub weight: Tensor,
    pub bias: Tensor,
    kernel: Kernel,
}

impl Unit {
    pub fn new(channels_in: usize, channels_out: usize, kernel: Kernel, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((channels_out, channels_in, kernel.height, kernel.width), "conv.weight")?;
        let bn = |name: &str| vb.get(channels_out, &format!("bn.{name}"))?.to_dtype(DType::F64);
        let scale = (bn("weight")? / (bn("running_var")? + EPS)?.sqrt()?)?;
        let bias = (bn("bias")? - (bn("running_mean")? * &scale)?)?;
        let weight = weight.to_dtype(DType::F64)?.broadcast_mul(&scale.reshape((channels_out, 1, 1, 1))?)?;
        Ok(Self { weight: weight.to_dtype(DType::F32)?, bias: bias.to_dtype(DType::F32)?, kernel })
    }

    /// The same unit with only the first `count` output channels.
    pub fn first_channels(&self, count: usize) -> Result<Self> {
        let part = |t: &Tensor| t.narrow(0, 0, count);
        Ok(Self { weight: part(&self.weight)?, bias: part(&self.bias)?, kernel: self.kernel })
    }

    /// Its stride, and what is put around the image.
    pub fn geometry(&self) -> (usize, Padding) {
        let Kernel { height, width, stride, padded } = self.kernel;
        (stride, if padded { Padding::symmetric(height / 2, width / 2) } else { Padding::NONE })
    }
}

impl Module for Unit {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = self.geometry();
        conv2d_relu(x, &self.weight, &self.bias, (stride, stride), padding)
    }
}

/// A path through a block: perhaps a pool, a chain of units, and units in parallel on its output.
pub struct Branch {
    pub pool: Option<Pool>,
    pub chain: Vec<Unit>,
    pub fork: Vec<Unit>,
}

impl Branch {
    fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let x = match self.pool {
            Some(pool) => pool3x3(x, pool)?,
            None => x.clone(),
        };
        let x = self.chain.iter().try_fold(x, |x, unit| unit.forward(&x))?;
        match self.fork.is_empty() {
            true => Ok(vec![x]),
            false => self.fork.iter().map(|unit| unit.forward(&x)).collect(),
        }
    }
}

/// A `Mixed_` block: branches on one input, with concatenated channels.
pub struct Mixed {
    pub branches: Vec<Branch>,
}

impl Module for Mixed {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let parts: Vec<Vec<Tensor>> = self.branches.iter().map(|b| b.forward(x)).collect::<Result<_>>()?;
        Tensor::cat(&parts.concat(), 1)
    }
}

/// Name, output channels and kernel of a unit.
type Spec<'a> = (&'a str, usize, Kernel);

/// Builds a block from the names of its units.
struct Builder<'a> {
    channels: usize,
    vb: VarBuilder<'a>,
    branches: Vec<Branch>,
}

impl<'a> Builder<'a> {
    fn new(channels: usize, vb: VarBuilder<'a>) -> Self {
        Self { channels, vb, branches: vec![] }
    }

    fn branch(self, pool: Option<Pool>, chain: &[Spec]) -> Result<Self> {
        self.forked(pool, chain, &[])
    }

    fn forked(mut self, pool: Option<Pool>, chain: &[Spec], fork: &[Spec]) -> Result<Self> {
        let mut channels = self.channels;
        let mut units = vec![];
        for (name, out, kernel) in chain {
            units.push(Unit::new(channels, *out, *kernel, self.vb.pp(name))?);
            channels = *out;
        }
        let fork = fork.iter().map(|(name, out, kernel)| Unit::new(channels, *out, *kernel, self.vb.pp(name)));
        let fork = fork.collect::<Result<_>>()?;
        self.branches.push(Branch { pool, chain: units, fork });
        Ok(self)
    }

    fn build(self) -> Mixed {
        Mixed { branches: self.branches }
    }
}

/// 35x35.
pub fn mixed_a(channels: usize, pooled: usize, vb: VarBuilder) -> Result<Mixed> {
    Ok(Builder::new(channels, vb)
        .branch(None, &[("branch1x1", 64, POINT)])?
        .branch(None, &[("branch5x5_1", 48, POINT), ("branch5x5_2", 64, same(5, 5))])?
        .branch(
            None,
            &[("branch3x3dbl_1", 64, POINT), ("branch3x3dbl_2", 96, same(3, 3)), ("branch3x3dbl_3", 96, same(3, 3))],
        )?
        .branch(Some(Pool::Average), &[("branch_pool", pooled, POINT)])?
        .build())
}

/// 35x35 to 17x17.
pub fn mixed_b(channels: usize, vb: VarBuilder) -> Result<Mixed> {
    Ok(Builder::new(channels, vb)
        .branch(None, &[("branch3x3", 384, valid(2))])?
        .branch(
            None,
            &[("branch3x3dbl_1", 64, POINT), ("branch3x3dbl_2", 96, same(3, 3)), ("branch3x3dbl_3", 96, valid(2))],
        )?
        .branch(Some(Pool::MaxHalving), &[])?
        .build())
}

/// 17x17; `narrow` is the number of channels between the long kernels.
pub fn mixed_c(channels: usize, narrow: usize, vb: VarBuilder) -> Result<Mixed> {
    let (row, column) = (same(1, 7), same(7, 1));
    Ok(Builder::new(channels, vb)
        .branch(None, &[("branch1x1", 192, POINT)])?
        .branch(None, &[("branch7x7_1", narrow, POINT), ("branch7x7_2", narrow, row), ("branch7x7_3", 192, column)])?
        .branch(
            None,
            &[
                ("branch7x7dbl_1", narrow, POINT),
                ("branch7x7dbl_2", narrow, column),
                ("branch7x7dbl_3", narrow, row),
                ("branch7x7dbl_4", narrow, column),
                ("branch7x7dbl_5", 192, row),
            ],
        )?
        .branch(Some(Pool::Average), &[("branch_pool", 192, POINT)])?
        .build())
}

/// 17x17 to 8x8.
pub fn mixed_d(channels: usize, vb: VarBuilder) -> Result<Mixed> {
    Ok(Builder::new(channels, vb)
        .branch(None, &[("branch3x3_1", 192, POINT), ("branch3x3_2", 320, valid(2))])?
        .branch(
            None,
            &[
                ("branch7x7x3_1", 192, POINT),
                ("branch7x7x3_2", 192, same(1, 7)),
                ("branch7x7x3_3", 192, same(7, 1)),
                ("branch7x7x3_4", 192, valid(2)),
            ],
        )?
        .branch(Some(Pool::MaxHalving), &[])?
        .build())
}

/// 8x8.
pub fn mixed_e(channels: usize, pool: Pool, vb: VarBuilder) -> Result<Mixed> {
    let (row, column) = (same(1, 3), same(3, 1));
    Ok(Builder::new(channels, vb)
        .branch(None, &[("branch1x1", 320, POINT)])?
        .forked(None, &[("branch3x3_1", 384, POINT)], &[("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)])?
        .forked(
            None,
            &[("branch3x3dbl_1", 448, POINT), ("branch3x3dbl_2", 384, same(3, 3))],
            &[("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
        )?
        .branch(Some(pool), &[("branch_pool", 192, POINT)])?
        .build())
}
