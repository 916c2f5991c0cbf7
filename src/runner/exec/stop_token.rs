//! Holds stop and pause requests from outside until the scheduler sees them. Does not know what is
//! stopped.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Signals this soon after a request belong to it: `timeout` sends two, to the process and to its
/// group, and a terminal and a wrapper may each send one.
const SAME: Duration = Duration::from_secs(1);

/// The pending stop and pause requests.
#[derive(Debug, Default)]
pub struct StopToken(Mutex<StopState>);

#[derive(Debug, Default)]
struct StopState {
    /// The signal of the first stop request.
    signal: i32,
    count: usize,
    latest: Option<Instant>,
    /// Start of the current pause.
    paused: Option<Instant>,
    /// Duration of earlier pauses that was not collected yet.
    lost: Duration,
}

impl StopToken {
    pub const fn new() -> Self {
        Self(Mutex::new(StopState { signal: 0, count: 0, latest: None, paused: None, lost: Duration::ZERO }))
    }
    fn state(&self) -> MutexGuard<'_, StopState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// First request: suspend the work. Second: kill it. Returns the number of requests so far.
    pub fn ask(&self, signal: i32, now: Instant) -> usize {
        let mut state = self.state();
        if state.latest.is_some_and(|latest| now.saturating_duration_since(latest) < SAME) {
            return state.count;
        }
        if state.count == 0 {
            state.signal = signal;
        }
        state.latest = Some(now);
        state.count += 1;
        state.count
    }
    pub(crate) fn count(&self) -> usize {
        self.state().count
    }
    pub fn signal(&self) -> Option<i32> {
        let state = self.state();
        (state.count > 0).then_some(state.signal)
    }
    /// Everything, including this process, is about to be paused.
    pub fn pause(&self) {
        self.state().paused = Some(Instant::now());
    }
    /// The pause is over.
    pub fn resume(&self) {
        let mut state = self.state();
        let lost = state.paused.take().map_or(Duration::ZERO, |since| since.elapsed());
        state.lost += lost;
    }
    /// How long everything was paused since the last call; `None` during a pause.
    pub(crate) fn time_lost(&self) -> Option<Duration> {
        let mut state = self.state();
        state.paused.is_none().then(|| std::mem::take(&mut state.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_within_a_second_are_one_wish() {
        let (stop, began) = (StopToken::new(), Instant::now());
        let ask = |signal, millis| stop.ask(signal, began + Duration::from_millis(millis));
        assert_eq!(stop.signal(), None);
        assert_eq!([ask(libc::SIGINT, 0), ask(libc::SIGTERM, 1), ask(libc::SIGINT, 999)], [1, 1, 1]);
        assert_eq!([ask(libc::SIGTERM, 1000), ask(libc::SIGTERM, 1001), ask(libc::SIGINT, 2100)], [2, 2, 3]);
        assert_eq!(stop.signal(), Some(libc::SIGINT), "the first one counts");
    }

    #[test]
    fn the_time_of_a_pause_is_told_once_and_not_while_it_lasts() {
        let stop = StopToken::new();
        assert_eq!(stop.time_lost(), Some(Duration::ZERO));
        stop.pause();
        assert_eq!(stop.time_lost(), None);
        std::thread::sleep(Duration::from_millis(2));
        stop.resume();
        assert!(stop.time_lost().unwrap() >= Duration::from_millis(2));
        assert_eq!(stop.time_lost(), Some(Duration::ZERO));
    }
}
