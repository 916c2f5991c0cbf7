//! The ranks that train one network together, each on its micro-batches of every step. All have the
//! same weights and states and change them alike; only gradients are summed between them, and
//! losses, stop requests and digests are gathered.
//!
//! Nothing here depends on the number of ranks ([`tree`]), so a training has the same bits
//! on one and on several, and one that began on some goes on on others. What moves the bytes is an
//! [`Exchange`]: see `stages/support/mpi.rs`. Does not know networks.

pub mod tree;

use candle_core::{Result, bail};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Numbers that are summed at a time: bounds the memory of a sum, and the counts of a message.
const BLOCK: usize = 1 << 24;

/// Moves bytes between ranks. All ranks make the same calls in the same order, each from one thread.
pub trait Exchange: fmt::Debug {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// The bytes of all ranks, in their order.
    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends row `j` to rank `j`. Returns the rows that the ranks have sent to this one, in their
    /// order. Rows for the same rank are equally long.
    fn swap(&self, rows: &[&[f32]]) -> Result<Vec<Vec<f32>>>;

    /// The rows of all ranks, one behind the other. Their lengths may differ.
    fn join(&self, mine: &[f32]) -> Result<Vec<f32>>;
}

/// The ranks of a training; one by default.
#[derive(Debug, Clone, Default)]
pub struct Ranks(Option<Rc<dyn Exchange>>);

impl Ranks {
    pub fn new(exchange: Rc<dyn Exchange>) -> Self {
        Self(Some(exchange).filter(|exchange| exchange.size() > 1))
    }

    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |exchange| exchange.rank())
    }

    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |exchange| exchange.size())
    }

    /// Whether this rank writes what all have: checkpoints, pictures, results.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// The micro-batches of this rank.
    ///
    /// # Errors
    /// When the ranks cannot share so many.
    pub fn share(&self, micro_batches: usize) -> Result<Range<usize>> {
        let size = self.size();
        if !tree::can_share(micro_batches, size) {
            bail!("{size} ranks cannot share {micro_batches} micro-batches");
        }
        Ok(tree::share(micro_batches, self.rank(), size))
    }

    /// The bytes of all ranks, in their order.
    pub fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.0.as_ref().map_or_else(|| Ok(vec![mine.to_vec()]), |exchange| exchange.gather(mine))
    }

    /// Rows of numbers of all ranks, one behind the other.
    pub fn gather_numbers(&self, mine: &[f64]) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = mine.iter().flat_map(|x| x.to_le_bytes()).collect();
        let all = self.gather(&bytes)?.concat();
        Ok(all.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    /// Whether any rank says so.
    pub fn any(&self, mine: bool) -> Result<bool> {
        Ok(self.gather(&[mine.into()])?.concat().contains(&1))
    }

    /// Waits until all ranks have come here.
    pub fn wait(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }

    /// Checks that all ranks have the same bytes.
    ///
    /// # Errors
    /// The ranks that differ from the first, and `what` it is in which they differ.
    pub fn agree(&self, what: &str, mine: &[u8]) -> Result<()> {
        let all = self.gather(mine)?;
        let differ = |(rank, bytes): (usize, &Vec<u8>)| (Some(bytes) != all.first()).then(|| rank.to_string());
        let others: Vec<String> = all.iter().enumerate().filter_map(differ).collect();
        match others[..] {
            [] => Ok(()),
            [_] => bail!("rank {} differs from rank 0 in {what}", others.concat()),
            _ => bail!("ranks {} differ from rank 0 in {what}", others.join(", ")),
        }
    }

    /// Replaces numbers of this rank by their sum over all ranks. Each rank adds a piece of the
    /// numbers of all, by the tree, and the pieces are gathered: as many bytes as a ring moves, and
    /// an order that does not depend on how they are moved.
    pub fn sum(&self, numbers: &mut [f32]) -> Result<()> {
        let Some(exchange) = &self.0 else { return Ok(()) };
        numbers.chunks_mut(BLOCK).try_for_each(|block| Self::sum_block(&**exchange, block))
    }

    fn sum_block(exchange: &dyn Exchange, numbers: &mut [f32]) -> Result<()> {
        let (size, count) = (exchange.size(), numbers.len());
        let each = count.div_ceil(size).max(1);
        let piece = |rank: usize| &numbers[(rank * each).min(count)..((rank + 1) * each).min(count)];
        let rows = exchange.swap(&(0..size).map(piece).collect::<Vec<_>>())?;
        let sum = tree::sum(rows.into_iter()).unwrap_or_default();
        let all = exchange.join(&sum)?;
        if all.len() != count {
            bail!("ranks have sent {} numbers for {count}", all.len());
        }
        numbers.copy_from_slice(&all);
        Ok(())
    }
}
