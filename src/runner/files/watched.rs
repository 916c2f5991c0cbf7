//! Which files of a watched folder count: one rule for keys, plans, `--since`, `run --watch` and
//! lock files. Excluded are files that programs leave behind (caches, editor files, version
//! control), whatever the pipeline's `ignore` names, and cache folders of any program, marked by a
//! `CACHEDIR.TAG`, so that `watch = ["."]` is useful.
//!
//! The names are patterns as in `.gitignore`, and so are those of `ignore`, which come later and
//! can re-include a file (`"!*.pyc"`). An entry of `watch` may be a pattern too: it selects the
//! matching files and everything in matching folders. Source files and folders that are not watched
//! are not filtered. Does not know digests.

use erw_base::braces;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Left behind anywhere by programs as a side effect.
const DROPPINGS: [&str; 12] = [
    "__pycache__/",
    "*.py[co]",
    ".ipynb_checkpoints/",
    ".pytest_cache/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".DS_Store",
    "._*",
    "Thumbs.db",
    "desktop.ini",
    ".directory",
    "@eaDir/",
];

/// Version control, editors, and operating systems.
const OTHERS: [&str; 32] = [
    ".git",
    ".hg/",
    ".svn/",
    ".jj/",
    ".bzr/",
    "_darcs/",
    "CVS/",
    // Emacs, vi, Kate, JetBrains, nano and joe, LibreOffice, Office, GNOME, VS Code.
    ".#*",
    "\\#*#",
    "*~",
    ".*.sw[a-z]",
    ".sw[a-p]",
    ".*.un~",
    ".*.kate-swp",
    "*___jb_tmp___",
    "*___jb_old___",
    ".*.save",
    "DEADJOE",
    ".~lock.*#",
    "~$*",
    ".goutputstream-*",
    ".vscode/",
    ".idea/",
    // Files removed while open, on NFS and FUSE; trash; search indexes.
    ".nfs[0-9a-f]*",
    ".fuse_hidden*",
    ".Trash",
    ".Trash-*",
    ".Trashes",
    ".Spotlight-V100",
    ".fseventsd",
    ".thumbnails/",
    "lost+found/",
];

/// Start of a file that marks its folder as a cache: <https://bford.info/cachedir/>.
const CACHE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

static DROPPED: LazyLock<Gitignore> = LazyLock::new(|| matcher(&DROPPINGS));

/// Whether a file is a side effect of a program, by its name or that of a folder above it.
pub fn is_dropping(path: &Path) -> bool {
    path.ancestors().filter(|p| !p.as_os_str().is_empty()).any(|p| DROPPED.matched(p, true).is_ignore())
}

/// Compiles built-in patterns, which are valid.
fn matcher(patterns: &[&str]) -> Gitignore {
    compile(patterns.iter().copied()).unwrap_or_else(|_| Gitignore::empty())
}

/// The error names the invalid pattern and the reason.
fn compile<'p>(patterns: impl Iterator<Item = &'p str>) -> Result<Gitignore, String> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|e| e.to_string())?;
    }
    builder.build().map_err(|e| e.to_string())
}

/// The rule for one watched file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Rule {
    /// Path of the folder relative to where the `ignore` patterns start; empty if it is elsewhere
    /// or nothing is ignored.
    at: PathBuf,
    /// The files that are selected, if not all.
    glob: Option<String>,
    ignore: Vec<String>,
    /// `glob` has braces, and every file that they name is selected and must be there. No other
    /// pattern counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    named: bool,
}

/// A compiled rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Rule", into = "Rule")]
pub struct Watched(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    ignore: Gitignore,
    glob: Option<Gitignore>,
    names: Option<Names>,
}

/// The files that braces name, in order, and the folders around them.
#[derive(Debug)]
struct Names {
    all: Vec<PathBuf>,
    files: HashSet<PathBuf>,
    folders: HashSet<PathBuf>,
}

impl From<Watched> for Rule {
    fn from(watched: Watched) -> Self {
        watched.0.rule.clone()
    }
}

impl TryFrom<Rule> for Watched {
    type Error = String;
    fn try_from(rule: Rule) -> Result<Self, String> {
        // Rules without patterns, which most are, share one instance.
        static PLAIN: LazyLock<Option<Watched>> = LazyLock::new(|| Watched::compiled(Rule::default()).ok());
        match &*PLAIN {
            Some(plain) if rule == Rule::default() => Ok(plain.clone()),
            _ => Self::compiled(rule),
        }
    }
}

