//! The state of a training from step to step, how a checkpoint stores it, and the callbacks between
//! two steps. The loop decides when each of these happens.

use super::adamw::clip_factor;
use super::callbacks::{self, Callbacks, ValidationPoint};
use super::checkpoint::{self, Checkpoint};
use super::config::FitConfig;
use super::curve::{Curve, CurvePoint};
use super::divergence::{self, Divergence};
use super::engine::{Engine, Losses};
use super::outcome::{Outcome, Trained};
use super::scaler::Scaler;
use super::snapshots::Snapshots;
use crate::nn::params::Tensors;
use crate::observer::Observer;
use crate::ranks::Ranks;
use candle_core::{Result, bail};

/// Everything that changes from step to step, except the parameters.
pub(super) struct TrainState {
    /// Steps done.
    pub step: u64,
    pub curve: Curve,
    pub validation: Vec<ValidationPoint>,
    /// Present with loss scaling.
    pub scaler: Option<Scaler>,
    /// Steps of the newest complete checkpoint.
    saved: Option<u64>,
}

impl TrainState {
    /// Starts at step 0, or where the newest checkpoint ends, which the engine then restores.
    pub fn open(
        engine: &mut dyn Engine,
        cfg: &FitConfig,
        obs: &dyn Observer,
        snapshots: Option<&Snapshots>,
    ) -> Result<Self> {
        let Some(mut saved) = newest(cfg, obs, snapshots)? else {
            engine.start()?;
            return Ok(Self {
                step: 0,
                curve: Curve::new(cfg.steps),
                validation: vec![],
                scaler: cfg.loss_scaling.then(Scaler::new),
                saved: None,
            });
        };
        let scaler = if cfg.loss_scaling { Some(Scaler::from_tensors(&saved.scaler)?) } else { None };
        let updates = saved.step - scaler.as_ref().map_or(0, Scaler::skipped);
        let report = engine.restore(&mut saved, updates)?;
        if !(report.missing.is_empty() && report.mismatched.is_empty()) {
            bail!("the checkpoint in {} belongs to another model: {report}", cfg.checkpoint_dir.display());
        }
        obs.resumed(saved.step);
        Ok(Self {
            step: saved.step,
            curve: Curve::from_tensors(cfg.steps, &saved.curve)?,
            validation: callbacks::from_tensors(&saved.validation)?,
            scaler,
            saved: Some(saved.step),
        })
    }

