//! Launches of `convolution.cu`.

use super::{blocks, int};
use crate::program::{Address, Argument, Launch, Type};
use candle_core::{Result, bail};

/// Pixels of a block.
const ROWS: usize = 128;
/// Stages of copies under way, as in `convolution.cu`.
const STAGES: usize = 3;
/// Bytes from a row of a stage to the next.
const PITCH: usize = 80;

/// A convolution of maps with channels last: `y = relu(w * x + bias) + residual`.
#[derive(Debug, Clone, Copy)]
pub struct Convolution {
    /// `[samples, height, width, channels]`. `channels` is a multiple of 8.
    pub x: Address,
    /// `[outputs, kernel[0], kernel[1], channels]`.
    pub weight: Address,
    /// f32 `[outputs]`, or null.
    pub bias: Address,
    /// `[samples, out[0], out[1], outputs]`, or null.
    pub residual: Address,
    /// Rows of `pitch` numbers, of which the first `outputs` are written.
    pub y: Address,
    pub samples: usize,
    /// Height and width of `x`.
    pub size: [usize; 2],
    pub channels: usize,
    /// Height and width of `y`.
    pub out: [usize; 2],
    /// A multiple of 8.
    pub outputs: usize,
    pub pitch: usize,
    /// Height and width.
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Zeros above and left of `x`. Those below and right of it follow from `out`.
    pub pad: [usize; 2],
    /// Reads `x` as if each pixel were four, by nearest neighbour.
    pub upsample: bool,
    pub relu: bool,
    pub ty: Type,
}

impl Convolution {
    /// # Errors
    /// Sizes that the kernel does not take.
    pub fn launch(&self) -> Result<Launch> {
        let Self { samples, size, channels, out, outputs, kernel, .. } = *self;
        let empty = [samples, size[0], size[1], channels, out[0], out[1], outputs, kernel[0], kernel[1], self.stride];
        if empty.contains(&0) {
            bail!("an empty convolution of {samples} maps {size:?} x {channels}");
        }
        if !channels.is_multiple_of(8) || !outputs.is_multiple_of(8) || !self.pitch.is_multiple_of(8) {
            bail!("a convolution takes channels by 8, not {channels} to {outputs} in rows of {}", self.pitch);
        }
        for (name, address) in [("x", self.x), ("weight", self.weight), ("y", self.y)] {
            if address == Address::NULL || !address.0.is_multiple_of(16) {
                bail!("a convolution needs `{name}` at a multiple of 16 bytes");
            }
        }
        let columns = if outputs <= 64 { 64 } else { 128 };
        let pixels = samples * out[0] * out[1];
        let mut arguments: Vec<Argument> =
            [self.x, self.weight, self.bias, self.residual, self.y].map(Argument::from).to_vec();
        arguments.push((pixels as i64).into());
        let sizes =
            [size[0], size[1], channels, out[0], out[1], outputs, self.pitch, kernel[0], kernel[1], self.stride];
        for size in sizes.into_iter().chain(self.pad) {
            arguments.push(int(size)?.into());
        }
        int(kernel[0] * kernel[1] * channels)?;
        arguments.extend([self.upsample, self.relu].map(|flag| Argument::Int(i32::from(flag))));
        Ok(Launch {
            kernel: format!("convolution_{}_{columns}", self.ty.name()),
            grid: [blocks(pixels, ROWS)?, blocks(outputs, columns)?],
            threads: 256,
            shared: (STAGES * (ROWS + columns) * PITCH) as u32,
            arguments,
        })
    }
}
