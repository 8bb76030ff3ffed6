//! Slots that may not be leased towards any destination, and why.

use super::Why;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, model_fence};
use std::ops::Range;

const WHYS: usize = 4;

impl Why {
    fn index(self) -> usize {
        match self {
            Self::NotOurs => 0,
            Self::Listener => 1,
            Self::Foreign => 2,
            Self::Held => 3,
        }
    }
}

/// One bit a slot for whoever acquires; the reasons, which add up, behind a lock.
#[derive(Debug)]
pub(super) struct Exclusions {
    /// Number of bits set in `words`: one look tells most pools that there is nothing to see.
    count: AtomicU32,
    words: Box<[AtomicU64]>,
    /// A bitmap for each reason, made when it is first given.
    reasons: Mutex<[Vec<u64>; WHYS]>,
}

impl Exclusions {
    pub(super) fn new(capacity: u32) -> Self {
        let words = (0..capacity.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { count: AtomicU32::new(0), words, reasons: Mutex::new(Default::default()) }
    }

    /// How many slots are excluded.
    pub(super) fn count(&self) -> u32 {
        // Relaxed: a count for people, or the quick look of `blocks`.
        self.count.load(Ordering::Relaxed)
    }

    /// Whether `slot` may not be leased.
    #[inline]
    pub(super) fn blocks(&self, slot: u32) -> bool {
        // Relaxed: the count is raised before a bit is set, by a thread whose `exclude` then
        // visits each destination; an acquire that sees neither was before the exclusion.
        self.count.load(Ordering::Relaxed) != 0 && self.word(slot / 64) >> (slot % 64) & 1 != 0
    }

    /// The bits of 64 slots, from `word * 64`.
    pub(super) fn word(&self, word: u32) -> u64 {
        model_fence();
        // SeqCst: an excluder writes this bit and then reads the slot's state; who writes the
        // slot's state and then reads this bit must not miss it.
        self.words[word as usize].load(Ordering::SeqCst)
    }

    /// Adds a reason to each slot of `slots`; calls `newly` with those that had none.
    pub(super) fn add(&self, slots: Range<u32>, why: Why, mut newly: impl FnMut(u32)) {
        let mut reasons = self.reasons.lock();
        let mine = &mut reasons[why.index()];
        mine.resize(self.words.len(), 0);
        for slot in slots {
            let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
            mine[word] |= bit;
            // SeqCst: see `word`.
            if self.words[word].load(Ordering::SeqCst) & bit == 0 {
                self.count.fetch_add(1, Ordering::Relaxed);
                self.words[word].fetch_or(bit, Ordering::SeqCst);
                newly(slot);
            }
        }
        model_fence();
    }

    /// Whether any of `slots` has the reason.
    pub(super) fn any(&self, slots: Range<u32>, why: Why) -> bool {
        let reasons = self.reasons.lock();
        let mine = &reasons[why.index()];
        let mut slots = slots.map(|slot| (slot as usize / 64, 1 << (slot % 64)));
        slots.any(|(word, bit)| mine.get(word).is_some_and(|bits| bits & bit != 0))
    }

    /// Takes a reason from each slot of `slots`; calls `no_more` with those that have none left.
    pub(super) fn remove(&self, slots: Range<u32>, why: Why, mut no_more: impl FnMut(u32)) {
        let mut reasons = self.reasons.lock();
        for slot in slots {
            let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
            if let Some(mine) = reasons[why.index()].get_mut(word) {
                *mine &= !bit;
            }
            let left = reasons.iter().any(|bits| bits.get(word).is_some_and(|w| w & bit != 0));
            // SeqCst: see `word`.
            if !left && self.words[word].load(Ordering::SeqCst) & bit != 0 {
                self.words[word].fetch_and(!bit, Ordering::SeqCst);
                self.count.fetch_sub(1, Ordering::Relaxed);
                no_more(slot);
            }
        }
        model_fence();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn reasons_add_up() {
        let exclusions = Exclusions::new(100);
        let mut changed = Vec::new();
        exclusions.add(60..70, Why::NotOurs, |slot| changed.push(slot));
        assert_eq!(changed, (60..70).collect::<Vec<_>>());
        exclusions.add(65..66, Why::Listener, |_| panic!("was excluded before"));
        exclusions.remove(60..66, Why::NotOurs, |slot| assert!((60..65).contains(&slot)));
        assert!(exclusions.blocks(65) && !exclusions.blocks(64) && exclusions.blocks(66));
        assert_eq!(exclusions.count(), 5);
        exclusions.remove(65..66, Why::Listener, |slot| assert_eq!(slot, 65));
        exclusions.remove(0..100, Why::Foreign, |_| panic!("nothing had this reason"));
        assert_eq!(exclusions.count(), 4);
        assert!(!exclusions.any(60..66, Why::Listener) && exclusions.any(66..67, Why::NotOurs));
        assert!(!exclusions.any(66..100, Why::Listener) && !exclusions.any(0..100, Why::Held));
    }
}