    pub fn loss_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, Scaler::scale)
    }

    /// The factor that turns gradients, summed over micro-batches of a scaled loss, into gradients
    /// of the mean loss.
    fn unscaled(&self, cfg: &FitConfig) -> f64 {
        1.0 / cfg.accumulate.max(1) as f64 / self.loss_scale()
    }

    /// The curve point of this step alone, from sums over its micro-batches.
    pub fn point(&self, cfg: &FitConfig, sums: Losses, grad_norm: f64) -> CurvePoint {
        let (mean, unscaled) = (1.0 / cfg.accumulate.max(1) as f64, self.unscaled(cfg));
        let parts = sums.parts.into_iter().map(|(name, v)| (name.to_string(), v * mean)).collect();
        let (loss, grad_norm) = (sums.loss * unscaled, grad_norm * unscaled);
        CurvePoint {
            step: self.step + 1,
            loss,
            parts,
            grad_norm,
            lr: cfg.lr.at(self.step, cfg.steps, cfg.optimizer.lr),
        }
    }

    /// Skips a step whose gradients overflowed in f16, and reports it. A skipped step counts as a
    /// step. Returns whether the step was skipped.
    pub fn skips(&mut self, point: &CurvePoint, obs: &dyn Observer) -> Result<bool> {
        let Some(scaler) = &mut self.scaler else { return Ok(false) };
        if point.grad_norm.is_finite() {
            return Ok(false);
        }
        obs.log(&scaler.back_off(self.step)?);
        self.step += 1;
        self.curve.pass(self.step);
        Ok(true)
    }

    /// Clips gradients, updates parameters and averages, and extends the curve.
    pub fn update(&mut self, engine: &mut dyn Engine, cfg: &FitConfig, point: &CurvePoint) -> Result<()> {
        let scale = self.unscaled(cfg) * clip_factor(point.grad_norm, cfg.max_grad_norm);
        if let Some(scaler) = &mut self.scaler {
            scaler.grow();
        }
        engine.update(point.lr, scale)?;
        self.step += 1;
        self.curve.push(point)
    }

    pub fn snapshot(&self, engine: &dyn Engine) -> Result<Checkpoint> {
        let [first, second] = engine.moments()?;
        let mut further = Tensors::new();
        for (i, (_, tensors)) in engine.further_averages()?.into_iter().enumerate() {
            further.extend(tensors.into_iter().map(|(name, t)| (format!("{i}/{name}"), t)));
        }
        let (curve, validation) = (self.curve.to_tensors()?, callbacks::to_tensors(&self.validation)?);
        let scaler = self.scaler.as_ref().map_or_else(|| Ok(Tensors::new()), Scaler::to_tensors)?;
        Ok(Checkpoint {
            step: self.step,
            model: engine.model()?,
            ema: engine.average()?,
            further,
            first,
            second,
            curve,
            validation,
            scaler,
        })
    }

    pub fn finish(self, engine: &dyn Engine) -> Result<Trained> {
        Ok(Trained {
            model: engine.model()?,
            ema: engine.average()?,
            further: engine.further_averages()?,
            curve: self.curve.points,
            validation: self.validation,
        })
    }

    /// Writes a checkpoint. If the state is not finite, writes nothing and returns the fault.
    pub fn save(&mut self, engine: &dyn Engine, cfg: &FitConfig) -> Result<Option<String>> {
        let snapshot = self.snapshot(engine)?;
        if let Some(what) = divergence::of_state(&snapshot)? {
            return Ok(Some(what));
        }
        snapshot.save(&cfg.checkpoint_dir, cfg.keep).map_err(|e| {
            let stays =
                self.saved.map_or_else(|| "there is no earlier one".into(), |s| format!("that of step {s} is kept"));
            e.context(format!("the checkpoint of step {} cannot be written; {stays}", self.step))
        })?;
        self.saved = Some(self.step);
        Ok(None)
    }

    pub fn diverged(&self, what: String, cfg: &FitConfig) -> Outcome {
        let checkpoint = self.saved.map(|step| (step, checkpoint::path(&cfg.checkpoint_dir, step)));
        Outcome::Diverged(Divergence { what, checkpoint })
    }

    /// Validates if due, and reports the first loss of both sets of weights.
    pub fn validate(
        &mut self,
        engine: &dyn Engine,
        cfg: &FitConfig,
        obs: &dyn Observer,
        watch: &mut Callbacks,
    ) -> Result<()> {
        let Some((every, validate)) = &mut watch.validate else { return Ok(()) };
        if !callbacks::is_due(*every, self.step, cfg.steps) {
            return Ok(());
        }
        let model = engine.model()?.into_iter().map(|(name, t)| (name, t.detach())).collect();
        let (model, ema) = (validate(&model)?, validate(&engine.average()?)?);
        for (losses, set) in [(&model, ""), (&ema, "_ema")] {
            if let Some((name, value)) = losses.first() {
                obs.metric(self.step, &format!("validation_{name}{set}"), *value);
            }
        }
        let (model, ema) = (model.into_iter().collect(), ema.into_iter().collect());
        self.validation.push(ValidationPoint { step: self.step, model, ema });
        Ok(())
    }

    /// Saves the first average if a snapshot of this step is wanted. A full disk is an error,
    /// because snapshots are part of the result.
    pub fn keep_average(&self, engine: &dyn Engine, watch: &Callbacks) -> Result<()> {
        watch.snapshots.as_ref().map_or(Ok(()), |s| s.keep(self.step, || engine.average()))
    }

    pub fn show(&self, engine: &dyn Engine, cfg: &FitConfig, watch: &mut Callbacks) -> Result<()> {
        match &mut watch.show {
            Some((every, show)) if callbacks::is_due(*every, self.step, cfg.steps) => {
                show(self.step, &engine.average()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The newest checkpoint to go on from. The leading rank chooses it for all.
fn newest(cfg: &FitConfig, obs: &dyn Observer, snapshots: Option<&Snapshots>) -> Result<Option<Checkpoint>> {
    let ranks: &Ranks = &cfg.ranks;
    let usable = |step| snapshots.map_or(Ok(()), |snapshots| snapshots.check(step));
    let found = if ranks.leads() { Checkpoint::latest(&cfg.checkpoint_dir, obs, usable)? } else { None };
    let steps = ranks.gather_numbers(&[found.as_ref().map_or(-1.0, |found| found.step as f64)])?;
    match steps.first() {
        Some(step) if !ranks.leads() && *step >= 0.0 => Checkpoint::seen_by_another(*step as u64, &cfg.checkpoint_dir),
        _ => Ok(found),
    }
}
