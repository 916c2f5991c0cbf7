//! Metrics of representations against their published functions, and what must not change them.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::metrics::alignment::{AlignmentMetric, Protocol, alignment};
use erw::ml::metrics::cknna::Estimator;
use erw::ml::metrics::knn;
use erw::ml::metrics::linear_probe::{Fitting, LinearProbe};
use erw::ml::metrics::mae_probe::{self, Schedule};
use erw::ml::metrics::unit_rows::{Clamp, Over};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use std::path::Path;

use crate::support::golden::dir;

const CPU: Device = Device::Cpu;

fn golden(name: &str) -> Result<Tensors> {
    params::load(&dir().join(name), &CPU)
}

fn number(t: &Tensor) -> Result<f64> {
    t.to_dtype(DType::F64)?.to_scalar()
}

pub fn normals(seed: u64, n: usize, dim: usize) -> Result<Tensor> {
    rng::normal_rows(seed, Purpose::Probe, 0, &(0..n as u64).collect::<Vec<_>>(), &[dim], &CPU)
}

/// The message of an error, without the backtrace that candle may append.
fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string().lines().next().unwrap_or_default().to_string()
}

fn protocol(measures: &[AlignmentMetric], k: usize) -> Protocol {
    Protocol { measures: measures.to_vec(), k, clamp: Clamp::NONE, estimator: Estimator::Unbiased }
}

#[test]
fn cknna_equals_the_dense_definition() -> Result<()> {
    let g = golden("cknna.safetensors")?;
    for tag in ["a", "b"] {
        let k = g[&format!("in/{tag}_k")].to_scalar::<i64>()? as usize;
        let how = protocol(&[AlignmentMetric::Cknna], k);
        let got = alignment(&g[&format!("in/{tag}_x")], &g[&format!("in/{tag}_y")], &how)?[0];
        let want = number(&g[&format!("out/{tag}_unbiased")])?;
        assert!((got - want).abs() < 1e-5, "{tag}: {got} {want}");
    }
    Ok(())
}

