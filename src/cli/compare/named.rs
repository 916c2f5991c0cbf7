//! What the arguments of `erw compare` and `erw report` name: a pipeline, a pipeline at a git
//! revision, a trial of a sweep, or a past run. Looks at no stage.

use crate::common::pipeline_args::SetArgs;
use erw_base::error::{Error, Result};
use erw_runner::cache::store::Store;
use erw_runner::journal::read::{self, Run, RunState};
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::repro::git::Checkout;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::suggest;
use std::path::{Path, PathBuf};

pub enum Named {
    Pipeline {
        pipeline: Pipeline,
        /// Its stages, or those of a trial, under the names that they have in the file.
        stages: Vec<(String, StageId)>,
        /// Holds the files of a revision.
        checkout: Option<Checkout>,
    },
    /// With its events.
    Past(Run),
}

impl Named {
    /// Reads `P`, `P@TRIAL`, `REV:P`, `REV:P@TRIAL`, `run:ID` or `P@run:ID`.
    ///
    /// # Errors
    /// If there is no such file, trial, revision or run, or a file is no pipeline.
    pub fn load(text: &str, set: &SetArgs, store: &Store, registry: Registry) -> Result<Self> {
        let reader = Reader { store, registry, set };
        match Form::of(text) {
            Form::File(file) => reader.pipeline(Path::new(file), None, None),
            Form::Run(id) => reader.past(id, None),
            Form::RunOf(file, id) => reader.past(id, Some(reader.set.on(file).load(registry)?.name)),
            Form::Trial(file, trial) => reader.pipeline(Path::new(file), Some(trial), None),
            Form::Revision(revision, rest) => reader.revision(revision, rest),
            Form::Absent => reader.pipeline(Path::new(text.split('@').next().unwrap_or(text)), None, None),
        }
    }
}

/// How such a text is written.
enum Form<'a> {
    File(&'a str),
    Run(&'a str),
    /// A pipeline and a run of it.
    RunOf(&'a str, &'a str),
    Trial(&'a str, &'a str),
    /// A revision, and a pipeline or a trial of it.
    Revision(&'a str, &'a str),
    /// A file that is not there.
    Absent,
}

impl<'a> Form<'a> {
    fn of(text: &'a str) -> Self {
        if Path::new(text).exists() {
            return Self::File(text);
        }
        if let Some(id) = text.strip_prefix("run:") {
            return Self::Run(id);
        }
        if let Some((file, id)) = text.split_once("@run:") {
            return Self::RunOf(file, id);
        }
        if let Some((file, trial)) = at(text, Path::exists) {
            return Self::Trial(file, trial);
        }
        match text.split_once(':') {
            Some((revision, rest)) if !revision.is_empty() && !rest.is_empty() => Self::Revision(revision, rest),
            _ => Self::Absent,
        }
    }
}

/// What such a text consists of.
pub struct Parts<'a> {
    pub revision: Option<&'a str>,
    /// Empty for `run:ID`.
    pub file: &'a str,
    pub trial: Option<&'a str>,
    pub run: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Of a text that [`Named::load`] has read.
    pub fn of(text: &'a str) -> Self {
        let plain = |file| Self { revision: None, file, trial: None, run: None };
        match Form::of(text) {
            Form::File(file) => plain(file),
            Form::Run(id) => Self { run: Some(id), ..plain("") },
            Form::RunOf(file, id) => Self { run: Some(id), ..plain(file) },
            Form::Trial(file, trial) => Self { trial: Some(trial), ..plain(file) },
            Form::Revision(revision, rest) => {
                // A file of the revision need not exist now.
                let end = rest.find(".toml@").map(|at| at + ".toml".len()).or_else(|| rest.find('@'));
                let (file, trial) = end.map_or((rest, None), |end| (&rest[..end], Some(&rest[end + 1..])));
                Self { revision: Some(revision), trial, ..plain(file) }
            }
            Form::Absent => plain(text),
        }
    }

    /// The text with at most so many of the last parts of the file's path.
    fn short(&self, parts: usize) -> String {
        let start = self.file.rmatch_indices('/').nth(parts - 1).map_or(0, |(at, _)| at + 1);
        let revision = self.revision.map_or_else(String::new, |revision| format!("{revision}:"));
        let trial = self.trial.map_or_else(String::new, |trial| format!("@{trial}"));
        let run = self.run.map_or_else(String::new, |id| format!("run:{id}"));
        let between = if self.run.is_some() && !self.file.is_empty() { "@" } else { "" };
        format!("{revision}{}{trial}{between}{run}", &self.file[start..])
    }
}

