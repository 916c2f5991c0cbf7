//! Files as they were at a revision of git: a whole revision, put into a temporary folder. Uses the `git` program with
//! an index of its own, so that neither the user's index nor the work tree is touched. Knows nothing of pipelines.

use super::place::{place, plain};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A revision on disk, for as long as the value lives.
#[derive(Debug)]
pub struct Checkout {
    dir: tempfile::TempDir,
    /// Of the repository that the file belongs to.
    top: PathBuf,
    /// The full name of the commit.
    pub commit: String,
}

impl Checkout {
    /// The revision of the repository that holds `file`.
    ///
    /// # Errors
    /// When the file lies in no repository, git is absent, or it knows no such revision.
    pub fn of(file: &Path, revision: &str) -> Result<Self> {
        let file = std::path::absolute(file).map_err(|e| Error::io("find", file, e))?;
        let parent = file.parent().unwrap_or(Path::new("/"));
        let top = PathBuf::from(git(parent, &["rev-parse", "--show-toplevel"], &[])?);
        let commit = git(&top, &["rev-parse", "--verify", "--end-of-options", &format!("{revision}^{{commit}}")], &[])
            .map_err(|e| e.context(format!("git knows no revision `{revision}`")))?;
        let dir = tempfile::tempdir().map_err(|e| Error::io("make", &std::env::temp_dir(), e))?;
        let index = dir.path().join("index");
        let env = [("GIT_INDEX_FILE", index.as_path())];
        git(&top, &["read-tree", &commit], &env)?;
        let prefix = format!("--prefix={}/", dir.path().join("tree").display());
        git(&top, &["checkout-index", "--all", "--force", &prefix], &env)?;
        Ok(Self { dir, top, commit })
    }

    /// Where the file or folder `now` stands in this revision; `None` if it is outside of the repository.
    pub fn path(&self, now: &Path) -> Option<PathBuf> {
        let inside = place(now).strip_prefix(place(&self.top)).ok()?.to_path_buf();
        Some(self.dir.path().join("tree").join(inside))
    }

    /// Where a path of this revision stands in the work tree; a path that was stated as absolute is what it was.
    pub fn origin(&self, then: &Path) -> PathBuf {
        let stated = match then.strip_prefix(self.dir.path().join("tree")) {
            Ok(inside) => self.top.join(inside),
            Err(_) => then.to_path_buf(),
        };
        plain(&stated)
    }

    /// What the file that is now called `now` was called in this revision, as far as git can tell.
    ///
    /// # Errors
    /// When git cannot be asked.
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

    /// Submodules: their places in the work tree with the commits then and now, which stand for their files. One that
    /// is changed and not committed has a commit that no other has.
    ///
    /// # Errors
    /// When git cannot be asked.
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

    /// Files at or below `now` that git knows in the work tree, relative to it; empty for a file itself.
    ///
    /// # Errors
    /// When git cannot be asked.
    pub fn tracked(&self, now: &Path) -> Result<BTreeSet<PathBuf>> {
        let now = now.canonicalize().map_err(|e| Error::io("read", now, e))?;
        let top = self.top.canonicalize().map_err(|e| Error::io("read", &self.top, e))?;
        // A `*` in a name is no pattern.
        let literal = [("GIT_LITERAL_PATHSPECS", Path::new("1"))];
        let text = git(&top, &["ls-files", "-z", "--", &now.to_string_lossy()], &literal)?;
        let all = text.split('\0').filter(|name| !name.is_empty());
        Ok(all.filter_map(|name| top.join(name).strip_prefix(&now).ok().map(Path::to_path_buf)).collect())
    }
}

/// A repository inside of another.
#[derive(Debug)]
pub struct Module {
    pub place: PathBuf,
    pub then: Option<String>,
    pub now: Option<String>,
}

/// The commit of a submodule, marked if files of it are changed; `None` where it was not fetched.
fn checked_out(dir: &Path) -> Result<Option<String>> {
    if !dir.join(".git").exists() {
        return Ok(None);
    }
    let head = git(dir, &["rev-parse", "HEAD"], &[])?;
    let is_clean = git(dir, &["status", "--porcelain", "--untracked-files=no"], &[])?.is_empty();
    Ok(Some(if is_clean { head } else { format!("{head} changed") }))
}

/// What git prints, without the last newline.
fn git(dir: &Path, args: &[&str], env: &[(&str, &Path)]) -> Result<String> {
    let mut command = Command::new("git");
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
        assert_eq!(checkout.tracked(&dir.path().join("sub")).unwrap(), [PathBuf::from("p.toml")].into());
        let unknown = Checkout::of(&file, "no-such").unwrap_err();
        assert!(unknown.message.contains("no revision `no-such`"), "{unknown}");
    }
}
