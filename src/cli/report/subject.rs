//! What a report is about: stages, the sides that are shown beside each other (the two of a
//! comparison, or trials), and the rows that average some of them. Knows nothing of pages.

use super::facts::Facts;
use erw_runner::journal::read::Run;
use erw_runner::repro::git::Commit;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Default)]
pub struct Subject {
    /// In the order of execution; a stage that several sides share is there once.
    pub facts: Vec<Facts>,
    pub sides: Vec<Side>,
    pub rows: Vec<Row>,
    /// A comparison shows two pipelines, not one.
    pub is_comparison: bool,
    /// The run whose time line is shown.
    pub run: Option<Run>,
    /// The runs that made or attempted what is shown, the latest first.
    pub makers: Vec<Run>,
    /// The files of its pipeline.
    pub files: Vec<SourceFile>,
    /// The git commit that the files are at; of a past run, were at.
    pub commit: Option<Commit>,
    /// The git revision that the files were taken from.
    pub revision: Option<String>,
}

/// A file with its text, as it was when the stages were looked at; `None`: too large, or not
/// readable.
pub struct SourceFile {
    pub path: PathBuf,
    pub text: Option<String>,
}

impl SourceFile {
    /// Larger files are not copied into a page.
    const MOST: u64 = 256 << 10;

    pub fn read(path: &Path) -> Self {
        let is_small = std::fs::metadata(path).is_ok_and(|m| m.len() <= Self::MOST);
        let text = std::fs::read_to_string(path).ok().filter(|_| is_small);
        Self { path: path.into(), text }
    }
}

/// A pipeline, a trial or a run.
pub struct Side {
    /// Empty if there is only one.
    pub label: String,
    /// Its stages by the names that they have in the file, as indices of the facts.
    pub stages: BTreeMap<String, usize>,
}

/// Sides that are averaged, such as the seeds of a trial.
pub struct Row {
    pub label: String,
    pub sides: Vec<usize>,
}

impl Subject {
    /// A subject of one side, with all stages.
    pub fn of_one(facts: Vec<Facts>) -> Self {
        let stages = facts.iter().enumerate().map(|(i, facts)| (facts.name.clone(), i)).collect();
        Self { facts, sides: vec![Side { label: String::new(), stages }], ..Self::default() }.with_single_rows()
    }

    /// A row for each side.
    #[must_use]
    pub fn with_single_rows(mut self) -> Self {
        let row = |(i, side): (usize, &Side)| Row { label: side.label.clone(), sides: vec![i] };
        self.rows = self.sides.iter().enumerate().map(row).collect();
        self
    }

    /// The names of stages in the file, in the order of execution.
    pub fn bases(&self) -> Vec<&str> {
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        for (base, at) in self.sides.iter().flat_map(|side| &side.stages) {
            let least = first.entry(base).or_insert(*at);
            *least = (*least).min(*at);
        }
        let mut bases: Vec<(usize, &str)> = first.into_iter().map(|(base, at)| (at, base)).collect();
        bases.sort_unstable();
        bases.into_iter().map(|(_, base)| base).collect()
    }

    /// The stages that the sides have under this name, each once.
    pub fn of_base(&self, base: &str) -> BTreeSet<usize> {
        self.sides.iter().filter_map(|side| side.stages.get(base).copied()).collect()
    }

    /// Whether all sides have the same stage of this name.
    pub fn is_shared(&self, base: &str) -> bool {
        self.of_base(base).len() == 1
    }

    /// The only side that has a stage, as an index; `None` for those that several share.
    pub fn side_of(&self, stage: usize) -> Option<usize> {
        let has = |side: &usize| self.sides[*side].stages.values().any(|at| *at == stage);
        let mut sides = (0..self.sides.len()).filter(has);
        match (sides.next(), sides.next()) {
            (only, None) => only,
            _ => None,
        }
    }

    /// A side under whose name a stage is shown; empty for those that several share.
    pub fn label_of(&self, stage: usize) -> &str {
        self.side_of(stage).map_or("", |side| &self.sides[side].label)
    }

    /// Only these sides, and the stages that they have. The rows must be of these sides.
    #[must_use]
    pub fn of_sides(mut self, kept: &BTreeSet<usize>) -> Self {
        let sides: BTreeMap<usize, usize> = kept.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let used: BTreeSet<usize> = kept.iter().flat_map(|side| self.sides[*side].stages.values().copied()).collect();
        let places: BTreeMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut at = 0..;
        self.facts.retain(|_| at.next().is_some_and(|i| used.contains(&i)));
        for facts in &mut self.facts {
            facts.inputs = facts.inputs.iter().filter_map(|input| places.get(input).copied()).collect();
        }
        let mut at = 0..;
        self.sides.retain(|_| at.next().is_some_and(|i| sides.contains_key(&i)));
        for stage in self.sides.iter_mut().flat_map(|side| side.stages.values_mut()) {
            *stage = places[stage];
        }
        for side in self.rows.iter_mut().flat_map(|row| &mut row.sides) {
            *side = sides[side];
        }
        self
    }
}