#[test]
fn alignment_equals_the_original() -> Result<()> {
    let g = golden("alignment.safetensors")?;
    for tag in ["p", "q"] {
        let k = g[&format!("in/{tag}_k")].to_scalar::<i64>()? as usize;
        for (over, name) in [(None, "none"), (Some(Over::Set), "set"), (Some(Over::Sample), "sample")] {
            let clamp = over.map_or(Clamp::NONE, |over| Clamp { quantile: 0.95, over });
            for (estimator, ending) in [(Estimator::Unbiased, "_unbiased"), (Estimator::Biased, "_biased")] {
                let how = Protocol { measures: AlignmentMetric::ALL.to_vec(), k, clamp, estimator };
                let got = alignment(&g[&format!("in/{tag}_x")], &g[&format!("in/{tag}_y")], &how)?;
                for (measure, got) in AlignmentMetric::ALL.into_iter().zip(got) {
                    let ending = if measure == AlignmentMetric::MutualKnn { "" } else { ending };
                    let name = format!("out/{tag}_{name}_{}{ending}", measure.name());
                    let want = number(&g[&name])?;
                    // The original averages mutual neighbours in f32.
                    assert!((got - want).abs() < 1e-6, "{name}: {got} {want}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn equal_representations_agree_and_unrelated_ones_do_not() -> Result<()> {
    let (a, b) = (normals(1, 600, 32)?, normals(2, 600, 32)?);
    let how = protocol(&AlignmentMetric::ALL, 10);
    let of = |a: &Tensor, b: &Tensor| alignment(a, b, &how);
    for (measure, equal) in AlignmentMetric::ALL.iter().zip(of(&a, &(&a * 3.0)?)?) {
        // The original adds 1e-6 to the denominator, which is small for few neighbours.
        assert!((equal - 1.0).abs() < 1e-3, "{measure:?} {equal}");
    }
    let (unrelated, mixed) = (of(&a, &b)?, of(&a, &(&a + &b)?)?);
    for ((measure, unrelated), mixed) in AlignmentMetric::ALL.iter().zip(unrelated).zip(mixed) {
        assert!(unrelated.abs() < 0.05, "{measure:?} {unrelated}");
        assert!(unrelated + 0.05 < mixed && mixed < 0.8, "{measure:?} {unrelated} {mixed}");
    }
    Ok(())
}

#[test]
fn the_order_of_samples_and_the_number_of_threads_change_nothing() -> Result<()> {
    // More than one block of samples.
    let n = 700;
    let (a, b) = (normals(1, n, 16)?, (normals(1, n, 16)? + normals(2, n, 16)?)?);
    let order: Vec<u32> = (0..n as u32).map(|i| i * 331 % n as u32).collect();
    let order = Tensor::new(order, &CPU)?;
    let (c, d) = (a.index_select(&order, 0)?, b.index_select(&order, 0)?);
    for estimator in [Estimator::Unbiased, Estimator::Biased] {
        let how = Protocol { estimator, ..protocol(&AlignmentMetric::ALL, 10) };
        let how = Protocol { clamp: Clamp { quantile: 0.95, over: Over::Set }, ..how };
        let with = |threads: usize, a: &Tensor, b: &Tensor| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| alignment(a, b, &how))
        };
        let once = with(1, &a, &b)?;
        assert_eq!(once, with(3, &a, &b)?);
        for (x, y) in once.iter().zip(with(2, &c, &d)?) {
            assert!((x / y - 1.0).abs() < 1e-10, "{x} {y}");
        }
    }
    Ok(())
}

#[test]
fn tokens_are_averaged() -> Result<()> {
    let (a, b) = (normals(1, 40, 24)?, normals(2, 40, 6)?);
    let tokens = a.reshape((40, 4, 6))?;
    let how = protocol(&[AlignmentMetric::Cknna], 3);
    assert_eq!(alignment(&tokens, &b, &how)?, alignment(&tokens.mean(1)?, &b, &how)?);
    Ok(())
}

#[test]
fn representations_that_cannot_be_compared_are_refused() -> Result<()> {
    let a = normals(1, 20, 4)?;
    let how = |k| protocol(&AlignmentMetric::ALL, k);
    let error = |a: &Tensor, b: &Tensor, k| message(alignment(a, b, &how(k)));
    assert_eq!(error(&a, &a.narrow(0, 0, 19)?, 3), "cannot compare representations of 20 and 19 samples");
    assert_eq!(
        error(&a, &a, 20),
        "20 samples are too few for 20 neighbours each: there must be more samples than neighbours"
    );
    let one = a.narrow(0, 0, 1)?;
    assert_eq!(
        error(&one, &one, 1),
        "1 samples are too few for 1 neighbours each: there must be more samples than neighbours"
    );
    let three = a.narrow(0, 0, 3)?;
    assert_eq!(error(&three, &three, 1), "CKNNA of 3 samples: needs 4");
    let bad = Tensor::cat(&[&a.narrow(0, 0, 7)?, &Tensor::new(&[[0f32, 1.0, f32::NAN, 0.0]], &CPU)?], 0)?;
    assert_eq!(error(&a.narrow(0, 0, 8)?, &bad, 3), "feature 2 of sample 7 is not finite");
    assert_eq!(
        error(&a.flatten_all()?, &a.flatten_all()?, 3),
        "features of 1 dimensions, not [n, d] or [n, tokens, d]"
    );
    let clamp = Clamp { quantile: 1.5, over: Over::Set };
    let error = message(alignment(&a, &a, &Protocol { clamp, ..how(3) }));
    assert_eq!(error, "quantile 1.5 is not between 0 and 1");
    Ok(())
}

#[test]
fn a_constant_representation_aligns_with_none() -> Result<()> {
    let (a, constant) = (normals(1, 20, 4)?, Tensor::full(0.3f32, (20, 5), &CPU)?);
    let zero = constant.zeros_like()?;
    for estimator in [Estimator::Unbiased, Estimator::Biased] {
        let how = Protocol { estimator, ..protocol(&AlignmentMetric::ALL, 3) };
        for (x, y) in [(&a, &constant), (&constant, &a), (&zero, &a), (&constant, &constant)] {
            assert_eq!(alignment(x, y, &how)?, [0.0; 3]);
        }
    }
    Ok(())
}

#[test]
fn nearest_neighbours_vote_by_similarity() -> Result<()> {
    // Two clusters on a circle; a lone sample of class 7 lies next to the second query.
    let bank = Tensor::new(&[[1f32, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.7, 0.7]], &CPU)?;
    let labels = [0, 0, 1, 1, 7];
    let queries = Tensor::new(&[[5f32, 0.3], [0.71, 0.7], [0.0, 2.0]], &CPU)?;
    assert_eq!(knn::accuracy(&bank, &labels, &queries, &[0, 7, 1], 5)?, 1.0);
    let third = knn::accuracy(&bank, &labels, &queries, &[1, 7, 0], 5)?;
    assert!((third - 1.0 / 3.0).abs() < 1e-12);
    assert!(knn::accuracy(&bank, &labels[1..], &queries, &[0, 7, 1], 5).is_err());
    Ok(())
}

/// Training and test set of the golden probes, with their labels.
fn probe_sets(g: &Tensors) -> Result<[(Tensor, Vec<i64>); 2]> {
    let set = |name: &str| -> Result<_> {
        Ok((g[&format!("in/probe_{name}")].clone(), g[&format!("in/probe_{name}_labels")].to_vec1::<i64>()?))
    };
    Ok([set("train")?, set("test")?])
}

#[test]
fn nearest_neighbours_classify_as_in_dino() -> Result<()> {
    let g = golden("alignment.safetensors")?;
    let [(train, labels), (test, truth)] = probe_sets(&g)?;
    for k in [1, 20] {
        let got = knn::accuracy(&train, &labels, &test, &truth, k)?;
        assert_eq!(got, number(&g[&format!("out/knn_{k}")])?, "{k}");
    }
    Ok(())
}

#[test]
fn a_linear_probe_equals_scikit_learn() -> Result<()> {
    let g = golden("alignment.safetensors")?;
    let [(train, labels), (test, truth)] = probe_sets(&g)?;
    for (l2, name) in [(1e-3, "0.001"), (1e-1, "0.1")] {
        let how = Fitting { l2, tolerance: 1e-8, max_steps: 1000 };
        let probe = LinearProbe::fit(&train, &labels, 4, &how)?;
        assert!(probe.converged && probe.steps < 200, "{} steps", probe.steps);
        let want = number(&g[&format!("out/probe_loss_{name}")])?;
        assert!((probe.loss - want).abs() < 1e-10, "{} {want}", probe.loss);
        assert_eq!(probe.accuracy(&test, &truth)?, number(&g[&format!("out/probe_accuracy_{name}")])?);
    }
    Ok(())
}

/// `tests/golden/probe/make.py` says what they are of.
#[test]
fn a_probe_by_the_recipe_of_mae_equals_pytorch() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/probe/mae.safetensors");
    let g = params::load(&file, &CPU)?;
    let labels = |name: &str| g[name].to_vec1::<i64>();
    let orders = g["in/order"].to_vec2::<i64>()?;
    let order = |epoch: usize| orders[epoch].iter().map(|id| *id as u32).collect();
    let schedule = Schedule { epochs: 12, warmup: 3, batch: 16, base_rate: 40.0 };
    let weights = g["in/weight"].t()?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let probe = mae_probe::train(&g["in/train"], &labels("in/labels")?, 4, &schedule, weights, &order)?;
    let (got, want) = (probe.logits(&g["in/test"])?, g["out/logits"].flatten_all()?.to_vec1::<f64>()?);
    let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(got.len() == 120 && off < 1e-12, "{off:e}");
    let accuracy = |rows: &[f64]| {
        let best = |row: &[f64]| (0..4).fold(0, |b, i| if row[i] > row[b] { i } else { b });
        labels("in/truth").map(|t| rows.chunks(4).zip(&t).filter(|(row, l)| best(row) as i64 == **l).count())
    };
    assert_eq!(probe.accuracy(&g["in/test"], &labels("in/truth")?)?, accuracy(&want)? as f64 / 30.0);
    // As it is used: the bytes follow from the seed, a batch may be larger than the set.
    let fit =
        |batch, seed| mae_probe::fit(&g["in/train"], &labels("in/labels")?, 4, batch, seed)?.logits(&g["in/test"]);
    assert_eq!(fit(1000, 1)?, fit(200, 1)?);
    assert_ne!(fit(10, 1)?, fit(10, 2)?);
    assert!(message(mae_probe::fit(&g["in/train"].narrow(0, 0, 1)?, &[0], 4, 8, 0)).contains("at least two samples"));
    Ok(())
}

#[test]
fn a_linear_probe_refuses_bad_inputs() -> Result<()> {
    let x = normals(1, 10, 3)?;
    let how = Fitting { l2: 1e-3, tolerance: 1e-6, max_steps: 100 };
    let error = |x: &Tensor, labels: &[i64]| message(LinearProbe::fit(x, labels, 2, &how));
    assert_eq!(error(&x, &[0; 9]), "a linear probe needs one label per sample, got 10 samples and 9 labels");
    assert_eq!(error(&x, &[0, 1, 2, 0, 0, 0, 0, 0, 0, 0]), "label 2 is outside the 2 classes");
    assert_eq!(error(&(&x / 0.0)?, &[0; 10]), "feature 0 of sample 0 is not finite");
    let probe = LinearProbe::fit(&x, &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1], 2, &how)?;
    assert_eq!(
        message(probe.accuracy(&x.narrow(1, 0, 2)?, &[0; 10])),
        "10 samples of dimension 2 with 10 labels do not match a probe of dimension 3"
    );
    // One class, and features that never change: nothing to learn, nothing that fails.
    let flat = Tensor::full(0.7f32, (10, 3), &CPU)?;
    assert_eq!(LinearProbe::fit(&flat, &[0; 10], 1, &how)?.accuracy(&flat, &[0; 10])?, 1.0);
    Ok(())
}
