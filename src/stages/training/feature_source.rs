//! The parameter `features` of `warmup` and `train`: the inputs from which a training gets its
//! features.

use crate::support::frozen_networks::transformer_plan;
use crate::support::same_images::unpaired;
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::data::images::ImageSet;
use erw_ml::data::latents::Latents;
use erw_ml::data::packed::Packed;
use erw_ml::gpu::encoder::TransformerPlan;
use erw_ml::models::encoder::Encoder;
use erw_ml::train::sit::features::Features;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::element;
use serde::Deserialize;
use std::path::Path;

const FEATURES: &str = "features";
const IMAGES: &str = "images";
const ENCODER: &str = "encoder";

/// Values of the parameter `features`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Precomputed, from slot `features`, one artifact per encoder.
    Stored,
    /// Computed while training, from slots `images` and `encoder`.
    Online,
}

impl Mode {
    /// The slot with an artifact per encoder.
    pub fn slot(self) -> &'static str {
        match self {
            Self::Stored => FEATURES,
            Self::Online => ENCODER,
        }
    }

    /// Checks that the slots of this mode are connected and the slots of the other mode are not. An
    /// unused input would still be computed first, and its digest would enter the key.
    pub fn check(self, inputs: &[&str]) -> Result<()> {
        let connected = |slot: &&&str| inputs.contains(*slot);
        let (name, takes, leaves) = match self {
            Self::Stored => ("stored", &[FEATURES][..], &[IMAGES, ENCODER][..]),
            Self::Online => ("online", &[IMAGES, ENCODER][..], &[FEATURES][..]),
        };
        // A connected input shows what the user meant, so it is reported first.
        if let Some(slot) = leaves.iter().find(connected) {
            let error = Error::usage(format!("`features` is \"{name}\", but input `{slot}` is connected"));
            return Err(error.hint(match self {
                Self::Stored => {
                    "set `params.features = \"online\"` to compute features while training, or leave out the input"
                }
                Self::Online => "write `inputs.features = false`, or leave `params.features` at \"stored\"",
            }));
        }
        if let Some(slot) = takes.iter().find(|slot| !connected(slot)) {
            let error = Error::usage(format!("`features` is \"{name}\", but input `{slot}` is not connected"));
            return Err(error.hint(match self {
                Self::Stored => {
                    "connect `features`, or set `params.features = \"online\"` and connect `images` and `encoder`"
                }
                Self::Online => "connect `images` (those of the latents) and one `encoder` or a list of them",
            }));
        }
        Ok(())
    }

    /// Checks that features of mirrored images are available if `flip` is used.
    pub fn check_flip(self, flip: f64) -> Result<()> {
        match self {
            Self::Stored if flip > 0.0 => {
                let text = format!("`flip` is {flip}, but stored features do not include mirrored images");
                Err(Error::usage(text).hint("set `params.features = \"online\"` and connect `images` and `encoder`"))
            }
            _ => Ok(()),
        }
    }
}

/// Opens the inputs of this mode.
///
/// # Errors
/// If an artifact does not match its type, or its images are not those of the latents.
pub fn open(attempt: &Attempt, mode: Mode, latents: &Latents) -> Result<Features> {
    match mode {
        Mode::Stored => {
            let one = |(i, dir)| Ok((format!("input `{}`", element(FEATURES, i)), Packed::open(dir)?));
            let sets = attempt.inputs(FEATURES).into_iter().enumerate().map(one).collect::<candle_core::Result<_>>()?;
            Features::stored(latents, sets).map_err(unpaired)
        }
        Mode::Online => {
            let images = ImageSet::open(attempt.input(IMAGES)?)?;
            // Where they are computed is known later ([`super::gpu`]).
            let encoders = attempt.inputs(ENCODER).into_iter().map(|dir| Encoder::open(dir, &Device::Cpu));
            let encoders = encoders.collect::<candle_core::Result<_>>()?;
            Features::online(latents, &format!("input `{IMAGES}`"), images, encoders).map_err(unpaired)
        }
    }
}

/// Moves encoder number `i` to a device where candle's operations compute it.
///
/// # Errors
/// An encoder that cannot be read.
pub fn move_encoder(attempt: &Attempt, features: &mut Features, i: usize, device: &Device) -> Result<()> {
    match attempt.inputs(ENCODER).get(i) {
        Some(dir) => Ok(features.change_encoder(i, |_| Encoder::open(dir, device))?),
        None => Ok(()),
    }
}

/// What the transformers of encoders that compute features while training are on a GPU, for images of
/// a micro-batch.
///
/// # Errors
/// An encoder that cannot be read.
pub fn transformer_plans(attempt: &Attempt, features: &Features, micro_batch: usize) -> Result<Vec<TransformerPlan>> {
    let Features::Online(images, encoders) = features else { return Ok(vec![]) };
    let plan = |(encoder, dir): (&Encoder, &Path)| transformer_plan(encoder, dir, images.height(), micro_batch);
    encoders.iter().zip(attempt.inputs(ENCODER)).map(plan).collect()
}

#[cfg(test)]
mod tests {
    use super::Mode::{Online, Stored};

    #[test]
    fn each_mode_takes_its_own_slots_and_no_other() {
        let said = |mode: super::Mode, inputs: &[&str]| mode.check(inputs).err().map(|e| e.message);
        assert_eq!(said(Stored, &["features", "latents"]), None);
        assert_eq!(said(Stored, &["features", "features.1"]), None);
        assert_eq!(said(Online, &["encoder", "encoder.1", "images"]), None);
        let error = |mode, inputs: &[&str]| said(mode, inputs).unwrap();
        assert_eq!(error(Stored, &["latents"]), "`features` is \"stored\", but input `features` is not connected");
        assert_eq!(error(Stored, &["images", "encoder"]), "`features` is \"stored\", but input `images` is connected");
        assert_eq!(error(Online, &["images"]), "`features` is \"online\", but input `encoder` is not connected");
        assert_eq!(
            error(Online, &["encoder", "features", "images"]),
            "`features` is \"online\", but input `features` is connected"
        );
    }
}