impl Watched {
    /// The rule for the entry `text` of a list `watch` in the folder `base`, with the patterns of
    /// its `ignore`. Also returns the path to watch. If a file with the name of the pattern exists,
    /// the entry means that file.
    pub fn of(text: &str, base: &Path, ignore: &[String]) -> Result<(PathBuf, Self), String> {
        let is_glob = text.contains(['*', '?', '[', '{']) && std::fs::symlink_metadata(base.join(text)).is_err();
        let (folder, glob) = if is_glob { split(text)? } else { (PathBuf::from(text), None) };
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let at = if ignore.is_empty() { PathBuf::new() } else { within(&folder, base) };
        Ok((base.join(&folder), Self::try_from(Rule { at, glob, ignore: ignore.to_vec(), named: false })?))
    }

    /// The rule for a path with braces, such as `shards/train-{000..146}.tar`, and the folder of
    /// what it names; `None` of another path, or if a file has this very name.
    pub fn of_braces(text: &str, base: &Path) -> Option<Result<(PathBuf, Self), String>> {
        let (folder, pattern) = braces::split(text).filter(|_| !base.join(text).exists())?;
        let rule = Rule { glob: Some(pattern.into()), named: true, ..Rule::default() };
        let folder = if folder.is_empty() { "." } else { folder };
        Some(Self::try_from(rule).map(|watched| (base.join(folder), watched)))
    }

    /// The files that braces name, in order; `None` of another rule.
    pub fn names(&self) -> Option<&[PathBuf]> {
        self.0.names.as_ref().map(|names| names.all.as_slice())
    }

    fn compiled(rule: Rule) -> Result<Self, String> {
        if rule.named {
            let all = braces::relative_names(rule.glob.as_deref().unwrap_or_default())?;
            let folders = all.iter().flat_map(|name| name.ancestors().skip(1)).map(Path::to_path_buf).collect();
            let names = Names { files: all.iter().cloned().collect(), folders, all };
            let ignore = Gitignore::empty();
            return Ok(Self(Arc::new(Compiled { rule, ignore, glob: None, names: Some(names) })));
        }
        let ours = DROPPINGS.iter().chain(&OTHERS).copied();
        let ignore = compile(ours.chain(rule.ignore.iter().map(String::as_str)))?;
        let glob = rule.glob.as_ref().map(|glob| compile(std::iter::once(format!("/{glob}").as_str()))).transpose()?;
        Ok(Self(Arc::new(Compiled { rule, ignore, glob, names: None })))
    }

    pub fn rule(&self) -> &Rule {
        &self.0.rule
    }

    pub fn glob(&self) -> Option<&str> {
        self.0.rule.glob.as_deref()
    }

    /// Whether the rule excludes `path` below the watched folder `root`. Does not check the folders
    /// above it.
    pub fn leaves_out(&self, root: &Path, path: &Path, is_dir: bool) -> bool {
        let relative = path.strip_prefix(root).unwrap_or(path);
        if let Some(names) = &self.0.names {
            return if is_dir { !names.folders.contains(relative) } else { !names.files.contains(relative) };
        }
        match self.0.ignore.matched(self.0.rule.at.join(relative), is_dir) {
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
            Match::None => {}
        }
        match is_dir {
            true => is_cache(path),
            false => is_probe(path) || is_lock(path),
        }
    }

    /// Whether the pattern selects this file; without a pattern it selects every file.
    pub fn means(&self, relative: &Path) -> bool {
        if let Some(names) = &self.0.names {
            return names.files.contains(relative);
        }
        let Some(glob) = &self.0.glob else { return true };
        let mut folders = relative.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
        glob.matched(relative, false).is_ignore() || folders.any(|p| glob.matched(p, true).is_ignore())
    }

    /// Whether a path below the folder counts, or counted before it was removed.
    pub fn concerns(&self, root: &Path, path: &Path) -> bool {
        let Ok(relative) = path.strip_prefix(root) else { return false };
        let out = |p: &Path| self.leaves_out(root, &root.join(p), p != relative || path.is_dir());
        let parts = relative.ancestors().filter(|p| !p.as_os_str().is_empty());
        !parts.into_iter().any(out) && (path.is_dir() || self.means(relative))
    }

