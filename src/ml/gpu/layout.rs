//! Where each parameter lies in the flat buffers of weights, gradients, moments and averages, which
//! all have the same order.
//!
//! ```text
//! adaLN weights of blocks 0..L and of the final layer    one product makes all modulations
//! their biases
//! class table, norms                                     what kernels read in f32
//! everything else, by name
//! projectors                                             at the end: they rest when nothing is aligned
//! ```
//!
//! Each of these regions and parameters begins at a multiple of 256 numbers, so that a bit per 256
//! numbers says what decays. The gaps are zero and stay zero.

use crate::models::sit::SiTConfig;
use crate::models::sit::release::HEADS;
use candle_core::{Result, Shape, bail};
use erw_gpu::kernels::optimizer::PADDING;
use std::collections::BTreeMap;
use std::ops::Range;

/// A parameter's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// In numbers.
    pub first: usize,
    pub dims: Vec<usize>,
}

impl Place {
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Whether kernels read a parameter in f32, whatever the type of the products.
fn is_read_in_f32(name: &str) -> bool {
    let norms = [".q_norm.", ".k_norm.", ".norm1.", ".norm2.", ".norm_final.", "wg_norm."];
    name == CLASS_TABLE || norms.iter().any(|norm| name.contains(norm))
}

/// The class table.
pub const CLASS_TABLE: &str = "y_embedder.embedding_table.weight";

/// Whether a parameter rests in steps without alignment, and is not needed for the velocity.
pub fn is_projector(name: &str) -> bool {
    HEADS.iter().any(|head| name.starts_with(head))
}

/// The places of all parameters.
#[derive(Debug, Clone)]
pub struct Layout {
    places: BTreeMap<String, Place>,
    read_in_f32: Range<usize>,
    /// Numbers before the projectors, and in all.
    network: usize,
    count: usize,
}

impl Layout {
    /// For the parameters that a SiT requests, with their shapes.
    pub fn new(config: &SiTConfig, shapes: &BTreeMap<String, Shape>) -> Result<Self> {
        let modulated: Vec<String> = (0..config.blocks())
            .map(|i| format!("blocks.{i}.adaLN_modulation.1"))
            .chain(config.warmup_depth.is_none().then(|| "final_layer.adaLN_modulation.1".to_string()))
            .collect();
        let mut next = 0;
        let mut places = BTreeMap::new();
        let mut put = |name: &str, next: &mut usize| -> Result<()> {
            let Some(shape) = shapes.get(name) else { bail!("a SiT without parameter {name}") };
            places.insert(name.to_string(), Place { first: *next, dims: shape.dims().to_vec() });
            *next += shape.elem_count();
            Ok(())
        };
        for part in ["weight", "bias"] {
            for layer in &modulated {
                put(&format!("{layer}.{part}"), &mut next)?;
            }
            next = next.next_multiple_of(PADDING);
        }
        let is_modulation = |name: &str| modulated.iter().any(|layer| name.starts_with(layer.as_str()));
        let rest: Vec<&String> = shapes.keys().filter(|name| !is_modulation(name)).collect();
        let mut lay = |region: fn(&str) -> bool, next: &mut usize| -> Result<()> {
            for name in rest.iter().filter(|name| region(name)) {
                put(name, next)?;
                *next = next.next_multiple_of(PADDING);
            }
            Ok(())
        };
        let first = next;
        lay(is_read_in_f32, &mut next)?;
        let read_in_f32 = first..next;
        lay(|name| !is_read_in_f32(name) && !is_projector(name), &mut next)?;
        let network = next;
        lay(is_projector, &mut next)?;
        Ok(Self { places, read_in_f32, network, count: next })
    }

    /// For the parameters of another network, by name.
    pub fn plain(shapes: &BTreeMap<String, Shape>) -> Self {
        let mut next = 0;
        let place = |(name, shape): (&String, &Shape)| {
            let place = Place { first: next, dims: shape.dims().to_vec() };
            next = (next + shape.elem_count()).next_multiple_of(PADDING);
            (name.clone(), place)
        };
        let places = shapes.iter().map(place).collect();
        Self { places, read_in_f32: 0..next, network: next, count: next }
    }

    /// Numbers of a flat buffer.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The numbers that kernels read in f32, whatever the type of the products.
    pub fn read_in_f32(&self) -> Range<usize> {
        self.read_in_f32.clone()
    }

    /// Numbers before the projectors.
    pub fn network(&self) -> usize {
        self.network
    }

    /// # Errors
    /// A name that is no parameter.
    pub fn place(&self, name: &str) -> Result<&Place> {
        match self.places.get(name) {
            Some(place) => Ok(place),
            None => bail!("a network without parameter {name}"),
        }
    }

    /// All parameters by name.
    pub fn places(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.places.iter().map(|(name, place)| (name.as_str(), place))
    }

    /// A bit for every 256 numbers: whether they decay, by the name and the rank of their parameter.
    pub fn decays(&self, decays: impl Fn(&str, usize) -> bool) -> Vec<u32> {
        let mut words = vec![0u32; (self.count / PADDING).div_ceil(32)];
        for (name, place) in self.places() {
            if decays(name, place.dims.len()) {
                // A region may hold parts of several parameters in one group; they have one rule.
                for group in place.first / PADDING..(place.first + place.count()).div_ceil(PADDING) {
                    words[group / 32] |= 1 << (group % 32);
                }
            }
        }
        words
    }
}
