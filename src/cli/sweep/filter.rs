//! Filters and sorting of trials: conditions such as `fd<0.3`, and what the names in them mean.
//! Knows nothing of how the table is built.

use super::row::{Metric, Row, Status};
use erw_base::error::{Error, Result};
use erw_report::sheet::{Cell, spread};
use erw_runner::kind::value;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::suggest;
use std::cmp::Ordering;

/// `NAME<VALUE`.
pub struct Filter {
    pub text: String,
    pub name: String,
    sign: &'static str,
    value: String,
}

impl Filter {
    /// Reads one `--filter`.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || {
            Error::usage(format!("`--filter {text}` is not a condition")).hint(
                "a condition is a metric, a setting or `status`, then one of < <= > >= = !=, then a value: `fd<0.3`",
            )
        };
        let at = text.find(['<', '>', '=', '!']).ok_or_else(malformed)?;
        let sign = ["<=", ">=", "!=", "==", "<", ">", "="].into_iter().find(|s| text[at..].starts_with(s));
        let sign = sign.ok_or_else(malformed)?;
        let (name, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        let is_order = sign.starts_with(['<', '>']);
        // `acc=<1` and `acc<<1` are slips.
        if name.is_empty() || value.is_empty() || value.starts_with(['<', '>', '=', '!']) {
            return Err(malformed());
        }
        if is_order && !value.parse().is_ok_and(|x: f64| !x.is_nan()) {
            let error = Error::usage(format!("`--filter {text}`: `{value}` is not a number"));
            return Err(error.hint("text is compared by = and != only"));
        }
        let mut states = Status::ALL.iter().map(|status| status.word());
        if name == "status" && !states.clone().any(|word| word == value) {
            let error = Error::usage(format!("`--filter {text}`: there is no status `{value}`"));
            return Err(error.maybe_hint(suggest::hint(value, &mut states, "the status of a trial is one of")));
        }
        Ok(Self { text: text.into(), name: name.into(), sign, value: value.into() })
    }

    /// Compares numbers as numbers and everything else as text. A missing value satisfies no
    /// condition.
    pub fn holds(&self, cell: &Cell) -> bool {
        let order = match (number(cell), self.value.parse::<f64>()) {
            (Some(x), Ok(y)) => x.partial_cmp(&y),
            _ => words(cell).map(|text| text.as_str().cmp(self.value.as_str())),
        };
        match (self.sign, order) {
            (_, None) => false,
            ("<", Some(o)) => o == Ordering::Less,
            ("<=", Some(o)) => o != Ordering::Greater,
            (">", Some(o)) => o == Ordering::Greater,
            (">=", Some(o)) => o != Ordering::Less,
            ("!=", Some(o)) => o != Ordering::Equal,
            (_, Some(o)) => o == Ordering::Equal,
        }
    }
}

fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Number(value) => *value,
        Cell::Value(value, _) => value.as_f64(),
        Cell::Spread(values) => spread(values).0,
        _ => None,
    }
}

fn words(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Text(text) | Cell::Value(_, text) => Some(text.clone()),
        _ => None,
    }
}

/// The meaning of a name in a condition.
pub enum Name {
    Trial,
    Status,
    Setting(String),
    Metric(Metric),
}

impl Name {
    pub fn cell(&self, row: &Row) -> Cell {
        match self {
            Self::Trial => Cell::Text(row.name.clone()),
            Self::Status => Cell::Text(row.status.last_key_value().map_or("", |(s, _)| s.word()).into()),
            Self::Setting(key) => setting(row, key),
            Self::Metric(metric) => row.values(metric).map_or(Cell::None, |v| Cell::Spread(v.clone())),
        }
    }
}

pub fn setting(row: &Row, key: &str) -> Cell {
    let found = row.settings.iter().find(|(k, _)| k == key);
    found.map_or(Cell::None, |(_, v)| Cell::Value(v.clone(), value::show(v)))
}

/// The names that conditions on the trials of a sweep may use.
pub struct Names<'a> {
    pub plan: &'a SweepPlan,
    pub metrics: &'a [(String, Metric)],
    /// The error about the first unknown name.
    pub error: Option<Error>,
    /// A name may mean several metrics.
    pub is_ambiguous: bool,
}

impl Names<'_> {
    pub fn find(&mut self, name: &str, argument: &str) -> Option<Name> {
        let keys = || self.plan.axes.iter().flat_map(|a| a.keys.iter().map(move |k| (a.name.as_str(), k.as_str())));
        let full = |(base, metric): &Metric| format!("{base}.{metric}");
        let metric = self.metrics.iter().find(|(title, metric)| title == name || full(metric) == name);
        let setting =
            || keys().find(|(short, key)| [Some(*key), Some(*short), key.rsplit('.').next()].contains(&Some(name)));
        // A stage stands for its key metric, the first that it gives.
        let of_stage = || self.metrics.iter().find(|(_, (base, _))| base == name);
        match (name, metric, setting()) {
            ("trial", ..) => Some(Name::Trial),
            ("status", ..) => Some(Name::Status),
            (_, Some((_, metric)), _) => Some(Name::Metric(metric.clone())),
            (_, None, Some((_, key))) => Some(Name::Setting(key.into())),
            (_, None, None) => {
                if let Some((_, metric)) = of_stage() {
                    return Some(Name::Metric(metric.clone()));
                }
                let namesakes = self.metrics.iter().filter(|(_, (_, metric))| metric == name);
                let namesakes: Vec<String> = namesakes.map(|(_, metric)| full(metric)).collect();
                self.is_ambiguous |= !namesakes.is_empty();
                let error = match namesakes.as_slice() {
                    [] => {
                        let known: Vec<&str> =
                            self.metrics.iter().map(|(t, _)| t.as_str()).chain(keys().map(|(_, k)| k)).collect();
                        let near = suggest::nearest(name, known.iter().copied().chain(["trial", "status"]));
                        let near = near.map(|near| format!("did you mean `{near}`?"));
                        Error::usage(format!("`{argument}`: no metric or setting `{name}`"))
                            .maybe_hint(near.or_else(|| suggest::hint(name, known, "there are")))
                    }
                    several => Error::usage(format!("`{argument}`: several stages have a metric `{name}`"))
                        .hint(format!("write one of {}", suggest::ticked(several.iter().map(String::as_str)))),
                };
                self.error.get_or_insert(error);
                None
            }
        }
    }
}

/// The order of two cells. Missing values come last in both directions.
pub fn compare(a: &Cell, b: &Cell, down: bool) -> Ordering {
    let turned = |o: Ordering| if down { o.reverse() } else { o };
    match (number(a), number(b)) {
        (Some(x), Some(y)) => turned(x.total_cmp(&y)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => match (words(a), words(b)) {
            (Some(x), Some(y)) => turned(x.cmp(&y)),
            (x, y) => y.is_some().cmp(&x.is_some()),
        },
    }
}
