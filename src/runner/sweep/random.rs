//! Random search: `[sweep.random]` names distributions and how many points to draw.
//!
//! Point `i` depends only on the seed, `i` and the name of the parameter: a larger budget keeps the
//! earlier points, and another parameter does not change existing ones. Values are short decimals,
//! which print as they are. Does not know trials.

use super::axis::{Point, setting};
use crate::pipeline::file::Spec;
use crate::text::spanned::{Entry, Node, Toml};
use crate::text::suggest;
use erw_base::error::{Error, Result};
use std::path::Path;

const BUDGET: i64 = 20;
const KINDS: [&str; 4] = ["log_uniform", "uniform", "int", "choice"];
const HINT: &str = "a distribution is `{ uniform = [0.0, 0.5] }`, `{ log_uniform = [1e-5, 1e-3] }`, `{ int = [1, 8] }` \
                    or `{ choice = [...] }`";

enum Distribution<'a> {
    Uniform(f64, f64),
    LogUniform(f64, f64),
    /// Both ends included.
    Int(i64, i64),
    Choice(&'a [Node]),
}

/// The points of `[sweep.random]`: `r0`, `r1`, …
pub(super) fn points(spec: &Spec, table: &Node, base: &Path) -> Result<Vec<Point>> {
    let entries = table.table("`sweep.random`")?;
    let budget = count(table, "budget", BUDGET, 1)?;
    let seed = count(table, "seed", 0, 0)?;
    let mut parameters = vec![];
    for entry in entries.iter().filter(|e| e.key != "budget" && e.key != "seed") {
        find(entry, entry.key.clone(), &mut parameters)?;
    }
    if parameters.is_empty() {
        let error = Error::usage("`sweep.random` has no parameters").at(table.place.clone());
        return Err(error.hint(HINT));
    }
    let point = |i: i64| {
        let draw = |(entry, distribution): &(Entry, Distribution<'_>)| {
            let node = distribution.at(number(seed, i, &entry.key), entry);
            let (value, setting) = setting(spec, entry, &node, base, "random")?;
            Ok((entry.key.clone(), value, setting))
        };
        let settings = parameters.iter().map(draw).collect::<Result<_>>()?;
        Ok(Point { label: format!("r{i}"), settings })
    };
    (0..budget).map(point).collect()
}

fn count(table: &Node, name: &str, default: i64, least: i64) -> Result<i64> {
    let Some(node) = table.get(name) else { return Ok(default) };
    match node.value {
        Toml::Int(n) if (least..=super::axis::MOST_TRIALS as i64).contains(&n) || (least == 0 && n >= 0) => Ok(n),
        _ => {
            let wanted = if least == 0 { "an integer of at least 0" } else { "an integer from 1 to 10000" };
            Err(Error::usage(format!("`sweep.random.{name}` must be {wanted}")).at(node.place.clone()))
        }
    }
}

/// `"train.lr" = { uniform = … }` and `train.lr = { uniform = … }`: the name ends where a
/// distribution starts.
fn find<'a>(entry: &'a Entry, key: String, found: &mut Vec<(Entry, Distribution<'a>)>) -> Result<()> {
    let named = Entry { key: key.clone(), ..entry.clone() };
    match &entry.node.value {
        Toml::Table(below) if below.iter().any(|e| KINDS.contains(&e.key.as_str())) => {
            let [only] = below.as_slice() else {
                let error = Error::usage(format!("random `{key}` must be one distribution"));
                return Err(error.at(entry.node.place.clone()).hint(HINT));
            };
            found.push((named, Distribution::read(&key, only)?));
            Ok(())
        }
        Toml::Table(below) if !below.is_empty() => {
            below.iter().try_for_each(|e| find(e, format!("{key}.{}", e.key), found))
        }
        _ => {
            let near = suggest::nearest(&entry.key, KINDS).map(|k| format!("did you mean `{k}`?"));
            let error = Error::usage(format!("random `{key}` is not a distribution")).at(entry.key_place.clone());
            Err(error.hint(near.unwrap_or_else(|| HINT.into())))
        }
    }
}

impl<'a> Distribution<'a> {
    fn read(key: &str, entry: &'a Entry) -> Result<Self> {
        let what = format!("random `{key}`: `{}`", entry.key);
        let values = entry.node.list(&what)?;
        let bad = |wanted: &str| Err(Error::usage(format!("{what} must be {wanted}")).at(entry.node.place.clone()));
        let float = |node: &Node| match node.value {
            Toml::Int(n) => Some(n as f64),
            Toml::Float(x) if x.is_finite() => Some(x),
            _ => None,
        };
        match (entry.key.as_str(), values) {
            ("choice", []) => bad("a list of values"),
            ("choice", values) => Ok(Self::Choice(values)),
            ("int", [Node { value: Toml::Int(low), .. }, Node { value: Toml::Int(high), .. }]) if low <= high => {
                Ok(Self::Int(*low, *high))
            }
            ("int", _) => bad("two integers, the lower first"),
            (kind, [low, high]) => match (kind, float(low), float(high)) {
                ("log_uniform", Some(low), Some(high)) if 0.0 < low && low < high => Ok(Self::LogUniform(low, high)),
                ("uniform", Some(low), Some(high)) if low < high => Ok(Self::Uniform(low, high)),
                ("log_uniform", ..) => bad("two numbers above 0, the lower first"),
                _ => bad("two numbers, the lower first"),
            },
            _ => bad("two numbers, the lower first"),
        }
    }

