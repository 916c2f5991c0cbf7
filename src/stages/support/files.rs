//! Writes the files of artifacts: JSON, JSON lines, folders; and reads JSON.

use erw_base::error::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes pretty-printed JSON with a final newline.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::stage(format!("cannot write `{}`", path.display())).because(e))?;
    std::fs::write(path, text + "\n").map_err(|e| Error::io("write", path, e))
}

/// # Errors
/// A file that cannot be read, or that is not what it should be.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::stage(format!("cannot read `{}`", path.display())).because(e))
}

/// Writes JSON lines, one line per value.
pub fn write_lines<T: serde::Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        for value in values {
            serde_json::to_writer(&mut out, value)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    write().map_err(|e| Error::io("write", path, e))
}

pub fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))
}

/// Moves every file of `from` into `to`, which is created if missing. Both must be on the same file
/// system.
pub fn move_files(from: &Path, to: &Path) -> Result<()> {
    create_dir(to)?;
    for entry in std::fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let path = entry.map_err(|e| Error::io("list", from, e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        std::fs::rename(&path, &target).map_err(|e| Error::io("move", &path, e))?;
    }
    Ok(())
}

/// File of a `stats` artifact that describes how erw made it, beside `STATS_FILE`. Statistics from
/// other tools have none.
pub const NOTE_FILE: &str = "stats.json";
