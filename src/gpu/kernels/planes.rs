//! Launches of `planes.cu`: between f32 `[samples, channels, pixels]` and channels last.

use super::{blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Channels of a map with channels last: padded with zeros to a multiple of 8.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// To `last` `[samples, pixels, padded(channels)]` of type `ty`.
///
/// # Errors
/// Nothing to copy.
pub fn channels_last(planes: Address, last: Address, sizes: [usize; 3], ty: Type) -> Result<Launch> {
    let [of_planes, of_last] = bytes(sizes, ty);
    let regions = vec![Region::read(planes, of_planes), Region::write(last, of_last)];
    launch("channels_last", [planes, last], sizes, ty, regions)
}

/// From `last` to planes, without the padding.
///
/// # Errors
/// Nothing to copy.
pub fn planes(last: Address, planes: Address, sizes: [usize; 3], ty: Type) -> Result<Launch> {
    let [of_planes, of_last] = bytes(sizes, ty);
    let regions = vec![Region::read(last, of_last), Region::write(planes, of_planes)];
    launch("planes", [last, planes], sizes, ty, regions)
}

/// Bytes of planes, and of the same with channels last.
fn bytes([samples, channels, pixels]: [usize; 3], ty: Type) -> [usize; 2] {
    [samples * pixels * channels * Type::F32.size(), samples * pixels * padded(channels) * ty.size()]
}

fn launch(
    name: &str,
    [from, to]: [Address; 2],
    [samples, channels, pixels]: [usize; 3],
    ty: Type,
    regions: Vec<Region>,
) -> Result<Launch> {
    let count = samples * pixels * padded(channels) / 4;
    if count == 0 {
        bail!("{samples} maps of {channels} channels with {pixels} pixels");
    }
    let sizes = [int(pixels)?, int(channels)?, int(padded(channels))?];
    let arguments = [from.into(), to.into(), (count as i64).into()].into_iter().chain(sizes.map(Into::into));
    Ok(Launch {
        kernel: format!("{name}_{}", ty.name()),
        grid: [blocks(count, 256)?, 1],
        threads: 256,
        shared: 0,
        arguments: arguments.collect(),
        regions,
        operations: 0,
    })
}
