//! Networks and machines of the tests of whole lists of commands.

use candle_core::{DType, Device, Tensor};
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::nn::params::ParamSet;
use erw::ml::nn::precision::Precision;
use erw::ml::rng::{self, Purpose};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

const CPU: Device = Device::Cpu;

/// Two heads of 64, 16 tokens, three blocks: every kernel of a large network in its fixed width.
pub fn config() -> SiTConfig {
    SiTConfig {
        input_size: 8,
        in_channels: 4,
        patch_size: 2,
        hidden: 128,
        depth: 3,
        heads: 2,
        mlp_ratio: 2.0,
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        num_classes: 5,
        class_dropout: 0.1,
        z_dims: vec![128],
        projector: Default::default(),
        projector_dim: 64,
        encoder_depth: vec![2],
        rope: false,
        qk_norm: false,
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: None,
    }
}

/// A network whose layers are far from zero, also those that begin as zeros.
pub fn network(config: &SiTConfig, precision: Precision) -> (ParamSet, SiT) {
    let (params, vb) = ParamSet::init(3, DType::F32, &CPU);
    let model = SiT::new(config, vb).unwrap().with_precision(precision);
    move_away(&params);
    (params, model)
}

/// Moves parameters away from zeros and ones.
pub fn move_away(params: &ParamSet) {
    for (i, (name, var)) in params.vars().into_iter().enumerate() {
        let noise = rng::normal_rows(5, Purpose::Probe, 0, &[i as u64], var.dims(), &CPU).unwrap().get(0).unwrap();
        let scale = if name.ends_with("norm.weight") { 0.2 } else { 0.05 };
        var.set(&(var.as_tensor() + (noise * scale).unwrap()).unwrap()).unwrap();
    }
}

pub fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(7, Purpose::Probe, 1, &[tag], shape, &CPU).unwrap().get(0).unwrap()
}

/// The distance of two tensors, relative to the second.
pub fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let number = |t: &Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
    assert_eq!(got.dims(), want.dims());
    number(&(got - want).unwrap()) / number(want)
}

/// A machine that counts what is allocated.
pub struct Counting {
    card: Arc<dyn Machine>,
    bytes: Arc<AtomicUsize>,
}

impl Counting {
    pub fn new(card: Arc<dyn Machine>) -> Self {
        Self { card, bytes: Arc::default() }
    }

    pub fn allocated(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The count, for who gives the machine away.
    pub fn counter(&self) -> Arc<AtomicUsize> {
        self.bytes.clone()
    }
}

impl Machine for Counting {
    fn allocate(&self, bytes: usize) -> candle_core::Result<Address> {
        self.bytes.fetch_add(bytes, Relaxed);
        self.card.allocate(bytes)
    }
    fn write(&self, to: Address, bytes: &[u8]) -> candle_core::Result<()> {
        self.card.write(to, bytes)
    }
    fn read(&self, from: Address, bytes: &mut [u8]) -> candle_core::Result<()> {
        self.card.read(from, bytes)
    }
    fn run(&self, program: &Program) -> candle_core::Result<()> {
        self.card.run(program)
    }
}
