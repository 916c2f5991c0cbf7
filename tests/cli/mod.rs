//! Subcommands, and what people type and get to read.

mod at_work;
mod bad_input;
mod compare;
mod completions;
mod eval;
mod export;
mod fetch;
mod foreign_checkpoints;
mod help;
mod history;
mod init;
mod man;
mod packages;
mod plan_and_why;
mod plot;
mod reference_curves;
mod report;
mod report_subjects;
mod schema;
mod settings;
pub mod training_curves;
mod user_input;
mod version;
mod weights;
