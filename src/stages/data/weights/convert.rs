//! A file of weights, of any format and under whoever's names, to the files of an artifact. Every tensor of the file must
//! have its place in the network, and every place its tensor; what does not fit is told by name.

use super::artifact::Artifact;
use super::choice::{Choice, Copy, Taken, choose};
use crate::NOTE_FILE;
use crate::support::files::{create_dir, write_json};
use erw_base::error::{Error, Result};
use erw_ml::formats::format::Format;
use erw_ml::formats::{Readable, WeightsFile};
use erw_ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL, STATS_FILE};
use erw_ml::models::sit::convention::{self, Convention};
use erw_ml::models::sit::release;
use erw_ml::nn::params::{self, Adopted, LoadReport};
use serde_json::Value;
use std::collections::BTreeMap;
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
    /// A dictionary inside a checkpoint, or a copy in one.
    pub set: Option<&'a str>,
    /// In whose time a SiT was trained.
    pub convention: Option<Convention>,
    /// Files beside the one that is named may be read, as the others of a model in several files.
    pub siblings: bool,
}

/// One dictionary of a file, adopted.
pub struct AdoptedDict {
    /// In the file; empty for its top level.
    pub name: String,
    /// In the artifact.
    pub files: Vec<&'static str>,
    pub adopted: Adopted,
    pub report: LoadReport,
    /// What is in it and is of no kind that is read, with the reason.
    pub unread: BTreeMap<String, String>,
}

/// The contents of an artifact, before anything is written.
pub struct Converted {
    pub format: Format,
    config: Value,
    pub sets: Vec<AdoptedDict>,
    /// What was found and how it was taken, a line each.
    pub told: Vec<String>,
}

/// Reads and compares. Whether everything fits is in the reports; [`Converted::check`] insists on it.
pub fn convert(request: &Request) -> Result<Converted> {
    let Request { file, artifact, network, set, .. } = request;
    let opened = match request.siblings {
        true => WeightsFile::open_with_siblings(file)?,
        false => WeightsFile::open(file)?,
    };
    let Choice { taken, mut told } = choose(&opened, file, *artifact, *set)?;
    let mut config = match network {
        Network::Config(path) => Some(read_json(path)?),
        _ => None,
    };
    let mut sets = vec![];
    for Taken { copy, files } in taken {
        let (set, said) = one(request, &opened, &copy, files, &mut config)?;
        told.extend(said.into_iter().filter(|line| !told.contains(line)).collect::<Vec<_>>());
        sets.push(set);
    }
    Ok(Converted { format: opened.format(), config: config.unwrap_or_default(), sets, told })
}

/// One copy as the network has it, and what is to be told of it. Fills in a configuration that nothing states.
fn one(
    request: &Request,
    opened: &WeightsFile,
    copy: &Copy,
    files: Vec<&'static str>,
    config: &mut Option<Value>,
) -> Result<(AdoptedDict, Vec<String>)> {
    let Request { file, artifact, network, .. } = request;
    let unfit = |e: Error| e.context(format!("`{}` does not fit {}", file.display(), network.told()));
    let Readable { mut tensors, unread } = copy.read(opened)?;
    let (mut first, mut told) = (Adopted::default(), vec![]);
    if *artifact == Artifact::Sit {
        first = release::adopt(tensors)?;
        tensors = std::mem::take(&mut first.tensors);
        let args = ARGS.iter().find_map(|name| opened.data(name));
        told = convention::settle(&mut tensors, args.as_ref(), request.convention).map_err(|e| unfit(e.into()))?;
    }
    let config = match config {
        Some(config) => config,
        None => &*config.insert(artifact.config(network.preset(), &tensors).map_err(unfit)?),
    };
    let (mut adopted, report) = artifact.adopt(config, tensors).map_err(|e| unfit(e.into()))?;
    adopted.renamed.extend(first.renamed);
    adopted.dropped.extend(first.dropped);
    adopted.dropped.extend(copy.beside(opened));
    adopted.dropped.sort();
    adopted.dropped.dedup();
    params::check_finite(&adopted.tensors)
        .map_err(|e| Error::from(e).context(format!("`{}` is not a whole network", file.display())))?;
    Ok((AdoptedDict { name: copy.name.clone(), files, adopted, report, unread }, told))
}

/// Where trainers leave the arguments of a run.
const ARGS: [&str; 6] = ["args", "hyper_parameters", "hparams", "config", "cfg", "opts"];

impl Converted {
    /// Everything has its place.
    pub fn check(&self, request: &Request) -> Result<()> {
        let Some(set) = self.sets.iter().find(|set| !set.report.is_exact()) else { return Ok(()) };
        let error = Error::stage(format!("`{}` does not fit {}", request.file.display(), request.network.told()));
        let error = set.report.faults().into_iter().fold(error, Error::because);
        Err(set.unread.iter().take(3).fold(error, |e, (name, why)| e.because(format!("`{name}` {why}"))))
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
                params::save(&set.adopted.tensors, &dir.join(file))?;
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
    let names = erw_ml::formats::Npz::open(file)?.names();
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
    let text = erw_base::text::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("`{}` is not JSON", path.display())).because(e))
}
