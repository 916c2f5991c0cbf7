//! From pipeline files to a graph in which every name, type, edge and value has been checked.
//!
//! 1. [`file`](mod@file) follows `extends`, drops removed stages, finds each stage's kind and
//!    refuses unknown names. A stage of `kind = "command"` gets a manifest from its own entries
//!    ([`command`]).
//! 2. [`layers`] merges values, weakest first: manifest, parents, `[params]`, the stage's own, the
//!    trial, `ERW_SET__…`, `--set`. Each value keeps its origin.
//! 3. [`resolve`] makes a `draft` of every `stage`; `external` adds the stages behind inputs from
//!    files and from other pipelines; `edges` finds the output for every `slot = "stage"`, checks
//!    types, sorts the stages and reports cycles. Last come each kind's own check and the
//!    [`properties`] of artifacts.
//! 4. [`targets`] selects what a target needs in the [`graph`].
//!
//! `sections` tells which stages a changed text is about, so that only these need be read, and where
//! a large text can be cut; `pieces` reads such a text in parts.
//!
//! Errors report the first problem in this order. Does not know keys, caches or running.

pub mod command;
pub mod draft;
pub mod edges;
pub mod external;
pub mod file;
pub mod graph;
pub mod layers;
pub(crate) mod pieces;
pub mod properties;
pub mod resolve;
pub(crate) mod sections;
pub mod stage;
pub mod targets;