/// A text without the folders of its file.
pub fn short(text: &str) -> String {
    Parts::of(text).short(1)
}

/// Two texts with as few folders as tell them apart.
pub fn labels(texts: [&str; 2]) -> [String; 2] {
    let parts = texts.map(Parts::of);
    let most = parts.iter().map(|parts| parts.file.matches('/').count() + 1).max().unwrap_or(1);
    let all = (1..=most).map(|n| [parts[0].short(n), parts[1].short(n)]);
    let differing = all.into_iter().find(|[a, b]| a != b);
    differing.unwrap_or_else(|| [format!("{} (A)", parts[0].short(1)), format!("{} (B)", parts[1].short(1))])
}

/// Refuses `--set` and `--axis` where there are only past runs, whose values are what they were.
pub fn refuse_values(all: &[&Named], set: &SetArgs) -> Result<()> {
    let flag = match (set.set.is_empty(), set.axis.is_empty()) {
        (false, _) => "--set",
        (_, false) => "--axis",
        _ => return Ok(()),
    };
    if all.iter().any(|named| matches!(named, Named::Pipeline { .. })) {
        return Ok(());
    }
    let error = Error::usage(format!("`{flag}` does not apply to a past run"));
    Err(error.hint("its values are those that it ran with; name a pipeline to choose others"))
}

/// Splits `FILE@TRIAL`. Both may contain an `@`, so the first split whose file exists is taken.
fn at(text: &str, there: impl Fn(&Path) -> bool) -> Option<(&str, &str)> {
    let mut splits = text.match_indices('@').map(|(i, _)| (&text[..i], &text[i + 1..]));
    splits.find(|(file, _)| there(Path::new(file)))
}

struct Reader<'a> {
    store: &'a Store,
    registry: Registry,
    set: &'a SetArgs,
}

