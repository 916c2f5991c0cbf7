//! The options of a search. Does not know how one runs.

use erw_base::error::{Error, Result};

#[derive(Debug, Clone, clap::Args)]
pub struct SearchArgs {
    /// Search a parameter between two values for the best METRIC by golden sections, assuming that
    /// there is one optimum: `sample.cfg_scale=1.0..4.0`; several are searched in turn
    #[arg(
        long,
        value_name = "NAME=LO..HI",
        requires = "goal",
        conflicts_with_all = [
            "trial", "budget_trials", "stop", "table", "each", "sort", "filter", "force", "report", "junit"
        ]
    )]
    pub search: Vec<String>,
    /// Metric that the search makes as small as possible
    #[arg(long, value_name = "METRIC", group = "goal", requires = "search", alias = "minimize")]
    pub minimise: Option<String>,
    /// Metric that the search makes as great as possible
    #[arg(long, value_name = "METRIC", group = "goal", requires = "search", alias = "maximize")]
    pub maximise: Option<String>,
    /// Part of the first interval at which the search of a parameter ends
    #[arg(long, value_name = "PART", default_value_t = 0.01, requires = "search", value_parser = part)]
    pub tolerance: f64,
    /// How often each of several parameters is searched at most
    #[arg(long, value_name = "N", default_value_t = 3, requires = "search", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part: &f64| (0.001..1.0).contains(part));
    part.ok_or_else(|| "expected a part of the interval from 0.001 to below 1, such as 0.02".into())
}

/// What a search is for.
pub struct Goal {
    pub metric: String,
    pub is_most: bool,
    /// As it is on the command line.
    pub argument: String,
}

impl SearchArgs {
    pub fn goal(&self) -> Result<Goal> {
        let goal = |metric: &String, is_most, flag| Goal {
            metric: metric.clone(),
            is_most,
            argument: format!("{flag} {metric}"),
        };
        match (&self.minimise, &self.maximise) {
            (Some(metric), _) => Ok(goal(metric, false, "--minimise")),
            (None, Some(metric)) => Ok(goal(metric, true, "--maximise")),
            (None, None) => Err(Error::usage("a search needs `--minimise METRIC` or `--maximise METRIC`")),
        }
    }
}
