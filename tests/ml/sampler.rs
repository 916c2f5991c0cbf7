//! The samplers equal the PyTorch originals on a toy field and do not depend on the batch.

use crate::support::golden::Golden;
use candle_core::{DType, Device, Result, Tensor};
use erw::ml::diffusion::dopri5::{Tolerance, integrate};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::sampler;
use erw::ml::diffusion::sampler::{Away, Labels, Method, SamplerConfig};
use erw::ml::nn::params;
use std::path::Path as FilePath;

const CPU: Device = Device::Cpu;

/// v = (0.3 + 0.5 t) x + 0.2 tanh(x) cos(3 t) + 0.4 sin(y + 1)
fn toy(x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Tensor> {
    let column = |v: Tensor| v.reshape(((), 1, 1, 1));
    let (t, y) = (column(t.clone())?, column(y.to_dtype(DType::F32)?)?);
    let linear = x.broadcast_mul(&((&t * 0.5)? + 0.3)?)?;
    let bent = (x.tanh()? * 0.2)?.broadcast_mul(&(t * 3.0)?.cos()?)?;
    (linear + bent)?.broadcast_add(&((y + 1.0)?.sin()? * 0.4)?)
}

fn run(g: &Golden, cfg: &SamplerConfig) -> Tensor {
    let y = g.get("in/y").to_dtype(DType::U32).unwrap();
    let null = Tensor::full(1000u32, 2, &CPU).unwrap();
    let eps = g.get("in/eps");
    sampler::sample(cfg, &g.get("in/z"), &y, Away::Classes(&null), &mut |step| eps.get(step as usize), &mut toy)
        .unwrap()
}

#[test]
fn every_method_equals_the_original() {
    let g = Golden::open("samplers");
    let mut cases = 0;
    for (name, want) in g.group("out") {
        let parts: Vec<&str> = name.split('_').collect();
        let [kind, variant, scale, low, high] = parts[..] else { panic!("odd golden name {name}") };
        let (method, path, steps) = match (kind, variant) {
            ("ode", "euler") => (Method::OdeEuler, Path::Linear, 10),
            ("ode", "heun") => (Method::OdeHeun, Path::Linear, 10),
            ("sde", "linear") => (Method::Sde, Path::Linear, 12),
            ("sde", "cosine") => (Method::Sde, Path::Cosine, 12),
            _ => panic!("odd golden name {name}"),
        };
        let cfg = SamplerConfig {
            method,
            steps,
            shift: None,
            atol: None,
            rtol: None,
            cfg_scale: scale.strip_prefix("cfg").unwrap().parse().unwrap(),
            guidance_low: low.parse().unwrap(),
            guidance_high: high.parse().unwrap(),
            path,
        };
        let got = run(&g, &cfg);
        assert_eq!(got.dtype(), DType::F64);
        g.assert_close(&name, &got, &want, "out");
        cases += 1;
    }
    assert_eq!(cases, 10);
}

/// A weaker network: 0.7 v - 0.1 x.
fn weaker(x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Tensor> {
    (toy(x, t, y)? * 0.7)? - (x * 0.1)?
}

/// The solver alone, on the toy in f64, with and without a jump where guidance sets in and ends.
#[test]
fn the_adaptive_solver_equals_torchdiffeq() {
    let g = sampling();
    let rows = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_from(1).unwrap().to_vec2::<f64>().unwrap();
    let classes = g["in/y"].to_vec1::<i64>().unwrap();
    let toy = |x: f64, t: f64, y: f64| (x * (t * 0.5 + 0.3)) + x.tanh() * 0.2 * (t * 3.0).cos() + (y + 1.0).sin() * 0.4;
    let mut cases = 0;
    for (name, want) in g.iter().filter_map(|(name, t)| Some((name.strip_prefix("solver/")?, t))) {
        let (guide, numbers) = name.split_once('_').unwrap();
        let [low, high, absolute, relative] =
            numbers.split('_').map(|n| n.parse::<f64>().unwrap()).collect::<Vec<_>>()[..]
        else {
            panic!("odd golden name {name}")
        };
        let velocity = |x: f64, t: f64, row: usize| {
            let own = toy(x, t, classes[row] as f64);
            let guided = guide == "null" && (low..=high).contains(&t.max(0.0));
            if guided { toy(x, t, 1000.0) + 2.2 * (own - toy(x, t, 1000.0)) } else { own }
        };
        let mut slopes = |ids: &[usize], times: &[f64], points: &[Vec<f64>]| {
            let slope = |i: usize| points[i].iter().map(|x| -velocity(*x, 1.0 - times[i], ids[i])).collect();
            Ok((0..ids.len()).map(slope).collect::<Vec<Vec<f64>>>())
        };
        let got = integrate(rows(&g["in/z"]), Tolerance { absolute, relative }, &mut slopes).unwrap();
        let pairs = got.concat().into_iter().zip(rows(want).concat());
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-7, "{name}: {off:e}");
        cases += 1;
    }
    assert_eq!(cases, 6);
}

fn sampling() -> params::Tensors {
    let file = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sampling/sampling.safetensors");
    params::load(&file, &CPU).unwrap()
}

/// `tests/golden/sampling/make.py` says what they are of.
#[test]
fn adaptive_and_shifted_samplers_equal_torchdiffeq_and_diffusers() {
    let g = sampling();
    let y = g["in/y"].to_dtype(DType::U32).unwrap();
    let null = Tensor::full(1000u32, 3, &CPU).unwrap();
    let mut cases = 0;
    for (name, want) in g.iter().filter_map(|(name, t)| Some((name.strip_prefix("out/")?, t))) {
        let parts: Vec<&str> = name.split('_').collect();
        let number = |i: usize| parts[i].parse::<f64>().unwrap();
        let adaptive = parts[0] == "dopri5";
        let cfg = SamplerConfig {
            method: if adaptive { Method::OdeDopri5 } else { Method::OdeEuler },
            steps: 8,
            shift: (!adaptive).then(|| number(5)),
            atol: adaptive.then(|| number(5)),
            rtol: adaptive.then(|| number(6)),
            cfg_scale: number(2),
            guidance_low: number(3),
            guidance_high: number(4),
            path: Path::Linear,
        };
        let mut weaker = weaker;
        let away = if parts[1] == "network" { Away::Network(&mut weaker) } else { Away::Classes(&null) };
        let mut noise = |_| -> Result<Tensor> { panic!("an ODE draws no noise") };
        let got = sampler::sample(&cfg, &g["in/z"], &y, away, &mut noise, &mut toy).unwrap();
        let off = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        // Rounding of the toy changes the steps of a solver: noise of its size in PyTorch moves these
        // samples by up to 0.017. The times of diffusers are f32, too.
        let bound = if adaptive { 0.03 } else { 2e-6 };
        assert!(off < bound, "{name}: {off:e}");
        cases += 1;
    }
    assert_eq!(cases, 20);
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    [Method::Sde, Method::OdeDopri5].into_iter().for_each(batch_makes_no_difference);
}

fn batch_makes_no_difference(method: Method) {
    let cfg = SamplerConfig {
        method,
        steps: 6,
        shift: None,
        atol: None,
        rtol: None,
        cfg_scale: 1.5,
        guidance_low: 0.0,
        guidance_high: 0.9,
        path: Path::Linear,
    };
    let images = |ids: &[u64]| {
        let shape = [2, 3, 3];
        let y: Vec<u32> = ids.iter().map(|i| Labels::Random.of(4, *i, 10)).collect();
        let start = sampler::start_noise(4, ids, &shape, &CPU).unwrap();
        let null = Tensor::full(10u32, ids.len(), &CPU).unwrap();
        let mut noise = |step| sampler::step_noise(4, step, ids, &shape, &CPU);
        let y = Tensor::new(y, &CPU).unwrap();
        let out = sampler::sample(&cfg, &start, &y, Away::Classes(&null), &mut noise, &mut toy).unwrap();
        out.flatten_from(1).unwrap().to_vec2::<f64>().unwrap()
    };
    let whole = images(&[0, 1, 2, 3, 4]);
    assert_eq!(whole[3], images(&[3])[0]);
    assert_eq!(whole[1..3], images(&[1, 2])[..]);
    assert_ne!(whole[0], whole[1]);
}

#[test]
fn labels_are_balanced_or_random() {
    let of = |kind: Labels| (0..100).map(|i| kind.of(1, i, 10)).collect::<Vec<_>>();
    assert!((0..10).all(|c| of(Labels::Balanced).iter().filter(|l| **l == c).count() == 10));
    let random = of(Labels::Random);
    assert!(random.iter().all(|l| *l < 10) && random != of(Labels::Balanced));
}
