//! The permissions that a new file would get. Libraries that write to a temporary file first make it
//! the user's alone, and so would be what others of a group are to go on with.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// What is withheld where the system does not tell.
const USUAL: u32 = 0o022;

/// Gives a file the permissions of one that was made in the ordinary way.
pub fn as_new(path: &Path) -> io::Result<()> {
    static WITHHELD: OnceLock<u32> = OnceLock::new();
    let withheld = *WITHHELD.get_or_init(|| own().unwrap_or(USUAL));
    fs::set_permissions(path, Permissions::from_mode(0o666 & !withheld))
}

/// The umask of this process, which only Linux tells without changing it.
fn own() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_becomes_an_ordinary_one() {
        let folder = tempfile::tempdir().unwrap();
        let (private, ordinary) = (folder.path().join("private"), folder.path().join("ordinary"));
        fs::write(&private, "").unwrap();
        fs::set_permissions(&private, Permissions::from_mode(0o600)).unwrap();
        fs::write(&ordinary, "").unwrap();
        as_new(&private).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&private), mode(&ordinary));
    }
}
