//! What a run does with the records it meets: a hit marks the record as used, for gc; a new record
//! is offered to the remote. Does not know how stages run.

use crate::cache::CacheRef;
use crate::cache::action_cache::{self, Lookup};
use crate::cache::key::Key;
use crate::event::{Event, EventKind, Listener, StageState};
use crate::files::digest::Digest;

/// Listens for stages that end.
pub struct Uses<'a> {
    cache: CacheRef<'a>,
}

impl<'a> Uses<'a> {
    pub fn of(cache: CacheRef<'a>) -> Self {
        Self { cache }
    }
}

impl Listener for Uses<'_> {
    fn event(&mut self, event: &Event) {
        let EventKind::Ended(end) = &event.what else { return };
        let key = end.key.as_ref().and_then(|k| k.parse::<Digest>().ok());
        let Some(key) = key.map(Key::from) else { return };
        match end.state {
            StageState::Cached => self.cache.store.used(&key),
            StageState::Done => {
                let Some(remote) = self.cache.remote else { return };
                if let Ok(Lookup::Hit(record)) = action_cache::lookup(self.cache.store, &key) {
                    remote.offer(self.cache.store, &record);
                }
            }
            _ => {}
        }
    }
}
