//! The state of a busy destination: one bit a slot, claimed by one atomic instruction.
//!
//! Lines of 1,024 slots, two cache lines each. An acquire looks at four random slots and takes
//! the first that is free; failing that it chooses evenly among the free slots of their words;
//! failing that it follows the marks of full lines, which only searches write and only
//! releases clear. The last few free slots lie in cells of their own, where nobody has to search.
//! "Exhausted" is a verdict with an epoch, reached by reading everything while no release moves
//! the epoch, so it is exact without any counter.

mod body;
mod census;
mod end;
mod given;
mod marks;
#[cfg(all(test, loom))]
mod models;

pub(super) use body::LINE_SLOTS;
use body::{Body, Line, WORDS, nth_one};

use super::crowd::Crowd;
use super::exclusions::Exclusions;
use super::rest::RestQueue;
use super::share::{Presence, Share, ThreadBit, scale};
use super::stamp::{SlotWord, Stamp};
use super::verdict::Verdict;
use super::{Clock, Names, PinnedClaim, Random};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use std::cell::UnsafeCell;
use std::sync::Arc;

/// Random slots that an acquire looks at first: one of them is free with probability
/// 1 - occupancy^4, and the choice among all free slots is then even.
const LOOKS: usize = 4;
/// An odd multiplier with well mixed bits (Steele and Vigna, "Computationally easy, spectrally
/// good multipliers", 2021).
const STIR: u64 = 0xd134_2543_de82_ef95;
/// Times that the words of four random slots are searched before the marks are followed.
const ROUNDS: usize = 2;
/// Resting slots that one acquire brings back at most, unless it would fail otherwise.
const WAKE_BATCH: usize = 16;
/// Claims lost to other threads within one line before a search moves on.
const RACES_MAX: usize = 4;
/// Lines from which on a search for the last free slots is worth sparing.
const CROWD_LINES_MIN: u32 = if cfg!(loom) { 2 } else { 4 };
/// No slot rests.
const NEVER: u64 = u64::MAX;

/// A slot that has just been leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) slot: u32,
    pub(super) stamp: Stamp,
}

/// The slot may not be leased again.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excluded;

/// Why a line gave no slot.
enum Missed {
    Full,
    /// Other threads were faster, or a slot turned out to be excluded: another may be free.
    Raced,
}

/// Nothing is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) leased: u32,
    pub(super) resting: u32,
    pub(super) excluded: u32,
    pub(super) next_due_ms: Option<u64>,
}

/// All slots of one family towards one destination.
///
/// Memory: the head is kept and reused until the ledger goes, for a release touches it after
/// it has given its slot back. The body is freed when no slot is leased or resting and nobody
/// has pinned the field, under the lock of the table that the field hangs in. An acquire holds
/// that lock or a pin; a lease keeps its bit set: each keeps the body alive.
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Field {
    body: UnsafeCell<Body>,
    exclusions: Arc<Exclusions>,
    capacity: u32,
    lines: u32,
    /// One bit a line: a search found it full, and no release has touched it since. Bits beyond
    /// the last line are always set.
    full: Box<[AtomicU64]>,
    verdict: Verdict,
    crowd: Crowd,
    /// Held by whoever moves free slots between lines and cells, where nobody sees them for a
    /// moment. The last lock of all.
    moving: Mutex<()>,
    next_due_ms: AtomicU64,
    presence: Presence,
    pins: AtomicU32,
    /// How many entries `rest` has.
    resting: AtomicU32,
    rest: Mutex<RestQueue<u32>>,
    /// How many bits of `excluded_bits` are set.
    excluded: AtomicU32,
    /// The slots whose bit is set because they are excluded. Empty: none.
    excluded_bits: Mutex<Vec<u64>>,
}

