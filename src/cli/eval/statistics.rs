//! Statistics in a file of the user's: the published layout does not say of which network and mode they are, so what says it
//! goes with them, as a member of the archive that other tools do not look at. Computes nothing.

use super::network::Network;
use erw_base::error::{Error, Result};
use erw_ml::metrics::gaussian::STATS_FILE;
use erw_ml::models::feature_network::mode::Mode;
use erw_stages::NOTE_FILE;
use serde::Deserialize;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{DateTime, ZipArchive, ZipWriter};

/// A copy of the statistics in `dir` that is the user's, whole or not at all.
pub fn write(dir: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io("write", to, e);
    let mut beside = to.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    fs::copy(dir.join(STATS_FILE), &beside).map_err(failed)?;
    // The store's files are read-only.
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).map_err(failed)?;
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

/// What is told of statistics that were made here.
#[derive(Debug, Deserialize)]
pub struct Note {
    network: String,
    mode: Option<String>,
    preparation: String,
    weights: String,
}

/// What stands in the npz, or beside it in the folder of an artifact; `None` if others made it.
pub fn note(npz: &Path) -> Option<Note> {
    let beside = npz.with_file_name(NOTE_FILE);
    if npz.ends_with(STATS_FILE) && beside.is_file() {
        return serde_json::from_slice(&fs::read(beside).ok()?).ok();
    }
    let mut text = String::new();
    ZipArchive::new(File::open(npz).ok()?).ok()?.by_name(NOTE_FILE).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Of statistics and images of two networks.
pub fn of_another(given: &str, causes: Vec<String>) -> Error {
    let text = format!("`{given}` and the images were seen by other networks, so that no number says anything");
    Error { causes, ..Error::stage(text) }
}

impl Note {
    /// Refuses statistics of another network than images will be seen by, or of another mode, as far as that is known
    /// before. `given` is what stands on the command line for them.
    pub fn check(&self, given: &str, network: &Network, mode: Option<Mode>) -> Result<()> {
        // Of Inception's features a mode is always told, of others' none.
        if self.mode.is_some() != network.is_inception() {
            let text =
                format!("`{given}` is of the network `{}`, and the images would be seen by another", self.network);
            return Err(Error::usage(text).hint("name it by `--network`"));
        }
        match (&self.mode, mode.or_else(|| network.is_published().then_some(Mode::Adm))) {
            (Some(theirs), Some(ours)) if theirs != ours.name() => {
                let ours = ours.name();
                let text = format!("`{given}` is of mode {theirs}, and the images would be prepared as in {ours}");
                Err(Error::usage(text).hint(format!("`--mode {theirs}` compares with it")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a result, told in `detail`, that holds them against features of another network.
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
