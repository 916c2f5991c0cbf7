//! A resolved pipeline: a DAG of stages in which every name, type, edge and parameter has been
//! checked. Does not know keys, caches or running.

use super::command::RUN;
use crate::files::digest::Digest;
use crate::files::watched::Watched;
use crate::kind::StageKind;
use crate::kind::field::{Params, element};
use crate::kind::manifest::Manifest;
use crate::small_map::SmallMap;
use erw_base::error::Place;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Index into [`Pipeline::stages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub usize);

pub struct Pipeline {
    pub name: String,
    pub file: PathBuf,
    /// The file and its parents, absolute, with digests of what was read.
    pub files: Vec<(PathBuf, Digest)>,
    /// In topological order: inputs come before the stage.
    pub stages: Vec<Stage>,
    /// Probable mistakes that cannot be refused, with their place.
    pub warnings: Vec<String>,
}

pub struct Stage {
    /// As in the pipeline; in a sweep `train@seed=1`.
    pub name: String,
    pub kind: StageKind,
    pub manifest: Arc<Manifest>,
    /// By slot; for a list slot, by the name of the element (`field::element`).
    pub inputs: SmallMap<Edge>,
    /// Output name to artifact type.
    pub outputs: SmallMap<String>,
    /// Every parameter of the manifest, with defaults. Parameters of type `path` have the path as
    /// written; the file is in `sources`.
    pub params: Params,
    pub operation: Params,
    /// Source files by parameter name (`watch.N` for the watched files of a command).
    pub sources: SmallMap<SourcePath>,
    /// Identities of published files, by parameter name.
    pub published: BTreeMap<String, String>,
    pub resources: Resources,
    pub retry: RetryPolicy,
    /// In a sweep, the index of the first trial that needs it.
    pub turn: usize,
    /// Where each value was set, by `params.NAME`, `operation.NAME`, `inputs.SLOT`.
    pub origins: SmallMap<Origin>,
    /// Whether it is a `kind = "command"`, of which more than name and outputs is known.
    pub is_command: bool,
}

impl Stage {
    /// Program and arguments of a command; `{inputs.SLOT}`, `{outputs.NAME}`, `{params.NAME}`,
    /// `{threads}` are filled in.
    pub fn program(&self) -> Option<Vec<&str>> {
        let words = self.params.get(RUN).filter(|_| self.is_command)?.as_array();
        Some(words.into_iter().flatten().filter_map(Json::as_str).collect())
    }

    /// The parameters with the paths of files as they lie, and not as they are written.
    pub fn placed_params(&self) -> Cow<'_, Params> {
        let mut params = Cow::Borrowed(&self.params);
        for (name, source) in &self.sources {
            if self.params.contains_key(name) {
                params.to_mut().insert(name.clone(), source.path.display().to_string().into());
            }
        }
        params
    }

    /// The connected artifacts of a slot, with the name of each element, in order.
    pub fn connected(&self, slot: &str) -> Vec<(String, &Edge)> {
        let found = |i| {
            let name = element(slot, i);
            self.inputs.get(&name).map(|edge| (name, edge))
        };
        (0..).map_while(found).collect()
    }
}

pub struct Edge {
    pub from: StageId,
    pub output: String,
    pub ty: String,
}

/// A file or folder outside the cache.
pub struct SourcePath {
    /// Resolved against the folder of the file that contains it.
    pub path: PathBuf,
    /// Instructions for the user if it is missing, by line.
    pub missing: Vec<String>,
    /// The rule for which files count, if it is watched; otherwise all.
    pub watched: Option<Watched>,
    /// Where it is set, if in a file.
    pub place: Option<Place>,
}

impl SourcePath {
    pub fn is_there(&self) -> bool {
        if self.names().is_some() {
            return self.absent().next().is_none();
        }
        let pattern = self.watched.as_ref().filter(|w| w.glob().is_some());
        self.path.exists() && pattern.is_none_or(|w| w.finds_any(&self.path))
    }

    /// The files that braces in the path name, in order.
    pub fn names(&self) -> Option<&[PathBuf]> {
        self.watched.as_ref()?.names()
    }

    /// Those of them that are not there.
    pub fn absent(&self) -> impl Iterator<Item = PathBuf> {
        self.names().into_iter().flatten().map(|name| self.path.join(name)).filter(|path| !path.exists())
    }

    /// The path to show: for a pattern, including its folder.
    pub fn named(&self) -> PathBuf {
        let pattern = self.watched.as_ref().and_then(Watched::glob);
        pattern.map_or_else(|| self.path.clone(), |pattern| self.path.join(pattern))
    }
}

#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Threads of a rank; `None`: all threads of the run, divided among its ranks.
    pub threads: Option<usize>,
    /// Bytes of a rank.
    pub mem: Option<u64>,
    /// GPUs of all ranks together.
    pub gpus: usize,
    /// Processes that share the work; `None`: not stated, so one, or as settings say.
    pub ranks: Option<usize>,
    /// Units of named resources.
    pub named: BTreeMap<String, u64>,
}

/// Timeout and retries of a stage. Not in the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// An attempt that takes longer is stopped and counts as failed.
    pub timeout: Option<Duration>,
    /// Further attempts after a failure; `None`: the default of the run.
    pub retries: Option<u32>,
    /// Wait before the first retry; doubled for each further one.
    pub backoff: Option<Duration>,
}

impl RetryPolicy {
    /// This one, and `weaker` where this one states nothing.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        Self {
            timeout: self.timeout.or(weaker.timeout),
            retries: self.retries.or(weaker.retries),
            backoff: self.backoff.or(weaker.backoff),
        }
    }
}

/// The layer and place that set a value.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `manifest`, `pipeline [params]`, `stage params`, `trial`, `environment ERW_SET__…`, `--set`.
    pub layer: Cow<'static, str>,
    /// For values from a file.
    pub place: Option<Place>,
}
