//! The parameter `metrics`: names to metrics.

use erw_base::error::{Error, Result};
use erw_ml::evaluation::metric::Metric;

/// A list of metrics from a pipeline.
pub fn parse(names: &[String]) -> Result<Vec<Metric>> {
    let mut metrics = vec![];
    for name in names {
        let Some(metric) = Metric::ALL.into_iter().find(|m| m.name() == name) else {
            let known = Metric::ALL.map(Metric::name).join(", ");
            return Err(Error::usage(format!("`metrics`: no metric `{name}`")).hint(format!("known are {known}")));
        };
        if metrics.contains(&metric) {
            return Err(Error::usage(format!("`metrics` names `{name}` twice")));
        }
        metrics.push(metric);
    }
    match metrics.is_empty() {
        true => Err(Error::usage("`metrics` is empty").hint("name one at least, as `metrics = [\"fid\"]`")),
        false => Ok(metrics),
    }
}
