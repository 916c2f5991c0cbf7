//! Which stages of a pipeline have changed since a git revision: compares each stage's description
//! then and now.
//!
//! A description is a key text in which an input is replaced by the description of its producing
//! stage, so that it needs no cache and nothing has to have run. Files of the repository enter by
//! their contents then and now, through links, and submodules by their commits; files that git does
//! not track, or outside the repository, count as unchanged. A renamed stage is unchanged, because
//! names do not matter. Both sides use the kinds of this program.

use super::git::{Checkout, Module, Tracked};
use crate::cache::sources::{Files, walk_source};
use crate::cache::store::Store;
use crate::files::digest::{Digest, Kind, WalkEntry, join};
use crate::files::lexical::{logical, place};
use crate::files::watched::{Rule, Watched};
use crate::kind::Registry;
use crate::pipeline::graph::{Pipeline, SourcePath, Stage, StageId};
use crate::pipeline::layers::Overrides;
use crate::plan::action::action;
use crate::plan::reason::{Reason, compare};
use erw_base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A pipeline compared with an earlier revision.
pub struct Since {
    /// The full hash of the commit.
    pub commit: String,
    /// The pipeline file at that revision: under another name if it was renamed, `None` if it did
    /// not exist.
    pub file: Option<PathBuf>,
    /// Each selected stage, in topological order.
    pub stages: Vec<(StageId, StageChange)>,
    /// Names of removed (not renamed) stages.
    pub gone: Vec<String>,
}

/// How a stage changed since the revision.
#[derive(Debug, PartialEq)]
pub enum StageChange {
    Unchanged,
    /// There was no stage with its name and kind.
    New,
    Stale(Vec<Cause>),
}

/// Why a stage is stale.
#[derive(Debug, PartialEq)]
pub enum Cause {
    Own(Reason),
    /// This stage, which an input comes from, changed.
    Upstream(String),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(reason) => reason.fmt(f),
            Self::Upstream(stage) => write!(f, "upstream `{stage}`"),
        }
    }
}

/// Compares `now` with the same file at `revision`, loaded with the same overrides.
pub fn since(
    now: &Pipeline,
    selected: &[StageId],
    revision: &str,
    (registry, overrides): (Registry, &Overrides),
    store: &Store,
) -> Result<Since> {
    let checkout = Checkout::of(&now.file, revision)?;
    let commit = checkout.commit.clone();
    let there = |path: &Path| checkout.path(path).filter(|p| p.exists());
    let was = if there(&now.file).is_some() { None } else { checkout.renamed(&now.file)? };
    let Some(file) = there(was.as_ref().unwrap_or(&now.file)) else {
        let stages = selected.iter().map(|id| (*id, StageChange::New)).collect();
        return Ok(Since { commit, file: None, stages, gone: vec![] });
    };
    let then = Pipeline::load(&file, registry, overrides).map_err(|mut e| {
        // The place is in a temporary folder that is deleted before anybody reads the message.
        e.hints.extend(
            e.place.take().map(|p| format!("at that revision it is {}", checkout.origin(&p.source.file).display())),
        );
        e.context(format!("cannot read `{}` at revision `{revision}`", now.file.display()))
    })?;
    let modules = checkout.modules()?;
    let tracked = checkout.tracked()?;
    let files = Files::default();
    let mut sources = Sources { checkout: &checkout, modules, tracked, store, files, known: BTreeMap::new() };
    let old = describe(&then, |source| sources.then(source))?;
    let new = describe(now, |source| sources.now(source))?;
    let before = Before::of(&then, &old);
    let stages = selected.iter().map(|&id| (id, change(now, id, &new, &before, &sources)));
    let stages: Vec<(StageId, StageChange)> = stages.collect();
    let (names, texts) = (now.by_name(), new.iter().collect::<HashSet<_>>());
    let gone = |(stage, text): (&Stage, &String)| {
        let there = names.contains_key(stage.name.as_str()) || texts.contains(text);
        (!there).then(|| stage.name.clone())
    };
    let gone = then.stages.iter().zip(&old).filter_map(gone).collect();
    Ok(Since { commit, file: Some(was.unwrap_or_else(|| now.file.clone())), stages, gone })
}

/// What the stages were at the revision.
struct Before<'a> {
    texts: HashSet<&'a str>,
    /// By name and kind.
    stages: HashMap<(&'a str, &'a str), &'a str>,
}

impl<'a> Before<'a> {
    fn of(then: &'a Pipeline, texts: &'a [String]) -> Self {
        let texts = || texts.iter().map(String::as_str);
        let names = then.stages.iter().map(|stage| (stage.name.as_str(), stage.kind.name));
        Self { texts: texts().collect(), stages: names.zip(texts()).collect() }
    }
}

