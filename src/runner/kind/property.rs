//! Properties of artifacts as manifests declare them: facts of a kind, and rules for its inputs.
//! Does not know pipelines: `pipeline::properties` checks whether their stages satisfy the rules.

use super::expression::{Expression, Relation};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// A value that a kind's code computes from parameters, for properties that are not parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    pub name: &'static str,
    pub value: Value,
    /// The parameters that it depends on.
    pub of: &'static [&'static str],
}

impl Fact {
    pub fn new(name: &'static str, value: impl Into<Value>, of: &'static [&'static str]) -> Self {
        Self { name, value: value.into(), of }
    }
}

/// A condition of a manifest, under `[agree]` or `[doubt]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub left: Expression,
    pub relation: Relation,
    pub right: Expression,
    /// The reason for the rule.
    pub doc: String,
}

/// `latents.side is a multiple of patch_size`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.relation {
            Relation::Equal => "=",
            Relation::Multiple => "is a multiple of",
            Relation::OneOf => "is one of",
            Relation::Other => "is other than",
        };
        write!(f, "{} {relation} {}", self.left, self.right)
    }
}

/// Properties by slot; slots without known properties are left out.
pub type InputProperties = BTreeMap<String, BTreeMap<String, Value>>;
