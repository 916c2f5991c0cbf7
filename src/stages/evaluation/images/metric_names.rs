//! Parses the parameter `metrics`.

use erw_base::error::{Error, Result};
use erw_ml::evaluation::metric::Metric;

/// The metrics of these names.
///
/// # Errors
/// If the list is empty, or a name is unknown or repeated.
pub fn parse(names: &[String]) -> Result<Vec<Metric>> {
    let mut metrics = vec![];
    for name in names {
        let Some(metric) = Metric::ALL.into_iter().find(|m| m.name() == name) else {
            let known = Metric::ALL.map(Metric::name).join(", ");
            return Err(
                Error::usage(format!("`metrics`: no metric `{name}`")).hint(format!("known metrics are {known}"))
            );
        };
        if metrics.contains(&metric) {
            return Err(Error::usage(format!("`metrics` names `{name}` twice")));
        }
        metrics.push(metric);
    }
    match metrics.is_empty() {
        true => Err(Error::usage("`metrics` is empty").hint("name at least one, e.g. `metrics = [\"fid\"]`")),
        false => Ok(metrics),
    }
}
