//! Acquires that cannot have just any slot: of one window, or exactly one.

use super::{Field, Full, WAKE_BATCH};
use crate::ledger::share::scale;
use crate::ledger::{Clock, PinnedClaim, Random};
use crate::sync::Ordering;
use std::ops::Range;

impl Field {
    /// Leases a free slot of `window`; `Err` only if there is none in it.
    pub(in crate::ledger) fn acquire_within(
        &self,
        window: Range<u32>,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<PinnedClaim, Full> {
        if window.is_empty() {
            return Err(Full { leased: 0, resting: 0, excluded: 0, next_due_ms: None });
        }
        self.wake(clock, WAKE_BATCH);
        let width = window.end - window.start;
        loop {
            let proof = self.begin_proof_by_number();
            let start = window.start + scale(random.next_u32(), width);
            for slots in [start..window.end, window.start..start] {
                if let Some(won) = self.claim_first(slots) {
                    return Ok(won);
                }
            }
            if self.wake(clock, usize::MAX) == 0 && self.verdict.unmoved(proof) {
                return Err(self.census_within(window).1);
            }
        }
    }

    fn claim_first(&self, slots: Range<u32>) -> Option<PinnedClaim> {
        let body = self.body();
        let mut slot = slots.start;
        while slot < slots.end {
            // SeqCst: see `claim_in`.
            let free = !body.word(slot).load(Ordering::SeqCst) >> (slot % 64);
            if free == 0 {
                slot = (slot / 64 + 1) * 64;
                continue;
            }
            slot += free.trailing_zeros();
            if slot < slots.end {
                if let Some(won) = self.claim(slot) {
                    return Some(won);
                }
            }
            slot += 1;
        }
        None
    }

    /// Leases exactly `slot`, if it is free.
    pub(in crate::ledger) fn acquire_exactly(&self, slot: u32) -> Option<PinnedClaim> {
        loop {
            let still = self.settle();
            let claim = self.claim(slot);
            if claim.is_some() || self.verdict.signs().are_of_one_crowd(still) {
                return claim;
            }
        }
    }
}
