//! What goes back to the others: blocks that are empty, and those that are emptied for them.

use super::ground::Ground;
use super::shared::{Held, IDLE_MS, Shared, Side};
use super::{Run, Tenant};
use crate::Error;
use crate::ledger::Usage;
use rand_chacha::rand_core::RngCore;
use std::ops::Range;

/// Ports that a pool which drains its blocks keeps beyond what its busiest destination has: half a
/// block, and a quarter of what is used.
fn ports_needed(used: u32) -> u32 {
    used + used / 4 + 32
}

impl Shared {
    /// Gives those who starve what is empty, and begins to empty what is hardly used: leases are
    /// scattered over all that is held, so a process that once had many keeps a few in each block.
    pub(super) fn yield_to(
        &self,
        ground: &Ground,
        side: &mut Side,
        starving: &[Range<u32>],
        tenant: &impl Tenant,
    ) -> Result<(), Error> {
        let is_wanted = |block: u32| starving.iter().any(|blocks| blocks.contains(&block));
        let held: Vec<u32> = side.held.keys().copied().collect();
        if !held.iter().any(|block| is_wanted(*block)) {
            return Ok(());
        }
        let Usage { used, most } = tenant.usage(&runs(ground, &held));
        let mut wanted: Vec<(u32, u32)> =
            held.into_iter().zip(used).filter(|(block, _)| is_wanted(*block)).collect();
        let is_empty = |(_, used): &(u32, u32)| *used == 0;
        let empty: Vec<u32> = wanted.iter().filter(|at| is_empty(at)).map(|at| at.0).collect();
        self.give_back(ground, side, &empty, tenant)?;
        // Who starves too needs all it has.
        if side.hunger.is_empty() {
            wanted.retain(|at| !is_empty(at));
            wanted.sort_by_key(|(_, used)| *used);
            side.drain(ground, wanted.iter().map(|at| at.0), ports_needed(most), tenant);
        }
        Ok(())
    }

    /// Gives back what has been empty for a while.
    pub(super) fn give_back_idle(
        &self,
        ground: &Ground,
        side: &mut Side,
        now_ms: u64,
        tenant: &impl Tenant,
    ) -> Result<(), Error> {
        let blocks: Vec<u32> = side.held.keys().copied().collect();
        let used = tenant.usage(&runs(ground, &blocks)).used;
        let mut leaving = Vec::new();
        for ((block, held), used) in side.held.iter_mut().zip(used) {
            if used > 0 {
                held.empty_since_ms = None;
            } else if now_ms - *held.empty_since_ms.get_or_insert(now_ms) >= IDLE_MS {
                leaving.push(*block);
            }
        }
        self.give_back(ground, side, &leaving, tenant)
    }

    /// Gives back `blocks`, which are held and were just seen empty.
    fn give_back(
        &self,
        ground: &Ground,
        side: &mut Side,
        blocks: &[u32],
        tenant: &impl Tenant,
    ) -> Result<(), Error> {
        let runs = runs(ground, blocks);
        runs.iter().for_each(|run| tenant.revoke(*run));
        // No new lease from here on, and then the question again: one may have come in between.
        let used = tenant.usage(&runs).used;
        for ((block, run), used) in blocks.iter().zip(runs).zip(used) {
            if used == 0 {
                side.held.remove(block);
                self.file.unlock(ground.bytes(&(*block..*block + 1)))?;
            } else if let Some(held) = side.held.get_mut(block).filter(|held| !held.is_draining) {
                tenant.grant(run);
                *held = Held::default();
            }
        }
        Ok(())
    }
}

impl Side {
    /// Keeps new leases out of `blocks`, one after the other, as long as more than `ports_min`
    /// remain for them.
    fn drain(
        &mut self,
        ground: &Ground,
        blocks: impl Iterator<Item = u32>,
        ports_min: u32,
        tenant: &impl Tenant,
    ) {
        let count = |block: u32| ground.run(block..block + 1).count;
        let (mut open, mut ports) = (0, 0);
        for (block, _) in self.held.iter().filter(|(_, held)| !held.is_draining) {
            (open, ports) = (open + 1, ports + count(*block));
        }
        for block in blocks {
            let Some(held) = self.held.get_mut(&block).filter(|held| !held.is_draining) else {
                continue;
            };
            if open <= self.kept_min || ports < ports_min + count(block) {
                break;
            }
            (open, ports) = (open - 1, ports - count(block));
            held.is_draining = true;
            tenant.revoke(ground.run(block..block + 1));
        }
    }

    /// One of `among` that is drained, to be granted again since it is needed.
    pub(super) fn take_back_one(
        &mut self,
        ground: &Ground,
        among: &Range<u32>,
        random: &mut impl RngCore,
    ) -> Option<Run> {
        let drained = self.held.range(among.clone()).filter(|(_, held)| held.is_draining);
        let blocks: Vec<u32> = drained.map(|(block, _)| *block).collect();
        let index = (random.next_u64() as usize).checked_rem(blocks.len())?;
        let block = blocks[index];
        self.held.insert(block, Held::default());
        self.kept_min = self.held.values().filter(|held| !held.is_draining).count();
        self.has_taken_back = true;
        Some(ground.run(block..block + 1))
    }

    /// Grants all again that is drained: nobody is in want of it.
    pub(super) fn end_draining(&mut self, ground: &Ground, tenant: &impl Tenant) {
        for (block, held) in self.held.iter_mut().filter(|(_, held)| held.is_draining) {
            *held = Held::default();
            tenant.grant(ground.run(*block..*block + 1));
        }
    }
}

fn runs(ground: &Ground, blocks: &[u32]) -> Vec<Run> {
    blocks.iter().map(|block| ground.run(*block..*block + 1)).collect()
}
