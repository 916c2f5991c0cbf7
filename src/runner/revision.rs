//! Files as they were at a revision of git: a whole revision, put into a temporary folder. Uses the `git` program with
//! an index of its own, so that neither the user's index nor the work tree is touched. Knows nothing of pipelines.

use crate::error::{Error, Result};
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
        let absolute = |p: &Path| p.canonicalize().or_else(|_| std::path::absolute(p)).ok();
        let inside = absolute(now)?.strip_prefix(absolute(&self.top)?).ok()?.to_path_buf();
        Some(self.dir.path().join("tree").join(inside))
    }

    /// Where the file or folder `then`, of this revision, stands now, whether it is there or not.
    pub fn now(&self, then: &Path) -> Option<PathBuf> {
        let tree = self.dir.path().join("tree");
        Some(self.top.join(then.strip_prefix(tree).ok()?))
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
        let now = checkout.now(&checkout.path(&file).unwrap()).unwrap();
        assert_eq!(now.canonicalize().unwrap(), file.canonicalize().unwrap());
        let unknown = Checkout::of(&file, "no-such").unwrap_err();
        assert!(unknown.message.contains("no revision `no-such`"), "{unknown}");
    }
}
