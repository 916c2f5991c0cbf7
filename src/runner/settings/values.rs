//! The values of all settings as a struct: what the rest of the program sees. Does not know where they
//! come from.

use super::read;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The values of all settings. `None`: the caller's own default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Absolute if a file states it; as written if a variable does.
    #[serde(deserialize_with = "read::path")]
    pub cache_dir: Option<PathBuf>,
    /// Empty: none.
    pub remote: Option<String>,
    pub remote_mode: Option<RemoteMode>,
    /// A further registry of published files.
    #[serde(deserialize_with = "read::path")]
    pub registry: Option<PathBuf>,
    /// Folders whose projects may name a remote and a registry.
    #[serde(deserialize_with = "read::paths")]
    pub trust: Vec<PathBuf>,
    pub launcher: LauncherName,
    pub jobs: Option<u32>,
    pub threads: Option<u32>,
    /// Bytes.
    #[serde(deserialize_with = "read::size")]
    pub mem: Option<u64>,
    pub gpus: Option<usize>,
    /// Units of named resources.
    pub resources: BTreeMap<String, u64>,
    pub max_load: Option<f64>,
    pub retries: Option<u32>,
    #[serde(deserialize_with = "read::time")]
    pub timeout: Option<Duration>,
    pub keep_going: bool,
    pub plain: bool,
    pub colour: Colour,
    /// By stage kind.
    pub kinds: BTreeMap<String, StageSettings>,
    /// By name of stage.
    pub stages: BTreeMap<String, StageSettings>,
}

/// Settings of a kind or a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageSettings {
    pub retries: Option<u32>,
    #[serde(deserialize_with = "read::time")]
    pub timeout: Option<Duration>,
}

impl StageSettings {
    /// These, and those of `weaker` where these state none.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        Self { retries: self.retries.or(weaker.retries), timeout: self.timeout.or(weaker.timeout) }
    }
}

/// What the remote is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteMode {
    Read,
    Write,
}

/// How stages are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LauncherName {
    /// Processes of this machine.
    #[default]
    Local,
}

/// When messages are coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl Settings {
    /// What the files say about a stage of this kind, the stage before the kind. The stage of a
    /// trial, `train@seed=1`, has the settings of `train`.
    pub fn of_stage(&self, name: &str, kind: &str) -> StageSettings {
        let base = name.split('@').next().unwrap_or(name);
        let of = |table: &BTreeMap<String, StageSettings>, name| table.get(name).copied().unwrap_or_default();
        of(&self.stages, base).or(of(&self.kinds, kind))
    }
}
