//! The Fréchet distance and its statistics, against SciPy and the definition.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::metrics::frechet::{between, between_gaussians, frechet_distance};
use erw::ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL};
use erw::ml::metrics::stats::Stats;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use faer::{Mat, MatRef};
use std::path::Path;

use crate::ml::representation_metrics::normals;
use crate::support::arrays::write_arrays;
use crate::support::golden::hashed;

const CPU: Device = Device::Cpu;

fn golden(name: &str) -> Result<Tensors> {
    params::load(&Path::new("tests/golden").join(name), &CPU)
}

fn number(t: &Tensor) -> Result<f64> {
    t.to_dtype(DType::F64)?.to_scalar()
}

#[test]
fn frechet_distance_equals_scipy() -> Result<()> {
    let g = golden("frechet.safetensors")?;
    for (tag, tolerance) in [("full", 1e-10), ("singular", 1e-5)] {
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

/// Q D Q^T for the reflection Q along hashed numbers: covariances of known square roots that no
/// computation sees to commute.
fn reflected(d: &[f64]) -> Mat<f64> {
    let v = hashed("reflection", d.len());
    let length: f64 = v.iter().map(|x| f64::from(*x).powi(2)).sum();
    let q = Mat::from_fn(d.len(), d.len(), |i, j| {
        f64::from(u8::from(i == j)) - 2.0 * f64::from(v[i]) * f64::from(v[j]) / length
    });
    let half = Mat::from_fn(d.len(), d.len(), |i, j| q[(i, j)] * d[j]);
    half * q.transpose()
}

#[test]
fn frechet_distance_holds_for_covariances_without_full_rank() -> Result<()> {
    const D: usize = 48;
    let at = |f: &dyn Fn(usize) -> f64| (0..D).map(f).collect::<Vec<f64>>();
    let falling = |digits: f64| at(&|j| 10f64.powf(-digits * j as f64 / (D - 1) as f64));
    let shuffled = |d: Vec<f64>| at(&|j| 3.0 * d[j * 7 % D]);
    for (name, d1, d2, tolerance) in [
        ("well conditioned", falling(1.0), shuffled(falling(1.0)), 1e-13),
        ("condition 1e8", falling(8.0), shuffled(falling(8.0)), 1e-13),
        // What is below the rounding of the largest variance is lost in the input already; its root
        // is not small.
        ("condition 1e16", falling(16.0), shuffled(falling(16.0)), 1e-8),
        ("condition 1e24", falling(24.0), shuffled(falling(24.0)), 1e-8),
        ("third of the rank", at(&|j| if j < 16 { 1.0 + j as f64 } else { 0.0 }), at(&|j| (j % 2) as f64), 1e-13),
        ("rank 1 and full", at(&|j| if j == 5 { 4.0 } else { 0.0 }), falling(1.0), 1e-13),
        ("nothing in common", at(&|j| (j % 2) as f64), at(&|j| ((j + 1) % 2) as f64), 1e-13),
        ("no variance", at(&|_| 0.0), falling(1.0), 1e-13),
        ("no variance in either", at(&|_| 0.0), at(&|_| 0.0), 0.0),
        ("equal", falling(8.0), falling(8.0), 1e-13),
    ] {
        let mean = at(&|j| j as f64 / 16.0);
        let traces: f64 = d1.iter().chain(&d2).sum();
        let want = 47.0 / 256.0 + d1.iter().zip(&d2).map(|(a, b)| (a.sqrt() - b.sqrt()).powi(2)).sum::<f64>();
        let other = at(&|j| mean[j] + if j > 0 { 1.0 / 16.0 } else { 0.0 });
        let (s1, s2) = (reflected(&d1), reflected(&d2));
        let got = frechet_distance(&mean, s1.as_ref(), &other, s2.as_ref())?;
        assert!((got - want).abs() <= tolerance * traces, "{name}: {got} {want}");
        let back = frechet_distance(&other, s2.as_ref(), &mean, s1.as_ref())?;
        assert!((got - back).abs() <= tolerance * traces, "{name}, the other way: {got} {back}");
        let same = frechet_distance(&mean, s1.as_ref(), &mean, s1.as_ref())?;
        assert!((0.0..=1e-13 * traces).contains(&same), "{name} and itself: {same}");
    }
    Ok(())
}

/// Of fewer samples than dimensions, the trace is the sum of the singular values of the product of
/// all centred samples, which no covariance comes into.
#[test]
fn frechet_distance_of_few_samples_equals_that_without_covariances() -> Result<()> {
    let g = golden("frechet.safetensors")?;
    let [x, y] = ["features1", "features2"].map(|name| &g[&format!("in/singular_{name}")]);
    let centre = |x: &Tensor| -> Result<Mat<f64>> {
        let x = x.broadcast_sub(&x.mean_keepdim(0)?)?.to_vec2::<f64>()?;
        let scale = 1.0 / ((x.len() - 1) as f64).sqrt();
        Ok(Mat::from_fn(x.len(), x[0].len(), |i, j| x[i][j] * scale))
    };
    let (a, b) = (centre(x)?, centre(y)?);
    let nuclear: f64 = (&a * b.transpose()).singular_values().unwrap().iter().sum();
    let between_means = number(&(x.mean(0)? - y.mean(0)?)?.sqr()?.sum_all()?)?;
    let want = between_means + a.squared_norm_l2() + b.squared_norm_l2() - 2.0 * nuclear;
    let got = between(&stats_of(x, 40)?, &stats_of(y, 40)?)?;
    assert!((got / want - 1.0).abs() < 1e-11, "{got} {want}");
    Ok(())
}

/// Of the rows of `x`, so many at a time.
fn stats_of(x: &Tensor, batch: usize) -> Result<Stats> {
    let (n, dim) = x.dims2()?;
    let mut stats = Stats::new(dim);
    for first in (0..n).step_by(batch) {
        stats.push(&x.narrow(0, first, batch.min(n - first))?)?;
    }
    Ok(stats)
}

#[test]
fn frechet_distance_does_not_depend_on_order_batches_or_threads() -> Result<()> {
    const D: usize = 60;
    let (x, y) = (normals(1, 200, D)?, (normals(2, 90, D)? * 1.5)?);
    let of = |x: &Tensor, batch: usize| between(&stats_of(x, batch)?, &stats_of(&y, 90)?);
    let value = of(&x, 200)?;
    let back = Tensor::from_vec((0..200u32).rev().collect::<Vec<_>>(), 200, &CPU)?;
    for other in [of(&x, 1)?, of(&x, 64)?, of(&x.index_select(&back, 0)?, 37)?] {
        assert!((other / value - 1.0).abs() < 1e-12, "{other} {value}");
    }
    // Wide enough for work to be shared out.
    let [s1, s2] = [0.5, 4.0].map(|f| reflected(&(0..300).map(|j| (f * j as f64).sin() + 1.1).collect::<Vec<_>>()));
    let mean = vec![0.0; 300];
    let wide = || frechet_distance(&mean, s1.as_ref(), &mean, s2.as_ref());
    let once = wide()?;
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| of(&x, 200))?, value, "{threads} threads");
        assert_eq!(pool.install(wide)?, once, "{threads} threads");
    }
    Ok(())
}

