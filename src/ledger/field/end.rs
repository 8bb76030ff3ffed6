//! How leases, rests, exclusions and the field itself end.

use super::{Excluded, Field, LINE_SLOTS, NEVER, Won};
use crate::ledger::Clock;
use crate::ledger::verdict::Signs;
use crate::sync::{Ordering, model_fence};

impl Field {
    /// Ends a lease that the caller owns, where it is enough to clear its bit. `false`: it is not,
    /// and nothing is done.
    #[inline]
    pub(in crate::ledger) fn try_release(&self, held: Won) -> bool {
        if self.exclusions.blocks(held.slot) {
            return false;
        }
        if let Some(word) = self.body().slots.get(held.slot as usize) {
            word.end_owned(held.stamp);
        }
        self.open(held.slot);
        true
    }

    /// Ends a lease that the caller owns. `Err`: the slot has been excluded; nothing is done, and
    /// [`Field::end_excluded`] is the way.
    #[inline]
    pub(in crate::ledger) fn release(
        &self,
        held: Won,
        rest_until_ms: Option<u64>,
    ) -> Result<(), Excluded> {
        if rest_until_ms.is_none() && self.exclusions.blocks(held.slot) {
            return Err(Excluded);
        }
        if let Some(word) = self.body().slots.get(held.slot as usize) {
            word.end_owned(held.stamp);
        }
        match rest_until_ms {
            None => self.open(held.slot),
            Some(due_ms) => self.lay_down(held.slot, due_ms),
        }
        Ok(())
    }

    /// Ends a lease that the caller owns, on a slot that may be excluded. The caller keeps the
    /// body alive.
    pub(in crate::ledger) fn end_excluded(&self, held: Won) {
        if let Some(word) = self.body().slots.get(held.slot as usize) {
            word.end_owned(held.stamp);
        }
        self.give_back(held.slot);
    }

    /// Ends the lease that `named` names, if it is current. The caller keeps the body alive,
    /// for a stale name keeps nothing.
    #[must_use = "false: the name is stale"]
    pub(in crate::ledger) fn release_named(&self, named: Won, rest_until_ms: Option<u64>) -> bool {
        let word = self.body().slots.get(named.slot as usize);
        if !word.is_some_and(|word| word.end_named(named.stamp)) {
            return false;
        }
        match rest_until_ms {
            None => self.give_back(named.slot),
            Some(due_ms) => self.lay_down(named.slot, due_ms),
        }
        true
    }

    /// Whether `named` is leased now. The caller keeps the body alive.
    pub(in crate::ledger) fn is_live(&self, named: Won) -> bool {
        let word = self.body().slots.get(named.slot as usize);
        named.stamp.is_leased() && word.is_some_and(|word| word.look() == named.stamp)
    }

    /// Frees a slot that is ours and idle. The body may be gone right after.
    #[inline]
    pub(in crate::ledger) fn open(&self, slot: u32) {
        match self.verdict.signs().are_crowded() {
            true => self.open_in_crowd(slot),
            false => self.clear(slot),
        }
    }

    #[inline(never)]
    pub(super) fn open_in_crowd(&self, slot: u32) {
        if !self.join_crowd(slot) {
            self.clear(slot);
        }
    }

    /// Clears the bit of a slot that is ours and idle. The body may be gone right after.
    #[inline]
    pub(super) fn clear(&self, slot: u32) {
        // SeqCst: Release publishes the slot's word to the next claimer; the total order with
        // the look that follows is what makes full lines and exhaustion exact.
        self.body().word(slot).fetch_and(!(1 << (slot % 64)), Ordering::SeqCst);
        model_fence();
        let signs = self.verdict.signs();
        if !signs.are_quiet() {
            self.tell_of(slot, signs);
        }
    }

    /// Tells searches and proofs that `slot` has become free.
    #[cold]
    #[inline(never)]
    fn tell_of(&self, slot: u32, signs: Signs) {
        let line = slot / LINE_SLOTS;
        if signs.are_marked() && self.is_marked(line) {
            self.unmark(line);
        }
        self.verdict.refute(signs);
    }

    /// Makes a slot whose bit is ours free, or excluded if it must be. The caller keeps the body
    /// alive.
    pub(in crate::ledger) fn give_back(&self, slot: u32) {
        if self.exclusions.blocks(slot) {
            let mut bits = self.excluded_bits.lock();
            // Again, under the lock: an include ends the exclusion first and takes the lock
            // then, so either it finds the bit set here, or this look finds the exclusion ended.
            if self.exclusions.blocks(slot) {
                self.set_excluded(&mut bits, slot);
                return;
            }
        }
        self.open(slot);
    }

