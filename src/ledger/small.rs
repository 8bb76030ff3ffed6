//! The slots of a destination with more than one lease and not many: a small hash set.

use super::field::Won;
use super::stamp::{Stamp, State};

const CELLS_MIN: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Cell {
    slot: u32,
    /// Idle: the cell is empty, for no idle slot is kept.
    stamp: Stamp,
}

const EMPTY: Cell = Cell { slot: 0, stamp: Stamp::NONE };

/// Leased and resting slots with their stamps, 8 bytes each at a load of at most three quarters.
#[derive(Debug)]
pub(super) struct Small {
    cells: Box<[Cell]>,
    len: u32,
}

impl Small {
    pub(super) fn of(first: Won) -> Self {
        let mut small = Self { cells: vec![EMPTY; CELLS_MIN].into(), len: 0 };
        small.add(first);
        small
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn get(&self, slot: u32) -> Option<Stamp> {
        let cell = self.cells[self.position(slot)];
        (cell.stamp.state() != State::Idle).then_some(cell.stamp)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Won> {
        let full = self.cells.iter().filter(|cell| cell.stamp.state() != State::Idle);
        full.map(|&Cell { slot, stamp }| Won { slot, stamp })
    }

    /// Adds a slot that is not there.
    #[inline]
    pub(super) fn add(&mut self, Won { slot, stamp }: Won) {
        self.len += 1;
        if self.len as usize * 4 > self.cells.len() * 3 {
            self.resize(self.cells.len() * 2);
        }
        let position = self.position(slot);
        debug_assert_eq!(self.cells[position].stamp.state(), State::Idle, "it is not there");
        self.cells[position] = Cell { slot, stamp };
    }

    /// Changes the stamp of a slot that is there; one that is idle takes it out.
    #[inline]
    pub(super) fn change(&mut self, Won { slot, stamp }: Won) {
        let position = self.position(slot);
        debug_assert_ne!(self.cells[position].stamp.state(), State::Idle, "it is there");
        match stamp.state() {
            State::Idle => self.remove(position),
            _ => self.cells[position].stamp = stamp,
        }
    }

    fn remove(&mut self, mut hole: usize) {
        let mask = self.cells.len() - 1;
        let mut next = hole;
        // Backward shift (Knuth, TAOCP 6.4, algorithm R): no tombstones.
        loop {
            next = (next + 1) & mask;
            let cell = self.cells[next];
            if cell.stamp.state() == State::Idle {
                break;
            }
            let from_home = next.wrapping_sub(self.home(cell.slot)) & mask;
            if from_home >= next.wrapping_sub(hole) & mask {
                self.cells[hole] = cell;
                hole = next;
            }
        }
        self.cells[hole] = EMPTY;
        self.len -= 1;
        if self.cells.len() > CELLS_MIN && self.len as usize * 5 < self.cells.len() {
            self.resize(self.cells.len() / 2);
        }
    }

    #[cold]
    #[inline(never)]
    fn resize(&mut self, cells: usize) {
        let old = std::mem::replace(&mut self.cells, vec![EMPTY; cells].into());
        for cell in old.into_iter().filter(|cell| cell.stamp.state() != State::Idle) {
            let position = self.position(cell.slot);
            self.cells[position] = cell;
        }
    }

    /// Where `slot` is, or would go.
    #[inline]
    fn position(&self, slot: u32) -> usize {
        let mask = self.cells.len() - 1;
        let mut at = self.home(slot);
        while self.cells[at].stamp.state() != State::Idle && self.cells[at].slot != slot {
            at = (at + 1) & mask;
        }
        at
    }

    /// Multiplicative hashing (Knuth, TAOCP 6.4): slots are ours and random, not an enemy's.
    #[inline]
    fn home(&self, slot: u32) -> usize {
        let bits = self.cells.len().trailing_zeros();
        (u64::from(slot.wrapping_mul(0x9e37_79b1)) << bits >> 32) as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Promises: holds exactly what was put and not taken out, and counts it.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u32..200, 0u32..4), 1..2000)) {
            let first = Won { slot: 7, stamp: Stamp::idle(1).next_lease() };
            let mut small = Small::of(first);
            let mut model = BTreeMap::from([(first.slot, first.stamp)]);
            for (slot, action) in steps {
                let leased = Stamp::idle(slot).next_lease();
                let stamp = match action {
                    0 => leased.with(State::Idle),
                    1 => leased.with(State::Resting),
                    _ => leased,
                };
                match (model.contains_key(&slot), action) {
                    (true, _) => small.change(Won { slot, stamp }),
                    (false, 0) => {}
                    (false, _) => small.add(Won { slot, stamp }),
                }
                if action == 0 { model.remove(&slot); } else { model.insert(slot, stamp); }
                prop_assert_eq!(small.get(slot), model.get(&slot).copied());
                prop_assert_eq!(small.len() as usize, model.len());
            }
            let all: BTreeMap<_, _> = small.iter().map(|won| (won.slot, won.stamp)).collect();
            prop_assert_eq!(all, model);
        }
    }
}
