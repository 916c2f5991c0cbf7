//! Pruning rules: `train.loss > 2 @500`, `fd > 1.5*best`.
//!
//! A rule applies to a metric of a stage: its values while the stage runs, and its final result.
//! With `@STEP` it applies only to values at or after that step. `best` is the best final result of
//! another trial: the smallest if more is worse, else the greatest. A value that is not finite
//! violates every rule. Does not know trials.

use super::axis::last;
use crate::kind::value;
use crate::pipeline::file::Spec;
use crate::text::spanned::Node;
use crate::text::suggest;
use erw_base::error::{Error, Result};

/// When to prune a trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Only for this stage.
    stage: Option<String>,
    pub(super) metric: String,
    /// More is worse.
    pub(super) above: bool,
    /// The threshold itself is a violation.
    inclusive: bool,
    pub(super) threshold: Threshold,
    from: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Threshold {
    Value(f64),
    /// A multiple of the best.
    Best(f64),
}

/// The rules of `sweep.stop`.
pub(super) fn stated(spec: &Spec) -> Result<Vec<Rule>> {
    let Some((nodes, _)) = last(spec, |f| f.stop.as_ref()) else { return Ok(vec![]) };
    let stages: Vec<&str> = spec.stages.iter().map(|s| s.name.as_str()).collect();
    let rule = |node: &Node| -> Result<Rule> {
        let text = node.string("a rule of `sweep.stop`")?;
        Rule::parse(text, &stages).map_err(|e| e.at(node.place.clone()))
    };
    nodes.iter().map(rule).collect()
}

impl Rule {
    /// Parses `STAGE.METRIC > NUMBER @STEP`; `stages` are the pipeline's.
    pub fn parse(text: &str, stages: &[&str]) -> Result<Self> {
        let malformed = || {
            Error::usage(format!("`{text}` is not a pruning rule"))
                .hint("write `train.loss > 2`, `train.loss > 2 @500` or `fd > 1.5*best`; `<` where less is worse")
        };
        let at = text.find(['<', '>']).ok_or_else(malformed)?;
        let (name, rest) = (text[..at].trim(), &text[at + 1..]);
        let (rest, inclusive) = rest.strip_prefix('=').map_or((rest, false), |rest| (rest, true));
        let (limit, from) = match rest.split_once('@') {
            Some((limit, step)) => (limit, Some(step.trim().replace('_', "").parse::<u64>().map_err(|_| malformed())?)),
            None => (rest, None),
        };
        let threshold = Threshold::parse(limit.trim()).ok_or_else(malformed)?;
        if name.is_empty() {
            return Err(malformed());
        }
        let (stage, metric) = match name.split_once('.') {
            Some((stage, metric)) if stages.contains(&stage) => (Some(stage.to_string()), metric),
            Some((stage, _)) => {
                let hint = suggest::hint(stage, stages.iter().copied(), "the stages are");
                return Err(Error::usage(format!("no stage `{stage}`")).within(&format!("`{text}`")).maybe_hint(hint));
            }
            None => (None, name),
        };
        Ok(Self { stage, metric: metric.into(), above: text[at..].starts_with('>'), inclusive, threshold, from })
    }

    pub(super) fn is_about(&self, stage: &str, metric: &str) -> bool {
        self.metric == metric && self.stage.as_ref().is_none_or(|s| s == stage)
    }

    /// Whether a value counts: running values from a step on, final results (without a step) if the
    /// rule has no step.
    pub(super) fn counts(&self, step: Option<u64>) -> bool {
        self.from.is_none_or(|from| step.is_some_and(|step| step >= from))
    }

    pub(super) fn is_beyond(&self, value: Option<f64>, threshold: f64) -> bool {
        let Some(value) = value else { return true };
        let worse = if self.above { value > threshold } else { value < threshold };
        worse || (self.inclusive && value == threshold)
    }

    /// `train.loss 2.31 > 2 at step 500`.
    pub(super) fn words(&self, value: Option<f64>, threshold: f64, step: Option<u64>) -> String {
        let stage = self.stage.iter().map(|s| format!("{s}."));
        let sign = match (self.above, self.inclusive) {
            (true, false) => ">",
            (true, true) => ">=",
            (false, false) => "<",
            (false, true) => "<=",
        };
        let best = match self.threshold {
            Threshold::Best(factor) => format!(" ({} * best)", short(Some(factor))),
            Threshold::Value(_) => String::new(),
        };
        let step = step.map_or_else(String::new, |s| format!(" at step {s}"));
        let (value, threshold) = (short(value), short(Some(threshold)));
        format!("{}{} {value} {sign} {threshold}{best}{step}", stage.collect::<String>(), self.metric)
    }
}

impl Threshold {
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        match text.strip_suffix("best").map(str::trim_end) {
            Some("") => Some(Self::Best(1.0)),
            Some(factor) => number(factor.strip_suffix('*')?).map(Self::Best),
            None => number(text).map(Self::Value),
        }
    }
}

/// Four digits are enough for a reason.
fn short(value: Option<f64>) -> String {
    let rounded = value.and_then(|x| format!("{x:.3e}").parse::<f64>().ok());
    match rounded {
        Some(x) if x.fract() == 0.0 && x.abs() < 1e7 => format!("{x}"),
        Some(x) => value::show(&serde_json::json!(x)),
        None => "nan".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rule = Rule::parse("fd>1.5*best", &[]).unwrap();
        assert_eq!(rule, Rule::parse(" fd > 1.5 * best ", &["train"]).unwrap());
        assert_eq!((rule.threshold, rule.above, rule.stage), (Threshold::Best(1.5), true, None));
        let rule = Rule::parse("train.loss <= 2e-1 @1_000", &["train"]).unwrap();
        assert_eq!(
            (rule.threshold, rule.from, rule.inclusive, rule.above),
            (Threshold::Value(0.2), Some(1000), true, false)
        );
        for bad in ["fd", "> 2", "fd > ", "fd > much", "fd > 2 @ten", "fd > 2*beast", "fd > nan"] {
            assert!(Rule::parse(bad, &[]).unwrap_err().message.contains("is not a pruning rule"), "{bad}");
        }
        assert_eq!(Rule::parse("trian.loss > 2", &["train"]).unwrap_err().hints, ["did you mean `train`?"]);
    }
}