    /// Whether the pattern selects any existing file.
    pub fn finds_any(&self, root: &Path) -> bool {
        let walk = walkdir::WalkDir::new(root).follow_links(true).into_iter();
        let mut left =
            walk.filter_entry(|e| e.depth() == 0 || !self.leaves_out(root, e.path(), e.file_type().is_dir()));
        left.any(|e| {
            // Unreadable folders are reported when they are read.
            let Ok(entry) = e else { return true };
            !entry.file_type().is_dir() && self.means(entry.path().strip_prefix(root).unwrap_or(entry.path()))
        })
    }
}

/// Splits a pattern into its folder and the rest.
fn split(text: &str) -> Result<(PathBuf, Option<String>), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let first = parts.iter().position(|part| part.contains(['*', '?', '[', '{'])).unwrap_or(parts.len());
    let pattern = &parts[first..];
    if pattern.contains(&"..") || pattern.contains(&".") {
        return Err(format!("`{text}` has `.` or `..` after a wildcard"));
    }
    let folder = match parts[..first].join("/") {
        empty if empty.is_empty() && first > 0 => "/".into(),
        folder => folder,
    };
    Ok((folder.into(), Some(pattern.join("/"))))
}

/// The path relative to `base`; empty if it is elsewhere.
fn within(path: &Path, base: &Path) -> PathBuf {
    let absolute = std::path::absolute(base).unwrap_or_default();
    let path = if path.is_absolute() { path.strip_prefix(absolute).unwrap_or(Path::new("..")) } else { path };
    let mut at = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::ParentDir if at.pop() => {}
            Component::CurDir => {}
            _ => return PathBuf::new(),
        }
    }
    at
}

fn is_cache(folder: &Path) -> bool {
    begins(&folder.join("CACHEDIR.TAG"), CACHE)
}

/// vi creates an empty file of this name to test whether it can write to a folder.
fn is_probe(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new("4913")) && path.metadata().is_ok_and(|m| m.len() == 0)
}

/// A lock file contains the digest of the folder that it is in.
fn is_lock(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("lock")) && begins(path, LOCK_HEAD.as_bytes())
}

fn begins(path: &Path, with: &[u8]) -> bool {
    let mut start = vec![0; with.len()];
    path.is_file() && std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut start)).is_ok() && start == with
}

