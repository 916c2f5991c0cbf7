//! All randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
//! 2011) as a function of (seed, purpose, step, sample).
//!
//! A counter-based generator has no state to save: the noise of sample 17 at step 4000 is the same
//! whatever ran before, on any number of threads or ranks, so a resumed run needs only its step
//! number. candle's CPU generator cannot be seeded.

use candle_core::{Device, Result, Shape, Tensor};

/// What random numbers are used for; keeps the streams of one seed apart. The discriminants affect
/// every result: never renumber, only append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    Init = 1,
    /// Order of the training samples.
    Order = 2,
    /// Noise of the interpolant.
    Noise = 3,
    /// Timesteps.
    Time = 4,
    /// Noise of the VAE posterior.
    Posterior = 5,
    /// Label dropout for classifier-free guidance.
    LabelDrop = 6,
    /// Starting noise of a sampler.
    SampleStart = 7,
    /// Noise of the steps of an SDE sampler.
    SampleNoise = 8,
    /// Labels of generated images.
    SampleLabel = 9,
    /// Image augmentation.
    Augment = 10,
    /// Draws of tests and probes.
    Probe = 11,
    /// Which images a training mirrors.
    Flip = 12,
    /// Posteriors and noise of validation.
    Validation = 13,
    /// Which images are chosen to represent a set.
    Subset = 14,
    /// How much less noise the teacher of a self-alignment sees.
    TeacherTime = 15,
    /// Noise of class tokens.
    ClassNoise = 16,
}

const ROUNDS: usize = 10;

/// One Philox4x32-10 block: 128 bits of counter and 64 of key to 128 random bits.
#[inline]
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// An addressable stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    /// Sample and step. The low word of the counter is the position in the stream.
    sample: u32,
    step: u32,
    extra: u32,
    block: u32,
    buf: [u32; 4],
    used: usize,
}

/// The stream of (seed, purpose, step, sample).
///
/// `step` and `sample` keep 40 and 48 bits, more than any training needs.
pub fn stream(seed: u64, purpose: Purpose, step: u64, sample: u64) -> Stream {
    // One block mixes the purpose and the high bits into the key, so that neighbouring seeds and
    // purposes give unrelated keys.
    let high = ((step >> 32) as u32 & 0xff) << 16 | ((sample >> 32) as u32 & 0xffff);
    let k = philox([seed as u32, (seed >> 32) as u32, purpose as u32, high], [0x4552_5731, 0]);
    Stream { key: [k[0], k[1]], sample: sample as u32, step: step as u32, extra: k[2], block: 0, buf: [0; 4], used: 4 }
}

impl Stream {
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.buf = philox([self.block, self.step, self.sample, self.extra], self.key);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.buf[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform integer in [0, n), by Lemire's multiplication with rejection.
    pub fn below(&mut self, n: u64) -> u64 {
        let n = n.max(1);
        loop {
            let p = u128::from(self.next_u64()) * u128::from(n);
            if p as u64 >= n.wrapping_neg() % n {
                return (p >> 64) as u64;
            }
        }
    }

    /// Two standard normals by Box and Muller. They take a fixed number of words, so the stream
    /// stays addressable.
    fn normal_pair(&mut self) -> (f64, f64) {
        let u = (f64::from(self.next_u32()) + 1.0) * (1.0 / 4_294_967_296.0);
        let v = f64::from(self.next_u32()) * (1.0 / 4_294_967_296.0);
        let r = (-2.0 * u.ln()).sqrt();
        let (s, c) = (std::f64::consts::TAU * v).sin_cos();
        (r * c, r * s)
    }

    /// Fills a slice with standard normals.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let (a, b) = self.normal_pair();
            pair[0] = a as f32;
            if let Some(x) = pair.get_mut(1) {
                *x = b as f32;
            }
        }
    }

    /// A standard normal.
    pub fn normal(&mut self) -> f32 {
        self.normal_pair().0 as f32
    }
}

/// Standard normals `[samples.len(), ..shape]`. Row i comes from the stream of `samples[i]`, so a
/// batch can be split or reordered without changing any sample's noise.
pub fn normal_rows(
    seed: u64,
    purpose: Purpose,
    step: u64,
    samples: &[u64],
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    use rayon::prelude::*;
    let n: usize = shape.iter().product();
    let mut data = vec![0f32; n * samples.len()];
    data.par_chunks_mut(n.max(1)).zip(samples).for_each(|(row, s)| stream(seed, purpose, step, *s).fill_normal(row));
    let mut dims = vec![samples.len()];
    dims.extend(shape);
    Tensor::from_vec(data, Shape::from(dims), device)
}

/// A random order of 0..n, as a function of (seed, epoch).
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut s = stream(seed, Purpose::Order, epoch, 0);
    for i in (1..n).rev() {
        order.swap(i, s.below(i as u64 + 1) as usize);
    }
    order
}

/// A stable 64-bit hash of a name (FNV-1a), which gives each named tensor its own stream.
pub fn name_id(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 1.14 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_moments_and_streams_differ() {
        let mut a = vec![0f32; 200_000];
        stream(3, Purpose::Noise, 5, 7).fill_normal(&mut a);
        let mean = a.iter().map(|x| f64::from(*x)).sum::<f64>() / a.len() as f64;
        let var = a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / a.len() as f64;
        let kurt = a.iter().map(|x| f64::from(*x).powi(4)).sum::<f64>() / a.len() as f64;
        assert!(mean.abs() < 0.01 && (var - 1.0).abs() < 0.02 && (kurt - 3.0).abs() < 0.1, "{mean} {var} {kurt}");
        for other in [
            stream(4, Purpose::Noise, 5, 7),
            stream(3, Purpose::Time, 5, 7),
            stream(3, Purpose::Noise, 6, 7),
            stream(3, Purpose::Noise, 5, 8),
            stream(3, Purpose::Noise, 5, 7 + (1 << 32)),
            stream(3 + (1 << 32), Purpose::Noise, 5, 7),
        ] {
            let mut b = vec![0f32; 1000];
            other.clone().fill_normal(&mut b);
            assert!(a.iter().zip(&b).filter(|(x, y)| x == y).count() < 5);
        }
    }

    #[test]
    fn permutation_is_one_and_differs_by_epoch() {
        let p = permutation(1, 0, 100);
        let mut sorted = p.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
        assert_ne!(p, permutation(1, 1, 100));
        assert_eq!(p, permutation(1, 0, 100));
    }

    #[test]
    fn rows_do_not_depend_on_the_batch() -> Result<()> {
        let d = Device::Cpu;
        let whole = normal_rows(9, Purpose::Noise, 2, &[4, 5, 6], &[3, 2], &d)?;
        let part = normal_rows(9, Purpose::Noise, 2, &[6], &[3, 2], &d)?;
        assert_eq!(whole.get(2)?.flatten_all()?.to_vec1::<f32>()?, part.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
