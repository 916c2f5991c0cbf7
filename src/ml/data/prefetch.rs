//! What the next micro-batch needs is made on a thread of its own while the network is busy with this one.
//!
//! A batch is a function of its place (step and micro-batch), so who makes it and when changes no bit. The thread is asked
//! for one place ahead and sleeps when that is made: memory holds two batches at most, and no processor spins. Heavy parts
//! draw on the one pool of threads like everything else, so the thread adds no competition of its own.
//!
//! Knows neither what a batch is nor the loop that takes it.

use candle_core::{Error, Result, bail};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

/// A step, from 0, and a micro-batch within it.
pub type MicroBatch = (u64, usize);

/// The batches of a loop, in the order of their places or any other.
pub struct Batches<'a, T> {
    ask: Sender<MicroBatch>,
    give: Receiver<Result<T>>,
    /// Asked for and not taken yet.
    ahead: Option<MicroBatch>,
    next: &'a dyn Fn(MicroBatch) -> Option<MicroBatch>,
}

impl<T> Batches<'_, T> {
    /// What was made for this place, or the error of making it; the next one is begun.
    pub fn take(&mut self, place: MicroBatch) -> Result<T> {
        match self.ahead.take() {
            Some(ahead) if ahead == place => {}
            // After a resume, and wherever a loop does not go on as expected: what was made is of no use.
            Some(_) => {
                self.receive()?.ok();
                self.ask(place)?;
            }
            None => self.ask(place)?,
        }
        let batch = self.receive()?;
        // Asked for only now: it is made while the caller works with this one, and there is no third.
        if batch.is_ok()
            && let Some(next) = (self.next)(place)
        {
            self.ask(next)?;
            self.ahead = Some(next);
        }
        batch
    }

    fn ask(&self, place: MicroBatch) -> Result<()> {
        self.ask.send(place).map_err(ended)
    }

    fn receive(&self) -> Result<Result<T>> {
        self.give.recv().map_err(ended)
    }
}

/// Only a panic ends the thread while somebody asks it.
fn ended(_: impl std::error::Error) -> Error {
    Error::Msg("the thread that prepares batches has ended".into())
}

/// Runs `body` with batches that `make` makes ahead on another thread, which ends with it. `next` says which place
/// follows; `None` after the last.
///
/// # Errors
/// What `body` returns, and a thread that cannot be started.
pub fn prefetching<T: Send, R>(
    make: &(dyn Fn(MicroBatch) -> Result<T> + Sync),
    next: &dyn Fn(MicroBatch) -> Option<MicroBatch>,
    body: impl FnOnce(&mut Batches<'_, T>) -> Result<R>,
) -> Result<R> {
    std::thread::scope(|scope| {
        let (ask, asked) = channel();
        let (given, give) = channel();
        let work = move || {
            for place in asked {
                if given.send(make(place)).is_err() {
                    break;
                }
            }
        };
        if let Err(e) = Builder::new().name("prefetch".into()).spawn_scoped(scope, work) {
            bail!("cannot start a thread to prepare batches: {e}");
        }
        body(&mut Batches { ask, give, ahead: None, next })
    })
}

/// The place after this one in a training of so many steps with so many micro-batches each.
pub fn following(steps: u64, accumulate: usize) -> impl Fn(MicroBatch) -> Option<MicroBatch> {
    move |(step, micro)| {
        let next = if micro + 1 < accumulate { (step, micro + 1) } else { (step + 1, 0) };
        (next.0 < steps).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::sync_channel;

    const SIX: [MicroBatch; 6] = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)];

    #[test]
    fn batches_come_in_any_order_and_one_is_made_ahead() {
        let made = Mutex::new(vec![]);
        let make = |place: MicroBatch| {
            made.lock().unwrap().push(place);
            Ok(place.0 * 10 + place.1 as u64)
        };
        let got = prefetching(&make, &following(3, 2), |batches| SIX.iter().map(|p| batches.take(*p)).collect());
        let got: Vec<u64> = got.unwrap();
        assert_eq!(got, [0, 1, 10, 11, 20, 21]);
        assert_eq!(*made.lock().unwrap(), SIX, "each once, none behind the last");
        // A jump: what was made ahead is thrown away.
        let got = prefetching(&make, &following(9, 1), |batches| {
            [(5, 0), (6, 0), (2, 0), (3, 0)].iter().map(|p| batches.take(*p)).collect()
        });
        let got: Vec<u64> = got.unwrap();
        assert_eq!(got, [50, 60, 20, 30]);
    }

    /// The second batch is made while the caller still holds the first, and no third before it asks again.
    #[test]
    fn the_next_batch_is_made_meanwhile_and_no_more() {
        let (tell, told) = sync_channel(8);
        let make = |place: MicroBatch| {
            tell.send(place).unwrap();
            Ok(())
        };
        prefetching(&make, &following(9, 1), |batches| {
            batches.take((0, 0))?;
            assert_eq!((told.recv().unwrap(), told.recv().unwrap()), ((0, 0), (1, 0)));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(told.try_recv().is_err(), "two batches are enough");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn errors_come_where_their_batch_is_due_and_end_the_thread() {
        let make = |(step, _): MicroBatch| if step == 2 { bail!("row 9 of 8") } else { Ok(step) };
        let mut taken = vec![];
        let error = prefetching(&make, &following(9, 1), |batches| {
            for step in 0..9 {
                taken.push(batches.take((step, 0))?);
            }
            Ok(())
        });
        assert!(error.unwrap_err().to_string().starts_with("row 9 of 8"));
        assert_eq!(taken, [0, 1]);
        // A caller may leave before the last batch.
        prefetching(&|place: MicroBatch| Ok(place.0), &following(9, 1), |batches| batches.take((0, 0))).unwrap();
    }
}
