//! Checkpoints: one safetensors file each, `step-000000000100.safetensors`, written beside the old ones, synced and renamed, after
//! which those go that need not stay. A reader never sees half a checkpoint, and there is always a whole one, on a full
//! disk too. A digest of everything else in the file tells bit rot, which would end in a wrong result that looks like any
//! other.

use super::config::CheckpointRetention;
use crate::nn::params::{self, Tensors};
use crate::observer::Observer;
use candle_core::{Device, Result, Tensor, bail};
use safetensors::View;
use std::path::{Path, PathBuf};

/// Name of the tensor that holds the digest, u8 `[32]`.
const CHECK: &str = "check";

/// Where the checkpoint after so many steps lies.
pub(super) fn path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:012}.safetensors"))
}

/// Weights out of a checkpoint file, for others than the training that it is of.
#[derive(Debug)]
pub struct SavedWeights {
    /// Steps done.
    pub step: u64,
    pub model: Tensors,
    pub ema: Tensors,
}

/// Reads the weights of a checkpoint.
///
/// # Errors
/// A file that is no checkpoint, or does not hold what was written.
pub fn saved_weights(path: &Path) -> Result<SavedWeights> {
    let Some(step) = step_of(path) else {
        bail!("{} is not called step-N.safetensors, as checkpoints are", path.display())
    };
    let Checkpoint { step, model, ema, .. } = Checkpoint::read(step, path)?;
    Ok(SavedWeights { step, model, ema })
}

/// The state of a training after a step.
pub(super) struct Checkpoint {
    /// Steps done.
    pub step: u64,
    pub model: Tensors,
    pub ema: Tensors,
    /// The averages with other decays, as `INDEX/NAME`.
    pub further: Tensors,
    /// First and second moments.
    pub first: Tensors,
    pub second: Tensors,
    pub curve: Tensors,
    pub validation: Tensors,
    /// Empty without loss scaling.
    pub scaler: Tensors,
}

impl Checkpoint {
    /// The newest readable checkpoint. Unreadable ones are reported and passed over: repeating steps is always right.
    /// What a kill left of one that was being written goes.
    pub fn latest(dir: &Path, obs: &dyn Observer) -> Result<Option<Self>> {
        for entry in entries(dir)? {
            let name = entry.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            // `safetensors` writes to the former, then it is ours.
            if name.starts_with(".tmp") || name.starts_with("step-") && name.ends_with(".tmp") {
                std::fs::remove_file(&entry)?;
            }
        }
        for (step, path) in files(dir)?.into_iter().rev() {
            match Self::read(step, &path) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(e) => obs.log(&format!("passing over a damaged checkpoint: {e}")),
            }
        }
        Ok(None)
    }

    fn read(step: u64, path: &Path) -> Result<Self> {
        let mut c = Self {
            step,
            model: Tensors::new(),
            ema: Tensors::new(),
            further: Tensors::new(),
            first: Tensors::new(),
            second: Tensors::new(),
            curve: Tensors::new(),
            validation: Tensors::new(),
            scaler: Tensors::new(),
        };
        for (name, tensor) in read_sealed(path)? {
            let Some((group, name)) = name.split_once('/') else { bail!("{}: odd name {name}", path.display()) };
            let group = match group {
                "model" => &mut c.model,
                "ema" => &mut c.ema,
                "further" => &mut c.further,
                "first" => &mut c.first,
                "second" => &mut c.second,
                "curve" => &mut c.curve,
                "validation" => &mut c.validation,
                "scaler" => &mut c.scaler,
                _ => bail!("{}: odd name {group}/{name}", path.display()),
            };
            group.insert(name.to_string(), tensor);
        }
        Ok(c)
    }

    /// Writes it, and removes what need not stay. On an error all that was there still is.
    pub fn save(&self, dir: &Path, keep: CheckpointRetention) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut all = Tensors::new();
        let groups = [
            ("model", &self.model),
            ("ema", &self.ema),
            ("further", &self.further),
            ("first", &self.first),
            ("second", &self.second),
            ("curve", &self.curve),
            ("validation", &self.validation),
            ("scaler", &self.scaler),
        ];
        for (group, tensors) in groups {
            all.extend(tensors.iter().map(|(name, tensor)| (format!("{group}/{name}"), tensor.clone())));
        }
        write_sealed(all, &path(dir, self.step))?;
        let steps: Vec<u64> = files(dir)?.into_iter().map(|(step, _)| step).collect();
        for step in keep.gone(&steps, self.step) {
            std::fs::remove_file(path(dir, step))?;
        }
        Ok(())
    }
}

/// Writes tensors with a digest of them, to the disk and under a name that is never of half a file.
pub(super) fn write_sealed(tensors: Tensors, path: &Path) -> Result<()> {
    let on_cpu = |(name, t): (String, Tensor)| Ok((name, t.to_device(&Device::Cpu)?.contiguous()?));
    let mut all = tensors.into_iter().map(on_cpu).collect::<Result<Tensors>>()?;
    all.insert(CHECK.into(), Tensor::new(digest(&all).as_slice(), &Device::Cpu)?);
    params::save(&all, path)?;
    match path.parent() {
        Some(dir) => Ok(std::fs::File::open(dir)?.sync_all()?),
        None => Ok(()),
    }
}

/// What [`write_sealed`] wrote.
pub(super) fn read_sealed(path: &Path) -> Result<Tensors> {
    let mut all = params::load(path, &Device::Cpu)?;
    let stored = all.remove(CHECK).map(|t| t.to_vec1::<u8>()).transpose()?;
    if stored.as_deref() != Some(digest(&all).as_slice()) {
        bail!("{} does not hold what was written", path.display());
    }
    Ok(all)
}

/// blake3 of names, types, shapes and numbers.
fn digest(tensors: &Tensors) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in tensors {
        let head = format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims());
        hasher.update(head.as_bytes()).update_rayon(&tensor.data());
    }
    *hasher.finalize().as_bytes()
}

/// Step and path of the checkpoints in a directory, oldest first. An absent directory holds none.
fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<(u64, PathBuf)> =
        entries(dir)?.into_iter().filter_map(|path| Some((step_of(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// An absent directory has none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(e.into()),
    }
}

fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_multiples_stay() {
        let gone = |last, every, steps: &[u64], newest| CheckpointRetention { last, every }.gone(steps, newest);
        assert_eq!(gone(1, 0, &[2, 4, 6], 6), [2, 4]);
        assert_eq!(gone(2, 0, &[2, 4, 6], 6), [2]);
        assert_eq!(gone(1, 4, &[2, 4, 6, 8, 10], 10), [2, 6]);
        assert_eq!(gone(0, 0, &[2, 4], 4), [2], "the new one always stays");
        assert_eq!(gone(9, 0, &[2, 4], 4), [0; 0]);
        // 6 and 8 were damaged, training went on from 2.
        assert_eq!(gone(2, 4, &[2, 4, 6, 8], 4), [6, 8]);
    }
}
