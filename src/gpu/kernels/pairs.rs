//! Launches of `pairs.cu`: losses over pairs of images of a batch.

use super::{arguments, blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Images whose cosines fit the shared memory that a kernel gets without asking, 48 KiB with 1,280
/// bytes of its own.
pub const MOST_IMAGES: usize = 1496;

/// Warps of a block of NT-Xent. A warp takes a row.
const WARPS: usize = 4;

/// NT-Xent of projections and features, token by token.
#[derive(Debug, Clone, Copy)]
pub struct NtXent {
    /// Of `projections` and `dprojections`.
    pub ty: Type,
    /// `[images, tokens, width]`
    pub projections: Address,
    /// f32 `[images, tokens, width]`
    pub features: Address,
    /// An f32 number, see [`Scalars::ALIGNMENT_FACTOR`](super::scalars::Scalars::ALIGNMENT_FACTOR).
    pub factor: Address,
    /// factor times the gradient of the sum over rows, like `projections`; or null. May be
    /// `projections`.
    pub dprojections: Address,
    /// f64 `[nt_xent_partials]`
    pub partial: Address,
    pub images: usize,
    pub tokens: usize,
    /// A multiple of 4.
    pub width: usize,
    pub temperature: f64,
}

/// Numbers of [`NtXent::partial`] for so many rows.
pub fn nt_xent_partials(rows: usize) -> usize {
    rows.div_ceil(WARPS)
}

pub fn nt_xent(a: &NtXent) -> Result<Launch> {
    let NtXent { images, tokens, width, temperature, .. } = *a;
    if !(2..=MOST_IMAGES).contains(&images) || tokens == 0 || width == 0 || !width.is_multiple_of(4) {
        bail!("NT-Xent of {images} images with {tokens} tokens of {width}: it takes 2 to {MOST_IMAGES}, widths of 4 k");
    }
    if temperature.is_nan() || temperature <= 0.0 {
        bail!("NT-Xent with temperature {temperature}");
    }
    let (count, one) = (images * tokens * width, Type::F32.size());
    let factor = if a.dprojections == Address::NULL { Address::NULL } else { a.factor };
    let regions = vec![
        Region::read(a.projections, count * a.ty.size()),
        Region::read(a.features, count * one),
        Region::read(factor, one),
        Region::write(a.dprojections, count * a.ty.size()),
        Region::write(a.partial, nt_xent_partials(images * tokens) * size_of::<f64>()),
    ];
    Ok(Launch {
        kernel: format!("nt_xent_{}", a.ty.name()),
        grid: [blocks(images * tokens, WARPS)?, 1],
        threads: 32 * WARPS as u32,
        shared: int(WARPS * 2 * images * 4)?.cast_unsigned(),
        arguments: arguments(
            [a.projections, a.features, a.factor, a.dprojections, a.partial],
            &[images, tokens, width],
            [((1.0 / temperature) as f32).into()],
        )?,
        regions,
        operations: 0,
    })
}

/// The passes of the dispersive loss beside its two products.
#[derive(Debug, Clone, Copy)]
pub struct Dispersive {
    pub images: usize,
    /// Numbers of an image's state, a multiple of 4.
    pub width: usize,
    pub temperature: f64,
}

impl Dispersive {
    fn rate(&self) -> Result<f32> {
        let Self { images, width, temperature } = *self;
        if images < 2 || width == 0 || !width.is_multiple_of(4) || temperature.is_nan() || temperature <= 0.0 {
            bail!("a dispersive loss of {images} images with states of {width} and temperature {temperature}");
        }
        Ok((1.0 / (width as f64 * temperature)) as f32)
    }

    /// A block a row.
    fn rows<const N: usize>(&self, kernel: &str, addresses: [Address; N], regions: Vec<Region>) -> Result<Launch> {
        let arguments = arguments(addresses, &[self.images], [self.rate()?.into()])?;
        let grid = [int(self.images)?.cast_unsigned(), 1];
        Ok(Launch { kernel: kernel.to_owned(), grid, threads: 256, shared: 0, arguments, regions, operations: 0 })
    }

    /// Bytes of a number for each pair of images, and of a partial sum for each image.
    fn sizes(&self) -> [usize; 2] {
        [self.images * self.images * Type::F32.size(), self.images * size_of::<f64>()]
    }

    /// States f32 `[images, width]` less their mean.
    pub fn centre(&self, states: Address, centred: Address) -> Result<Launch> {
        self.rate()?;
        let bytes = self.images * self.width * Type::F32.size();
        Ok(Launch {
            regions: vec![Region::read(states, bytes), Region::write(centred, bytes)],
            operations: 0,
            kernel: "centre_images".to_owned(),
            grid: [blocks(self.width, 1024)?, 1],
            threads: 256,
            shared: 0,
            arguments: arguments([states, centred], &[self.images], [(self.width as i64).into()])?,
        })
    }

    /// From the products f32 `[images, images]` of the centred states to e^(-distance), `pairs` like
    /// `products`; `partial` f64 `[images]`.
    pub fn pairs(&self, products: Address, pairs: Address, partial: Address) -> Result<Launch> {
        let [of_pairs, of_images] = self.sizes();
        let regions =
            vec![Region::read(products, of_pairs), Region::write(pairs, of_pairs), Region::write(partial, of_images)];
        self.rows("dispersive_pairs", [products, pairs, partial], regions)
    }

    /// The loss to `result`, an f32 number. `pairs` becomes what the centred states are multiplied by
    /// for `factor` times the gradient.
    pub fn end(&self, pairs: Address, partial: Address, factor: Address, result: Address) -> Result<Launch> {
        let ([of_pairs, of_images], one) = (self.sizes(), Type::F32.size());
        let regions = vec![
            // That of an image with itself is written alone.
            Region::update(pairs, of_pairs).perhaps(),
            Region::read(partial, of_images),
            Region::read(factor, one),
            Region::write(result, one),
        ];
        self.rows("dispersive_end", [pairs, partial, factor, result], regions)
    }
}
