//! The counts of one field.

use super::{Field, Full, LINE_SLOTS, NEVER};
use crate::sync::Ordering;
use std::ops::Range;

impl Field {
    /// Bits beyond the capacity, always set.
    pub(in crate::ledger) fn tail(&self) -> u32 {
        self.lines * LINE_SLOTS - self.capacity
    }

    /// The counts where a verdict says that nothing is free and nothing rests: time alone will
    /// not change them.
    #[inline]
    pub(in crate::ledger) fn full_for_sure(&self) -> Option<Full> {
        let full = self.full_house();
        (self.verdict.stands() && full.next_due_ms.is_none()).then_some(full)
    }

    /// The counts of an exhausted field, without reading its lines.
    pub(in crate::ledger) fn full_house(&self) -> Full {
        let resting = self.resting.load(Ordering::Relaxed);
        let excluded = self.excluded.load(Ordering::Relaxed);
        let due_ms = self.next_due_ms.load(Ordering::Relaxed);
        Full {
            leased: self.capacity.saturating_sub(resting.saturating_add(excluded)),
            resting,
            excluded,
            next_due_ms: (due_ms != NEVER).then_some(due_ms),
        }
    }

    /// Free slots and the other counts. The caller keeps the body alive.
    pub(in crate::ledger) fn census(&self) -> (u32, Full) {
        self.disperse_if_crowded();
        let mut free = 0;
        let mut blocked = 0;
        for (i, word) in self.body().lines.iter().flat_map(|line| &line.0).enumerate() {
            let open = !word.load(Ordering::Relaxed);
            free += open.count_ones();
            if open != 0 && self.exclusions.count() != 0 {
                blocked += (open & self.exclusions.word(i as u32)).count_ones();
            }
        }
        let mut counts = self.full_house();
        counts.leased = counts.leased.saturating_sub(free);
        counts.excluded += blocked;
        (free - blocked, counts)
    }

    /// As [`Field::census`], of `window` alone.
    pub(in crate::ledger) fn census_within(&self, window: Range<u32>) -> (u32, Full) {
        self.disperse_if_crowded();
        let (resting, next_due_ms) = self.rest.lock().count_where(|slot| window.contains(&slot));
        let bits = self.excluded_bits.lock();
        let is_set = |slot: u32| {
            bits.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
        };
        let (mut free, mut excluded) = (0, 0);
        for slot in window.clone() {
            if is_set(slot) || self.body().is_free(slot) && self.exclusions.blocks(slot) {
                excluded += 1;
            } else {
                free += u32::from(self.body().is_free(slot));
            }
        }
        let leased = (window.len() as u32).saturating_sub(free + excluded + resting);
        (free, Full { leased, resting, excluded, next_due_ms })
    }

    /// How many slots of `window` are leased or rest. The caller keeps the body alive.
    pub(in crate::ledger) fn used_within(&self, window: Range<u32>) -> u32 {
        self.disperse_if_crowded();
        let bits = self.excluded_bits.lock();
        let (mut used, mut slot) = (0, window.start);
        while slot < window.end {
            let word = slot / 64;
            let end = window.end.min((word + 1) * 64);
            let mask = u64::MAX >> (64 - (end - slot)) << (slot % 64);
            let excluded = bits.get(word as usize).copied().unwrap_or(0);
            // Relaxed: where it matters the window has just been excluded, which changed each word
            // of it after whoever came before.
            let taken = self.body().word(slot).load(Ordering::Relaxed);
            used += (taken & !excluded & mask).count_ones();
            slot = end;
        }
        used
    }
}
