//! Launches of `convolution.cu`.

use super::{blocks, int};
use crate::program::{Address, Argument, Launch, Region, Type};
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
            regions: self.regions(),
            operations: match self.ty {
                Type::F32 => 0,
                // Whole tiles of pixels, of channels and of the sum.
                _ => {
                    let sum = (kernel[0] * kernel[1] * channels).next_multiple_of(4 * 16 / self.ty.size());
                    2 * (pixels.next_multiple_of(ROWS) * outputs.next_multiple_of(columns) * sum) as u64
                }
            },
        })
    }

    fn regions(&self) -> Vec<Region> {
        let (one, f32) = (self.ty.size(), Type::F32.size());
        let pixels = self.samples * self.out[0] * self.out[1];
        let zoom = if self.upsample { 2 } else { 1 };
        // Rows or columns of x under windows: with a stride the last may be left out.
        let seen = |i: usize| {
            let end = (self.out[i] - 1) * self.stride + self.kernel[i];
            end.saturating_sub(self.pad[i]).div_ceil(zoom).min(self.size[i])
        };
        let of_x = |height: usize, width: usize| self.samples * height * width * self.channels * one;
        let x = Region::read(self.x, of_x(self.size[0], self.size[1]));
        vec![
            if [seen(0), seen(1)] == self.size { x } else { x.at_most(of_x(seen(0), seen(1))) },
            Region::read(self.weight, self.outputs * self.kernel[0] * self.kernel[1] * self.channels * one),
            Region::read(self.bias, self.outputs * f32),
            Region::read(self.residual, pixels * self.outputs * one),
            Region::write(self.y, self.outputs * one).of_rows(pixels, self.pitch * one),
        ]
    }
}
