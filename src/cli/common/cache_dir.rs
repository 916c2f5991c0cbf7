//! Finds the cache folder: `--cache-dir`, otherwise ERW_CACHE_DIR, otherwise the setting `cache_dir`
//! of a file, otherwise `cache`. A variable or the default, if relative, is looked for in the
//! current folder and its parents, because users also call erw from the folders inside a project.
//! The search ends at the top of the repository (`.git`) or below the user's home. A folder that
//! another program tagged as its cache (CACHEDIR.TAG) ends it too: what lies in there, such as a
//! test's folder in `target`, belongs to no project. If the default is found nowhere, a new cache
//! is made beside the project's `erw.toml`, or else in the current folder.

use erw_report::table::near;
use erw_runner::cache::store::Store;
use erw_runner::settings::{Origin, Resolved};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

const NAME: &str = "cache";

/// The cache folder. A note names one that is not in the current folder and that nobody named.
pub fn cache_dir(typed: Option<&Path>, site: &Resolved) -> PathBuf {
    let (dir, is_surprising) = find(typed, site);
    if is_surprising {
        let note = format!("note: using the cache `{}`; `--cache-dir` selects another\n", near(&dir));
        let _ = std::io::stderr().lock().write_all(note.as_bytes());
    }
    dir
}

/// The cache folder, and whether it needs a note.
pub fn find(typed: Option<&Path>, site: &Resolved) -> (PathBuf, bool) {
    if let Some(typed) = typed {
        return (typed.into(), false);
    }
    let named = site.settings.cache_dir.clone();
    let named = match (site.origin("cache_dir"), named) {
        (Origin::File(_), Some(dir)) => return (dir, false),
        (_, named) => named,
    };
    let name = named.as_deref().unwrap_or(Path::new(NAME));
    let Ok(here) = std::env::current_dir() else { return (name.into(), false) };
    let home = std::env::var_os("HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(above) = above(&here, name, home.as_deref()) {
        return (above, true);
    }
    match &site.project {
        Some(project) if named.is_none() && !Store::is_at(&here.join(NAME)) => {
            let is_here = project.canonicalize().is_ok_and(|project| here.canonicalize().is_ok_and(|h| h == project));
            if is_here { (NAME.into(), false) } else { (project.join(NAME), true) }
        }
        _ => (name.into(), false),
    }
}

/// The nearest cache of this name above `here`, unless `here` has one.
fn above(here: &Path, named: &Path, home: Option<&Path>) -> Option<PathBuf> {
    let is_below = named.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !is_below || Store::is_at(&here.join(named)) {
        return None;
    }
    let ends = |folder: &Path| folder.join(".git").exists() || Store::is_tagged(folder);
    let mut folder = here;
    while !ends(folder) {
        folder = folder.parent().filter(|above| home != Some(*above))?;
        let cache = folder.join(named);
        if !Store::is_tagged(folder) && Store::is_at(&cache) {
            return Some(cache);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_cache_of_the_project_counts() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let path = |name: &str| top.join(name);
        for folder in ["project/sub/deep", "project/inner/.git", "project/inner/sub", "project/target/tmp", "other/sub"]
        {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        let tag = |folder: &str| {
            std::fs::create_dir_all(path(folder)).unwrap();
            std::fs::write(path(folder).join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
        };
        drop(Store::open(&path("project/cache")).unwrap());
        tag("project/target");
        tag("other/cache");
        let find = |here: &str, named: &str| above(&path(here), Path::new(named), Some(&top));
        let project = Some(path("project/cache"));
        assert_eq!([find("project/sub", NAME), find("project/sub/deep", "./cache")], [project.clone(), project]);
        assert_eq!(find("project", NAME), None, "it is here");
        assert_eq!(find("project/inner/sub", NAME), None, "a repository is a project of its own");
        assert_eq!(find("project/target/tmp", NAME), None, "what lies in the cache of another program is in none");
        assert_eq!(find("other/sub", NAME), None, "the cache of another program is none");
        assert_eq!([find("project/sub", "/cache"), find("project/sub", "../cache")], [None, None]);
        assert_eq!(
            above(&path("project/sub"), Path::new(NAME), Some(&path("project"))),
            None,
            "nobody's home is a project"
        );
    }
}
