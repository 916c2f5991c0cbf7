//! What a project may not say unasked. A project is often somebody else's, fetched to be read or
//! tried. Its `remote` decides where results are sent and whose are believed; its `registry`
//! decides which files published names mean. Both are used only if the user trusts the folder. Also
//! tells addresses that hold a password. Does not know layers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Whether the file lies in or below one of the trusted folders. Links are followed, so that a link
/// cannot pretend.
pub(super) fn covers(trusted: &[PathBuf], file: &Path) -> bool {
    let real = file.parent().and_then(|folder| folder.canonicalize().ok());
    let holds = |real: &PathBuf| trusted.iter().filter_map(|t| t.canonicalize().ok()).any(|t| real.starts_with(t));
    real.is_some_and(|real| holds(&real))
}

/// Whether an address holds a password or a token.
pub fn holds_secret(address: &str) -> bool {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    host.contains('@') || rest.contains('?')
}

/// Whether others than its owner may read a file.
pub(super) fn is_read_by_others(file: &Path) -> bool {
    file.metadata().is_ok_and(|m| m.permissions().mode() & 0o044 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_cannot_pretend_to_be_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["mine/a", "mine-too", "theirs"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        std::os::unix::fs::symlink(path("theirs"), path("mine/link")).unwrap();
        let trusted = [path("mine"), path("gone")];
        let covers = |file: &str| covers(&trusted, &path(file));
        assert!(covers("mine/erw.toml") && covers("mine/a/erw.toml"));
        assert!(!covers("mine-too/erw.toml"), "a prefix of folders, not of letters");
        assert!(!covers("mine/link/erw.toml") && !covers("theirs/erw.toml") && !covers("gone/erw.toml"));
    }
}
