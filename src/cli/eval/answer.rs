//! Formats the results of an evaluation as a table or a JSON object, and translates errors of its
//! pipeline to the command line. Knows the layout of `metrics.json` and computes nothing.

use super::pipeline::{METRICS, NETWORK, REFERENCE, Ran, SAMPLES};
use crate::common::{columns, json};
use erw_base::error::{Error, Result};
use erw_ml::data::source::left_out::LeftOut;
use erw_report::table::grid;
use erw_report::text::wrapped;
use erw_runner::event::{Measure, StageState};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Significant digits in the table; papers give two decimals, `--json` gives all digits.
const DIGITS: i32 = 6;
/// Columns of a small terminal.
const WIDTH: usize = 80;

/// The printed results of an evaluation.
struct Summary {
    results: Vec<Measure>,
    /// Labels with their texts, in order.
    facts: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    cached: bool,
}

impl Summary {
    fn text(&self) -> String {
        let row = |r: &Measure| vec![r.name.clone(), digits(r.value)];
        let mut text = grid(&["metric", "value"].map(String::from), &self.results.iter().map(row).collect::<Vec<_>>());
        let mut rows = vec![];
        let warnings = self.warnings.iter().map(|w| ("warning", w));
        let facts = self.facts.iter().map(|(word, said)| (*word, said));
        for (word, said) in facts.chain(warnings) {
            let lines = wrapped(said, WIDTH - 11);
            rows.extend(
                lines
                    .into_iter()
                    .enumerate()
                    .map(|(i, line)| vec![if i == 0 { word.to_string() } else { String::new() }, line]),
            );
        }
        text.push_str(&columns(&rows, ""));
        if self.cached {
            text.push_str("cached: nothing was computed\n");
        }
        text
    }

    /// The values by name; null if not finite, which JSON cannot express.
    fn values(&self) -> Map<String, Value> {
        self.results.iter().map(|r| (r.name.clone(), json!(r.value))).collect()
    }
}

/// A number with six digits; `nan` if it is not finite.
fn digits(value: Option<f64>) -> String {
    let Some(value) = value else { return "nan".into() };
    let before = if value == 0.0 { 1 } else { value.abs().log10().floor() as i32 + 1 };
    match before {
        -5..=9 => format!("{value:.*}", (DIGITS - before).max(0) as usize),
        _ => format!("{value:.5e}"),
    }
}

/// Everything that is recorded with a result.
pub fn detail(ran: &Ran) -> Result<Value> {
    read(&ran.output(METRICS)?.join("metrics.json"))
}

/// The answer to a comparison of images, or about one set. `said` contains the names and values of
/// the arguments, `told` further warnings, such as omitted metrics of a bundle.
pub fn of_images(ran: &Ran, detail: &Value, said: &[(&str, &str)], told: Vec<String>, as_json: bool) -> Result<String> {
    let mut answer = answer(ran, detail, METRICS)?;
    answer.warnings.extend(told);
    let given = |side: &str| said.iter().find(|(name, _)| *name == side).map(|(_, given)| *given);
    let left_out = |name: &str| detail.get("left_out").and_then(|sides| sides.get(name));
    let side = |name: &str| {
        let mut side = json!({ "given": given(name)?, "images": detail[&format!("n_{name}")] });
        left_out(name).into_iter().for_each(|counts| side["left_out"] = counts.clone());
        Some(side)
    };
    if as_json {
        let mut samples = side(SAMPLES).unwrap_or_default();
        samples["sampler"] = detail["sampler"].clone();
        return json(&json!({
            "metrics": answer.values(), "samples": samples, "reference": side(REFERENCE),
            "network": detail["network"], "preparation": detail["preparation"], "mode": detail["mode"],
            "warnings": answer.warnings, "cached": answer.cached, "detail": detail,
        }));
    }
    let counted = |name: &str| match detail[&format!("n_{name}")].as_u64() {
        Some(n) => format!("{} images", thousands(n)),
        None => "published statistics".into(),
    };
    let mut facts = vec![];
    for (word, name) in [("samples", SAMPLES), ("reference", REFERENCE)] {
        let sampler = detail["sampler"].as_str().filter(|_| name == SAMPLES);
        let sampler = sampler.map_or_else(String::new, |s| format!(", {s}"));
        facts.extend(given(name).map(|given| (word, format!("{given}: {}{sampler}", counted(name)))));
        facts.extend(given(name).zip(left_out(name)).map(|(given, counts)| ("left out", beside(given, counts))));
    }
    let text = |key: &str| detail[key].as_str().unwrap_or_default();
    facts.push(("network", format!("{}: {}", text("network"), text("preparation"))));
    Ok(Summary { facts, ..answer }.text())
}

