//! Requests to stop, as files: whoever may write to the cache folder can ask a run on any host, and
//! a job whose run is gone.
//!
//! ```text
//! runs/<id>/stop        the whole run, see `journal`
//! v1/work/<key>/stop    the stage that has this work folder
//! ```
//!
//! A request counts for whoever holds the lock of the key, or will find its job; a later run
//! withdraws it. Does not know who obeys.

use crate::files::disk::{Durability, write_file};
use erw_base::error::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The request of this folder, whether it is there or not.
pub fn file(folder: &Path) -> PathBuf {
    folder.join("stop")
}

/// Whether a stop is requested.
pub fn is_there(folder: &Path) -> bool {
    file(folder).exists()
}

/// Requests a stop. Where the folder is gone, there is nothing to stop.
pub fn ask(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let file = file(folder);
    write_file(&file, b"", Durability::Now).map_err(|e| Error::io("write", &file, e))
}

/// Takes an earlier request back.
pub fn withdraw(folder: &Path) -> Result<()> {
    let file = file(folder);
    match std::fs::remove_file(&file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &file, e)),
        _ => Ok(()),
    }
}
