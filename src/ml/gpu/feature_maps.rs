//! Networks over feature maps as commands for a GPU, forward only: convolutions, group norms,
//! attention over pixels, pooling. Maps lie with channels last, padded with zeros to a multiple of
//! 8, so that all kernels read 16 bytes at a time and a convolution is one product.
//!
//! A network says its layers to a [`Builder`] once, with the memory of its largest batch. The memory
//! of a map is given back as soon as nobody reads it any more, and the next map takes it; so the
//! memory of a network is known from its shapes alone. What a batch of another size runs is the same
//! commands with other counts.
//!
//! Does not know which networks there are; [`super::vae`] and [`super::inception`] do.

use super::arena::Arena;
use super::map_memory::MapMemory;
use crate::kernels::avg_pool::Pool;
use crate::kernels::conv::Padding;
use crate::kernels::group_norm::{Activation, GroupNorm};
use crate::kernels::linear::Affine;
use crate::nn::Linear;
use candle_core::{Result, Tensor, bail};
use erw_gpu::kernels::convolution::Convolution;
use erw_gpu::kernels::planes::{self, padded};
use erw_gpu::kernels::pooling::{Pooling, Windows, mean_of_pixels};
use erw_gpu::kernels::{group_norm, softmax};
use erw_gpu::program::{Address, Form, Launch, Matmul, Program, Type};

/// A feature map `[batch, height, width, padded(channels)]`.
#[derive(Debug)]
pub struct Map {
    at: Address,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Map {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Numbers of a sample.
    fn count(&self) -> usize {
        self.pixels() * padded(self.channels)
    }
}

/// A convolution, perhaps with ReLU.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// `[outputs, channels, height, width]`
    pub weight: &'a Tensor,
    /// `[outputs]`
    pub bias: Option<&'a Tensor>,
    pub stride: usize,
    pub padding: Padding,
    pub relu: bool,
    /// Doubles the map before, by nearest neighbour.
    pub upsample: bool,
}

/// Part of the rows of a map: its first number, and numbers from one row to the next.
#[derive(Debug, Clone, Copy)]
struct Slice {
    at: Address,
    pitch: usize,
}

/// Adds the commands of a layer for so many samples.
pub type Step = Box<dyn Fn(usize, &mut Program) -> Result<()> + Send>;

/// Where a parameter goes, with the kernel's order and type.
pub struct Parameter {
    pub at: Address,
    pub tensor: Tensor,
    pub ty: Type,
}

/// Takes the layers of a network, in order.
pub struct Builder {
    ty: Type,
    /// Samples of the largest batch.
    batch: usize,
    pub weights: Arena,
    pub memory: MapMemory,
    pub parameters: Vec<Parameter>,
    pub steps: Vec<Step>,
    /// Planes f32 of the input, and `[channels, height, width]`.
    pub input: Option<(Address, [usize; 3])>,
    /// Planes f32 of each output.
    pub outputs: Vec<(Address, [usize; 3])>,
}

impl Builder {
    /// With space for weights and maps from these addresses on.
    pub fn new(ty: Type, batch: usize, weights: Address, maps: Address) -> Self {
        let memory = MapMemory::at(maps);
        let weights = Arena::at(weights);
        Self { ty, batch, weights, memory, parameters: vec![], steps: vec![], input: None, outputs: vec![] }
    }

    fn bytes(&self, numbers: usize, ty: Type) -> usize {
        (self.batch * numbers * ty.size()).next_multiple_of(256)
    }

    fn map(&mut self, height: usize, width: usize, channels: usize) -> Map {
        let map = Map { at: Address::NULL, height, width, channels };
        let bytes = self.bytes(map.count(), self.ty);
        Map { at: self.memory.take(bytes), ..map }
    }

    /// Gives the memory of a map back.
    pub fn free(&mut self, map: Map) {
        let bytes = self.bytes(map.count(), self.ty);
        self.memory.give_back(map.at, bytes);
    }

