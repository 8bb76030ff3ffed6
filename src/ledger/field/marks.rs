//! What searches leave for each other where a field is nearly full: marks of full lines, and the
//! last free slots in cells.

use super::{CROWD_LINES_MIN, Field, LINE_SLOTS};
use crate::ledger::crowd::CROWD;
use crate::ledger::verdict::{Proof, Signs};
use crate::sync::{MutexGuard, Ordering, model_fence};

impl Field {
    // ---- marks of full lines ------------------------------------------------------------

    pub(super) fn is_marked(&self, line: u32) -> bool {
        // SeqCst: see `Verdict::signs`.
        self.full[line as usize / 64].load(Ordering::SeqCst) >> (line % 64) & 1 != 0
    }

    /// Marks a line as full, unless a release comes between.
    pub(super) fn mark_if_full(&self, line: u32) {
        let body = self.body();
        let bit = 1 << (line % 64);
        if self.is_marked(line) || !body.lines[line as usize].is_full() {
            return;
        }
        if !self.verdict.signs().are_marked() {
            self.verdict.tell_marked();
        }
        // SeqCst: either the looks after the mark see the cleared bit of a release, or that the sign
        // is gone; or that release's looks after the clearing see the sign and the mark.
        self.full[line as usize / 64].fetch_or(bit, Ordering::SeqCst);
        model_fence();
        if !self.verdict.signs().are_marked() || !body.lines[line as usize].is_full() {
            self.full[line as usize / 64].fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// The first line from `from` on, round the end, that is not marked as full.
    pub(super) fn next_unmarked(&self, from: u32) -> Option<u32> {
        let words = self.full.len() as u32;
        let (first, shift) = (from / 64, from % 64);
        let mut before = u64::MAX << shift;
        for word in (first..words).chain(0..=first) {
            // SeqCst: see `Verdict::signs`.
            let unmarked = !self.full[word as usize].load(Ordering::SeqCst) & before;
            if unmarked != 0 {
                return Some(word * 64 + unmarked.trailing_zeros());
            }
            before = u64::MAX;
        }
        None
    }

    /// Takes a line's mark away. After a slot of it has become free.
    pub(super) fn unmark(&self, line: u32) {
        // SeqCst: see `mark_if_full`.
        self.full[line as usize / 64].fetch_and(!(1 << (line % 64)), Ordering::SeqCst);
        if self.lines_unmarked() == self.lines {
            self.verdict.tell_unmarked();
            // Whoever has marked a line meanwhile has perhaps not been heard.
            for (marks, tail) in self.full.iter().zip(self.no_marks()) {
                // SeqCst: see `mark_if_full`.
                if marks.load(Ordering::SeqCst) != tail {
                    marks.fetch_and(tail, Ordering::SeqCst);
                }
            }
        }
    }

    /// The words of `full` where no line is marked: the bits beyond the last are always set.
    pub(super) fn no_marks(&self) -> impl Iterator<Item = u64> {
        let real = |word: u32| self.lines - word * 64;
        let tail = move |word| if real(word) < 64 { u64::MAX << real(word) } else { 0 };
        (0..self.full.len() as u32).map(tail)
    }

    fn lines_unmarked(&self) -> u32 {
        // SeqCst: see `mark_if_full`. The bits beyond the last line count as marked.
        self.full.iter().map(|word| word.load(Ordering::SeqCst).count_zeros()).sum()
    }

    // ---- the crowd ----------------------------------------------------------------------

    /// Moves the free slots into cells, if they are few.
    pub(super) fn crowd_if_few(&self) {
        let is_worth_it = self.lines >= CROWD_LINES_MIN && self.lines_unmarked() <= CROWD;
        if !is_worth_it || self.verdict.signs().are_crowded() {
            return;
        }
        if self.free_in_unmarked().nth(CROWD as usize).is_some() {
            return;
        }
        // Who moves slots already has them in cells soon, or out of them.
        let Some(_moving) = self.moving.try_lock() else { return };
        // Again, under the lock: a second crowd would change no word, and a proof would not see it.
        if self.verdict.signs().are_crowded() {
            return;
        }
        self.verdict.tell_crowded();
        for slot in self.free_in_unmarked() {
            self.move_to_cell(slot);
        }
    }

    fn move_to_cell(&self, slot: u32) {
        if self.exclusions.blocks(slot) || !self.body().claim(slot) {
            return;
        }
        // Nobody needs to be told: `tell_crowded` has changed the word.
        if !self.crowd.put(slot) {
            self.clear(slot);
        }
    }

    /// The free slots of lines that are not marked.
    fn free_in_unmarked(&self) -> impl Iterator<Item = u32> {
        let lines = (0..self.lines).filter(|&line| !self.is_marked(line));
        let words = lines.flat_map(|line| (line * LINE_SLOTS..(line + 1) * LINE_SLOTS).step_by(64));
        words.flat_map(|first| {
            // Relaxed: a look; a claim decides.
            let mut free = !self.body().word(first).load(Ordering::Relaxed);
            std::iter::from_fn(move || {
                let bit = (free != 0).then(|| free.trailing_zeros())?;
                free &= free - 1;
                Some(first + bit)
            })
        })
    }

    /// Puts a slot that is ours into a cell. `false`: there is none, and the slot is still ours.
    pub(super) fn join_crowd(&self, slot: u32) -> bool {
        if !self.crowd.put(slot) {
            self.disperse_if_crowded();
            return false;
        }
        model_fence();
        let signs = self.verdict.signs();
        if signs.are_crowded() {
            self.verdict.refute(signs);
            return true;
        }
        // Whoever dispersed the crowd has perhaps not seen the slot. It is nobody's now, and the body
        // may be gone; but whoever takes a slot out of a cell has its bit, which keeps the body.
        let _moving = self.moving.lock();
        let signs = self.verdict.signs();
        if signs.are_crowded() {
            self.verdict.refute(signs);
        } else {
            self.verdict.tell_moving();
            self.crowd.drain().for_each(|slot| self.clear(slot));
        }
        true
    }

    #[cfg(all(test, not(loom)))]
    pub(in crate::ledger) fn is_crowded(&self) -> bool {
        self.verdict.signs().are_crowded()
    }

    /// Moves the slots in cells back to where they can be found by number. The caller keeps the
    /// body alive.
    pub(super) fn disperse_if_crowded(&self) {
        if !self.verdict.signs().are_crowded() {
            return;
        }
        self.disperse(&self.moving.lock());
    }

    /// Moves them back, and waits for whoever moves some now. What the word says after that changes
    /// before another moves.
    pub(super) fn settle(&self) -> Signs {
        let moving = self.moving.lock();
        self.disperse(&moving);
        self.verdict.signs()
    }

    /// As [`Field::disperse_if_crowded`], for whoever may move slots.
    pub(super) fn disperse(&self, _moving: &MutexGuard<'_, ()>) {
        if self.verdict.tell_dispersed() {
            self.crowd.drain().for_each(|slot| self.clear(slot));
        }
    }

    /// Begins a proof while no free slot is on its way from a line to a cell or back: whoever
    /// moves one later changes the verdict's word first.
    pub(super) fn begin_proof(&self) -> Proof {
        let _still = self.moving.lock();
        self.verdict.begin()
    }

    /// As [`Field::begin_proof`], and every free slot is in its line.
    pub(super) fn begin_proof_by_number(&self) -> Proof {
        let moving = self.moving.lock();
        self.disperse(&moving);
        self.verdict.begin()
    }
}
