//! Safeguards of long trainings: divergence is named and leaves a good checkpoint, validation
//! changes nothing, and checkpoints are kept and found.

use crate::support::deadline::Deadline;
use crate::support::disk::Disk;
use crate::support::space::file_names;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Init;
use erw::ml::nn::params;
use erw::ml::nn::params::ParamSet;
use erw::ml::observer::Observer;
use erw::ml::ranks::Ranks;
use erw::ml::train::adamw::{AdamWConfig, Decay};
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::lr::LrSchedule;
use erw::ml::train::outcome::{Outcome, Trained};
use erw::ml::train::{Callbacks, CheckpointRetention, Divergence, Snapshots, fit};
use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const CPU: Device = Device::Cpu;

/// Four numbers that are pulled to zero.
struct Toy {
    params: ParamSet,
    w: Tensor,
    dir: TempDir,
    cfg: FitConfig,
}

/// Notes what it is told, and stops a training after so many steps.
#[derive(Default)]
struct Notes {
    stop_at: u64,
    done: std::cell::Cell<u64>,
    said: RefCell<Vec<String>>,
}

impl Observer for Notes {
    fn progress(&self, done: u64, _: u64) {
        self.done.set(done);
    }
    fn metric(&self, step: u64, name: &str, _: f64) {
        self.said.borrow_mut().push(format!("{name} {step}"));
    }
    fn checkpointed(&self, _: u64) {}
    fn resumed(&self, step: u64) {
        self.said.borrow_mut().push(format!("resumed {step}"));
    }
    fn log(&self, text: &str) {
        self.said.borrow_mut().push(text.into());
    }
    fn should_stop(&self) -> bool {
        self.stop_at > 0 && self.done.get() == self.stop_at
    }
}

impl Toy {
    fn new(steps: u64) -> Self {
        Self::in_dir(TempDir::new().unwrap(), steps)
    }

    fn in_dir(dir: TempDir, steps: u64) -> Self {
        let (params, vb) = ParamSet::init(1, DType::F32, &CPU);
        let w = vb.get_with_hints(4, "w", Init::Const(1.0)).unwrap();
        let optimizer =
            AdamWConfig { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, decay: Decay::All };
        let cfg = FitConfig {
            steps,
            optimizer,
            max_grad_norm: 0.0,
            lr: LrSchedule::default(),
            ema_decays: vec![0.9],
            accumulate: 1,
            ranks: Ranks::default(),
            checkpoint_every: 2,
            log_every: 1000,
            checkpoint_dir: dir.path().to_path_buf(),
            keep: CheckpointRetention::default(),
            loss_scaling: false,
            samples: 3,
        };
        Self { params, w, dir, cfg }
    }

    /// A new process on the same checkpoints.
    fn again(self) -> Self {
        let (steps, keep) = (self.cfg.steps, self.cfg.keep);
        let mut toy = Self::in_dir(self.dir, steps);
        toy.cfg.keep = keep;
        toy
    }

    fn square(&self, factor: f64) -> Result<StepLoss> {
        Ok(StepLoss { loss: (self.w.sqr()?.mean_all()? * factor)?, parts: vec![] })
    }

    fn fit(&self, obs: &Notes, watch: &mut Callbacks, factor: impl Fn(u64) -> f64) -> Result<Outcome> {
        fit(&self.params, &self.cfg, obs, watch, &mut |step, _| self.square(factor(step)))
    }

    fn finish(&self) -> Trained {
        done(self.fit(&Notes::default(), &mut Callbacks::default(), |_| 1.0).unwrap())
    }

    fn kept(&self) -> Vec<String> {
        file_names(self.dir.path())
    }
}

fn done(fit: Outcome) -> Trained {
    match fit {
        Outcome::Done(trained) => trained,
        Outcome::Stopped | Outcome::Followed => panic!("stopped"),
        Outcome::Diverged(d) => panic!("{}", d.what),
    }
}

