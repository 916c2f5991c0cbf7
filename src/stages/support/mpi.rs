//! Moves bytes between the ranks of a stage by MPI. Does not know what they are for.

use candle_core::{Result, bail};
use erw_ml::ranks::Exchange;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};
use mpi::{Count, Threading};
use std::fmt;

/// All processes that were started together.
pub struct World(SimpleCommunicator);

impl World {
    /// Starts MPI. A process whose work has failed must forget the universe instead of dropping it:
    /// the end of MPI waits for all ranks, and the others wait for this one.
    ///
    /// # Errors
    /// MPI was started before, or allows no threads beside the one that calls it.
    pub fn join() -> Result<(Universe, Self)> {
        match mpi::initialize_with_threading(Threading::Funneled) {
            Some((universe, level)) if level >= Threading::Funneled => {
                let world = Self(universe.world());
                Ok((universe, world))
            }
            Some(_) => bail!("this MPI allows no threads"),
            None => bail!("MPI has been started already"),
        }
    }

    /// The rows of all ranks, one behind the other, and their lengths.
    fn concat<T: Equivalence + Clone + Default>(&self, mine: &[T]) -> Result<(Vec<T>, Vec<usize>)> {
        let mut counts = vec![0; self.size()];
        self.0.all_gather_into(&[count(mine.len())?][..], &mut counts[..]);
        let (places, sum) = places(&counts);
        let mut all = place_for(sum);
        let mine = if mine.is_empty() { &[T::default()][..0] } else { mine };
        self.0.all_gather_varcount_into(mine, &mut PartitionMut::new(&mut all[..], &counts[..], &places[..]));
        Ok((all, counts.into_iter().map(|n| n as usize).collect()))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} over MPI", self.rank(), self.size())
    }
}

impl Exchange for World {
    fn rank(&self) -> usize {
        self.0.rank() as usize
    }

    fn size(&self) -> usize {
        self.0.size() as usize
    }

    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (all, counts) = self.concat(mine)?;
        Ok(cut(&all, &counts))
    }

    fn swap(&self, rows: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        let sent: Vec<Count> = rows.iter().map(|row| count(row.len())).collect::<Result<_>>()?;
        let own = rows.get(self.rank()).map_or(0, |row| row.len());
        let received = vec![count(own)?; self.size()];
        let (from, (to, sum)) = (places(&sent).0, places(&received));
        let (mut out, mut into) = (place_for(0), place_for(sum));
        rows.iter().for_each(|row| out.extend_from_slice(row));
        self.0.all_to_all_varcount_into(
            &Partition::new(&out[..], &sent[..], &from[..]),
            &mut PartitionMut::new(&mut into[..], &received[..], &to[..]),
        );
        Ok(cut(&into, &vec![own; self.size()]))
    }

    fn join(&self, mine: &[f32]) -> Result<Vec<f32>> {
        Ok(self.concat(mine)?.0)
    }
}

/// So many zeros, at an address also if there are none: Rust has address 1 for an empty slice of bytes,
/// which is Open MPI's `MPI_IN_PLACE`.
fn place_for<T: Clone + Default>(count: usize) -> Vec<T> {
    let mut all = Vec::with_capacity(count.max(1));
    all.resize(count, T::default());
    all
}

fn count(n: usize) -> Result<Count> {
    match n.try_into() {
        Ok(n) => Ok(n),
        Err(_) => bail!("{n} numbers are too many for a message of MPI"),
    }
}

/// Where each of so many begins, and how many there are.
fn places(counts: &[Count]) -> (Vec<Count>, usize) {
    let mut sum = 0;
    let begin = |n: &Count| {
        sum += n;
        sum - n
    };
    let places = counts.iter().map(begin).collect();
    (places, sum as usize)
}

fn cut<T: Clone>(mut all: &[T], counts: &[usize]) -> Vec<Vec<T>> {
    let row = |n: &usize| {
        let (row, rest) = all.split_at(*n);
        all = rest;
        row.to_vec()
    };
    counts.iter().map(row).collect()
}
