//! The remote cache on the command line: where it is, and what went wrong with it.

use erw_base::error::{Error, Result};
use erw_runner::cache::Cache;
use erw_runner::cache::remote::{Mode, Remote};
use erw_runner::cache::store::Store;
use std::io::Write;
use std::path::Path;

const MODE: &str = "ERW_REMOTE_MODE";

/// Stands below the help of `erw cache`.
pub const HELP: &str = "\
Remotes:
  file:///FOLDER            a folder that others see too
  s3://BUCKET/PREFIX        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION;
                            any server of the kind by AWS_ENDPOINT_URL
  gs://BUCKET/PREFIX        GOOGLE_APPLICATION_CREDENTIALS
  az://CONTAINER/PREFIX     AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY
  http(s)://HOST/PATH       read only
Environment:
  ERW_REMOTE                the remote of every command, in place of --remote
  ERW_REMOTE_MODE           `read` sends nothing; `write` is the rule
  SSL_CERT_FILE             certificates to trust, in place of the system's";

#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteArgs {
    /// A cache shared with others, such as s3://BUCKET/PREFIX; see `erw cache --help`
    #[arg(long, global = true, env = "ERW_REMOTE", hide_env_values = true, value_name = "URL")]
    pub remote: Option<String>,
}

impl RemoteArgs {
    /// The remote, if one is named.
    fn open(&self) -> Result<Option<Remote>> {
        let Some(address) = self.remote.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
        refuse_secrets(address)?;
        Remote::open(address, mode()?).map(Some)
    }

    /// For commands that are about the remote.
    pub fn required(&self, cache: &Path) -> Result<Remote> {
        let missing = || Error::usage("no remote is named").hint("with `--remote URL`, or ERW_REMOTE");
        let remote = self.beside(cache)?.ok_or_else(missing)?;
        remote.check().map(|()| remote)
    }

    /// The cache folder with the remote behind it.
    pub fn cache(&self, dir: &Path) -> Result<Cache> {
        Ok(Cache { store: Store::open(dir)?, remote: self.beside(dir)? })
    }

    /// The same for plans, which fetch nothing.
    pub fn cache_for_plans(&self, dir: &Path) -> Result<Cache> {
        Ok(Cache { store: Store::open(dir)?, remote: self.beside(dir)?.map(Remote::records_only) })
    }

    /// The two have folders of the same names: one in place of the other would be taken apart by gc.
    fn beside(&self, cache: &Path) -> Result<Option<Remote>> {
        let folder = self.remote.as_deref().and_then(|a| a.strip_prefix("file://")).map(Path::new);
        let same =
            folder.and_then(|f| f.canonicalize().ok()).is_some_and(|f| cache.canonicalize().is_ok_and(|c| c == f));
        match same {
            true => Err(Error::usage("the remote is the cache folder itself").hint("name a folder that is no cache")),
            false => self.open(),
        }
    }
}

/// Everybody on this machine can read a command line, and runs keep theirs.
fn refuse_secrets(address: &str) -> Result<()> {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let secret = host.contains('@') || rest.contains('?');
    if secret && std::env::args().any(|a| a.contains(address)) {
        return Err(Error::usage("the address of the remote holds a password or a token")
            .because("others can read the command line")
            .hint("put the address into the environment variable ERW_REMOTE"));
    }
    Ok(())
}

fn mode() -> Result<Option<Mode>> {
    match std::env::var(MODE).unwrap_or_default().as_str() {
        "" => Ok(None),
        "read" => Ok(Some(Mode::Read)),
        "write" => Ok(Some(Mode::Write)),
        other => Err(Error::usage(format!("{MODE} is `{other}`")).hint("it is `read` or `write`")),
    }
}

/// Warnings of the remote that no run told.
pub fn warn(remote: Option<&Remote>) {
    for text in remote.map(Remote::warnings).unwrap_or_default() {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }
}
