//! Which files of settings there are: the system's, the user's, and the project's.
//!
//! The project's is the nearest `erw.toml` in the folder of the pipeline or above it. The search
//! ends at the top of the repository (`.git`), below the user's home, and at a folder to which
//! everyone may write, such as `/tmp`: what lies there may be anybody's. Does not read them.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Whose settings a file holds, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    System,
    User,
    Project,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Project => "project",
        }
    }
}

/// A file that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub level: Level,
    pub path: PathBuf,
    /// Why it is not read although it is there.
    pub ignored: Option<String>,
}

/// The variable that names another file than `/etc/erw.toml`; empty for none.
pub const SYSTEM_VARIABLE: &str = "ERW_SYSTEM_CONFIG";
const SYSTEM: &str = "/etc/erw.toml";
/// The name of a project's file.
pub const PROJECT: &str = "erw.toml";

/// The files that are looked for, the weakest first. `folder` is where the search for the project's
/// file begins, absolute; without one there is no project.
pub fn candidates(folder: Option<&Path>, get: &dyn Fn(&str) -> Option<OsString>) -> Vec<Candidate> {
    let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = absolute("HOME");
    let system = get(SYSTEM_VARIABLE).map_or_else(|| Some(SYSTEM.into()), |path| Some(path).filter(|p| !p.is_empty()));
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(home.clone()?.join(".config")));
    let plain = |level, path| Candidate { level, path, ignored: None };
    let mut all = vec![];
    all.extend(system.map(|path| plain(Level::System, PathBuf::from(path))));
    all.extend(config.map(|folder| plain(Level::User, folder.join("erw/config.toml"))));
    all.extend(folder.map(|folder| project(folder, home.as_deref())));
    all
}

/// The nearest project's file at or above this folder; if there is none, the one that could be in
/// this folder.
fn project(start: &Path, home: Option<&Path>) -> Candidate {
    let candidate = |folder: &Path, ignored| Candidate { level: Level::Project, path: folder.join(PROJECT), ignored };
    let mut folder = start;
    loop {
        let is_there = folder.join(PROJECT).symlink_metadata().is_ok();
        let open = folder.metadata().is_ok_and(|m| m.permissions().mode() & 0o002 != 0);
        match (is_there, open) {
            (true, true) => return candidate(folder, Some("everyone may write to its folder".into())),
            (true, false) => return candidate(folder, None),
            (false, true) => break,
            (false, false) if folder.join(".git").symlink_metadata().is_ok() => break,
            (false, false) => {}
        }
        match folder.parent().filter(|above| home != Some(*above)) {
            Some(above) => folder = above,
            None => break,
        }
    }
    candidate(start, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_of_the_project_counts() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let path = |name: &str| top.join(name);
        for folder in ["home/project/sub/deep", "home/project/inner/.git", "open/sub"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        for file in ["home/erw.toml", "home/project/erw.toml", "open/erw.toml"] {
            std::fs::write(path(file), "").unwrap();
        }
        std::fs::set_permissions(path("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
        let find = |start: &str| project(&path(start), Some(&path("home"))).path;
        assert_eq!(find("home/project/sub/deep"), path("home/project/erw.toml"));
        assert_eq!(find("home/project/inner"), path("home/project/inner/erw.toml"), "a repository is its own project");
        assert_eq!(find("home"), path("home/erw.toml"), "whoever stands there means it");
        std::fs::remove_file(path("home/project/erw.toml")).unwrap();
        assert_eq!(find("home/project/sub"), path("home/project/sub/erw.toml"), "nobody's home is a project");
        let open = project(&path("open/sub"), None);
        assert!(open.path == path("open/erw.toml") && open.ignored.is_some(), "{open:?}");
    }

    #[test]
    fn places_come_from_the_environment() {
        let of = |set: &[(&str, &str)]| {
            let get = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            candidates(None, &get).into_iter().map(|c| c.path).collect::<Vec<_>>()
        };
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(of(&[]), paths(&["/etc/erw.toml"]));
        assert_eq!(of(&[("HOME", "/h")]), paths(&["/etc/erw.toml", "/h/.config/erw/config.toml"]));
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "relative"), ("ERW_SYSTEM_CONFIG", "")]),
            paths(&["/h/.config/erw/config.toml"])
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x"), ("ERW_SYSTEM_CONFIG", "/s")]),
            paths(&["/s", "/x/erw/config.toml"])
        );
    }
}
