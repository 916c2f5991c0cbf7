//! Launches of `loss.cu`: losses with their gradients, and the z-score of features.

use super::embedding::Image;
use super::{arguments, blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Widths of rows that stay in registers.
const WIDTHS: [usize; 5] = [128, 384, 768, 1024, 1152];
/// Numbers of a partial sum of the velocity loss.
const NUMBERS: usize = 4096;
/// Places of a partial sum of the velocity loss with its cosine.
const PLACES: usize = 1024;
/// Rows of a partial sum of the cosine loss.
const ROWS: usize = 32;
/// Bytes of a partial sum.
const PARTIAL: usize = size_of::<f64>();

/// Squared error of predicted tokens against a target in image layout.
#[derive(Debug, Clone, Copy)]
pub struct VelocityLoss {
    pub image: Image,
    /// Of `out` and `dout`.
    pub ty: Type,
    /// Tokens `[samples, tokens, patch patch channels]`.
    pub out: Address,
    /// f32 `[samples, channels, side, side]`
    pub target: Address,
    /// An f32 number, see [`Scalars::VELOCITY_FACTOR`](super::scalars::Scalars::VELOCITY_FACTOR).
    pub factor: Address,
    /// 2 factor (out - target), like `out`; or null. May be `out`.
    pub dout: Address,
    /// f64 `[partial_count]`
    pub partial: Address,
    /// The loss of the velocity's direction beside it.
    pub cosine: Option<VelocityCosine>,
}

/// Mean over places of 1 - cosine of out and target over channels. Its gradient is added to `dout`.
#[derive(Debug, Clone, Copy)]
pub struct VelocityCosine {
    /// An f32 number, see
    /// [`Scalars::VELOCITY_COSINE_FACTOR`](super::scalars::Scalars::VELOCITY_COSINE_FACTOR).
    pub factor: Address,
    /// f64 `[partial_count]`
    pub partial: Address,
}

/// Numbers of [`VelocityLoss::partial`] for these images, and of [`VelocityCosine::partial`] if there is
/// one.
pub fn velocity_partials(image: &Image, cosine: bool) -> usize {
    if cosine { image.places().div_ceil(PLACES) } else { image.count().div_ceil(NUMBERS) }
}

/// Numbers of [`CosineLoss::partial`] for so many rows.
pub fn cosine_partials(rows: usize) -> usize {
    rows.div_ceil(ROWS)
}

impl VelocityLoss {
    /// Numbers of `partial`.
    pub fn partial_count(&self) -> usize {
        velocity_partials(&self.image, self.cosine.is_some())
    }
}

pub fn velocity_loss(a: &VelocityLoss) -> Result<Launch> {
    let image = &a.image;
    image.check()?;
    let (factor, partial) = (a.cosine.map(|c| c.factor), a.cosine.map(|c| c.partial));
    let addresses = [a.out, a.target, a.factor].into_iter().chain(factor).chain([a.dout, a.partial]).chain(partial);
    let (kernel, count) = match a.cosine {
        None => (format!("velocity_loss_{}", a.ty.name()), image.count()),
        Some(_) => (format!("velocity_cosine_loss_{}_any", a.ty.name()), image.places()),
    };
    let arguments = arguments(addresses, &[image.channels, image.side, image.patch], [(count as i64).into()])?;
    let grid = [int(a.partial_count())?.cast_unsigned(), 1];
    let (numbers, null) = (image.count(), Address::NULL);
    let regions = vec![
        Region::read(a.out, numbers * a.ty.size()),
        Region::read(a.target, numbers * Type::F32.size()),
        Region::read(a.factor, Type::F32.size()),
        Region::read(factor.unwrap_or(null), Type::F32.size()),
        Region::write(a.dout, numbers * a.ty.size()),
        Region::write(a.partial, a.partial_count() * PARTIAL),
        Region::write(partial.unwrap_or(null), a.partial_count() * PARTIAL),
    ];
    Ok(Launch { kernel, grid, threads: 256, shared: 0, arguments, regions, operations: 0 })
}

/// Negative cosine of projections and features, row by row.
#[derive(Debug, Clone, Copy)]
pub struct CosineLoss {
    /// Of `projections` and `dprojections`.
    pub ty: Type,
    /// `[rows, width]`
    pub projections: Address,
    /// `[rows, width]`, of the type `features_type`.
    pub features: Address,
    /// Either `ty` or f32.
    pub features_type: Type,
    /// An f32 number, see [`Scalars::ALIGNMENT_FACTOR`](super::scalars::Scalars::ALIGNMENT_FACTOR).
    pub factor: Address,
    /// factor times the gradient of the sum over rows, `[rows, width]`; or null. May be
    /// `projections`.
    pub dprojections: Address,
    /// f64 `[partial_count]`
    pub partial: Address,
    pub rows: usize,
    /// A multiple of 4.
    pub width: usize,
}

impl CosineLoss {
    /// Numbers of `partial`.
    pub fn partial_count(&self) -> usize {
        cosine_partials(self.rows)
    }
}

pub fn cosine_loss(a: &CosineLoss) -> Result<Launch> {
    if a.rows == 0 || a.width == 0 || !a.width.is_multiple_of(4) {
        bail!("the cosine loss takes rows of a multiple of four numbers, not {} rows of {}", a.rows, a.width);
    }
    let wide = match a.features_type {
        features if features == a.ty => "",
        Type::F32 => "wide_",
        other => bail!("features for projections in {} have that type or f32, not {}", a.ty.name(), other.name()),
    };
    let width = if WIDTHS.contains(&a.width) { a.width.to_string() } else { "any".into() };
    Ok(Launch {
        kernel: format!("cosine_loss_{wide}{}_{width}", a.ty.name()),
        grid: [blocks(a.rows, ROWS)?, 1],
        threads: 256,
        shared: 0,
        arguments: vec![
            a.projections.into(),
            a.features.into(),
            a.factor.into(),
            a.dprojections.into(),
            a.partial.into(),
            int(a.rows)?.into(),
            int(a.width)?.into(),
        ],
        regions: vec![
            Region::read(a.projections, a.rows * a.width * a.ty.size()),
            Region::read(a.features, a.rows * a.width * a.features_type.size()),
            Region::read(a.factor, Type::F32.size()),
            Region::write(a.dprojections, a.rows * a.width * a.ty.size()),
            Region::write(a.partial, a.partial_count() * PARTIAL),
        ],
        operations: 0,
    })
}

/// The mean of a loss from its partial sums.
#[derive(Debug, Clone, Copy)]
pub struct LossEnd {
    /// f64 `[count]`
    pub partial: Address,
    pub count: usize,
    /// An f32 number, a slot of [`Results`](super::scalars::Results).
    pub result: Address,
    /// What the sum is divided by: terms of a micro-batch, times encoders.
    pub terms: usize,
    /// Whether the mean is added to the result: for a further encoder.
    pub add: bool,
}

pub fn loss_end(a: &LossEnd) -> Result<Launch> {
    if a.count == 0 || a.terms == 0 {
        bail!("a loss without terms");
    }
    let result = if a.add { Region::update } else { Region::write };
    Ok(Launch {
        kernel: "loss_end".into(),
        grid: [1, 1],
        threads: 256,
        shared: 0,
        arguments: vec![
            a.partial.into(),
            a.result.into(),
            int(a.count)?.into(),
            (a.terms as i64).into(),
            i32::from(a.add).into(),
        ],
        regions: vec![Region::read(a.partial, a.count * PARTIAL), result(a.result, Type::F32.size())],
        operations: 0,
    })
}

/// (x - alpha mean) / (deviation + 1e-6) over the tokens of a sample, for each channel.
#[derive(Debug, Clone, Copy)]
pub struct ZScore {
    pub ty: Type,
    /// `[samples, tokens, width]`
    pub x: Address,
    /// Like x. May be x.
    pub y: Address,
    pub samples: usize,
    /// At least 2.
    pub tokens: usize,
    /// A multiple of 4.
    pub width: usize,
    pub alpha: f32,
}

pub fn z_score(a: &ZScore) -> Result<Launch> {
    if a.tokens < 2 {
        bail!("a standard deviation over tokens needs at least two tokens");
    }
    if a.samples == 0 || a.samples > 65_535 || a.width == 0 || !a.width.is_multiple_of(4) {
        bail!("a z-score takes 1 to 65,535 samples of 4 k channels, not {} of {}", a.samples, a.width);
    }
    let bytes = a.samples * a.tokens * a.width * a.ty.size();
    Ok(Launch {
        kernel: format!("z_score_{}", a.ty.name()),
        grid: [blocks(a.width, 128)?, int(a.samples)?.cast_unsigned()],
        threads: 256,
        shared: 0,
        arguments: vec![a.x.into(), a.y.into(), int(a.tokens)?.into(), int(a.width)?.into(), a.alpha.into()],
        regions: vec![Region::read(a.x, bytes), Region::write(a.y, bytes)],
        operations: 0,
    })
}
