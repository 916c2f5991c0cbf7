//! The parameters of `weights`, and the network that they choose.

use super::artifact::Artifact;
use super::convert::Network;
use erw_base::error::{Error, ErrorKind, Result};
use erw_fetch::registry::{self, RegistryEntry};
use erw_ml::models::sit::convention::Convention;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(rename = "as")]
    pub artifact: Artifact,
    pub name: Option<String>,
    pub source: Option<PathBuf>,
    pub preset: Option<String>,
    pub config: Option<PathBuf>,
    pub set: Option<String>,
    pub convention: Option<Convention>,
    pub sha256: Option<String>,
    pub latents_stats: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    pub url: Option<String>,
}

impl Operation {
    /// The error, with where another file comes from.
    pub fn tell(&self, error: Error) -> Error {
        match &self.url {
            Some(url) if error.kind != ErrorKind::Suspended => error.hint(format!("the file comes from {url}")),
            _ => error,
        }
    }
}

impl Params {
    pub fn entry(&self) -> Result<Option<&'static RegistryEntry>> {
        self.name.as_deref().map(registry::find).transpose().map(Option::flatten)
    }

    pub fn sum(&self) -> Option<String> {
        self.sha256.as_ref().map(|sum| sum.to_ascii_lowercase())
    }

    pub fn network(&self) -> Result<Network> {
        match (&self.preset, &self.config) {
            (Some(_), Some(_)) => Err(Error::usage("give `preset` or `config`, not both")),
            (Some(name), None) => self.artifact.check_preset(name).map(|()| Network::Preset(name.clone())),
            (None, Some(path)) => Ok(Network::Config(path.clone())),
            (None, None) => {
                match self.entry()?.and_then(|e| e.preset.as_ref()) {
                    Some(name) => Ok(Network::Preset(name.clone())),
                    None if matches!(self.artifact, Artifact::Sit | Artifact::Stats) => Ok(Network::Shown),
                    None => Err(Error::usage("give either `preset` or `config`")
                        .hint("the weights do not determine the network")),
                }
            }
        }
    }
}
