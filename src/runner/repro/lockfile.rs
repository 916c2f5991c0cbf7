//! The lock file of a pipeline, `NAME.lock` beside `NAME.toml`: the approved results of every
//! stage, to be committed and compared with later runs. TOML, sorted, one value per line, so that
//! git can merge it.
//!
//! Keys are compared before anything runs, computed with the inputs in the lock file; outputs are
//! compared afterwards. So an output that may differ, because another machine class made it, does
//! not invalidate the keys of everything downstream. Prints nothing.

use super::compare::{self, Agreement, Listing};
use crate::cache::action_cache::{self, Lookup, Record};
use crate::cache::key::Key;
use crate::cache::store::Store;
use crate::files::digest::{Digest, Measured};
use crate::files::disk::write_atomic;
use crate::files::watched::LOCK_HEAD;
use crate::host;
use crate::pipeline::graph::{Pipeline, Stage, StageId};
use crate::plan::reason::compare;
use crate::plan::{CacheChecker, missing};
use erw_base::error::{Error, Place, Result, Text};
use erw_base::text;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// Larger folders are locked by a single digest.
const LISTED: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// The machine class on which it was written.
    pub class: String,
    #[serde(default)]
    pub stages: BTreeMap<String, Locked>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    pub key: Digest,
    /// The machine of the result (`Record::machine`), if it is not of the file's class: results may
    /// come from another's cache, from a GPU, or from several machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub results: BTreeMap<String, f64>,
    #[serde(default)]
    pub outputs: BTreeMap<String, Output>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub digest: Digest,
    /// The entries of a folder that is not too large.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: Listing,
}

/// A stage that differs from the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub stage: String,
    pub what: Vec<String>,
}

/// The comparison of a run's outputs with the lock file.
#[derive(Debug, Default)]
pub struct Compared {
    pub faults: Vec<Mismatch>,
    pub exact: Vec<String>,
    /// Stages that were compared by results only, or not at all, with the outcome.
    pub others: Vec<(String, Agreement)>,
    /// Not compared, because one of their inputs differs.
    pub dependent: Vec<String>,
}

/// The path of a pipeline's lock file.
pub fn path(pipeline: &Path) -> PathBuf {
    pipeline.with_extension("lock")
}

