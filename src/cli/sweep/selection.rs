//! The trials and stages of a sweep that were selected: what is cached of them, and how they ended.
//! Does not know the command line.

use super::row::{StageStatus, Status};
use super::table::{Tabulated, table};
use super::table_options::{MayGive, TableOptions};
use crate::run::flags::Flags;
use erw_base::error::Result;
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::store::Store;
use erw_runner::event::{Measure, StageEnd, StageState};
use erw_runner::journal::read;
use erw_runner::pipeline::graph::StageId;
use erw_runner::plan::{self, CacheChecker, Missing, Verdict};
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::pruner::Pruner;
use std::collections::{BTreeMap, BTreeSet};

/// The status and results of the stages.
pub type Known = BTreeMap<StageId, (Status, Vec<Measure>)>;

/// A sweep with the selected trials and stages.
pub struct Sweep<'a> {
    pub plan: &'a SweepPlan,
    pub trials: Vec<usize>,
    /// The targets and their dependencies, in all trials.
    pub wanted: Vec<StageId>,
    pub watch: Pruner,
}

impl Sweep<'_> {
    /// The selected stages of the selected trials.
    pub fn selected(&self) -> Vec<StageId> {
        let needed: BTreeSet<StageId> =
            self.trials.iter().flat_map(|&i| self.plan.trials[i].stages.values().copied()).collect();
        self.wanted.iter().copied().filter(|id| needed.contains(id)).collect()
    }

    /// The cached results of the selected stages, which are also passed to the pruner.
    pub fn cached(&mut self, store: &Store, forced: BTreeSet<StageId>) -> Result<Known> {
        let checker = CacheChecker::new(&self.plan.pipeline, store, forced);
        let mut known = Known::new();
        for (id, verdict) in plan::plan(&checker, &self.selected())? {
            let results = if let Verdict::Cached(record) = verdict { Some(record.results) } else { None };
            known.insert(id, self.known(id, results));
        }
        Ok(known)
    }

    /// The same; of stages that are not cached, also whether their latest attempt failed or was
    /// suspended.
    pub fn last_seen(&mut self, store: &Store) -> Result<Known> {
        let checker = CacheChecker::new(&self.plan.pipeline, store, BTreeSet::new());
        let verdicts: BTreeMap<StageId, Verdict> = plan::plan(&checker, &self.selected())?.into_iter().collect();
        let record = |id: StageId| -> Option<&Record> {
            match verdicts.get(&id) {
                Some(Verdict::Cached(record)) => Some(record),
                _ => None,
            }
        };
        let stale = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Run(_))).map(|(id, _)| *id);
        let keys: BTreeMap<StageId, String> =
            stale.filter_map(|id| Some((id, checker.key_of(id)?.to_string()))).collect();
        let ends = if keys.is_empty() { BTreeMap::new() } else { ends(store, &self.plan.pipeline.name)? };
        let mut known = Known::new();
        for id in verdicts.keys() {
            let (status, results) = self.known(*id, record(*id).map(|record| record.results.clone()));
            let end = keys.get(id).and_then(|key| ends.get(key)).copied();
            known.insert(*id, (end.unwrap_or(status), results));
        }
        Ok(known)
    }

    /// What is known of a stage with these cached results, which the pruner sees too.
    pub fn known(&mut self, id: StageId, results: Option<Vec<Measure>>) -> (Status, Vec<Measure>) {
        let Some(results) = results else { return (Status::Unfinished, vec![]) };
        let name = &self.plan.pipeline.stage(id).name;
        self.watch.cached(name, results.iter().map(|r| (r.name.as_str(), r.value)));
        (Status::Cached, results)
    }

    /// Keeps complete trials and the first `most` of the others; returns how many are left out.
    pub fn keep_within(&mut self, most: usize, known: &Known) -> usize {
        let done = |id: &StageId| known.get(id).is_none_or(|(status, _)| *status == Status::Cached);
        let (mut started, mut left) = (0, 0);
        let (plan, watch) = (self.plan, &self.watch);
        self.trials.retain(|&i| {
            if plan.trials[i].stages.values().all(done) || watch.pruned_because(i).is_some() {
                return true;
            }
            let within = started < most;
            *(if within { &mut started } else { &mut left }) += 1;
            within
        });
        left
    }

    /// Fails for missing files before anything runs. A sweep continues after failures, but these
    /// are known beforehand.
    pub fn refuse_missing(&self, flags: &Flags) -> Result<()> {
        if flags.keep_going || flags.dry_run {
            return Ok(());
        }
        let missing: Vec<Missing> =
            self.selected().iter().flat_map(|id| plan::missing(self.plan.pipeline.stage(*id))).collect();
        plan::missing_error(&missing).map_or(Ok(()), Err)
    }

    /// The names that results of the stages may have: of cached stages the recorded ones, otherwise
    /// those of the kind.
    pub fn results(&self, known: &Known) -> Vec<(String, MayGive)> {
        let result = |id: StageId| {
            let stage = self.plan.pipeline.stage(id);
            let base = stage.name.split('@').next().unwrap_or(&stage.name).to_string();
            let may = match known.get(&id) {
                Some((Status::Cached | Status::Ran, results)) => {
                    MayGive::These(results.iter().map(|r| r.name.clone()).collect())
                }
                _ if !stage.is_command => MayGive::These(stage.manifest.results.clone()),
                _ if stage.outputs.values().any(|ty| ty == erw_runner::kind::field::TYPE) => MayGive::Anything,
                _ => MayGive::These(vec![]),
            };
            (base, may)
        };
        self.selected().into_iter().map(result).collect()
    }

    /// The same for a table, which has no results of stages that all trials share, when some stages
    /// have run: what a program gives in one trial, it gives in the others.
    fn results_to_come(&self, known: &Known) -> Vec<(String, MayGive)> {
        let mut all = self.results(known);
        let ids = |base: &str| -> BTreeSet<Option<&StageId>> {
            self.trials.iter().map(|&i| self.plan.trials[i].stages.get(base)).collect()
        };
        let shared: BTreeSet<String> =
            all.iter().map(|(base, _)| base.clone()).filter(|base| ids(base).len() == 1).collect();
        all.retain(|(base, _)| self.trials.len() < 2 || !shared.contains(base));
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (base, may) in &all {
            if let MayGive::These(names) = may {
                told.entry(base.clone()).or_default().extend(names.iter().cloned());
            }
        }
        for (base, may) in all.iter_mut().filter(|(_, may)| matches!(may, MayGive::Anything)) {
            told.get(base).into_iter().for_each(|names| *may = MayGive::These(names.clone()));
        }
        all
    }

    pub fn table(&self, known: &Known, options: &TableOptions) -> Tabulated {
        let seen = |id: StageId| known.get(&id).map(|(status, r)| StageStatus { status: *status, results: r.clone() });
        let stopped = |trial| self.watch.pruned_because(trial).is_some();
        let table = table(self.plan, &self.trials, options, &seen, &stopped);
        if table.error.is_none() || table.is_ambiguous {
            return table;
        }
        // A name of no result may be that of one to come.
        let Ok(warnings) = options.foresee(self.plan, &self.results_to_come(known)) else { return table };
        let table = Tabulated { error: None, warnings, ..table };
        if options.filters.is_empty() { table } else { table.without_rows() }
    }
}

