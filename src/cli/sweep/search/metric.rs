//! The metric of a search: whether it can exist, and its value at a point. Does not know how points
//! are chosen.

use super::args::Goal;
use crate::sweep::row::Row;
use crate::sweep::table::metrics;
use crate::sweep::table_options::MayGive;
use erw_base::error::{Error, Result};
use erw_report::sheet::spread;
use erw_runner::kind::manifest::result_fits;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::suggest;
use std::collections::BTreeSet;

/// Refuses a metric that no stage can have, that several have, or that is the same everywhere.
pub fn foresee(goal: &Goal, plan: &SweepPlan, results: &[(String, MayGive)]) -> Result<()> {
    let is_shared = |base: &str| {
        let ids: BTreeSet<_> = plan.trials.iter().map(|trial| trial.stages.get(base)).collect();
        ids.len() == 1
    };
    let named = |base: &str, pattern: &str| {
        let is = |name: &str| result_fits(pattern, name);
        is(&goal.metric) || goal.metric.strip_prefix(base).and_then(|rest| rest.strip_prefix('.')).is_some_and(is)
    };
    let (mut fitting, mut names, mut is_open) = (BTreeSet::new(), BTreeSet::new(), false);
    for (base, may) in results {
        match may {
            MayGive::Anything => is_open = true,
            MayGive::These(these) => {
                names.extend(these.iter().map(String::as_str));
                fitting.extend(these.iter().any(|pattern| named(base, pattern)).then_some(base.as_str()));
            }
        }
    }
    let varied: Vec<&str> = fitting.iter().copied().filter(|base| !is_shared(base)).collect();
    match (varied.as_slice(), fitting.first()) {
        ([_], _) => Ok(()),
        ([first, second, ..], _) => Err(ambiguous(goal, first, second)),
        ([], _) if is_open => Ok(()),
        ([], Some(base)) => {
            let text = format!("stage `{base}` depends on none of the parameters that are searched");
            Err(wrong(goal, &text))
        }
        ([], None) => {
            Err(wrong(goal, "no stage has this metric").maybe_hint(suggest::hint(&goal.metric, names, "there are")))
        }
    }
}

/// The mean over the trials of a point; they are one row of the table, in which a stage that several
/// of them share counts once.
pub fn value(goal: &Goal, plan: &SweepPlan, rows: &[Row], trials: &[usize], label: &str) -> Result<f64> {
    let all = metrics(rows);
    let mut namesakes = all.iter().filter(|(_, (_, name))| *name == goal.metric).map(|(_, (base, _))| base);
    if let (Some(first), Some(second)) = (namesakes.next(), namesakes.next()) {
        return Err(ambiguous(goal, first, second));
    }
    let found =
        all.iter().find(|(title, (base, name))| *title == goal.metric || format!("{base}.{name}") == goal.metric);
    let Some((_, metric)) = found else {
        let names = all.iter().map(|(title, _)| title.as_str());
        return Err(wrong(goal, "no stage has this metric").maybe_hint(suggest::hint(
            &goal.metric,
            names,
            "there are",
        )));
    };
    let row = rows.iter().find(|row| row.trials.iter().any(|trial| trials.contains(trial)));
    let runs: BTreeSet<_> = trials.iter().map(|trial| plan.trials[*trial].stages.get(&metric.0)).collect();
    match row.and_then(|row| row.values(metric)) {
        Some(values) if values.len() == runs.len() => spread(values).0.ok_or_else(|| {
            wrong(goal, &format!("it is not a finite number at `{label}`"))
                .hint("search in an interval without this value")
        }),
        _ => Err(wrong(goal, &format!("there is no value at `{label}`"))),
    }
}

fn ambiguous(goal: &Goal, first: &str, second: &str) -> Error {
    wrong(goal, "several stages have this metric").hint(format!("write `{first}.{0}` or `{second}.{0}`", goal.metric))
}

fn wrong(goal: &Goal, text: &str) -> Error {
    Error::usage(format!("`{}`: {text}", goal.argument))
}
