//! The state of a busy destination: one bit a slot, claimed by one atomic instruction.
//!
//! Lines of 512 slots, one cache line each. An acquire looks at four random slots and takes
//! the first that is free; failing that it chooses evenly among the free slots of their words;
//! failing that it follows the marks of full lines, which only searches write and only
//! releases clear. "Exhausted" is a verdict with an epoch, reached by reading every line
//! while no release moves the epoch, so it is exact without any counter.

mod census;
mod end;

use super::exclusions::Exclusions;
use super::rest::RestQueue;
use super::share::{Presence, Share, scale};
use super::side::barred::Barred;
use super::stamp::{SlotWord, Stamp};
use super::verdict::Verdict;
use super::{Clock, Names, Random};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, model_fence};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::Arc;

/// Words to a line: a cache line. A model must be small.
const WORDS: usize = if cfg!(loom) { 1 } else { 8 };
/// Slots to a line.
pub(super) const LINE_SLOTS: u32 = WORDS as u32 * 64;
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
/// No slot rests.
const NEVER: u64 = u64::MAX;

#[repr(align(64))]
#[derive(Debug)]
struct Line([AtomicU64; WORDS]);

/// The part that goes when the destination is idle.
#[derive(Debug, Default)]
struct Body {
    lines: Box<[Line]>,
    /// One a slot where leases have names, else none.
    slots: Box<[SlotWord]>,
}

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
            next_due_ms: AtomicU64::new(NEVER),
            presence: Presence::new(),
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
        barred: Barred<'_>,
        held: impl Iterator<Item = Won> + Clone,
        base: u32,
    ) {
        let bit = |slot: u32| 1u64 << (slot % 64);
        let mut excluded: Vec<u64> = Vec::new();
        let mut barred = barred.within(0..self.capacity).peekable();
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
        // field's former life may still clear a mark or move the epoch: both do no harm.
        for (first, marks) in (0..).step_by(64).zip(&self.full) {
            let real: u32 = self.lines - first;
            marks.store(if real < 64 { u64::MAX << real } else { 0 }, Ordering::Relaxed);
        }
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

    /// Leases a random free slot; `None` only if there is none (see [`Field::full_house`]).
    #[inline]
    pub(super) fn acquire(&self, clock: &impl Clock, random: &mut impl Random) -> Option<Won> {
        // Relaxed: a deadline that another thread adds at this moment is met by the next look.
        if self.next_due_ms.load(Ordering::Relaxed) != NEVER {
            self.wake(clock, WAKE_BATCH);
        }
        if self.verdict.stands() {
            return None;
        }
        let draw = random.next_u64();
        let share = self.presence.share(random.lane(), draw as u32, self.lines);
        let [a, b, c, d] = self.looks(draw, share);
        let body = self.body();
        if !self.is_marked(a / LINE_SLOTS) {
            // Without a branch: which of them is free is a coin's choice.
            let (free_a, free_b) = (body.is_free(a), body.is_free(b));
            let (free_c, free_d) = (body.is_free(c), body.is_free(d));
            let slot = if free_c { c } else { d };
            let slot = if free_b { b } else { slot };
            let slot = if free_a { a } else { slot };
            if free_a | free_b | free_c | free_d {
                if let Some(won) = self.claim(slot) {
                    return Some(won);
                }
            }
        }
        self.search(clock, random, draw, share)
    }

    /// The slots that an acquire looks at first: two from each half of `draw`, the second pair
    /// stirred, for what it sees of the same draw it must not see in the same place.
    #[inline]
    fn looks(&self, draw: u64, share: Share) -> [u32; LOOKS] {
        let stirred = (draw ^ draw >> 32).wrapping_mul(STIR);
        [draw as u32, (draw >> 32) as u32, (stirred >> 32) as u32, (stirred ^ draw) as u32]
            .map(|draw| share.slot(draw, self.capacity, self.lines))
    }

    /// Leases `slot`, unless somebody else has it or it has been excluded.
    #[inline]
    fn claim(&self, slot: u32) -> Option<Won> {
        if !self.body().claim(slot) {
            return None;
        }
        if self.exclusions.blocks(slot) {
            return self.refuse(slot);
        }
        let stamp = self.body().slots.get(slot as usize).map_or(Stamp::NONE, SlotWord::begin);
        Some(Won { slot, stamp })
    }

    /// Gives back what turned out to be excluded.
    #[cold]
    #[inline(never)]
    fn refuse(&self, slot: u32) -> Option<Won> {
        self.give_back(slot);
        None
    }

    /// The way of an acquire whose random looks met no free slot.
    #[cold]
    #[inline(never)]
    fn search(
        &self,
        clock: &impl Clock,
        random: &mut impl Random,
        draw: u64,
        share: Share,
    ) -> Option<Won> {
        let mut looks = self.looks(draw, share);
        let start = looks[0] / LINE_SLOTS;
        // Where most lines are full, looking at random is in vain.
        if !looks.iter().all(|slot| self.is_marked(slot / LINE_SLOTS)) {
            for _ in 0..ROUNDS {
                let slot = self.body().choose(&looks, random);
                if let Some(won) = slot.and_then(|slot| self.claim(slot)) {
                    return Some(won);
                }
                looks = self.looks(random.next_u64(), share);
            }
        }
        let mut line = start;
        for _ in 0..self.lines {
            let Some(next) = self.next_unmarked(line) else { break };
            match self.claim_in(next, random) {
                Some(won) => return Some(won),
                None => self.mark_if_full(next),
            }
            line = if next + 1 == self.lines { 0 } else { next + 1 };
        }
        self.acquire_or_prove_full(clock, random)
    }

    /// Reads every line, again and again until it wins a slot or no release came between:
    /// a repetition means that another thread released, so that some thread makes progress.
    fn acquire_or_prove_full(&self, clock: &impl Clock, random: &mut impl Random) -> Option<Won> {
        loop {
            let mark = self.verdict.begin();
            self.wake(clock, usize::MAX);
            for line in 0..self.lines {
                if let Some(won) = self.claim_in(line, random) {
                    return Some(won);
                }
            }
            if self.verdict.pronounce(mark) {
                return None;
            }
        }
    }

    /// Leases a free slot of `line`; `None`: there is none, or other threads were faster.
    fn claim_in(&self, line: u32, random: &mut impl Random) -> Option<Won> {
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
                return None;
            }
            let draw = random.next_u64();
            let w = nth_one(open.into(), scale(draw as u32, open.count_ones()));
            let bits = free[w as usize];
            let bit = nth_one(bits, scale((draw >> 32) as u32, bits.count_ones()));
            let slot = line * LINE_SLOTS + w * 64 + bit;
            if let Some(won) = self.claim(slot) {
                if open.is_power_of_two() && bits.is_power_of_two() {
                    self.mark_if_full(line);
                }
                return Some(won);
            }
        }
        None
    }

    /// Leases a free slot of `window`; `Err` only if there is none in it.
    pub(super) fn acquire_within(
        &self,
        window: Range<u32>,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Won, Full> {
        if window.is_empty() {
            return Err(Full { leased: 0, resting: 0, excluded: 0, next_due_ms: None });
        }
        self.wake(clock, WAKE_BATCH);
        let width = window.end - window.start;
        loop {
            let mark = self.verdict.begin();
            let draw = random.next_u64();
            let start = window.start + scale((draw >> 32) as u32, width);
            for slots in [start..window.end, window.start..start] {
                if let Some(won) = self.claim_first(slots) {
                    return Ok(won);
                }
            }
            if self.wake(clock, usize::MAX) == 0 && self.verdict.unmoved(mark) {
                return Err(self.census_within(window).1);
            }
        }
    }

    fn claim_first(&self, slots: Range<u32>) -> Option<Won> {
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
    pub(super) fn acquire_exactly(&self, slot: u32) -> Option<Won> {
        self.claim(slot)
    }

    // ---- marks of full lines ------------------------------------------------------------

    #[inline]
    fn is_marked(&self, line: u32) -> bool {
        // SeqCst: see `open`.
        self.full[line as usize / 64].load(Ordering::SeqCst) >> (line % 64) & 1 != 0
    }

    /// Marks a line as full, unless a release comes between.
    fn mark_if_full(&self, line: u32) {
        let body = self.body();
        let bit = 1 << (line % 64);
        if self.is_marked(line) || !body.lines[line as usize].is_full() {
            return;
        }
        // SeqCst: either this look after the mark sees the cleared bit of a release, or that
        // release's look after the clearing sees the mark.
        self.full[line as usize / 64].fetch_or(bit, Ordering::SeqCst);
        model_fence();
        if !body.lines[line as usize].is_full() {
            self.full[line as usize / 64].fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// The first line from `from` on, round the end, that is not marked as full.
    fn next_unmarked(&self, from: u32) -> Option<u32> {
        let words = self.full.len() as u32;
        let (first, shift) = (from / 64, from % 64);
        let mut before = u64::MAX << shift;
        for word in (first..words).chain(0..=first) {
            // SeqCst: see `open`.
            let unmarked = !self.full[word as usize].load(Ordering::SeqCst) & before;
            if unmarked != 0 {
                return Some(word * 64 + unmarked.trailing_zeros());
            }
            before = u64::MAX;
        }
        None
    }
}

impl Line {
    fn is_full(&self) -> bool {
        // SeqCst: see `Field::mark_if_full`.
        self.0.iter().all(|word| word.load(Ordering::SeqCst) == u64::MAX)
    }
}

impl Body {
    #[inline]
    fn word(&self, slot: u32) -> &AtomicU64 {
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
    fn is_free(&self, slot: u32) -> bool {
        // Relaxed: a look; the claim decides.
        self.word(slot).load(Ordering::Relaxed) >> (slot % 64) & 1 == 0
    }

    /// One of the free slots in the words that `looks` lie in, each as likely as the others.
    fn choose(&self, looks: &[u32; LOOKS], random: &mut impl Random) -> Option<u32> {
        // Relaxed: as in `is_free`.
        let free = looks.map(|slot| !self.word(slot).load(Ordering::Relaxed));
        let counts = free.map(u64::count_ones);
        let total: u32 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let mut pick = scale((random.next_u64() >> 32) as u32, total);
        let mut i = 0;
        while pick >= counts[i] {
            pick -= counts[i];
            i += 1;
        }
        Some(looks[i] / 64 * 64 + nth_one(free[i], pick))
    }

    /// Sets the bit of `slot`; `false` if somebody else had.
    #[inline]
    fn claim(&self, slot: u32) -> bool {
        let bit = 1 << (slot % 64);
        // AcqRel: Acquire pairs with the release that cleared the bit, so that the slot's word
        // is the one that it left.
        self.word(slot).fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    fn ones(&self) -> u32 {
        let words = self.lines.iter().flat_map(|line| &line.0);
        // Relaxed: read at a quiet moment, under the table's lock.
        words.map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

/// The position of the `n`-th one, from 0; `bits` has more than `n`.
fn nth_one(mut bits: u64, n: u32) -> u32 {
    for _ in 0..n {
        bits &= bits - 1;
    }
    bits.trailing_zeros()
}