#[test]
fn statistics_of_batches_equal_numpy() -> Result<()> {
    let x = normals(3, 20, 5)?;
    let mut whole = Stats::new(5);
    whole.push(&x.narrow(0, 0, 12)?)?;
    whole.push(&x.narrow(0, 12, 8)?)?;
    assert_eq!(whole.count(), 20);
    // As numpy.cov: over n - 1.
    let covariance = whole.covariance()?;
    let centred = x.to_dtype(DType::F64)?.broadcast_sub(&x.to_dtype(DType::F64)?.mean_keepdim(0)?)?;
    let want = (centred.t()?.matmul(&centred)? / 19.0)?.to_vec2::<f64>()?;
    for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
        assert!((covariance[(i, j)] - want[i][j]).abs() < 1e-14, "({i}, {j})");
    }
    Ok(())
}

#[test]
fn statistics_refuse_invalid_features() -> Result<()> {
    let mut s = Stats::new(2);
    assert!(s.covariance().is_err());
    assert!(s.push(&Tensor::zeros((3, 3), DType::F32, &CPU)?).is_err());
    let text = s.push(&Tensor::new(&[[0f32, 1.0], [f32::NAN, 0.0]], &CPU)?).unwrap_err().to_string();
    assert!(text.contains("feature 0 of sample 1"), "{text}");
    assert_eq!(s.count(), 0);
    s.push(&Tensor::new(&[[1f32, 1.0], [1.0, 1.0]], &CPU)?)?;
    // Two equal samples: no variance, and no distance to themselves.
    assert_eq!(between(&s, &s)?, 0.0);
    let mut one = Stats::new(2);
    one.push(&Tensor::new(&[[0f32, 1.0]], &CPU)?)?;
    let text = between(&one, &s).unwrap_err().to_string();
    assert!(text.starts_with("a covariance needs at least 2 samples, got 1"), "{text}");
    Ok(())
}

/// The factorisation ends at the first negative pivot, and what lies behind it would go unnoticed.
#[test]
fn a_covariance_with_negative_eigenvalues_is_refused() -> Result<()> {
    let gaussian = |sigma: [f64; 4]| Gaussian::new(vec![0.0; 2], faer::Mat::from_fn(2, 2, |i, j| sigma[2 * i + j]));
    let good = gaussian([1.0, 0.5, 0.5, 1.0])?;
    let bad = gaussian([1.0, 2.0, 2.0, 1.0])?;
    for (a, b, which) in [(&bad, &good, "first"), (&good, &bad, "second")] {
        let text = between_gaussians(a, b).unwrap_err().to_string();
        let expected = format!("the covariance of the {which} set has negative eigenvalues, so it is not a covariance");
        assert_eq!(text.lines().next(), Some(expected.as_str()));
    }
    // Sums in f32 leave a little below 0.
    assert!(between_gaussians(&gaussian([1.0, 1.0 + 1e-6, 1.0 + 1e-6, 1.0])?, &good)? > 0.0);
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
        (mu.clone(), (vec![2, 1], vec![2.0, 1.0]), "`mu` has dimension 2, but `sigma` is 2 x 1"),
        (mu.clone(), (vec![4], vec![0.0; 4]), "must have shapes [d] and [d, d], not [2] and [4]"),
        ((vec![2], vec![f64::INFINITY, 0.0]), (vec![2, 2], vec![0.0; 4]), "entry 0 of the mean is not finite"),
        ((vec![0], vec![]), (vec![0, 0], vec![]), "does not match a covariance of"),
    ] {
        let error = read(mu, sigma).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("stats.npz"), "{error}");
    }
    let error = Gaussian::read(&path, SPATIAL).unwrap_err().to_string();
    assert!(error.contains("it has no array `mu_s`, but mu, sigma"), "{error}");
    Ok(())
}
