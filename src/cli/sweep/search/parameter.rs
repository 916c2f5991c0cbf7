//! A parameter that is searched, and its interval: `sample.cfg_scale=1.0..4.0`. Its values are whole
//! steps, short decimals that a repeated search finds in the cache. Does not know results.

use super::bracket::End;
use super::descent::Span;
use crate::common::pipeline_args::one;
use erw_base::error::{Error, Result};
use erw_runner::kind::field::FieldType;
use erw_runner::kind::value::show;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::text::suggest;
use serde_json::json;

/// Decimals below the first digit of the width: a step is at most a thousandth of the interval.
const DIGITS: i32 = 3;

/// Whole numbers up to here are exact as floats.
const MOST_STEPS: f64 = (1u64 << 53) as f64;

#[derive(Debug)]
pub struct Parameter {
    /// `STAGE.NAME`.
    pub key: String,
    pub span: Span,
    is_integer: bool,
    /// A step is ten to the minus this.
    decimals: i32,
}

impl Parameter {
    /// Reads one `--search`; `tolerance` is the part of the interval that is narrow enough.
    pub fn read(text: &str, pipeline: &Pipeline, tolerance: f64) -> Result<Self> {
        Self::parse(text, pipeline, tolerance).map_err(|e| e.within(&format!("`--search {text}`")))
    }

    fn parse(text: &str, pipeline: &Pipeline, tolerance: f64) -> Result<Self> {
        let malformed = |message: &str| {
            Error::usage(message).hint("write `--search STAGE.NAME=LO..HI`, such as `sample.cfg_scale=1.0..4.0`")
        };
        let (key, interval) = text.split_once('=').ok_or_else(|| malformed("there is no interval"))?;
        let (stage, name) = key.trim().split_once('.').ok_or_else(|| malformed("there is no stage"))?;
        let (low, high) = interval.split_once("..").ok_or_else(|| malformed("there is no interval"))?;
        let (high, inclusive) = high.strip_prefix('=').map_or((high, false), |high| (high, true));
        let (low, high) = (low.trim(), high.trim());
        let stage = pipeline.stage(one(pipeline, stage)?);
        let number = |text: &str| {
            let number = text.replace('_', "").parse::<f64>().ok().filter(|x| x.is_finite());
            number.ok_or_else(|| malformed(&format!("`{text}` is not a number")))
        };
        let (from, to) = (number(low)?, number(high)?);
        if from >= to {
            return Err(Error::usage(format!("the interval is empty: {low} up to {high}"))
                .hint("the smaller number comes first"));
        }
        let field = stage.manifest.params.iter().find(|field| field.name == name);
        let Some(field) = field else { return Err(unknown(stage, name)) };
        let are_whole = [low, high].iter().all(|text| text.replace('_', "").parse::<i64>().is_ok());
        let is_integer = match field.ty {
            FieldType::Float => false,
            FieldType::Number => are_whole,
            FieldType::Int if are_whole => true,
            FieldType::Int => return Err(Error::usage(format!("`{name}` is an integer, and so are its limits"))),
            _ => {
                return Err(Error::usage(format!("`{name}` is not a number"))
                    .hint(format!("to try several values, pass `--axis {}=a,b`", key.trim())));
            }
        };
        let decimals = if is_integer { 0 } else { DIGITS - exponent(to - from) };
        let (low, high) = (steps(from, decimals).ceil() - 1.0, steps(to, decimals));
        let high = if inclusive { high.floor() + 1.0 } else { high.ceil() };
        if low.abs().max(high.abs()) > MOST_STEPS {
            return Err(Error::usage("the interval is too narrow for numbers of this size"));
        }
        let (low, high) = (low as i64, high as i64);
        if is_integer && high - low <= 2 {
            let text = format!("the interval holds one integer only, {}", low + 1);
            let all = format!("{}={from}..={to}", key.trim());
            return Err(Error::usage(text).hint(format!("it ends before {to}; write `--search {all}` to include it")));
        }
        let stated = stage.params.get(name).and_then(serde_json::Value::as_f64).map(|x| steps(x, decimals).round());
        let inside = stated.filter(|x| (low as f64) < *x && *x < high as f64).map(|x| x as i64);
        let start = inside.unwrap_or((low + high) / 2);
        let width = ((high - low) as f64 * tolerance).floor() as i64;
        Ok(Self { key: key.trim().into(), span: Span { low, high, width, start }, is_integer, decimals })
    }

    /// The value at a step, as one would write it.
    pub fn text(&self, at: i64) -> String {
        if self.is_integer { at.to_string() } else { show(&json!(steps(at as f64, -self.decimals))) }
    }

