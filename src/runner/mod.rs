//! Pipelines, keys, cache, scheduling. Knows nothing of machine learning.
//!
//! # From a file to a graph
//!
//! The reading half turns a pipeline file into a [`graph::Pipeline`] in which every name, type, edge and value has
//! been checked, or into an error that shows file, line and column.
//!
//! 1. [`located`] reads TOML and remembers where each key and value stood. Manifests ([`manifest`]) and pipeline files
//!    ([`spec`]) are both read through it.
//! 2. [`spec`] follows `extends`, drops removed stages, finds each stage's kind in the registry and its manifest, and refuses every name that
//!    nobody knows. A stage of `kind = "command"` gets a manifest made of its own statements ([`command`]).
//! 3. [`layers`] puts values on top of each other, weakest first: manifest, parents, `[params]`, the stage's own, the
//!    trial, `ERW_SET__…`, `--set`. Each winner knows who stated it, and where.
//! 4. [`resolve`] checks each winner against its field ([`value`]); `elsewhere` adds the stages behind inputs from files and
//!    from other pipelines; `edges` finds the output behind every `slot = "stage"`, compares types, orders the stages and shows any cycle whole. Last, each kind's own `check` sees its parameters,
//!    and [`properties`] of artifacts that are known by then must agree.
//! 5. [`sweep`] does 3 and 4 once per trial and merges stages that are equal in several trials.
//! 6. [`mod@select`] finds what a target needs.
//!
//! Errors are about the first fault in the order above; [`suggest`] finds the name that was meant.
//!
//! # From a graph to artifacts
//!
//! The doing half runs what is stale in a pipeline and reuses the rest.
//!
//! 1. [`files`] digests the outside files ([`digest`]); [`key`] writes down what an action depends on.
//! 2. [`plan`] looks the key up among the action records ([`actions`]) and their outputs in the [`store`]: cached, or
//!    stale with a [`reason`].
//! 3. [`schedule`] judges and starts stages as their inputs become known, within the shares that [`pool`] grants.
//! 4. [`perform`] carries one action out under the lock of its key: inputs verified, worker started ([`launch`]),
//!    outputs digested and published, record last, work folder removed.
//! 5. In the worker process [`worker`] finds the kind and calls it with an [`attempt`], whose numbers by step go into a [`step_log`]; a [`program`] is started by the
//!    runner itself, and its results are the `numbers` it writes. How either ends is seen by [`ending`], what is under way is known to [`workers`].
//!    [`left`] tells how far an attempt came that did not end.
//! 6. [`memo`] keeps the answer to a run that found everything cached, for the next time it is asked.
//! 7. All of it is told as [`event`]s; [`record`] keeps them.
//!
//! # The cache folder
//!
//! [`remote`] shares it with others: [`plan`] asks there on a miss, [`uses`] offers what a run made. [`inventory`] lists it
//! and reads it for damage, [`gc`] makes room in it, [`tags`] are names in it, [`export`] takes artifacts out of it.
//!
//! # Looking back
//!
//! Nothing above needs these. [`why`] says what a stage waits for or what set it apart from the record before it, [`past`] what came
//! before and how long it took, [`since`] what changed since a git revision (`place` names places that may be gone). [`history`] reads journals of runs, [`lineage`] what an
//! artifact was made of. [`lock`] holds results against those of a committed file, [`verify`] against those of another
//! attempt, both as [`agree`] compares, with regard to the class of the [`machine`].

pub mod actions;
pub mod agree;
pub mod attempt;
pub mod children;
pub mod command;
pub mod digest;
pub mod disk;
mod edges;
mod elsewhere;
pub mod ending;
pub mod environment;
pub mod event;
pub mod export;
pub mod files;
pub mod gc;
pub mod graph;
mod guard;
pub mod history;
mod inside;
pub mod inventory;
pub mod key;
pub mod launch;
pub mod layers;
pub mod left;
pub mod lineage;
pub mod located;
pub mod lock;
pub mod log_text;
pub mod machine;
pub mod manifest;
pub mod memo;
pub mod name;
pub mod numbers;
pub mod past;
pub mod perform;
mod place;
pub mod plan;
pub mod pool;
pub mod program;
pub mod properties;
pub mod quantity;
pub mod reason;
pub mod record;
pub mod remote;
pub mod resolve;
pub mod revision;
pub mod schedule;
pub mod select;
pub mod since;
pub mod spec;
pub mod step_log;
pub mod store;
pub mod suggest;
pub mod sweep;
pub mod tags;
mod unstartable;
pub mod uses;
pub mod value;
pub mod verify;
pub mod watched;
pub mod why;
pub mod worker;
pub mod workers;