fn change(now: &Pipeline, id: StageId, new: &[String], before: &Before<'_>, sources: &Sources<'_>) -> StageChange {
    let (stage, text) = (now.stage(id), &new[id.0]);
    if before.texts.contains(text.as_str()) {
        return StageChange::Unchanged;
    }
    let Some(old) = before.stages.get(&(stage.name.as_str(), stage.kind.name)) else { return StageChange::New };
    let example = |name: &str, _: &Digest| sources.example(stage.sources.get(name)?);
    let reasons = compare(old, text, &stage.origins, &example);
    let cause = |reason: Reason| match &reason {
        Reason::InputChanged { slot } => match stage.inputs.get(slot) {
            // Connected to another, unchanged stage: this is a change of the stage itself.
            Some(edge) if !before.texts.contains(new[edge.from.0].as_str()) => {
                Cause::Upstream(now.stage(edge.from).name.clone())
            }
            _ => Cause::Own(reason),
        },
        _ => Cause::Own(reason),
    };
    let mut causes: Vec<Cause> = vec![];
    for cause in reasons.into_iter().map(cause) {
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    StageChange::Stale(causes)
}

/// The description of every stage, by its id.
fn describe(pipeline: &Pipeline, mut source: impl FnMut(&SourcePath) -> Result<Digest>) -> Result<Vec<String>> {
    let mut texts: Vec<String> = vec![];
    for stage in &pipeline.stages {
        let inputs = stage.inputs.iter().map(|(slot, edge)| {
            let made = format!("{}output {}\n", texts[edge.from.0], edge.output);
            (slot.clone(), Digest::of_bytes(made.as_bytes()))
        });
        let inputs = inputs.collect();
        let within = |e: Error, name: &str| e.context(format!("stage `{}`: source `{name}`", stage.name));
        let digests = stage.sources.iter();
        let digests = digests.map(|(name, s)| Ok((name.clone(), source(s).map_err(|e| within(e, name))?)));
        let digests = digests.collect::<Result<_>>()?;
        texts.push(action(stage, &inputs, &digests).text);
    }
    Ok(texts)
}

type Listing = BTreeMap<PathBuf, Digest>;

/// A source by its name in the work tree, with its watch rule.
type Asked = (PathBuf, Option<Rule>);

/// Sources then and now.
struct Sources<'a> {
    checkout: &'a Checkout,
    modules: Vec<Module>,
    tracked: Tracked,
    store: &'a Store,
    files: Files,
    /// By name and watch rule. `None` for a source that git did not track.
    known: BTreeMap<Asked, Option<(Listing, Listing)>>,
}

impl Sources<'_> {
    fn then(&mut self, source: &SourcePath) -> Result<Digest> {
        let name = logical(&self.checkout.origin(&source.path));
        Ok(identity(&name, self.pair(&name, source.watched.as_ref())?.as_ref().map(|(then, _)| then)))
    }

    fn now(&mut self, source: &SourcePath) -> Result<Digest> {
        let name = logical(&source.path);
        Ok(identity(&name, self.pair(&name, source.watched.as_ref())?.as_ref().map(|(_, now)| now)))
    }

    /// A file that was changed, added or removed.
    fn example(&self, source: &SourcePath) -> Option<PathBuf> {
        let rule = source.watched.as_ref().map(|w| w.rule().clone());
        let (then, now) = self.known.get(&(logical(&source.path), rule))?.as_ref()?;
        let names: BTreeSet<&PathBuf> = then.keys().chain(now.keys()).collect();
        names.into_iter().find(|n| then.get(*n) != now.get(*n)).cloned()
    }

    fn pair(&mut self, name: &Path, watched: Option<&Watched>) -> Result<&Option<(Listing, Listing)>> {
        let asked = (name.to_path_buf(), watched.map(|w| w.rule().clone()));
        if !self.known.contains_key(&asked) {
            let pair = self.compared(name, watched)?;
            self.known.insert(asked.clone(), pair);
        }
        Ok(&self.known[&asked])
    }

    fn compared(&self, name: &Path, watched: Option<&Watched>) -> Result<Option<(Listing, Listing)>> {
        let then = self.checkout.path(name);
        let there = then.as_ref().filter(|then| then.exists());
        // A broken link counts as untracked.
        let old = there.and_then(|then| list(then, watched).ok());
        let new = self.list_now(name, watched)?;
        let mut pair = match (old, new) {
            (None, new) if new.is_empty() || there.is_some() => None,
            (old, new) => Some((old.unwrap_or_default(), new)),
        };
        // A source inside a submodule changes with the whole submodule.
        let was = then.map(|then| self.checkout.place_then(&then));
        for (is_then, place) in [(true, was), (false, Some(place(name)))] {
            let Some(place) = place else { continue };
            for module in self.modules.iter().filter(|m| m.place.starts_with(&place) || place.starts_with(&m.place)) {
                let (then, now) = pair.get_or_insert_default();
                let name = module.place.strip_prefix(&place).unwrap_or(Path::new("")).to_path_buf();
                let commit = |commit: &String| (name.clone(), Digest::of_bytes(commit.as_bytes()));
                match is_then {
                    true => then.extend(module.then.as_ref().map(commit)),
                    false => now.extend(module.now.as_ref().map(commit)),
                }
            }
        }
        Ok(pair)
    }

    fn list_now(&self, name: &Path, watched: Option<&Watched>) -> Result<Listing> {
        let Some(inside) = self.checkout.inside(name).filter(|_| name.exists()) else { return Ok(Listing::new()) };
        let outside = self.files.digest_at(self.store, name, watched)?;
        let entries = outside.entries().ok_or_else(|| {
            Error::stage(format!("`{}` changed while it was being read", name.display()))
                .hint("rerun when nothing writes to it")
        })?;
        let entries = entries.iter().filter(|e| self.tracked.has(&join(&inside, &e.path)));
        Ok(entries.map(|e| (e.path.clone(), e.digest)).collect())
    }
}

fn list(root: &Path, watched: Option<&Watched>) -> Result<Listing> {
    let digest = |found: WalkEntry| {
        let file = join(root, &found.path);
        let digest = match &found.kind {
            Kind::Link(to) => Ok(Digest::of_link(to)),
            _ => Digest::of_file(&file),
        };
        Ok((found.path, digest.map_err(|e| Error::io("read", &file, e))?))
    };
    walk_source(root, watched)?.into_iter().map(digest).collect()
}

/// The digest of a listing, as in a key; of an untracked source, that of its name, equal then and
/// now.
fn identity(name: &Path, listing: Option<&Listing>) -> Digest {
    let text = match listing {
        Some(listing) => format!("{listing:?}"),
        None => format!("{name:?}"),
    };
    Digest::of_bytes(text.as_bytes())
}
