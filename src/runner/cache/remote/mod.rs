//! A cache that a team shares: a folder, a bucket or a web server in which records and artifacts lie for others.
//!
//! ```text
//! <address>/
//!   v1/actions/ab/<key>.json     a record, byte for byte as in a cache folder; it carries its own check
//!   v1/trees/ab/<digest>.json    of an artifact that is a folder: path, length and digest of each file
//!   v1/blobs/ab/<digest>         the bytes of one file, so equal files of many artifacts are stored once
//! ```
//!
//! Blobs are sent before the tree that names them, trees before the record: who finds a record finds what it names.
//! What is there already is not sent again. What comes is compared with its digest before it enters the store, so a
//! remote can withhold a result, but not change the bytes of one. It can name a wrong artifact in a record: whoever may
//! write to a remote is trusted as much as a colleague with the same cache folder.
//!
//! A remote is a convenience and never the reason that a run fails. The first answer that says that it is out of
//! order (refused, timed out, 5xx, wrong credentials) is one warning, and from then on it is not asked again. Both ways
//! of waiting, for downloads and for the last uploads, end when the run is told to stop.
//!
//! The one place with async code in the runner: `address` makes a client of an address, `pull` and `push` are the two
//! directions of `link`, `tree` the list of files, `fault` what went wrong in words without secrets.
//! This module does not know when a record counts as a hit (`plan`) and who asks.

mod address;
mod client;
mod error;
mod pull;
mod push;
mod tree;

pub use address::Mode;
pub use push::Sent;

use super::action_cache::Record;
use super::key::Key;
use super::store::Store;
use client::{Client, RemoteRecord};
use error::RemoteError;
use erw_base::error::{Error, ErrorKind, Result};
use erw_base::limits;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

/// That carry what is sent and fetched.
const THREADS: usize = 2;

pub struct Remote {
    link: Arc<Client>,
    threads: Handle,
    /// Taken when this value goes.
    runtime: Option<Runtime>,
    depth: Depth,
}

/// How far a question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// A hit brings the artifacts.
    Artifacts,
    /// A hit says only that they could be had.
    Records,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.link.name).finish()
    }
}

impl Remote {
    /// Makes ready to ask the remote at `address`; asks nothing yet. An address that nobody understands is an error.
    pub fn open(address: &str, mode: Option<Mode>) -> Result<Self> {
        let opened = address::open(address, mode)?;
        // The library panics where it gets no thread.
        limits::probe(THREADS).map_err(|e| Error::usage("cannot start the threads of the remote cache").caused(e))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("erw-remote")
            .enable_all()
            .build()
            .map_err(|e| Error::usage("cannot start the threads of the remote cache").caused(e))?;
        let threads = runtime.handle().clone();
        Ok(Self { link: Arc::new(Client::to(opened)), threads, runtime: Some(runtime), depth: Depth::Artifacts })
    }

    /// For plans: a hit is told and nothing is fetched.
    #[must_use]
    pub fn records_only(mut self) -> Self {
        self.depth = Depth::Records;
        self
    }

    pub fn fetches(&self) -> bool {
        self.depth == Depth::Artifacts
    }

    /// The address without its secrets.
    pub fn name(&self) -> &str {
        &self.link.name
    }

    pub fn mode(&self) -> Mode {
        self.link.mode
    }

    /// The record of this key, if there is one that can be believed.
    pub fn record(&self, key: &Key) -> Option<RemoteRecord> {
        if let Some(known) = self.link.said().records.get(key) {
            return known.clone();
        }
        if !self.link.answers() {
            return None;
        }
        let found = self.threads.block_on(self.link.record(key));
        self.link.said().records.insert(*key, found.clone());
        found
    }

    /// Brings what a found record names into the store, the record last. False: it cannot be had, and why was noted.
    pub fn fetch(&self, store: &Store, found: &RemoteRecord) -> bool {
        let key = found.record.key();
        let fetched = self.link.answers() && pull::outputs(&self.threads, &self.link, store, found);
        if !fetched {
            // Asked once: whoever asks again computes.
            self.link.said().records.insert(key, None);
        }
        fetched
    }

    /// Sends a record and what it names while the run goes on.
    pub fn offer(&self, store: &Store, record: &Record) {
        if self.mode() == Mode::Read || !self.link.answers() || self.link.mute.load(Ordering::SeqCst) {
            return;
        }
        let Some(parcel) = push::Parcel::of(store, record) else { return };
        let link = Arc::clone(&self.link);
        link.pending.fetch_add(1, Ordering::SeqCst);
        self.threads.spawn(async move {
            let sent = link.unless_stopped(link.send(&parcel, false)).await;
            if let Some(Err(fault)) = sent {
                link.upload_failed(&fault);
            }
            link.pending.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Sends a record and what it names, now. `again`: even what is there.
    pub fn push(&self, store: &Store, record: &Record, again: bool) -> Result<Sent> {
        let unfit = || Error::usage(format!("what `{}/{}` made is no longer here", record.pipeline, record.stage));
        let parcel = push::Parcel::of(store, record).ok_or_else(unfit)?;
        let sent = self.threads.block_on(self.link.send(&parcel, again));
        sent.map_err(|fault| match &fault {
            RemoteError::Local(e) if e.kind == ErrorKind::Damaged => {
                super::action_cache::check_whole(store, record).err().unwrap_or_else(|| self.link.error(&fault))
            }
            _ => self.link.error(&fault),
        })
    }

    /// To be called now and then by whoever runs stages: hands out what is to be told. `idle`: nothing is left to do
    /// but to wait for what is being sent; `stop`: nor is that wanted any more.
    pub fn attend(&self, idle: bool, stop: &dyn Fn() -> bool) -> Vec<String> {
        if stop() {
            self.link.stopped.store(true, Ordering::SeqCst);
        }
        while idle && self.link.pending.load(Ordering::SeqCst) > 0 && !stop() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = self.link.pending.load(Ordering::SeqCst);
        if idle && left > 0 {
            let text = format!("stopped before {left} of the results were in the remote; `erw cache push` sends them");
            self.link.said().warnings.push(text);
        }
        self.warnings()
    }

    /// What went wrong since the last call.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.link.said().warnings)
    }

    /// For commands that are about the remote: its being out of order is their error.
    pub fn check(&self) -> Result<()> {
        if self.link.answers() {
            return Ok(());
        }
        let error = Error::usage(format!("the remote `{}` cannot be used", self.name()));
        Err(match self.link.said().last_fault.clone() {
            Some(fault) => error.because(fault),
            None => error,
        })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.link.stopped.store(true, Ordering::SeqCst);
        // Not by waiting: it may be digesting something large.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
