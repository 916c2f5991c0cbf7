//! What a report is about: stages, the sides that are shown beside each other (the two of a
//! comparison, or trials), and the rows that average some of them. Knows nothing of pages.

use super::facts::Facts;
use erw_runner::journal::read::Run;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

#[derive(Default)]
pub struct Subject {
    /// In the order of execution; a stage that several sides share is there once.
    pub facts: Vec<Facts>,
    pub sides: Vec<Side>,
    pub rows: Vec<Row>,
    /// A comparison shows two pipelines, not one.
    pub is_comparison: bool,
    /// The run whose time line and errors are shown.
    pub run: Option<Run>,
    /// The files of its pipeline.
    pub files: Vec<PathBuf>,
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

    /// A side under whose name a stage is shown; empty for those that all share.
    pub fn label_of(&self, stage: usize) -> &str {
        let mut sides = self.sides.iter().filter(|side| side.stages.values().any(|at| *at == stage));
        match (sides.next(), sides.next()) {
            (Some(only), None) => &only.label,
            _ => "",
        }
    }
}
