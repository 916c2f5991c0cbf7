//! The cache: a folder with artifacts, the records of the actions that made them, and the files that were digested before.
//! A [`Store`] is the folder; a [`Cache`] is the folder with the remote behind it, where one is named.
//!
//! [`key`] is what a record is found by, [`action_cache`] keeps the records, [`sources`] digests outside files and
//! remembers them by their stamps. [`remote`] shares records and artifacts with others. [`inventory`] lists what is
//! here and reads it for damage, [`gc`] makes room, [`tags`] are names, [`export`] takes artifacts out. What a key is
//! made of is decided above, in `plan`.

pub mod action_cache;
pub mod export;
pub mod gc;
pub mod inventory;
pub mod key;
pub mod remote;
pub mod sources;
pub mod store;
pub mod tags;

use remote::Remote;
use std::ops::Deref;
use store::Store;

/// A cache folder, and the remote behind it.
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

/// A [`Cache`] lent, or a store that has no remote.
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