pub(crate) const LOCK_HEAD: &str =
    "# What every stage made. `erw run --lock` writes it, `erw run --locked` holds a run against it. Commit it.\n";

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn rule(text: &str, ignore: &[&str]) -> Watched {
        let ignore: Vec<String> = ignore.iter().map(|i| i.to_string()).collect();
        Watched::of(text, Path::new("base"), &ignore).unwrap().1
    }

    fn out(rule: &Watched, path: &str) -> bool {
        let root = Path::new("/nowhere");
        let is_dir = path.ends_with('/');
        rule.leaves_out(root, &root.join(path.trim_end_matches('/')), is_dir)
    }

    #[test]
    fn what_programs_leave_behind_is_out_and_what_people_write_is_in() {
        let rule = rule("src", &[]);
        for path in [
            "__pycache__/",
            "a/b/__pycache__/",
            "x.pyc",
            "a/x.pyo",
            ".ipynb_checkpoints/",
            ".git/",
            ".git",
            "sub/.hg/",
            ".svn/",
            ".jj/",
            ".#model.py",
            "#model.py#",
            "model.py~",
            ".model.py.swp",
            ".model.py.swo",
            ".model.py.swx",
            ".a.kate-swp",
            "a.py___jb_tmp___",
            "a.py___jb_old___",
            ".DS_Store",
            "._a",
            "Thumbs.db",
            ".~lock.a.ods#",
            "~$a.docx",
            ".nfs000000000001",
            ".fuse_hidden0001",
            ".goutputstream-ABC",
        ] {
            assert!(out(&rule, path), "{path}");
        }
        for path in [
            "a.py",
            "swp",
            "a.swp.py",
            "git/",
            ".gitignore",
            ".env",
            "pycache/",
            "#a",
            "a#",
            "Makefile.lock",
            "~a",
            "4914",
        ] {
            assert!(!out(&rule, path), "{path}");
        }
    }

    #[test]
    fn patterns_of_the_pipeline_come_after_and_start_at_its_folder() {
        let of = rule("./src", &["*.log", "/src/gen/", "/top", "!keep.log", "!*.pyc"]);
        for (path, is_out) in [
            ("a.log", true),
            ("x/a.log", true),
            ("keep.log", false),
            ("gen/", true),
            ("x/gen/", false),
            ("top", false),
            ("a.pyc", false),
        ] {
            assert_eq!(out(&of, path), is_out, "{path}");
        }
        assert!(Watched::of("src", Path::new(""), &["[z-a]".to_string()]).is_err());
    }

    #[test]
    fn a_pattern_means_files_and_all_in_folders() {
        let means = |text: &str, path: &str| rule(text, &[]).means(Path::new(path));
        assert!(means("*.py", "a.py") && !means("*.py", "d/a.py") && !means("*.py", "a.pyx"));
        assert!(means("src/**/*.py", "a.py") && means("src/**/*.py", "b/c/a.py"));
        assert!(means("d?", "dd/any/thing") && !means("d?", "ddd"));
        assert!(means("{a,b}.txt", "b.txt") && means("[ab]*", "box") && !means("[ab]*", "cat"));
        assert_eq!(Watched::of("a/b/*.py", Path::new("base"), &[]).unwrap().0, Path::new("base/a/b"));
        assert_eq!(Watched::of("/*.py", Path::new("base"), &[]).unwrap().0, Path::new("/"));
        assert_eq!(Watched::of("*.py", Path::new(""), &[]).unwrap().0, Path::new("."));
        assert!(Watched::of("*/../a", Path::new("base"), &[]).is_err());
    }

    #[test]
    fn a_name_that_is_there_wins_and_caches_locks_and_probes_are_known_by_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a[1].txt"), "").unwrap();
        let (path, watched) = Watched::of("a[1].txt", dir.path(), &[]).unwrap();
        assert_eq!((path, watched.glob()), (dir.path().join("a[1].txt"), None));
        let out = |path: &str| watched.leaves_out(dir.path(), &dir.path().join(path), dir.path().join(path).is_dir());
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("4913"), "data").unwrap();
        fs::write(dir.path().join("p.lock"), "mine").unwrap();
        assert!(!out("cache") && !out("4913") && !out("p.lock"));
        fs::write(dir.path().join("cache/CACHEDIR.TAG"), [CACHE, b"\nmore"].concat()).unwrap();
        fs::write(dir.path().join("4913"), "").unwrap();
        fs::write(dir.path().join("p.lock"), format!("{}format = 1\n", super::LOCK_HEAD)).unwrap();
        assert!(out("cache") && out("4913") && out("p.lock"));
    }

    #[test]
    fn braces_name_files_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, of) = Watched::of_braces("sub/{a,b}/{0..1}.tar", dir.path()).unwrap().unwrap();
        assert_eq!((path, of.names().unwrap().len()), (dir.path().join("sub"), 4));
        assert!(of.means(Path::new("b/1.tar")) && !of.means(Path::new("b/2.tar")) && !of.means(Path::new("1.tar")));
        assert!(!out(&of, "a/") && out(&of, "c/") && out(&of, "a/2.tar") && !out(&of, "a/1.tar"));
        let back: Watched = serde_json::from_str(&serde_json::to_string(&of).unwrap()).unwrap();
        assert_eq!((back.rule(), back.names()), (of.rule(), of.names()));
        assert!(!serde_json::to_string(&rule("src", &[])).unwrap().contains("named"), "others stay as they are");
        assert!(Watched::of_braces("sub/{0..999999}.tar", dir.path()).unwrap().is_err());
        assert!(Watched::of_braces("sub/a.tar", dir.path()).is_none());
        fs::write(dir.path().join("x{0..1}"), "").unwrap();
        assert!(Watched::of_braces("x{0..1}", dir.path()).is_none(), "it is a file");
    }

    #[test]
    fn a_rule_comes_back_from_text() {
        let of = rule("src/*.py", &["*.log"]);
        let back: Watched = serde_json::from_str(&serde_json::to_string(&of).unwrap()).unwrap();
        assert_eq!(back.rule(), of.rule());
    }

    #[test]
    fn droppings_are_known_by_any_folder_above() {
        assert!(
            is_dropping(Path::new("a/__pycache__/x.cpython-312.pyc")) && is_dropping(Path::new("a/__pycache__/notes"))
        );
        assert!(!is_dropping(Path::new("a/x.py")) && !is_dropping(Path::new(".git/config")));
    }
}
