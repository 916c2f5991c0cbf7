//! How the latents of an autoencoder are normalised for a network that is trained on them, and back:
//! by one factor (Stable Diffusion), or by the mean and deviation of each channel (VA-VAE, REPA-E,
//! Playground 2.5). A network and its decoder must agree on it, or images are silently wrong, so it
//! is stored with latents, autoencoders and networks.

use crate::formats::WeightsFile;
use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The file of [`Channels`] that LightningDiT writes beside its latents.
pub const STATS_FILE: &str = "latents_stats.pt";

/// Networks see `factor (x - shift)` of latents x, for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentScale {
    /// `scaling_factor`.
    pub factor: f64,
    /// `shift_factor`; 0 with channels.
    pub shift: f64,
    /// `latents_mean` and `latents_std`: networks see `factor (x - mean) / std`.
    pub channels: Option<Channels>,
}

/// Statistics of each channel of latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channels {
    #[serde(rename = "latents_mean")]
    pub mean: Vec<f64>,
    #[serde(rename = "latents_std")]
    pub std: Vec<f64>,
}

impl LatentScale {
    /// From the fields of a `meta.json` or `config.json`, by diffusers' names.
    ///
    /// # Errors
    /// One of `latents_mean` and `latents_std` without the other, or values that are no numbers.
    pub fn of(meta: &Value) -> Result<Self> {
        let number = |key: &str, absent: f64| meta[key].as_f64().unwrap_or(absent);
        let given = !meta["latents_mean"].is_null() || !meta["latents_std"].is_null();
        let channels = given.then(|| serde_json::from_value(meta.clone()));
        let Ok(channels) = channels.transpose() else {
            bail!("`latents_mean` and `latents_std` are not two lists of numbers")
        };
        Ok(Self { factor: number("scaling_factor", 1.0), shift: number("shift_factor", 0.0), channels })
    }

    /// Refuses what is no normalisation of latents with so many channels.
    pub fn check(&self, channels: usize) -> Result<()> {
        if !self.factor.is_finite() || self.factor <= 0.0 {
            bail!("scaling_factor must be positive, not {}", self.factor);
        }
        let Some(Channels { mean, std }) = &self.channels else { return Ok(()) };
        if (mean.len(), std.len()) != (channels, channels) {
            let (a, b) = (mean.len(), std.len());
            bail!("latents_mean has {a} and latents_std {b} values, but latents have {channels} channels");
        }
        if let Some(bad) = std.iter().find(|s| !s.is_finite() || **s <= 0.0) {
            bail!("latents_std must be positive, not {bad}");
        }
        if let Some(bad) = mean.iter().find(|m| !m.is_finite()) {
            bail!("latents_mean must be finite, not {bad}");
        }
        if self.shift != 0.0 {
            bail!("latents have either a shift_factor or a latents_mean, not both");
        }
        Ok(())
    }

    /// Latents `[n, c, h, w]` of the autoencoder, as networks see them.
    pub fn to_network(&self, x: &Tensor) -> Result<Tensor> {
        match &self.channels {
            None => x.affine(self.factor, -self.shift * self.factor),
            Some(Channels { mean, std }) => {
                let factors: Vec<f64> = std.iter().map(|s| self.factor / s).collect();
                x.broadcast_sub(&row(mean, x)?)?.broadcast_mul(&row(&factors, x)?)
            }
        }
    }

    /// The inverse of [`to_network`](Self::to_network): the input of the decoder.
    pub fn to_autoencoder(&self, x: &Tensor) -> Result<Tensor> {
        match &self.channels {
            None => x.affine(1.0 / self.factor, self.shift),
            Some(Channels { mean, std }) => {
                let factors: Vec<f64> = std.iter().map(|s| s / self.factor).collect();
                x.broadcast_mul(&row(&factors, x)?)?.broadcast_add(&row(mean, x)?)
            }
        }
    }
}

/// `[1, c, 1, 1]`, like `x`.
fn row(values: &[f64], x: &Tensor) -> Result<Tensor> {
    Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())
}

impl Channels {
    /// From a file of tensors `mean` and `std`, as LightningDiT writes, or of `latents_bias` and
    /// `latents_scale` = 1 / std, as REPA-E does. Shapes may have dimensions of 1.
    pub fn read(path: &Path) -> Result<Self> {
        let file = WeightsFile::open(path)?;
        let tensors = file.tensors(&file.only_set(&[""])?)?;
        let list = |name: &str| -> Result<Option<Vec<f64>>> {
            tensors.get(name).map(|t| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()).transpose()
        };
        if let (Some(mean), Some(std)) = (list("mean")?, list("std")?) {
            return Ok(Self { mean, std });
        }
        if let (Some(mean), Some(scale)) = (list("latents_bias")?, list("latents_scale")?) {
            return Ok(Self { mean, std: scale.into_iter().map(|s| 1.0 / s).collect() });
        }
        let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        bail!(
            "{}: no tensors `mean` and `std`, nor `latents_bias` and `latents_scale`; it has {names:?}",
            path.display()
        )
    }

    /// Whether both normalise alike, up to a thousandth of a deviation.
    pub fn agree(&self, other: &Self) -> bool {
        let near = |(a, b): (&f64, &f64), std: &f64| (a - b).abs() <= 1e-3 * std;
        self.mean.len() == other.mean.len()
            && self.std.len() == other.std.len()
            && self.mean.iter().zip(&other.mean).zip(&self.std).all(|(pair, std)| near(pair, std))
            && self.std.iter().zip(&other.std).zip(&self.std).all(|(pair, std)| near(pair, std))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn channels_are_normalised_each_and_back() -> Result<()> {
        let scale =
            LatentScale::of(&json!({"scaling_factor": 0.5, "latents_mean": [1.0, -2.0], "latents_std": [2, 4]}))?;
        scale.check(2)?;
        let x = Tensor::new(&[[[[5f32]], [[-2.0]]]], &Device::Cpu)?;
        let seen = scale.to_network(&x)?;
        assert_eq!(seen.flatten_all()?.to_vec1::<f32>()?, [1.0, 0.0]);
        assert_eq!(scale.to_autoencoder(&seen)?.flatten_all()?.to_vec1::<f32>()?, [5.0, -2.0]);
        Ok(())
    }

    #[test]
    fn statistics_that_do_not_fit_are_refused() {
        let refused = |meta: Value, cause: &str| {
            let e = LatentScale::of(&meta).and_then(|scale| scale.check(2)).unwrap_err().to_string();
            assert!(e.contains(cause), "{meta}: {e}");
        };
        refused(json!({"latents_mean": [1, 2]}), "not two lists");
        refused(json!({"latents_mean": [1, 2], "latents_std": "none"}), "not two lists");
        refused(json!({"latents_mean": [1, 2], "latents_std": [1, 2, 3]}), "2 and latents_std 3 values");
        refused(json!({"latents_mean": [1, 2], "latents_std": [1, 0]}), "positive, not 0");
        refused(json!({"latents_mean": [1, 2], "latents_std": [1, 1], "shift_factor": 0.1}), "not both");
        refused(json!({"scaling_factor": 0.0}), "positive, not 0");
    }
}