    pub(in crate::ledger) fn set_excluded(&self, bits: &mut Vec<u64>, slot: u32) {
        bits.resize(self.capacity.div_ceil(64) as usize, 0);
        bits[slot as usize / 64] |= 1 << (slot % 64);
        // Relaxed: counts are exact at quiet moments.
        self.excluded.fetch_add(1, Ordering::Relaxed);
    }

    // ---- resting ------------------------------------------------------------------------

    pub(in crate::ledger) fn lay_down(&self, slot: u32, due_ms: u64) {
        let mut queue = self.rest.lock();
        queue.push(due_ms, slot);
        // Relaxed: written under the lock; a reader that misses it is told by its next look.
        self.resting.fetch_add(1, Ordering::Relaxed);
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Takes over what rested while the destination was small.
    pub(in crate::ledger) fn take_resting(&self, entries: impl Iterator<Item = (u64, u32)>) {
        let mut queue = self.rest.lock();
        entries.for_each(|(due_ms, slot)| queue.push(due_ms, slot));
        // Relaxed: as in `lay_down`; `furnish` has counted them.
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Brings back up to `batch` slots that have rested enough; returns how many.
    #[cold]
    #[inline(never)]
    pub(in crate::ledger) fn wake(&self, clock: &impl Clock, batch: usize) -> usize {
        // Relaxed: as in `acquire`.
        let due_ms = self.next_due_ms.load(Ordering::Relaxed);
        if due_ms == NEVER {
            return 0;
        }
        let now_ms = clock.now_ms();
        if due_ms > now_ms {
            return 0;
        }
        let mut queue = self.rest.lock();
        let mut woken = 0;
        while woken < batch {
            let Some(slot) = queue.pop_due(now_ms) else { break };
            self.resting.fetch_sub(1, Ordering::Relaxed);
            self.give_back(slot);
            woken += 1;
        }
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(NEVER), Ordering::Relaxed);
        woken
    }

    // ---- exclusion, under the table's lock ----------------------------------------------

    /// Takes `slot` away if it is excluded and free; a lease or a rest goes on. After the
    /// exclusion has begun. It may have ended again: all who change a slot look under the lock.
    pub(in crate::ledger) fn exclude(&self, slot: u32) {
        let mut bits = self.excluded_bits.lock();
        while self.exclusions.blocks(slot) {
            let still = self.settle();
            if self.body().claim(slot) {
                return self.set_excluded(&mut bits, slot);
            }
            if self.verdict.signs().are_of_one_crowd(still) {
                return;
            }
        }
    }

    /// Frees `slot` if it was excluded and is no more. After the exclusion has ended.
    pub(in crate::ledger) fn include(&self, slot: u32) {
        let mut bits = self.excluded_bits.lock();
        let bit = 1 << (slot % 64);
        let Some(word) = bits.get_mut(slot as usize / 64) else { return };
        if *word & bit != 0 && !self.exclusions.blocks(slot) {
            *word &= !bit;
            self.excluded.fetch_sub(1, Ordering::Relaxed);
            self.open(slot);
        }
    }

    // ---- pins and the end ---------------------------------------------------------------

    /// Keeps the body until [`Field::unpin`]. Under the table's lock.
    pub(in crate::ledger) fn pin(&self) {
        // Relaxed: ordered by the table's lock.
        self.pins.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::ledger) fn unpin(&self) {
        // Release: what the pinner did comes before the body is freed.
        self.pins.fetch_sub(1, Ordering::Release);
    }

    /// Whether nothing needs the body. Under the table's lock.
    pub(in crate::ledger) fn is_idle(&self) -> bool {
        // Acquire: pairs with `unpin`.
        if self.pins.load(Ordering::Acquire) != 0 || self.resting.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.disperse_if_crowded();
        self.body().ones() == self.tail() + self.excluded.load(Ordering::Relaxed)
    }

    /// Frees the body of an idle field. Under the table's lock, with [`Field::is_idle`] seen.
    pub(in crate::ledger) fn strip(&self) {
        // SAFETY: idle: no lease, no rest, no pin; and the table's lock keeps acquires out. A
        // release that is still on its way has cleared its bit and touches the head alone.
        drop(std::mem::take(unsafe { &mut *self.body.get() }));
    }

    /// The highest generation in use, so that later leases can start after it.
    pub(in crate::ledger) fn generation_max(&self) -> u32 {
        self.body().slots.iter().map(|word| word.look().generation()).max().unwrap_or(0)
    }
}
