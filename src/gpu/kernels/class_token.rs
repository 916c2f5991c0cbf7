//! Launches of `class_token.cu`: the token that is made of an encoder's class token, and copies of
//! rows to and from the tokens of the network.

use super::{arguments, blocks, flat, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Copies the first `count` numbers of each sample.
#[derive(Debug, Clone, Copy)]
pub struct CopyRows {
    /// Of `to`.
    pub ty: Type,
    /// The first sample, of the type `input`.
    pub from: Address,
    /// Either `ty` or f32.
    pub input: Type,
    pub to: Address,
    /// Numbers from a sample to the next, multiples of 4.
    pub from_step: usize,
    pub to_step: usize,
    pub samples: usize,
    /// A multiple of 4.
    pub count: usize,
}

pub fn copy_rows(a: &CopyRows) -> Result<Launch> {
    let narrow = match a.input {
        input if input == a.ty => "",
        Type::F32 => "narrow_",
        other => bail!("rows in {} from that type or f32, not {}", a.ty.name(), other.name()),
    };
    let steps = [a.from_step, a.to_step];
    if a.samples == 0 || a.samples > 65_535 || steps.iter().any(|step| step % 4 != 0 || *step < a.count) {
        bail!("copies of {} numbers of {} samples that are {steps:?} numbers apart", a.count, a.samples);
    }
    let rows = |region: fn(Address, usize) -> Region, at, ty: Type, step| {
        region(at, a.count * ty.size()).of_rows(a.samples, step * ty.size())
    };
    let regions = vec![rows(Region::read, a.from, a.input, a.from_step), rows(Region::write, a.to, a.ty, a.to_step)];
    let steps = steps.map(|step| (step as i64).into());
    let arguments = arguments([a.from, a.to], &[], steps)?;
    let launch = flat(format!("copy_samples_{narrow}{}", a.ty.name()), a.count, arguments, regions)?;
    Ok(Launch { grid: [launch.grid[0], int(a.samples)?.cast_unsigned()], ..launch })
}

/// LayerNorm of the embedded class tokens, to the first token of each sample of the stream.
#[derive(Debug, Clone, Copy)]
pub struct ClassNorm {
    /// Of y.
    pub ty: Type,
    /// `[samples, width]`
    pub y: Address,
    /// f32 `[width]`
    pub weight: Address,
    pub samples: usize,
    pub tokens: usize,
    /// A multiple of 4.
    pub width: usize,
    pub eps: f32,
}

/// The gradients that [`ClassNorm::backward`] writes.
#[derive(Debug, Clone, Copy)]
pub struct ClassNormGradients {
    /// Like y.
    pub dy: Address,
    /// Parts of samples in the gradients of weight and bias, f32 `[samples, width]`.
    pub weight_of_sample: Address,
    pub bias_of_sample: Address,
}

impl ClassNorm {
    fn launch<const N: usize>(&self, pass: &str, addresses: [Address; N], regions: Vec<Region>) -> Result<Launch> {
        let Self { samples, tokens, width, .. } = *self;
        if samples == 0 || tokens == 0 || width == 0 || !width.is_multiple_of(4) {
            bail!("class tokens of {samples} samples with {tokens} tokens of {width}");
        }
        Ok(Launch {
            kernel: format!("class_norm_{pass}_{}", self.ty.name()),
            grid: [blocks(samples, 8)?, 1],
            threads: 256,
            shared: 0,
            arguments: arguments(addresses, &[samples, width], [((tokens * width) as i64).into(), self.eps.into()])?,
            regions,
            operations: 0,
        })
    }

    /// Rows of y, of f32, and the first token of each sample of a stream.
    fn rows(&self) -> usize {
        self.samples * self.width * self.ty.size()
    }

    fn rows_f32(&self) -> usize {
        self.samples * self.width * Type::F32.size()
    }

    fn first_tokens(&self, region: Region) -> Region {
        region.of_rows(self.samples, self.tokens * self.width * Type::F32.size())
    }

    /// The norm, with `bias` and `position` f32 `[width]` added, to the first token of each sample of `x`
    /// f32 `[samples, tokens, width]`.
    pub fn forward(&self, bias: Address, position: Address, x: Address) -> Result<Launch> {
        let vector = self.width * Type::F32.size();
        let regions = vec![
            Region::read(self.y, self.rows()),
            Region::read(self.weight, vector),
            Region::read(bias, vector),
            Region::read(position, vector),
            self.first_tokens(Region::write(x, vector)),
        ];
        self.launch("forward", [self.y, self.weight, bias, position, x], regions)
    }

    /// From the gradient `dx` of x.
    pub fn backward(&self, dx: Address, to: &ClassNormGradients) -> Result<Launch> {
        let ClassNormGradients { dy, weight_of_sample, bias_of_sample } = *to;
        let vector = self.width * Type::F32.size();
        let regions = vec![
            self.first_tokens(Region::read(dx, vector)),
            Region::read(self.y, self.rows()),
            Region::read(self.weight, vector),
            Region::write(dy, self.rows()),
            Region::write(weight_of_sample, self.rows_f32()),
            Region::write(bias_of_sample, self.rows_f32()),
        ];
        self.launch("backward", [dx, self.y, self.weight, dy, weight_of_sample, bias_of_sample], regions)
    }
}
