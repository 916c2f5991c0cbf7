//! The contrastive losses and the normalisation of features equal their formulas, and their
//! gradients finite differences.

use candle_core::{DType, Device, Tensor, Var};
use erw::ml::diffusion::loss;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use std::slice::from_ref;

const CPU: Device = Device::Cpu;

/// Normal numbers of a stream named by `tag`, with a common part that distances must not see.
fn normal(tag: u64, shape: &[usize]) -> Tensor {
    (rng::normal_rows(8, Purpose::Probe, 0, &[tag], shape, &CPU).unwrap().get(0).unwrap() + 0.5).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn number(t: &Tensor) -> f64 {
    f64::from(t.to_scalar::<f32>().unwrap())
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() < tolerance, "{what}: {got} against {want}");
}

/// Holds the gradient of `loss` at `x` to differences of `reference` along random directions, in
/// f64.
fn check_slopes(what: &str, x: &Tensor, loss: &dyn Fn(&Tensor) -> Tensor, reference: &dyn Fn(&[f64]) -> f64) {
    let var = Var::from_tensor(x).unwrap();
    let grads = loss(&var).backward().unwrap();
    let grad = numbers(grads.get(&var).expect("a gradient"));
    let at = numbers(x);
    for tag in 0..3 {
        let direction = numbers(&normal(50 + tag, x.dims()));
        let moved = |h: f64| reference(&at.iter().zip(&direction).map(|(a, d)| a + h * d).collect::<Vec<_>>());
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        let exact: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let size = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(size > 1e-4, "{what}: the gradient is all but zero");
        close(what, exact, slope, 1e-4 * size.max(1.0));
    }
}

/// The formula on `[B, N, Z]` numbers, one term after the other.
fn nt_xent(features: &[f64], projections: &[f64], [b, n, z]: [usize; 3], temperature: f64) -> f64 {
    let token = |all: &[f64], image: usize, place: usize| {
        let x = &all[(image * n + place) * z..][..z];
        let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        x.iter().map(|v| v / norm).collect::<Vec<f64>>()
    };
    let score = |i: usize, j: usize, place: usize| -> f64 {
        let (p, f) = (token(projections, i, place), token(features, j, place));
        p.iter().zip(&f).map(|(p, f)| p * f).sum::<f64>() / temperature
    };
    let term = |i: usize, place: usize| {
        let all: f64 = (0..b).map(|j| score(i, j, place).exp()).sum();
        -(score(i, i, place).exp() / all).ln()
    };
    (0..b * n).map(|k| term(k / n, k % n)).sum::<f64>() / (b * n) as f64
}

#[test]
fn nt_xent_equals_its_formula() {
    let dims = [3, 4, 5];
    let (f, p) = (normal(1, &dims), normal(2, &dims));
    let (other_f, other_p) = (normal(3, &[3, 4, 2]), normal(4, &[3, 4, 2]));
    for temperature in [0.1, 0.7] {
        let got = loss::nt_xent(from_ref(&f), from_ref(&p), temperature).unwrap();
        let want = nt_xent(&numbers(&f), &numbers(&p), dims, temperature);
        close("one encoder", number(&got), want, 1e-5 * want.abs().max(1.0));
        let both = loss::nt_xent(&[f.clone(), other_f.clone()], &[p.clone(), other_p.clone()], temperature).unwrap();
        let other = nt_xent(&numbers(&other_f), &numbers(&other_p), [3, 4, 2], temperature);
        close("the mean of two", number(&both), (want + other) / 2.0, 1e-5 * want.abs().max(1.0));
        check_slopes("nt-xent", &p, &|p| loss::nt_xent(from_ref(&f), from_ref(p), temperature).unwrap(), &|p| {
            nt_xent(&numbers(&f), p, dims, temperature)
        });
    }
}

