//! The remote cache on the command line: where it is, and what went wrong with it.

use crate::error::{Error, Result};
use crate::runner::remote::{Mode, Remote};
use crate::runner::store::Store;
use std::io::Write;
use std::path::Path;

const MODE: &str = "ERW_REMOTE_MODE";

#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteArgs {
    /// A cache shared with others: file:///FOLDER, s3://BUCKET/PREFIX, gs://…, az://…, or http(s)://… to read only.
    /// ERW_REMOTE_MODE=read sends nothing to it
    #[arg(long, global = true, env = "ERW_REMOTE", hide_env_values = true, value_name = "URL")]
    pub remote: Option<String>,
}

impl RemoteArgs {
    /// The remote, if one is named.
    pub fn open(&self) -> Result<Option<Remote>> {
        let Some(address) = self.remote.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
        refuse_secrets(address)?;
        Remote::open(address, mode()?).map(Some)
    }

    /// For commands that are about the remote.
    pub fn required(&self) -> Result<Remote> {
        let missing = || Error::usage("no remote is named").hint("with `--remote URL`, or ERW_REMOTE");
        self.open()?.ok_or_else(missing)
    }

    /// The cache folder with the remote behind it.
    pub fn store(&self, cache: &Path) -> Result<Store> {
        Ok(Store::open(cache)?.with_remote(self.open()?))
    }

    /// The same for plans, which fetch nothing.
    pub fn store_for_plans(&self, cache: &Path) -> Result<Store> {
        Ok(Store::open(cache)?.with_remote(self.open()?.map(Remote::records_only)))
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
