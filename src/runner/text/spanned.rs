//! TOML with positions: every key and value carries its [`Place`], every key its comment. Manifests
//! and pipeline files are parsed with it. Does not know what they mean.

use erw_base::error::{Error, ErrorKind, Place, Result, Text};
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value with its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub value: Toml,
    pub place: Place,
}

/// The types of TOML. A date is kept only to be refused by name.
#[derive(Debug, Clone)]
pub enum Toml {
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
    Date,
}

/// `key = value`, or a `[header]` with its contents.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    /// The last part of a dotted key or header.
    pub key_place: Place,
    /// The comment after the value with its continuation lines, or else the comment lines above the
    /// key.
    pub doc: String,
    pub node: Node,
}

impl Node {
    /// The type of the value with its article, for messages.
    pub fn describe(&self) -> &'static str {
        match self.value {
            Toml::Bool(_) => "a boolean",
            Toml::Int(_) => "an integer",
            Toml::Float(_) => "a float",
            Toml::String(_) => "a string",
            Toml::List(_) => "a list",
            Toml::Table(_) => "a table",
            Toml::Date => "a date",
        }
    }
    /// The entries of a table. `what` names the thing in the error, as in "`params` must be a
    /// table".
    pub fn table(&self, what: impl Display) -> Result<&[Entry]> {
        match &self.value {
            Toml::Table(entries) => Ok(entries),
            _ => Err(self.mismatch(what, "a table")),
        }
    }
    /// Like [`Node::table`], by value: a large pipeline should not be copied.
    pub fn into_table(self, what: impl Display) -> Result<Vec<Entry>> {
        match self.value {
            Toml::Table(entries) => Ok(entries),
            _ => Err(self.mismatch(what, "a table")),
        }
    }
    pub fn string(&self, what: impl Display) -> Result<&str> {
        match &self.value {
            Toml::String(s) => Ok(s),
            _ => Err(self.mismatch(what, "a string")),
        }
    }
    pub fn list(&self, what: impl Display) -> Result<&[Node]> {
        match &self.value {
            Toml::List(nodes) => Ok(nodes),
            _ => Err(self.mismatch(what, "a list")),
        }
    }
    /// "`what` must be WANTED, not a string", at this value.
    pub fn mismatch(&self, what: impl Display, wanted: &str) -> Error {
        Error::usage(format!("{what} must be {wanted}, not {}", self.describe())).at(self.place.clone())
    }
    /// The value of `key`, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Toml::Table(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            _ => None,
        }
    }
}

/// Parses a text. `file` is its name in messages.
pub fn parse(file: &Path, text: impl Into<String>) -> Result<Node> {
    parse_text(&Text::new(file, text))
}

pub(crate) fn parse_text(text: &Arc<Text>) -> Result<Node> {
    let parser = Parser { text, start: 0 };
    let document = DeTable::parse(&text.text).map_err(|e| parser.malformed(e.message(), e.span()))?;
    Ok(Node { value: Toml::Table(parser.table(document.into_inner())?), place: parser.place(0..0) })
}

/// What the lines of this piece of a text say, if they begin a table or the text. `None` if they are
/// wrong.
pub(crate) fn parse_piece(text: &Arc<Text>, piece: Range<usize>) -> Option<Vec<Entry>> {
    let document = DeTable::parse(&text.text[piece.clone()]).ok()?;
    Parser { text, start: piece.start }.table(document.into_inner()).ok()
}

/// Reads a text, or the part of it that begins at the byte `start`.
struct Parser<'t> {
    text: &'t Arc<Text>,
    start: usize,
}

