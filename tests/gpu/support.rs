//! Tensors on an emulated card, and runs under every schedule.

#[cfg(not(feature = "cuda"))]
use erw_emulator::{Emulator, Schedule};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};
use std::sync::Arc;

/// The types of which every kernel has a version.
pub const TYPES: [Type; 3] = [Type::Bf16, Type::F16, Type::F32];

/// Normal numbers with deviation 1, the same for the same seed.
pub fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut uniform = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut one = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| one() as f32).collect()
}

/// The numbers rounded to a type, as f32.
pub fn round_all(x: &[f32], ty: Type) -> Vec<f32> {
    ty.decode(&ty.encode(x))
}

/// A new tensor with these numbers, rounded to the type.
pub fn upload(card: &dyn Machine, x: &[f32], ty: Type) -> Address {
    let at = card.allocate(x.len() * ty.size()).unwrap();
    card.write(at, &ty.encode(x)).unwrap();
    at
}

/// A new tensor of u32.
pub fn upload_words(card: &dyn Machine, words: &[u32]) -> Address {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let at = card.allocate(bytes.len()).unwrap();
    card.write(at, &bytes).unwrap();
    at
}

/// A new tensor of NaN.
pub fn unwritten(card: &dyn Machine, count: usize, ty: Type) -> Address {
    card.allocate(count * ty.size()).unwrap()
}

pub fn download(card: &dyn Machine, at: Address, count: usize, ty: Type) -> Vec<f32> {
    let mut bytes = vec![0; count * ty.size()];
    card.read(at, &mut bytes).unwrap();
    ty.decode(&bytes)
}

/// An output of a program: where, how many numbers, of which type.
pub type Output = (Address, usize, Type);

/// Makes and runs a program three times, checks that it gives the same bits, and returns the
/// outputs: on the emulated card under three schedules, or in builds with CUDA on the real one.
pub fn run(make: impl Fn(&dyn Machine) -> (Program, Vec<Output>)) -> Vec<Vec<f32>> {
    let results = cards().map(|card| {
        let (program, outputs) = make(&*card);
        card.run(&program).unwrap();
        outputs.into_iter().map(|(at, count, ty)| download(&*card, at, count, ty)).collect::<Vec<_>>()
    });
    let bits = |r: &Vec<Vec<f32>>| r.iter().map(|t| t.iter().map(|x| x.to_bits()).collect()).collect::<Vec<Vec<u32>>>();
    assert!(results.windows(2).all(|w| bits(&w[0]) == bits(&w[1])), "runs give different bits");
    let [first, ..] = results;
    first
}

#[cfg(not(feature = "cuda"))]
fn cards() -> [Arc<dyn Machine>; 3] {
    [Schedule::First, Schedule::Last, Schedule::Random(7)].map(|s| Arc::new(Emulator::new(s)) as Arc<dyn Machine>)
}

#[cfg(feature = "cuda")]
fn cards() -> [Arc<dyn Machine>; 3] {
    std::array::from_fn(|_| Arc::new(erw_gpu::card::Card::new(0).unwrap()) as Arc<dyn Machine>)
}

/// A card for one test: emulated, or in builds with CUDA the real one.
pub fn card() -> Arc<dyn Machine> {
    let [card, ..] = cards();
    card
}

/// The largest difference from f64 values, relative to the largest of them.
pub fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f64, |a, b| a.max(b.abs()));
    let apart = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs());
    // NaN is no maximum: count it as an infinite error.
    apart.fold(0f64, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) }) / largest.max(1e-30)
}

/// What rounding to a type costs, relative: half a unit in the last place.
pub fn epsilon(ty: Type) -> f64 {
    match ty {
        Type::Bf16 => 1.0 / 256.0,
        Type::F16 => 1.0 / 2048.0,
        Type::F32 => 1.0 / 16_777_216.0,
    }
}