    /// A parameter in the order of the kernels, padded in its first and last dimension.
    fn parameter(&mut self, tensor: Tensor, ty: Type) -> Address {
        let mut dims = tensor.dims().to_vec();
        let last = dims.len().saturating_sub(1);
        for i in [0, last] {
            dims[i] = padded(dims[i]);
        }
        let at = self.weights.take(dims.iter().product(), ty);
        self.parameters.push(Parameter { at, tensor, ty });
        at
    }

    fn step(&mut self, step: impl Fn(usize, &mut Program) -> Result<()> + Send + 'static) {
        self.steps.push(Box::new(step));
    }

    fn launch(&mut self, launch: impl Fn(usize) -> Result<Launch> + Send + 'static) {
        self.step(move |samples, program| {
            program.launch(launch(samples)?);
            Ok(())
        });
    }

    /// What goes into the network, f32 `[samples, channels, height, width]`.
    pub fn input(&mut self, [channels, height, width]: [usize; 3]) -> Map {
        let bytes = self.bytes(channels * height * width, Type::F32);
        let from = self.memory.take(bytes);
        let map = self.map(height, width, channels);
        let (at, ty) = (map.at, self.ty);
        self.launch(move |n| planes::channels_last(from, at, [n, channels, height * width], ty));
        self.input = Some((from, [channels, height, width]));
        self.memory.give_back(from, bytes);
        map
    }

    /// What comes out, f32 `[samples, channels, height, width]`; several in order.
    pub fn output(&mut self, map: &Map) {
        let Map { at, height, width, channels } = *map;
        let bytes = self.bytes(channels * height * width, Type::F32);
        let (to, ty) = (self.memory.take(bytes), self.ty);
        self.launch(move |n| planes::planes(at, to, [n, channels, height * width], ty));
        self.outputs.push((to, [channels, height, width]));
    }

    /// A convolution to a map of its own, to which `residual` is added.
    ///
    /// # Errors
    /// A layer that does not fit the map.
    pub fn convolution(&mut self, layer: &Layer, x: &Map, residual: Option<&Map>) -> Result<Map> {
        let (out, outputs) = shapes(layer, x)?;
        let y = self.map(out[0], out[1], outputs);
        let to = Slice { at: y.at, pitch: padded(outputs) };
        self.convolution_to(layer, x, residual.map_or(Address::NULL, |map| map.at), to)?;
        Ok(y)
    }

    /// The same of a map that is not needed afterwards.
    ///
    /// # Errors
    /// As [`convolution`](Self::convolution).
    pub fn convolved(&mut self, layer: &Layer, x: Map) -> Result<Map> {
        let y = self.convolution(layer, &x, None)?;
        self.free(x);
        Ok(y)
    }

    fn convolution_to(&mut self, layer: &Layer, x: &Map, residual: Address, to: Slice) -> Result<()> {
        let (out, outputs) = shapes(layer, x)?;
        let dims = layer.weight.dims();
        let convolution = Convolution {
            x: x.at,
            weight: self.parameter(layer.weight.permute((0, 2, 3, 1))?, self.ty),
            bias: layer.bias.map_or(Address::NULL, |bias| self.parameter(bias.clone(), Type::F32)),
            residual,
            y: to.at,
            samples: self.batch,
            size: [x.height, x.width],
            channels: padded(x.channels),
            out,
            outputs: padded(outputs),
            pitch: to.pitch,
            kernel: [dims[2], dims[3]],
            stride: layer.stride,
            pad: [layer.padding.top, layer.padding.left],
            upsample: layer.upsample,
            relu: layer.relu,
            ty: self.ty,
        };
        convolution.launch()?;
        self.launch(move |samples| Convolution { samples, ..convolution }.launch());
        Ok(())
    }

    /// A linear layer over the channels of each pixel, to which `residual` is added.
    ///
    /// # Errors
    /// A layer that does not fit the map.
    pub fn linear(&mut self, layer: &Linear, x: &Map, residual: Option<&Map>) -> Result<Map> {
        let Affine { weight, bias } = Affine::from(layer);
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.reshape((outputs, inputs, 1, 1))?;
        let layer = Layer {
            weight: &weight,
            bias: Some(&bias),
            stride: 1,
            padding: Padding::NONE,
            relu: false,
            upsample: false,
        };
        self.convolution(&layer, x, residual)
    }

