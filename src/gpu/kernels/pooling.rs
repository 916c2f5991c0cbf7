//! Launches of `pooling.cu`.

use super::{blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// What a window of 3 x 3 becomes, and where windows stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// The mean of those of its pixels that are inside, around every pixel.
    Mean,
    /// The largest number, around every pixel.
    Max,
    /// The largest number, of every second window that lies inside.
    MaxHalving,
}

impl Windows {
    /// Pixels along a side of the result.
    pub fn side(self, side: usize) -> usize {
        match self {
            Self::MaxHalving => side.saturating_sub(1) / 2,
            Self::Mean | Self::Max => side,
        }
    }
}

/// Pooling of maps with channels last.
#[derive(Debug, Clone, Copy)]
pub struct Pooling {
    pub windows: Windows,
    /// `[samples, size[0], size[1], channels]`. `channels` is a multiple of 4.
    pub x: Address,
    /// Rows of `pitch` numbers, of which the first `channels` are written.
    pub y: Address,
    pub samples: usize,
    /// Height and width of `x`.
    pub size: [usize; 2],
    pub channels: usize,
    pub pitch: usize,
    pub ty: Type,
}

impl Pooling {
    /// # Errors
    /// Sizes that the kernel does not take.
    pub fn launch(&self) -> Result<Launch> {
        let Self { windows, x, y, samples, size, channels, pitch, ty } = *self;
        let out = size.map(|side| windows.side(side));
        if samples == 0 || channels == 0 || out.contains(&0) || !channels.is_multiple_of(4) {
            bail!("pooling of {samples} maps {size:?} with {channels} channels");
        }
        let (name, stride, pad) = match windows {
            Windows::Mean => ("mean", 1, 1),
            Windows::Max => ("max", 1, 1),
            Windows::MaxHalving => ("max", 2, 0),
        };
        let count = samples * out[0] * out[1] * channels / 4;
        let mut arguments = vec![x.into(), y.into(), (count as i64).into()];
        for size in [size[0], size[1], channels, out[0], out[1], pitch, stride, pad] {
            arguments.push(int(size)?.into());
        }
        let of_x = |[height, width]: [usize; 2]| samples * height * width * channels * ty.size();
        let seen = match windows {
            Windows::MaxHalving => out.map(|side| 2 * side + 1),
            Windows::Mean | Windows::Max => size,
        };
        let all = Region::read(x, of_x(size));
        let regions = vec![
            if seen == size { all } else { all.at_most(of_x(seen)) },
            Region::write(y, channels * ty.size()).of_rows(samples * out[0] * out[1], pitch * ty.size()),
        ];
        let (kernel, grid) = (format!("pool_{name}_{}", ty.name()), [blocks(count, 256)?, 1]);
        Ok(Launch { kernel, grid, threads: 256, shared: 0, arguments, regions, operations: 0 })
    }
}

/// The mean over the pixels of each sample: x `[samples, pixels, channels]` to y f32
/// `[samples, channels]`.
///
/// # Errors
/// Channels that are no multiple of 4, or nothing at all.
pub fn mean_of_pixels(x: Address, y: Address, [samples, pixels, channels]: [usize; 3], ty: Type) -> Result<Launch> {
    if samples == 0 || pixels == 0 || channels == 0 || !channels.is_multiple_of(4) {
        bail!("the mean over {pixels} pixels of {samples} maps with {channels} channels");
    }
    Ok(Launch {
        kernel: format!("mean_of_pixels_{}", ty.name()),
        grid: [blocks(channels, 1024)?, int(samples)?.cast_unsigned()],
        threads: 256,
        shared: 0,
        arguments: vec![x.into(), y.into(), int(pixels)?.into(), int(channels)?.into()],
        regions: vec![
            Region::read(x, samples * pixels * channels * ty.size()),
            Region::write(y, samples * channels * Type::F32.size()),
        ],
        operations: 0,
    })
}
