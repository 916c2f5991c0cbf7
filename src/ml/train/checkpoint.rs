//! Checkpoints: one safetensors file each, `step-000000000100.safetensors`, written beside the old one, synced and renamed, after
//! which the old one goes. A reader never sees half a checkpoint, and there is always a whole one. A digest of everything
//! else in the file tells bit rot, which would end in a wrong result that looks like any other.

use super::super::weights::{self, Tensors};
use super::Observer;
use candle_core::{Device, Result, Tensor, bail};
use safetensors::View;
use std::path::{Path, PathBuf};

/// Name of the tensor that holds the digest, u8 `[32]`.
const CHECK: &str = "check";

pub(super) struct Checkpoint {
    /// Steps done.
    pub step: u64,
    pub model: Tensors,
    pub ema: Tensors,
    /// First and second moments.
    pub first: Tensors,
    pub second: Tensors,
    pub curve: Tensors,
    /// Empty without loss scaling.
    pub scaler: Tensors,
}

impl Checkpoint {
    /// The newest readable checkpoint. Unreadable ones are reported and passed over: repeating steps is always right.
    pub fn latest(dir: &Path, obs: &dyn Observer) -> Result<Option<Self>> {
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
            first: Tensors::new(),
            second: Tensors::new(),
            curve: Tensors::new(),
            scaler: Tensors::new(),
        };
        let mut all = weights::load(path, &Device::Cpu)?;
        let stored = all.remove(CHECK).map(|t| t.to_vec1::<u8>()).transpose()?;
        if stored.as_deref() != Some(digest(&all).as_slice()) {
            bail!("{} does not hold what was written", path.display());
        }
        for (name, tensor) in all {
            let Some((group, name)) = name.split_once('/') else { bail!("{}: odd name {name}", path.display()) };
            let group = match group {
                "model" => &mut c.model,
                "ema" => &mut c.ema,
                "first" => &mut c.first,
                "second" => &mut c.second,
                "curve" => &mut c.curve,
                "scaler" => &mut c.scaler,
                _ => bail!("{}: odd name {group}/{name}", path.display()),
            };
            group.insert(name.to_string(), tensor);
        }
        Ok(c)
    }

    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut all = Tensors::new();
        let groups = [
            ("model", &self.model),
            ("ema", &self.ema),
            ("first", &self.first),
            ("second", &self.second),
            ("curve", &self.curve),
            ("scaler", &self.scaler),
        ];
        for (group, tensors) in groups {
            let on_cpu = |t: &Tensor| t.to_device(&Device::Cpu)?.contiguous();
            for (name, tensor) in tensors {
                all.insert(format!("{group}/{name}"), on_cpu(tensor)?);
            }
        }
        all.insert(CHECK.into(), Tensor::new(digest(&all).as_slice(), &Device::Cpu)?);
        let path = dir.join(format!("step-{:012}.safetensors", self.step));
        weights::save(&all, &path)?;
        std::fs::File::open(dir)?.sync_all()?;
        for (step, old) in files(dir)? {
            if step != self.step {
                std::fs::remove_file(old)?;
            }
        }
        Ok(())
    }
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
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e.into()),
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let step = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".safetensors"));
        if let Some(step) = step.and_then(|n| n.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}
