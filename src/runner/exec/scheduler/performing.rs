//! Carrying out actions: threads that each take one order after another. More are started as more runs beside each other; where
//! no more can be had, orders wait for those there are. They know one stage at a time.

use super::message::Message;
use crate::exec::executor::{Executor, ReadyAction};
use crate::exec::resources::Allocation;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

/// An order with its share of the machine.
pub(super) type Granted = (Box<ReadyAction>, Allocation);

/// What such a thread does until no more orders can come.
pub(super) fn perform_all(shop: &Executor<'_>, orders: &Mutex<Receiver<Granted>>, tell: &Sender<Message>) {
    loop {
        let next = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((order, grant)) = next else { return };
        let id = order.id;
        let starting = |start| drop(tell.send(Message::Starting(id, start, grant.clone())));
        let mut pass_on = |event| drop(tell.send(Message::Worker(id, event)));
        let end = shop.perform(&order, &grant, &starting, &mut pass_on);
        let _ = tell.send(Message::Ended(order, grant, end));
    }
}
