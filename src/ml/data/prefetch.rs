//! Prepares the next micro-batch on another thread while the network works on the current one.
//!
//! A batch is a function of its step and micro-batch, so it has the same bits whoever makes it and
//! when. The thread works one micro-batch ahead and then sleeps: memory holds two batches at most,
//! and no core spins. Parallel work uses the shared thread pool, so the thread adds no contention.
//!
//! It knows neither the contents of a batch nor the loop.

use candle_core::{Error, Result, bail};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

/// A step, counted from 0, and a micro-batch within it.
pub type MicroBatch = (u64, usize);

/// The batches of a loop, in any order; the usual order is prefetched.
pub struct Batches<'a, T> {
    ask: Sender<MicroBatch>,
    give: Receiver<Result<T>>,
    /// Requested and not taken yet.
    ahead: Option<MicroBatch>,
    next: &'a dyn Fn(MicroBatch) -> Option<MicroBatch>,
}

impl<T> Batches<'_, T> {
    /// The batch of this micro-batch, or the error from making it. Requests the next one.
    pub fn take(&mut self, place: MicroBatch) -> Result<T> {
        match self.ahead.take() {
            Some(ahead) if ahead == place => {}
            // After a resume, or when the loop jumps, the prefetched batch is not the requested
            // one.
            Some(_) => {
                self.receive()?.ok();
                self.ask(place)?;
            }
            None => self.ask(place)?,
        }
        let batch = self.receive()?;
        // Requested only now, so that at most two batches exist: the caller's and the next.
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

/// The thread only ends early by a panic.
fn ended(_: impl std::error::Error) -> Error {
    Error::Msg("the thread that prepares batches has ended".into())
}

/// Runs `body` with batches that `make` prepares on another thread. The thread ends with `body`.
/// `next` gives the following micro-batch, or `None` after the last.
///
/// # Errors
/// What `body` returns, or a thread that cannot be started.
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
            bail!("cannot start the thread that prepares batches: {e}");
        }
        body(&mut Batches { ask, give, ahead: None, next })
    })
}

/// The micro-batch after this one in a training of `steps` steps, with these micro-batches each.
pub fn following(steps: u64, share: Range<usize>) -> impl Fn(MicroBatch) -> Option<MicroBatch> {
    move |(step, micro)| {
        let next = if micro + 1 < share.end { (step, micro + 1) } else { (step + 1, share.start) };
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
        let got = prefetching(&make, &following(3, 0..2), |batches| SIX.iter().map(|p| batches.take(*p)).collect());
        let got: Vec<u64> = got.unwrap();
        assert_eq!(got, [0, 1, 10, 11, 20, 21]);
        assert_eq!(*made.lock().unwrap(), SIX, "each once, none behind the last");
        // After a jump, the prefetched batch is dropped.
        let got = prefetching(&make, &following(9, 0..1), |batches| {
            [(5, 0), (6, 0), (2, 0), (3, 0)].iter().map(|p| batches.take(*p)).collect()
        });
        let got: Vec<u64> = got.unwrap();
        assert_eq!(got, [50, 60, 20, 30]);
    }

    /// The second batch is made while the caller holds the first, and no third before the caller
    /// asks again.
    #[test]
    fn the_next_batch_is_made_meanwhile_and_no_more() {
        let (tell, told) = sync_channel(8);
        let make = |place: MicroBatch| {
            tell.send(place).unwrap();
            Ok(())
        };
        prefetching(&make, &following(9, 0..1), |batches| {
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
        let error = prefetching(&make, &following(9, 0..1), |batches| {
            for step in 0..9 {
                taken.push(batches.take((step, 0))?);
            }
            Ok(())
        });
        assert!(error.unwrap_err().to_string().starts_with("row 9 of 8"));
        assert_eq!(taken, [0, 1]);
        // A caller may leave before the last batch.
        prefetching(&|place: MicroBatch| Ok(place.0), &following(9, 0..1), |batches| batches.take((0, 0))).unwrap();
    }
}
