//! Files at a git revision: checks out the whole revision into a temporary folder. Uses the `git`
//! program with its own index, so that neither the user's index nor the work tree is touched. Links
//! lead to what they led to at that revision: those that would leave the temporary folder are
//! recreated. Does not know pipelines.

use crate::files::digest::join;
use crate::files::lexical::{logical, place, plain};
use erw_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// More links than the system follows.
const LINKS: usize = 40;

/// A checked-out revision, deleted with the value.
#[derive(Debug)]
pub struct Checkout {
    dir: tempfile::TempDir,
    /// The top folder of the repository.
    top: PathBuf,
    /// The full hash of the commit.
    pub commit: String,
}

impl Checkout {
    /// Checks out a revision of the repository that contains `file`.
    ///
    /// # Errors
    /// When the file is in no repository, git is not installed, or the revision does not exist.
    pub fn of(file: &Path, revision: &str) -> Result<Self> {
        let file = std::path::absolute(file).map_err(|e| Error::io("find", file, e))?;
        let parent = file.parent().unwrap_or(Path::new("/"));
        let top = PathBuf::from(git(parent, &["rev-parse", "--show-toplevel"], &[])?);
        let commit = git(&top, &["rev-parse", "--verify", "--end-of-options", &format!("{revision}^{{commit}}")], &[])
            .map_err(|e| e.context(format!("git knows no revision `{revision}`")))?;
        let dir = tempfile::tempdir().map_err(|e| Error::io("create a folder in", &std::env::temp_dir(), e))?;
        let index = dir.path().join("index");
        let env = [("GIT_INDEX_FILE", index.as_path())];
        git(&top, &["read-tree", &commit], &env)?;
        let prefix = format!("--prefix={}/", dir.path().join("tree").display());
        git(&top, &["checkout-index", "--all", "--force", &prefix], &env)?;
        let checkout = Self { dir, top, commit };
        checkout.redirect_links()?;
        Ok(checkout)
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Redirects absolute links: one into the repository to the files of this revision, one out of
    /// the repository to its target in the work tree.
    fn redirect_links(&self) -> Result<()> {
        let (top, tree) = (place(&self.top), self.tree());
        for line in git(&self.top, &["ls-tree", "-r", "-z", &self.commit], &[])?.split('\0') {
            let Some((_, name)) = line.strip_prefix("120000 ").and_then(|l| l.split_once('\t')) else { continue };
            let link = tree.join(name);
            let Ok(to) = std::fs::read_link(&link) else { continue };
            let there = plain(&top.join(name).parent().unwrap_or(&top).join(&to));
            let wanted = match (self.inside(&there), to.is_absolute()) {
                (Some(_), false) => continue,
                (Some(inside), true) => tree.join(inside),
                (None, _) => there,
            };
            let relinked = std::fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(wanted, &link));
            relinked.map_err(|e| Error::io("write", &link, e))?;
        }
        Ok(())
    }

    /// The path of the file or folder `now` in this revision; `None` if it is outside the
    /// repository.
    pub fn path(&self, now: &Path) -> Option<PathBuf> {
        Some(self.tree().join(self.inside(now)?))
    }

    /// A path relative to the top of the repository. Links within the repository are not resolved,
    /// because they may have led elsewhere at the revision.
    pub fn inside(&self, now: &Path) -> Option<PathBuf> {
        let (mut now, top, tree) = (logical(now), place(&self.top), self.tree());
        // A link that did not exist then is followed as it is now; each step follows one link.
        for _ in 0..LINKS {
            let above = now.ancestors().filter(|above| place(above) == top).last();
            let Some(stated) = above.and_then(|above| now.strip_prefix(above).ok()) else { break };
            let is_new = |name: &&Path| top.join(name).is_symlink() && tree.join(name).symlink_metadata().is_err();
            let Some(link) = stated.ancestors().filter(is_new).last() else { return Some(stated.to_path_buf()) };
            now = join(&place(&top.join(link)), stated.strip_prefix(link).unwrap_or(Path::new("")));
        }
        place(&now).strip_prefix(&top).ok().map(Path::to_path_buf)
    }