impl Lock {
    /// # Errors
    /// When the file does not exist or is not a lock file of this format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = text::read(path)
            .map_err(|e| Error::io("read the lock file", path, e).hint("run `erw run PIPELINE --lock` to write it"))?;
        let lock: Self = toml::from_str(&text).map_err(|e| {
            let place = e.span().map(|span| Place::new(&Text::new(path, text.as_str()), span));
            let error = Error::usage(format!("`{}` is not a valid lock file: {}", path.display(), e.message().trim()));
            error.maybe_at(place).hint("run `erw run PIPELINE --lock` to write it anew, for instance after a bad merge")
        })?;
        if lock.format != FORMAT {
            let text = format!("`{}` has format {}, this program reads {FORMAT}", path.display(), lock.format);
            return Err(Error::usage(text).hint("use the version of erw that wrote it, or rewrite it with `--lock`"));
        }
        Ok(lock)
    }

    /// The lock of these records.
    pub fn of(store: &Store, pipeline: &Pipeline, records: &BTreeMap<StageId, Record>) -> Result<Self> {
        let listing = |measured: &Measured| match measured.files as usize <= LISTED {
            true => compare::list(&store.object(&measured.digest)),
            false => Ok(Listing::new()),
        };
        Self::listing(pipeline, records, &listing)
    }

    /// The lock of these records without the files of folders, for which nothing is read.
    pub fn of_digests(pipeline: &Pipeline, records: &BTreeMap<StageId, Record>) -> Result<Self> {
        Self::listing(pipeline, records, &|_| Ok(Listing::new()))
    }

    fn listing(
        pipeline: &Pipeline,
        records: &BTreeMap<StageId, Record>,
        listing: &dyn Fn(&Measured) -> Result<Listing>,
    ) -> Result<Self> {
        let class = host::class();
        let locked = |record: &Record| -> Result<Locked> {
            let outputs = record.outputs.iter().map(|(name, output)| {
                let output = Output { digest: output.measured.digest, files: listing(&output.measured)? };
                Ok((name.clone(), output))
            });
            Ok(Locked {
                key: record.key().into(),
                class: Some(record.machine()).filter(|c| c != class),
                results: compare::results(&record.results),
                outputs: outputs.collect::<Result<_>>()?,
            })
        };
        let stages = records.iter().map(|(id, record)| Ok((pipeline.stage(*id).name.clone(), locked(record)?)));
        let program = env!("CARGO_PKG_VERSION").into();
        Ok(Self { format: FORMAT, program, class: class.into(), stages: stages.collect::<Result<_>>()? })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let body = toml::to_string_pretty(self);
        let body = body.map_err(|e| Error::internal("a lock cannot be written as TOML").because(e))?;
        let whole = std::path::absolute(path);
        let written = whole.and_then(|whole| write_atomic(&whole, format!("{LOCK_HEAD}{body}").as_bytes()));
        written.map_err(|e| Error::io("write", path, e))
    }

    /// Compares before a run: stages that are not locked, are locked but gone, or have a different
    /// key.
    pub fn keys(&self, checker: &CacheChecker<'_>, selected: &[StageId]) -> Result<Vec<Mismatch>> {
        let pipeline = checker.pipeline;
        let mut faults = vec![];
        let mut fault = |stage: &str, what| faults.push(Mismatch { stage: stage.into(), what });
        for stage in selected.iter().map(|id| pipeline.stage(*id)) {
            let Some(locked) = self.stages.get(&stage.name) else {
                fault(&stage.name, vec!["it is not in the lock file".into()]);
                continue;
            };
            // The run itself reports missing sources; an unlocked input is reported with its stage.
            let Some(inputs) = self.inputs(pipeline, stage).filter(|_| missing(stage).is_empty()) else { continue };
            let action = checker.key(stage, &inputs)?.action;
            if action.key != Key::from(locked.key) {
                let before = action_cache::lookup(checker.store, &Key::from(locked.key))?;
                let mut what = match before {
                    Lookup::Hit(r) => compare(&r.key_text, &action.text, &stage.origins, &|_, _| None),
                    Lookup::Miss | Lookup::Damaged => vec![],
                }
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>();
                if what.is_empty() {
                    what = vec![format!("its key is {}, not {}", action.key.short(), locked.key.short())];
                }
                fault(&stage.name, what);
            }
        }
        if selected.len() == pipeline.stages.len() {
            let names: BTreeSet<&String> = pipeline.stages.iter().map(|s| &s.name).collect();
            for gone in self.stages.keys().filter(|name| !names.contains(name)) {
                fault(gone, vec!["it is in the lock file but not in the pipeline".into()]);
            }
        }
        Ok(faults)
    }

    /// Digests by slot, from the lock file.
    fn inputs(&self, pipeline: &Pipeline, stage: &Stage) -> Option<BTreeMap<String, Digest>> {
        let locked = |(slot, edge): (&String, &crate::pipeline::graph::Edge)| {
            Some((slot.clone(), self.stages.get(&pipeline.stage(edge.from).name)?.outputs.get(&edge.output)?.digest))
        };
        stage.inputs.iter().map(locked).collect()
    }

    /// Compares the outputs of the selected stages with the lock file, in topological order. Their
    /// keys were compared before.
    pub fn compare(&self, store: &Store, pipeline: &Pipeline, records: &BTreeMap<StageId, Record>) -> Result<Compared> {
        let mut compared = Compared::default();
        let mut bad = BTreeSet::new();
        for (&id, record) in records {
            let stage = pipeline.stage(id);
            let Some(locked) = self.stages.get(&stage.name) else { continue };
            if stage.inputs.values().any(|edge| bad.contains(&edge.from)) {
                bad.insert(id);
                compared.dependent.push(stage.name.clone());
                continue;
            }
            match self.one(store, pipeline, stage, record, locked)? {
                Agreement::Exact => compared.exact.push(stage.name.clone()),
                Agreement::Differs { what } => {
                    bad.insert(id);
                    compared.faults.push(Mismatch { stage: stage.name.clone(), what });
                }
                other => compared.others.push((stage.name.clone(), other)),
            }
        }
        Ok(compared)
    }

    fn one(
        &self,
        store: &Store,
        pipeline: &Pipeline,
        stage: &Stage,
        record: &Record,
        locked: &Locked,
    ) -> Result<Agreement> {
        let made: BTreeMap<&String, Digest> = record.outputs.iter().map(|(n, o)| (n, o.measured.digest)).collect();
        let wanted: BTreeMap<&String, Digest> = locked.outputs.iter().map(|(n, o)| (n, o.digest)).collect();
        if made == wanted {
            return Ok(Agreement::Exact);
        }
        // With the locked inputs the key equals the locked one. A different key means different
        // inputs, which were found to be close enough.
        let same_inputs = self.inputs(pipeline, stage).is_some() && record.key() == Key::from(locked.key);
        let class = locked.class.as_deref().unwrap_or(&self.class);
        if !same_inputs || !compare::is_owed(&stage.manifest, class, &record.machine()) {
            return Ok(compare::near(&locked.results, &compare::results(&record.results), stage.manifest.tolerance));
        }
        let mut what = vec![];
        for (name, output) in &locked.outputs {
            match made.get(name) {
                Some(digest) if *digest == output.digest => {}
                Some(digest) => {
                    what.extend(compare::files(name, &output.files, &compare::list(&store.object(digest))?))
                }
                None => what.push(format!("output `{name}` is missing")),
            }
        }
        Ok(Agreement::Differs { what })
    }
}
