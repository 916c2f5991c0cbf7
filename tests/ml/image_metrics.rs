//! Metrics of image sets against the usual tools and against their properties.
//!
//! `golden/metrics/image_metrics.safetensors` holds the values of those tools for features that are
//! made again here; `make.py` beside it asked them.

use candle_core::{D, DType, Device, Result, Tensor};
use erw::ml::metrics::cmmd::cmmd;
use erw::ml::metrics::inception_score::{InceptionScore, Parts, Score};
use erw::ml::metrics::kid::{Subsets, kid};
use erw::ml::metrics::precision_recall::{Distances, K, PrecisionRecall, precision_recall};
use erw::ml::metrics::random_state::RandomState;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;

use crate::support::golden::{self, hashed};

const CPU: Device = Device::Cpu;

fn published() -> Result<Tensors> {
    params::load(&golden::dir().join("metrics/image_metrics.safetensors"), &CPU)
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// As `features` of make.py.
fn features(name: &str, n: usize, d: usize, [scale, narrow, shift]: [f32; 3]) -> Result<Tensor> {
    let plane = hashed(&format!("{name}_plane"), n * 6);
    let weights = hashed("weights", d);
    let feature = |i: usize, j: usize| ((plane[i * 6 + j % 6] * narrow + shift) + 1.0) * (weights[j] + 1.0) * scale;
    Tensor::from_vec((0..n * d).map(|at| feature(at / d, at % d)).collect(), (n, d), &CPU)
}

/// Samples and reference.
fn pair(tag: &str, n: usize, m: usize, d: usize, scale: f32) -> Result<(Tensor, Tensor)> {
    let samples = features(&format!("{tag}_samples"), n, d, [scale, 0.875, 0.25])?;
    Ok((samples, features(&format!("{tag}_reference"), m, d, [scale, 1.0, 0.0])?))
}

fn tiles() -> Result<(Tensor, Tensor)> {
    pair("tiles", 300, 260, 64, 1.0)
}

/// The rows of `t` in another order.
fn turned(t: &Tensor) -> Result<Tensor> {
    let n = t.dim(0)? as u32;
    t.index_select(&Tensor::from_vec((0..n).map(|i| (i * 7 + 3) % n).collect(), n as usize, &CPU)?, 0)
}

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} {want}");
}

/// The message of an error; what follows is a backtrace, where that is asked for.
fn text(result: Result<()>) -> String {
    result.unwrap_err().to_string().lines().next().unwrap().to_string()
}

/// What `f` gives on one thread and on five.
fn on_threads<T: Send>(f: impl Fn() -> T + Sync) -> [T; 2] {
    [1, 5].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(&f))
}

#[test]
fn precision_and_recall_equal_the_tools() -> Result<()> {
    let published = published()?;
    let sets = [
        ("tiles", tiles()?),
        ("wide", pair("wide", 60, 50, 2048, 1.0)?),
        // Squared norms that half precision does not hold.
        ("long", pair("long", 40, 40, 64, 100.0)?),
    ];
    for (tag, (samples, reference)) in &sets {
        let half = precision_recall(samples, reference, K, Distances::Half)?;
        let single = precision_recall(samples, reference, K, Distances::Single)?;
        for (name, got) in [
            ("half", [half.precision, half.recall]),
            ("single", [single.precision, single.recall]),
            ("density", [single.density, single.coverage]),
        ] {
            let want = numbers(&published[&format!("{tag}_{name}")])?;
            // torch-fidelity averages in f32.
            close(got[0], want[0], 1e-7, &format!("{tag}_{name} 0"));
            close(got[1], want[1], 1e-7, &format!("{tag}_{name} 1"));
        }
    }
    // That rounding is looked at at all.
    let (samples, reference) = &sets[1].1;
    assert_ne!(
        precision_recall(samples, reference, K, Distances::Half)?,
        precision_recall(samples, reference, K, Distances::Single)?
    );
    Ok(())
}

#[test]
fn precision_and_recall_do_not_depend_on_order_or_threads() -> Result<()> {
    let (samples, reference) = tiles()?;
    for distances in [Distances::Half, Distances::Single] {
        let of = |s: &Tensor, r: &Tensor| precision_recall(s, r, K, distances);
        let value = of(&samples, &reference)?;
        assert_eq!(of(&turned(&samples)?, &turned(&reference)?)?, value);
        for other in on_threads(|| of(&samples, &reference)) {
            assert_eq!(other?, value);
        }
    }
    Ok(())
}

