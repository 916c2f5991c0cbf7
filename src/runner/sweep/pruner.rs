//! Prunes trials: listens to a sweep and applies its rules. A stage is given up when no remaining
//! trial needs it. Does not know how stages are stopped.

use super::SweepPlan;
use super::pruning_rule::{Rule, Threshold};
use crate::event::{Event, EventKind, Listener, StageState};
use std::collections::{BTreeMap, HashMap};

/// Listens to a sweep and prunes trials by its rules.
pub struct Pruner {
    rules: Vec<Rule>,
    nodes: HashMap<String, Node>,
    /// Names of nodes, dependents first, so that each gets its own reason.
    order: Vec<String>,
    trials: BTreeMap<usize, PrunedTrial>,
    /// Final results by base stage and name, by trial.
    results: BTreeMap<(String, String), BTreeMap<usize, Option<f64>>>,
}

struct Node {
    base: String,
    trials: Vec<usize>,
    state: StageState,
    /// Cached, so there is nothing to give up.
    cached: bool,
    /// A running stage is reported once.
    reported: bool,
}

struct PrunedTrial {
    name: String,
    /// Why it was pruned.
    reason: Option<String>,
}

impl Pruner {
    /// Observes these trials of a sweep.
    pub fn new(plan: &SweepPlan, trials: &[usize], rules: Vec<Rule>) -> Self {
        let mut nodes: HashMap<String, Node> = HashMap::new();
        for &trial in trials {
            for (base, id) in &plan.trials[trial].stages {
                let name = plan.pipeline.stage(*id).name.clone();
                let new = || Node {
                    base: base.clone(),
                    trials: vec![],
                    state: StageState::Unknown,
                    cached: false,
                    reported: false,
                };
                nodes.entry(name).or_insert_with(new).trials.push(trial);
            }
        }
        let order = plan.pipeline.stages.iter().rev().map(|s| s.name.clone()).filter(|n| nodes.contains_key(n));
        let order = order.collect();
        let watched = |&i: &usize| (i, PrunedTrial { name: plan.trials[i].name.clone(), reason: None });
        Self { rules, nodes, order, trials: trials.iter().map(watched).collect(), results: BTreeMap::new() }
    }

    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Why a trial was pruned, if it was.
    pub fn pruned_because(&self, trial: usize) -> Option<&str> {
        self.trials.get(&trial)?.reason.as_deref()
    }

    /// The results of a stage that is cached from an earlier run.
    pub fn cached<'a>(&mut self, stage: &str, results: impl IntoIterator<Item = (&'a str, Option<f64>)>) {
        if let Some(node) = self.nodes.get_mut(stage) {
            node.cached = true;
        }
        self.ended(stage, results);
    }

    /// The final results of a stage.
    fn ended<'a>(&mut self, stage: &str, results: impl IntoIterator<Item = (&'a str, Option<f64>)>) {
        let Some(node) = self.nodes.get(stage).filter(|_| !self.rules.is_empty()) else { return };
        let (base, trials) = (node.base.clone(), node.trials.clone());
        for (name, value) in results {
            let all = self.results.entry((base.clone(), name.to_string())).or_default();
            all.extend(trials.iter().map(|&trial| (trial, value)));
        }
        // A new best may rule out trials that were good enough before.
        let results = self.results.clone();
        for ((base, metric), values) in &results {
            for (&trial, &value) in values {
                self.apply(base, metric, value, None, &[trial]);
            }
        }
    }

    fn apply(&mut self, base: &str, metric: &str, value: Option<f64>, step: Option<u64>, trials: &[usize]) {
        for &trial in trials.iter().filter(|t| self.pruned_because(**t).is_none()).collect::<Vec<_>>() {
            let rules = self.rules.iter().filter(|r| r.is_about(base, metric) && r.counts(step));
            let reason = rules.into_iter().find_map(|rule| {
                let threshold = self.threshold(rule, base, trial)?;
                rule.is_beyond(value, threshold).then(|| rule.words(value, threshold, step))
            });
            if let (Some(reason), Some(watched)) = (reason, self.trials.get_mut(&trial)) {
                watched.reason = Some(reason);
            }
        }
    }

    /// The threshold to compare with; `None` until another trial has a result.
    fn threshold(&self, rule: &Rule, base: &str, trial: usize) -> Option<f64> {
        let factor = match rule.threshold {
            Threshold::Value(value) => return Some(value),
            Threshold::Best(factor) => factor,
        };
        let results = self.results.get(&(base.to_string(), rule.metric.clone()))?;
        let others = results.iter().filter(|(other, _)| **other != trial).filter_map(|(_, value)| *value);
        let best = others.reduce(if rule.above { f64::min } else { f64::max })?;
        Some(factor * best)
    }
}

