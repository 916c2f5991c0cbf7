//! Properties of artifacts as manifests state them: facts of a kind, and rules that inputs must keep. Whether the stages of
//! a pipeline keep them is checked in `pipeline::properties`.

use super::expression::{Expression, Relation};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// What a kind's code makes of parameters, for properties that are no parameter themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    pub name: &'static str,
    pub value: Value,
    /// The parameters that it follows from.
    pub of: &'static [&'static str],
}

impl Fact {
    pub fn new(name: &'static str, value: impl Into<Value>, of: &'static [&'static str]) -> Self {
        Self { name, value: value.into(), of }
    }
}

/// What must or ought to be so, as a manifest says it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub left: Expression,
    pub relation: Relation,
    pub right: Expression,
    /// Why.
    pub doc: String,
}

/// `latents.side is a multiple of patch_size`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.relation {
            Relation::Equal => "=",
            Relation::Multiple => "is a multiple of",
            Relation::OneOf => "is one of",
        };
        write!(f, "{} {relation} {}", self.left, self.right)
    }
}

/// Properties by slot; slots of which nothing is known are left out.
pub type InputProperties = BTreeMap<String, BTreeMap<String, Value>>;
