//! The feature network of `--network`. Knows names, files and types, nothing of what networks do.

use super::input::{self, EvalInput};
use super::pipeline::{NETWORK, Stages, text, weights};
use super::workspace::Workspace;
use erw_base::error::{Error, Result};
use erw_fetch::library::NOT_FETCHED;
use erw_fetch::registry::{self, RegistryEntry};
use erw_runner::text::suggest;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Registry names of the networks that metrics are defined by.
pub const INCEPTION: &str = "fid-inception";
pub const DINOV2: &str = "dinov2-vit-l";
pub const CLIP: &str = "clip-vit-L-336";

/// Types of artifacts that make features of images.
const TYPES: [&str; 3] = ["inception", "encoder", "classifier"];

/// Where a network comes from.
#[derive(Debug)]
pub enum Network {
    /// A published network, downloaded once.
    Published(&'static RegistryEntry),
    /// A weight file of a published network.
    File(PathBuf, &'static RegistryEntry),
    /// A folder that `erw export` wrote, and the type of the weights.
    Exported(PathBuf, &'static str),
    /// A stage of a pipeline, and the type of its output.
    Stage(String, String),
}

impl Network {
    /// The network that `named` gives: a published network, a weight file of `default`, `NAME=FILE`
    /// for a file of another network, an exported folder, or a stage. Without `named` it is
    /// `default`.
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
            return match input::stage(named, &TYPES, place)? {
                EvalInput::Stage(stage, ty, _) => Ok(Self::Stage(stage, ty)),
                _ => Err(Error::internal("the network of a stage is not a stage")),
            };
        }
        match named.split_once('=') {
            Some((name, file)) if Path::new(file).is_file() => Ok(Self::File(file.into(), entry(name)?)),
            Some((_, file)) => Err(Error::usage(format!("nothing at `{file}`"))),
            None => Ok(Self::Published(entry(named)?)),
        }
    }

    /// The type of its artifact.
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

    /// Whether it is a published network, which implies no mode. The configuration of others may
    /// state one.
    pub fn is_published(&self) -> bool {
        matches!(self, Self::Published(_) | Self::File(..))
    }

    /// Whether it may be CLIP, as far as is known.
    pub fn may_be_clip(&self) -> bool {
        match self {
            Self::Published(entry) | Self::File(_, entry) => entry.name.starts_with("clip"),
            Self::Exported(..) | Self::Stage(..) => self.ty() == "encoder",
        }
    }

    /// Adds the hash of the network's file to an error about its download.
    pub fn missing(&self, error: Error) -> Error {
        let Self::Published(entry) = self else { return error };
        if !error.message.contains(NOT_FETCHED) {
            return error;
        }
        let sum = entry.locations.first().and_then(|location| location.sha256.as_ref());
        let mut error = error.maybe_hint(sum.map(|sum| format!("the sha256 of `{}` is {sum}", entry.name)));
        error.hints.iter_mut().for_each(|hint| *hint = hint.replace("NAME=FILE", &format!("{}=FILE", entry.name)));
        error
    }

    /// The name by which inputs refer to it.
    pub fn reference(&self) -> &str {
        if let Self::Stage(stage, _) = self { stage } else { NETWORK }
    }

    /// Adds the stage that loads it, unless it is a stage of a pipeline.
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

/// A published feature network.
fn entry(name: &str) -> Result<&'static RegistryEntry> {
    let known = registry::entries()?.iter().filter(|e| TYPES.contains(&e.artifact.as_str()));
    known.clone().find(|e| e.name == name).ok_or_else(|| {
        let error = Error::usage(format!("`--network {name}`: neither a file nor the name of a published network"));
        error.maybe_hint(suggest::hint(name, known.map(|e| e.name.as_str()), "the names are"))
    })
}

fn exported(dir: &Path) -> Result<Network> {
    match TYPES.into_iter().find(|ty| dir.join(format!("{ty}.safetensors")).is_file()) {
        Some(ty) => Ok(Network::Exported(dir.into(), ty)),
        None => Err(Error::usage(format!("`{}` is not an exported network", dir.display()))
            .hint("such a folder holds inception, encoder or classifier.safetensors, and config.json")),
    }
}
