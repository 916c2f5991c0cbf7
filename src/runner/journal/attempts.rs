//! Which run attempted an action last, and which run made the record of an action. By keys, so that
//! a run of other values, or of other stages of the same pipeline, is not taken for it. Reads
//! journals; knows nothing of pages and tables.

use super::read::{Ended, Run, runs};
use crate::cache::action_cache::Record;
use crate::cache::store::Store;
use erw_base::error::Result;
use std::collections::HashMap;

/// The runs of a cache, and their attempts by key.
#[derive(Default)]
pub struct Attempts {
    /// The latest first.
    pub runs: Vec<Run>,
    /// Run and stage as indices, the latest first.
    of: HashMap<String, Vec<(usize, usize)>>,
}

impl Attempts {
    pub fn read(store: &Store) -> Result<Self> {
        Ok(Self::of(runs(store)?))
    }

    fn of(runs: Vec<Run>) -> Self {
        let mut of: HashMap<String, Vec<(usize, usize)>> = HashMap::new();
        for (i, run) in runs.iter().enumerate() {
            for (j, end) in run.stages.iter().enumerate().filter(|(_, end)| is_attempt(end)) {
                end.key.iter().for_each(|key| of.entry(key.clone()).or_default().push((i, j)));
            }
        }
        Self { runs, of }
    }

    /// The attempts at this key with their runs, the latest first.
    pub fn at(&self, key: &str) -> impl Iterator<Item = (&Run, &Ended)> {
        let found = self.of.get(key).map_or(&[][..], Vec::as_slice);
        found.iter().map(|(run, stage)| (&self.runs[*run], &self.runs[*run].stages[*stage]))
    }

    /// How the last attempt at this key ended, if it has no result: `failed in run 2026…`.
    pub fn ended(&self, key: &str) -> Option<String> {
        let (run, end) = self.at(key).next().filter(|(_, end)| end.state != "done")?;
        Some(format!("{} in run {}", end.state.replace('_', " "), run.id))
    }

    /// The run that made this record; `None` if it came from another cache or its journal is gone.
    pub fn maker(&self, record: &Record) -> Option<&Run> {
        let key = record.key().to_string();
        self.at(&key).find(|(_, end)| end.state == "done" && made(end, record)).map(|(run, _)| run)
    }

    /// Whether a run after this one attempted the same action, so that logs and pictures are its.
    pub fn is_repeated_after(&self, run: &Run, key: &str) -> bool {
        self.at(key).next().is_some_and(|(last, _)| last.id > run.id)
    }
}

/// Whether this stage of a run had this record, made or found: two attempts do not take the same
/// time to the last digit, and clocks of machines may differ.
pub fn made(end: &Ended, record: &Record) -> bool {
    matches!(end.state.as_str(), "done" | "cached")
        && (end.seconds - record.seconds).abs() <= 1e-9 * record.seconds.max(1.0)
}

fn is_attempt(end: &Ended) -> bool {
    !matches!(end.state.as_str(), "cached" | "skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, state: &str, seconds: f64) -> Run {
        let key = Record { key_text: "k".into(), ..Record::default() }.key().to_string();
        let end = Ended { stage: "a".into(), state: state.into(), key: Some(key), seconds, ..Ended::default() };
        Run { id: id.into(), stages: vec![end], ..Run::default() }
    }

    #[test]
    fn a_record_is_of_the_run_that_took_its_time() {
        let record = Record { key_text: "k".into(), seconds: 1.25, ..Record::default() };
        let key = record.key().to_string();
        let runs = [run("4", "cached", 1.25), run("3", "failed", 1.25), run("2", "done", 1.25), run("1", "done", 2.5)];
        let attempts = Attempts::of(runs.to_vec());
        assert_eq!(attempts.maker(&record).unwrap().id, "2");
        assert_eq!(attempts.at(&key).map(|(run, _)| run.id.as_str()).collect::<Vec<_>>(), ["3", "2", "1"]);
        assert!(made(&runs[0].stages[0], &record) && !made(&runs[1].stages[0], &record));
        assert!(attempts.is_repeated_after(&runs[2], &key) && !attempts.is_repeated_after(&runs[1], &key));
        assert!(attempts.maker(&Record { seconds: 9.0, ..record }).is_none());
    }
}