fn diverged(fit: Outcome) -> Divergence {
    match fit {
        Outcome::Diverged(d) => d,
        _ => panic!("went on"),
    }
}

fn numbers(trained: &Trained) -> Vec<Vec<f32>> {
    [&trained.model, &trained.ema].iter().flat_map(|t| t.values()).map(|t| t.to_vec1().unwrap()).collect()
}

#[test]
fn a_non_finite_gradient_is_named_though_the_loss_is_finite() {
    let toy = Toy::new(9);
    let ended = fit(&toy.params, &toy.cfg, &Notes::default(), &mut Callbacks::default(), &mut |step, _| {
        if step < 5 {
            return toy.square(1.0);
        }
        // The root of zero has the slope infinity.
        Ok(StepLoss { loss: (&toy.w - &toy.w)?.sqr()?.sum_all()?.sqrt()?, parts: vec![] })
    });
    let d = diverged(ended.unwrap());
    let text = "the gradients of 1 of 1 parameters are NaN or infinite at step 5 (counted from 0), first that of `w` \
                (4 of its 4 values)";
    assert_eq!(d.what, text);
    assert_eq!(d.checkpoint, Some((4, toy.dir.path().join("step-000000000004.safetensors"))));
    assert_eq!(toy.kept(), ["step-000000000004.safetensors"]);
    // What it left is good: the next process goes on from there.
    let toy = toy.again();
    let notes = Notes::default();
    done(toy.fit(&notes, &mut Callbacks::default(), |_| 1.0).unwrap());
    assert_eq!(notes.said.borrow()[0], "resumed 4");
}

#[test]
fn a_non_finite_parameter_reaches_no_checkpoint_and_no_result() {
    for (checkpoint_every, stop_at, steps) in [(1, 0, 9), (0, 1, 9), (0, 0, 1)] {
        let mut toy = Toy::new(steps);
        toy.cfg.checkpoint_every = checkpoint_every;
        toy.cfg.optimizer.lr = 1e39;
        let d = diverged(toy.fit(&Notes { stop_at, ..Notes::default() }, &mut Callbacks::default(), |_| 1.0).unwrap());
        assert_eq!(d.what, "parameter `w` is NaN or infinite after 1 step (4 of its 4 values)");
        assert_eq!((d.checkpoint, toy.kept()), (None, vec![]));
    }
}

#[test]
fn a_gradient_too_large_to_be_squared_is_reported_by_its_size() {
    let toy = Toy::new(3);
    let d = diverged(toy.fit(&Notes::default(), &mut Callbacks::default(), |_| 2e30).unwrap());
    let text = "the norm of the gradient is inf at step 0 (counted from 0); its largest value is 1e30, in that of `w`";
    assert_eq!(d.what, text);
}

#[test]
fn a_loss_spike_is_reported_and_changes_nothing() {
    let notes = Notes::default();
    let mut toy = Toy::new(100);
    toy.cfg.optimizer.lr = 1e-6;
    done(toy.fit(&notes, &mut Callbacks::default(), |step| if step == 70 { 9.0 } else { 1.0 }).unwrap());
    let said = notes.said.borrow();
    let spikes: Vec<&String> = said.iter().filter(|s| s.starts_with("loss spike")).collect();
    assert!(spikes.len() == 1 && spikes[0].contains("in the batch of step 70 (counted from 0)"), "{said:?}");
    let last = said.last().unwrap();
    assert!(last.starts_with("100 steps in ") && last.contains(" steps/s, ") && last.ends_with(" samples/s"), "{last}");
}