#[test]
fn nt_xent_limits() {
    let f = normal(1, &[3, 4, 5]);
    // Scores of 1 / 0.001 overflow an f32 without the maximum taken out.
    let sharp = number(&loss::nt_xent(from_ref(&f), from_ref(&f), 0.001).unwrap());
    assert!(sharp.is_finite() && sharp.abs() < 1e-3, "{sharp}");
    // All images alike: nothing tells them apart.
    let one = f.narrow(0, 0, 1).unwrap().repeat((3, 1, 1)).unwrap();
    close("alike", number(&loss::nt_xent(from_ref(&one), from_ref(&one), 0.1).unwrap()), 3f64.ln(), 1e-5);
    let half = f.to_dtype(DType::F16).unwrap();
    let halves = number(&loss::nt_xent(from_ref(&half), from_ref(&half), 0.1).unwrap());
    close("half precision", halves, number(&loss::nt_xent(from_ref(&f), from_ref(&f), 0.1).unwrap()), 1e-2);
    let single = f.narrow(0, 0, 1).unwrap();
    let error = loss::nt_xent(from_ref(&single), from_ref(&single), 0.1).unwrap_err().to_string();
    assert!(error.contains("at least two images"), "{error}");
    assert!(loss::nt_xent(from_ref(&f), &[normal(2, &[3, 4, 6])], 0.1).is_err());
    assert!(loss::nt_xent(&[], &[], 0.1).is_err());
}

/// log of the mean over all pairs, the equal ones among them.
fn dispersive(z: &[f64], batch: usize, temperature: f64) -> f64 {
    let d = z.len() / batch;
    let distance =
        |i: usize, j: usize| -> f64 { (0..d).map(|k| (z[i * d + k] - z[j * d + k]).powi(2)).sum::<f64>() / d as f64 };
    let pairs = (0..batch * batch).map(|k| (-distance(k / batch, k % batch) / temperature).exp());
    (pairs.sum::<f64>() / (batch * batch) as f64).ln()
}

#[test]
fn dispersion_equals_its_formula() {
    let z = normal(5, &[4, 3, 6]);
    for temperature in [0.5, 1.0] {
        let want = dispersive(&numbers(&z), 4, temperature);
        close("dispersion", number(&loss::dispersive(&z, temperature).unwrap()), want, 1e-5);
        let loss = |z: &Tensor| loss::dispersive(z, temperature).unwrap();
        check_slopes("dispersion", &z, &loss, &|z| dispersive(z, 4, temperature));
    }
    // A large common part is no distance.
    let far = (&z + 1000.0).unwrap();
    close("moved", number(&loss::dispersive(&far, 0.5).unwrap()), dispersive(&numbers(&z), 4, 0.5), 1e-3);
    let same = Tensor::ones((4, 3, 6), DType::F32, &CPU).unwrap();
    close("all equal", number(&loss::dispersive(&same, 0.5).unwrap()), 0.0, 1e-6);
    let apart = (z * 1e4).unwrap();
    close("far apart", number(&loss::dispersive(&apart, 0.5).unwrap()), -(4f64.ln()), 1e-6);
    let error = loss::dispersive(&normal(5, &[1, 3, 6]), 0.5).unwrap_err().to_string();
    assert!(error.contains("at least two images"), "{error}");
}

#[test]
fn dispersion_of_equal_states_has_a_finite_gradient() {
    let z = Var::from_tensor(&Tensor::ones((3, 2, 4), DType::F32, &CPU).unwrap()).unwrap();
    let grads = loss::dispersive(&z, 0.5).unwrap().backward().unwrap();
    assert!(numbers(grads.get(&z).unwrap()).iter().all(|g| g.is_finite()));
}

#[test]
fn spatial_norm_equals_a_z_score_over_tokens() {
    let x = normal(6, &[2, 5, 3]);
    let got = numbers(&loss::spatial_zscore(&x, 0.6).unwrap());
    let all = numbers(&x);
    for image in 0..2 {
        for channel in 0..3 {
            let at = |t: usize| (image * 5 + t) * 3 + channel;
            let mean = (0..5).map(|t| all[at(t)]).sum::<f64>() / 5.0;
            let variance = (0..5).map(|t| (all[at(t)] - mean).powi(2)).sum::<f64>() / 4.0;
            for t in 0..5 {
                close("score", got[at(t)], (all[at(t)] - 0.6 * mean) / (variance.sqrt() + 1e-6), 1e-5);
            }
        }
    }
    let constant = Tensor::ones((1, 4, 2), DType::F32, &CPU).unwrap();
    assert!(numbers(&loss::spatial_zscore(&constant, 1.0).unwrap()).iter().all(|v| *v == 0.0));
    assert!(loss::spatial_zscore(&normal(6, &[2, 1, 3]), 0.6).is_err());
}
