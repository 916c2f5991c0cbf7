//! The learning curve of a training.
//!
//! It is part of an artifact. So the steps it shows depend only on the total number of steps, not
//! on how often the program logs, and it is saved as binary f64, so that a resumed curve is equal
//! to the last digit.

use crate::nn::params::Tensors;
use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Approximate number of points of a long training.
const POINTS: u64 = 1000;

/// The mean over the steps since the previous point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Steps done.
    pub step: u64,
    pub loss: f64,
    /// Terms of the loss and other values that the loop reports, by name.
    pub parts: BTreeMap<String, f64>,
    /// Before clipping.
    pub grad_norm: f64,
    pub lr: f64,
}

pub(super) struct Curve {
    pub points: Vec<CurvePoint>,
    /// Sums since the last point, and the number of steps.
    pending: Option<(CurvePoint, u64)>,
    every: u64,
    steps: u64,
}

impl Curve {
    pub fn new(steps: u64) -> Self {
        Self { points: vec![], pending: None, every: steps.div_ceil(POINTS).max(1), steps }
    }

    /// Adds the values of one step.
    pub fn push(&mut self, step: &CurvePoint) -> Result<()> {
        let (sum, count) = match self.pending.take() {
            None => (step.clone(), 1),
            Some((mut sum, count)) => {
                if !sum.parts.keys().eq(step.parts.keys()) {
                    bail!("the parts of the loss at step {} differ from those of earlier steps", step.step);
                }
                sum.step = step.step;
                sum.loss += step.loss;
                sum.grad_norm += step.grad_norm;
                sum.lr = step.lr;
                for (total, value) in sum.parts.values_mut().zip(step.parts.values()) {
                    *total += value;
                }
                (sum, count + 1)
            }
        };
        self.close(step.step, sum, count);
        Ok(())
    }

    /// Counts a step without values. A point due at it is the mean over the other steps.
    pub fn pass(&mut self, step: u64) {
        if let Some((sum, count)) = self.pending.take() {
            self.close(step, CurvePoint { step, ..sum }, count);
        }
    }

    /// Adds a point from sums over `count` steps up to `step`, if one is due there.
    fn close(&mut self, step: u64, mut sum: CurvePoint, count: u64) {
        if step.is_multiple_of(self.every) || step == self.steps {
            let n = count as f64;
            sum.loss /= n;
            sum.grad_norm /= n;
            sum.parts.values_mut().for_each(|v| *v /= n);
            self.points.push(sum);
        } else {
            self.pending = Some((sum, count));
        }
    }

    /// One f64 tensor per column. The sums of an unfinished point are the last row; `count` is its
    /// number of steps, 0 without one.
    pub fn to_tensors(&self) -> Result<Tensors> {
        let rows: Vec<&CurvePoint> = self.points.iter().chain(self.pending.iter().map(|(p, _)| p)).collect();
        let column = |value: &dyn Fn(&CurvePoint) -> f64| {
            Tensor::from_vec(rows.iter().map(|p| value(p)).collect::<Vec<f64>>(), rows.len(), &Device::Cpu)
        };
        let mut columns = Tensors::new();
        columns.insert("step".into(), column(&|p| p.step as f64)?);
        columns.insert("loss".into(), column(&|p| p.loss)?);
        columns.insert("grad_norm".into(), column(&|p| p.grad_norm)?);
        columns.insert("lr".into(), column(&|p| p.lr)?);
        for name in rows.first().iter().flat_map(|p| p.parts.keys()) {
            columns.insert(format!("parts.{name}"), column(&|p| p.parts.get(name).copied().unwrap_or(f64::NAN))?);
        }
        let count = self.pending.as_ref().map_or(0, |(_, n)| *n as i64);
        columns.insert("count".into(), Tensor::new(&[count], &Device::Cpu)?);
        Ok(columns)
    }

    pub fn from_tensors(steps: u64, columns: &Tensors) -> Result<Self> {
        let column = |name: &str| match columns.get(name) {
            Some(t) => t.to_vec1::<f64>(),
            None => bail!("the curve in the checkpoint has no column {name}"),
        };
        let (step, loss, norm, lr) = (column("step")?, column("loss")?, column("grad_norm")?, column("lr")?);
        let parts: Vec<(&str, Vec<f64>)> = columns
            .iter()
            .filter_map(|(k, t)| k.strip_prefix("parts.").map(|name| Ok((name, t.to_vec1::<f64>()?))))
            .collect::<Result<_>>()?;
        let mut points: Vec<CurvePoint> = (0..step.len())
            .map(|i| CurvePoint {
                step: step[i] as u64,
                loss: loss[i],
                parts: parts.iter().map(|(name, values)| ((*name).to_string(), values[i])).collect(),
                grad_norm: norm[i],
                lr: lr[i],
            })
            .collect();
        let count = match columns.get("count") {
            Some(t) => t.to_vec1::<i64>()?.first().copied().unwrap_or(0) as u64,
            None => bail!("the curve in the checkpoint has no column count"),
        };
        let pending = if count > 0 { points.pop().map(|sum| (sum, count)) } else { None };
        Ok(Self { points, pending, ..Self::new(steps) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(step: u64) -> CurvePoint {
        let parts = [("velocity".to_string(), step as f64 / 3.0)].into();
        CurvePoint { step, loss: 1.0 / step as f64, parts, grad_norm: 0.1, lr: 1e-4 }
    }

    #[test]
    fn a_curve_saved_anywhere_goes_on_as_if_it_had_not_been() {
        let steps = 2 * POINTS + 1;
        let mut whole = Curve::new(steps);
        let mut cut = Curve::new(steps);
        for step in 1..=steps {
            whole.push(&value(step)).unwrap();
            cut.push(&value(step)).unwrap();
            if step % 7 == 0 {
                cut = Curve::from_tensors(steps, &cut.to_tensors().unwrap()).unwrap();
            }
        }
        assert_eq!(whole.points.len() as u64, steps.div_ceil(3));
        assert_eq!(whole.points, cut.points);
        assert_eq!(whole.points[0].step, 3);
        assert_eq!(whole.points.last().unwrap().step, steps);
        assert_eq!(whole.points[0].parts["velocity"], (1.0 / 3.0 + 2.0 / 3.0 + 1.0) / 3.0);
    }

    #[test]
    fn a_step_without_values_is_in_no_mean_and_ends_a_point_all_the_same() {
        let mut curve = Curve::new(2 * POINTS);
        curve.push(&value(1)).unwrap();
        curve.pass(2);
        assert_eq!(curve.points, [CurvePoint { step: 2, ..value(1) }]);
        curve.pass(3);
        curve.pass(4);
        assert_eq!(curve.points.len(), 1, "no point is made without values");
    }
}