    /// The path in the work tree of a path in this revision; an absolute path outside stays as it
    /// is.
    pub fn origin(&self, then: &Path) -> PathBuf {
        match then.strip_prefix(self.tree()) {
            Ok(inside) => plain(&self.top.join(inside)),
            Err(_) => plain(then),
        }
    }

    /// The path in the work tree of what `then` led to in this revision.
    pub fn place_then(&self, then: &Path) -> PathBuf {
        let real = place(then);
        real.strip_prefix(place(&self.tree())).map_or_else(|_| real.clone(), |inside| place(&self.top).join(inside))
    }

    /// The earlier name, at this revision, of the file now called `now`, as far as git can tell.
    ///
    /// # Errors
    /// When git fails.
    pub fn renamed(&self, now: &Path) -> Result<Option<PathBuf>> {
        let text = git(
            &self.top,
            &["diff", "--no-ext-diff", "-z", "--name-status", "--diff-filter=R", "-M", &self.commit],
            &[],
        )?;
        let mut words = text.split('\0');
        while let (Some(_), Some(old), Some(new)) = (words.next(), words.next(), words.next()) {
            if place(&self.top.join(new)) == place(now) {
                return Ok(Some(self.top.join(old)));
            }
        }
        Ok(None)
    }

    /// Submodules: their paths in the work tree with their commits then and now, which stand for
    /// their files. A submodule with uncommitted changes gets a unique commit.
    ///
    /// # Errors
    /// When git fails.
    pub fn modules(&self) -> Result<Vec<Module>> {
        let mut all: BTreeMap<PathBuf, Module> = BTreeMap::new();
        let top = place(&self.top);
        let module = |name: &str| Module { place: top.join(name), then: None, now: None };
        // `160000 commit HASH<tab>NAME`, and `160000 HASH 0<tab>NAME`.
        for line in git(&top, &["ls-tree", "-r", "-z", &self.commit], &[])?.split('\0') {
            let Some((head, name)) = line.strip_prefix("160000 commit ").and_then(|l| l.split_once('\t')) else {
                continue;
            };
            all.entry(name.into()).or_insert_with(|| module(name)).then = Some(head.into());
        }
        for line in git(&top, &["ls-files", "-s", "-z"], &[])?.split('\0') {
            let Some((head, name)) = line.strip_prefix("160000 ").and_then(|l| l.split_once('\t')) else { continue };
            let now = checked_out(&top.join(name))?;
            let indexed = || head.split(' ').next().unwrap_or_default().to_string();
            all.entry(name.into()).or_insert_with(|| module(name)).now = Some(now.unwrap_or_else(indexed));
        }
        Ok(all.into_values().collect())
    }

    /// The tracked files of the work tree.
    ///
    /// # Errors
    /// When git fails.
    pub fn tracked(&self) -> Result<Tracked> {
        let text = git(&self.top, &["ls-files", "-z"], &[])?;
        let names = text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
        Ok(Tracked { top: place(&self.top), names })
    }
}

/// Tracked files and links, relative to the top of the repository.
#[derive(Debug)]
pub struct Tracked {
    top: PathBuf,
    names: BTreeSet<PathBuf>,
}

impl Tracked {
    /// Whether git tracks this file, relative to the top. Behind a link, git must track the link,
    /// and also the file if it is in the repository.
    pub fn has(&self, name: &Path) -> bool {
        let known = name.ancestors().find(|above| self.names.contains(*above));
        match known {
            None => false,
            Some(known) if known == name && !self.top.join(name).is_symlink() => true,
            Some(_) => match place(&self.top.join(name)).strip_prefix(&self.top) {
                Ok(real) => self.names.contains(real),
                Err(_) => true,
            },
        }
    }
}

/// A submodule.
#[derive(Debug)]
pub struct Module {
    pub place: PathBuf,
    pub then: Option<String>,
    pub now: Option<String>,
}

/// The commit of a submodule, marked if it has uncommitted changes; `None` if it was not fetched.
fn checked_out(dir: &Path) -> Result<Option<String>> {
    if !dir.join(".git").exists() {
        return Ok(None);
    }
    let head = git(dir, &["rev-parse", "HEAD"], &[])?;
    let is_clean = git(dir, &["status", "--porcelain", "--untracked-files=no"], &[])?.is_empty();
    Ok(Some(if is_clean { head } else { format!("{head} changed") }))
}

