//! What a training carries from step to step, how a checkpoint holds it, and what is looked at between two steps. Which
//! of these happens when is the loop's business.

use super::checkpoint::{self, Checkpoint};
use super::curve::{Curve, CurvePoint};
use super::guard::{self, Divergence};
use super::watch::{self, ValidationPoint, Watch};
use super::{Fit, FitConfig, Observer, Sums};
use crate::ml::ema::Ema;
use crate::ml::optim::{AdamW, clip_factor, grad_norm};
use crate::ml::weights::{ParamSet, Tensors};
use candle_core::{Result, bail};

/// All that changes from step to step besides the parameters themselves.
pub(super) struct State {
    /// Steps done.
    pub step: u64,
    optimizer: AdamW,
    pub ema: Ema,
    pub curve: Curve,
    pub validation: Vec<ValidationPoint>,
    /// Steps of the newest checkpoint that is whole.
    saved: Option<u64>,
}

impl State {
    pub fn open(params: &ParamSet, cfg: &FitConfig, obs: &dyn Observer) -> Result<Self> {
        let Some(saved) = Checkpoint::latest(&cfg.checkpoint_dir, obs)? else {
            return Ok(Self {
                step: 0,
                optimizer: AdamW::new(params, cfg.optimizer)?,
                ema: Ema::new(params, cfg.ema_decay)?,
                curve: Curve::new(cfg.steps),
                validation: vec![],
                saved: None,
            });
        };
        let report = params.assign(&saved.model)?;
        if report.loaded.len() != params.len() {
            bail!("the checkpoint in {} is of another model: {report}", cfg.checkpoint_dir.display());
        }
        obs.resumed(saved.step);
        Ok(Self {
            step: saved.step,
            optimizer: AdamW::from_tensors(params, cfg.optimizer, saved.step, &saved.first, &saved.second)?,
            ema: Ema::from_tensors(params, cfg.ema_decay, &saved.ema)?,
            curve: Curve::from_tensors(cfg.steps, &saved.curve)?,
            validation: watch::from_tensors(&saved.validation)?,
            saved: Some(saved.step),
        })
    }

    /// The step that these gradients are of, alone.
    pub fn point(&self, cfg: &FitConfig, grads: &Tensors, sums: Sums) -> Result<CurvePoint> {
        let mean = 1.0 / cfg.accumulate.max(1) as f64;
        let parts = sums.parts.into_iter().map(|(name, v)| (name.to_string(), v * mean)).collect();
        let (loss, grad_norm) = (sums.loss * mean, grad_norm(grads)? * mean);
        Ok(CurvePoint { step: self.step + 1, loss, parts, grad_norm, lr: cfg.optimizer.lr })
    }

    /// Clips, updates parameters and averages, and extends the curve.
    pub fn update(&mut self, params: &ParamSet, cfg: &FitConfig, grads: &Tensors, point: &CurvePoint) -> Result<()> {
        let mean = 1.0 / cfg.accumulate.max(1) as f64;
        let scale = mean * clip_factor(point.grad_norm, cfg.max_grad_norm);
        self.optimizer.step(params, grads, scale, &mut self.ema)?;
        self.step += 1;
        self.curve.push(point)
    }

    pub fn snapshot(&self, params: &ParamSet) -> Result<Checkpoint> {
        let (first, second) = self.optimizer.moments(params)?;
        let (model, ema) = (params.tensors(), self.ema.tensors(params)?);
        let (curve, validation) = (self.curve.to_tensors()?, watch::to_tensors(&self.validation)?);
        Ok(Checkpoint { step: self.step, model, ema, first, second, curve, validation })
    }

    /// Writes a checkpoint, unless the state is not fit for one: then it says why.
    pub fn save(&mut self, params: &ParamSet, cfg: &FitConfig) -> Result<Option<String>> {
        let snapshot = self.snapshot(params)?;
        if let Some(what) = guard::of_state(&snapshot)? {
            return Ok(Some(what));
        }
        snapshot.save(&cfg.checkpoint_dir, cfg.keep).map_err(|e| {
            let stays = self.saved.map_or_else(|| "there is none yet".into(), |s| format!("that of step {s} stays"));
            e.context(format!("the checkpoint of step {} cannot be written; {stays}", self.step))
        })?;
        self.saved = Some(self.step);
        Ok(None)
    }

    pub fn diverged(&self, what: String, cfg: &FitConfig) -> Fit {
        let checkpoint = self.saved.map(|step| (step, checkpoint::path(&cfg.checkpoint_dir, step)));
        Fit::Diverged(Divergence { what, checkpoint })
    }

    /// Validates if it is time to, and tells the first loss of both sets of weights.
    pub fn validate(
        &mut self,
        params: &ParamSet,
        cfg: &FitConfig,
        obs: &dyn Observer,
        watch: &mut Watch,
    ) -> Result<()> {
        let Some((every, validate)) = &mut watch.validate else { return Ok(()) };
        if !watch::is_due(*every, self.step, cfg.steps) {
            return Ok(());
        }
        let model = params.tensors().into_iter().map(|(name, t)| (name, t.detach())).collect();
        let (model, ema) = (validate(&model)?, validate(&self.ema.tensors(params)?)?);
        for (losses, set) in [(&model, ""), (&ema, "_ema")] {
            if let Some((name, value)) = losses.first() {
                obs.metric(self.step, &format!("validation_{name}{set}"), *value);
            }
        }
        let (model, ema) = (model.into_iter().collect(), ema.into_iter().collect());
        self.validation.push(ValidationPoint { step: self.step, model, ema });
        Ok(())
    }

    pub fn show(&self, params: &ParamSet, cfg: &FitConfig, watch: &mut Watch) -> Result<()> {
        match &mut watch.show {
            Some((every, show)) if watch::is_due(*every, self.step, cfg.steps) => {
                show(self.step, &self.ema.tensors(params)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
