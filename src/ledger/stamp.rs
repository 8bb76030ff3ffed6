//! The generation of a lease, and the word that holds it.

use crate::sync::{AtomicU32, Ordering};

/// What a slot is doing. Two bits of a [`Stamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum State {
    /// Neither of the others: a lease has ended, or none has begun.
    Idle = 0,
    Leased = 1,
    /// Only in small sets: a field knows its resting slots by their queue.
    Resting = 2,
}

/// A snapshot of a slot's word: 30 bits of generation, 2 bits of [`State`].
///
/// Each lease of a slot has the next generation; 2^30 leases of one slot towards one
/// destination pass before a stale id could be taken for a live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp(u32);

const STATE_BITS: u32 = 2;

impl Stamp {
    /// The stamp of no slot.
    pub(super) const NONE: Self = Self(0);

    /// An idle slot's stamp; its first lease has the generation after `generation`.
    pub(super) fn idle(generation: u32) -> Self {
        Self(generation << STATE_BITS)
    }

    pub(super) fn generation(self) -> u32 {
        self.0 >> STATE_BITS
    }

    pub(super) fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub(super) fn raw(self) -> u32 {
        self.0
    }

    pub(super) fn state(self) -> State {
        match self.0 & 3 {
            0 => State::Idle,
            1 => State::Leased,
            _ => State::Resting,
        }
    }

    pub(super) fn is_leased(self) -> bool {
        self.state() == State::Leased
    }

    pub(super) fn is_resting(self) -> bool {
        self.state() == State::Resting
    }

    /// The same generation in another state.
    pub(super) fn with(self, state: State) -> Self {
        Self(self.0 & !3 | state as u32)
    }

    /// The stamp of the slot's next lease.
    pub(super) fn next_lease(self) -> Self {
        Self((self.0 | 3).wrapping_add(1) | State::Leased as u32)
    }
}

/// The word of one slot of a [`Field`](super::field::Field) whose leases have names.
///
/// | state | who may move it on, and to where |
/// | --- | --- |
/// | `Idle` | whoever has just set the slot's bit in the field: `Leased`, a new generation |
/// | `Leased` | whoever knows the generation, once: `Idle` |
#[derive(Debug)]
pub(super) struct SlotWord(AtomicU32);

impl SlotWord {
    pub(super) fn new(stamp: Stamp) -> Self {
        Self(AtomicU32::new(stamp.raw()))
    }

    /// A look that decides nothing by itself.
    pub(super) fn look(&self) -> Stamp {
        // Relaxed: what follows from the look is decided by a compare-exchange, or the caller
        // holds the slot and wrote the word itself.
        Stamp(self.0.load(Ordering::Relaxed))
    }

    /// Starts the next lease. Only for the one who has just set the slot's bit.
    #[inline]
    pub(super) fn begin(&self) -> Stamp {
        let stamp = self.look().next_lease();
        // Relaxed: the claim of the bit made the slot ours alone; the claim's ordering and
        // whatever hands the lease on to another thread publish the store.
        self.0.store(stamp.raw(), Ordering::Relaxed);
        stamp
    }

    /// Ends the lease `held`. Only for the one who owns it, as a value that cannot be copied.
    #[inline]
    pub(super) fn end_owned(&self, held: Stamp) {
        debug_assert_eq!(self.look(), held, "an owned lease is current");
        // Relaxed: nobody else may move a leased slot on, and the clearing of the bit that
        // follows (Release) publishes the store to the next claimer.
        self.0.store(held.with(State::Idle).raw(), Ordering::Relaxed);
    }

    /// Ends exactly the lease `named`, or changes nothing: decides between all who try.
    #[must_use = "false: somebody else was first, or the name is stale"]
    pub(super) fn end_named(&self, named: Stamp) -> bool {
        let idle = named.with(State::Idle).raw();
        // AcqRel: what the holder did before comes before what the next one does; Relaxed on
        // failure, where nothing is done.
        named.is_leased()
            && self
                .0
                .compare_exchange(named.raw(), idle, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_lease_has_the_next_generation() {
        let word = SlotWord::new(Stamp::idle(7));
        let first = word.begin();
        assert!(first.is_leased());
        word.end_owned(first);
        let second = word.begin();
        assert_ne!(first, second);
        assert!(!word.end_named(first), "the first lease is stale");
        assert!(word.end_named(second));
        assert!(!word.end_named(second), "ended before");
        assert!(!word.end_named(second.with(State::Idle)), "no lease at all");
    }

    #[test]
    fn generations_wrap_without_touching_the_state() {
        let word = SlotWord::new(Stamp::idle(u32::MAX));
        let last = word.begin();
        assert!(last.is_leased());
        word.end_owned(last);
        assert!(word.begin().is_leased());
    }
}
