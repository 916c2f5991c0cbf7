//! The Hugging Face Hub as its users configure it: HF_ENDPOINT for a mirror, HF_TOKEN for gated
//! files, and the local cache of Hugging Face's own tools, which is read first and never written
//! to.

use std::path::{Path, PathBuf};

const ENDPOINT: &str = "https://huggingface.co";

#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: Option<PathBuf>,
}

impl Hub {
    /// Configured from the environment.
    pub fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| Some(folder("HF_HOME")?.join("hub")))
            .or_else(|| Some(home()?.join("huggingface/hub")));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Self::new(&endpoint, text("HF_TOKEN"), cache)
    }

    pub fn new(endpoint: &str, token: Option<String>, cache: Option<PathBuf>) -> Self {
        let token = token.map(|t| t.trim().to_string());
        Self { endpoint: endpoint.trim().trim_end_matches('/').to_string(), token, cache }
    }

    /// The download URL of a file.
    pub fn url(&self, repository: &str, revision: &str, file: &str) -> String {
        format!("{}/{repository}/resolve/{revision}/{file}", self.endpoint)
    }

    /// The token, only for URLs of the endpoint.
    pub fn token_for(&self, url: &str) -> Option<&str> {
        let rest = url.strip_prefix(&self.endpoint)?;
        // `https://huggingface.co.example` has the endpoint as a prefix too.
        rest.starts_with('/').then_some(self.token.as_deref()).flatten()
    }

    /// The file in the local cache of Hugging Face's tools.
    pub fn cached(&self, repository: &str, revision: &str, file: &str) -> Option<PathBuf> {
        let folder = self.cache.as_ref()?.join(format!("models--{}", repository.replace('/', "--")));
        let snapshot = |commit: &str| Some(folder.join("snapshots").join(commit).join(file)).filter(|p| p.is_file());
        // A branch is a file that contains a commit hash.
        snapshot(revision).or_else(|| snapshot(&branch(&folder, revision)?))
    }
}

fn branch(folder: &Path, name: &str) -> Option<String> {
    let commit = std::fs::read_to_string(folder.join("refs").join(name)).ok()?;
    let commit = commit.trim();
    let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| commit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_the_endpoint_only() {
        let hub = Hub::new("https://hf.example/", Some(" secret\n".into()), None);
        assert_eq!(hub.url("a/b", "main", "c.bin"), "https://hf.example/a/b/resolve/main/c.bin");
        assert_eq!(hub.token_for("https://hf.example/a"), Some("secret"));
        for other in ["https://hf.example.evil/a", "http://hf.example/a", "https://cdn.example/a", "https://hf.example"]
        {
            assert_eq!(hub.token_for(other), None, "{other}");
        }
    }

    #[test]
    fn snapshots_are_found_by_commit_and_by_branch() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("models--timm--vit");
        let file = folder.join("snapshots/0123abcd/sub/model.safetensors");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "x").unwrap();
        std::fs::create_dir(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), "0123abcd\n").unwrap();
        std::fs::write(folder.join("refs/evil"), "../../etc").unwrap();
        let hub = Hub::new(ENDPOINT, None, Some(dir.path().into()));
        let find = |revision: &str| hub.cached("timm/vit", revision, "sub/model.safetensors");
        assert_eq!((find("main"), find("0123abcd")), (Some(file.clone()), Some(file)));
        assert_eq!((find("v2"), find("evil")), (None, None));
    }
}
