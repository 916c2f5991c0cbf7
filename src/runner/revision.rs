//! Files as they were at a revision of git: a whole revision, put into a temporary folder. Uses the `git` program with
//! an index of its own, so that neither the user's index nor the work tree is touched. Knows nothing of pipelines.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
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
        let absolute = |p: &Path| p.canonicalize().or_else(|_| std::path::absolute(p)).ok();
        let inside = absolute(now)?.strip_prefix(absolute(&self.top)?).ok()?.to_path_buf();
        Some(self.dir.path().join("tree").join(inside))
    }

    /// Where a path of this revision stands in the work tree; a path that was stated as absolute is what it was.
    pub fn origin(&self, then: &Path) -> PathBuf {
        let stated = match then.strip_prefix(self.dir.path().join("tree")) {
            Ok(inside) => self.top.join(inside),
            Err(_) => then.to_path_buf(),
        };
        // `..` is taken back by name: what it leads to need not exist any more.
        let mut plain = PathBuf::new();
        for part in stated.components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                Component::CurDir => {}
                part => plain.push(part),
            }
        }
        plain
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
