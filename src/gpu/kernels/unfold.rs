//! Launches of `unfold.cu`: a 3 x 3 convolution over tokens as a product.

use super::{blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Tokens on square grids.
#[derive(Debug, Clone, Copy)]
pub struct Grids {
    pub samples: usize,
    /// Tokens along a side.
    pub side: usize,
    /// Numbers of a token: a multiple of 4.
    pub width: usize,
    pub ty: Type,
}

impl Grids {
    /// The window around each token: x `[samples, side^2, width]` to u `[samples, side^2, width * 9]`.
    ///
    /// # Errors
    /// A width that is no multiple of 4, or nothing at all.
    pub fn unfold(&self, x: Address, u: Address) -> Result<Launch> {
        let bytes = self.bytes();
        self.launch("unfold", x, u, vec![Region::read(x, bytes), Region::write(u, 9 * bytes)])
    }

    /// The gradient of x from that of u.
    ///
    /// # Errors
    /// As [`unfold`](Self::unfold).
    pub fn fold(&self, du: Address, dx: Address) -> Result<Launch> {
        // Of windows at the edge, taps that are on the grid.
        let taps = (3 * self.side).saturating_sub(2).pow(2) * self.samples * self.width * self.ty.size();
        let bytes = self.bytes();
        self.launch("fold", du, dx, vec![Region::read(du, 9 * bytes).at_most(taps), Region::write(dx, bytes)])
    }

    fn bytes(&self) -> usize {
        self.samples * self.side * self.side * self.width * self.ty.size()
    }

    fn launch(&self, name: &str, from: Address, to: Address, regions: Vec<Region>) -> Result<Launch> {
        let Self { samples, side, width, ty } = *self;
        let count = samples * side * side * width / 4;
        if count == 0 || !width.is_multiple_of(4) {
            bail!("windows over {samples} grids of {side} x {side} tokens with {width} numbers");
        }
        Ok(Launch {
            kernel: format!("{name}_{}", ty.name()),
            grid: [blocks(count, 256)?, 1],
            threads: 256,
            shared: 0,
            arguments: vec![from.into(), to.into(), (count as i64).into(), int(side)?.into(), int(width)?.into()],
            regions,
            operations: 0,
        })
    }
}