impl Listener for &mut Pruner {
    fn event(&mut self, event: &Event) {
        match &event.what {
            EventKind::State { stage, state } => {
                if let Some(node) = self.nodes.get_mut(stage) {
                    node.state = *state;
                }
            }
            EventKind::Metric { stage, step, name, value } => {
                let Some(node) = self.nodes.get(stage) else { return };
                let (base, trials) = (node.base.clone(), node.trials.clone());
                self.apply(&base, name, *value, Some(*step), &trials);
            }
            EventKind::Ended(end) => {
                Pruner::ended(self, &end.stage, end.results.iter().map(|r| (r.name.as_str(), r.value)))
            }
            _ => {}
        }
    }

    /// A stage that is being checked cannot be stopped, so it is reported again until it is
    /// settled.
    fn pointless(&mut self) -> Vec<(String, String)> {
        let trials = &self.trials;
        let mut given_up = vec![];
        for name in self.order.iter().filter(|_| trials.values().any(|t| t.reason.is_some())) {
            let Some(node) = self.nodes.get_mut(name) else { continue };
            let reasons: Option<Vec<(&str, &str)>> =
                node.trials.iter().map(|t| Some((trials[t].name.as_str(), trials[t].reason.as_deref()?))).collect();
            let Some((trial, reason)) = reasons.as_ref().and_then(|d| d.first()) else { continue };
            let running = node.state == StageState::Running;
            if node.cached || node.state.is_settled() || (running && node.reported) {
                continue;
            }
            node.reported = running;
            given_up.push((name.clone(), format!("trial `{trial}` was pruned: {reason}")));
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Measure, StageEnd};
    use crate::pipeline::graph::{Pipeline, StageId};
    use crate::pipeline::layers::Overrides;
    use crate::sweep::SweepPlan;
    use crate::sweep::trial::Trial;

    /// data -> train -> fd, with two seeds of `train`.
    fn plan(dir: &std::path::Path) -> SweepPlan {
        let stage = |name: &str, inputs: &str| {
            format!(
                "[stages.{name}]\nkind = \"command\"\nrun = \"x {{params.seed}}\"\ninputs = {{ {inputs} }}\n\
                 outputs.o = \"t\"\nparams.seed = 0\n"
            )
        };
        let text = [stage("data", ""), stage("train", "x = \"data\""), stage("fd", "x = \"train\"")].concat();
        let path = dir.join("p.toml");
        std::fs::write(&path, text + "[sweep]\n\"train.seed\" = [0, 1]\nstop = [\"fd > 1.5 * best\"]\n").unwrap();
        SweepPlan::load(&path, &[], &Overrides::default()).unwrap()
    }

    fn watch(rules: &[&str]) -> Pruner {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        assert_eq!(plan.rules, [Rule::parse("fd > 1.5*best", &[]).unwrap()], "those of the file");
        let rules = rules.iter().map(|r| Rule::parse(r, &["data", "train", "fd"]).unwrap()).collect();
        Pruner::new(&plan, &[0, 1], rules)
    }

    fn tell(mut watch: &mut Pruner, what: EventKind) -> Vec<(String, String)> {
        watch.event(&Event { at: 0.0, what });
        watch.pointless()
    }

    fn loss(seed: u64, step: u64, value: Option<f64>) -> EventKind {
        EventKind::Metric { stage: format!("train@seed={seed}"), step, name: "loss".into(), value }
    }

    fn end(stage: &str, name: &str, value: f64) -> EventKind {
        EventKind::Ended(Box::new(StageEnd {
            stage: stage.into(),
            kind: "command".into(),
            state: StageState::Done,
            key: None,
            seconds: 0.0,
            resumed: None,
            left: None,
            results: vec![Measure { name: name.into(), value: Some(value) }],
            outputs: vec![],
            shown: vec![],
            error: None,
        }))
    }

    #[test]
    fn a_curve_counts_from_its_step_on() {
        let mut w = watch(&["train.loss > 2 @500"]);
        let state = |state| EventKind::State { stage: "train@seed=1".into(), state };
        assert!(tell(&mut w, loss(1, 499, Some(9.0))).is_empty());
        assert!(tell(&mut w, loss(1, 500, Some(2.0))).is_empty());
        tell(&mut w, state(StageState::Running));
        let told = tell(&mut w, loss(1, 500, Some(2.3111)));
        let why = "trial `seed=1` was pruned: train.loss 2.311 > 2 at step 500".to_string();
        // What both trials need continues.
        assert_eq!(told, [("fd@seed=1".to_string(), why.clone()), ("train@seed=1".to_string(), why.clone())]);
        assert_eq!(tell(&mut w, loss(1, 501, None)), [("fd@seed=1".to_string(), why)], "a running stage is told once");
        assert_eq!(w.pruned_because(0), None);
        // With the last trial, everything is given up.
        let told = tell(&mut w, loss(0, 600, None));
        assert_eq!(
            told.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["fd@seed=1", "fd@seed=0", "train@seed=0", "data"]
        );
        assert_eq!(w.pruned_because(0), Some("train.loss nan > 2 at step 600"));
    }

    #[test]
    fn the_best_is_that_of_another_trial() {
        let mut w = watch(&["train.score > 1.5*best"]);
        assert!(tell(&mut w, end("train@seed=0", "score", 0.9)).is_empty(), "nothing to compare with");
        tell(&mut w, end("train@seed=1", "score", 0.5));
        assert_eq!((w.pruned_because(0), w.pruned_because(1)), (Some("train.score 0.9 > 0.75 (1.5 * best)"), None));
        let mut w = watch(&["score < best"]);
        tell(&mut w, end("train@seed=0", "score", 0.9));
        let told = tell(&mut w, end("train@seed=1", "score", 0.5));
        assert_eq!(w.pruned_because(1), Some("score 0.5 < 0.9 (1 * best)"));
        assert!(told.iter().any(|(name, _)| name == "fd@seed=1"));
    }

    #[test]
    fn what_is_cached_is_not_given_up() {
        let mut w = watch(&["score > 2"]);
        w.cached("fd@seed=0", []);
        w.cached("train@seed=0", [("score", Some(3.0))]);
        assert_eq!(w.pruned_because(0), Some("score 3 > 2"));
        assert!((&mut w).pointless().is_empty());
    }

    #[test]
    fn a_rule_with_a_step_passes_over_final_results() {
        let mut w = watch(&["loss > 2 @5"]);
        assert!(tell(&mut w, end("train@seed=0", "loss", 9.0)).is_empty());
        let mut w = watch(&["loss > 2"]);
        tell(&mut w, end("train@seed=0", "loss", 9.0));
        assert_eq!(w.pruned_because(0), Some("loss 9 > 2"));
    }

    #[test]
    fn trials_are_found_by_name() {
        let stages: BTreeMap<String, StageId> = [("a".to_string(), StageId(0))].into();
        let trial = |n: &str| Trial { name: n.into(), labels: vec![], settings: vec![], stages: stages.clone() };
        let pipeline =
            Pipeline { name: String::new(), file: Default::default(), files: vec![], stages: vec![], warnings: vec![] };
        let plan = SweepPlan { axes: vec![], trials: vec![trial("x"), trial("y")], pipeline, rules: vec![] };
        assert_eq!(plan.trial("y").unwrap(), 1);
        assert_eq!(plan.trial("z").unwrap_err().message, "no trial `z`");
        assert_eq!(plan.base_names().collect::<Vec<_>>(), ["a"]);
    }
}
