//! The results of a stage as it leaves them: the numbers of a JSON object, and a description of the
//! entries that are not numbers. A file without results is not an error, but the user must learn
//! why there are none. Python writes `NaN` and `Infinity`, which are not JSON; they are accepted,
//! so that a diverged training keeps its results, and a pruning rule sees them. Does not know what
//! the numbers mean.

use crate::event::Measure;
use crate::text::suggest::ticked;
use erw_base::text;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::path::Path;

/// The metrics file in an output that is a folder.
const FILE: &str = "metrics.json";
/// A larger file is not a metrics file.
const LARGEST: u64 = 64 << 20;
/// Prefix of numbers that JSON cannot express.
const MARK: char = '\u{f8ff}';

/// The contents of an output of type `metrics`.
#[derive(Debug, Default, PartialEq)]
pub struct Numbers {
    /// Every top-level number, in order; `None` for `null` and numbers that are not finite.
    pub results: Vec<Measure>,
    /// The entries that are not results, with the reason.
    pub left_out: Vec<String>,
}

impl Numbers {
    /// The warning about the output of this name, if any.
    pub fn told(&self, output: &str) -> Option<String> {
        let what = match (self.results.is_empty(), self.left_out.is_empty()) {
            (_, true) => return None,
            (true, _) => "gives no results",
            (false, _) => "has entries that are not results",
        };
        Some(format!("output `{output}` {what}: {}", self.left_out.join("; ")))
    }
}

/// Reads a file, or the `metrics.json` of a folder.
pub fn of_output(path: &Path) -> Numbers {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_path_buf() };
    if path.is_dir() && !file.is_file() {
        return no(format!("it is a folder without `{FILE}`"));
    }
    match std::fs::metadata(&file) {
        Ok(about) if about.len() > LARGEST => no(format!("it is larger than {} MiB", LARGEST >> 20)),
        _ => of_file(&file).unwrap_or_else(|e| no(e.to_string())),
    }
}

pub fn of_file(path: &Path) -> std::io::Result<Numbers> {
    text::read(path).map(|text| of_text(&text))
}

fn no(why: impl Into<String>) -> Numbers {
    Numbers { results: vec![], left_out: vec![why.into()] }
}

fn of_text(text: &str) -> Numbers {
    if text.trim().is_empty() {
        return no("it is empty");
    }
    match serde_json::from_str(&marked(text)) {
        Ok(Top::Object(pairs)) => of_pairs(pairs),
        Ok(Top::Other(what)) => no(format!("it is {what}, not an object of named numbers")),
        Err(e) => {
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let is_value = |line: &&str| serde_json::from_str::<IgnoredAny>(&padded(line)).is_ok();
            if lines.len() > 1 && lines.iter().all(is_value) {
                return no(format!("it has {} JSON values, one per line, instead of one object", lines.len()));
            }
            let fault = serde_json::from_str::<Value>(&padded(text)).err();
            no(format!("it is not JSON: {}", fault.unwrap_or(e)))
        }
    }
}

fn of_pairs(pairs: Vec<(String, Value)>) -> Numbers {
    let mut numbers = Numbers::default();
    let (mut twice, mut unnamed, mut null, mut infinite) = (vec![], 0, vec![], vec![]);
    // By type, in singular and plural.
    let mut others: Vec<([&str; 2], Vec<String>)> = vec![];
    for (name, value) in pairs {
        let word = value.as_str().and_then(|text| text.strip_prefix(MARK)).map(String::from);
        let number = match (&value, &word) {
            (Value::Number(n), _) => n.as_f64(),
            (Value::Null, _) | (_, Some(_)) => None,
            (other, _) => {
                let what = kind(other);
                match others.iter_mut().find(|(known, _)| *known == what) {
                    Some((_, names)) => names.push(name),
                    None => others.push((what, vec![name])),
                }
                continue;
            }
        };
        if name.is_empty() || name.contains(char::is_control) {
            unnamed += 1;
            continue;
        }
        null.extend((value == Value::Null).then(|| name.clone()));
        infinite.extend(word.map(|word| format!("`{name}` is {word}, which is not finite")));
        match numbers.results.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.value = number;
                twice.push(name);
            }
            None => numbers.results.push(Measure { name, value: number }),
        }
    }
    let names = |names: &[String]| ticked(names.iter().map(String::as_str));
    let left_out = &mut numbers.left_out;
    let is_empty = numbers.results.is_empty();
    for ([one, several], all) in &others {
        let is = if all.len() == 1 { format!("is {one}") } else { format!("are {several}") };
        let hint = if matches!(*one, "an object" | "a list") { ": only top-level numbers are results" } else { "" };
        left_out.push(format!("{} {is}{hint}", names(all)));
    }
    if !twice.is_empty() {
        left_out.push(format!("duplicate {}: the last one counts", names(&twice)));
    }
    if unnamed > 0 {
        left_out.push("names that are empty or contain control characters are ignored".into());
    }
    left_out.extend(infinite);
    if !null.is_empty() {
        left_out.push(format!("{} is null", names(&null)));
    }
    if is_empty && left_out.is_empty() {
        left_out.push("its object is empty".into());
    }
    numbers
}

