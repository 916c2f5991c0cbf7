//! Where a training has its features from: `features` artifacts, or frozen encoders that run on the images of each
//! micro-batch while the training goes on. Both give the same numbers; one costs disk, the other time at every step.
//!
//! It knows latents only as what the features must pair with, and nothing of steps or losses.

use crate::support::pairing::{check_pairs, labels_digest, stated_labels};
use candle_core::{DType, Device, Tensor, bail};
use erw_base::error::{Error, Result};
use erw_ml::data::augment::mirror;
use erw_ml::data::images::ImageSet;
use erw_ml::data::packed::Packed;
use erw_ml::models::encoder::Encoder;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::element;
use serde::Deserialize;

const FEATURES: &str = "features";
const IMAGES: &str = "images";
const ENCODER: &str = "encoder";

/// The parameter `features` of both phases.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Slot `features`, one artifact per encoder.
    Stored,
    /// Slots `images` and `encoder`.
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

    /// Are the slots connected that this takes, and those open that the other takes? An input of no use would still be
    /// made first and stand in the key.
    pub fn check(self, inputs: &[&str]) -> Result<()> {
        let connected = |slot: &&&str| inputs.contains(*slot);
        let (name, takes, leaves) = match self {
            Self::Stored => ("stored", &[FEATURES][..], &[IMAGES, ENCODER][..]),
            Self::Online => ("online", &[IMAGES, ENCODER][..], &[FEATURES][..]),
        };
        // What is connected shows what is meant: told first.
        if let Some(slot) = leaves.iter().find(connected) {
            let error = Error::usage(format!("`features` is \"{name}\", but input `{slot}` is connected"));
            return Err(error.hint(match self {
                Self::Stored => {
                    "set `params.features = \"online\"` to compute features while training, or leave it open"
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
                Self::Online => "connect `images`, those of the latents, and one `encoder` or a list of them",
            }));
        }
        Ok(())
    }
}

impl Mode {
    /// Can mirrored images be aligned?
    pub fn check_flip(self, flip: f64) -> Result<()> {
        match self {
            Self::Stored if flip > 0.0 => {
                let text = format!("`flip` is {flip}, but stored features are of images that are not mirrored");
                Err(Error::usage(text).hint("set `params.features = \"online\"` and connect `images` and `encoder`"))
            }
            _ => Ok(()),
        }
    }
}

/// Opened and checked against the latents.
pub enum FeatureSource {
    /// An artifact per encoder; none without alignment.
    Stored(Vec<Packed>),
    Online(Box<ImageSet>, Vec<Encoder>),
}

/// What one encoder gives for an image.
pub struct Grid {
    /// The input it comes from, for messages: `features`, `encoder.1`.
    pub input: String,
    pub tokens: usize,
    pub dim: usize,
}

impl FeatureSource {
    /// `None` opens nothing.
    ///
    /// # Errors
    /// An artifact that is not what its type says, or whose images are not those of the latents.
    pub fn open(attempt: &Attempt, mode: Option<Mode>, latents: &Packed, device: &Device) -> Result<Self> {
        match mode {
            None => Ok(Self::Stored(vec![])),
            Some(Mode::Stored) => {
                let all: Vec<Packed> =
                    attempt.inputs(FEATURES).into_iter().map(Packed::open).collect::<candle_core::Result<_>>()?;
                for (i, f) in all.iter().enumerate() {
                    check_pairs(latents, &element(FEATURES, i), f.len(), stated_labels(f))?;
                }
                Ok(Self::Stored(all))
            }
            Some(Mode::Online) => {
                let images = ImageSet::open(attempt.input(IMAGES)?)?;
                check_pairs(latents, IMAGES, images.len(), Some(&labels_digest(&images.labels())))?;
                let encoders = attempt.inputs(ENCODER).into_iter().map(|dir| Encoder::open(dir, device));
                Ok(Self::Online(Box::new(images), encoders.collect::<candle_core::Result<_>>()?))
            }
        }
    }

    /// One per encoder, in the order of the pipeline, which is that of the projectors.
    pub fn grids(&self) -> Result<Vec<Grid>> {
        match self {
            Self::Stored(all) => {
                let grid = |(i, f): (usize, &Packed)| match f.shape("tokens")?[..] {
                    [tokens, dim] => Ok(Grid { input: element(FEATURES, i), tokens, dim }),
                    ref other => {
                        let text = format!("input `{}` has rows {other:?}, not [tokens, dim]", element(FEATURES, i));
                        Err(Error::stage(text))
                    }
                };
                all.iter().enumerate().map(grid).collect()
            }
            Self::Online(images, encoders) => {
                let grid = |(i, e): (usize, &Encoder)| {
                    let input = element(ENCODER, i);
                    let shape = e.shape(images.height());
                    let (tokens, dim) = shape.map_err(|e| Error::from(e).context(format!("input `{input}`")))?;
                    Ok(Grid { input, tokens, dim })
                };
                encoders.iter().enumerate().map(grid).collect()
            }
        }
    }

    /// [`tokens`](Self::tokens) on the CPU where no encoder must run for them.
    pub fn stored(&self, rows: &[u64], flipped: &[bool]) -> candle_core::Result<Option<Vec<Tensor>>> {
        match self {
            Self::Stored(_) => self.tokens(rows, flipped, &Device::Cpu).map(Some),
            Self::Online(..) => Ok(None),
        }
    }

    /// Features f32 `[n, T, D]` of the images of these rows, one tensor per encoder. No gradient leads into them. Those of
    /// mirrored images are only to be had by computing them.
    pub fn tokens(&self, rows: &[u64], flipped: &[bool], device: &Device) -> candle_core::Result<Vec<Tensor>> {
        match self {
            Self::Stored(_) if flipped.contains(&true) => bail!("stored features are not of mirrored images"),
            Self::Stored(all) => all.iter().map(|f| f.rows("tokens", rows, device)?.to_dtype(DType::F32)).collect(),
            Self::Online(images, encoders) => {
                let mut pixels = images.batch(rows, device)?;
                if flipped.contains(&true) {
                    pixels = mirror(&pixels, flipped)?;
                }
                encoders.iter().map(|e| Ok(e.tokens(&pixels)?.detach())).collect()
            }
        }
    }
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
