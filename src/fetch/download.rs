//! Downloads one file from one URL to one path, whole or not at all, across broken connections and
//! killed processes.
//!
//! Bytes are collected in `FILE.part`; `FILE.part.json` beside it says which file of which server
//! they belong to. The next attempt, in this process or a later one, requests the rest on the
//! condition that the file has not changed, and starts over if it has. A complete part with the
//! right size and SHA-256 becomes the file. `.FILE.lock` is held meanwhile, so two processes never
//! write to the same part.

use crate::FetchObserver;
use crate::http::{Answer, Client, Failure, Validator, page};
use erw_base::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind as Io, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CHUNK: usize = 256 * 1024;
/// How often a wait checks for a stop request.
const GLANCE: Duration = Duration::from_millis(50);

/// A file to fetch.
pub struct DownloadRequest<'a> {
    pub url: &'a str,
    /// Sent only to the server of `url`.
    pub token: Option<&'a str>,
    /// The address independent of mirrors: a part can be resumed from any mirror.
    pub origin: &'a str,
    pub to: &'a Path,
    pub size: Option<u64>,
    pub sha256: Option<&'a str>,
    /// Replace a file at `to` that has another hash, once the right one has arrived. Otherwise that
    /// file stays.
    pub replace: bool,
}

/// The retry policy for attempts that bring no bytes.
#[derive(Debug, Clone, Copy)]
pub struct Persistence {
    /// Attempts in a row without a byte before giving up.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each further one.
    pub pause: Duration,
}

impl Default for Persistence {
    fn default() -> Self {
        Self { attempts: 5, pause: Duration::from_millis(500) }
    }
}

/// Why a file was not fetched.
#[derive(Debug)]
pub enum DownloadError {
    /// This address failed; another may work.
    Address(Error),
    /// No other address will help: a full disk, a stop request, a file with the wrong contents.
    Final(Error),
}

/// The contents of `FILE.part.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Begun {
    origin: String,
    #[serde(flatten)]
    validator: Validator,
    total: Option<u64>,
}

/// Downloads the file and returns its SHA-256, or that of a different file already at its path if
/// that must not be replaced.
pub fn download(
    client: &Client,
    order: &DownloadRequest,
    how: Persistence,
    watch: &dyn FetchObserver,
) -> std::result::Result<String, DownloadError> {
    let folder = order.to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| DownloadError::Final(Error::io("create", folder, e)))?;
    let _lock = lock(order.to, watch).map_err(DownloadError::Final)?;
    if order.to.exists() {
        let found = sha256(order.to, watch).map_err(DownloadError::Final)?;
        // Another process fetched it meanwhile.
        if !order.replace || order.sha256.is_none_or(|want| want == found) {
            return Ok(found);
        }
    }
    let mut part = Part::open(order, watch).map_err(DownloadError::Final)?;
    let mut fruitless = 0;
    loop {
        let before = part.bytes;
        let (error, wait) = match part.attempt(client, order, watch) {
            Ok(()) => return part.finish(order),
            Err(Trouble::Passing(error, wait)) => (error, wait),
            Err(Trouble::Address(error)) => {
                part.leave();
                return Err(DownloadError::Address(error));
            }
            Err(Trouble::Final(error)) => return Err(DownloadError::Final(error)),
        };
        fruitless = if part.bytes > before { 1 } else { fruitless + 1 };
        // If no server can be reached there is usually no network, and waiting does not help.
        let attempts = if is_unreached(&error) { how.attempts.min(UNREACHED) } else { how.attempts };
        if fruitless >= attempts {
            part.leave();
            return Err(DownloadError::Address(error.hint(part.kept())));
        }
        let pause = wait.unwrap_or(how.pause * 2u32.pow(fruitless - 1)).min(Duration::from_secs(120));
        watch.log(&format!("{error}; retrying"));
        sleep(pause, watch).map_err(DownloadError::Final)?;
    }
}

/// Attempts for an address that cannot be reached.
const UNREACHED: u32 = 2;

fn is_unreached(error: &Error) -> bool {
    error.message.ends_with(crate::http::UNREACHED)
}