/// How the latest attempts in runs of this pipeline ended, by key, where they left no record.
fn ends(store: &Store, pipeline: &str) -> Result<BTreeMap<String, Status>> {
    let mut ends = BTreeMap::new();
    let runs = read::runs(store)?.into_iter().filter(|run| run.pipeline == pipeline);
    for stage in runs.flat_map(|run| run.stages) {
        let status = match stage.state.as_str() {
            "failed" => Status::Failed,
            "suspended" => Status::Suspended,
            // Nothing was attempted.
            "skipped" => continue,
            _ => Status::Unfinished,
        };
        if let Some(key) = stage.key {
            ends.entry(key).or_insert(status);
        }
    }
    Ok(ends)
}

/// How the stages of a run ended.
pub fn seen(plan: &SweepPlan, ends: &[StageEnd]) -> Known {
    let by_name: BTreeMap<&str, &StageEnd> = ends.iter().map(|e| (e.stage.as_str(), e)).collect();
    let all = plan.pipeline.stages.iter().enumerate();
    let found = all.filter_map(|(i, stage)| Some((StageId(i), *by_name.get(stage.name.as_str())?)));
    found.map(|(id, end)| (id, (status(end.state), end.results.clone()))).collect()
}

fn status(state: StageState) -> Status {
    match state {
        StageState::Failed => Status::Failed,
        StageState::Suspended => Status::Suspended,
        StageState::Done => Status::Ran,
        StageState::Cached => Status::Cached,
        _ => Status::Skipped,
    }
}
