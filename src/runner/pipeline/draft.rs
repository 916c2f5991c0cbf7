//! A stage while its pipeline is being read: its values are resolved, its inputs are still text.
//! Does not know other stages.

use super::command;
use super::graph::{Origin, Resources, RetryPolicy, Stage};
use crate::kind::field::Params;
use crate::kind::manifest::Manifest;
use crate::small_map::SmallMap;
use erw_base::error::{Error, Place};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A stage before its edges are resolved.
pub(crate) struct Draft {
    pub stage: Stage,
    /// The inputs as written.
    pub input_refs: Vec<InputRef>,
    /// The place of its definition.
    pub place: Place,
}

/// A program that has run, of which only what it feeds is read.
pub(crate) struct KnownStage {
    pub name: String,
    /// Output name to artifact type.
    pub outputs: SmallMap<String>,
}

impl KnownStage {
    pub(crate) fn draft(self, manifest: &Arc<Manifest>, place: &Place) -> Draft {
        let stage = Stage {
            name: self.name,
            kind: command::KIND,
            manifest: manifest.clone(),
            inputs: SmallMap::new(),
            outputs: self.outputs,
            params: Params::new(),
            operation: Params::new(),
            sources: SmallMap::new(),
            published: BTreeMap::new(),
            resources: Resources::default(),
            retry: RetryPolicy::default(),
            turn: 0,
            origins: SmallMap::new(),
            is_command: false,
        };
        Draft { stage, input_refs: vec![], place: place.clone() }
    }
}

/// `slot = "stage.output"` as written, or an element of `slot = ["stage", "stage.output"]`.
pub(crate) struct InputRef {
    pub slot: usize,
    /// Index in the list.
    pub index: usize,
    pub text: String,
    pub origin: Origin,
    /// For an input from outside the pipeline.
    pub elsewhere: Option<Box<External>>,
}

impl InputRef {
    /// The stage, and the output if one is named.
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

/// Adds the place of a wrong value, or the layer that set it.
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

/// Separates a kind or a pipeline from the path or stage. Stage names cannot contain it.
pub(crate) const SEPARATOR: char = ':';

/// The origin of an input from outside the pipeline.
pub(crate) struct External {
    /// The base of relative paths.
    pub base: PathBuf,
    /// The stage that provides it and its output, once added.
    pub from: Option<(String, Option<String>)>,
}