/// Why an attempt ended early.
enum Trouble {
    Passing(Error, Option<Duration>),
    Address(Error),
    Final(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Passing(error, wait) => Self::Passing(error, wait),
            Failure::Lasting(error) => Self::Address(error),
        }
    }
}

/// The bytes received so far.
struct Part {
    path: PathBuf,
    note: PathBuf,
    file: File,
    bytes: u64,
    sum: Sha256,
    begun: Begun,
}

impl Part {
    /// Reads what an earlier attempt left, once, to continue its hash.
    fn open(order: &DownloadRequest, watch: &dyn FetchObserver) -> Result<Self> {
        let path = beside(order.to, "", ".part");
        let note = beside(order.to, "", ".part.json");
        let failed = |e| Error::io("write", &path, e);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let begun = std::fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Begun>(&text).ok());
        let mut part = Self { path, note, file, bytes: 0, sum: Sha256::new(), begun: Begun::default() };
        match begun {
            Some(begun) if begun.origin == order.origin && begun.validator.if_range().is_some() => {
                (part.bytes, part.sum) = summed(&mut part.file, &part.path, watch)?;
                part.begun = begun;
                if part.bytes > 0 {
                    watch.log(&format!("resuming {}", order.origin));
                }
            }
            _ => part.clear()?,
        }
        Ok(part)
    }

    fn failed(&self, e: std::io::Error) -> Error {
        let full = matches!(e.kind(), Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge);
        let error = Error::io("write", &self.path, e);
        if full { error.hint("free some space and rerun: the download resumes where it stopped") } else { error }
    }

    fn kept(&self) -> String {
        match self.bytes {
            0 => "nothing was received yet".into(),
            n => format!("the first {n} bytes are kept; rerun to resume"),
        }
    }

    fn clear(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|e| self.failed(e))?;
        (self.bytes, self.sum) = (0, Sha256::new());
        Ok(())
    }

    /// Truncates the part to its last known good length.
    fn rewind(&mut self) -> Result<()> {
        let cut = self.file.set_len(self.bytes).and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)));
        cut.map(drop).map_err(|e| self.failed(e))
    }

    /// Requests the missing bytes until the file is complete.
    fn attempt(
        &mut self,
        client: &Client,
        order: &DownloadRequest,
        watch: &dyn FetchObserver,
    ) -> std::result::Result<(), Trouble> {
        if watch.should_stop() {
            return Err(Trouble::Final(Error::suspended()));
        }
        self.rewind().map_err(Trouble::Final)?;
        let mut body = match client.get(order.url, order.token, self.bytes, &self.begun.validator)? {
            Answer::Beyond(total) if total == Some(self.bytes) => return Ok(()),
            Answer::Beyond(_) => {
                // The file on the server is now shorter than the part.
                self.clear().map_err(Trouble::Final)?;
                self.begun = Begun::default();
                return Err(Trouble::Passing(
                    Error::stage(format!("{} has changed since the download began", order.url)),
                    None,
                ));
            }
            Answer::Body { from: 0, total, validator, body } => {
                if self.bytes > 0 {
                    watch.log(&format!("the server cannot resume {}; starting over", order.origin));
                }
                self.clear().map_err(Trouble::Final)?;
                self.begin(Begun { origin: order.origin.into(), validator, total }).map_err(Trouble::Final)?;
                body
            }
            Answer::Body { total, body, .. } => {
                self.begun.total = total.or(self.begun.total);
                body
            }
        };
        if let (Some(want), Some(total)) = (order.size, self.begun.total)
            && want != total
        {
            self.remove();
            return Err(Trouble::Address(Error::stage(format!("{} has {total} bytes; expected {want}", order.url))));
        }
        self.receive(&mut *body, order, watch)
    }

    fn begin(&mut self, begun: Begun) -> Result<()> {
        self.begun = begun;
        let text = serde_json::to_vec(&self.begun).map_err(|e| Error::io("write", &self.note, e.into()))?;
        std::fs::write(&self.note, text).map_err(|e| Error::io("write", &self.note, e))
    }

    fn receive(
        &mut self,
        body: &mut dyn Read,
        order: &DownloadRequest,
        watch: &dyn FetchObserver,
    ) -> std::result::Result<(), Trouble> {
        let total = self.begun.total.or(order.size);
        let mut buffer = vec![0; CHUNK];
        loop {
            if watch.should_stop() {
                return Err(Trouble::Final(Error::suspended()));
            }
            let cut =
                |e: &dyn std::fmt::Display| Error::stage(format!("the connection to {} broke", order.url)).because(e);
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == Io::Interrupted => continue,
                Err(e) => return Err(Trouble::Passing(cut(&e), None)),
            };
            if n == 0 {
                return match total {
                    Some(total) if self.bytes < total => {
                        Err(Trouble::Passing(cut(&format!("received {} of {total} bytes", self.bytes)), None))
                    }
                    _ => Ok(()),
                };
            }
            if self.bytes == 0 && is_page(&buffer[..n]) {
                self.remove();
                return Err(Trouble::Address(page(order.url)));
            }
            self.file.write_all(&buffer[..n]).map_err(|e| Trouble::Final(self.failed(e)))?;
            self.sum.update(&buffer[..n]);
            self.bytes += n as u64;
            watch.progress(self.bytes, total.unwrap_or(0));
        }
    }

    /// Checks size and hash of the complete file.
    fn finish(self, order: &DownloadRequest) -> std::result::Result<String, DownloadError> {
        let sum = hex(self.sum.clone());
        let mut wrong = vec![];
        if let Some(want) = order.size.filter(|want| *want != self.bytes) {
            wrong.push(format!("size     {} bytes\nexpected {want} bytes", self.bytes));
        }
        if let Some(want) = order.sha256.filter(|want| *want != sum) {
            wrong.push(format!("sha256   {sum}\nexpected {want}"));
        }
        if !wrong.is_empty() {
            self.remove();
            let error = Error::stage(format!("{} is not the expected file", order.url));
            return Err(DownloadError::Final(wrong.into_iter().fold(error, Error::because)));
        }
        let publish = || {
            self.file.sync_all()?;
            std::fs::rename(&self.path, order.to)
        };
        publish().map_err(|e| DownloadError::Final(self.failed(e)))?;
        let _ = std::fs::remove_file(&self.note);
        Ok(sum)
    }

    /// A part without bytes is not worth keeping.
    fn leave(&self) {
        if self.bytes == 0 {
            self.remove();
        }
    }

    /// Discards bytes that are useless.
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.note);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_page(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&head[..head.len().min(256)]).trim_start().to_ascii_lowercase();
    text.starts_with("<!doctype html") || text.starts_with("<html")
}

