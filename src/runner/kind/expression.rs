//! Expressions about properties in a manifest: `"params.resolution"`, `"images.resolution /
//! vae.downsampling"`, `"multiple of kind.patch_size"`, `"features.dim when kind.aligned"`. Knows
//! neither stages nor values.

use std::fmt;

/// Alternatives for the property; the first known one counts: `encoder.grid | images.resolution /
/// params.patch_size`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    pub alternatives: Vec<Product>,
    /// The value is unknown unless this is known.
    pub when: Option<Term>,
}

/// `a * b / c`, from left to right. A single term may be of any type, factors are integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    pub first: Term,
    pub more: Vec<(Operation, Term)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Times,
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// `params.NAME`: the value of a parameter.
    Param(String),
    /// `kind.NAME`: computed from the parameters by the kind's code.
    Fact(String),
    /// `SLOT.NAME`: a property of the connected artifact; for a list slot, of each in turn.
    Input { slot: String, property: String },
    /// `SLOT*.NAME`: the list of this property of all connected artifacts.
    Inputs { slot: String, property: String },
}

/// How the two sides of a rule must relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Equal,
    /// `multiple of B`: an integer multiple.
    Multiple,
    /// `one of B`: an element of a list.
    OneOf,
    /// `other than B`: not equal.
    Other,
}

impl Expression {
    pub fn parse(text: &str) -> Option<Self> {
        let (text, when) = match text.split_once(" when ") {
            Some((text, term)) => (text, Some(Term::parse(term.trim())?)),
            None => (text, None),
        };
        let alternatives = text.split('|').map(Product::parse).collect::<Option<_>>()?;
        Some(Self { alternatives, when })
    }

    /// `multiple of images.resolution`, or, without a relation, an expression that must be equal.
    pub fn parse_relation(text: &str) -> Option<(Relation, Self)> {
        let words =
            [("multiple of ", Relation::Multiple), ("one of ", Relation::OneOf), ("other than ", Relation::Other)];
        let found = words.into_iter().find_map(|(words, relation)| Some((relation, text.strip_prefix(words)?)));
        let (relation, rest) = found.unwrap_or((Relation::Equal, text));
        Some((relation, Self::parse(rest)?))
    }

    pub fn terms(&self) -> impl Iterator<Item = &Term> {
        self.alternatives.iter().flat_map(Product::terms).chain(&self.when)
    }
}

impl Product {
    fn terms(&self) -> impl Iterator<Item = &Term> {
        std::iter::once(&self.first).chain(self.more.iter().map(|(_, term)| term))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let first = Term::parse(words.next()?)?;
        let mut more = vec![];
        while let Some(sign) = words.next() {
            let operation = match sign {
                "*" => Operation::Times,
                "/" => Operation::Over,
                _ => return None,
            };
            more.push((operation, Term::parse(words.next()?)?));
        }
        Some(Self { first, more })
    }
}

impl Term {
    fn parse(text: &str) -> Option<Self> {
        let (of, name) = text.split_once('.')?;
        let is_word = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let property = name.to_string();
        match (of, of.strip_suffix('*')) {
            _ if !is_word(name) => None,
            ("params", _) => Some(Self::Param(property)),
            ("kind", _) => Some(Self::Fact(property)),
            (_, Some(slot)) if is_word(slot) => Some(Self::Inputs { slot: slot.into(), property }),
            (slot, None) if is_word(slot) => Some(Self::Input { slot: slot.into(), property }),
            _ => None,
        }
    }
}

/// For display: terms of the stage itself appear by their name alone.
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param(name) | Self::Fact(name) => f.write_str(name),
            Self::Input { slot, property } | Self::Inputs { slot, property } => write!(f, "{slot}.{property}"),
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.more.iter().try_for_each(|(operation, term)| match operation {
            Operation::Times => write!(f, " * {term}"),
            Operation::Over => write!(f, " / {term}"),
        })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, product) in self.alternatives.iter().enumerate() {
            write!(f, "{}{product}", if i > 0 { " or " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_shown() {
        let shown = |text: &str| Expression::parse(text).map(|e| e.to_string());
        assert_eq!(shown("params.resolution").as_deref(), Some("resolution"));
        assert_eq!(
            shown("encoder.grid | images.resolution / kind.patch_size * sit.side").as_deref(),
            Some("encoder.grid or images.resolution / patch_size * sit.side")
        );
        assert_eq!(shown("features*.dim").as_deref(), Some("features.dim"));
        assert_eq!(shown("features*.dim when kind.aligned").as_deref(), Some("features.dim"));
        for odd in [
            "",
            "resolution",
            "a.b c.d",
            "a.b +",
            "a.b + c.d",
            "a.b /",
            "a..b",
            "|a.b",
            "*.b",
            "a.b when",
            "a.b when c",
        ] {
            assert_eq!(shown(odd), None, "{odd}");
        }
        let relation = |text: &str| Expression::parse_relation(text).map(|(r, e)| (r, e.to_string()));
        assert_eq!(relation("multiple of a.b"), Some((Relation::Multiple, "a.b".into())));
        assert_eq!(relation("one of a.b"), Some((Relation::OneOf, "a.b".into())));
        assert_eq!(relation("other than a.b"), Some((Relation::Other, "a.b".into())));
        assert_eq!(relation("a.b"), Some((Relation::Equal, "a.b".into())));
    }
}
