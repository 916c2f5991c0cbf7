//! Sums over ranks in the memories of their GPUs: numbers go from GPU to GPU by a [`Link`], and are
//! added by the same tree as elsewhere. Does not know what the numbers are, nor what a link is made
//! of.

use super::arena::Arena;
use crate::ranks::Exchange;
use crate::ranks::tree::{self, Merge};
use candle_core::Result;
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::machine::{Link, Machine};
use erw_gpu::program::{Address, Program, Type};
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Numbers that are moved at a time: 128 MiB.
const SPACE: usize = 1 << 25;
/// Rows have a multiple of so many numbers.
const UNIT: usize = 4;

/// Numbers behind a summed buffer that a sum over so many ranks may overwrite.
pub fn padding(ranks: usize) -> usize {
    if ranks > 1 { UNIT * ranks } else { 0 }
}

/// Space for the rows of all ranks; nothing for one rank.
pub fn space(ranks: usize, arena: &mut Arena) -> Address {
    arena.take(if ranks > 1 { ranks * longest(ranks) } else { 0 }, Type::F32)
}

/// Numbers of the longest row.
fn longest(ranks: usize) -> usize {
    (SPACE / ranks / UNIT * UNIT).max(UNIT)
}

/// Sums over ranks.
pub struct Reduction {
    link: Rc<dyn Link>,
    /// f32 `[ranks, block]`
    rows: Address,
    block: usize,
    /// By the length of a row: what adds them, and where the sum is.
    programs: HashMap<usize, (Program, Address)>,
}

impl Reduction {
    /// With the [`space`] for the ranks of the link.
    pub fn new(link: Rc<dyn Link>, rows: Address) -> Self {
        let block = longest(link.size());
        Self::in_blocks(link, rows, block)
    }

    /// As [`new`](Self::new), in rows of at most `block` numbers, a multiple of 4.
    pub fn in_blocks(link: Rc<dyn Link>, rows: Address, block: usize) -> Self {
        Self { link, rows, block, programs: HashMap::new() }
    }

    /// Replaces f32 `[count]` by its sum over ranks; behind it is [`padding`].
    ///
    /// # Errors
    /// A rank that cannot be reached.
    pub fn sum(&mut self, machine: &dyn Machine, numbers: Address, count: usize) -> Result<()> {
        let ranks = self.link.size();
        let mut done = 0;
        while done < count {
            let each = (count - done).div_ceil(ranks).next_multiple_of(UNIT).min(self.block);
            let part = numbers.offset(done * Type::F32.size());
            self.link.swap(part, self.rows, each)?;
            let (program, sum) = match self.programs.entry(each) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(add_rows(self.rows, ranks, each)?),
            };
            machine.run(program)?;
            self.link.join(*sum, part, each)?;
            done += ranks * each;
        }
        Ok(())
    }
}

/// Adds rows f32 `[each]` by the tree, in place. Also returns where the sum is.
fn add_rows(rows: Address, ranks: usize, each: usize) -> Result<(Program, Address)> {
    let (mut program, mut kept, mut sum) = (Program::default(), vec![], rows);
    for rank in 0..ranks {
        sum = rows.offset(rank * each * Type::F32.size());
        let Merge { add, keep } = tree::merge(rank, ranks);
        for i in add {
            program.launch(activation::add(&Pass { ty: Type::F32, from: kept[i], to: sum, count: each })?);
        }
        kept.truncate(keep.unwrap_or(0));
        kept.push(sum);
    }
    Ok((program, sum))
}

/// Bytes between ranks that have a [`Link`] and nothing else, through a little of their GPUs' memory.
pub struct ByLink {
    link: Rc<dyn Link>,
    machine: Arc<dyn Machine>,
    /// Memory, and its numbers. Grows.
    space: RefCell<(Address, usize)>,
}

impl ByLink {
    pub fn new(link: Rc<dyn Link>, machine: Arc<dyn Machine>) -> Self {
        Self { link, machine, space: RefCell::new((Address::NULL, 0)) }
    }

    /// Rows of equal length of all ranks, as bits of f32.
    fn rows(&self, mine: &[u32]) -> Result<Vec<u32>> {
        let (ranks, each) = (self.link.size(), mine.len());
        let mut space = self.space.borrow_mut();
        if space.1 < each {
            let numbers = each.next_power_of_two();
            *space = (self.machine.allocate((ranks + 1) * numbers * Type::F32.size())?, numbers);
        }
        let (from, to) = (space.0, space.0.offset(space.1 * Type::F32.size()));
        self.machine.write(from, bytemuck::cast_slice(mine))?;
        self.link.join(from, to, each)?;
        let mut all = vec![0u32; ranks * each];
        self.machine.read(to, bytemuck::cast_slice_mut(&mut all))?;
        Ok(all)
    }
}

impl fmt::Debug for ByLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} by its GPU", self.rank(), self.size())
    }
}

impl Exchange for ByLink {
    fn rank(&self) -> usize {
        self.link.rank()
    }

    fn size(&self) -> usize {
        self.link.size()
    }

    fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        // Lengths first: rows of a link are equally long.
        let lengths = self.rows(&[mine.len() as u32])?;
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        if longest == 0 {
            return Ok(vec![vec![]; self.size()]);
        }
        let words = longest.div_ceil(4);
        let mut row = vec![0u32; words];
        bytemuck::cast_slice_mut(&mut row)[..mine.len()].copy_from_slice(mine);
        let all = self.rows(&row)?;
        let bytes = all.chunks(words).map(bytemuck::cast_slice::<u32, u8>);
        Ok(bytes.zip(&lengths).map(|(row, length)| row[..*length as usize].to_vec()).collect())
    }

    fn swap(&self, rows: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        // Gradients do not come this way: see [`Reduction`].
        let all = self.gather(bytemuck::cast_slice(&rows.concat()))?;
        let begin: usize = rows.iter().take(self.rank()).map(|row| row.len()).sum();
        let own = rows.get(self.rank()).map_or(0, |row| row.len());
        Ok(all.iter().map(|bytes| numbers(&bytes[4 * begin..][..4 * own])).collect())
    }

    fn join(&self, mine: &[f32]) -> Result<Vec<f32>> {
        Ok(self.gather(bytemuck::cast_slice(mine))?.iter().flat_map(|bytes| numbers(bytes)).collect())
    }
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
