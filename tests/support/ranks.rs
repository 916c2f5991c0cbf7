//! Ranks as threads of the test.

use candle_core::Result;
use erw::ml::ranks::{Exchange, Ranks};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};

/// What each rank has put down.
type Board<T> = Arc<Mutex<Vec<T>>>;

struct Thread {
    rank: usize,
    barrier: Arc<Barrier>,
    bytes: Board<Vec<u8>>,
    rows: Board<Vec<Vec<f32>>>,
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.rank)
    }
}

impl Thread {
    /// Puts `mine` down and takes what all have put down.
    fn all<T: Clone>(&self, board: &Board<T>, mine: T) -> Vec<T> {
        board.lock().unwrap()[self.rank] = mine;
        self.barrier.wait();
        let all = board.lock().unwrap().clone();
        self.barrier.wait();
        all
    }
}

impl Exchange for Thread {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.bytes.lock().unwrap().len()
    }
    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.all(&self.bytes, mine.to_vec()))
    }
    fn swap(&self, rows: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        let all = self.all(&self.rows, rows.iter().map(|row| row.to_vec()).collect());
        Ok(all.into_iter().map(|rows| rows[self.rank].clone()).collect())
    }
    fn join(&self, mine: &[f32]) -> Result<Vec<f32>> {
        Ok(self.all(&self.rows, vec![mine.to_vec()]).concat().concat())
    }
}

/// What `body` returns on each of `count` ranks.
pub fn on_ranks<T: Send>(count: usize, body: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    with_exchanges(count, |exchange| body(Ranks::new(exchange)))
}

/// [`on_ranks`] with what moves their bytes.
pub fn with_exchanges<T: Send>(count: usize, body: impl Fn(Rc<dyn Exchange>) -> T + Sync) -> Vec<T> {
    let barrier = Arc::new(Barrier::new(count));
    let (bytes, rows) = (Arc::new(Mutex::new(vec![vec![]; count])), Arc::new(Mutex::new(vec![vec![]; count])));
    let rank = |rank| Thread { rank, barrier: barrier.clone(), bytes: bytes.clone(), rows: rows.clone() };
    std::thread::scope(|scope| {
        let body = &body;
        let start = |rank: Thread| scope.spawn(move || body(Rc::new(rank)));
        let threads: Vec<_> = (0..count).map(|number| start(rank(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