#[test]
fn older_checkpoints_are_kept_and_used_when_the_newest_is_damaged() {
    let whole = Toy::new(11).finish();
    let mut toy = Toy::new(11);
    toy.cfg.keep = CheckpointRetention { last: 2, every: 4 };
    let stop = Notes { stop_at: 10, ..Notes::default() };
    assert!(matches!(toy.fit(&stop, &mut Callbacks::default(), |_| 1.0).unwrap(), Outcome::Stopped));
    let name = |step: u64| format!("step-{step:012}.safetensors");
    assert_eq!(toy.kept(), [4, 8, 10].map(name));
    std::fs::write(toy.dir.path().join(name(10)), b"torn").unwrap();
    let toy = toy.again();
    let notes = Notes::default();
    let trained = done(toy.fit(&notes, &mut Callbacks::default(), |_| 1.0).unwrap());
    assert!(notes.said.borrow()[0].starts_with("skipping a damaged checkpoint: "), "{:?}", notes.said.borrow());
    assert_eq!(notes.said.borrow()[1], "resumed 8");
    assert_eq!((numbers(&trained), trained.curve), (numbers(&whole), whole.curve));
}

/// As one of another user, or on a file system that fails for a while: to go on without it would
/// repeat its steps and remove it.
#[test]
fn a_checkpoint_that_cannot_be_read_ends_the_training() {
    let mut toy = Toy::new(11);
    toy.cfg.keep = CheckpointRetention { last: 2, every: 0 };
    let stop = Notes { stop_at: 10, ..Notes::default() };
    assert!(matches!(toy.fit(&stop, &mut Callbacks::default(), |_| 1.0).unwrap(), Outcome::Stopped));
    let (kept, newest) = (toy.kept(), toy.dir.path().join("step-000000000010.safetensors"));
    let aside = toy.dir.path().join("aside");
    std::fs::rename(&newest, &aside).unwrap();
    // A link to itself cannot be opened, whoever tries.
    std::os::unix::fs::symlink(&newest, &newest).unwrap();
    let toy = toy.again();
    let error = toy.fit(&Notes::default(), &mut Callbacks::default(), |_| 1.0).err().unwrap().to_string();
    assert!(error.contains("cannot be read") && error.contains("step-000000000010"), "{error}");
    std::fs::rename(&aside, &newest).unwrap();
    assert_eq!(toy.kept(), kept, "nothing was removed");
    assert_eq!(numbers(&toy.finish()), numbers(&Toy::new(11).finish()));
}

#[test]
fn a_full_disk_keeps_the_previous_checkpoint() {
    let whole = Toy::new(7).finish();
    let mut toy = Toy::new(7);
    let Some(disk) = Disk::mount(toy.dir.path().join("disk"), "size=1m") else { return };
    toy.cfg.checkpoint_dir = toy.dir.path().join("disk/checkpoints");
    let stop = Notes { stop_at: 3, ..Notes::default() };
    assert!(matches!(toy.fit(&stop, &mut Callbacks::default(), |_| 1.0).unwrap(), Outcome::Stopped));
    disk.fill();
    let error = erw::error::Error::from(toy.fit(&Notes::default(), &mut Callbacks::default(), |_| 1.0).err().unwrap());
    assert_eq!(error.message, "the checkpoint of step 4 cannot be written; that of step 3 is kept");
    assert!(error.causes[0].contains("No space left on device"), "{error}");
    let kept = file_names(&toy.cfg.checkpoint_dir);
    assert_eq!(kept, ["step-000000000003.safetensors"], "half a file would take the room that is needed");
    std::fs::remove_file(toy.dir.path().join("disk/filler")).unwrap();
    assert_eq!(numbers(&toy.finish()), numbers(&whole));
}

#[test]
fn a_full_disk_is_an_error_for_snapshots() {
    let mut toy = Toy::new(7);
    let Some(disk) = Disk::mount(toy.dir.path().join("disk"), "size=1m") else { return };
    toy.cfg.checkpoint_every = 0;
    let snapshots = Snapshots { dir: toy.dir.path().join("disk"), steps: vec![3] };
    let mut watch = Callbacks { snapshots: Some(snapshots.clone()), ..Callbacks::default() };
    disk.fill();
    let error = erw::error::Error::from(toy.fit(&Notes::default(), &mut watch, |_| 1.0).err().unwrap());
    assert_eq!(error.message, "the averages of step 3 cannot be saved");
    assert!(error.causes[0].contains("No space left on device"), "{error}");
    std::fs::remove_file(toy.dir.path().join("disk/filler")).unwrap();
    let toy = toy.again();
    done(toy.fit(&Notes::default(), &mut watch, |_| 1.0).unwrap());
    snapshots.load(3).unwrap();
}

