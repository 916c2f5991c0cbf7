//! Launches of `embedding.cu`: the two ends of the network beside its products.

use super::{flat, int, of_rows};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Channels of [`time_sinusoid`].
pub const SINUSOID: usize = 256;

/// Images `[samples, channels, side, side]` and their tokens, `(side / patch)^2` a sample with
/// `channels patch^2` numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    pub samples: usize,
    pub channels: usize,
    pub side: usize,
    pub patch: usize,
}

impl Image {
    /// All numbers.
    pub fn count(&self) -> usize {
        self.samples * self.channels * self.side * self.side
    }

    /// Places of all samples, each with a number a channel.
    pub fn places(&self) -> usize {
        self.samples * self.side * self.side
    }

    /// # Errors
    /// A side that patches do not divide, or tokens whose width is no multiple of 4.
    pub(super) fn check(&self) -> Result<()> {
        let Self { samples, channels, side, patch } = *self;
        if patch == 0 || side == 0 || !side.is_multiple_of(patch) {
            bail!("images of {side}x{side} do not divide into patches of {patch}x{patch}");
        }
        if samples == 0 || channels == 0 || !(channels * patch * patch).is_multiple_of(4) {
            bail!(
                "{samples} images of {channels} channels in patches of {patch}x{patch} make no tokens of 4 k numbers"
            );
        }
        Ok(())
    }

    /// From one of the two layouts to the other.
    fn launch(&self, kernel: &str, ty: Type, [from, to]: [(Address, Type); 2]) -> Result<Launch> {
        self.check()?;
        let bytes = |of: Type| self.count() * of.size();
        let regions = vec![Region::read(from.0, bytes(from.1)), Region::write(to.0, bytes(to.1))];
        let sizes = [int(self.channels)?, int(self.side)?, int(self.patch)?].map(Into::into);
        let arguments = [from.0.into(), to.0.into()].into_iter().chain(sizes).collect();
        flat(format!("{kernel}_{}", ty.name()), self.count(), arguments, regions)
    }
}

/// Patches `[B N, C p p]` of the type from an image `[B, C, S, S]` in f32.
pub fn patch_gather(image: &Image, ty: Type, from: Address, to: Address) -> Result<Launch> {
    image.launch("patch_gather", ty, [(from, Type::F32), (to, ty)])
}

/// An image `[B, C, S, S]` in f32 from tokens `[B, N, p p C]` of the type.
pub fn unpatchify(image: &Image, ty: Type, from: Address, to: Address) -> Result<Launch> {
    image.launch("unpatchify", ty, [(from, ty), (to, Type::F32)])
}

/// x = y + positions for every sample. The first `prefix` tokens of x have no y: they are what
/// `positions` has for them.
#[derive(Debug, Clone, Copy)]
pub struct AddPositions {
    /// Of y.
    pub ty: Type,
    /// `[samples, tokens - prefix, width]`
    pub y: Address,
    /// f32 `[tokens, width]`
    pub positions: Address,
    /// f32 `[samples, tokens, width]`
    pub x: Address,
    pub samples: usize,
    pub prefix: usize,
    pub tokens: usize,
    /// A multiple of 4.
    pub width: usize,
}

pub fn add_positions(a: &AddPositions) -> Result<Launch> {
    let kernel = format!("add_positions_{}", a.ty.name());
    if a.samples == 0 || a.samples > 65_535 {
        bail!("`{kernel}` takes 1 to 65,535 samples, not {}", a.samples);
    }
    if a.prefix > a.tokens || !a.width.is_multiple_of(4) {
        bail!("`{kernel}` takes rows of a multiple of four numbers, not {} of {} x {}", a.prefix, a.tokens, a.width);
    }
    let prefix = (a.prefix * a.width) as i64;
    let arguments = vec![a.y.into(), a.positions.into(), a.x.into(), prefix.into()];
    let (count, f32) = (a.tokens * a.width, Type::F32.size());
    let regions = vec![
        Region::read(a.y, a.samples * (a.tokens - a.prefix) * a.width * a.ty.size()),
        Region::read(a.positions, count * f32),
        Region::write(a.x, a.samples * count * f32),
    ];
    let mut launch = flat(kernel, count, arguments, regions)?;
    launch.grid[1] = int(a.samples)?.cast_unsigned();
    Ok(launch)
}

/// Waves `[samples, 256]` of the type from times f32 `[samples]`: cosines, then sines.
pub fn time_sinusoid(ty: Type, times: Address, waves: Address, samples: usize) -> Result<Launch> {
    if samples == 0 {
        bail!("`time_sinusoid` without samples");
    }
    Ok(Launch {
        kernel: format!("time_sinusoid_{}", ty.name()),
        grid: [int(samples)?.cast_unsigned(), 1],
        threads: 32,
        shared: 0,
        arguments: vec![times.into(), waves.into()],
        regions: vec![
            Region::read(times, samples * Type::F32.size()),
            Region::write(waves, samples * SINUSOID * ty.size()),
        ],
        operations: 0,
    })
}

