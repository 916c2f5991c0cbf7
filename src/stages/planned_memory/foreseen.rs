//! What is known of a stage before it runs.

use erw_runner::kind::field::Params;
use erw_runner::kind::property::InputProperties;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A stage before it runs.
pub struct Foreseen<'a> {
    pub kind: &'a str,
    pub params: &'a Params,
    pub operation: &'a Params,
    /// What is known of its inputs.
    pub inputs: InputProperties,
    /// The stages that make its inputs, by slot.
    pub makers: BTreeMap<String, Maker<'a>>,
    pub ranks: usize,
}

/// The stage that makes an input: what it is of, and its parameters, with paths as they lie.
pub struct Maker<'a> {
    pub kind: &'a str,
    pub params: Cow<'a, Params>,
}
