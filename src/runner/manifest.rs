//! Stage kinds and their manifests: what a kind takes, makes and can be told.
//!
//! A manifest is the commented TOML in `stages/KIND.toml`, embedded in the binary; it is the only home
//! of defaults. This module reads the text; it does not know which kinds exist (the registry is an
//! argument of the runner) nor what a kind computes.

use super::attempt::Attempt;
use crate::error::Result;
use std::collections::BTreeMap;

/// Resolved parameter values by name, typed as the manifest says (ints stay ints, floats are floats).
pub type Params = BTreeMap<String, serde_json::Value>;

/// A stage kind: the manifest's text and the code behind it.
#[derive(Clone, Copy)]
pub struct StageKind {
    /// The name in `kind = "..."`, equal to the manifest's file name.
    pub name: &'static str,
    /// Text of `stages/NAME.toml`.
    pub manifest: &'static str,
    /// Deserialises `params` and `operation` into the kind's own structs and checks what types cannot say.
    /// Runs before anything else runs.
    pub check: fn(params: &Params, operation: &Params) -> Result<()>,
    /// Does the work. Called in a worker process.
    pub run: fn(&Attempt) -> Result<()>,
}

/// All kinds a program knows.
pub type Registry = &'static [StageKind];

/// A manifest, parsed.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub kind: String,
    pub summary: String,
    /// Raised by hand when the code computes something else; voids this kind's cache.
    pub revision: u32,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Output>,
    /// In the key.
    pub params: Vec<Field>,
    /// Not in the key: changes cost, never results.
    pub operation: Vec<Field>,
}

/// `latents = "latents"`, `init = "warmed|sit?"`.
#[derive(Debug, Clone)]
pub struct Slot {
    pub name: String,
    /// Accepted artifact types.
    pub types: Vec<String>,
    pub optional: bool,
    pub doc: String,
}

/// `sit = "sit"`; a type written `{param}` is the value of that string parameter.
#[derive(Debug, Clone)]
pub struct Output {
    pub name: String,
    pub ty: String,
    pub doc: String,
}

/// One parameter: `lr = 1e-4  # comment`, or an inline table
/// `{ type = "path", default = .., one_of = [..], optional = true, min = .., max = .., missing = "how to get it" }`.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    pub ty: FieldType,
    /// `None` and not `optional`: the pipeline must give it.
    pub default: Option<serde_json::Value>,
    /// An optional parameter without a default is `null` when not given.
    pub optional: bool,
    pub one_of: Vec<serde_json::Value>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// For `path`: what to tell a user whose file is absent.
    pub missing: Option<String>,
    pub doc: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldType {
    Bool,
    Int,
    Float,
    String,
    /// A file or folder outside the cache; its contents enter the key, its name does not.
    Path,
    List(Box<FieldType>),
}