impl Reader<'_> {
    fn pipeline(&self, file: &Path, trial: Option<&str>, checkout: Option<Checkout>) -> Result<Named> {
        let Some(trial) = trial else {
            let mut pipeline = self.set.on(file).load(self.registry)?;
            put_sources_right(&mut pipeline, checkout.as_ref());
            let stages = pipeline.stages.iter().enumerate().map(|(i, s)| (s.name.clone(), StageId(i))).collect();
            return Ok(Named::Pipeline { pipeline, stages, checkout });
        };
        let has = |plan: &SweepPlan| plan.trial(trial).is_ok();
        let mut sweep = self.set.on(file).sweep_with(trial, &has, self.registry, self.store.root())?;
        put_sources_right(&mut sweep.pipeline, checkout.as_ref());
        let stages = &sweep.trials[sweep.trial(trial)?].stages;
        let mut stages: Vec<(String, StageId)> = stages.iter().map(|(name, id)| (name.clone(), *id)).collect();
        stages.sort_by_key(|(_, id)| *id);
        Ok(Named::Pipeline { pipeline: sweep.pipeline, stages, checkout })
    }

    fn revision(&self, revision: &str, file: &str) -> Result<Named> {
        let named = file.split('@').next().unwrap_or(file);
        // The folder may have been removed since; then the current folder's repository is used.
        let beside = |p: &Path| p.parent().is_some_and(|dir| dir.as_os_str().is_empty() || dir.exists());
        let anchor = Path::new(named);
        let checkout = Checkout::of(if beside(anchor) { anchor } else { Path::new("pipeline") }, revision)?;
        let then = |file: &Path| checkout.path(file).filter(|p| p.exists());
        let split = at(file, |path| then(path).is_some());
        let (name, trial) = match (then(Path::new(file)), split) {
            (None, Some((name, trial))) => (name, Some(trial)),
            _ => (file, None),
        };
        let Some(path) = then(Path::new(name)) else {
            return Err(Error::usage(format!("no file `{name}` at revision `{revision}`")));
        };
        self.pipeline(&path, trial, Some(checkout))
    }

    /// A run by a prefix of its id; it must be of the pipeline of this name, if one is given.
    fn past(&self, id: &str, pipeline: Option<String>) -> Result<Named> {
        let (folder, id) = self.run_folder(id)?;
        let mut summary = read::read(&folder);
        if let Some(wanted) = pipeline.filter(|name| *name != summary.pipeline) {
            let error = Error::usage(format!("run `{id}` ran the pipeline `{}`, not `{wanted}`", summary.pipeline));
            return Err(error.hint(format!("use `run:{id}`")));
        }
        if summary.stages.is_empty() {
            let hint = match summary.state {
                RunState::Ended => {
                    "a run that finds everything cached may record only the number of stages; compare with the pipeline"
                }
                RunState::Running => "it has not started a stage yet",
                RunState::CutOff => "it was cut off before it started a stage",
            };
            return Err(Error::usage(format!("run `{id}` has recorded no stages")).hint(hint));
        }
        read::with_events(&mut summary, &folder);
        Ok(Named::Past(summary))
    }

    fn run_folder(&self, id: &str) -> Result<(PathBuf, String)> {
        let listed = std::fs::read_dir(self.store.runs()).into_iter().flatten();
        let mut ids: Vec<String> = listed.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        ids.sort();
        let found: Vec<&String> = ids.iter().filter(|i| !id.is_empty() && i.starts_with(id)).collect();
        match found.as_slice() {
            [one] => Ok((self.store.runs().join(one), (*one).clone())),
            [] => {
                let last = ids.last().map(|last| format!("the last run is `{last}`"));
                Err(Error::usage(format!("no run `{id}`")).maybe_hint(last))
            }
            several => {
                let names = suggest::ticked(several.iter().map(|s| s.as_str()));
                Err(Error::usage(format!("several runs start with `{id}`")).hint(format!("they are {names}")))
            }
        }
    }
}

/// Takes data that git does not hold from the work tree.
fn put_sources_right(pipeline: &mut Pipeline, checkout: Option<&Checkout>) {
    let Some(checkout) = checkout else { return };
    for source in pipeline
        .stages
        .iter_mut()
        .flat_map(|s| s.sources.iter_mut().map(|(_, source)| source))
        .filter(|s| !s.path.exists())
    {
        source.path = checkout.origin(&source.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_folders_that_tell_files_apart_and_whole_values() {
        let labelled = |a, b| labels([a, b]);
        assert_eq!(labelled("x/a.toml", "y/b.toml"), ["a.toml", "b.toml"]);
        assert_eq!(labelled("x/A/p.toml", "x/B/p.toml"), ["A/p.toml", "B/p.toml"]);
        assert_eq!(labelled("p.toml", "x/p.toml"), ["p.toml", "x/p.toml"]);
        assert_eq!(labelled("HEAD:x/p.toml", "x/p.toml"), ["HEAD:p.toml", "p.toml"]);
        assert_eq!(labelled("v1/2:x/p.toml@t=x/y", "run:7"), ["v1/2:p.toml@t=x/y", "run:7"]);
        assert_eq!(labelled("x/p.toml@run:7", "x/p.toml@run:7"), ["p.toml@run:7 (A)", "p.toml@run:7 (B)"]);
    }
}
