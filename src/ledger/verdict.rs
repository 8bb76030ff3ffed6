//! "Exhausted", exact and without a counter.

use crate::sync::{AtomicU64, Ordering, model_fence};

/// Bit 0 of the epoch: a search is proving, or has proved, that nothing is free.
const MARK: u64 = 1;

/// The verdict over one field.
///
/// A search that fails sets the mark, reads every line, and pronounces only if the epoch has
/// not moved. A release clears its bit first and looks for the mark then; where it sees one it
/// moves the epoch on. So a release that the reading missed came after the mark, and moves it.
/// While nobody searches in vain, a release pays one look at a word that nobody writes.
#[derive(Debug)]
pub(super) struct Verdict {
    epoch: AtomicU64,
    /// The marked epoch for which "exhausted" was pronounced; stale ones mean nothing.
    full_at: AtomicU64,
}

/// The epoch in which a proof began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof(u64);

impl Verdict {
    pub(super) fn new() -> Self {
        Self { epoch: AtomicU64::new(0), full_at: AtomicU64::new(0) }
    }

    /// Whether "exhausted" was pronounced and no release has come since.
    #[inline]
    pub(super) fn stands(&self) -> bool {
        // Acquire: the verdict's counts are not older than the verdict.
        let epoch = self.epoch.load(Ordering::Acquire);
        epoch & MARK != 0 && self.full_at.load(Ordering::Acquire) == epoch
    }

    /// Sets the mark, before any line is read.
    pub(super) fn begin(&self) -> Proof {
        // SeqCst: comes before the reading of the lines in the one order in which a release
        // clears its bit before it looks for the mark.
        let proof = Proof(self.epoch.fetch_or(MARK, Ordering::SeqCst) | MARK);
        model_fence();
        proof
    }

    /// Whether no release has come since the proof began.
    pub(super) fn unmoved(&self, Proof(epoch): Proof) -> bool {
        // SeqCst: after the reading of the lines.
        self.epoch.load(Ordering::SeqCst) == epoch
    }

    /// Makes the verdict stand, if no release has come since the proof began.
    #[must_use = "false: read the lines again"]
    pub(super) fn pronounce(&self, proof: Proof) -> bool {
        let unmoved = self.unmoved(proof);
        if unmoved {
            // Release: pairs with `stands`. A release that comes right now moves the epoch, and
            // what is stored here is stale at once.
            self.full_at.store(proof.0, Ordering::Release);
        }
        unmoved
    }

    /// Tells a proof, or a verdict, that a slot has become free. After the bit was cleared.
    #[inline]
    pub(super) fn refute(&self) {
        // SeqCst: after the clearing of the bit in the one order; see `begin`.
        let epoch = self.epoch.load(Ordering::SeqCst);
        if epoch & MARK != 0 {
            self.move_on(epoch);
        }
    }

    #[cold]
    #[inline(never)]
    fn move_on(&self, epoch: u64) {
        // SeqCst: part of the same order. A failure means that another release has moved it.
        let _ = self.epoch.compare_exchange(
            epoch,
            (epoch & !MARK) + 2,
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
    }
}
