//! Converts a weights file of any supported format and naming into the files of an artifact. Every
//! tensor of the file must have a place in the network, and every place a tensor. Names that do not
//! fit are listed.

use super::artifact::{Artifact, VA_VAE};
use super::choice::{Choice, Copy, Taken, choose};
use crate::NOTE_FILE;
use crate::support::files::{create_dir, write_json};
use erw_base::error::{Error, Result};
use erw_ml::data::latent_scale::{Channels, LatentScale};
use erw_ml::formats::format::Format;
use erw_ml::formats::{Readable, WeightsFile};
use erw_ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL, STATS_FILE};
use erw_ml::models::sit::convention::{self, Convention};
use erw_ml::models::sit::release;
use erw_ml::nn::params::{self, Adopted, LoadReport, Tensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Which network the weights belong to.
#[derive(Debug, Clone)]
pub enum Network {
    Preset(String),
    Config(PathBuf),
    /// The network follows from the tensors, as with a SiT.
    Shown,
}

impl Network {
    pub fn preset(&self) -> Option<&str> {
        match self {
            Self::Preset(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Preset(name) => format!("preset `{name}`"),
            Self::Config(_) => "the given configuration".into(),
            Self::Shown => "any published network".into(),
        }
    }
}

/// Which file to convert to what.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub file: &'a Path,
    pub artifact: Artifact,
    pub network: Network,
    /// A dictionary in the file, or a copy of the network in one.
    pub set: Option<&'a str>,
    /// The time convention in which a SiT was trained.
    pub convention: Option<Convention>,
    /// A file with mean and deviation of each channel of an autoencoder's latents.
    pub latents_stats: Option<&'a Path>,
    /// Whether files beside `file` may be read, such as the other files of a model in several
    /// files.
    pub siblings: bool,
}

/// One dictionary of a file, renamed to our names.
pub struct AdoptedDict {
    /// Name in the file; empty for the top level.
    pub name: String,
    /// Files of the artifact that it fills.
    pub files: Vec<&'static str>,
    pub adopted: Adopted,
    pub report: LoadReport,
    /// Tensors that cannot be read, with the reason.
    pub unread: BTreeMap<String, String>,
}

/// The contents of an artifact, before anything is written.
pub struct Converted {
    pub format: Format,
    config: Value,
    pub sets: Vec<AdoptedDict>,
    /// Lines that describe what was found and how it is used.
    pub remarks: Vec<String>,
}

/// Reads the file and compares it with the network. The reports say whether everything fits;
/// [`Converted::check`] requires it.
pub fn convert(request: &Request) -> Result<Converted> {
    let Request { file, artifact, network, set, .. } = request;
    let opened = match request.siblings {
        true => WeightsFile::open_with_siblings(file)?,
        false => WeightsFile::open(file)?,
    };
    let Choice { taken, mut remarks } = choose(&opened, file, *artifact, *set)?;
    let mut config = match network {
        Network::Config(path) => Some(read_json(path)?),
        _ => None,
    };
    let mut sets = vec![];
    for Taken { copy, files } in taken {
        let (set, said) = one(request, &opened, &copy, files, &mut config)?;
        remarks.extend(said.into_iter().filter(|line| !remarks.contains(line)).collect::<Vec<_>>());
        sets.push(set);
    }
    let mut config = config.unwrap_or_default();
    normalise(request, &mut config)?;
    Ok(Converted { format: opened.format(), config, sets, remarks })
}

/// Checks that statistics of latents are given where they are needed, and only there.
pub fn check_latents_stats(artifact: Artifact, preset: Option<&str>, given: bool) -> Result<()> {
    match (artifact, preset, given) {
        (Artifact::Vae, Some(VA_VAE), false) => {
            Err(Error::usage("the latents of VA-VAE are normalised by the mean and deviation of each channel")
                .hint("give `latents_stats`, the `latents_stats.pt` that comes with it"))
        }
        (Artifact::Vae, _, _) | (_, _, false) => Ok(()),
        (_, _, true) => Err(Error::usage("`latents_stats` applies to `as = \"vae\"` only")),
    }
}

/// Writes the statistics into the configuration of the autoencoder, instead of any other scale.
fn normalise(request: &Request, config: &mut Value) -> Result<()> {
    check_latents_stats(request.artifact, request.network.preset(), request.latents_stats.is_some())?;
    let Some(file) = request.latents_stats else { return Ok(()) };
    let stats = Channels::read(file)?;
    let scale = LatentScale { factor: 1.0, shift: 0.0, channels: Some(stats.clone()) };
    let channels = config["latent_channels"].as_u64().unwrap_or(0) as usize;
    let fits = scale.check(channels).map_err(Error::from);
    fits.map_err(|e| e.context(format!("`{}` does not fit the autoencoder", file.display())))?;
    (config["scaling_factor"], config["shift_factor"]) = (json!(1.0), Value::Null);
    (config["latents_mean"], config["latents_std"]) = (json!(stats.mean), json!(stats.std));
    Ok(())
}

/// Converts one copy, and returns lines that describe it. Fills in `config` if nothing states the
/// configuration.
fn one(
    request: &Request,
    opened: &WeightsFile,
    copy: &Copy,
    files: Vec<&'static str>,
    config: &mut Option<Value>,
) -> Result<(AdoptedDict, Vec<String>)> {
    let Readable { tensors, unread } = copy.read(opened)?;
    let ((mut adopted, report), remarks) = adopt(request, opened, tensors, config)?;
    adopted.dropped.extend(copy.beside(opened));
    adopted.dropped.sort();
    adopted.dropped.dedup();
    params::check_finite(&adopted.tensors)
        .map_err(|e| Error::from(e).context(format!("`{}` is not a complete network", request.file.display())))?;
    Ok((AdoptedDict { name: copy.name.clone(), files, adopted, report, unread }, remarks))
}

/// Renames tensors of a file to our names, with a report of how they fit and lines about it. Fills
/// in `config` if nothing states the configuration. Looks at no values.
pub(super) fn adopt(
    request: &Request,
    opened: &WeightsFile,
    mut tensors: Tensors,
    config: &mut Option<Value>,
) -> Result<((Adopted, LoadReport), Vec<String>)> {
    let Request { file, artifact, network, .. } = request;
    let unfit = |e: Error| e.context(format!("`{}` does not fit {}", file.display(), network.describe()));
    let (mut first, mut remarks) = (Adopted::default(), vec![]);
    if *artifact == Artifact::Sit {
        first = release::adopt(tensors)?;
        tensors = std::mem::take(&mut first.tensors);
        let args = ARGS.iter().find_map(|name| opened.data(name));
        remarks = convention::settle(&mut tensors, args.as_ref(), request.convention).map_err(|e| unfit(e.into()))?;
    }
    let config = match config {
        Some(config) => config,
        None => &*config.insert(artifact.config(network.preset(), &tensors).map_err(unfit)?),
    };
    let (mut adopted, report) = artifact.adopt(config, tensors).map_err(|e| unfit(e.into()))?;
    adopted.renamed.extend(first.renamed);
    adopted.dropped.extend(first.dropped);
    Ok(((adopted, report), remarks))
}

/// Keys under which trainers store the arguments of a run.
const ARGS: [&str; 6] = ["args", "hyper_parameters", "hparams", "config", "cfg", "opts"];

impl Converted {
    /// Fails unless every tensor has its place.
    pub fn check(&self, request: &Request) -> Result<()> {
        let Some(set) = self.sets.iter().find(|set| !set.report.is_exact()) else { return Ok(()) };
        let of = if self.sets.len() > 1 { format!("`{}` in ", set.name) } else { String::new() };
        let text = format!("{of}`{}` does not fit {}", request.file.display(), request.network.describe());
        let error = Error::stage(text);
        let error = set.report.faults().into_iter().fold(error, Error::because);
        Err(set.unread.iter().take(3).fold(error, |e, (name, why)| e.because(format!("`{name}` {why}"))))
    }

    /// Number of tensors in all sets.
    pub fn tensors(&self) -> usize {
        self.sets.iter().map(|s| s.adopted.tensors.len()).sum()
    }

    /// Writes the artifact and opens it as later stages will.
    pub fn write(&self, request: &Request, dir: &Path) -> Result<()> {
        create_dir(dir)?;
        write_json(&dir.join("config.json"), &self.config)?;
        for set in &self.sets {
            for file in &set.files {
                params::save(&set.adopted.tensors, &dir.join(file))?;
            }
        }
        request.artifact.check_opens(dir).map_err(|e| {
            Error::from(e).context(format!("`{}` does not fit {}", request.file.display(), request.network.describe()))
        })
    }
}

/// Copies published statistics unchanged, after checking their values. Returns the number of
/// features.
pub fn statistics(file: &Path, dir: &Path) -> Result<usize> {
    let unusable =
        |e: candle_core::Error| Error::from(e).context(format!("`{}` does not hold valid statistics", file.display()));
    let pooled = Gaussian::read(file, POOLED).map_err(unusable)?;
    let names = erw_ml::formats::Npz::open(file)?.names();
    if names.iter().any(|n| n == SPATIAL[0]) {
        Gaussian::read(file, SPATIAL).map_err(unusable)?;
    }
    create_dir(dir)?;
    let to = dir.join(STATS_FILE);
    std::fs::copy(file, &to).map_err(|e| Error::io("write", &to, e))?;
    // A file that erw wrote states its network.
    if let Some(note) = note_in(file) {
        let to = dir.join(NOTE_FILE);
        std::fs::write(&to, note).map_err(|e| Error::io("write", &to, e))?;
    }
    Ok(pooled.dim())
}

/// The note in an npz that `erw eval stats` wrote; other files have none.
fn note_in(npz: &Path) -> Option<Vec<u8>> {
    let mut note = vec![];
    let mut archive = zip::ZipArchive::new(std::fs::File::open(npz).ok()?).ok()?;
    archive.by_name(NOTE_FILE).ok()?.read_to_end(&mut note).ok()?;
    Some(note)
}

pub(super) fn read_json(path: &Path) -> Result<Value> {
    let text = erw_base::text::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("`{}` is not JSON", path.display())).because(e))
}
