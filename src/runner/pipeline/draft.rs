//! A stage while its pipeline is being read: its values are in place, its inputs are still words.

use super::graph::{Origin, Stage};
use erw_base::error::{Error, Place};
use std::path::PathBuf;

/// A stage before its edges are drawn.
pub(crate) struct Draft {
    pub stage: Stage,
    /// What each slot's statement says.
    pub input_refs: Vec<InputRef>,
    /// Where it is stated.
    pub place: Place,
}

/// `slot = "stage.output"` as stated, or an element of `slot = ["stage", "stage.output"]`.
pub(crate) struct InputRef {
    pub slot: usize,
    /// Position in the list.
    pub index: usize,
    pub text: String,
    pub origin: Origin,
    /// For an input from outside of the pipeline.
    pub elsewhere: Option<Box<External>>,
}

impl InputRef {
    /// The stage, and its output where it is stated.
    pub(crate) fn ends(&self) -> (&str, Option<&str>) {
        match self.elsewhere.as_ref().and_then(|e| e.from.as_ref()) {
            Some((stage, output)) => (stage, output.as_deref()),
            None => match self.text.split_once('.') {
                Some((stage, output)) => (stage, Some(output)),
                None => (&self.text, None),
            },
        }
    }
}

/// Adds the place of a faulty value, or who set it.
pub(crate) fn stated_by(mut error: Error, origin: &Origin) -> Error {
    if let Some(place) = &origin.place {
        return error.at(place.clone());
    }
    let who = match origin.layer.strip_prefix("environment ") {
        Some(variable) => format!("the environment variable `{variable}`"),
        None => format!("`{}`", origin.layer),
    };
    error.hints.insert(0, format!("it was set by {who}"));
    error
}

/// Between a kind or a pipeline and what is taken of it. No name of a stage holds one.
pub(crate) const SEPARATOR: char = ':';

/// What an input from elsewhere leads to.
pub(crate) struct External {
    /// Where a relative path starts.
    pub base: PathBuf,
    /// The stage that brings it in and its output, once there is one.
    pub from: Option<(String, Option<String>)>,
}
