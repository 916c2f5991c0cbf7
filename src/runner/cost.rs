//! What a stage will cost, judged by what it cost before. Knows nothing of whether it will run.

use super::actions::Record;
use super::graph::Stage;
use super::key::canonical;
use super::reason::program;

/// Seconds that the last attempt of this stage took, else the last one of its kind; of commands, of the same program. A
/// resumed attempt tells only what was left to do, so it counts where there is no other.
pub fn past(history: &[Record], pipeline: &str, stage: &Stage) -> Option<f64> {
    let run = stage.command.as_ref().map(|c| canonical(&c.run.clone().into()));
    let kin = || history.iter().filter(|r| r.kind == stage.kind.name);
    let own = kin().filter(|r| r.pipeline == pipeline && r.stage == stage.name);
    let akin = kin().filter(|r| run.is_none() || program(&r.key_text) == run.as_deref());
    latest(own).or_else(|| latest(akin)).map(|r| r.seconds)
}

fn latest<'a>(records: impl Iterator<Item = &'a Record>) -> Option<&'a Record> {
    records.max_by_key(|r| (r.resumed.is_none(), &r.created))
}

/// Seconds of all, as far as they are known, and how many are not.
pub fn sum(costs: impl Iterator<Item = Option<f64>>) -> (f64, usize) {
    costs.fold((0.0, 0), |(seconds, unknown), cost| match cost {
        Some(cost) => (seconds + cost, unknown),
        None => (seconds, unknown + 1),
    })
}
