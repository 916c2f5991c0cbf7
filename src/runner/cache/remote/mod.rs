//! A cache shared by a team: a folder, a bucket or a web server with records and artifacts.
//!
//! ```text
//! <address>/
//!   v1/actions/ab/<key>.json     a record, byte for byte as in a cache folder, with its own check
//!   v1/trees/ab/<digest>.json    the files of a folder artifact: path, length and digest of each
//!   v1/blobs/ab/<digest>         the bytes of one file; equal files of many artifacts are one blob
//!   v1/packs/<digest>.tar.gz     what is small of the above for one pipeline, to save requests
//! ```
//!
//! Blobs are sent before the tree that names them, trees before the record, so everything that a
//! record names is there. Existing objects are not sent again. Received files are checked against
//! their digest before they enter the store, so a remote can withhold a result but not change its
//! bytes. It can name a wrong artifact in a record: anyone who may write to a remote is trusted as
//! much as a colleague with the same cache folder.
//!
//! A remote never makes a run fail. Its first failure (refused, timed out, 5xx, wrong credentials)
//! is reported as one warning, and it is not asked again. Waiting for downloads and for the last
//! uploads ends when the run is told to stop.
//!
//! All async code of the runner is here: `address` creates the client of an address, `pull` and
//! `push` transfer in the two directions, `tree` is the list of files, `pack` the small objects of a
//! pipeline in one, `objects` has their names, `error` describes failures without secrets. This
//! module does not know when a record counts as a hit (`plan`), nor who asks.

mod address;
mod client;
mod error;
mod objects;
mod pack;
mod pull;
mod push;
mod tree;

pub use address::Mode;
pub use error::address as shown_address;
pub use push::Sent;

use super::action_cache::Record;
use super::key::Key;
use super::store::Store;
use client::Client;
use error::RemoteError;
use erw_base::error::{Error, ErrorKind, Result};
use erw_base::limits;
use futures_util::{StreamExt, TryStreamExt};
use objects::RemoteRecord;
use push::{Named, Parcel};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads that run the transfers.
const THREADS: usize = 2;
/// Records in transfer at a time by `push`.
const PUSHES: usize = 8;

pub struct Remote {
    link: Arc<Client>,
    threads: Handle,
    /// Taken when this value is dropped.
    runtime: Option<Runtime>,
    depth: Depth,
}

/// What a lookup does on a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Fetch the artifacts.
    Artifacts,
    /// Only report that they could be fetched.
    Records,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.link.name).finish()
    }
}

