//! What an attempt does with artifacts around its work: inputs are read before it, outputs after
//! it.
//!
//! Both read every byte, so they are done where the attempt is executed, not where the run is: a
//! login node of a cluster must not read what its nodes compute with. Does not know what the
//! artifacts are.

use super::tamper::{AT_A_TIME, InputSnapshot, IntegrityCheck, named};
use crate::cache::store::{KEPT, Store};
use crate::event::WorkerEvent;
use crate::files::digest::{Digest, Measured, measure};
use crate::files::disk;
use crate::files::watched::is_dropping;
use crate::kind::attempt::Job;
use crate::text::path_text;
use erw_base::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Makes empty folders for the outputs and checkpoints of an attempt.
///
/// # Errors
/// When the work folder cannot be written to.
pub fn make_room(job: &Job) -> Result<()> {
    let out = job.out_dir();
    disk::remove(&out).map_err(|e| Error::io("empty", &out, e))?;
    let mut folders = vec![out];
    folders.extend(job.keeps_checkpoints().then(|| job.checkpoint_dir()));
    // A command creates its outputs itself, as files or folders.
    if job.command.is_none() {
        folders.extend(job.outputs.keys().map(|name| job.output(name)));
    }
    folders.iter().try_for_each(|folder| std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e)))
}

/// The slots to be verified whose artifacts do not match their digests. Reads all of them.
pub fn damaged(store: &Store, integrity: &IntegrityCheck, job: &Job) -> Vec<String> {
    let sound = |slot: &String| {
        let artifact = job.inputs.get(slot).and_then(|path| named(path));
        artifact.is_some_and(|artifact| integrity.is_sound(store, &artifact))
    };
    job.unverified.par_iter().with_min_len(AT_A_TIME).filter(|slot| !sound(slot)).cloned().collect()
}

/// Snapshots of all inputs, which were just verified.
pub fn watch(integrity: &IntegrityCheck, job: &Job) -> InputSnapshot {
    let artifacts: Vec<Digest> = job.inputs.values().filter_map(|path| named(path)).collect();
    integrity.watch(artifacts.iter())
}

/// An artifact whose files a program changed no longer matches its digest and leaves the store.
/// Files that were only added to it are removed and the artifact stays; if they are what programs
/// drop anywhere, that is not an error.
///
/// # Errors
/// When the program wrote to its inputs.
pub fn inputs_unchanged(
    store: &Store,
    job: &Job,
    before: &InputSnapshot,
    tell: &mut dyn FnMut(WorkerEvent),
) -> Result<()> {
    let (mut slots, mut paths, mut lost) = (vec![], vec![], false);
    for change in before.changed(store) {
        let of = job.inputs.iter().filter(|(_, path)| named(path) == Some(change.digest));
        let of: Vec<String> = of.map(|(slot, _)| format!("`{slot}`")).collect();
        let is_whole = store.clear(&change);
        if is_whole && change.added.iter().all(|path| is_dropping(path)) {
            let text =
                format!("removed files that the stage added to input {}: {}", of.join(", "), some(&change.added));
            tell(WorkerEvent::Log { text });
            continue;
        }
        if !is_whole {
            store.quarantine(&change.digest)?;
            lost = true;
        }
        slots.extend(of);
        paths.extend(change.altered.into_iter().chain(change.added));
    }
    if slots.is_empty() {
        return Ok(());
    }
    paths.retain(|path| !path.as_os_str().is_empty());
    let which = if paths.is_empty() { String::new() } else { format!(": {}", some(&paths)) };
    Err(Error::stage(format!("the stage wrote to its input {}{which}", slots.join(", "))).hint(match lost {
        true => "copy an input before changing it; the stage that made the input runs again next time",
        false => "copy an input before adding files to it; the input was restored",
    }))
}

/// Checks that every declared output exists, and digests it.
///
/// # Errors
/// An output that is missing or cannot be read.
pub fn outputs(job: &Job) -> Result<BTreeMap<String, Measured>> {
    let mut outputs = BTreeMap::new();
    for name in job.outputs.keys() {
        let path = job.output(name);
        if std::fs::symlink_metadata(&path).is_err() {
            return Err(lacking(job, name));
        }
        let within = format!("output `{name}`");
        disk::own(&path).map_err(|e| Error::io("take ownership of", &path, e).within(&within))?;
        let found = measure(&path).map_err(|e| e.within(&within))?;
        // A program creates its output folders itself, empty or not; for our kinds they were
        // created before.
        if found.files == 0 && job.command.is_none() {
            return Err(lacking(job, name));
        }
        outputs.insert(name.clone(), found);
    }
    Ok(outputs)
}

fn lacking(job: &Job, name: &str) -> Error {
    let undeclared = undeclared(job);
    let error = Error::stage(format!("the stage ended without creating its output `{name}`"))
        .hint(format!("expected at `{}`", job.output(name).display()));
    if undeclared.is_empty() { error } else { error.hint(format!("found instead: {}", undeclared.join(", "))) }
}

/// Names among the outputs of an attempt that belong to no declared output.
pub fn undeclared(job: &Job) -> Vec<String> {
    let paths = disk::list(&job.out_dir()).unwrap_or_default();
    let names = paths.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    names.filter(|name| !job.outputs.contains_key(name)).collect()
}

/// The first few paths.
pub fn some(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("`{}`", path_text::text(path))).collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Rejected outputs may have taken days to compute: they are kept for inspection.
pub fn aside(job: &Job, error: Error) -> Error {
    let (out, kept) = (job.out_dir(), job.work_dir.join(KEPT));
    let resumable = disk::list(&job.checkpoint_dir()).is_ok_and(|c| !c.is_empty());
    let error = match resumable {
        true => error.hint("undo the change, and it resumes from its last checkpoint"),
        false => error,
    };
    let made = disk::list(&out).is_ok_and(|made| !made.is_empty());
    if !made || disk::remove(&kept).and_then(|()| std::fs::rename(&out, &kept)).is_err() {
        return error;
    }
    error.hint(format!("its outputs are kept in `{}`; `erw cache gc --checkpoints` removes them", kept.display()))
}