impl Parser<'_> {
    /// `span`: within what is read.
    fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.text, self.start + span.start..self.start + span.end)
    }

    fn malformed(&self, message: &str, span: Option<Range<usize>>) -> Error {
        let mut lines = message.lines().map(str::trim).filter(|l| !l.is_empty());
        let first = lines.next().unwrap_or("syntax error").to_string();
        let rest: Vec<&str> = lines.collect();
        let key = span.clone().and_then(|span| self.text.text.get(span)).unwrap_or_default();
        let message = match first.as_str() {
            "duplicate key" => format!("`{key}` is defined twice"),
            _ => format!("malformed TOML: {first}"),
        };
        let mut error = Error::new(ErrorKind::Usage, message);
        if !rest.is_empty() {
            error = error.hint(rest.join("; "));
        }
        error.at(self.place(span.unwrap_or(0..0)))
    }

    fn table(&self, table: DeTable<'_>) -> Result<Vec<Entry>> {
        // Entries are large and most tables small: a growing vector takes twice the memory.
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let node = self.node(value)?;
            let key_place = self.place(key.span());
            let doc = self.doc(&key_place.span(), &node.place.span());
            entries.push(Entry { key: key.into_inner().into_owned(), key_place, doc, node });
        }
        Ok(entries)
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Result<Node> {
        let span = value.span();
        let overflow = |what| self.malformed(what, Some(span.clone()));
        let value = match value.into_inner() {
            DeValue::Boolean(b) => Toml::Bool(b),
            DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) => Toml::Int(n),
                Err(_) => return Err(overflow("integer number overflowed")),
            },
            DeValue::Float(x) => match x.as_str().parse::<f64>() {
                Ok(n) if n.is_finite() || !x.as_str().contains(|c: char| c.is_ascii_digit()) => Toml::Float(n),
                _ => return Err(overflow("floating-point number overflowed")),
            },
            DeValue::String(s) => Toml::String(s.into_owned()),
            DeValue::Datetime(_) => Toml::Date,
            DeValue::Array(array) => {
                // Collected, they would stay in the space of the parser's larger values.
                let mut nodes = Vec::with_capacity(array.len());
                for value in array {
                    nodes.push(self.node(value)?);
                }
                Toml::List(nodes)
            }
            DeValue::Table(table) => Toml::Table(self.table(table)?),
        };
        Ok(Node { value, place: self.place(span) })
    }

    fn doc(&self, key: &Range<usize>, value: &Range<usize>) -> String {
        let Text { text, .. } = &**self.text;
        let end = value.end.max(key.end).min(text.len());
        let row = self.text.line_at(end);
        let trailing = self.text.line(row).and_then(|line| comment(&text[end..line.end]));
        let parts: Vec<&str> = match trailing {
            // Continuation lines are indented; a comment in the first column belongs to what
            // follows.
            Some(first) => {
                let below = (row + 1..).map_while(|row| self.line(row)).take_while(|l| l.starts_with([' ', '\t']));
                std::iter::once(first).chain(below.map_while(comment)).collect()
            }
            None => {
                // Lines with a different indentation continue the comment of an earlier value.
                let row = self.text.line_at(key.start);
                let indent = |l: &str| l.len() - l.trim_start().len();
                let own = self.text.line(row).map_or(0, |line| indent(&text[line.start..key.start]));
                let above = (0..row).rev().map_while(|row| self.line(row)).take_while(|l| indent(l) == own);
                let mut above: Vec<&str> = above.map_while(comment).collect();
                above.reverse();
                above
            }
        };
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn line(&self, row: usize) -> Option<&str> {
        self.text.line(row).map(|line| &self.text.text[line])
    }
}

/// The text of a line that has only a comment.
fn comment(line: &str) -> Option<&str> {
    line.trim().strip_prefix('#').map(str::trim)
}

/// `train.seed = 1` and `"train.seed" = 1` are the same to a sweep.
pub(crate) fn flatten(entries: &[Entry]) -> Vec<Entry> {
    let mut flat = vec![];
    for entry in entries {
        match &entry.node.value {
            Toml::Table(below) => {
                flat.extend(flatten(below).into_iter().map(|e| Entry { key: format!("{}.{}", entry.key, e.key), ..e }))
            }
            _ => flat.push(entry.clone()),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docs(text: &str) -> Vec<(String, String)> {
        let node = parse(Path::new("t.toml"), text).unwrap();
        node.table("file").unwrap().iter().map(|e| (e.key.clone(), e.doc.clone())).collect()
    }

    #[test]
    fn comments_become_docs() {
        let text = "# above a\na = 1\nb = [\n  1, # no\n] # behind b\n    # and more\n# heads c\n\
                    c = \"#x\"  # behind c\nd = 2\n";
        let expected = [("a", "above a"), ("b", "behind b and more"), ("c", "behind c"), ("d", "")];
        assert_eq!(docs(text), expected.map(|(k, d)| (k.to_string(), d.to_string())));
    }

    #[test]
    fn places_are_exact() {
        let node = parse(Path::new("t.toml"), "[a.b]\nc = { d = [1, \"x\"] }\n").unwrap();
        let d = node.get("a").and_then(|n| n.get("b")).and_then(|n| n.get("c")).and_then(|n| n.get("d")).unwrap();
        let x = &d.list("d").unwrap()[1];
        assert_eq!(x.place.line_col(), (2, 15));
        assert_eq!(&x.place.source.text[x.place.span()], "\"x\"");
        let Toml::Table(entries) = &node.get("a").unwrap().value else { panic!("a table") };
        assert_eq!(&node.place.source.text[entries[0].key_place.span()], "b");
    }
}
