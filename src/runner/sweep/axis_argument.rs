//! Axes from the command line: `train.seed=0..5`, `train.lr=1e-4,2e-4`. Does not know files.

use super::axis::{MOST_TRIALS, Stated, keys_of};
use crate::kind::value;
use crate::pipeline::file::Spec;
use crate::pipeline::graph::Origin;
use crate::pipeline::layers::{RawValue, Setting, Target, target};
use crate::text::spanned;
use erw_base::error::{Error, Result};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Parses one `--axis`.
pub(super) fn axis(spec: &Spec, text: &str) -> Result<Stated> {
    let what = format!("`--axis {text}`");
    let Some((key, values)) = text.split_once('=') else {
        let error = Error::usage(format!("{what} has no values"));
        return Err(error.hint("write `--axis STAGE.NAME=0..5`, `=0..=5` or `=a,b,c`"));
    };
    let key = key.trim();
    let keys = keys_of(key);
    let targets: Vec<_> =
        keys.iter().map(|key| target(spec, key)).collect::<Result<_>>().map_err(|e| e.within(&what))?;
    let values = match range(values.trim()) {
        Some(range) => range.map_err(|message| Error::usage(message).within(&what))?,
        None => words(values),
    };
    if values.iter().any(String::is_empty) {
        let error = Error::usage(if values.len() > 1 { "a value is empty" } else { "there are no values" });
        return Err(error.within(&what).hint("write `--axis STAGE.NAME=a,b,c`"));
    }
    let origin = Origin { layer: format!("--axis {key}").into(), place: None };
    let value = |text: String| {
        let setting = |target: &Target| Setting {
            target: target.clone(),
            value: RawValue::Text(text.clone()),
            origin: origin.clone(),
            base: PathBuf::new(),
        };
        (shown(&text), targets.iter().map(setting).collect())
    };
    Ok(Stated { keys, what, values: values.into_iter().map(value).collect() })
}

/// `0..5` and `0..=5` as in Rust; `None` if the text is not a range.
fn range(text: &str) -> Option<Result<Vec<String>, String>> {
    let (from, to) = text.split_once("..")?;
    let (to, inclusive) = to.strip_prefix('=').map_or((to, false), |to| (to, true));
    let (from, to): (i64, i64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    // Wide enough for any two ends.
    let count = i128::from(to) - i128::from(from) + i128::from(inclusive);
    Some(match count {
        ..=0 => Err(format!("the range is empty: {from} up to {to}")),
        n if n > MOST_TRIALS as i128 => Err(format!("the range has {n} values, more than {MOST_TRIALS}")),
        n => Ok((0..n as i64).map(|i| (from + i).to_string()).collect()),
    })
}

/// Splits at commas outside brackets and quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut depth, mut quote) = (vec![String::new()], 0i32, None);
    for c in text.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('"' | '\'', None) => quote = Some(c),
            ('[', None) => depth += 1,
            (']', None) => depth -= 1,
            (',', None) if depth <= 0 => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words.iter().map(|w| w.trim().to_string()).collect()
}

/// The value for display and tables: as TOML reads it, or else the text.
pub(super) fn shown(text: &str) -> Json {
    let parsed = spanned::parse(Path::new("--axis"), format!("value = {text}")).ok();
    let node = parsed.as_ref().and_then(|root| root.get("value"));
    node.map_or_else(|| text.into(), |n| value::to_json(&value::from_node(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_rust() {
        let texts = |text| range(text).map(|r| r.map(|v| v.join(" ")));
        assert_eq!(texts("0..3"), Some(Ok("0 1 2".into())));
        assert_eq!(texts("-1..=1"), Some(Ok("-1 0 1".into())));
        assert_eq!(texts("3..3"), Some(Err("the range is empty: 3 up to 3".into())));
        assert!(texts("-9223372036854775808..9223372036854775807").is_some_and(|r| r.is_err()));
        assert_eq!(texts("a..b"), None);
        assert_eq!(texts("1e-4,2e-4"), None);
    }

    #[test]
    fn commas_in_brackets_and_quotes_do_not_split() {
        assert_eq!(words("1e-4, 2e-4"), ["1e-4", "2e-4"]);
        assert_eq!(words("[1,2],[3]"), ["[1,2]", "[3]"]);
        assert_eq!(words("\"a,b\",c"), ["\"a,b\"", "c"]);
        assert_eq!(words("a,"), ["a", ""]);
    }
}
