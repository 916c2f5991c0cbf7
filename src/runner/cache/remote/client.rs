//! What transfers of one remote share: the client, whether it still answers, what is to be told, what was found bad; and
//! how objects are called.

use super::address::{Mode, Opened};
use super::error::RemoteError;
use crate::cache::action_cache::Record;
use crate::cache::key::Key;
use crate::files::digest::Digest;
use erw_base::error::Error;
use object_store::ObjectStore;
use object_store::path::Path as Location;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A record that a remote has, and the bytes it came as.
#[derive(Debug, Clone)]
pub struct RemoteRecord {
    pub record: Record,
    pub(super) bytes: Vec<u8>,
}

/// Files on their way at a time, in both directions together.
const TRANSFERS: usize = 16;
/// How often a transfer looks whether it is still wanted.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// What transfers share. They outlive the call that began them.
pub struct Client {
    pub client: Arc<dyn ObjectStore>,
    /// In front of every name.
    prefix: String,
    /// As told to people: without passwords and tokens.
    pub name: String,
    pub mode: Mode,
    /// Not to be asked any more.
    dead: AtomicBool,
    /// Refuses what it is sent, but answers.
    pub mute: AtomicBool,
    /// That it is out of order.
    told: AtomicBool,
    /// The run is over, whatever is under way.
    pub stopped: AtomicBool,
    /// Records that are still being sent.
    pub pending: AtomicUsize,
    pub slots: Semaphore,
    said: Mutex<Said>,
}

#[derive(Default)]
pub struct Said {
    /// Not yet told.
    pub warnings: Vec<String>,
    /// Names of objects that are not what they should be; sent anew when there is something better.
    pub bad: BTreeSet<String>,
    /// What was asked for, so that a stage that waits for a lock does not ask over and over.
    pub records: BTreeMap<Key, Option<RemoteRecord>>,
    pub last_fault: Option<String>,
}

impl Client {
    pub fn to(remote: Opened) -> Self {
        let Opened { client, prefix, name, mode, fault } = remote;
        let link = Self {
            client,
            prefix,
            name,
            mode,
            dead: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            told: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            slots: Semaphore::new(TRANSFERS),
            said: Mutex::default(),
        };
        fault.into_iter().for_each(|why| link.failed(&RemoteError::Remote(why)));
        link
    }

    pub fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answers(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }

    pub fn at(&self, name: &str) -> Location {
        Location::from(format!("{}/{name}", self.prefix))
    }

    /// The first fault of a remote ends the matter, in one warning.
    pub fn failed(&self, fault: &RemoteError) {
        match fault {
            RemoteError::Remote(cause) => {
                self.dead.store(true, Ordering::SeqCst);
                self.said().last_fault = Some(cause.clone());
                self.tell_once(format!("the remote `{}` cannot be used, going on without it: {cause}", self.name));
            }
            RemoteError::Bad { name, why } => self.is_bad(name, why),
            RemoteError::Absent(name) | RemoteError::Denied(name) => {
                self.is_bad(name, "it is named by a record and not there")
            }
            RemoteError::Local(error) => self.said().warnings.push(format!("nothing taken from the remote: {error}")),
            RemoteError::Stopped => {}
        }
    }

    /// A remote that is out of order is told of once, in whatever way it shows first.
    fn tell_once(&self, text: String) {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.said().warnings.push(text);
        }
    }

    /// Passes what says that an object is not there; anything else is a fault.
    pub fn absent(&self, fault: RemoteError) -> Result<(), RemoteError> {
        match fault {
            RemoteError::Absent(_) => Ok(()),
            RemoteError::Denied(name) => {
                self.tell_once(format!(
                    "the remote `{}` refuses access to `{name}`: what it refuses counts as absent (S3 refuses absent objects to \
                     accounts that may not list the bucket)",
                    self.name
                ));
                Ok(())
            }
            other => Err(other),
        }
    }

    pub fn is_bad(&self, name: &str, why: &str) {
        let mut said = self.said();
        if said.bad.insert(name.to_string()) {
            said.warnings.push(format!("`{name}` of the remote `{}` counts as absent: {why}", self.name));
        }
    }

    pub fn upload_failed(&self, fault: &RemoteError) {
        let cause = match fault {
            RemoteError::Stopped => return,
            RemoteError::Local(error) => return self.said().warnings.push(format!("not sent to the remote: {error}")),
            RemoteError::Remote(cause) => cause.clone(),
            RemoteError::Bad { name, why } => format!("`{name}`: {why}"),
            RemoteError::Absent(name) => format!("there is no place for `{name}`"),
            RemoteError::Denied(_) => "it refuses access".into(),
        };
        self.mute.store(true, Ordering::SeqCst);
        self.tell_once(format!("the remote `{}` takes no results, they stay in this cache: {cause}", self.name));
    }

    pub fn error(&self, fault: &RemoteError) -> Error {
        let error = Error::usage(format!("cannot send to the remote `{}`", self.name));
        match fault {
            RemoteError::Remote(cause) => error.because(cause),
            RemoteError::Bad { name, why } => error.because(format!("`{name}`: {why}")),
            RemoteError::Absent(name) => error.because(format!("there is no place for `{name}`")),
            RemoteError::Denied(name) => error.because(format!("it refuses access to `{name}`")),
            RemoteError::Local(local) => (**local).clone(),
            RemoteError::Stopped => error.because("stopped"),
        }
    }

    /// What `work` gives; `None` as soon as nobody wants it any more.
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

pub fn record_name(key: &Key) -> String {
    let key = key.to_string();
    format!("v1/actions/{}/{key}.json", &key[..2])
}

pub fn blob_name(digest: &Digest) -> String {
    let digest = digest.to_string();
    format!("v1/blobs/{}/{digest}", &digest[..2])
}

pub fn tree_name(digest: &Digest) -> String {
    let digest = digest.to_string();
    format!("v1/trees/{}/{digest}.json", &digest[..2])
}
