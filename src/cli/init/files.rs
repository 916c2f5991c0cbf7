//! Files of a new pipeline: nothing is replaced unasked, and the next command is told. Does not know
//! what is in them.

use crate::schema;
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_runner::kind::Registry;
use erw_runner::text::shell::quoted;
use std::path::{Path, PathBuf};

/// Keeps the cache out of git.
const IGNORE_FILE: &str = ".gitignore";
const IGNORED: &str = "/cache/";

/// Where to write.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Folder to write into; default: this one
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Replace files that exist
    #[arg(short, long)]
    force: bool,
}

impl Target {
    /// A file in the folder to write into.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.as_deref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }

    /// Whether it is the current folder.
    pub fn is_here(&self) -> bool {
        let place = |path: &Path| path.canonicalize().ok();
        self.dir.as_deref().is_none_or(|dir| place(dir).is_some_and(|there| place(Path::new(".")) == Some(there)))
    }
}

/// Checks that none of these files exists, unless they may be replaced.
pub fn check<'a>(target: &Target, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    // A broken link exists, too: writing would follow it.
    match names.find(|name| target.path(name).symlink_metadata().is_ok()) {
        Some(name) if !target.force => {
            let text = format!("`{}` exists already", near(&target.path(name)));
            Err(Error::usage(text).hint("pass `--force` to replace it, or name another folder"))
        }
        _ => Ok(()),
    }
}

/// Writes a file and the folders around it.
pub fn write(target: &Target, name: &str, contents: &[u8]) -> Result<()> {
    let path = target.path(name);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    }
    std::fs::write(&path, contents).map_err(|e| Error::io("write", &path, e))
}

/// Adds the cache to the list of what git ignores, and keeps what is in there. Says whether it
/// changed.
pub fn ignore_cache(target: &Target) -> Result<bool> {
    let path = target.path(IGNORE_FILE);
    let mut list = match std::fs::read(&path) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let is_ignored = |line: &[u8]| line.trim_ascii().strip_prefix(b"/").unwrap_or(line.trim_ascii()) == b"cache/";
    if list.split(|byte| *byte == b'\n').any(is_ignored) {
        return Ok(false);
    }
    if !list.is_empty() && !list.ends_with(b"\n") {
        list.push(b'\n');
    }
    list.extend(format!("{IGNORED}\n").into_bytes());
    write(target, IGNORE_FILE, &list)?;
    Ok(true)
}

/// Writes the schema that the pipeline names, as this program knows it: it is made, so one of an
/// older program is replaced unasked.
pub fn write_schema(target: &Target, registry: Registry) -> Result<()> {
    write(target, schema::FILE, schema::text(registry)?.as_bytes())
}

/// The command that runs what was written, for a shell. In its folder, where the cache will be.
pub fn next(target: &Target, pipeline: &str) -> String {
    let folder = target.dir.as_deref().filter(|_| !target.is_here());
    // A folder `-x` is no option.
    let folder = folder.map(|dir| if dir.is_absolute() { dir.into() } else { Path::new(".").join(dir) });
    let cd = folder.map(|dir| format!("cd {} && ", quoted(&dir.to_string_lossy()))).unwrap_or_default();
    format!("next: {cd}erw run {pipeline}\n")
}