#[test]
fn partial_checkpoints_are_removed() {
    let toy = Toy::new(3);
    for name in [".tmpAbCd12", "step-000000000002.tmp", "config.json"] {
        std::fs::write(toy.dir.path().join(name), b"half").unwrap();
    }
    toy.finish();
    assert_eq!(toy.kept(), ["config.json", "step-000000000002.safetensors"]);
}

#[test]
fn validation_changes_no_bit_and_is_equal_after_a_resume() {
    fn watch<'a>(looks: &'a RefCell<Vec<u64>>) -> Callbacks<'a> {
        let validate = |weights: &params::Tensors| {
            let sum = weights["w"].sum_all()?.to_scalar::<f32>()?;
            Ok(vec![("sum".to_string(), f64::from(sum)), ("third".into(), f64::from(sum) / 3.0)])
        };
        let show = |step, weights: &params::Tensors| {
            assert!(weights.contains_key("w"));
            looks.borrow_mut().push(step);
        };
        Callbacks { validate: Some((3, Box::new(validate))), show: Some((4, Box::new(show))), ..Callbacks::default() }
    }
    let plain = Toy::new(10).finish();
    assert_eq!(plain.validation, []);
    let (looks, notes) = (RefCell::default(), Notes::default());
    let whole = done(Toy::new(10).fit(&notes, &mut watch(&looks), |_| 1.0).unwrap());
    assert_eq!((numbers(&whole), &whole.curve), (numbers(&plain), &plain.curve));
    assert_eq!(*looks.borrow(), [4, 8, 10]);
    assert_eq!(whole.validation.iter().map(|p| p.step).collect::<Vec<_>>(), [3, 6, 9, 10]);
    let last = whole.validation.last().unwrap();
    assert!(last.model["sum"] < last.ema["sum"], "the average lags behind");
    assert!(notes.said.borrow().contains(&"validation_sum_ema 6".to_string()), "{:?}", notes.said.borrow());
    for stop_at in 1..10 {
        let toy = Toy::new(10);
        let stop = Notes { stop_at, ..Notes::default() };
        assert!(matches!(toy.fit(&stop, &mut watch(&looks), |_| 1.0).unwrap(), Outcome::Stopped));
        let toy = toy.again();
        let cut = done(toy.fit(&Notes::default(), &mut watch(&looks), |_| 1.0).unwrap());
        assert_eq!((numbers(&cut), cut.curve), (numbers(&whole), whole.curve.clone()));
        assert_eq!(cut.validation, whole.validation, "stopped after {stop_at}");
    }
}

#[test]
fn a_file_that_is_not_a_checkpoint_cannot_be_exported() {
    let toy = Toy::new(3);
    toy.finish();
    let erw = |file: &Path| {
        let out = toy.dir.path().join("out.safetensors");
        let args = ["weights", "export", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let said = Command::new(env!("CARGO_BIN_EXE_erw")).args(args).finish();
        assert!(!said.status.success());
        String::from_utf8(said.stderr).unwrap()
    };
    let kept = toy.dir.path().join("step-000000000002.safetensors");
    let said = erw(&kept);
    assert!(said.contains("copy the `config.json` beside a checkpoint with it"), "{said}");
    let other = toy.dir.path().join("other.safetensors");
    std::fs::copy(&kept, &other).unwrap();
    assert!(erw(&other).contains("is not a checkpoint: its name is not of the form step-N.safetensors"));
}
