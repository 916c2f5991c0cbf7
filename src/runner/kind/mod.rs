//! What a stage kind is: a manifest, which says what it takes and makes, and functions that check and run it.
//!
//! [`manifest`] reads `stages/NAME.toml` into [`field`]s, whose values [`value`] checks. [`property`] and [`expression`] are
//! what a kind promises of its artifacts. A running kind sees an [`attempt`], whose numbers by step go into a [`step_log`].
//! Knows nothing of pipelines.

pub mod attempt;
pub mod expression;
pub mod field;
pub mod manifest;
pub mod property;
pub mod step_log;
pub mod value;

use attempt::Attempt;
use erw_base::error::Result;
use field::Params;
use property::Fact;

/// A stage kind: the manifest's text and the code behind it.
#[derive(Clone, Copy)]
pub struct StageKind {
    /// The name in `kind = "..."`, equal to the manifest's file name.
    pub name: &'static str,
    /// Text of `stages/NAME.toml`.
    pub manifest: &'static str,
    /// Deserialises `params` and `operation` into the kind's own structs and checks what types cannot say. `inputs`
    /// names the slots that are connected, for kinds whose parameters decide what they take. Runs before anything else
    /// runs.
    pub check: fn(params: &Params, operation: &Params, inputs: &[&str]) -> Result<()>,
    /// What its properties ([`crate::pipeline::properties`]) may be made of beside parameters, as far as the parameters tell:
    /// `kind.NAME` in the manifest. Parameters were not checked before.
    pub facts: fn(params: &Params) -> Vec<Fact>,
    /// Does the work. Called in a worker process.
    pub run: fn(&Attempt) -> Result<()>,
}

/// Of a kind whose parameters tell all there is.
pub fn no_facts(_: &Params) -> Vec<Fact> {
    vec![]
}

/// All kinds a program knows.
pub type Registry = &'static [StageKind];
