//! A resolved pipeline: a DAG of stages whose every name, type, edge and parameter has been checked.
//! Knows nothing of keys, caches or running.

use crate::files::digest::Digest;
use crate::files::watched::Watched;
use crate::kind::StageKind;
use crate::kind::field::{Params, element};
use crate::kind::manifest::Manifest;
use crate::small_map::SmallMap;
use erw_base::error::Place;
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
    /// It and its parents, absolute, with the digests of what was read.
    pub files: Vec<(PathBuf, Digest)>,
    /// In topological order: a stage's inputs come before it.
    pub stages: Vec<Stage>,
    /// What looks like a slip of the hand and is none that can be refused, with its place.
    pub warnings: Vec<String>,
}

pub struct Stage {
    /// As in the pipeline; in a sweep `train@seed=1`.
    pub name: String,
    pub kind: StageKind,
    pub manifest: Arc<Manifest>,
    /// By slot; in a slot that takes several, by the name of the `manifest::element`.
    pub inputs: SmallMap<Edge>,
    /// Output name to artifact type.
    pub outputs: SmallMap<String>,
    /// Every parameter of the manifest, defaults filled in. Parameters of type `path` hold the path as given;
    /// the file behind it is in `sources`.
    pub params: Params,
    pub operation: Params,
    /// Outside files by parameter name (`watch.N` for the watched files of a command).
    pub sources: SmallMap<Source>,
    /// What identifies published files, by the parameter that names one.
    pub published: BTreeMap<String, String>,
    pub resources: Resources,
    pub retry: RetryPolicy,
    /// In a sweep, the number of the first trial that needs it.
    pub turn: usize,
    /// Where a value was stated, by `params.NAME`, `operation.NAME`, `inputs.SLOT`.
    pub origins: SmallMap<Origin>,
    /// For `kind = "command"`.
    pub command: Option<Command>,
}

impl Stage {
    /// What is connected to a slot, with the name of each element, in order.
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
pub struct Source {
    /// Resolved against the directory of the file that states it.
    pub path: PathBuf,
    /// What to tell a user when it is absent, by line.
    pub missing: Vec<String>,
    /// What of it counts, if it is watched; else all.
    pub watched: Option<Watched>,
    /// Where it is stated, if a file does.
    pub place: Option<Place>,
}

impl Source {
    pub fn is_there(&self) -> bool {
        let pattern = self.watched.as_ref().filter(|w| w.glob().is_some());
        self.path.exists() && pattern.is_none_or(|w| w.finds_any(&self.path))
    }

    /// As a user would name it: a pattern with its folder.
    pub fn named(&self) -> PathBuf {
        let pattern = self.watched.as_ref().and_then(Watched::glob);
        pattern.map_or_else(|| self.path.clone(), |pattern| self.path.join(pattern))
    }
}

#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Threads; `None`: as many as the run has.
    pub threads: Option<usize>,
    /// Bytes.
    pub mem: Option<u64>,
    pub gpus: usize,
    /// Units of anything else of which there is only so much, by name.
    pub named: BTreeMap<String, u64>,
}

/// How long and how often a stage is tried. Not in the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// An attempt that takes longer is stopped, and has failed.
    pub timeout: Option<Duration>,
    /// Further attempts after a failed one; `None`: as many as the run says.
    pub retries: Option<u32>,
    /// Before the first of them; twice as long before each next one.
    pub backoff: Option<Duration>,
}

/// Who set a value.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `manifest`, `pipeline [params]`, `stage params`, `trial`, `environment ERW_SET__…`, `--set`.
    pub layer: Cow<'static, str>,
    /// For values stated in a file.
    pub place: Option<Place>,
}

/// A program with declared inputs, outputs and watched files.
pub struct Command {
    /// Program and arguments; `{inputs.SLOT}`, `{outputs.NAME}`, `{params.NAME}`, `{threads}` are filled in.
    pub run: Vec<String>,
}