/// The commit that a file stands at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The full hash.
    pub id: String,
    /// Tracked files differ from it, or the file itself is not tracked.
    pub is_dirty: bool,
}

impl Commit {
    /// `None` outside of a repository, without a commit, and where git is not installed.
    pub fn of(file: &Path) -> Option<Self> {
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Without the lock: a person may be working in the repository.
        let status = ["--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"];
        let status = git(dir, &status, &[]).ok()?;
        let id = status.lines().find_map(|line| line.strip_prefix("# branch.oid "))?.to_string();
        let tracked = git(dir, &["ls-files", "--error-unmatch", "--", &file.file_name()?.to_string_lossy()], &[]);
        let is_changed = status.lines().any(|line| !line.starts_with('#'));
        (id != "(initial)").then_some(Self { id, is_dirty: is_changed || tracked.is_err() })
    }
}

/// A git hook sets these to its own repository and index, which is not that of the folder in
/// question.
const OF_A_HOOK: [&str; 12] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_LITERAL_PATHSPECS",
];

/// Whether `dir` is only in the repository given by the variables, as for a home folder whose
/// repository is elsewhere. Then they must be kept.
fn needs_variables(dir: &Path) -> bool {
    let bare = |command: &mut Command| {
        for name in OF_A_HOOK {
            command.env_remove(name);
        }
        command.output().is_ok_and(|out| out.status.success())
    };
    let asked = std::env::var_os("GIT_DIR").is_some();
    asked && !bare(Command::new("git").arg("-C").arg(dir).args(["rev-parse", "--show-toplevel"]))
}

/// Git's output, without the last newline.
fn git(dir: &Path, args: &[&str], env: &[(&str, &Path)]) -> Result<String> {
    let mut command = Command::new("git");
    if !needs_variables(dir) {
        for name in OF_A_HOOK {
            command.env_remove(name);
        }
    }
    command.arg("-C").arg(dir).args(args).envs(env.iter().copied());
    let out = command.output().map_err(|e| Error::usage("cannot run git").because(e))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).trim().to_string();
        return Err(Error::usage(format!("git {} failed in `{}`", args[0], dir.display())).because(said));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end_matches('\n').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_read_and_the_repository_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| git(dir.path(), args, &[]).unwrap();
        run(&["init", "-q"]);
        let file = dir.path().join("sub/p.toml");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(&file, "old").unwrap();
        run(&["add", "."]);
        run(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one"]);
        std::fs::write(&file, "new").unwrap();
        let before = run(&["status", "--porcelain"]);
        let checkout = Checkout::of(&file, "HEAD").unwrap();
        assert_eq!(std::fs::read(checkout.path(&file).unwrap()).unwrap(), b"old");
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(run(&["status", "--porcelain"]), before);
        assert_eq!(checkout.path(Path::new("/etc/hostname")), None);
        let then = checkout.path(&file).unwrap();
        assert_eq!(checkout.origin(&then).canonicalize().unwrap(), file.canonicalize().unwrap());
        std::fs::write(dir.path().join("sub/untracked"), "").unwrap();
        let tracked = checkout.tracked().unwrap();
        assert!(tracked.has(Path::new("sub/p.toml")) && !tracked.has(Path::new("sub/untracked")));
        let unknown = Checkout::of(&file, "no-such").unwrap_err();
        assert!(unknown.message.contains("no revision `no-such`"), "{unknown}");
        let commit = Commit::of(&file).unwrap();
        assert_eq!(commit, Commit { id: run(&["rev-parse", "HEAD"]), is_dirty: true });
        std::fs::write(&file, "old").unwrap();
        assert!(!Commit::of(&file).unwrap().is_dirty);
        assert!(Commit::of(&dir.path().join("sub/untracked")).unwrap().is_dirty);
        assert_eq!(Commit::of(&tempfile::tempdir().unwrap().path().join("p.toml")), None);
    }
}