/// The files of a side that are left out: `photos: 6 .avif, 2 hidden`.
fn beside(given: &str, counts: &Value) -> String {
    let left_out: LeftOut = serde_json::from_value(counts.clone()).unwrap_or_default();
    format!("{given}: {left_out}")
}

/// The answer to a comparison of two files of features.
pub fn of_features(ran: &Ran, [a, b]: [&str; 2], as_json: bool) -> Result<String> {
    let detail = detail(ran)?;
    let answer = answer(ran, &detail, METRICS)?;
    if as_json {
        let side = |given: &str, dim: &str| json!({ "given": given, "dim": detail[dim] });
        return json(&json!({
            "metrics": answer.values(), "samples": detail["samples"], "a": side(a, "dim_a"), "b": side(b, "dim_b"),
            "warnings": answer.warnings, "cached": answer.cached, "detail": detail,
        }));
    }
    let number = |key: &str| detail[key].as_u64().map_or_else(String::new, thousands);
    let rows = |given: &str, dim: &str| format!("{given}: {} samples of dimension {}", number("samples"), number(dim));
    let mut settings = vec![];
    settings.extend(detail["k"].as_u64().map(|k| format!("{k} neighbours")));
    settings.push(match detail["clamp"].as_f64() {
        Some(q) if q < 1.0 => format!("features clamped at quantile {q}"),
        _ => "features not clamped".into(),
    });
    settings.push(format!("{} estimator", text_of(&detail["estimator"])));
    let facts = vec![("a", rows(a, "dim_a")), ("b", rows(b, "dim_b")), ("settings", settings.join(", "))];
    Ok(Summary { facts, ..answer }.text())
}

/// The answer about statistics that were written to `to`.
pub fn of_stats(ran: &Ran, said: &[(&str, &str)], to: &Path, as_json: bool) -> Result<String> {
    let detail = read(&ran.output(SAMPLES)?.join("stats.json"))?;
    let answer = answer(ran, &detail, SAMPLES)?;
    let given = said.first().map_or("", |(_, given)| given);
    let caution = detail["caution"].as_str().map(String::from);
    let left_out = detail.get("left_out");
    if as_json {
        let mut images = json!({ "given": given, "images": detail["count"] });
        left_out.into_iter().for_each(|counts| images["left_out"] = counts.clone());
        return json(&json!({
            "output": to, "images": images,
            "network": detail["network"], "preparation": detail["preparation"], "mode": detail["mode"],
            "warnings": caution.into_iter().collect::<Vec<_>>(), "cached": answer.cached, "detail": detail,
        }));
    }
    let images = detail["count"].as_u64().map_or_else(String::new, thousands);
    let mut facts = vec![("images", format!("{given}: {images} images"))];
    facts.extend(left_out.map(|counts| ("left out", beside(given, counts))));
    facts.push(("network", format!("{}: {}", text_of(&detail["network"]), text_of(&detail["preparation"]))));
    facts.push(("written", to.display().to_string()));
    facts.extend(caution.map(|text| ("warning", text)));
    let mut text = columns(&facts.into_iter().map(|(word, said)| vec![word.to_string(), said]).collect::<Vec<_>>(), "");
    if answer.cached {
        text.push_str("cached: nothing was computed\n");
    }
    Ok(text)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn answer(ran: &Ran, detail: &Value, stage: &str) -> Result<Summary> {
    let warnings = detail["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(Value::as_str).map(String::from).collect();
    let cached = ran.ends.iter().all(|end| end.state == StageState::Cached);
    Ok(Summary { results: ran.end(stage)?.results.clone(), facts: vec![], warnings, cached })
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::internal(format!("`{}` is not JSON", path.display())).because(e))
}

/// `50,000`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let grouped = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    grouped.collect::<Vec<_>>().join(",")
}

