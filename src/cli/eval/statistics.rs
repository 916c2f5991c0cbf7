//! Reads and writes statistics in files of the user. The published layout does not state network
//! and mode, so a note about them is added as a member of the archive, which other tools ignore.
//! Computes nothing.

use super::network::Network;
use erw_base::error::{Error, Result};
use erw_base::umask;
use erw_ml::metrics::gaussian::STATS_FILE;
use erw_ml::models::feature_network::mode::Mode;
use erw_stages::NOTE_FILE;
use serde::Deserialize;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{DateTime, ZipArchive, ZipWriter};

/// Copies the statistics in `dir` to a file of the user, atomically.
pub fn write(dir: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io("write", to, e);
    let mut beside = to.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    fs::copy(dir.join(STATS_FILE), &beside).map_err(failed)?;
    // The store's files are read-only.
    umask::as_new(&beside).map_err(failed)?;
    let note = fs::read(dir.join(NOTE_FILE)).map_err(|e| Error::io("read", &dir.join(NOTE_FILE), e))?;
    append(&beside, &note).map_err(failed)?;
    fs::rename(&beside, to).map_err(failed)
}

fn append(npz: &Path, note: &[u8]) -> std::io::Result<()> {
    let mut zip = ZipWriter::new_append(File::options().read(true).write(true).open(npz)?)?;
    zip.start_file(NOTE_FILE, SimpleFileOptions::default().last_modified_time(DateTime::default()))?;
    zip.write_all(note)?;
    zip.finish()?.sync_all()
}

/// The note about statistics that erw made.
#[derive(Debug, Deserialize)]
pub struct Note {
    network: String,
    mode: Option<String>,
    preparation: String,
    weights: String,
}

/// The note in the npz, or beside it in the folder of an artifact; `None` if another tool made the
/// statistics.
pub fn note(npz: &Path) -> Option<Note> {
    let beside = npz.with_file_name(NOTE_FILE);
    if npz.ends_with(STATS_FILE) && beside.is_file() {
        return serde_json::from_slice(&fs::read(beside).ok()?).ok();
    }
    let mut text = String::new();
    ZipArchive::new(File::open(npz).ok()?).ok()?.by_name(NOTE_FILE).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The error about statistics of another network than the images'.
pub fn of_another(given: &str, causes: Vec<String>) -> Error {
    let text = format!("`{given}` and the images have features of different networks, which cannot be compared");
    Error { causes, ..Error::stage(text) }
}

impl Note {
    /// Refuses statistics of another network or mode than the images will have, as far as that is
    /// known beforehand. `given` is the argument.
    pub fn check(&self, given: &str, network: &Network, mode: Option<Mode>) -> Result<()> {
        // Notes about Inception always state a mode, others never.
        if self.mode.is_some() != network.is_inception() {
            let text = format!(
                "`{given}` has features of the network `{}`, but the images would be measured with another",
                self.network
            );
            return Err(Error::usage(text).hint("give this network with `--network`"));
        }
        match (&self.mode, mode.or_else(|| network.is_published().then_some(Mode::Adm))) {
            (Some(theirs), Some(ours)) if theirs != ours.name() => {
                let ours = ours.name();
                let text = format!("`{given}` was made in mode {theirs}, but the images would be prepared for {ours}");
                Err(Error::usage(text).hint(format!("use `--mode {theirs}`")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a result (`detail`) that compares these statistics with features of another network.
    pub fn confirm(&self, given: &str, detail: &Value) -> Result<()> {
        let (network, preparation) = (&self.network, &self.preparation);
        let ours = [&detail["network"], &detail["preparation"], &detail["weights"]];
        if ours == [network.as_str(), preparation.as_str(), self.weights.as_str()] {
            return Ok(());
        }
        let told = |network: &str, preparation: &str, weights: &str| {
            format!("{network}, weights {}, {preparation}", weights.get(..12).unwrap_or(weights))
        };
        let [a, b, c] = ours.map(|value| value.as_str().unwrap_or_default());
        let cause = format!("`{given}`: {}\nthe images: {}", told(network, preparation, &self.weights), told(a, b, c));
        Err(of_another(given, vec![cause]))
    }
}