    /// A group normalisation with its activation, to a map of its own.
    ///
    /// # Errors
    /// Channels that the kernels do not take.
    pub fn norm(&mut self, norm: &GroupNorm, x: &Map) -> Result<Map> {
        let y = self.map(x.height, x.width, x.channels);
        self.norm_to(norm, x, y.at)?;
        Ok(y)
    }

    /// The same in place.
    ///
    /// # Errors
    /// Channels that the kernels do not take.
    pub fn norm_in_place(&mut self, norm: &GroupNorm, x: &Map) -> Result<()> {
        self.norm_to(norm, x, x.at)
    }

    fn norm_to(&mut self, norm: &GroupNorm, x: &Map, y: Address) -> Result<()> {
        let launches = group_norm::GroupNorm {
            x: x.at,
            y,
            weight: self.parameter(norm.weight.clone(), Type::F32),
            bias: self.parameter(norm.bias.clone(), Type::F32),
            space: Address::NULL,
            samples: self.batch,
            pixels: x.pixels(),
            channels: padded(x.channels),
            real: x.channels,
            groups: norm.groups,
            eps: norm.eps,
            silu: norm.activation == Activation::Silu,
            ty: self.ty,
        };
        let bytes = (launches.space() * Type::F32.size()).next_multiple_of(256);
        let launches = group_norm::GroupNorm { space: self.memory.take(bytes), ..launches };
        launches.launches()?;
        self.step(move |samples, program| {
            let launches = group_norm::GroupNorm { samples, ..launches }.launches()?;
            launches.into_iter().for_each(|launch| program.launch(launch));
            Ok(())
        });
        self.memory.give_back(launches.space, bytes);
        Ok(())
    }

    /// Attention of every pixel to every pixel of its sample, with one head: `x` plus `out` of the
    /// mixed values of `h`. A sample at a time, so that only the scores of one lie in memory.
    ///
    /// # Errors
    /// A number of pixels that is no multiple of 4.
    pub fn attention(&mut self, [q, k, v, out]: [&Linear; 4], h: Map, x: &Map) -> Result<Map> {
        let (pixels, width) = (h.pixels(), padded(h.channels));
        if !pixels.is_multiple_of(4) {
            bail!("attention over {pixels} pixels, which is no multiple of 4");
        }
        let [queries, keys, values] = [self.linear(q, &h, None)?, self.linear(k, &h, None)?, self.linear(v, &h, None)?];
        let (ty, scale) = (self.ty, 1.0 / (h.channels as f64).sqrt());
        let bytes = |ty: Type| (pixels * pixels * ty.size()).next_multiple_of(256);
        let scores = self.memory.take(bytes(Type::F32));
        let shares = if ty == Type::F32 { scores } else { self.memory.take(bytes(ty)) };
        let [of_q, of_k, of_v, mixed] = [queries.at, keys.at, values.at, h.at];
        self.step(move |samples, program| {
            for sample in 0..samples {
                let of = |map: Address| map.offset(sample * pixels * width * ty.size());
                let places = [of(of_q), of(of_k), scores];
                let product = Matmul::new(Form::Nt, [pixels, pixels, width], places, ty);
                program.matmul(Matmul { output: Type::F32, ..product });
                program.launch(softmax::softmax(scores, shares, [pixels, pixels], scale, ty)?);
                let places = [shares, of(of_v), of(mixed)];
                program.matmul(Matmul::new(Form::Nn, [pixels, width, pixels], places, ty));
            }
            Ok(())
        });
        self.memory.give_back(scores, bytes(Type::F32));
        if shares != scores {
            self.memory.give_back(shares, bytes(ty));
        }
        [queries, keys, values].into_iter().for_each(|map| self.free(map));
        let y = self.linear(out, &h, Some(x))?;
        self.free(h);
        Ok(y)
    }

