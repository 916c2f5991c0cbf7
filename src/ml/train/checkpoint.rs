//! Checkpoints: one safetensors file each, `step-000000000100.safetensors`. A new one is written
//! beside the old ones, synced and renamed; then those that are no longer needed are removed. A
//! reader never sees a partial checkpoint, and even on a full disk a complete one remains. A digest
//! of the other tensors in the file detects bit rot, which would otherwise produce a wrong result
//! unnoticed.

use super::config::CheckpointRetention;
use crate::nn::params::{self, Tensors};
use crate::observer::Observer;
use candle_core::{Device, Result, Tensor, bail};
use safetensors::View;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a file of another host may stay invisible: NFS keeps what it saw for a minute.
const LATENCY: Duration = Duration::from_secs(90);
/// Name of the tensor that holds the digest, u8 `[32]`.
const CHECK: &str = "check";

/// The path of the checkpoint after `step` steps.
pub(super) fn path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:012}.safetensors"))
}

/// The weights in a checkpoint file, for uses other than resuming its training.
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
/// A file that is not a checkpoint, or whose contents are damaged.
pub fn saved_weights(path: &Path) -> Result<SavedWeights> {
    let Some(step) = step_of(path) else {
        bail!("{} is not a checkpoint: its name is not of the form step-N.safetensors", path.display())
    };
    let Checkpoint { step, model, ema, .. } = Checkpoint::of(step, path, read_sealed(path)?)?;
    Ok(SavedWeights { step, model, ema })
}

/// The state of a training after a step.
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    pub model: Tensors,
    pub ema: Tensors,
    /// The averages with further decays, as `INDEX/NAME`.
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
    /// The newest whole checkpoint. Damaged ones, and those after which `usable` finds something
    /// else damaged, are reported and skipped: repeating steps is always correct. Partial files of a
    /// killed process are removed.
    ///
    /// # Errors
    /// A checkpoint that may be whole and cannot be read, as one of another user: to skip it would
    /// repeat its steps and remove it.
    pub fn latest(
        dir: &Path,
        obs: &dyn Observer,
        usable: impl Fn(u64) -> std::result::Result<(), Damage>,
    ) -> Result<Option<Self>> {
        for entry in entries(dir)? {
            let name = entry.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            // The `safetensors` crate writes to `.tmp` names; `step-*.tmp` are ours.
            if name.starts_with(".tmp") || name.starts_with("step-") && name.ends_with(".tmp") {
                std::fs::remove_file(&entry)?;
            }
        }
        for (step, path) in files(dir)?.into_iter().rev() {
            match usable(step).and_then(|()| read_sealed(&path)) {
                Ok(tensors) => return Self::of(step, &path, tensors).map(Some),
                Err(Damage::Damaged(e)) => obs.log(&format!("skipping a damaged checkpoint: {e}")),
                Err(Damage::Unreadable(e)) => return Err(e.context("a checkpoint cannot be read")),
            }
        }
        Ok(None)
    }

    /// The checkpoint of this step, which another rank has read. A network's file system may show it
    /// here only later.
    pub fn seen_by_another(step: u64, dir: &Path) -> Result<Option<Self>> {
        let (path, began) = (path(dir, step), Instant::now());
        while !path.exists() && began.elapsed() < LATENCY {
            std::thread::sleep(Duration::from_millis(100));
        }
        Self::of(step, &path, read_sealed(&path)?).map(Some)
    }

    /// The average with the further decay number `i`, counted from 0.
    pub(super) fn further_average(&self, i: usize) -> Tensors {
        let prefix = format!("{i}/");
        let own = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(&prefix)?.to_string(), t.clone()));
        self.further.iter().filter_map(own).collect()
    }

    /// From the tensors in the file.
    fn of(step: u64, path: &Path, tensors: Tensors) -> Result<Self> {
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
        for (name, tensor) in tensors {
            let Some((group, name)) = name.split_once('/') else {
                bail!("{}: unexpected tensor {name}", path.display())
            };
            let group = match group {
                "model" => &mut c.model,
                "ema" => &mut c.ema,
                "further" => &mut c.further,
                "first" => &mut c.first,
                "second" => &mut c.second,
                "curve" => &mut c.curve,
                "validation" => &mut c.validation,
                "scaler" => &mut c.scaler,
                _ => bail!("{}: unexpected tensor {group}/{name}", path.display()),
            };
            group.insert(name.to_string(), tensor);
        }
        Ok(c)
    }

    /// Writes the checkpoint and removes those that are no longer needed. On an error all earlier
    /// ones remain.
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

/// Writes tensors with a digest of them, synced to disk, under a name that never denotes a partial
/// file.
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

/// Why a file of [`write_sealed`] gives no tensors.
#[derive(Debug)]
pub enum Damage {
    /// It is not there, or not as it was written.
    Damaged(candle_core::Error),
    /// The system does not give it.
    Unreadable(candle_core::Error),
}

impl From<Damage> for candle_core::Error {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Damaged(e) | Damage::Unreadable(e) => e,
        }
    }
}

/// Reads and verifies the tensors of [`write_sealed`].
pub(super) fn read_sealed(path: &Path) -> std::result::Result<Tensors, Damage> {
    if let Err(e) = std::fs::File::open(path) {
        let is_gone = e.kind() == std::io::ErrorKind::NotFound;
        let e = candle_core::Error::Msg(format!("cannot read {}: {e}", path.display()));
        return Err(if is_gone { Damage::Damaged(e) } else { Damage::Unreadable(e) });
    }
    let read = || -> Result<Tensors> {
        let mut all = params::load(path, &Device::Cpu)?;
        let stored = all.remove(CHECK).map(|t| t.to_vec1::<u8>()).transpose()?;
        if stored.as_deref() != Some(digest(&all).as_slice()) {
            bail!("{} is damaged: its contents do not match their digest", path.display());
        }
        Ok(all)
    };
    read().map_err(Damage::Damaged)
}

/// blake3 of names, types, shapes and values, which are on the CPU.
pub(super) fn digest(tensors: &Tensors) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in tensors {
        let head = format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims());
        hasher.update(head.as_bytes()).update_rayon(&tensor.data());
    }
    *hasher.finalize().as_bytes()
}

/// Step and path of the checkpoints in a directory, oldest first. A missing directory holds none.
fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<(u64, PathBuf)> =
        entries(dir)?.into_iter().filter_map(|path| Some((step_of(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Paths in a directory. A missing directory holds none.
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
        // Steps 6 and 8 were damaged, so training continued from step 2.
        assert_eq!(gone(2, 4, &[2, 4, 6, 8], 4), [6, 8]);
    }
}