/// Translates an error of the written pipeline to the command line: stages are named after
/// arguments, files as they were given, and the place in the pipeline's text is dropped. `said`
/// contains the names and values of the arguments.
pub fn in_words_of_the_command_line(mut error: Error, said: &[(&str, &str)]) -> Error {
    error.place = None;
    let files: Vec<(String, &str)> = said.iter().filter_map(|(_, given)| Some((absolute(given)?, *given))).collect();
    let words = WORDS.iter().map(|(stage, line)| (*stage, *line));
    let all: Vec<(&str, &str)> = files.iter().map(|(path, given)| (path.as_str(), *given)).chain(words).collect();
    let as_given = |text: &mut String| all.iter().for_each(|(from, to)| *text = text.replace(from, to));
    as_given(&mut error.message);
    error.causes.iter_mut().chain(&mut error.hints).for_each(as_given);
    let places = [SAMPLES, REFERENCE, NETWORK, METRICS];
    let told = places.iter().find_map(|name| {
        let rest = error.message.strip_prefix(&format!("stage `{name}`: "))?;
        let given = said.iter().find(|(place, _)| place == name).map(|(_, given)| *given);
        Some(match given {
            Some(given) if !rest.contains(given) => format!("{name} `{given}`: {rest}"),
            Some(_) => format!("{name}: {rest}"),
            None => rest.into(),
        })
    });
    error.message = told.unwrap_or(error.message);
    error
}

/// An error about an argument, worded like an error of the stage of its name.
pub fn of_place(mut error: Error, place: &str, said: &[(&str, &str)]) -> Error {
    error.message = format!("stage `{place}`: {}", error.message);
    in_words_of_the_command_line(error, said)
}

/// Phrases of stages about their parameters and inputs, and their translation to the command line.
const WORDS: [(&str, &str); 8] = [
    ("set `arr_0 = 0`", "leave `--arr-0` out"),
    ("`kid_subset_size` is", "`--kid-subset-size` is"),
    ("make both with one `mode`", "make both with one `--mode`"),
    ("leave `mode` out", "leave `--mode` out"),
    ("connect an `inception` to input `network`", NAME_AN_INCEPTION),
    ("connect the `encoder` of clip-vit-L-336 to input `network`", NAME_A_CLIP),
    ("connect images", "give images"),
    ("as `source` of the stage, beside `name`", "as `--network NAME=FILE`"),
];

pub const NAME_AN_INCEPTION: &str = "give an Inception network with `--network`, or leave it out";
pub const NAME_A_CLIP: &str = "give a CLIP network with `--network`, or leave it out";

/// The absolute path by which stages name a file that was given relative to the current folder;
/// `None` if they name it as it was given.
fn absolute(given: &str) -> Option<String> {
    let path = std::path::absolute(given).ok()?;
    path.to_str().filter(|path| *path != given && Path::new(given).exists()).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        let shown =
            [3.942_557_4, 215.837_036_1, 0.000_123_456_78, 0.0, 1.0, 1e-9, -12.5, 50_000.0].map(|v| digits(Some(v)));
        assert_eq!(
            shown,
            ["3.94256", "215.837", "0.000123457", "0.00000", "1.00000", "1.00000e-9", "-12.5000", "50000.0"]
        );
        assert_eq!(digits(None), "nan");
        assert_eq!([1, 999, 1000, 1_234_567].map(thousands), ["1", "999", "1,000", "1,234,567"]);
    }

    /// A message that is reworded where it is made must be reworded here.
    #[test]
    fn every_translated_phrase_is_one_that_a_stage_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let sources = ["stages", "fetch"].into_iter().flat_map(|room| walkdir::WalkDir::new(root.join(room)));
        let sources: Vec<String> = sources.filter_map(|f| std::fs::read_to_string(f.unwrap().path()).ok()).collect();
        // `{}` in a source stands for a value.
        for (phrase, _) in WORDS {
            assert!(sources.iter().any(|text| text.contains(phrase)), "no stage says `{phrase}`");
        }
    }

    #[test]
    fn errors_speak_of_what_was_given() {
        let said = [(SAMPLES, "out.npz"), (REFERENCE, "ref")];
        let told = |text: &str| in_words_of_the_command_line(Error::stage(text), &said).message;
        assert_eq!(told("stage `samples`: no array `arr_0`"), "samples `out.npz`: no array `arr_0`");
        assert_eq!(told("stage `reference`: /tmp/ref: no images"), "reference: /tmp/ref: no images");
        assert_eq!(told("stage `metrics`: too few"), "too few");
        assert_eq!(told("stage `p.toml:train`: too few"), "stage `p.toml:train`: too few");
    }
}
