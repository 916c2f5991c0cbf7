//! Carrying out actions: threads that each take one order after another. More are started as more runs beside each other; where
//! no more can be had, orders wait for those there are. They know one stage at a time.

use super::message::Message;
use crate::exec::executor::{Executor, ReadyAction};
use crate::exec::resources::Allocation;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// An order with its share of the machine.
pub(super) type Allocated = (Box<ReadyAction>, Allocation);

/// What such a thread does until no more orders can come.
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
