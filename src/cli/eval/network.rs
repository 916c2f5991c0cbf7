//! The network that makes features, as `--network` names it. Knows names, files and types, nothing of what networks do.

use super::given::{self, EvalInput};
use super::pipeline::{NETWORK, Stages, text, weights};
use super::place::Workspace;
use erw_base::error::{Error, Result};
use erw_fetch::registry::{self, RegistryEntry};
use erw_runner::text::suggest;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Those that metrics are defined by, by their names in the registry.
pub const INCEPTION: &str = "fid-inception";
pub const DINOV2: &str = "dinov2-vit-l";
pub const CLIP: &str = "clip-vit-L-336";

/// Types of artifacts that make features of images.
const TYPES: [&str; 3] = ["inception", "encoder", "classifier"];

/// Where a network comes from.
#[derive(Debug)]
pub enum Network {
    /// Fetched, once.
    Published(&'static RegistryEntry),
    /// A file of the weights of a published network.
    File(PathBuf, &'static RegistryEntry),
    /// A folder that `erw export` wrote: the weights in it and their type.
    Exported(PathBuf, &'static str),
    /// A stage of a pipeline, and the type of what it makes.
    Stage(String, String),
}

impl Network {
    /// What `named` denotes, `default` where nothing is named: a published network, a file of the weights of `default`,
    /// `NAME=FILE` for those of another, an exported folder, or a stage.
    pub fn of(named: Option<&str>, default: &str, place: Workspace<'_>) -> Result<Self> {
        let Some(named) = named else { return Ok(Self::Published(entry(default)?)) };
        let path = Path::new(named);
        if path.is_dir() {
            return exported(path);
        }
        if path.is_file() {
            return Ok(Self::File(path.into(), entry(default)?));
        }
        if named.contains(".toml:") {
            return match given::stage(named, &TYPES, place)? {
                EvalInput::Stage(stage, ty, _) => Ok(Self::Stage(stage, ty)),
                _ => Err(Error::internal("a stage that is none")),
            };
        }
        match named.split_once('=') {
            Some((name, file)) if Path::new(file).is_file() => Ok(Self::File(file.into(), entry(name)?)),
            Some((_, file)) => Err(Error::usage(format!("nothing at `{file}`"))),
            None => Ok(Self::Published(entry(named)?)),
        }
    }

    /// The type of artifact that it is.
    pub fn ty(&self) -> &str {
        match self {
            Self::Published(entry) | Self::File(_, entry) => &entry.artifact,
            Self::Exported(_, ty) => ty,
            Self::Stage(_, ty) => ty,
        }
    }

    pub fn is_inception(&self) -> bool {
        self.ty() == "inception"
    }

    /// Whether it is one that is known by name, which says nothing of a mode; others may have one of their own.
    pub fn is_published(&self) -> bool {
        matches!(self, Self::Published(_) | Self::File(..))
    }

    /// Whether nothing that is known of it says that it is not CLIP.
    pub fn may_be_clip(&self) -> bool {
        match self {
            Self::Published(entry) | Self::File(_, entry) => entry.name.starts_with("clip"),
            Self::Exported(..) | Self::Stage(..) => self.ty() == "encoder",
        }
    }

    /// An error, with what identifies the network's file where it could not be fetched.
    pub fn missing(&self, error: Error) -> Error {
        let Self::Published(entry) = self else { return error };
        if !error.message.contains("could not be fetched") {
            return error;
        }
        let sum = entry.locations.first().and_then(|location| location.sha256.as_ref());
        let mut error = error.maybe_hint(sum.map(|sum| format!("the sha256 of `{}` is {sum}", entry.name)));
        error.hints.iter_mut().for_each(|hint| *hint = hint.replace("NAME=FILE", &format!("{}=FILE", entry.name)));
        error
    }

    /// What inputs name.
    pub fn reference(&self) -> &str {
        if let Self::Stage(stage, _) = self { stage } else { NETWORK }
    }

    /// Adds the stage that brings it in, unless it is one of a pipeline.
    pub fn add(&self, stages: &mut Stages) -> Result<()> {
        let params = match self {
            Self::Stage(..) => return Ok(()),
            Self::Published(entry) => json!({ "name": entry.name }),
            Self::File(path, entry) => json!({ "source": text(path)?, "preset": entry.preset }),
            Self::Exported(dir, ty) => {
                let (file, config) = (dir.join(format!("{ty}.safetensors")), dir.join("config.json"));
                json!({ "source": text(&file)?, "config": text(&config)? })
            }
        };
        stages.add(NETWORK, weights(self.ty(), params));
        Ok(())
    }
}

/// A published network that makes features.
fn entry(name: &str) -> Result<&'static RegistryEntry> {
    let known = registry::entries()?.iter().filter(|e| TYPES.contains(&e.artifact.as_str()));
    known.clone().find(|e| e.name == name).ok_or_else(|| {
        let error = Error::usage(format!("`--network {name}`: neither a file nor the name of a published network"));
        error.maybe_hint(suggest::hint(name, known.map(|e| e.name.as_str()), "known by name are"))
    })
}

fn exported(dir: &Path) -> Result<Network> {
    match TYPES.into_iter().find(|ty| dir.join(format!("{ty}.safetensors")).is_file()) {
        Some(ty) => Ok(Network::Exported(dir.into(), ty)),
        None => Err(Error::usage(format!("`{}` is no exported network", dir.display()))
            .hint("it holds inception.safetensors, encoder.safetensors or classifier.safetensors, with config.json")),
    }
}