    /// Pooling over windows of 3 x 3.
    ///
    /// # Errors
    /// A map that is too small.
    pub fn pool(&mut self, pool: Pool, x: &Map) -> Result<Map> {
        let [height, width] = [x.height, x.width].map(|side| windows(pool).side(side));
        let y = self.map(height, width, x.channels);
        let to = Slice { at: y.at, pitch: padded(x.channels) };
        self.pool_to(pool, x, to)?;
        Ok(y)
    }

    fn pool_to(&mut self, pool: Pool, x: &Map, to: Slice) -> Result<()> {
        let pooling = Pooling {
            windows: windows(pool),
            x: x.at,
            y: to.at,
            samples: self.batch,
            size: [x.height, x.width],
            channels: padded(x.channels),
            pitch: to.pitch,
            ty: self.ty,
        };
        pooling.launch()?;
        self.launch(move |samples| Pooling { samples, ..pooling }.launch());
        Ok(())
    }

    /// The mean over the pixels of each sample, as a map of one pixel.
    ///
    /// # Errors
    /// A network in a half type.
    pub fn mean(&mut self, x: &Map) -> Result<Map> {
        if self.ty != Type::F32 {
            bail!("a mean over pixels in {}", self.ty.name());
        }
        let y = self.map(1, 1, x.channels);
        let (from, to, pixels, channels) = (x.at, y.at, x.pixels(), padded(x.channels));
        self.launch(move |n| mean_of_pixels(from, to, [n, pixels, channels], Type::F32));
        Ok(y)
    }

    /// Results of several layers beside each other, in one map. Each is of a map.
    ///
    /// # Errors
    /// Results of different sizes, or of channels that are no multiple of 8.
    pub fn beside(&mut self, parts: &[(Part, &Map)]) -> Result<Map> {
        let mut sizes = vec![];
        for (part, x) in parts {
            let (size, channels) = match part {
                Part::Layer(layer) => shapes(layer, x)?,
                Part::Pool(pool) => ([x.height, x.width].map(|side| windows(*pool).side(side)), x.channels),
            };
            if channels != padded(channels) || sizes.first().is_some_and(|(first, _)| *first != size) {
                bail!("a result of {channels} channels and {size:?} pixels beside others");
            }
            sizes.push((size, channels));
        }
        let Some(([height, width], _)) = sizes.first().copied() else { bail!("no parts") };
        let y = self.map(height, width, sizes.iter().map(|(_, channels)| channels).sum());
        let mut to = Slice { at: y.at, pitch: y.channels };
        for ((part, x), (_, channels)) in parts.iter().zip(sizes) {
            match part {
                Part::Layer(layer) => self.convolution_to(layer, x, Address::NULL, to)?,
                Part::Pool(pool) => self.pool_to(*pool, x, to)?,
            }
            to.at = to.at.offset(channels * self.ty.size());
        }
        Ok(y)
    }
}

/// A layer whose result lies beside others.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    Layer(Layer<'a>),
    Pool(Pool),
}

fn windows(pool: Pool) -> Windows {
    match pool {
        Pool::Average => Windows::Mean,
        Pool::Max => Windows::Max,
        Pool::MaxHalving => Windows::MaxHalving,
    }
}

/// Height and width of a convolution's result, and its channels.
fn shapes(layer: &Layer, x: &Map) -> Result<([usize; 2], usize)> {
    let (outputs, channels, height, width) = layer.weight.dims4()?;
    let zoom = if layer.upsample { 2 } else { 1 };
    let Padding { top, bottom, left, right } = layer.padding;
    let side = |side: usize, pad: usize, kernel: usize| {
        (side * zoom + pad).checked_sub(kernel).map(|rest| rest / layer.stride.max(1) + 1)
    };
    let out = (side(x.height, top + bottom, height), side(x.width, left + right, width));
    match (out, channels == x.channels) {
        ((Some(height), Some(width)), true) => Ok(([height, width], outputs)),
        _ => bail!("a convolution {:?} of maps {} x {} x {}", layer.weight.dims(), x.height, x.width, x.channels),
    }
}
