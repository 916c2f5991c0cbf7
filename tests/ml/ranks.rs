//! A training on several ranks has the bits of one rank, whatever their number, and goes on on any
//! other number.

use super::half_precision::toy_on;
use super::training_loop::{Stopper, Toy, config};
use crate::support::ranks::on_ranks;
use candle_core::{Device, Result};
use erw::ml::nn::precision::Precision;
use erw::ml::ranks::Ranks;
use erw::ml::train::Callbacks;
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::fit;
use erw::ml::train::outcome::Outcome;
use std::path::Path;
use tempfile::TempDir;

const STEPS: u64 = 6;

/// Trains in `accumulate` micro-batches, on some ranks, until the step `at`, and returns the bytes
/// of the checkpoint.
fn train(dir: &TempDir, accumulate: usize, ranks: usize, precision: Precision, at: u64) -> Vec<u8> {
    on_ranks(ranks, |ranks| {
        let toy = Toy { batch: 8, accumulate, ..toy_on(precision, &Device::Cpu) };
        let cfg = FitConfig {
            ema_decays: vec![0.9, 0.5],
            loss_scaling: precision.needs_loss_scaling(),
            accumulate,
            ranks,
            ..config(dir, STEPS)
        };
        let stopper = Stopper { at, ..Stopper::default() };
        // With loss scaling, one step overflows on the last rank only.
        let mut loss = |step, micro| -> Result<StepLoss> {
            let out = toy.loss(step, micro)?;
            let overflows = cfg.loss_scaling && step == 2 && micro + 1 == accumulate;
            Ok(if overflows { StepLoss { loss: (out.loss * f64::INFINITY)?, ..out } } else { out })
        };
        let outcome = fit(&toy.params, &cfg, &stopper, &mut Callbacks::default(), &mut loss).unwrap();
        assert!(matches!(outcome, Outcome::Stopped));
    });
    checkpoint(dir.path(), at)
}

fn checkpoint(dir: &Path, step: u64) -> Vec<u8> {
    std::fs::read(dir.join(format!("checkpoints/step-{step:012}.safetensors"))).unwrap()
}

/// Weights, moments, averages and the curve. The gradients are clipped.
#[test]
fn any_allowed_number_of_ranks_writes_the_same_checkpoint() {
    let bytes = |accumulate, ranks, precision| {
        let dir = TempDir::new().unwrap();
        train(&dir, accumulate, ranks, precision, STEPS - 1)
    };
    for (accumulate, others) in [(4, vec![2, 4]), (8, vec![2, 8])] {
        let one = bytes(accumulate, 1, Precision::F32);
        for ranks in others {
            assert!(bytes(accumulate, ranks, Precision::F32) == one, "{accumulate} on {ranks} ranks");
        }
    }
    assert!(bytes(4, 4, Precision::F16) == bytes(4, 1, Precision::F16), "with loss scaling");
}

#[test]
fn a_training_goes_on_on_another_number_of_ranks() {
    let (whole, parts) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let want = train(&whole, 4, 1, Precision::F32, 5);
    train(&parts, 4, 4, Precision::F32, 1);
    train(&parts, 4, 1, Precision::F32, 3);
    assert!(train(&parts, 4, 2, Precision::F32, 5) == want);
}

/// The last rank stops: all of them do, after the same step, and only the first has written.
#[test]
fn a_request_to_stop_reaches_all_ranks() {
    let dir = TempDir::new().unwrap();
    on_ranks(4, |ranks| {
        let toy = Toy::new(4, 4);
        let at = if ranks.rank() == 3 { 2 } else { 0 };
        let cfg = FitConfig { ranks, ..config(&dir, STEPS) };
        let stopper = Stopper { at, ..Stopper::default() };
        assert!(matches!(toy.fit(&cfg, &stopper).unwrap(), Outcome::Stopped));
        assert_eq!(stopper.done.get(), 2);
    });
    assert_eq!(std::fs::read_dir(dir.path().join("checkpoints")).unwrap().count(), 1);
}

#[test]
fn only_the_leading_rank_has_the_result() {
    let dir = TempDir::new().unwrap();
    let ended = on_ranks(2, |ranks| {
        let cfg = FitConfig { ranks, ..config(&dir, 2) };
        match Toy::new(4, 2).fit(&cfg, &Stopper::default()).unwrap() {
            Outcome::Done(_) => "done",
            Outcome::Followed => "followed",
            _ => "otherwise",
        }
    });
    assert_eq!(ended, ["done", "followed"]);
}

#[test]
fn ranks_that_cannot_share_the_micro_batches_are_refused() {
    let dir = TempDir::new().unwrap();
    let errors = on_ranks(2, |ranks| {
        let cfg = FitConfig { ranks, ..config(&dir, 2) };
        Toy::new(6, 3).fit(&cfg, &Stopper::default()).err().unwrap().to_string()
    });
    assert!(errors[0].starts_with("2 ranks cannot share 3 micro-batches"), "{errors:?}");
}

/// As a GPU that computes wrongly would have it.
#[test]
fn weights_that_drift_apart_are_found_at_a_checkpoint() {
    let dir = TempDir::new().unwrap();
    let errors = on_ranks(2, |ranks| {
        let toy = Toy::new(4, 2);
        let rank = ranks.rank();
        let cfg = FitConfig { checkpoint_every: 2, ranks, ..config(&dir, 4) };
        let obs = Stopper::default();
        let mut loss = |step, micro| {
            if (step, rank) == (1, 1) {
                let (_, weight) = toy.params.vars().swap_remove(0);
                weight.set(&(weight.as_detached_tensor() + 1e-3)?)?;
            }
            toy.loss(step, micro)
        };
        let cfg = FitConfig { accumulate: 2, ..cfg };
        fit(&toy.params, &cfg, &obs, &mut Callbacks::default(), &mut loss).err().map(|e| e.to_string())
    });
    for error in errors {
        let error = error.unwrap();
        assert!(error.starts_with("rank 1 differs from rank 0 in the weights of step 2"), "{error}");
    }
    assert!(!dir.path().join("checkpoints").exists(), "nothing was saved");
}

#[test]
fn numbers_are_summed_by_the_tree() {
    let all = on_ranks(4, |ranks: Ranks| {
        // In a row, 1 is lost twice.
        let x = [1.0, 1e8, 1.0, 3.0][ranks.rank()];
        let mut numbers = vec![x, -x, 2.0 * x, 0.0, x];
        ranks.sum(&mut numbers).unwrap();
        numbers
    });
    let sum = (1.0f32 + 1e8) + (1.0 + 3.0);
    assert!(all.iter().all(|numbers| *numbers == [sum, -sum, 2.0 * sum, 0.0, sum]), "{all:?}");
    let few = on_ranks(3, |ranks: Ranks| {
        let mut numbers = vec![1.0];
        ranks.sum(&mut numbers).unwrap();
        ranks.sum(&mut []).unwrap();
        numbers
    });
    assert_eq!(few, [[3.0], [3.0], [3.0]], "fewer numbers than ranks");
}
