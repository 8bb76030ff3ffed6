//! The bits of a field, and the looks and claims that are one instruction or a few.

use super::LOOKS;
use crate::ledger::Random;
use crate::ledger::share::scale;
use crate::ledger::stamp::SlotWord;
use crate::sync::{AtomicU64, Ordering};

/// Words to a line: two cache lines side by side, for a processor that fetches one often fetches the
/// other too, and takes it from a thread that works there. A model must be small.
pub(super) const WORDS: usize = if cfg!(loom) { 1 } else { 16 };
/// Slots to a line.
pub(in crate::ledger) const LINE_SLOTS: u32 = WORDS as u32 * 64;

#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Line(pub(super) [AtomicU64; WORDS]);

/// The part that goes when the destination is idle.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) lines: Box<[Line]>,
    /// One a slot where leases have names, else none.
    pub(super) slots: Box<[SlotWord]>,
}

impl Line {
    pub(super) fn is_full(&self) -> bool {
        // SeqCst: see `Field::mark_if_full`.
        self.0.iter().all(|word| word.load(Ordering::SeqCst) == u64::MAX)
    }
}

impl Body {
    #[inline]
    pub(super) fn word(&self, slot: u32) -> &AtomicU64 {
        debug_assert!(slot / LINE_SLOTS < self.lines.len() as u32);
        #[cfg(loom)]
        return &self.lines[(slot / LINE_SLOTS) as usize].0[(slot / 64) as usize % WORDS];
        // SAFETY: every slot that comes here is drawn below the number of lines, read off a
        // line, or held by a claim; and a line is its words, without padding.
        #[cfg(not(loom))]
        unsafe {
            &*self.lines.as_ptr().cast::<AtomicU64>().add(slot as usize / 64)
        }
    }

    #[inline]
    pub(super) fn is_free(&self, slot: u32) -> bool {
        // Relaxed: a look; the claim decides.
        self.word(slot).load(Ordering::Relaxed) >> (slot % 64) & 1 == 0
    }

    /// The first of `looks` that is free, the last if none is. Without a branch, for which one it
    /// is falls to chance.
    #[inline]
    pub(super) fn first_free(&self, looks: [u32; LOOKS]) -> u32 {
        let [a, b, c, d] = looks;
        let slot = if self.is_free(c) { c } else { d };
        let slot = if self.is_free(b) { b } else { slot };
        if self.is_free(a) { a } else { slot }
    }

    /// One of the free slots in the words that `looks` lie in, each as likely as the others.
    pub(super) fn choose(&self, looks: &[u32; LOOKS], random: &mut impl Random) -> Option<u32> {
        // Relaxed: as in `is_free`.
        let free = looks.map(|slot| !self.word(slot).load(Ordering::Relaxed));
        let mut before = [0; LOOKS];
        let mut total = 0;
        for (before, free) in before.iter_mut().zip(free) {
            *before = total;
            total += free.count_ones();
        }
        if total == 0 {
            return None;
        }
        let pick = scale(random.next_u32(), total);
        // The last word that does not begin after the pick, without a branch; one that is empty
        // begins where the next does.
        let word = before[1..].iter().map(|&before| usize::from(before <= pick)).sum::<usize>();
        Some(looks[word] / 64 * 64 + nth_one(free[word], pick - before[word]))
    }

    /// Sets the bit of `slot`; `false` if somebody else had.
    #[inline]
    pub(super) fn claim(&self, slot: u32) -> bool {
        let bit = 1 << (slot % 64);
        // AcqRel: Acquire pairs with the release that cleared the bit, so that the slot's word
        // is the one that it left.
        self.word(slot).fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    pub(super) fn ones(&self) -> u32 {
        let words = self.lines.iter().flat_map(|line| &line.0);
        // Acquire: whatever a holder did with its slot comes before the field's end.
        words.map(|word| word.load(Ordering::Acquire).count_ones()).sum()
    }
}

/// The position of the `n`-th one, from 0; `bits` has more than `n`.
pub(super) fn nth_one(mut bits: u64, n: u32) -> u32 {
    for _ in 0..n {
        bits &= bits - 1;
    }
    bits.trailing_zeros()
}