#[test]
fn precision_and_recall_of_one_set_are_one() -> Result<()> {
    let (samples, _) = tiles()?;
    let twice = samples.to_dtype(DType::F64)?;
    for distances in [Distances::Half, Distances::Single] {
        let PrecisionRecall { precision, recall, coverage, .. } = precision_recall(&samples, &twice, K, distances)?;
        assert_eq!((precision, recall, coverage), (1.0, 1.0, 1.0));
        // All images the same: balls of no radius, on whose surface everything is, and inside of
        // which nothing.
        let grey = Tensor::full(0.37f32, (5, 64), &CPU)?;
        let same = precision_recall(&grey, &grey, K, distances)?;
        assert_eq!(same, PrecisionRecall { precision: 1.0, recall: 1.0, density: 0.0, coverage: 0.0 });
    }
    let far = (&samples + 1000.0)?;
    let apart = precision_recall(&samples, &far, K, Distances::Single)?;
    assert_eq!(apart, PrecisionRecall { precision: 0.0, recall: 0.0, density: 0.0, coverage: 0.0 });
    Ok(())
}

#[test]
fn features_that_cannot_be_compared_are_named() -> Result<()> {
    let set = Tensor::ones((4, 2), DType::F32, &CPU)?;
    let odd = Tensor::new(&[[0f32, 1.0], [1.0, f32::NAN], [0.0, 1.0], [2.0, 2.0]], &CPU)?;
    let small = Subsets { count: 2, size: 3, seed: 2020 };
    let (pr, k, c) = (
        |s: &Tensor, r: &Tensor| text(precision_recall(s, r, K, Distances::Half).map(drop)),
        |s: &Tensor, r: &Tensor| text(kid(s, r, &small).map(drop)),
        |s: &Tensor, r: &Tensor| text(cmmd(s, r).map(drop)),
    );
    for error in [pr(&odd, &set), k(&odd, &set), c(&odd, &set)] {
        assert_eq!(error, "feature 1 of sample 1 of the samples is not finite");
    }
    for error in [pr(&set, &odd), k(&set, &odd), c(&set, &odd)] {
        assert_eq!(error, "feature 1 of sample 1 of the reference is not finite");
    }
    let few = set.narrow(0, 0, 3)?;
    let wide = Tensor::ones((4, 3), DType::F32, &CPU)?;
    let flat = Tensor::ones(4, DType::F32, &CPU)?;
    assert_eq!(pr(&few, &set), "precision and recall need k >= 1 and more than k samples, got k = 3 and 3");
    assert_eq!(pr(&set, &few), "precision and recall need k >= 1 and more than k reference images, got k = 3 and 3");
    assert_eq!(pr(&set, &wide), "precision and recall: features have dimensions 2 and 3");
    assert_eq!(c(&flat, &set), "the samples have shape [4], not [n, d]");
    assert_eq!(k(&set, &set.narrow(0, 0, 2)?), "KID over subsets of 3 needs at least 3 reference images, got 2");
    let none = set.narrow(0, 0, 0)?;
    assert_eq!(c(&none, &set), "CMMD needs at least one sample and one reference image, got 0 and 4");
    assert_eq!(c(&set, &(&set * 0.0)?), "embedding 0 of the reference is zero and cannot be normalised");
    Ok(())
}

#[test]
fn kid_equals_torch_fidelity() -> Result<()> {
    let (samples, reference) = tiles()?;
    let want = numbers(&published()?["kid"])?;
    let subsets = Subsets { count: 7, size: 50, ..Subsets::TORCH_FIDELITY };
    let got = kid(&samples, &reference, &subsets)?;
    close(got.mean, want[0], 1e-6 * want[0], "mean");
    close(got.std, want[1], 1e-6 * want[0], "std");
    for other in on_threads(|| kid(&samples, &reference, &subsets)) {
        assert_eq!(other?, got);
    }
    Ok(())
}

#[test]
fn kid_of_one_full_subset_does_not_depend_on_order() -> Result<()> {
    let (samples, reference) = tiles()?;
    let samples = samples.narrow(0, 0, 260)?;
    let of_all = |a: &Tensor, b: &Tensor| kid(a, b, &Subsets { count: 1, size: 260, seed: 1 });
    let all = of_all(&samples, &reference)?;
    assert_eq!(all.std, 0.0);
    close(of_all(&turned(&samples)?, &turned(&reference)?)?.mean, all.mean, 1e-10 * all.mean, "another order");
    // Without bias, a set is nearer to itself than zero, by what its own pairs add.
    assert!(of_all(&samples, &samples)?.mean < 0.0);
    Ok(())
}

