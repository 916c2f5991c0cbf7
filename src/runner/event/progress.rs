//! What an unfinished attempt left behind, and where the next one resumes. A worker notes each
//! checkpoint beside the checkpoints; their contents are up to kinds and programs.

use crate::files::disk;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// In a work folder.
const FILE: &str = "reached.json";

/// The last checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub step: u64,
    /// The total, if it was known by then.
    pub of: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialProgress {
    /// Attempts so far.
    pub attempts: usize,
    pub checkpoint: Option<Reached>,
    /// There are files among the checkpoints without a noted step, mostly of a program.
    pub unnoted: bool,
}

impl PartialProgress {
    /// Reads the work folder of an action; `None` if nothing was started.
    pub fn in_folder(work: &Path) -> Option<Self> {
        let begun = disk::list(work).ok()?;
        let is_log = |name: &str| name.starts_with("attempt-") && name.ends_with(".log");
        let attempts = begun.iter().filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(is_log)).count();
        if attempts == 0 {
            return None;
        }
        let kept = disk::list(&work.join("checkpoints")).unwrap_or_default();
        // Settings beside the checkpoints are not checkpoints.
        let is_work = |path: &&std::path::PathBuf| path.extension().is_none_or(|e| e != "json" || path.is_dir());
        let note = std::fs::read(work.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let checkpoint = note.filter(|_| !kept.is_empty());
        let unnoted = checkpoint.is_none() && kept.iter().filter(is_work).any(|path| !is_empty(path));
        Some(Self { attempts, checkpoint, unnoted })
    }
}

fn is_empty(path: &Path) -> bool {
    path.is_dir() && disk::list(path).is_ok_and(|all| all.is_empty())
}

/// Notes a checkpoint atomically. The next attempt finds a checkpoint even if it was not noted.
pub fn note(work: &Path, reached: Reached) {
    let part = work.join("reached.part");
    let Ok(text) = serde_json::to_vec(&reached) else { return };
    let _ = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, work.join(FILE)));
}

impl fmt::Display for PartialProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.checkpoint, self.unnoted) {
            (Some(Reached { step, of: Some(of) }), _) => write!(f, "resumes at {step} of {of}"),
            (Some(Reached { step, of: None }), _) => write!(f, "resumes at {step}"),
            (None, true) => f.write_str("resumes from its checkpoints"),
            (None, false) => f.write_str("starts over: no checkpoint yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path();
        let told = || PartialProgress::in_folder(work).map(|left| left.to_string());
        assert_eq!(PartialProgress::in_folder(&work.join("none")), None);
        assert_eq!(told(), None, "nothing was begun");
        std::fs::write(work.join("attempt-1.log"), "").unwrap();
        std::fs::create_dir(work.join("checkpoints")).unwrap();
        std::fs::write(work.join("checkpoints/config.json"), "{}").unwrap();
        assert_eq!(told().unwrap(), "starts over: no checkpoint yet");
        std::fs::create_dir(work.join("checkpoints/latents")).unwrap();
        assert_eq!(told().unwrap(), "starts over: no checkpoint yet");
        std::fs::write(work.join("checkpoints/state"), "x").unwrap();
        assert_eq!(told().unwrap(), "resumes from its checkpoints");
        note(work, Reached { step: 59, of: Some(150) });
        assert_eq!(told().unwrap(), "resumes at 59 of 150");
        note(work, Reached { step: 64, of: None });
        assert_eq!(told().unwrap(), "resumes at 64");
        std::fs::remove_dir_all(work.join("checkpoints")).unwrap();
        assert_eq!(told().unwrap(), "starts over: no checkpoint yet", "a note alone is no checkpoint");
    }
}
