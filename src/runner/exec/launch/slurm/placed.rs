//! The note of a job that was, or is about to be, submitted: `placed.json` in the work folder of
//! its stage. Whoever holds the lock of the key may change it. Does not know the scheduler.

use crate::cache::key::Key;
use crate::cache::store::{PLACED, Store};
use crate::files::digest::Digest;
use crate::files::disk::{Durability, list, read_json, write_json};
use crate::host::{user, utc_now};
use crate::kind::attempt::Job;
use erw_base::error::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A job that was, or is about to be, submitted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Placed {
    pub attempt: u32,
    /// By which it is found again.
    pub name: String,
    #[serde(default)]
    pub stage: String,
    /// Name of the pipeline, and its file without links.
    #[serde(default)]
    pub pipeline: String,
    #[serde(default)]
    pub file: PathBuf,
    #[serde(default)]
    pub user: String,
    /// When, UTC.
    #[serde(default)]
    pub at: String,
    /// It was asked to stop while no run attended it.
    #[serde(default)]
    pub stopped: bool,
}

impl Placed {
    pub(super) fn now(job: &Job) -> Self {
        Self {
            attempt: job.attempt,
            name: name(job),
            stage: job.stage.clone(),
            pipeline: job.pipeline.clone(),
            file: job.pipeline_file.clone(),
            user: user(),
            at: utc_now(),
            stopped: false,
        }
    }

    pub fn file(work: &Path) -> PathBuf {
        work.join(PLACED)
    }

    /// Where its worker reports its end.
    pub(super) fn end_file(&self, work: &Path) -> PathBuf {
        work.join(format!("attempt-{}.end.json", self.attempt))
    }

    pub fn read(work: &Path) -> Result<Option<Self>> {
        read_json(&Self::file(work))
    }

    pub(super) fn write(&self, work: &Path) -> Result<()> {
        write_json(&Self::file(work), self, Durability::Now)
    }

    /// All notes of a cache folder, the oldest first.
    pub fn all(store: &Store) -> Result<Vec<(Key, Self)>> {
        let mut all = vec![];
        for work in list(&store.v1("work"))? {
            let name = work.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(key) = name.parse::<Digest>().map(Key::from) else { continue };
            all.extend(Self::read(&work)?.map(|placed| (key, placed)));
        }
        all.sort_by(|(_, a), (_, b)| (&a.at, &a.stage).cmp(&(&b.at, &b.stage)));
        Ok(all)
    }
}

/// The name of a job. Sixteen digits of the key and the cache folder together: the same action in
/// another cache is another job.
fn name(job: &Job) -> String {
    token(&job.cache, &job.key)
}

/// A name that is the same for the same thing in the same cache folder.
pub(super) fn token(cache: &Path, what: &str) -> String {
    let place = std::fs::canonicalize(cache).unwrap_or_else(|_| cache.into());
    let text = format!("{what} {}", place.display());
    format!("erw-{}", &blake3::hash(text.as_bytes()).to_hex()[..16])
}
