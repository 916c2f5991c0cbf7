//! The remote cache on the command line: its address, its mode, and its warnings.

use erw_base::error::{Error, Result};
use erw_runner::cache::Cache;
use erw_runner::cache::remote::{Mode, Remote};
use erw_runner::cache::store::Store;
use std::io::Write;
use std::path::Path;

const MODE: &str = "ERW_REMOTE_MODE";

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
}

impl RemoteArgs {
    /// The remote, if there is one.
    fn open(&self) -> Result<Option<Remote>> {
        let Some(address) = self.remote.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
        refuse_secrets(address)?;
        Remote::open(address, mode()?).map(Some)
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
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let secret = host.contains('@') || rest.contains('?');
    if secret && std::env::args().any(|a| a.contains(address)) {
        return Err(Error::usage("the address of the remote holds a password or a token")
            .because("other users can read the command line")
            .hint("put the address into the environment variable ERW_REMOTE"));
    }
    Ok(())
}

fn mode() -> Result<Option<Mode>> {
    match std::env::var(MODE).unwrap_or_default().as_str() {
        "" => Ok(None),
        "read" => Ok(Some(Mode::Read)),
        "write" => Ok(Some(Mode::Write)),
        other => Err(Error::usage(format!("{MODE} is `{other}`")).hint("it must be `read` or `write`")),
    }
}

/// Prints the warnings of the remote that no run has printed.
pub fn warn(remote: Option<&Remote>) {
    for text in remote.map(Remote::warnings).unwrap_or_default() {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }
}
