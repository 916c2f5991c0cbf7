//! Threads that execute actions one after another. More are started as more actions run
//! concurrently; if no more threads can be started, actions wait. They know one stage at a time.

use super::message::Message;
use crate::exec::executor::{Executor, ReadyAction};
use crate::exec::resources::Allocation;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// An action with its allocation.
pub(super) type Allocated = (Box<ReadyAction>, Allocation);

/// The loop of such a thread, until no more actions can come.
pub(super) fn execute_all(executor: &Executor<'_>, ready_actions: &Mutex<Receiver<Allocated>>, tell: &Sender<Message>) {
    loop {
        let next = ready_actions.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ready, allocation)) = next else { return };
        let id = ready.id;
        let starting = |start| drop(tell.send(Message::Starting(id, start, allocation.clone())));
        let mut forward_event = |event| drop(tell.send(Message::Worker(id, event)));
        let end = executor.execute(&ready, &allocation, &starting, &mut forward_event);
        let _ = tell.send(Message::Ended(ready, allocation, end));
    }
}
