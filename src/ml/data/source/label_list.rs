//! Labels by the names of files: the `dataset.json` of a set of EDM2 or REPA, or what the samples of
//! a WebDataset state. A million of them take some 50 MB. Does not know which files there are.

use super::name_list::NameList;
use super::names::normal;
use candle_core::{Error, Result, bail};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use std::fmt;
use std::path::Path;

/// The file with the labels of a prepared folder or archive.
pub const LIST: &str = "dataset.json";
/// The maximum number of classes. Known sets have up to 21,843; a label far above is a mistake.
pub const MAX_CLASSES: u64 = 1 << 17;

/// Names in normal form and their labels, in the order of the names' bytes.
#[derive(Debug)]
pub struct LabelList {
    names: NameList,
    labels: Vec<i64>,
    /// Whether the set has classes at all: `labels` may be `null`.
    has_classes: bool,
}

impl LabelList {
    /// A list of labels by normal name.
    ///
    /// # Errors
    /// When a name is there twice.
    pub fn of(names: NameList, labels: Vec<i64>) -> Result<Self> {
        let bytes = |i: usize| names.get(i).as_os_str();
        let is_sorted = (1..names.len()).all(|i| bytes(i - 1) < bytes(i));
        let (names, labels) = if is_sorted {
            (names, labels)
        } else {
            let mut order: Vec<usize> = (0..names.len()).collect();
            order.sort_unstable_by(|i, j| bytes(*i).cmp(bytes(*j)));
            if let Some(twice) = order.windows(2).find(|pair| bytes(pair[0]) == bytes(pair[1])) {
                bail!("`{}` is listed twice", names.get(twice[0]).display());
            }
            let mut sorted = NameList::default();
            order.iter().for_each(|i| sorted.push(names.get(*i)));
            let labels = order.iter().map(|i| labels[*i]).collect();
            (sorted, labels)
        };
        Ok(Self { names, labels, has_classes: true })
    }

    /// Reads the list in a folder, if there is one.
    pub fn beside(root: &Path) -> Result<Option<Self>> {
        let path = root.join(LIST);
        if !path.is_file() {
            return Ok(None);
        }
        match std::fs::read(&path) {
            Ok(text) => Self::parse(&path.display().to_string(), &text).map(Some),
            Err(e) => bail!("cannot read {}: {e}", path.display()),
        }
    }

    /// Parses `{"labels": [["00000/img00000000.png", 5], …]}`, where `labels` may be an object too,
    /// or `null` for a set without classes. `shown` is its path in messages.
    pub fn parse(shown: &str, text: &[u8]) -> Result<Self> {
        parse(text).map_err(|e| Error::msg(format!("{shown}: {e}")))
    }

