//! The cache: a folder with artifacts, the records of the actions that made them, and the digests
//! of source files. A [`Store`] is the folder; a [`Cache`] is a store with its remote, if there is
//! one.
//!
//! [`key`] identifies an action, [`action_cache`] holds the records, of which [`index`] says what
//! is asked of many, [`sources`] digests source files and remembers them by their `stamps`.
//! [`remote`] shares records and artifacts. [`inventory`] lists and verifies the contents, [`gc`]
//! frees space, [`tags`] name artifacts, [`export`] copies them out. The ingredients of a key are
//! listed above, in `plan`.

pub mod action_cache;
pub mod export;
pub mod gc;
pub mod index;
pub mod inventory;
pub mod key;
pub mod remote;
pub mod sources;
mod stamps;
pub mod store;
pub mod tags;

use remote::Remote;
use std::ops::Deref;
use store::Store;

/// A cache folder and its remote, if any.
pub struct Cache {
    pub store: Store,
    pub remote: Option<Remote>,
}

impl Deref for Cache {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// A borrowed [`Cache`], or a store without a remote.
#[derive(Clone, Copy)]
pub struct CacheRef<'a> {
    pub store: &'a Store,
    pub remote: Option<&'a Remote>,
}

impl<'a> From<&'a Store> for CacheRef<'a> {
    fn from(store: &'a Store) -> Self {
        Self { store, remote: None }
    }
}

impl<'a> From<&'a Cache> for CacheRef<'a> {
    fn from(cache: &'a Cache) -> Self {
        Self { store: &cache.store, remote: cache.remote.as_ref() }
    }
}
