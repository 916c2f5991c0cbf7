//! Trust on first use: `pins.json` in the downloads folder maps the address of each file without a
//! registry hash to the SHA-256 of its first download. Does not know how files are fetched.

use erw_base::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const FILE: &str = "pins.json";

#[derive(Debug, Clone)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// The hash of the file at this address when it was first fetched.
    pub fn get(&self, origin: &str) -> Result<Option<String>> {
        Ok(self.read()?.remove(origin))
    }

    /// Pins `sha256` for `origin`, unless another process has pinned a hash meanwhile; returns the
    /// pinned hash.
    pub fn trust(&self, origin: &str, sha256: &str) -> Result<String> {
        let path = self.path();
        let failed = |e| Error::io("write", &path, e);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(self.folder.join(".pins.lock"));
        let lock = lock.map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut all = self.read()?;
        let pinned = all.entry(origin.to_string()).or_insert_with(|| sha256.to_string()).clone();
        let text = serde_json::to_string_pretty(&all).map_err(|e| failed(e.into()))?;
        let tmp = self.folder.join(".pins.tmp");
        let write = || {
            let mut file = File::create(&tmp)?;
            file.write_all(format!("{text}\n").as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&tmp, &path)
        };
        write().map_err(failed)?;
        Ok(pinned)
    }

    fn read(&self) -> Result<BTreeMap<String, String>> {
        let path = self.path();
        match erw_base::text::read(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| {
                // Starting over would trust whatever the server has today.
                Error::usage(format!("cannot parse `{}`", path.display()))
                    .because(e)
                    .hint("fix it, or delete it to trust the files again on their next download")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::of(&dir.path().join("downloads"));
        assert_eq!(pins.get("https://x").unwrap(), None);
        assert_eq!(pins.trust("https://x", "aa").unwrap(), "aa");
        assert_eq!(pins.trust("https://x", "bb").unwrap(), "aa");
        assert_eq!(pins.trust("https://y", "cc").unwrap(), "cc");
        assert_eq!(pins.get("https://x").unwrap().as_deref(), Some("aa"));
        std::fs::write(pins.path(), "{").unwrap();
        assert!(pins.get("https://x").unwrap_err().message.contains("pins.json"));
        assert!(pins.trust("https://x", "aa").is_err(), "a broken file is not written over");
    }
}
