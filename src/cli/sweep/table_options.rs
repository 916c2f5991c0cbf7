//! The options of the table of trials: rows, columns, order.

use super::filter::{Filter, Names};
use super::row::Metric;
use erw_base::error::{Error, Result};
use erw_report::sheet::Format;
use erw_runner::kind::manifest::result_fits;
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::axis::{Axis, SEARCH};
use erw_runner::text::suggest;

#[derive(Debug, Clone, clap::Args)]
pub struct TableArgs {
    /// Average over this axis instead of over the axes called `seed`
    #[arg(long, value_name = "AXIS", conflicts_with = "each")]
    pub over: Vec<String>,
    /// Show every trial instead of averages
    #[arg(long)]
    pub each: bool,
    /// Sort by a metric or a setting; `-METRIC` sorts in descending order
    #[arg(long, value_name = "METRIC", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Show only rows that satisfy this condition: `fd<0.3`, `train.lr>=1e-4`, `status=failed`;
    /// conditions on settings and status select trials before averaging
    #[arg(long, value_name = "CONDITION")]
    pub filter: Vec<String>,
    /// Output format of the table
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    pub format: Format,
}

/// The options of the table, checked as far as possible before there are results.
pub struct TableOptions {
    /// Axes to average over, by number.
    pub(crate) over: Vec<usize>,
    pub(crate) sort: Option<(String, bool)>,
    pub(crate) filters: Vec<Filter>,
}

impl TableOptions {
    pub fn read(args: &TableArgs, plan: &SweepPlan) -> Result<Self> {
        let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<_>>()?;
        let sort = args.sort.as_ref().map(|text| match text.strip_prefix('-') {
            Some(name) => (name.to_string(), true),
            None => (text.clone(), false),
        });
        Ok(Self { over: over(args, &plan.axes)?, sort, filters })
    }
}

/// The names that a stage's results may have.
pub enum MayGive {
    /// Unknown before it has run.
    Anything,
    /// These; `validation_*` stands for all names with this prefix.
    These(Vec<String>),
}

impl TableOptions {
    /// Whether the table is neither sorted nor filtered.
    pub fn are_plain(&self) -> bool {
        self.sort.is_none() && self.filters.is_empty()
    }

    /// Refuses, before anything runs, a name that no result and no setting can have. If a program
    /// may produce any result, an unknown name is only a warning, which is returned.
    pub fn foresee(&self, plan: &SweepPlan, results: &[(String, MayGive)]) -> Result<Vec<String>> {
        let sorts = self.sort.iter().map(|(name, _)| (name.as_str(), format!("--sort {name}")));
        let filters = self.filters.iter().map(|f| (f.name.as_str(), format!("--filter {}", f.text)));
        let named = |base: &String, pattern: &String, name: &str| {
            let is = |name: &str| result_fits(pattern, name);
            is(name) || name.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('.')).is_some_and(is)
        };
        let these = || {
            results.iter().flat_map(|(base, may)| match may {
                MayGive::These(names) => names.iter().map(|name| (base, name)).collect::<Vec<_>>(),
                MayGive::Anything => vec![],
            })
        };
        let is_open = results.iter().any(|(_, may)| matches!(may, MayGive::Anything));
        let metrics: Vec<(String, Metric)> =
            these().map(|(base, name)| (name.clone(), (base.clone(), name.clone()))).collect();
        let mut warnings = vec![];
        for (name, argument) in sorts.chain(filters) {
            let mut names = Names { plan, metrics: &metrics, error: None, is_ambiguous: false };
            // A stage stands for its key metric, whatever that is called.
            let may_be_open = |(base, may): &(String, MayGive)| base == name && matches!(may, MayGive::Anything);
            let known = these().any(|(base, pattern)| named(base, pattern, name))
                || results.iter().any(may_be_open)
                || names.find(name, &argument).is_some();
            match names.error.filter(|_| !known) {
                Some(error) if !is_open => return Err(error),
                Some(error) => {
                    let told = error.hints.first().map_or_else(String::new, |hint| format!("; {hint}"));
                    warnings.push(format!("{} is known before the stages have run{told}", error.message));
                }
                None => {}
            }
        }
        Ok(warnings)
    }
}

pub(crate) fn over(args: &TableArgs, axes: &[Axis]) -> Result<Vec<usize>> {
    // The points of a search are no axis to its user.
    let axes: Vec<(usize, &Axis)> = axes.iter().enumerate().filter(|(_, axis)| axis.name != SEARCH).collect();
    let called = |axis: &Axis, name: &str| axis.name == name || axis.keys.iter().any(|k| k == name);
    if args.over.is_empty() {
        return Ok(axes.iter().filter(|(_, axis)| !args.each && axis.is_seed()).map(|(i, _)| *i).collect());
    }
    let find = |name: &String| {
        axes.iter().find(|(_, axis)| called(axis, name)).map(|(i, _)| *i).ok_or_else(|| {
            let names = axes.iter().map(|(_, axis)| axis.name.as_str());
            let hint = suggest::hint(name, names, "the axes are");
            let none = || "there are no axes; pass one by `--axis STAGE.NAME=VALUES`".to_string();
            Error::usage(format!("`--over {name}`: no such axis")).hint(hint.unwrap_or_else(none))
        })
    };
    args.over.iter().map(find).collect()
}
