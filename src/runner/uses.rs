//! What a run means for the records it meets: a hit is a use, which gc heeds; a new one is offered to the remote.

use super::actions::{self, Lookup};
use super::event::{Event, Listener, State, What};
use super::store::Store;

/// Hears of every stage that ends.
pub struct Uses<'a> {
    store: &'a Store,
}

impl<'a> Uses<'a> {
    pub fn of(store: &'a Store) -> Self {
        Self { store }
    }
}

impl Listener for Uses<'_> {
    fn event(&mut self, event: &Event) {
        let What::Ended(end) = &event.what else { return };
        let key = end.key.as_ref().and_then(|k| k.parse::<super::digest::Digest>().ok());
        let Some(key) = key.map(super::key::Key::from) else { return };
        match end.state {
            State::Cached => self.store.used(&key),
            State::Done => {
                let Some(remote) = self.store.remote() else { return };
                if let Ok(Lookup::Hit(record)) = actions::lookup(self.store, &key) {
                    remote.offer(self.store, &record);
                }
            }
            _ => {}
        }
    }
}
