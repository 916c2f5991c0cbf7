//! Whether latents, decoders and other networks fit what a network was trained on: the scale of its
//! latents, and the classes by their numbers. A wrong scale makes images silently wrong, and labels
//! of other classes are as good numbers. Does not know shapes.

use super::files::read_json;
use super::same_classes::{Named, check_same};
use super::sit_artifact::{NOTE, TrainingNote};
use erw_base::error::{Error, Result};
use erw_ml::data::latent_scale::LatentScale;
use std::path::Path;

/// Relative difference up to which two factors are one: files round them.
const ROUNDED: f64 = 1e-3;

/// The note beside a network; `None` for weights from elsewhere, which come without.
///
/// # Errors
/// A note that cannot be read.
pub fn note_of(dir: &Path) -> Result<Option<TrainingNote>> {
    let path = dir.join(NOTE);
    if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
}

/// Checks that `what` takes or has latents as the network of this note was trained on them.
///
/// # Errors
/// If they are normalised otherwise, as far as the note tells.
pub fn check_scale(note: &TrainingNote, theirs: &LatentScale, what: &str) -> Result<()> {
    let Some(differ) = other_scale(note, theirs) else { return Ok(()) };
    Err(Error::stage(format!("{what} does not fit the network: {differ}"))
        .hint("use the autoencoder that made the latents of the training"))
}

/// What differs in the normalisation.
pub fn other_scale(note: &TrainingNote, theirs: &LatentScale) -> Option<String> {
    match (&note.channels, &theirs.channels) {
        (Some(ours), Some(theirs)) if ours.agree(theirs) => {}
        (Some(_), Some(_)) => return Some("both normalise latents by channel, but by other statistics".into()),
        (Some(_), None) => {
            return Some("it was trained on latents normalised by channel, and there are no statistics".into());
        }
        (None, Some(_)) => {
            return Some("latents are normalised by channel, and it was trained on latents that were not".into());
        }
        (None, None) => {}
    }
    let near = |a: f64, b: f64, unit: f64| (a - b).abs() <= ROUNDED * unit;
    let factor = note.scaling_factor.filter(|ours| !near(*ours, theirs.factor, *ours));
    if let Some(ours) = factor {
        return Some(format!("it was trained on latents scaled by {ours}, not {}", theirs.factor));
    }
    let unit = note.scaling_factor.map_or(1.0, |factor| 1.0 / factor);
    let shift = note.shift_factor.filter(|ours| !near(*ours, theirs.shift, unit));
    shift.map(|ours| format!("it was trained on latents shifted by {ours}, not {}", theirs.shift))
}

/// Checks that `what`, as in `input `latents` has`, has the classes of the training.
///
/// # Errors
/// If classes of one number have other names.
pub fn check_classes(note: &TrainingNote, classes: &[String], what: &str) -> Result<()> {
    let trained = Named { what: "the network was trained on", classes: &note.classes };
    let hint = "classes are numbered in the order of their names: make both from sets with the same classes";
    check_same(&Named { what, classes }, &trained, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn note(more: &serde_json::Value) -> TrainingNote {
        let mut all = json!({"format": 1, "path": "linear", "classes": ["a", "b"]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_scale_is_compared_as_far_as_the_note_tells() {
        let differ = |ours: serde_json::Value, theirs: serde_json::Value| {
            check_scale(&note(&ours), &LatentScale::of(&theirs).unwrap(), "the decoder").err().map(|e| e.message)
        };
        let sd = json!({"scaling_factor": 0.18215, "shift_factor": 0.0});
        assert_eq!(differ(sd.clone(), json!({"scaling_factor": 0.18215})), None);
        assert_eq!(differ(sd.clone(), json!({"scaling_factor": 0.182_150_001})), None);
        let said = differ(sd.clone(), json!({"scaling_factor": 0.4})).unwrap();
        assert_eq!(said, "the decoder does not fit the network: it was trained on latents scaled by 0.18215, not 0.4");
        let said = differ(sd.clone(), json!({"scaling_factor": 0.18215, "shift_factor": 0.5})).unwrap();
        assert!(said.ends_with("it was trained on latents shifted by 0, not 0.5"), "{said}");
        let channels = json!({"latents_mean": [0.0, 1.0], "latents_std": [1.0, 2.0]});
        assert!(differ(sd, channels.clone()).unwrap().contains("normalised by channel"));
        // What versions before wrote.
        assert_eq!(differ(json!({}), json!({"scaling_factor": 0.4})), None);
        assert!(differ(json!({}), channels).is_some());
    }
}
