//! Launches of `optimizer.cu`: norm of gradients, clipping, AdamW and averages on flat buffers, in
//! which each parameter is padded to [`PADDING`] numbers.

use super::scalars::{Results, Scalars};
use super::{blocks, flat, int};
use crate::program::{Address, Argument, Launch, Region, Type};
use candle_core::{Result, bail};

/// Numbers to whose multiples parameters are padded with zeros.
pub const PADDING: usize = 256;
/// Numbers of a partial sum of squares.
const NUMBERS: usize = 65_536;
/// Bytes of a partial sum, and of a number of the flat buffers.
const PARTIAL: usize = size_of::<f64>();
const F32: usize = Type::F32.size();

/// f64 partial sums that [`gradient_norm`] writes for so many gradients.
pub fn partial_count(count: usize) -> usize {
    count.div_ceil(NUMBERS)
}

/// u32 words of a set of [`AdamW::decays`].
pub fn decay_words(count: usize) -> usize {
    count.div_ceil(32 * PADDING)
}

/// Partial sums of squares: f64 `[partial_count(count)]` from f32 `[count]`.
pub fn gradient_norm(gradients: Address, partial: Address, count: usize) -> Result<Launch> {
    let regions = vec![Region::read(gradients, count * F32), Region::write(partial, partial_count(count) * PARTIAL)];
    let launch = flat("gradient_norm".into(), count, vec![gradients.into(), partial.into()], regions)?;
    Ok(Launch { grid: [blocks(count, NUMBERS)?, 1], ..launch })
}

/// Norm, factor and finiteness from partial sums.
#[derive(Debug, Clone, Copy)]
pub struct NormEnd {
    /// f64 `[partial_count]`
    pub partial: Address,
    pub partial_count: usize,
    pub scalars: Scalars,
    /// Losses are read, the three numbers from [`Results::NORM`] on written.
    pub results: Results,
    /// How many of the first results are losses, all of which this step has written.
    pub losses: usize,
}

pub fn gradient_norm_end(a: &NormEnd) -> Result<Launch> {
    if a.partial_count == 0 || a.losses > Results::MOST_LOSSES {
        bail!("{} sums of squares and {} losses", a.partial_count, a.losses);
    }
    Ok(Launch {
        kernel: "gradient_norm_end".into(),
        grid: [1, 1],
        threads: 256,
        shared: 0,
        arguments: vec![
            a.partial.into(),
            int(a.partial_count)?.into(),
            a.scalars.at(Scalars::UNSCALE).into(),
            a.results.at(Results::LOSSES).into(),
            int(a.losses)?.into(),
            a.results.at(Results::NORM).into(),
        ],
        regions: vec![
            Region::read(a.partial, a.partial_count * PARTIAL),
            Region::read(a.scalars.at(Scalars::UNSCALE), 2 * F32),
            // The first number that is not finite ends it.
            Region::read(a.results.at(Results::LOSSES), a.losses * F32).perhaps(),
            Region::write(a.results.at(Results::NORM), 3 * F32),
        ],
        operations: 0,
    })
}

/// An update of weights and moments. Nothing happens where the factor in the results is 0.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// f32 `[count]`
    pub weights: Address,
    /// f32 `[count]`
    pub gradients: Address,
    /// First and second, each f32 `[count]`.
    pub moments: [Address; 2],
    /// A copy of the weights in `ty`, `[count]`; or null.
    pub copy: Address,
    pub ty: Type,
    /// u32 `[decay_words(count)]`. Bit k % 32 of word k / 32 says whether numbers 256 k to 256 k +
    /// 255 decay.
    pub decays: Address,
    pub scalars: Scalars,
    pub results: Results,
    /// A multiple of [`PADDING`].
    pub count: usize,
}

impl AdamW {
    /// A step that is skipped touches nothing but the factor.
    fn regions(&self) -> Vec<Region> {
        let bytes = self.count * F32;
        vec![
            Region::update(self.weights, bytes).perhaps(),
            Region::read(self.gradients, bytes).perhaps(),
            Region::update(self.moments[0], bytes).perhaps(),
            Region::update(self.moments[1], bytes).perhaps(),
            Region::write(self.copy, self.count * self.ty.size()).perhaps(),
            Region::read(self.decays, decay_words(self.count) * size_of::<u32>()).perhaps(),
            Region::read(self.scalars.at(Scalars::UPDATE), 8 * F32).perhaps(),
            Region::read(self.results.at(Results::FACTOR), F32),
        ]
    }
}

pub fn adamw(a: &AdamW) -> Result<Launch> {
    padded(a.count)?;
    let arguments = vec![
        a.weights.into(),
        a.gradients.into(),
        a.moments[0].into(),
        a.moments[1].into(),
        a.copy.into(),
        a.decays.into(),
        a.scalars.at(Scalars::UPDATE).into(),
        a.results.at(Results::FACTOR).into(),
    ];
    flat(format!("adamw_{}", a.ty.name()), a.count, arguments, a.regions())
}

/// An average of weights, f32 `[count]`.
#[derive(Debug, Clone, Copy)]
pub struct Average {
    pub values: Address,
    /// Which of the averages in [`Scalars::AVERAGES`].
    pub index: usize,
}

impl Average {
    fn mix(&self, scalars: Scalars) -> Result<Argument> {
        if self.index >= Scalars::MOST_AVERAGES {
            bail!("at most {} averages of the weights", Scalars::MOST_AVERAGES);
        }
        Ok(scalars.average(self.index).into())
    }

    fn regions(&self, a: &AdamW) -> [Region; 2] {
        [
            Region::update(self.values, a.count * F32).perhaps(),
            Region::read(a.scalars.average(self.index), 2 * F32).perhaps(),
        ]
    }
}

/// [`adamw`], and an average of the new weights in the same pass.
pub fn adamw_average(a: &AdamW, average: &Average) -> Result<Launch> {
    padded(a.count)?;
    let arguments = vec![
        a.weights.into(),
        a.gradients.into(),
        a.moments[0].into(),
        a.moments[1].into(),
        average.values.into(),
        a.copy.into(),
        a.decays.into(),
        a.scalars.at(Scalars::UPDATE).into(),
        a.results.at(Results::FACTOR).into(),
        average.mix(a.scalars)?,
    ];
    let regions = a.regions().into_iter().chain(average.regions(a)).collect();
    flat(format!("adamw_average_{}", a.ty.name()), a.count, arguments, regions)
}

/// A further average of the weights that `a` has updated.
pub fn average(a: &AdamW, average: &Average) -> Result<Launch> {
    padded(a.count)?;
    let (mix, factor) = (average.mix(a.scalars)?, a.results.at(Results::FACTOR));
    let arguments = vec![average.values.into(), a.weights.into(), mix, factor.into()];
    let read = [Region::read(a.weights, a.count * F32).perhaps(), Region::read(factor, F32)];
    flat("average".into(), a.count, arguments, average.regions(a).into_iter().chain(read).collect())
}

fn padded(count: usize) -> Result<()> {
    if !count.is_multiple_of(PADDING) {
        bail!("flat buffers have a multiple of {PADDING} numbers, not {count}");
    }
    Ok(())
}
