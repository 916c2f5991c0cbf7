//! A file of weights, of any format and under whoever's names, to the files of an artifact. Every tensor of the file must
//! have its place in the network, and every place its tensor; what does not fit is told by name.

use super::artifact::Artifact;
use crate::error::{Error, Result};
use crate::ml::formats::{Format, WeightsFile};
use crate::ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL, STATS_FILE};
use crate::ml::models::sit::release;
use crate::ml::weights::{self, Adopted, LoadReport};
use crate::stages::NOTE_FILE;
use crate::stages::support::{create_dir, write_json};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Which network the weights are of.
#[derive(Debug, Clone)]
pub enum Network {
    Preset(String),
    Config(PathBuf),
    /// The tensors show it, as those of a SiT do.
    Shown,
}

impl Network {
    fn preset(&self) -> Option<&str> {
        match self {
            Self::Preset(name) => Some(name),
            _ => None,
        }
    }

    fn told(&self) -> String {
        match self {
            Self::Preset(name) => format!("preset `{name}`"),
            Self::Config(_) => "its configuration".into(),
            Self::Shown => "any published network".into(),
        }
    }
}

/// What is to become of which file.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub file: &'a Path,
    pub artifact: Artifact,
    pub network: Network,
    /// A dictionary inside a checkpoint.
    pub set: Option<&'a str>,
}

/// One dictionary of a file, adopted.
pub struct Set {
    /// In the file; empty for its top level.
    pub name: String,
    /// In the artifact.
    pub files: Vec<&'static str>,
    pub adopted: Adopted,
    pub report: LoadReport,
}

/// The contents of an artifact, before anything is written.
pub struct Converted {
    pub format: Format,
    config: Value,
    pub sets: Vec<Set>,
}

/// Reads and compares. Whether everything fits is in the reports; [`Converted::check`] insists on it.
pub fn convert(request: &Request) -> Result<Converted> {
    let Request { file, artifact, network, set } = request;
    if file.is_dir() {
        return Err(Error::stage(format!("`{}` is a folder", file.display())).hint("give the weights file in it"));
    }
    let opened = WeightsFile::open(file)?;
    let unfit = |e: Error| e.context(format!("`{}` does not fit {}", file.display(), network.told()));
    let mut config = match network {
        Network::Config(path) => Some(read_json(path)?),
        _ => None,
    };
    let mut sets = vec![];
    for (name, files) in chosen(&opened, *artifact, network.preset(), *set)? {
        let tensors = opened.tensors(&name)?;
        let config = match &config {
            Some(config) => config,
            None => &*config.insert(artifact.config(network.preset(), &tensors).map_err(unfit)?),
        };
        let (adopted, report) = artifact.adopt(config, tensors).map_err(|e| unfit(e.into()))?;
        weights::check_finite(&adopted.tensors)
            .map_err(|e| Error::from(e).context(format!("`{}` is not a whole network", file.display())))?;
        sets.push(Set { name, files, adopted, report });
    }
    Ok(Converted { format: opened.format(), config: config.unwrap_or_default(), sets })
}

/// Dictionaries to take, with the files that each becomes. A SiT has two, of which a released file may have one only:
/// what starts from the model and what samples from its average then both find it.
fn chosen(
    file: &WeightsFile,
    artifact: Artifact,
    preset: Option<&str>,
    set: Option<&str>,
) -> Result<Vec<(String, Vec<&'static str>)>> {
    let files: &[&'static str] = match artifact {
        Artifact::Vae => &[crate::ml::models::vae::WEIGHTS_FILE],
        Artifact::Encoder => &[crate::ml::models::encoder::WEIGHTS_FILE],
        Artifact::Inception => &[crate::ml::models::inception::WEIGHTS_FILE],
        Artifact::Classifier => &["classifier.safetensors"],
        Artifact::Sit => &["ema.safetensors", "model.safetensors"],
        Artifact::Stats => &[],
    };
    let there: Vec<String> = file.sets().into_iter().map(|(name, _)| name).collect();
    if let Some(set) = set {
        return match there.iter().any(|name| name == set) {
            true => Ok(vec![(set.to_string(), files.to_vec())]),
            false => {
                let known: Vec<String> = there.iter().map(|n| format!("`{n}`")).collect();
                Err(Error::usage(format!("the file has no `set` called `{set}`"))
                    .hint(format!("it has {}", known.join(", "))))
            }
        };
    }
    let has = |name: &str| there.iter().any(|n| n == name);
    if artifact == Artifact::Sit && has(release::EMA) && has(release::MODEL) {
        return Ok(vec![(release::EMA.into(), vec![files[0]]), (release::MODEL.into(), vec![files[1]])]);
    }
    let only = file.only_set(artifact.sets(preset))?;
    Ok(vec![(only, files.to_vec())])
}

impl Converted {
    /// Everything has its place.
    pub fn check(&self, request: &Request) -> Result<()> {
        let Some(report) = self.sets.iter().map(|s| &s.report).find(|r| !r.is_exact()) else { return Ok(()) };
        let error = Error::stage(format!("`{}` does not fit {}", request.file.display(), request.network.told()));
        Err(report.faults().into_iter().fold(error, Error::because))
    }

    /// Tensors in all sets.
    pub fn tensors(&self) -> usize {
        self.sets.iter().map(|s| s.adopted.tensors.len()).sum()
    }

    /// Writes the artifact and opens it as its users will.
    pub fn write(&self, request: &Request, dir: &Path) -> Result<()> {
        create_dir(dir)?;
        write_json(&dir.join("config.json"), &self.config)?;
        for set in &self.sets {
            for file in &set.files {
                weights::save(&set.adopted.tensors, &dir.join(file))?;
            }
        }
        request.artifact.prove(dir).map_err(|e| {
            Error::from(e).context(format!("`{}` does not fit {}", request.file.display(), request.network.told()))
        })
    }
}

/// Takes published statistics as they are, once their numbers have been looked at. Returns the number of features.
pub fn statistics(file: &Path, dir: &Path) -> Result<usize> {
    let unusable = |e: candle_core::Error| Error::from(e).context(format!("`{}` holds no statistics", file.display()));
    let pooled = Gaussian::read(file, POOLED).map_err(unusable)?;
    let names = crate::ml::formats::Npz::open(file)?.names();
    if names.iter().any(|n| n == SPATIAL[0]) {
        Gaussian::read(file, SPATIAL).map_err(unusable)?;
    }
    create_dir(dir)?;
    let to = dir.join(STATS_FILE);
    std::fs::copy(file, &to).map_err(|e| Error::io("write", &to, e))?;
    // What was written here says of which network it is.
    if let Some(note) = note_in(file) {
        let to = dir.join(NOTE_FILE);
        std::fs::write(&to, note).map_err(|e| Error::io("write", &to, e))?;
    }
    Ok(pooled.dim())
}

/// The member of an npz that `erw eval stats` writes; others have none.
fn note_in(npz: &Path) -> Option<Vec<u8>> {
    let mut note = vec![];
    let mut archive = zip::ZipArchive::new(std::fs::File::open(npz).ok()?).ok()?;
    archive.by_name(NOTE_FILE).ok()?.read_to_end(&mut note).ok()?;
    Some(note)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("`{}` is not JSON", path.display())).because(e))
}
