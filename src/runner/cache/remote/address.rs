//! Creates the client for an address: which service, which timeouts, which mode.
//!
//! Accounts and endpoints come from each service's usual environment variables, such as
//! `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`,
//! `GOOGLE_SERVICE_ACCOUNT`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` and
//! `AZURE_STORAGE_ACCOUNT_KEY`. Certificates are the system's, or those of `SSL_CERT_FILE`. Does
//! not know what is transferred.

use super::error;
use erw_base::error::{Error, Result};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

const CONNECT: Duration = Duration::from_secs(5);
/// A connection without a byte for this long is dropped.
const SILENCE: Duration = Duration::from_secs(20);
/// A remote that has not answered within this time is not asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRIES: usize = 2;

/// What a remote is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Read,
    Write,
}

pub struct Opened {
    pub client: Arc<dyn ObjectStore>,
    pub prefix: String,
    pub name: String,
    pub mode: Mode,
    /// Why the remote cannot be used, if that is known at once: the folder does not exist or is not
    /// accessible.
    pub fault: Option<String>,
}

pub fn open(address: &str, mode: Option<Mode>) -> Result<Opened> {
    let name = error::address(address);
    let bad = |why: String| {
        Error::usage(format!("cannot use the remote `{name}`"))
            .because(why)
            .hint("remotes are file:///FOLDER, s3://BUCKET/PREFIX, gs://…, az://… and, read-only, http(s)://…")
    };
    let url: Url = address.parse().map_err(|_| bad("it is not a valid URL".into()))?;
    let web = matches!(url.scheme(), "http" | "https");
    if web && mode == Some(Mode::Write) {
        return Err(bad("a web server is read-only".into()));
    }
    let mode = mode.unwrap_or(if web { Mode::Read } else { Mode::Write });
    let mut fault = None;
    let client = match url.scheme() {
        "file" => folder(&url, mode).map_err(bad)?.unwrap_or_else(|why| {
            fault = Some(why);
            Arc::new(InMemory::new())
        }),
        _ => client(&url).map_err(bad)?,
    };
    // Clients of folders and web servers are rooted at the address itself.
    let prefix = if web || url.scheme() == "file" { "" } else { url.path().trim_matches('/') };
    Ok(Opened { client, prefix: prefix.into(), name, mode, fault })
}

fn client(url: &Url) -> Result<Arc<dyn ObjectStore>, String> {
    let words = |e: object_store::Error| error::clean(&e.to_string());
    let lacks_bucket = || "it names no bucket".to_string();
    let bucket = url.host_str().filter(|host| !host.is_empty());
    Ok(match url.scheme() {
        "s3" => {
            let bucket = bucket.ok_or_else(lacks_bucket)?;
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry());
            Arc::new(
                builder
                    .with_client_options(options(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]))
                    .build()
                    .map_err(words)?,
            )
        }
        "gs" => {
            let bucket = bucket.ok_or_else(lacks_bucket)?;
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry());
            Arc::new(builder.with_client_options(options(&[])).build().map_err(words)?)
        }
        "az" => {
            let bucket = bucket.ok_or_else(lacks_bucket)?;
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry());
            Arc::new(
                builder
                    .with_client_options(options(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]))
                    .build()
                    .map_err(words)?,
            )
        }
        "http" | "https" => {
            let builder = HttpBuilder::new().with_url(url.as_str()).with_retry(retry());
            Arc::new(builder.with_client_options(options(&[]).with_allow_http(true)).build().map_err(words)?)
        }
        other => return Err(format!("`{other}://` is not supported")),
    })
}

/// The outer error: an invalid address. The inner error: the folder cannot be used now.
fn folder(url: &Url, mode: Mode) -> Result<Result<Arc<dyn ObjectStore>, String>, String> {
    let path = url.to_file_path().map_err(|()| "it is not an absolute path: file:///FOLDER".to_string())?;
    let made = if mode == Mode::Write { std::fs::create_dir_all(&path) } else { Ok(()) };
    Ok(made.map_err(|e| e.to_string()).and_then(|()| {
        let folder = LocalFileSystem::new_with_prefix(&path).map_err(|e| error::clean(&e.to_string()))?;
        Ok(Arc::new(folder.with_fsync(true)) as Arc<dyn ObjectStore>)
    }))
}

fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(1), base: 2.0 };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: PATIENCE }
}

/// Allows plain HTTP only to an endpoint that the user gives as such.
fn options(endpoints: &[&str]) -> ClientOptions {
    // The build has two crypto providers, so one must be chosen; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = endpoints.iter().filter_map(|name| std::env::var(name).ok()).any(|url| url.starts_with("http://"));
    ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_read_timeout(SILENCE)
        // No overall timeout: large files take long.
        .with_timeout_disabled()
        .with_allow_http(plain)
}
