//! The state of a training from step to step, how a checkpoint stores it, and the callbacks between
//! two steps. The loop decides when each of these happens.

use super::adamw::{AdamW, clip_factor, grad_norm};
use super::callbacks::{self, Callbacks, ValidationPoint};
use super::checkpoint::{self, Checkpoint};
use super::config::FitConfig;
use super::curve::{Curve, CurvePoint};
use super::divergence::{self, Divergence};
use super::ema::Ema;
use super::outcome::{Outcome, Trained};
use super::scaler::Scaler;
use crate::kernels::autograd::Gradients;
use crate::nn::params::{ParamSet, Tensors};
use crate::observer::Observer;
use candle_core::{Result, bail};

/// Everything that changes from step to step, except the parameters.
pub(super) struct TrainState {
    /// Steps done.
    pub step: u64,
    optimizer: AdamW,
    /// One per decay.
    emas: Vec<Ema>,
    pub curve: Curve,
    pub validation: Vec<ValidationPoint>,
    /// Present with loss scaling.
    pub scaler: Option<Scaler>,
    /// Steps of the newest complete checkpoint.
    saved: Option<u64>,
}

impl TrainState {
    pub fn open(params: &ParamSet, cfg: &FitConfig, obs: &dyn Observer) -> Result<Self> {
        let Some(mut saved) = Checkpoint::latest(&cfg.checkpoint_dir, obs)? else {
            return Ok(Self {
                step: 0,
                optimizer: AdamW::new(params, cfg.optimizer)?,
                emas: cfg.ema_decays.iter().map(|decay| Ema::new(params, *decay)).collect::<Result<_>>()?,
                curve: Curve::new(cfg.steps),
                validation: vec![],
                scaler: cfg.loss_scaling.then(Scaler::new),
                saved: None,
            });
        };
        let report = params.assign(&std::mem::take(&mut saved.model))?;
        if report.loaded.len() != params.len() {
            bail!("the checkpoint in {} belongs to another model: {report}", cfg.checkpoint_dir.display());
        }
        obs.resumed(saved.step);
        let scaler = if cfg.loss_scaling { Some(Scaler::from_tensors(&saved.scaler)?) } else { None };
        let updates = saved.step - scaler.as_ref().map_or(0, Scaler::skipped);
        Ok(Self {
            step: saved.step,
            optimizer: AdamW::from_tensors(params, cfg.optimizer, updates, &mut saved.first, &mut saved.second)?,
            emas: emas_from(params, &cfg.ema_decays, &mut saved)?,
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

    /// The curve point of this step alone, with these gradients.
    pub fn point(&self, cfg: &FitConfig, grads: &Gradients, sums: Sums) -> Result<CurvePoint> {
        let (mean, unscaled) = (1.0 / cfg.accumulate.max(1) as f64, self.unscaled(cfg));
        let parts = sums.parts.into_iter().map(|(name, v)| (name.to_string(), v * mean)).collect();
        let (loss, grad_norm) = (sums.loss * unscaled, grad_norm(grads)? * unscaled);
        Ok(CurvePoint {
            step: self.step + 1,
            loss,
            parts,
            grad_norm,
            lr: cfg.lr.at(self.step, cfg.steps, cfg.optimizer.lr),
        })
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
    pub fn update(&mut self, cfg: &FitConfig, grads: &Gradients, point: &CurvePoint) -> Result<()> {
        let scale = self.unscaled(cfg) * clip_factor(point.grad_norm, cfg.max_grad_norm);
        if let Some(scaler) = &mut self.scaler {
            scaler.grow();
        }
        self.optimizer.config.lr = point.lr;
        self.optimizer.step(grads, scale, &mut self.emas)?;
        self.step += 1;
        self.curve.push(point)
    }

    pub fn snapshot(&self, params: &ParamSet) -> Result<Checkpoint> {
        let (first, second) = self.optimizer.moments();
        let (ema, others) = self.averages()?;
        let mut further = Tensors::new();
        for (i, (_, tensors)) in others.into_iter().enumerate() {
            further.extend(tensors.into_iter().map(|(name, t)| (format!("{i}/{name}"), t)));
        }
        let (curve, validation) = (self.curve.to_tensors()?, callbacks::to_tensors(&self.validation)?);
        let scaler = self.scaler.as_ref().map_or_else(|| Ok(Tensors::new()), Scaler::to_tensors)?;
        Ok(Checkpoint {
            step: self.step,
            model: params.tensors(),
            ema,
            further,
            first,
            second,
            curve,
            validation,
            scaler,
        })
    }

    pub fn finish(self, params: &ParamSet) -> Result<Trained> {
        let (ema, further) = self.averages()?;
        let (curve, validation) = (self.curve.points, self.validation);
        Ok(Trained { model: params.tensors(), ema, further, curve, validation })
    }

    /// The first average, and the others with their decays.
    fn averages(&self) -> Result<(Tensors, Vec<(f64, Tensors)>)> {
        let (first, others) = self.first_average()?;
        Ok((first.tensors(), others.iter().map(|e| (e.decay, e.tensors())).collect()))
    }

    fn first_average(&self) -> Result<(&Ema, &[Ema])> {
        match self.emas.split_first() {
            Some(averages) => Ok(averages),
            None => bail!("training needs at least one average of the weights"),
        }
    }

    /// Writes a checkpoint. If the state is not finite, writes nothing and returns the fault.
    pub fn save(&mut self, params: &ParamSet, cfg: &FitConfig) -> Result<Option<String>> {
        let snapshot = self.snapshot(params)?;
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
        params: &ParamSet,
        cfg: &FitConfig,
        obs: &dyn Observer,
        watch: &mut Callbacks,
    ) -> Result<()> {
        let Some((every, validate)) = &mut watch.validate else { return Ok(()) };
        if !callbacks::is_due(*every, self.step, cfg.steps) {
            return Ok(());
        }
        let model = params.tensors().into_iter().map(|(name, t)| (name, t.detach())).collect();
        let (model, ema) = (validate(&model)?, validate(&self.first_average()?.0.tensors())?);
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
    pub fn keep_average(&self, watch: &Callbacks) -> Result<()> {
        let average = || Ok(self.first_average()?.0.tensors());
        watch.snapshots.as_ref().map_or(Ok(()), |s| s.keep(self.step, average))
    }

    pub fn show(&self, cfg: &FitConfig, watch: &mut Callbacks) -> Result<()> {
        match &mut watch.show {
            Some((every, show)) if callbacks::is_due(*every, self.step, cfg.steps) => {
                show(self.step, &self.first_average()?.0.tensors());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The averages in a checkpoint, in the order of the decays. The first is moved out of it.
fn emas_from(params: &ParamSet, decays: &[f64], saved: &mut Checkpoint) -> Result<Vec<Ema>> {
    let average = |(i, decay): (usize, &f64)| {
        let Some(i) = i.checked_sub(1) else { return Ema::from_tensors(params, *decay, &mut saved.ema) };
        let prefix = format!("{i}/");
        let own =
            saved.further.iter().filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?.to_string(), t.clone())));
        Ema::from_tensors(params, *decay, &mut own.collect())
    };
    decays.iter().enumerate().map(average).collect()
}

/// Sums over the micro-batches of a step.
pub(crate) struct Sums {
    pub(crate) loss: f64,
    pub(crate) parts: Vec<(&'static str, f64)>,
}
