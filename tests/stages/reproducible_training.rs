//! A training by the built program ends with the same bytes however often it is killed or saves,
//! and on any number of threads: weights, averages, curve, and the metrics file. The last weights
//! depend on all optimizer state and every batch before, so equal bytes at the end mean equal
//! states on the way.

use crate::support::dice::Dice;
use crate::support::experiment::{Running, is};
use crate::support::space::Space;
use crate::support::training::{Made, command, differences, made, space};
use candle_core::{Device, Tensor};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::Cell;
use std::process::Command;
use std::time::Duration;

const KILLS: u64 = 10;
/// Steps of an attempt before it is killed, at most: all of them together are fewer than the
/// training has. Where the test is slower to hear than the training to step, one may end before it
/// is killed often enough; the next then begins anew.
const MOST: u64 = 8;

#[test]
fn a_training_killed_at_ten_steps_ends_with_the_same_bytes() {
    let mut dice = Dice::new();
    let kept = "train.snapshots=[1, 3, 8, 29, 57, 100]";
    let calm = made(&space(""), "cache", &["--set", kept], "train");
    let (steps, names): (Vec<&str>, Vec<&str>) = calm.keys().map(String::as_str).partition(|name| name.contains('@'));
    assert_eq!(steps, [1, 100, 29, 3, 57, 8].map(|k| format!("ema@{k}.safetensors")));
    let expected =
        ["config.json", "curve.jsonl", "ema.safetensors", "metrics.jsonl", "model.safetensors", "training.json"];
    assert_eq!(names, expected);
    assert_eq!(lines(&calm), (1..=100).collect::<Vec<_>>());

    let space = space("");
    let (mut kills, mut trainings) = (0, 0);
    while kills < KILLS {
        trainings += 1;
        assert!(trainings <= KILLS, "only {kills} kills in {KILLS} trainings");
        let (cache, curves) = (format!("cache-{trainings}"), format!("curves-{trainings}"));
        let tensorboard = format!("train.tensorboard={curves}");
        let watched = ["--set", &tensorboard, "--set", kept];
        while kills < KILLS && killed(&mut dice, command(&space, &cache, &watched)) {
            kills += 1;
        }
        let again = made(&space, &cache, &watched, "train");
        assert_eq!(differences(&calm, &again), [""; 0]);
        crate::cli::training_curves::every_step_once(&space.path(&curves), 100);
    }
}

/// Whether this run could be killed, within a random step of its training or while a checkpoint is
/// written, before it ended.
fn killed(dice: &mut Dice, command: Command) -> bool {
    let mut run = Running::start(command);
    let (heard, wanted) = (Cell::new(0), 1 + dice.below(MOST));
    let came = run.find(|event| {
        let step = is(event, "metric", "train") && event["name"] == "loss";
        heard.set(heard.get() + u64::from(step));
        heard.get() == wanted
    });
    if came.is_some() {
        dice.wait(Duration::from_millis(20));
        // Of a training that has just ended there may be no one left.
        let victims = [vec![run.pid()], run.workers_now()].concat();
        let _ = kill(Pid::from_raw(*dice.pick(&victims).unwrap()), Signal::SIGKILL);
    }
    let status = run.end();
    assert!(came.is_some() || status.success(), "{status}");
    !status.success()
}

/// Steps of the lines of a metrics file.
fn lines(made: &Made) -> Vec<u64> {
    let text = String::from_utf8(made["metrics.jsonl"].clone()).unwrap();
    text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap()).collect()
}

/// In a cache of its own.
fn variant(space: &Space, number: usize, sets: &[String]) -> Made {
    let sets =
        ["train.steps=22".to_string(), "train.snapshots=[1, 7, 20]".into()].into_iter().chain(sets.iter().cloned());
    let args: Vec<String> = sets.flat_map(|set| ["--set".to_string(), set]).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    made(space, &format!("cache{number}"), &args, "train")
}

#[test]
fn checkpoint_frequency_changes_no_byte() {
    let space = space("");
    let runs: Vec<Made> =
        [1, 3, 7, 0].iter().map(|n| variant(&space, *n, &[format!("train.checkpoint_every={n}")])).collect();
    for run in &runs[1..] {
        assert_eq!(differences(&runs[0], run), [""; 0]);
    }
    // Nor does how often it logs; the metrics file has fewer lines, and that is all.
    let rarely = variant(&space, 9, &["train.log_every=5".into()]);
    assert_eq!(differences(&runs[0], &rarely), ["metrics.jsonl", "metrics.jsonl"]);
    assert_eq!(lines(&rarely), [5, 10, 15, 20, 22]);
}

/// The fused block, and one operation by operation.
#[test]
fn recomputed_blocks_change_no_byte() {
    let space = space("");
    for (number, mlp) in [(1, "gelu"), (3, "swiglu")] {
        let of = |number: usize, checkpointing: &str| {
            let set = |value: String| format!("train.{value}");
            let network = set(format!("mlp={mlp}"));
            variant(
                &space,
                number,
                &[network, "warmup.mlp=".to_string() + mlp, set(format!("checkpointing={checkpointing}"))],
            )
        };
        assert_eq!(differences(&of(number, "none"), &of(number + 1, "blocks")), [""; 0], "{mlp}");
    }
}

#[test]
fn threads_change_no_byte() {
    let space = space("");
    let of =
        |threads: &str, cache: &str| made(&space, cache, &["--set", "train.steps=22", "--threads", threads], "train");
    assert_eq!(differences(&of("1", "one"), &of("2", "two")), [""; 0]);
}

/// AdamW with beta 0 and an epsilon far above every gradient g moves a weight by -lr/eps g: the
/// change of the weights over one step is the gradient of the batch. It starts from trained
/// weights, so none of them is zero.
const PROBE: &str = r#"
[stages.probe]
kind = "train"
inputs = { latents = "latents", features = "features", init = "train" }
params = { steps = 1, encoder_depth = 1, alignment = "constant", lr = 1e6, eps = 1e3, beta1 = 0.0, beta2 = 0.0, max_grad_norm = 0.0 }
"#;

#[test]
fn gradients_accumulate_exactly() {
    let space = space(PROBE);
    let gradient = |changes: &[&str]| -> Tensors {
        let args: Vec<&str> = ["train.steps=9"].iter().chain(changes).flat_map(|set| ["--set", set]).collect();
        let weights = |made: Made| {
            space.write("model.safetensors", "");
            std::fs::write(space.path("model.safetensors"), &made["model.safetensors"]).unwrap();
            params::load(&space.path("model.safetensors"), &Device::Cpu).unwrap()
        };
        let (before, after) =
            (weights(made(&space, "cache", &args, "train")), weights(made(&space, "cache", &args, "probe")));
        after.into_iter().map(|(name, t)| (name.clone(), (&before[&name] - t).unwrap())).collect()
    };
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let whole = gradient(&[]);
    for accumulate in ["probe.accumulate=2", "probe.accumulate=4"] {
        let split = gradient(&[accumulate]);
        let mut seen = 0;
        for (name, g) in &whole {
            let (size, apart) = (norm(g), norm(&(g - &split[name]).unwrap()));
            assert!(apart <= 1e-5 * size, "{name}: {apart} of {size} apart with {accumulate}");
            seen += usize::from(size > 0.0);
        }
        // All but the tables that are not trained.
        assert!(seen + 3 >= whole.len(), "{seen} of {}", whole.len());
    }
}