    /// The value for a number that is uniform over `u64`, with the place of the distribution.
    fn at(&self, number: u64, entry: &Entry) -> Node {
        // A float holds 53 bits.
        let part = (number >> 11) as f64 / (1u64 << 53) as f64;
        let below = |n: u128| (u128::from(number) * n) >> 64;
        let value = match self {
            Self::Uniform(low, high) => Toml::Float(decimal(low + part * (high - low), high - low).clamp(*low, *high)),
            Self::LogUniform(low, high) => {
                let wide = high.ln() - low.ln();
                let x = (low.ln() + part * wide).exp();
                Toml::Float(decimal(x, x * wide.min(1.0)).clamp(*low, *high))
            }
            Self::Int(low, high) => {
                let count = (i128::from(*high) - i128::from(*low) + 1) as u128;
                Toml::Int((i128::from(*low) + below(count) as i128) as i64)
            }
            Self::Choice(values) => return values[below(values.len() as u128) as usize].clone(),
        };
        Node { value, place: entry.node.place.clone() }
    }
}

/// The random number of one parameter of one point, before a distribution is applied.
fn number(seed: i64, point: i64, name: &str) -> u64 {
    let hash = blake3::hash(format!("erw random\n{seed}\n{point}\n{name}").as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// Rounds `x` to the fewest decimals that resolve a thousandth of `scale`.
fn decimal(x: f64, scale: f64) -> f64 {
    let step = (scale * 1e-3).log10().floor();
    let digits = x.abs().max(f64::MIN_POSITIVE).log10().floor() - step;
    let text = format!("{x:.*e}", digits.clamp(0.0, 17.0) as usize);
    text.parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        let root = crate::text::spanned::parse(Path::new("t"), text).unwrap();
        root.table("t").unwrap()[0].clone()
    }

    fn drawn(distribution: &Distribution<'_>, n: i64) -> Vec<f64> {
        let e = entry("x = 1");
        let value = |i| match distribution.at(number(7, i, "x"), &e).value {
            Toml::Float(x) => x,
            Toml::Int(n) => n as f64,
            _ => panic!("a number"),
        };
        (0..n).map(value).collect()
    }

    #[test]
    fn values_are_short_and_fill_their_range() {
        for x in drawn(&Distribution::LogUniform(1e-5, 1e-3), 300) {
            assert!((1e-5..=1e-3).contains(&x) && format!("{x:e}").len() <= 9, "{x:e}");
        }
        let uniform = drawn(&Distribution::Uniform(100.0, 101.0), 300);
        assert!(uniform.iter().all(|x| (100.0..=101.0).contains(x) && format!("{x}").len() <= 7), "{uniform:?}");
        assert!(uniform.iter().any(|x| *x < 100.1) && uniform.iter().any(|x| *x > 100.9));
        let ints = drawn(&Distribution::Int(1, 8), 300);
        assert!((1..=8).all(|n| ints.contains(&f64::from(n))), "{ints:?}");
        assert_eq!(drawn(&Distribution::Int(i64::MIN, i64::MAX), 3).len(), 3);
    }

    #[test]
    fn every_value_has_about_its_share() {
        let ints = drawn(&Distribution::Int(0, 3), 4000);
        for n in 0..4 {
            let share = ints.iter().filter(|x| **x == f64::from(n)).count();
            assert!((900..1100).contains(&share), "{n}: {share}");
        }
        // The middle of a logarithmic range is its geometric mean.
        let below = drawn(&Distribution::LogUniform(1e-4, 1.0), 4000).iter().filter(|x| **x < 1e-2).count();
        assert!((1900..2100).contains(&below), "{below}");
    }

    #[test]
    fn numbers_stay_what_they_are() {
        assert_eq!(number(0, 3, "train.lr"), number(0, 3, "train.lr"));
        assert_ne!(number(0, 3, "train.lr"), number(1, 3, "train.lr"));
        assert_ne!(number(0, 3, "train.lr"), number(0, 4, "train.lr"));
        assert_ne!(number(0, 3, "train.lr"), number(0, 3, "train.wd"));
        // Points must not change with the version, because they may have run.
        assert_eq!(number(0, 0, "train.lr"), 2_097_221_721_190_592_227);
    }
}
