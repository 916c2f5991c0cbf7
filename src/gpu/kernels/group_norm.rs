//! Launches of `group_norm.cu`.

use super::{blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Pixels of a chunk.
const CHUNK: usize = 512;
/// The most channels that a block of 256 threads reads with four a thread.
pub const MAX_CHANNELS: usize = 1024;

/// Group normalisation of maps with channels last, perhaps with SiLU behind it.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm {
    /// `[samples, pixels, channels]`. `channels` is a multiple of 4, 1,024 at most.
    pub x: Address,
    /// Like `x`; may be `x`.
    pub y: Address,
    /// f32 `[channels]`.
    pub weight: Address,
    /// f32 `[channels]`.
    pub bias: Address,
    /// Space for [`space`](Self::space) f32 numbers.
    pub space: Address,
    pub samples: usize,
    pub pixels: usize,
    pub channels: usize,
    /// Channels in groups; those behind them become their bias.
    pub real: usize,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
    pub ty: Type,
}

impl GroupNorm {
    fn chunks(&self) -> usize {
        self.pixels.div_ceil(CHUNK)
    }

    /// Factors come first.
    fn factors(&self) -> usize {
        self.samples * 2 * self.channels
    }

    /// Numbers of space: factors, then partial sums.
    pub fn space(&self) -> usize {
        self.factors() * (1 + self.chunks())
    }

    /// Three launches, in order: sums over chunks, the factors of each channel, the result.
    ///
    /// # Errors
    /// Sizes that the kernels do not take.
    pub fn launches(&self) -> Result<[Launch; 3]> {
        let Self { x, y, samples, pixels, channels, real, groups, .. } = *self;
        if samples == 0 || pixels == 0 || groups == 0 || real == 0 || !real.is_multiple_of(groups) || real > channels {
            bail!("a group normalisation of {samples} maps with {pixels} pixels, {real} channels in {groups} groups");
        }
        if !channels.is_multiple_of(4) || channels > MAX_CHANNELS {
            bail!("a group normalisation takes up to {MAX_CHANNELS} channels by 4, not {channels}");
        }
        let partial = self.space.offset(self.factors() * Type::F32.size());
        let launch = |name: &str, grid: u32, threads, arguments, regions| Launch {
            kernel: name.replace("TYPE", self.ty.name()),
            grid: [grid, samples as u32],
            threads,
            shared: 0,
            arguments,
            regions,
            operations: 0,
        };
        let (one, f32) = (self.ty.size(), Type::F32.size());
        let (whole, vector) = (samples * pixels * channels * one, channels * f32);
        let sums_of = samples * self.chunks() * 2;
        let of_sums = vec![Region::read(x, whole), Region::write(partial, sums_of * vector)];
        let of_factors = vec![
            // The first pixel of each sample.
            Region::read(x, real * one).of_rows(samples, pixels * channels * one),
            Region::read(partial, real * f32).of_rows(sums_of, vector),
            Region::read(self.weight, real * f32),
            Region::write(self.space, self.factors() * f32),
        ];
        let of_result = vec![
            Region::read(x, whole),
            Region::read(self.space, self.factors() * f32),
            Region::read(self.bias, vector),
            Region::write(y, whole),
        ];
        let [pixels_, channels_, chunks] = [int(pixels)?, int(channels)?, int(self.chunks())?];
        int(samples)?;
        int(pixels * channels)?;
        let sums = vec![x.into(), partial.into(), pixels_.into(), channels_.into(), int(CHUNK)?.into()];
        let factors = vec![
            x.into(),
            partial.into(),
            self.weight.into(),
            self.space.into(),
            pixels_.into(),
            channels_.into(),
            int(real)?.into(),
            int(groups)?.into(),
            chunks.into(),
            self.eps.into(),
        ];
        let result = vec![
            x.into(),
            self.space.into(),
            self.bias.into(),
            y.into(),
            pixels_.into(),
            channels_.into(),
            i32::from(self.silu).into(),
        ];
        Ok([
            launch("group_norm_sums_TYPE", chunks.cast_unsigned(), 256, sums, of_sums),
            launch("group_norm_factors_TYPE_any", blocks(groups, 128)?, 128, factors, of_factors),
            launch("group_norm_TYPE", blocks(pixels * channels, 1024)?, 256, result, of_result),
        ])
    }
}