    /// The first and the last value.
    pub fn limits(&self) -> [i64; 2] {
        [self.span.low + 1, self.span.high - 1]
    }

    /// The value at an end.
    pub fn at_end(&self, end: End) -> String {
        let [low, high] = self.limits();
        self.text(if end == End::Low { low } else { high })
    }
}

fn unknown(stage: &erw_runner::pipeline::graph::Stage, name: &str) -> Error {
    if stage.manifest.field(name).is_some() {
        let text = format!("`{name}` of stage `{}` is an operation value, which changes no result", stage.name);
        return Error::usage(text);
    }
    let names = stage.manifest.params.iter().map(|field| field.name.as_str());
    Error::usage(format!("stage `{}` has no parameter `{name}`", stage.name)).maybe_hint(suggest::hint(
        name,
        names,
        "its parameters are",
    ))
}

/// The power of ten of its first digit.
fn exponent(x: f64) -> i32 {
    format!("{x:e}").split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0)
}

/// `x` times a power of ten, rounded once: 0.3 and 4 make 3000.
fn steps(x: f64, decimals: i32) -> f64 {
    format!("{x:e}").split_once('e').map_or(f64::NAN, |(digits, power)| {
        let power = power.parse::<i32>().unwrap_or(0) + decimals;
        format!("{digits}e{power}").parse().unwrap_or(f64::NAN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use erw_runner::pipeline::layers::Overrides;

    fn parse(text: &str) -> Result<Parameter> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let stage = "[stages.f]\nkind = \"command\"\nrun = \"x\"\noutputs.o = \"t\"\n\
                     params = { x = 0.5, n = 3, list = [1, 2], word = \"a\" }\n";
        std::fs::write(&path, stage).unwrap();
        Parameter::read(text, &Pipeline::load(&path, &[], &Overrides::default())?, 0.01)
    }

    fn limits(text: &str) -> (String, String, String) {
        let parameter = parse(text).unwrap();
        let [low, high] = parameter.limits();
        (parameter.text(low), parameter.text(high), parameter.text(parameter.span.start))
    }

    #[test]
    fn values_are_short_decimals_within_the_interval() {
        let said = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
        assert_eq!(limits("f.x=0.0..1"), said("0.0", "0.999", "0.5"));
        assert_eq!(limits("f.x=0.3..=0.7"), said("0.3", "0.7", "0.5"));
        assert_eq!(limits("f.x=1..4"), said("1.0", "3.999", "2.499"));
        assert_eq!(limits("f.x=1e-5..1e-3"), said("1e-5", "9.999e-4", "5.049e-4"));
        assert_eq!(limits("f.x=-1234.5678..=8765.4321"), said("-1234.0", "8765.0", "1.0"));
        // An integer that may become a float: as its limits are.
        assert_eq!(limits("f.n=1..4"), said("1", "3", "3"));
        assert_eq!(limits("f.n=1.0..=4.0"), said("1.0", "4.0", "3.0"));
        assert_eq!(parse("f.x=0.0..1.0").unwrap().span.width, 10);
    }

    #[test]
    fn wrong_intervals_are_refused() {
        let text = |text: &str| parse(text).unwrap_err().message;
        assert_eq!(text("f.x=4..1"), "`--search f.x=4..1`: the interval is empty: 4 up to 1");
        assert_eq!(text("f.x=1..1"), "`--search f.x=1..1`: the interval is empty: 1 up to 1");
        assert_eq!(text("f.x=a..1"), "`--search f.x=a..1`: `a` is not a number");
        assert_eq!(text("f.x=0..inf"), "`--search f.x=0..inf`: `inf` is not a number");
        assert_eq!(text("f.n=2..3"), "`--search f.n=2..3`: the interval holds one integer only, 2");
        assert!(parse("f.n=2..=3").is_ok() && parse("f.n=2.0..3.0").is_ok());
        assert_eq!(text("f.x"), "`--search f.x`: there is no interval");
        assert_eq!(text("f.x=1"), "`--search f.x=1`: there is no interval");
        assert_eq!(text("x=0..1"), "`--search x=0..1`: there is no stage");
        assert_eq!(text("f.list=0..1"), "`--search f.list=0..1`: `list` is not a number");
        assert_eq!(text("f.word=0..1"), "`--search f.word=0..1`: `word` is not a number");
        assert_eq!(text("f.y=0..1"), "`--search f.y=0..1`: stage `f` has no parameter `y`");
        assert_eq!(
            text("f.x=1..1.0000000000000002"),
            "`--search f.x=1..1.0000000000000002`: the interval is too narrow for numbers of this size"
        );
        assert!(text("g.x=0..1").contains("no stage `g` in"));
    }
}
