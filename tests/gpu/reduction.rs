//! Sums over ranks from card to card, against those through main memory.

use super::support::{card, normal, upload};
use crate::support::ranks::with_exchanges;
use candle_core::Result;
use erw::ml::gpu::reduction::{ByLink, Reduction, padding};
use erw::ml::ranks::{Exchange, Ranks};
use erw_gpu::machine::{Link, Machine};
use erw_gpu::program::{Address, Type};
use std::rc::Rc;
use std::sync::Arc;

/// A way between emulated cards that leads through main memory.
pub struct HostLink {
    pub exchange: Rc<dyn Exchange>,
    pub machine: Arc<dyn Machine>,
}

impl HostLink {
    fn read(&self, from: Address, count: usize) -> Result<Vec<f32>> {
        read(&*self.machine, from, count)
    }
    fn write(&self, to: Address, numbers: &[f32]) -> Result<()> {
        self.machine.write(to, &Type::F32.encode(numbers))
    }
}

fn read(machine: &dyn Machine, from: Address, count: usize) -> Result<Vec<f32>> {
    let mut bytes = vec![0; count * Type::F32.size()];
    machine.read(from, &mut bytes)?;
    Ok(Type::F32.decode(&bytes))
}

impl Link for HostLink {
    fn rank(&self) -> usize {
        self.exchange.rank()
    }
    fn size(&self) -> usize {
        self.exchange.size()
    }
    fn swap(&self, from: Address, to: Address, each: usize) -> Result<()> {
        let rows = self.read(from, self.size() * each)?;
        let rows: Vec<&[f32]> = rows.chunks(each).collect();
        self.write(to, &self.exchange.swap(&rows)?.concat())
    }
    fn join(&self, mine: Address, all: Address, each: usize) -> Result<()> {
        self.write(all, &self.exchange.join(&self.read(mine, each)?)?)
    }
}

/// One block, several, and a ragged end.
#[test]
fn sums_have_the_bits_of_those_through_main_memory() {
    const BLOCK: usize = 64;
    for ranks in [2, 3, 4] {
        for count in [4, 60, 256, 1028] {
            let all = with_exchanges(ranks, |exchange| {
                let card = card();
                let own = normal(exchange.rank() as u64, count);
                let mut want = own.clone();
                Ranks::new(exchange.clone()).sum(&mut want).unwrap();
                let numbers = upload(&*card, &[own, vec![0.0; padding(ranks)]].concat(), Type::F32);
                let rows = card.allocate(ranks * BLOCK * 4).unwrap();
                let link = Rc::new(HostLink { exchange, machine: card.clone() });
                Reduction::in_blocks(link, rows, BLOCK).sum(&*card, numbers, count).unwrap();
                (read(&*card, numbers, count).unwrap(), want)
            });
            assert!(all.iter().all(|(got, want)| got == want), "{count} numbers on {ranks} ranks");
        }
    }
}

#[test]
fn bytes_of_any_length_go_by_the_cards() {
    let all = with_exchanges(3, |exchange| {
        let card = card();
        let rank = exchange.rank();
        let by = ByLink::new(Rc::new(HostLink { exchange, machine: card.clone() }), card);
        let gathered = by.gather(&vec![rank as u8 + 1; 3 * rank]).unwrap();
        let rows: Vec<Vec<f32>> = (0..3).map(|to| vec![(10 * rank + to) as f32; to + 1]).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let none = by.gather(&[]).unwrap();
        (gathered, by.swap(&rows).unwrap(), by.join(&vec![rank as f32; rank]).unwrap(), none)
    });
    for (rank, (gathered, swapped, joined, none)) in all.into_iter().enumerate() {
        assert_eq!(gathered, [vec![], vec![2; 3], vec![3; 6]]);
        let row = |from: usize| vec![(10 * from + rank) as f32; rank + 1];
        assert_eq!(swapped, [row(0), row(1), row(2)]);
        assert_eq!(joined, [1.0, 2.0, 2.0]);
        assert_eq!(none, [vec![], vec![], vec![0u8; 0]]);
    }
}