fn kind(value: &Value) -> [&'static str; 2] {
    match value {
        Value::Bool(_) => ["a boolean", "booleans"],
        Value::String(_) => ["a string", "strings"],
        Value::Array(_) => ["a list", "lists"],
        Value::Object(_) => ["an object", "objects"],
        Value::Number(_) | Value::Null => ["a number", "numbers"],
    }
}

/// The top-level value of a file. Duplicate names are kept.
enum Top {
    Object(Vec<(String, Value)>),
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TopVisitor)
    }
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
        let mut pairs = vec![];
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Top::Object(pairs))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut all: A) -> Result<Top, A::Error> {
        while all.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Top::Other("a list"))
    }
    fn visit_str<E>(self, text: &str) -> Result<Top, E> {
        Ok(Top::Other(if text.starts_with(MARK) { "a number" } else { "a string" }))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Top, E> {
        Ok(Top::Other("a boolean"))
    }
    fn visit_unit<E>(self) -> Result<Top, E> {
        Ok(Top::Other("null"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Top, E> {
        Ok(Top::Other("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Top, E> {
        Ok(Top::Other("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Top, E> {
        Ok(Top::Other("a number"))
    }
}

/// Replaces `NaN`, `Infinity` and numbers out of range, outside of strings, by marked strings.
fn marked(text: &str) -> String {
    replaced(text, |word| format!("\"{MARK}{word}\""))
}

/// Replaces them by a `0` of the same length, so that errors have the right position.
fn padded(text: &str) -> String {
    replaced(text, |word| format!("{:<1$}", "0", word.chars().count()))
}

fn replaced(text: &str, put: impl Fn(&str) -> String) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let word = match next {
            '"' => end_of_string(rest),
            '-' | '+' | '.' => word_end(rest),
            c if c.is_alphanumeric() => word_end(rest),
            c => c.len_utf8(),
        };
        let (taken, left) = rest.split_at(word);
        match is_no_number_of_json(taken) {
            true => plain.push_str(&put(taken)),
            false => plain.push_str(taken),
        }
        rest = left;
    }
    plain
}

fn word_end(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || "+-._".contains(c))).unwrap_or(text.len())
}

fn is_no_number_of_json(word: &str) -> bool {
    let is_digits = word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
    matches!(word, "NaN" | "-NaN" | "Infinity" | "-Infinity")
        || (is_digits && word.parse::<f64>().is_ok_and(f64::is_infinite))
}

/// The end of the string that `text` starts with.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::attempt::{Attempt, RESULTS};

    fn numbers(text: &str) -> (Vec<(String, Option<f64>)>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m");
        std::fs::write(&file, text).unwrap();
        let Numbers { results, left_out } = of_output(&file);
        (results.into_iter().map(|m| (m.name, m.value)).collect(), left_out)
    }

    fn why(text: &str) -> String {
        let (results, left_out) = numbers(text);
        assert_eq!(results, [], "{text}");
        left_out.join("; ")
    }

    #[test]
    fn what_python_writes_of_a_diverged_training_is_read() {
        let text =
            r#"{"loss": NaN, "a": -Infinity, "b": Infinity, "NaN \" NaN": 1, "none": null, "far": 1e400, "-": -1e999}"#;
        let none = |name: &str| (name.to_string(), None);
        let (results, left_out) = numbers(text);
        let one = ("NaN \" NaN".to_string(), Some(1.0));
        assert_eq!(results, [none("loss"), none("a"), none("b"), one, none("none"), none("far"), none("-")]);
        assert_eq!(left_out.len(), 6);
        assert_eq!(left_out[0], "`loss` is NaN, which is not finite");
        assert_eq!(
            left_out[3..],
            ["`far` is 1e400, which is not finite", "`-` is -1e999, which is not finite", "`none` is null",]
        );
    }

    #[test]
    fn numbers_are_read_whatever_system_wrote_them() {
        for text in ["{\"acc\": 1, \"z\": -0.5e-3}", "\u{feff}{\r\n\"acc\": 1,\r\n\"z\": -5e-4}\r\n"] {
            let (results, left_out) = numbers(text);
            assert_eq!(results, [("acc".into(), Some(1.0)), ("z".into(), Some(-0.0005))]);
            assert_eq!(left_out, [""; 0]);
        }
        assert_eq!(
            numbers(r#"{"n": 12345678901234567890123}"#).0,
            [("n".to_string(), Some(12345678901234567890123.0))]
        );
    }

    #[test]
    fn an_attempt_leaves_its_results_in_order_and_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let job = serde_json::json!({"stage": "s", "kind": "k", "key": "", "params": {}, "operation": {}, "inputs": {},
            "outputs": {}, "work_dir": dir.path(), "threads": 1, "device": "cpu"});
        let attempt =
            Attempt::new(serde_json::from_value(job).unwrap(), Box::new(std::io::sink()), std::sync::Arc::default());
        let given = [("z", 0.1 + 0.2), ("a", 5e-324), ("images", 50_000.0), ("far", -1e300), ("b", f64::NAN)];
        given.iter().for_each(|(name, value)| attempt.result(name, *value));
        attempt.write_results().unwrap();
        let read = of_file(&dir.path().join(RESULTS)).unwrap().results;
        let wanted =
            given.map(|(name, value)| Measure { name: name.into(), value: value.is_finite().then_some(value) });
        assert_eq!(read, wanted);
    }

    #[test]
    fn files_without_results_say_why() {
        assert_eq!(why(""), "it is empty");
        assert_eq!(why(" \r\n"), "it is empty");
        assert_eq!(why("{}"), "its object is empty");
        assert_eq!(why("[1, 2]"), "it is a list, not an object of named numbers");
        assert_eq!(why("NaN"), "it is a number, not an object of named numbers");
        assert_eq!(why("\"0.5\""), "it is a string, not an object of named numbers");
        assert_eq!(why("null"), "it is null, not an object of named numbers");
        assert_eq!(why("{\"acc\": 1,}"), "it is not JSON: trailing comma at line 1 column 11");
        assert_eq!(why("{'acc': 1}"), "it is not JSON: key must be a string at line 1 column 2");
        assert_eq!(why("acc: 0.5\n"), "it is not JSON: expected value at line 1 column 1");
        assert_eq!(
            why("{\"loss\": NaN,\n \"a\": 1 \"b\": 2}"),
            "it is not JSON: expected `,` or `}` at line 2 column 9"
        );
        assert_eq!(why("{\"acc\": 1}\n{\"acc\": NaN}\n"), "it has 2 JSON values, one per line, instead of one object");
        assert_eq!(why("{\"loss\": nan}"), "it is not JSON: expected ident at line 1 column 11");
        let nested = why(r#"{"a": true, "b": "0.5", "c": [1], "d": {"x": 1}, "f": {}}"#);
        assert_eq!(
            nested,
            "`a` is a boolean; `b` is a string; `c` is a list: only top-level numbers are results; \
             `d`, `f` are objects: only top-level numbers are results"
        );
        assert_eq!(
            why(r#"{"": 2, "x\ny": 3, "\u001b[31m": 4}"#),
            "names that are empty or contain control characters are ignored"
        );
    }

    #[test]
    fn entries_that_are_not_numbers_are_reported() {
        let (results, left_out) = numbers(r#"{"acc": 1, "b": 2, "acc": 3, "set": {"x": 1}}"#);
        assert_eq!(results, [("acc".into(), Some(3.0)), ("b".into(), Some(2.0))]);
        assert_eq!(
            left_out,
            ["`set` is an object: only top-level numbers are results", "duplicate `acc`: the last one counts",]
        );
    }

    #[test]
    fn files_that_are_no_text_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m");
        let why = || of_output(&file).told("m").unwrap();
        std::fs::write(&file, b"\xff\xfe{\0}\0").unwrap();
        assert_eq!(why(), "output `m` gives no results: it is encoded as UTF-16; save it as UTF-8");
        std::fs::write(&file, b"{\"n\":\xff1}").unwrap();
        assert!(why().contains("line 1 is not UTF-8: it contains the byte 0xFF"));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(why(), "output `m` gives no results: it is a folder without `metrics.json`");
        std::fs::write(file.join(FILE), "{\"a\": 1}").unwrap();
        assert_eq!((of_output(&file).results.len(), of_output(&file).told("m")), (1, None));
    }
}