/// `FILE` as `<before>FILE<after>` in the same folder.
fn beside(file: &Path, before: &str, after: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{before}{name}{after}"))
}

/// The size of a part that is in progress or suspended.
pub fn begun(to: &Path) -> Option<u64> {
    std::fs::metadata(beside(to, "", ".part")).ok().map(|m| m.len())
}

fn lock(to: &Path, watch: &dyn FetchObserver) -> Result<File> {
    let path = beside(to, ".", ".lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| Error::io("write", &path, e))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        if !told {
            watch.log(&format!("another process is fetching `{}`; waiting for it", to.display()));
            told = true;
        }
        sleep(GLANCE, watch)?;
    }
}

fn sleep(time: Duration, watch: &dyn FetchObserver) -> Result<()> {
    let end = std::time::Instant::now() + time;
    loop {
        if watch.should_stop() {
            return Err(Error::new(ErrorKind::Suspended, Error::suspended().message));
        }
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(GLANCE));
    }
}

/// SHA-256 of a file in hexadecimal.
pub fn sha256(path: &Path, watch: &dyn FetchObserver) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    summed(&mut file, path, watch).map(|(_, sum)| hex(sum))
}

fn summed(file: &mut File, path: &Path, watch: &dyn FetchObserver) -> Result<(u64, Sha256)> {
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 4 * CHUNK]);
    loop {
        let n = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            return Ok((bytes, sum));
        }
        if watch.should_stop() {
            return Err(Error::suspended());
        }
        sum.update(&buffer[..n]);
        bytes += n as u64;
    }
}

fn hex(sum: Sha256) -> String {
    sum.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