    /// Whether the set has classes. Its list is empty if not, and says nothing of its files.
    pub fn has_classes(&self) -> bool {
        self.has_classes
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The number of a name in this list, if it is there.
    pub fn find(&self, name: &Path) -> Option<usize> {
        let at = self.first_from(name);
        (at < self.len() && self.names.get(at).as_os_str() == name.as_os_str()).then_some(at)
    }

    /// The name and label of a number.
    pub fn get(&self, at: usize) -> (&Path, i64) {
        (self.names.get(at), self.labels[at])
    }

    /// Whether it names this file, or a file in this folder.
    pub fn names(&self, name: &Path) -> bool {
        if name.as_os_str().is_empty() {
            return false;
        }
        let inside = name.join("");
        let following = self.first_from(&inside);
        let starts = |at: usize| self.names.get(at).as_os_str().as_encoded_bytes();
        self.find(name).is_some()
            || (following < self.len() && starts(following).starts_with(inside.as_os_str().as_encoded_bytes()))
    }

    /// The number of the first name that is not before this one.
    fn first_from(&self, name: &Path) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.names.get(middle).as_os_str() < name.as_os_str() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn parse(text: &[u8]) -> Result<LabelList> {
    let text = match erw_base::text::of_bytes(text) {
        Ok(text) => text,
        Err(e) => bail!("not JSON: {e}"),
    };
    let mut found = Found::default();
    let mut json = serde_json::Deserializer::from_str(&text);
    match json.deserialize_map(Whole(&mut found)).and_then(|()| json.end()) {
        Err(e) if e.classify() == Category::Data => {
            let (text, line) = (e.to_string(), e.line());
            let said = text.strip_suffix(&format!(" at line {line} column {}", e.column())).unwrap_or(&text);
            // Of another type than a list of pairs.
            match said.starts_with("invalid type") {
                true => bail!("no list `labels`"),
                false => bail!("line {line}: {said}"),
            }
        }
        Err(e) => bail!("not JSON: {e}"),
        Ok(()) => {}
    }
    match found.has_classes {
        None => bail!("no list `labels`"),
        Some(false) => Ok(LabelList { names: NameList::default(), labels: vec![], has_classes: false }),
        Some(true) => LabelList::of(found.names, found.labels),
    }
}

/// What has been read of a list. It is read pair by pair: as a whole, a million pairs would take
/// 300 MB.
#[derive(Default)]
struct Found {
    names: NameList,
    labels: Vec<i64>,
    /// Of `labels`, once they are there.
    has_classes: Option<bool>,
}

impl Found {
    /// Adds a pair. The error is a sentence.
    fn add(&mut self, name: &str, label: &Value) -> std::result::Result<(), String> {
        let Some(class) = label.as_u64().filter(|l| *l < MAX_CLASSES) else {
            return Err(format!("label {label} of `{name}` is not a whole number from 0 to {}", MAX_CLASSES - 1));
        };
        // Windows writes its own separator.
        let plain = normal(name, true).map_err(|why| format!("the name `{name}` {why}"))?;
        self.names.push(Path::new(&plain));
        self.labels.push(class as i64);
        Ok(())
    }
}

/// Reads the whole file.
struct Whole<'a>(&'a mut Found);

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with a list `labels`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "labels" {
                // Of several lists, the last one counts.
                *self.0 = Found::default();
                map.next_value_seed(Pairs(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads `labels`.
struct Pairs<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Pairs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("`labels` as a list of pairs of name and label, or null")
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        self.0.has_classes = Some(false);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        self.0.has_classes = Some(true);
        while let Some(entry) = list.next_element::<Value>()? {
            let Some([Value::String(name), label]) = entry.as_array().map(Vec::as_slice) else {
                let text: String = entry.to_string().chars().take(80).collect();
                return Err(A::Error::custom(format!("`{text}` is not a pair of name and label")));
            };
            self.0.add(name, label).map_err(A::Error::custom)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        self.0.has_classes = Some(true);
        while let Some((name, label)) = map.next_entry::<String, Value>()? {
            self.0.add(&name, &label).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> std::result::Result<Vec<(String, i64)>, String> {
        let list = LabelList::parse("x.json", text.as_bytes()).map_err(|e| e.to_string())?;
        Ok((0..list.len()).map(|i| (list.get(i).0.display().to_string(), list.get(i).1)).collect())
    }

    #[test]
    fn lists_of_labels_are_read_whatever_system_wrote_them() {
        let plain = "{\n\"more\": [1], \"labels\": [[\"a/2.png\", 3],\n [\"a/1.png\", 0]]}\n";
        let expected = Ok(vec![("a/1.png".to_string(), 0), ("a/2.png".to_string(), 3)]);
        assert_eq!(listed(plain), expected);
        let object = "{\"labels\": {\"a/2.png\": 3, \"a/1.png\": 0}}";
        for odd in
            [format!("\u{feff}{plain}"), plain.replace('\n', "\r\n"), plain.replace("a/", "a\\\\"), object.into()]
        {
            assert_eq!(listed(&odd), expected, "{odd}");
        }
        let wide: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(LabelList::parse("x.json", &wide).unwrap_err().to_string().contains("UTF-16"));
        for (text, part) in [
            ("[]", "x.json: no list `labels`"),
            ("{}", "x.json: no list `labels`"),
            ("{\"labels\": 7}", "x.json: no list `labels`"),
            ("{\"labels\": [[\"a\", 1]]} x", "not JSON: trailing characters"),
            ("{\"labels\": [[\"a\", 1], [\"b\", 2], [\"./a\", 1]]}", "`a` is listed twice"),
            ("{\"labels\": [[\"a\", -1]]}", "x.json: line 1: label -1 of `a` is not a whole number"),
        ] {
            assert!(listed(text).is_err_and(|e| e.contains(part)), "{text}: {:?}", listed(text));
        }
    }

    #[test]
    fn files_and_folders_are_found_by_name() {
        let list = LabelList::parse("", br#"{"labels": [["a/b.png", 1], ["a-b/c.png", 2], ["d.png", 3]]}"#).unwrap();
        for (name, is_named) in
            [("a/b.png", true), ("a", true), ("a-b", true), ("d.png", true), ("d", false), ("a/b", false), ("e", false)]
        {
            assert_eq!(list.names(Path::new(name)), is_named, "{name}");
        }
        assert_eq!(list.find(Path::new("d.png")).map(|at| list.get(at).1), Some(3));
        assert_eq!(list.find(Path::new("a")), None);
        let none = LabelList::parse("", br#"{"labels": null}"#).unwrap();
        assert!(!none.has_classes() && !none.names(Path::new("")));
    }
}
