//! Metrics against SciPy and against their definitions.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::metrics::frechet::{between, frechet_distance};
use erw::ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL};
use erw::ml::metrics::stats::Stats;
use erw::ml::weights::{self, Tensors};
use faer::MatRef;
use std::path::Path;

use crate::support::arrays::write_arrays;
use crate::support::golden::hashed;

const CPU: Device = Device::Cpu;

fn golden(name: &str) -> Result<Tensors> {
    weights::load(&Path::new("tests/golden").join(name), &CPU)
}

fn number(t: &Tensor) -> Result<f64> {
    t.to_dtype(DType::F64)?.to_scalar()
}

#[test]
fn frechet_distance_equals_scipy() -> Result<()> {
    let g = golden("frechet.safetensors")?;
    for (tag, tolerance) in [("full", 1e-8), ("singular", 1e-5)] {
        let v = |name: &str| g[&format!("in/{tag}_{name}")].flatten_all()?.to_vec1::<f64>();
        let (s1, s2) = (v("sigma1")?, v("sigma2")?);
        let (s1, s2) = (MatRef::from_row_major_slice(&s1, 64, 64), MatRef::from_row_major_slice(&s2, 64, 64));
        let want = number(&g[&format!("out/{tag}_eigh")])?;
        let got = frechet_distance(&v("mu1")?, s1, &v("mu2")?, s2)?;
        assert!((got - want).abs() < tolerance, "{tag}: {got} {want}");
        // From the features themselves, in uneven batches, in two halves that are merged.
        let stats = |name: &str| -> Result<Stats> {
            let x = &g[&format!("in/{tag}_{name}")];
            let (mut a, mut b) = (Stats::new(64), Stats::new(64));
            a.push(&x.narrow(0, 0, 7)?)?;
            a.push(&x.narrow(0, 7, 1)?)?;
            b.push(&x.narrow(0, 8, x.dim(0)? - 8)?)?;
            a.merge(&b)?;
            Ok(a)
        };
        let got = between(&stats("features1")?, &stats("features2")?)?;
        assert!((got - want).abs() < tolerance, "{tag} from features: {got} {want}");
    }
    Ok(())
}

/// 2048 dimensions, as Inception has, made from hashed numbers.
#[test]
fn frechet_distance_is_exact_at_full_width() -> Result<()> {
    let mut stats = vec![];
    for (name, power) in [("frechet0", 1), ("frechet1", 2)] {
        let x = hashed(name, 3000 * 2048).iter().map(|x| f64::from(*x).abs().powi(power)).collect();
        let mut s = Stats::new(2048);
        s.push(&Tensor::from_vec::<_, f64>(x, (3000, 2048), &CPU)?)?;
        stats.push(s);
    }
    let (got, want) = (between(&stats[0], &stats[1])?, number(&golden("frechet.safetensors")?["out/wide_eigh"])?);
    assert!((got / want - 1.0).abs() < 1e-8, "{got} {want}");
    Ok(())
}

#[test]
fn statistics_refuse_what_would_spoil_them() -> Result<()> {
    let mut s = Stats::new(2);
    assert!(s.covariance().is_err());
    assert!(s.push(&Tensor::zeros((3, 3), DType::F32, &CPU)?).is_err());
    let text = s.push(&Tensor::new(&[[0f32, 1.0], [f32::NAN, 0.0]], &CPU)?).unwrap_err().to_string();
    assert!(text.contains("feature 0 of sample 1"), "{text}");
    assert_eq!(s.count(), 0);
    s.push(&Tensor::new(&[[1f32, 1.0], [1.0, 1.0]], &CPU)?)?;
    // Two equal samples: no variance, and no distance to themselves.
    assert!(between(&s, &s)?.abs() < 1e-12);
    Ok(())
}

#[test]
fn published_statistics_are_checked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stats.npz");
    let read = |mu: (Vec<usize>, Vec<f64>), sigma: (Vec<usize>, Vec<f64>)| {
        write_arrays(&path, &[("mu", mu.0, mu.1), ("sigma", sigma.0, sigma.1)]);
        Gaussian::read(&path, POOLED)
    };
    let mu = (vec![2], vec![1.0, 2.0]);
    let good = read(mu.clone(), (vec![2, 2], vec![2.0, 1.0, 1.0, 3.0]))?;
    assert_eq!((good.mean(), good.covariance()[(1, 1)]), (&[1.0, 2.0][..], 3.0));
    for (mu, sigma, expected) in [
        (mu.clone(), (vec![2, 2], vec![2.0, 1.0, 1.5, 3.0]), "not symmetric: entries (0, 1) and (1, 0)"),
        (mu.clone(), (vec![2, 2], vec![2.0, 1.0, f64::NAN, 3.0]), "entry (1, 0) of the covariance is not finite"),
        (mu.clone(), (vec![2, 2], vec![-2.0, 1.0, 1.0, 3.0]), "feature 0 a negative variance"),
        (mu.clone(), (vec![2, 1], vec![2.0, 1.0]), "`mu` has 2 numbers, `sigma` 2 x 1"),
        (mu.clone(), (vec![4], vec![0.0; 4]), "have shapes [2] and [4], not [d] and [d, d]"),
        ((vec![2], vec![f64::INFINITY, 0.0]), (vec![2, 2], vec![0.0; 4]), "entry 0 of the mean is not finite"),
        ((vec![0], vec![]), (vec![0, 0], vec![]), "do not belong together"),
    ] {
        let error = read(mu, sigma).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("stats.npz"), "{error}");
    }
    let error = Gaussian::read(&path, SPATIAL).unwrap_err().to_string();
    assert!(error.contains("no array `mu_s`, but mu, sigma"), "{error}");
    Ok(())
}