#[test]
fn cmmd_equals_its_formula_and_the_published_script() -> Result<()> {
    let (samples, reference) = tiles()?;
    let (published, got) = (published()?, cmmd(&samples, &reference)?);
    close(got, numbers(&published["cmmd_f64"])?[0], 1e-6, "the formula in f64");
    close(got, numbers(&published["cmmd"])?[0], 3e-4, "the script in f32");
    // Lengths do not count.
    close(cmmd(&(&samples * 3.0)?, &reference)?, got, 1e-6, "longer");
    close(cmmd(&turned(&samples)?, &turned(&reference)?)?, got, 1e-10 * got, "another order");
    for other in on_threads(|| cmmd(&samples, &reference)) {
        assert_eq!(other?, got);
    }
    close(cmmd(&samples, &samples)?, 0.0, 1e-12, "one set");
    close(cmmd(&samples.narrow(0, 0, 1)?, &samples.narrow(0, 0, 1)?)?, 0.0, 1e-12, "one sample");
    Ok(())
}

fn logits() -> Result<Tensor> {
    Tensor::from_vec(hashed("logits", 130 * 20), (130, 20), &CPU)? * 6.0
}

fn inception_score(logits: &Tensor, parts: Parts, batch: usize) -> Result<Score> {
    let (n, classes) = logits.dims2()?;
    let mut score = InceptionScore::new(n, classes, parts)?;
    for first in (0..n).step_by(batch) {
        score.push(&logits.narrow(0, first, batch.min(n - first))?)?;
        // As after an interruption.
        score = serde_json::from_str(&serde_json::to_string(&score).unwrap()).unwrap();
    }
    score.score()
}

#[test]
fn inception_score_equals_the_tools() -> Result<()> {
    let (logits, published) = (logits()?, published()?);
    // The last part has 30 samples.
    let parts = Parts::Size(50);
    let got = inception_score(&logits, parts, 130)?;
    assert_eq!(got.parts.len(), 3);
    close(got.mean, numbers(&published["isc_consecutive"])?[0], 1e-5, "consecutive");
    assert_eq!(inception_score(&logits, parts, 7)?, got);

    let want = numbers(&published["isc_shuffled"])?;
    let got = inception_score(&logits, Parts::TORCH_FIDELITY, 13)?;
    close(got.mean, want[0], 1e-12, "shuffled");
    close(got.std, want[1], 1e-12, "its deviation");
    Ok(())
}

#[test]
fn inception_score_is_one_to_the_number_of_classes() -> Result<()> {
    let sure = (Tensor::eye(20, DType::F64, &CPU)? * 200.0)?;
    close(inception_score(&sure, Parts::ADM, 20)?.mean, 20.0, 1e-12, "sure and even");
    close(inception_score(&(&sure * 0.0)?, Parts::ADM, 20)?.mean, 1.0, 1e-12, "no idea");
    close(inception_score(&sure.narrow(0, 0, 1)?, Parts::ADM, 1)?.mean, 1.0, 1e-12, "one sample");
    // A shift of all scores of a sample changes nothing.
    let logits = logits()?;
    let shifted = logits.to_dtype(DType::F64)?.broadcast_add(&logits.to_dtype(DType::F64)?.sum_keepdim(D::Minus1)?)?;
    let value = inception_score(&logits, Parts::ADM, 130)?.mean;
    close(inception_score(&shifted, Parts::ADM, 130)?.mean, value, 1e-12, "shifted");
    close(inception_score(&turned(&logits)?, Parts::ADM, 130)?.mean, value, 1e-12, "another order");

    let mut score = InceptionScore::new(2, 20, Parts::ADM)?;
    assert_eq!(text(score.score().map(drop)), "an Inception Score of 2 samples has only 0");
    assert_eq!(text(score.push(&logits)), "an Inception Score of 2 samples was given 130");
    assert_eq!(
        text(score.push(&sure.narrow(1, 0, 3)?)),
        "logits of 3 classes were added to an Inception Score of 20 classes"
    );
    score.push(&sure.narrow(0, 0, 1)?)?;
    let odd = (sure.narrow(0, 1, 1)? / 0.0)?;
    assert_eq!(text(score.push(&odd)), "logit 0 of sample 1 is not finite");
    let few = InceptionScore::new(4, 20, Parts::TORCH_FIDELITY).map(drop);
    assert_eq!(text(few), "an Inception Score over 10 parts needs at least 10 samples, got 4");
    assert!(InceptionScore::new(0, 20, Parts::ADM).is_err());
    Ok(())
}

/// numpy 2.4.6: `r = RandomState(2020)`, then as written here.
#[test]
fn random_state_equals_numpy() {
    let mut r = RandomState::new(2020);
    assert_eq!(r.permutation(12), [2, 1, 11, 4, 10, 5, 7, 9, 6, 3, 8, 0]);
    assert_eq!(r.choice(1000, 5), [358, 763, 430, 530, 677]);
    assert_eq!(r.permutation(1), [0]);
    // More draws than the generator makes at a time.
    let long = RandomState::new(7).permutation(3000);
    assert_eq!([long[0], long[1], long[2999]], [1306, 2037, 175]);
    assert_eq!(RandomState::new(7).choice(3, 5).len(), 3);
}
