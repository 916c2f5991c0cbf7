//! The definition of a stage kind: a manifest with its inputs, outputs and parameters, and
//! functions that check and run it.
//!
//! [`manifest`] parses `stages/NAME.toml` into [`field`]s, whose values [`value`] checks.
//! [`property`] and [`expression`] are what a kind declares about its artifacts. A running kind
//! gets an [`attempt`], whose curves go into a [`step_log`]; several processes that share its work are
//! [`ranks`]. Does not know pipelines.

pub mod attempt;
pub mod expression;
pub mod field;
pub mod manifest;
pub mod property;
pub mod ranks;
pub mod step_log;
pub mod value;

use attempt::Attempt;
use erw_base::error::Result;
use field::Params;
use property::Fact;

/// A stage kind: the text of its manifest and its code.
#[derive(Clone, Copy)]
pub struct StageKind {
    /// The name in `kind = "..."`, equal to the file name of the manifest.
    pub name: &'static str,
    /// Text of `stages/NAME.toml`.
    pub manifest: &'static str,
    /// Deserialises `params` and `operation` into the kind's own structs and checks what types
    /// cannot express. `inputs` are the connected slots, for kinds whose parameters decide which
    /// inputs they need. Runs before any stage.
    pub check: fn(params: &Params, operation: &Params, inputs: &[&str]) -> Result<()>,
    /// The values of `kind.NAME` in the manifest, from which properties
    /// ([`crate::pipeline::properties`]) are computed, as far as the parameters determine them. The
    /// parameters are not checked yet.
    pub facts: fn(params: &Params) -> Vec<Fact>,
    /// Refuses what `run` would refuse in the files that the parameters name, as far as lists and
    /// headers tell: sets may have a million images, and weights are large. Paths are absolute. Asked
    /// of a stale stage, by a plan and before anything runs; see [`crate::plan::foresee`].
    pub foresee: Option<fn(params: &Params, operation: &Params) -> Result<()>>,
    /// Runs the stage. Called in a worker process.
    pub run: fn(&Attempt) -> Result<()>,
}

/// For a kind whose properties depend on plain parameters only.
pub fn no_facts(_: &Params) -> Vec<Fact> {
    vec![]
}

/// All kinds that the program has.
pub type Registry = &'static [StageKind];
