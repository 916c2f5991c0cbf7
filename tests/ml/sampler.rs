//! The samplers equal the PyTorch originals on a toy field and do not depend on the batch.

use crate::support::golden::Golden;
use candle_core::{DType, Device, Result, Tensor};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::sampler;
use erw::ml::diffusion::sampler::{Labels, Method, SamplerConfig};

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
    sampler::sample(cfg, &g.get("in/z"), &y, &null, &mut |step| eps.get(step as usize), &mut toy).unwrap()
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

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let cfg = SamplerConfig {
        method: Method::Sde,
        steps: 6,
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
        let out = sampler::sample(&cfg, &start, &y, &null, &mut noise, &mut toy).unwrap();
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
