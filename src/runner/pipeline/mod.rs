//! From pipeline files to a graph in which every name, type, edge and value has been checked.
//!
//! 1. [`file`] follows `extends`, drops removed stages, finds each stage's kind and refuses unknown names. A stage of
//!    `kind = "command"` gets a manifest made of its own statements ([`command`]).
//! 2. [`layers`] puts values on top of each other, weakest first: manifest, parents, `[params]`, the stage's own, the trial,
//!    `ERW_SET__…`, `--set`. Each winner knows who stated it, and where.
//! 3. [`resolve`] makes a `draft` of every `stage`; `external` adds the stages behind inputs from files and from other
//!    pipelines; `edges` finds the output behind every `slot = "stage"`, compares types, orders the stages and shows a
//!    cycle whole. Last come each kind's own check and the [`properties`] of artifacts.
//! 4. [`targets`] finds what a target needs in the [`graph`].
//!
//! Errors are about the first fault in this order.

pub mod command;
pub mod draft;
pub mod edges;
pub mod external;
pub mod file;
pub mod graph;
pub mod layers;
pub mod properties;
pub mod resolve;
pub mod stage;
pub mod targets;