// SAFETY: `body` is replaced only under the conditions in the type's documentation, which
// leave no other reference to it; all else is atomics and locks.
unsafe impl Sync for Field {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Field {}

impl Field {
    /// An empty head for `capacity` slots; [`Field::furnish`] makes it usable.
    pub(super) fn new(exclusions: Arc<Exclusions>, capacity: u32) -> Self {
        let lines = capacity.div_ceil(LINE_SLOTS);
        Self {
            body: UnsafeCell::default(),
            exclusions,
            capacity,
            lines,
            full: (0..lines.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            verdict: Verdict::new(),
            crowd: Crowd::new(),
            moving: Mutex::new(()),
            next_due_ms: AtomicU64::new(NEVER),
            presence: Presence::new(lines),
            pins: AtomicU32::new(0),
            resting: AtomicU32::new(0),
            rest: Mutex::new(RestQueue::default()),
            excluded: AtomicU32::new(0),
            excluded_bits: Mutex::new(Vec::new()),
        }
    }

    /// Gives an empty field its body: `held` are the slots that are leased or resting, `barred`
    /// those that can never be leased. Generations start after `base`.
    /// Under the table's lock, before anybody else can find the field.
    pub(super) fn furnish(
        &self,
        names: Names,
        barred: impl Iterator<Item = u32>,
        held: impl Iterator<Item = Won> + Clone,
        base: u32,
    ) {
        let bit = |slot: u32| 1u64 << (slot % 64);
        let mut excluded: Vec<u64> = Vec::new();
        let mut barred = barred.peekable();
        if barred.peek().is_some() || self.exclusions.count() > 0 {
            excluded = (0..self.capacity.div_ceil(64)).map(|w| self.exclusions.word(w)).collect();
        }
        barred.for_each(|slot| excluded[slot as usize / 64] |= bit(slot));
        if !excluded.is_empty() {
            held.clone().for_each(|won| excluded[won.slot as usize / 64] &= !bit(won.slot));
        }
        let mut words = vec![0u64; self.lines as usize * WORDS];
        for (first, word) in (0u32..).step_by(64).zip(&mut words) {
            *word = excluded.get(first as usize / 64).copied().unwrap_or(0);
            let real = self.capacity.saturating_sub(first);
            if real < 64 {
                *word |= u64::MAX << real;
            }
        }
        held.clone().for_each(|won| words[won.slot as usize / 64] |= bit(won.slot));
        let lines = words
            .chunks_exact(WORDS)
            .map(|line| Line(std::array::from_fn(|i| AtomicU64::new(line[i]))))
            .collect();
        let mut slots = Vec::new();
        if names == Names::Kept {
            slots.resize_with(self.capacity as usize, || SlotWord::new(Stamp::idle(base)));
            let leased = held.clone().filter(|won| won.stamp.is_leased());
            leased.for_each(|won| slots[won.slot as usize] = SlotWord::new(won.stamp));
        }
        // SAFETY: nobody has a slot of an empty field, and nobody else can find it yet.
        unsafe { *self.body.get() = Body { lines, slots: slots.into() } };
        // Relaxed: the table's lock publishes all of it. A release that is late from the
        // field's former life may still clear a mark, move the epoch, or take a slot out of a cell
        // and free it by its number: none does harm.
        for (marks, none) in self.full.iter().zip(self.no_marks()) {
            marks.store(none, Ordering::Relaxed);
        }
        // Of what the field was before: nobody else would ever refute it.
        self.verdict.refute(self.verdict.signs());
        let resting = held.filter(|won| won.stamp.is_resting()).count() as u32;
        self.resting.store(resting, Ordering::Relaxed);
        let count = excluded.iter().map(|word| word.count_ones()).sum();
        self.excluded.store(count, Ordering::Relaxed);
        *self.excluded_bits.lock() = excluded;
    }

    fn body(&self) -> &Body {
        // SAFETY: the caller is inside an acquire or a release of a live slot, or holds the
        // table's lock; each keeps the body from being replaced (see the type).
        unsafe { &*self.body.get() }
    }

    // ---- acquire ------------------------------------------------------------------------

    /// Leases a random free slot, if there is nothing to mind and a few looks meet one; `draw` is
    /// random, `me` the thread's bit. Else does what `otherwise` does with the number, unless it is
    /// used up, where [`Field::acquire`] is the way; calls it, as anything, as its last act.
    #[inline(always)]
    pub(super) fn acquire_at_once(
        &self,
        draw: u32,
        me: ThreadBit,
        otherwise: impl FnOnce(Option<u32>) -> Option<PinnedClaim>,
    ) -> Option<PinnedClaim> {
        // Relaxed: a deadline that another thread adds at this moment is met by the next look.
        let rests = self.next_due_ms.load(Ordering::Relaxed) != NEVER;
        let has_room = self.verdict.signs().promise_room();
        if rests || !has_room {
            return otherwise(Some(draw));
        }
        match self.presence.is_lone(me, draw) {
            true => self.acquire_in_share(draw, None, otherwise),
            false => self.acquire_beside_others(draw, me, otherwise),
        }
    }

    #[inline(never)]
    fn acquire_beside_others(
        &self,
        draw: u32,
        me: ThreadBit,
        otherwise: impl FnOnce(Option<u32>) -> Option<PinnedClaim>,
    ) -> Option<PinnedClaim> {
        self.acquire_in_share(draw, Some(self.presence.share(me, draw)), otherwise)
    }

    /// `share`: none for a lone thread, which has everything.
    #[inline(always)]
    fn acquire_in_share(
        &self,
        draw: u32,
        share: Option<Share>,
        otherwise: impl FnOnce(Option<u32>) -> Option<PinnedClaim>,
    ) -> Option<PinnedClaim> {
        let slot = self.body().first_free(self.looks(draw, share));
        if !self.body().is_free(slot) || !self.body().claim(slot) {
            return otherwise(None);
        }
        if self.exclusions.blocks(slot) {
            return self.refuse_and(slot, otherwise);
        }
        Some(self.begin_unblocked(slot))
    }

    /// By [`Field::acquire_at_once`], else by [`Field::acquire`]; `draw` comes from `random`.
    #[inline]
    pub(super) fn acquire_soon(
        &self,
        draw: u32,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<PinnedClaim> {
        self.acquire_at_once(draw, random.me(), |unused| {
            let draw = unused.unwrap_or_else(|| random.next_u32());
            self.acquire(draw, clock, random)
        })
    }

    /// Leases a random free slot; `None` only if there is none (see [`Field::full_house`]).
    /// `draw` comes from `random`.
    pub(super) fn acquire(
        &self,
        draw: u32,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<PinnedClaim> {
        // Relaxed: as in `acquire_at_once`.
        if self.next_due_ms.load(Ordering::Relaxed) != NEVER {
            self.wake(clock, WAKE_BATCH);
        }
        if self.verdict.stands() {
            return None;
        }
        if self.verdict.signs().are_crowded() {
            if let Some(claim) = self.acquire_of_crowd(draw) {
                return Some(claim);
            }
        }
        let share = Some(self.presence.share(random.me(), draw));
        self.acquire_in_share(draw, share, |_| self.search(share, clock, random))
    }

    /// The slots that an acquire looks at first: one is drawn, the others are stirred from it, for
    /// what it sees of the same draw it must not see in the same place.
    #[inline]
    fn looks(&self, draw: u32, share: Option<Share>) -> [u32; LOOKS] {
        let stirred = u64::from(draw).wrapping_mul(STIR);
        let [high, low] = [(stirred >> 32) as u32, stirred as u32];
        let draws = [draw, high, low, high ^ low.rotate_left(16)];
        let slots = draws.map(|draw| scale(draw, self.capacity));
        match share {
            None => slots,
            Some(share) => slots.map(|slot| share.instead_of(slot, self.capacity)),
        }
    }

    /// Leases one of the slots in the cells.
    fn acquire_of_crowd(&self, draw: u32) -> Option<PinnedClaim> {
        loop {
            let slot = self.crowd.take(draw)?;
            // Else it has been excluded, and is in no cell any more.
            if let Some(claim) = self.begin(slot) {
                return Some(claim);
            }
        }
    }

    /// Leases `slot`, unless somebody else has it or it has been excluded.
    #[inline]
    fn claim(&self, slot: u32) -> Option<PinnedClaim> {
        if self.body().claim(slot) { self.begin(slot) } else { None }
    }

    /// Leases `slot`, whose bit is ours, unless it has been excluded.
    #[inline(always)]
    fn begin(&self, slot: u32) -> Option<PinnedClaim> {
        if self.exclusions.blocks(slot) {
            return self.refuse_and(slot, |_| None);
        }
        Some(self.begin_unblocked(slot))
    }

    /// Leases `slot`, whose bit is ours, after a look whether it has been excluded.
    #[inline(always)]
    fn begin_unblocked(&self, slot: u32) -> PinnedClaim {
        let stamp = self.body().slots.get(slot as usize).map_or(Stamp::NONE, SlotWord::begin);
        PinnedClaim::new(Won { slot, stamp })
    }

    /// Gives back what turned out to be excluded, and goes on.
    #[cold]
    #[inline(never)]
    fn refuse_and(
        &self,
        slot: u32,
        otherwise: impl FnOnce(Option<u32>) -> Option<PinnedClaim>,
    ) -> Option<PinnedClaim> {
        self.give_back(slot);
        otherwise(None)
    }

    /// The way of an acquire whose random looks met no free slot.
    #[cold]
    #[inline(never)]
    fn search(
        &self,
        share: Option<Share>,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<PinnedClaim> {
        let mut start = 0;
        for _ in 0..ROUNDS {
            let looks = self.looks(random.next_u32(), share);
            start = looks[0] / LINE_SLOTS;
            // Where most lines are full, looking at random is in vain.
            if looks.iter().all(|slot| self.is_marked(slot / LINE_SLOTS)) {
                break;
            }
            let slot = self.body().choose(&looks, random);
            if let Some(claim) = slot.and_then(|slot| self.claim(slot)) {
                return Some(claim);
            }
        }
        let mut line = start;
        for _ in 0..self.lines {
            let Some(next) = self.next_unmarked(line) else { break };
            match self.claim_in(next, random) {
                Ok(claim) => {
                    self.crowd_if_few();
                    return Some(claim);
                }
                Err(Missed::Full) => self.mark_if_full(next),
                Err(Missed::Raced) => {}
            }
            line = if next + 1 == self.lines { 0 } else { next + 1 };
        }
        self.acquire_or_prove_full(clock, random)
    }

    /// Reads everything, again and again until it wins a slot or nothing came between: a
    /// repetition means that another thread has won or released one, so that some thread makes
    /// progress.
    fn acquire_or_prove_full(
        &self,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<PinnedClaim> {
        loop {
            let proof = self.begin_proof();
            self.wake(clock, usize::MAX);
            if let Some(claim) = self.acquire_of_crowd(random.next_u32()) {
                return Some(claim);
            }
            let mut has_raced = false;
            for line in 0..self.lines {
                match self.claim_in(line, random) {
                    Ok(claim) => return Some(claim),
                    Err(Missed::Full) => {}
                    Err(Missed::Raced) => has_raced = true,
                }
            }
            if !has_raced && self.verdict.pronounce(proof) {
                return None;
            }
        }
    }

    /// Leases a free slot of `line`.
    fn claim_in(&self, line: u32, random: &mut impl Random) -> Result<PinnedClaim, Missed> {
        let body = self.body();
        let words = &body.lines[line as usize].0;
        for _ in 0..RACES_MAX {
            // SeqCst: the proof of fullness reads a word after it has begun a verdict; a release
            // clears the bit and then looks for a verdict.
            let free: [u64; WORDS] = std::array::from_fn(|w| !words[w].load(Ordering::SeqCst));
            let mut open = 0u32;
            for (w, &bits) in free.iter().enumerate() {
                open |= u32::from(bits != 0) << w;
            }
            if open == 0 {
                return Err(Missed::Full);
            }
            let w = nth_one(open.into(), scale(random.next_u32(), open.count_ones()));
            let bits = free[w as usize];
            let bit = nth_one(bits, scale(random.next_u32(), bits.count_ones()));
            let slot = line * LINE_SLOTS + w * 64 + bit;
            if let Some(claim) = self.claim(slot) {
                if open.is_power_of_two() && bits.is_power_of_two() {
                    self.mark_if_full(line);
                }
                return Ok(claim);
            }
        }
        Err(Missed::Raced)
    }
}