impl Remote {
    /// Opens the remote at `address` without contacting it. An invalid address is an error.
    pub fn open(address: &str, mode: Option<Mode>) -> Result<Self> {
        let opened = address::open(address, mode)?;
        // The library panics if it cannot start a thread.
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

    /// For plans: report hits, fetch nothing.
    #[must_use]
    pub fn records_only(mut self) -> Self {
        self.depth = Depth::Records;
        self
    }

    pub fn fetches(&self) -> bool {
        self.depth == Depth::Artifacts
    }

    /// The address without secrets.
    pub fn name(&self) -> &str {
        &self.link.name
    }

    pub fn mode(&self) -> Mode {
        self.link.mode
    }

    /// The record of this key, if there is a valid one; what is packed for the pipeline is read first.
    pub fn record(&self, pipeline: &str, key: &Key) -> Option<RemoteRecord> {
        if !self.link.packs().contains_key(pipeline) {
            self.threads.block_on(self.link.open_pack(pipeline));
        }
        if let Some(known) = self.link.notices().records.get(key) {
            return known.clone();
        }
        if !self.link.answers() {
            return None;
        }
        let found = self.threads.block_on(self.link.record(key));
        self.link.notices().records.insert(*key, found.clone());
        found
    }

    /// Fetches everything a found record names into the store, the record last, for this stage of
    /// this pipeline. `false`: that failed, and the reason was noted.
    pub fn fetch(&self, store: &Store, named: Named<'_>, found: &RemoteRecord) -> bool {
        let key = found.record.key();
        let fetched = self.link.answers() && pull::outputs(&self.threads, &self.link, store, found);
        if !fetched {
            // Recorded as asked: the next lookup runs the action instead.
            self.link.notices().records.insert(key, None);
        } else if self.mode() == Mode::Write {
            self.pack(store, named, found);
        }
        fetched
    }

    /// Packs what was fetched, if it came alone.
    fn pack(&self, store: &Store, (pipeline, stage): Named<'_>, found: &RemoteRecord) {
        let packed = self.link.packs().get(pipeline).is_some_and(|pack| pack.holds(stage, &found.bytes));
        if !packed && let Some(parcel) = Parcel::of(store, &found.record) {
            // The next run tries again.
            let _ = self.threads.block_on(self.link.pack((pipeline, stage), &parcel));
        }
    }

    /// Uploads a record and its artifacts in the background.
    pub fn offer(&self, store: &Store, record: &Record) {
        if self.mode() == Mode::Read || !self.link.answers() || self.link.rejects_uploads.load(Ordering::SeqCst) {
            return;
        }
        let Some(parcel) = Parcel::of(store, record) else { return };
        let (pipeline, stage) = (record.pipeline.clone(), record.stage.clone());
        let link = Arc::clone(&self.link);
        link.pending.fetch_add(1, Ordering::SeqCst);
        self.threads.spawn(async move {
            let send = async {
                link.send(&parcel, false).await?;
                link.pack((&pipeline, &stage), &parcel).await
            };
            let sent = link.unless_stopped(send).await;
            if let Some(Err(fault)) = sent {
                link.upload_failed(&fault);
            }
            link.pending.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Uploads records and their artifacts now. `again`: even objects that already exist.
    pub fn push(&self, store: &Store, records: &[Record], again: bool) -> Result<Sent> {
        let send = |record| async move {
            let sent = self.push_one(store, record, again).await;
            sent.map_err(|fault| match &fault {
                RemoteError::Local(e) if e.kind == ErrorKind::Damaged => {
                    super::action_cache::check_whole(store, record).err().unwrap_or_else(|| self.link.error(&fault))
                }
                _ => self.link.error(&fault),
            })
        };
        let all = async {
            let sent = futures_util::stream::iter(records).map(send).buffer_unordered(PUSHES);
            let sent = sent.try_fold(Sent::default(), |all, one| async move { Ok(all + one) }).await?;
            self.link.send_packs().await.map_err(|fault| self.link.error(&fault))?;
            Ok(sent)
        };
        self.threads.block_on(all)
    }

    async fn push_one(&self, store: &Store, record: &Record, again: bool) -> Result<Sent, RemoteError> {
        let (pipeline, stage) = (record.pipeline.as_str(), record.stage.as_str());
        let unfit = || Error::usage(format!("the outputs of `{pipeline}/{stage}` are no longer in the cache"));
        let parcel = Parcel::of(store, record).ok_or_else(unfit)?;
        let sent = self.link.send(&parcel, again).await?;
        self.link.pack((pipeline, stage), &parcel).await?;
        Ok(sent)
    }

    /// Called regularly by the executor; returns pending warnings. `idle`: nothing is left to do
    /// but to wait for uploads; `stop`: stop waiting too.
    pub fn attend(&self, idle: bool, stop: &dyn Fn() -> bool) -> Vec<String> {
        if stop() {
            self.link.stopped.store(true, Ordering::SeqCst);
        }
        while idle && self.link.pending.load(Ordering::SeqCst) > 0 && !stop() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = self.link.pending.load(Ordering::SeqCst);
        if idle && left > 0 {
            let text = format!("stopped before {left} of the results were uploaded; `erw cache push` sends them");
            self.link.notices().warnings.push(text);
        }
        if idle && left == 0 && self.link.answers() && !self.link.rejects_uploads.load(Ordering::SeqCst) {
            let sent = self.threads.block_on(self.link.unless_stopped(self.link.send_packs()));
            sent.and_then(Result::err).iter().for_each(|fault| self.link.upload_failed(fault));
        }
        self.warnings()
    }

    /// Warnings since the last call.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.link.notices().warnings)
    }

    /// Fails if the remote has failed, for commands that are about the remote.
    pub fn check(&self) -> Result<()> {
        if self.link.answers() {
            return Ok(());
        }
        let error = Error::usage(format!("cannot use the remote `{}`", self.name()));
        Err(match self.link.notices().last_error.clone() {
            Some(fault) => error.because(fault),
            None => error,
        })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.link.stopped.store(true, Ordering::SeqCst);
        // Does not wait for the tasks: one may be digesting a large file.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
