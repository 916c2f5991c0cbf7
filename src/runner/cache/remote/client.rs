//! State shared by all transfers of one remote: the client, whether it still answers, pending
//! warnings, bad objects. Does not know when a record counts as a hit.

use super::address::{Mode, Opened};
use super::error::RemoteError;
use super::objects::RemoteRecord;
use super::pack::Pack;
use crate::cache::key::Key;
use erw_base::error::Error;
use object_store::ObjectStore;
use object_store::path::Path as Location;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// Files in transfer at a time, in both directions together.
const TRANSFERS: usize = 16;
/// How often a transfer checks whether it should stop.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// State that transfers share. They outlive the call that started them.
pub struct Client {
    pub client: Arc<dyn ObjectStore>,
    /// Prefix of every object name.
    prefix: String,
    /// The address to show: without passwords and tokens.
    pub name: String,
    pub mode: Mode,
    /// The remote has failed and is not asked again.
    has_failed: AtomicBool,
    /// The remote refuses uploads, but answers.
    pub rejects_uploads: AtomicBool,
    /// The failure was reported.
    reported: AtomicBool,
    /// The run is over: cancel all transfers.
    pub stopped: AtomicBool,
    /// Uploads in progress.
    pub pending: AtomicUsize,
    pub slots: Semaphore,
    /// By pipeline.
    packs: Mutex<BTreeMap<String, Pack>>,
    /// Held while a pack is fetched, so that others wait for it.
    pub fetching: AsyncMutex<()>,
    notices: Mutex<Notices>,
}

#[derive(Default)]
pub struct Notices {
    /// Warnings not yet shown.
    pub warnings: Vec<String>,
    /// Names of corrupt objects; they are sent again when there is a good copy.
    pub bad: BTreeSet<String>,
    /// Keys already looked up, so that a stage waiting for a lock does not ask again and again.
    pub records: BTreeMap<Key, Option<RemoteRecord>>,
    pub last_error: Option<String>,
}

impl Client {
    pub fn to(remote: Opened) -> Self {
        let Opened { client, prefix, name, mode, fault } = remote;
        let link = Self {
            client,
            prefix,
            name,
            mode,
            has_failed: AtomicBool::new(false),
            rejects_uploads: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            slots: Semaphore::new(TRANSFERS),
            packs: Mutex::default(),
            fetching: AsyncMutex::default(),
            notices: Mutex::default(),
        };
        fault.into_iter().for_each(|why| link.failed(&RemoteError::Remote(why)));
        link
    }

    pub fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn packs(&self) -> MutexGuard<'_, BTreeMap<String, Pack>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answers(&self) -> bool {
        !self.has_failed.load(Ordering::SeqCst)
    }

    pub fn at(&self, name: &str) -> Location {
        Location::from(format!("{}/{name}", self.prefix))
    }

    /// Marks the remote as failed, with a single warning.
    pub fn failed(&self, fault: &RemoteError) {
        match fault {
            RemoteError::Remote(cause) => {
                self.has_failed.store(true, Ordering::SeqCst);
                self.notices().last_error = Some(cause.clone());
                self.tell_once(format!("cannot use the remote `{}`, continuing without it: {cause}", self.name));
            }
            RemoteError::Bad { name, why } => self.is_bad(name, why),
            RemoteError::Absent(name) | RemoteError::Denied(name) => {
                self.is_bad(name, "a record names it, but it does not exist")
            }
            RemoteError::Local(error) => self.notices().warnings.push(format!("not fetched from the remote: {error}")),
            RemoteError::Stopped => {}
        }
    }

    /// Reports a failed remote once, however it fails.
    fn tell_once(&self, text: String) {
        if !self.reported.swap(true, Ordering::SeqCst) {
            self.notices().warnings.push(text);
        }
    }

    /// Accepts an error that means the object is absent; any other error is returned.
    pub fn absent(&self, fault: RemoteError) -> Result<(), RemoteError> {
        match fault {
            RemoteError::Absent(_) => Ok(()),
            RemoteError::Denied(name) => {
                self.tell_once(format!(
                    "the remote `{}` denies access to `{name}`; denied objects count as absent (S3 denies absent \
                     objects to accounts that may not list the bucket)",
                    self.name
                ));
                Ok(())
            }
            other => Err(other),
        }
    }

    pub fn is_bad(&self, name: &str, why: &str) {
        let mut notices = self.notices();
        if notices.bad.insert(name.to_string()) {
            notices.warnings.push(format!("ignoring `{name}` of the remote `{}`: {why}", self.name));
        }
    }

    pub fn upload_failed(&self, fault: &RemoteError) {
        let cause = match fault {
            RemoteError::Stopped => return,
            RemoteError::Local(error) => {
                return self.notices().warnings.push(format!("not sent to the remote: {error}"));
            }
            RemoteError::Remote(cause) => cause.clone(),
            RemoteError::Bad { name, why } => format!("`{name}`: {why}"),
            RemoteError::Absent(name) => format!("the destination of `{name}` does not exist"),
            RemoteError::Denied(_) => "access denied".into(),
        };
        self.rejects_uploads.store(true, Ordering::SeqCst);
        self.tell_once(format!("the remote `{}` accepts no results, they stay in this cache: {cause}", self.name));
    }

    pub fn error(&self, fault: &RemoteError) -> Error {
        let error = Error::usage(format!("cannot send to the remote `{}`", self.name));
        match fault {
            RemoteError::Remote(cause) => error.because(cause),
            RemoteError::Bad { name, why } => error.because(format!("`{name}`: {why}")),
            RemoteError::Absent(name) => error.because(format!("the destination of `{name}` does not exist")),
            RemoteError::Denied(name) => error.because(format!("access to `{name}` denied")),
            RemoteError::Local(local) => (**local).clone(),
            RemoteError::Stopped => error.because("stopped"),
        }
    }

    /// The result of `work`, or `None` as soon as the transfer is stopped.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let stopped = async {
            while !self.stopped.load(Ordering::SeqCst) {
                tokio::time::sleep(STOP_INTERVAL).await;
            }
        };
        let (work, stopped) = (std::pin::pin!(work), std::pin::pin!(stopped));
        match futures_util::future::select(work, stopped).await {
            futures_util::future::Either::Left((value, _)) => Some(value),
            futures_util::future::Either::Right(_) => None,
        }
    }
}
