//! The remote cache on the command line: its address, its mode, and its warnings.

use erw_base::error::{Error, Result};
use erw_runner::cache::Cache;
use erw_runner::cache::remote::{Mode, Remote};
use erw_runner::cache::store::Store;
use erw_runner::settings::trust::holds_secret;
use erw_runner::settings::{Origin, RemoteMode, Resolved};
use std::io::Write;
use std::path::Path;

/// Printed below the help of `erw cache`.
pub const HELP: &str = "\
Remotes:
  file:///FOLDER          a shared folder
  s3://BUCKET/PREFIX      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION;
                          AWS_ENDPOINT_URL for S3-compatible servers
  gs://BUCKET/PREFIX      GOOGLE_APPLICATION_CREDENTIALS
  az://CONTAINER/PREFIX   AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY
  http(s)://HOST/PATH     read only

Environment:
  ERW_REMOTE              default of --remote
  ERW_REMOTE_MODE         `write` (default), or `read` to upload nothing
  SSL_CERT_FILE           certificates to trust instead of the system's";

#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteArgs {
    /// Shared cache, such as s3://BUCKET/PREFIX; see `erw cache --help`
    #[arg(long, global = true, env = "ERW_REMOTE", hide_env_values = true, value_name = "URL")]
    pub remote: Option<String>,
    /// From the settings.
    #[arg(skip)]
    pub mode: Option<Mode>,
    /// The place of the address in a file of settings.
    #[arg(skip)]
    pub origin: Option<String>,
}

impl RemoteArgs {
    /// Fills in what the command line leaves open.
    pub fn complete(&mut self, site: &Resolved) {
        if self.remote.is_none() {
            self.remote.clone_from(&site.settings.remote);
            if let Origin::File(place) = site.origin("remote") {
                self.origin = Some(place.to_string());
            }
        }
        self.mode = site.settings.remote_mode.map(|mode| match mode {
            RemoteMode::Read => Mode::Read,
            RemoteMode::Write => Mode::Write,
        });
    }

    /// The remote, if there is one.
    fn open(&self) -> Result<Option<Remote>> {
        let Some(address) = self.remote.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
        refuse_secrets(address)?;
        let origin = || self.origin.as_ref().map(|place| format!("the address comes from {place}"));
        Remote::open(address, self.mode).map(Some).map_err(|e| e.maybe_hint(origin()))
    }

    /// The remote, for commands that need one.
    pub fn required(&self, cache: &Path) -> Result<Remote> {
        let missing = || Error::usage("no remote is given").hint("use `--remote URL`, or set ERW_REMOTE");
        let remote = self.beside(cache)?.ok_or_else(missing)?;
        remote.check().map(|()| remote)
    }

    /// The cache folder with the remote behind it.
    pub fn cache(&self, dir: &Path) -> Result<Cache> {
        Ok(Cache { store: Store::open(dir)?, remote: self.beside(dir)? })
    }

    /// The same for plans, which fetch records only.
    pub fn cache_for_plans(&self, dir: &Path) -> Result<Cache> {
        Ok(Cache { store: Store::open(dir)?, remote: self.beside(dir)?.map(Remote::records_only) })
    }

    /// Refuses the cache folder itself as the remote: both have folders of the same names, so gc
    /// would delete the remote's files.
    fn beside(&self, cache: &Path) -> Result<Option<Remote>> {
        let folder = self.remote.as_deref().and_then(|a| a.strip_prefix("file://")).map(Path::new);
        let same =
            folder.and_then(|f| f.canonicalize().ok()).is_some_and(|f| cache.canonicalize().is_ok_and(|c| c == f));
        match same {
            true => Err(Error::usage("the remote is the cache folder itself").hint("use another folder")),
            false => self.open(),
        }
    }
}

/// Refuses credentials on the command line: every user of the machine can read it, and journals
/// keep it.
fn refuse_secrets(address: &str) -> Result<()> {
    if holds_secret(address) && std::env::args().any(|a| a.contains(address)) {
        return Err(Error::usage("the address of the remote holds a password or a token")
            .because("other users can read the command line")
            .hint("put the address into the environment variable ERW_REMOTE"));
    }
    Ok(())
}

/// Prints the warnings of the remote that no run has printed.
pub fn warn(remote: Option<&Remote>) {
    for text in remote.map(Remote::warnings).unwrap_or_default() {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }
}
