//! What the threads at one field tell each other in one word: "exhausted", exact and without a
//! counter, and two hints that spare most of them a look elsewhere.

use crate::sync::{AtomicU64, Ordering, model_fence};

/// A search is proving, or has proved, that nothing is free.
const SOUGHT: u64 = 1;
/// Some line may be marked as full.
const MARKED: u64 = 2;
/// What comes free goes into the field's cells: see [`Crowd`](super::crowd::Crowd).
const CROWDED: u64 = 4;
/// The rest of the word is the epoch.
const EPOCH: u64 = 8;

/// The word of one field, and the verdict over it.
///
/// A search that fails sets a mark, reads everything, and pronounces only if the word has not
/// changed. A release frees its slot first and looks for the mark then; where it sees one it moves
/// the epoch on. So a release that the reading missed came after the mark, and moves it. While
/// nobody searches in vain, a release pays one look at a word that nobody writes.
#[derive(Debug)]
pub(super) struct Verdict {
    word: AtomicU64,
    /// The word for which "exhausted" was pronounced; stale ones mean nothing.
    full_at: AtomicU64,
}

/// The word when a proof began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof(u64);

/// What the word said at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs(u64);

impl Signs {
    /// Whether an acquire need not expect anything special.
    #[inline]
    pub(super) fn promise_room(self) -> bool {
        self.0 & (SOUGHT | CROWDED) == 0
    }

    /// Whether nobody needs to be told of a release.
    #[inline]
    pub(super) fn are_quiet(self) -> bool {
        self.0 & (SOUGHT | MARKED) == 0
    }

    #[inline]
    pub(super) fn are_crowded(self) -> bool {
        self.0 & CROWDED != 0
    }

    /// Whether no slot has begun to move between lines and cells between the two.
    pub(super) fn are_of_one_crowd(self, then: Self) -> bool {
        (self.0 ^ then.0) & !(SOUGHT | MARKED) == 0
    }

    pub(super) fn are_marked(self) -> bool {
        self.0 & MARKED != 0
    }
}

impl Verdict {
    pub(super) fn new() -> Self {
        Self { word: AtomicU64::new(0), full_at: AtomicU64::new(0) }
    }

    #[inline]
    pub(super) fn signs(&self) -> Signs {
        // SeqCst: a release has changed a slot before it looks, a search looks at slots after it
        // has changed the word; either the release sees the sign, or the search the slot.
        Signs(self.word.load(Ordering::SeqCst))
    }

    /// Whether "exhausted" was pronounced and no release has come since.
    #[inline]
    pub(super) fn stands(&self) -> bool {
        // Acquire: the verdict's counts are not older than the verdict.
        let word = self.word.load(Ordering::Acquire);
        word & SOUGHT != 0 && self.full_at.load(Ordering::Acquire) == word
    }

    /// Sets the mark, before anything is read.
    pub(super) fn begin(&self) -> Proof {
        Proof(self.raise(SOUGHT) | SOUGHT)
    }

    /// Whether no release has come since the proof began.
    pub(super) fn unmoved(&self, Proof(word): Proof) -> bool {
        // SeqCst: after the reading of everything.
        self.word.load(Ordering::SeqCst) == word
    }

    /// Makes the verdict stand, if no release has come since the proof began.
    #[must_use = "false: read everything again"]
    pub(super) fn pronounce(&self, proof: Proof) -> bool {
        let unmoved = self.unmoved(proof);
        if unmoved {
            // Release: pairs with `stands`. A release that comes right now moves the epoch, and
            // what is stored here is stale at once.
            self.full_at.store(proof.0, Ordering::Release);
        }
        unmoved
    }

    /// Tells a proof, or a verdict, that a slot has become free. After it has.
    #[inline]
    pub(super) fn refute(&self, Signs(word): Signs) {
        if word & SOUGHT != 0 {
            self.move_on(word);
        }
    }

    #[cold]
    #[inline(never)]
    fn move_on(&self, mut word: u64) {
        // SeqCst: part of the one order of `signs`. Without the mark another release has moved it.
        while word & SOUGHT != 0 {
            let next = (word & !SOUGHT) + EPOCH;
            match self.word.compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Says that some line may be marked, before one is.
    pub(super) fn tell_marked(&self) {
        self.raise(MARKED);
    }

    /// Says that no line is marked.
    pub(super) fn tell_unmarked(&self) {
        // SeqCst: see `signs`.
        self.word.fetch_and(!MARKED, Ordering::SeqCst);
        model_fence();
    }

    /// Says that what comes free goes into the cells.
    pub(super) fn tell_crowded(&self) {
        self.raise(CROWDED);
    }

    /// Says that nothing goes into the cells any more; whether it did. Moves the epoch on, for a
    /// proof must not take the word for what it was before the crowd. Only one thread at a time may
    /// say anything about a crowd.
    pub(super) fn tell_dispersed(&self) -> bool {
        let is_crowded = self.signs().are_crowded();
        if is_crowded {
            // SeqCst: see `signs`. The sign is set, so that this takes it away.
            self.word.fetch_add(EPOCH - CROWDED, Ordering::SeqCst);
            model_fence();
        }
        is_crowded
    }

    /// Says that a slot moves, though nobody makes or disperses a crowd.
    pub(super) fn tell_moving(&self) {
        // SeqCst: see `signs`.
        self.word.fetch_add(EPOCH, Ordering::SeqCst);
        model_fence();
    }

    fn raise(&self, sign: u64) -> u64 {
        // SeqCst: see `signs`.
        let before = self.word.fetch_or(sign, Ordering::SeqCst);
        model_fence();
        before
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_came_and_went_ends_a_proof() {
        let verdict = Verdict::new();
        let proof = verdict.begin();
        verdict.tell_crowded();
        assert!(verdict.tell_dispersed());
        assert!(!verdict.signs().are_crowded() && !verdict.tell_dispersed());
        assert!(!verdict.pronounce(proof));
        assert!(verdict.pronounce(verdict.begin()) && verdict.stands());
    }

    #[test]
    fn a_release_keeps_the_hints_and_moves_the_epoch() {
        let verdict = Verdict::new();
        verdict.tell_marked();
        verdict.tell_crowded();
        let proof = verdict.begin();
        assert!(verdict.pronounce(proof) && verdict.stands());
        verdict.refute(verdict.signs());
        assert!(!verdict.stands() && !verdict.unmoved(proof));
        assert!(verdict.signs().are_marked() && verdict.signs().are_crowded());
        verdict.tell_unmarked();
        assert!(!verdict.signs().are_marked() && verdict.signs().are_crowded());
    }
}