/// The condition: c = time + the row of `table` for the label, and silu(c).
#[derive(Debug, Clone, Copy)]
pub struct ConditionForward {
    /// Of `time` and `active`.
    pub ty: Type,
    /// The embedded times `[samples, width]`.
    pub time: Address,
    /// f32 `[classes, width]`
    pub table: Address,
    pub classes: usize,
    /// u32 `[samples]`, each below `classes`.
    pub labels: Address,
    /// f32 `[samples, width]`, written.
    pub c: Address,
    /// silu(c) `[samples, width]`, written.
    pub active: Address,
    pub samples: usize,
    /// A multiple of 4.
    pub width: usize,
}

pub fn condition_forward(a: &ConditionForward) -> Result<Launch> {
    let arguments =
        vec![a.time.into(), a.table.into(), a.labels.into(), a.c.into(), a.active.into(), int(a.width)?.into()];
    let (numbers, half, f32) = (a.samples * a.width, a.ty.size(), Type::F32.size());
    let regions = vec![
        Region::read(a.time, numbers * half),
        rows_of_labels(Region::read(a.table, a.classes * a.width * f32), a.samples, a.classes),
        Region::read(a.labels, a.samples * LABEL),
        Region::write(a.c, numbers * f32),
        Region::write(a.active, numbers * half),
    ];
    of_rows(format!("condition_forward_{}", a.ty.name()), [a.samples, a.width], arguments, regions)
}

/// dc = dactive silu'(c).
#[derive(Debug, Clone, Copy)]
pub struct ConditionBackward {
    /// Of `dc_half`.
    pub ty: Type,
    /// The gradient of silu(c) `[samples, width]`, of the type `input`.
    pub dactive: Address,
    /// Either `ty` or f32.
    pub input: Type,
    /// f32 `[samples, width]`
    pub c: Address,
    /// f32 `[samples, width]`, written.
    pub dc: Address,
    /// The same in `ty`, written; or null.
    pub dc_half: Address,
    /// samples width, a multiple of 4.
    pub count: usize,
}

pub fn condition_backward(a: &ConditionBackward) -> Result<Launch> {
    let wide = match a.input {
        input if input == a.ty => "",
        Type::F32 => "wide_",
        other => bail!("the gradient of a condition in {} or f32, not {}", a.ty.name(), other.name()),
    };
    let arguments = vec![a.dactive.into(), a.c.into(), a.dc.into(), a.dc_half.into()];
    let bytes = |of: Type| a.count * of.size();
    let regions = vec![
        Region::read(a.dactive, bytes(a.input)),
        Region::read(a.c, bytes(Type::F32)),
        Region::write(a.dc, bytes(Type::F32)),
        Region::write(a.dc_half, bytes(a.ty)),
    ];
    flat(format!("condition_backward_{wide}{}", a.ty.name()), a.count, arguments, regions)
}

/// The row of `dtable` for a sample's label gains its dc; samples with one label in order.
#[derive(Debug, Clone, Copy)]
pub struct LabelRows {
    /// f32 `[samples, width]`
    pub dc: Address,
    /// u32 `[samples]`, each below `classes`.
    pub labels: Address,
    /// f32 `[classes, width]`. Rows without samples stay.
    pub dtable: Address,
    pub classes: usize,
    pub samples: usize,
    /// A multiple of 4.
    pub width: usize,
}

pub fn label_rows_backward(a: &LabelRows) -> Result<Launch> {
    let arguments = vec![a.dc.into(), a.labels.into(), a.dtable.into(), int(a.samples)?.into(), int(a.width)?.into()];
    let f32 = Type::F32.size();
    let regions = vec![
        Region::read(a.dc, a.samples * a.width * f32),
        Region::read(a.labels, a.samples * LABEL),
        rows_of_labels(Region::update(a.dtable, a.classes * a.width * f32), a.samples, a.classes),
    ];
    of_rows("label_rows_backward".into(), [a.samples, a.width], arguments, regions)
}

/// Writes zeros to `count` f32 numbers, a multiple of 4.
pub fn fill_zero(to: Address, count: usize) -> Result<Launch> {
    flat("fill_zero".into(), count, vec![to.into()], vec![Region::write(to, count * Type::F32.size())])
}

/// Bytes of a label.
const LABEL: usize = size_of::<u32>();

/// A table of classes, of which a row for each label is touched; samples may share one.
fn rows_of_labels(table: Region, samples: usize, classes: usize) -> Region {
    table.at_most(table.bytes / classes.max(1) * samples.min(classes))
}
