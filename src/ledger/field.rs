//! The state of a busy destination: one bit a slot, claimed by one atomic instruction.
//!
//! Lines of 512 slots, one cache line each. An acquire looks at four random slots and takes
//! the first that is free; failing that it chooses evenly among the free slots of their lines;
//! failing that it follows the marks of full lines, which only searches write and only
//! releases clear. "Exhausted" is a verdict with an epoch, reached by reading every line
//! while no release moves the epoch, so it is exact without any counter.

use super::exclusions::Exclusions;
use super::rest::RestQueue;
use super::share::{Presence, scale};
use super::stamp::{SlotWord, Stamp, State};
use super::verdict::Verdict;
use super::{Clock, Random};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, model_fence};
use std::cell::UnsafeCell;
use std::ops::Range;

/// Words to a line: a cache line. A model must be small.
const WORDS: usize = if cfg!(loom) { 1 } else { 8 };
/// Slots to a line.
pub(super) const LINE_SLOTS: u32 = WORDS as u32 * 64;
/// Random slots that an acquire looks at first: one of them is free with probability
/// 1 - occupancy^4, and the choice among all free slots is then even.
const LOOKS: usize = 4;
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
    slots: Box<[SlotWord]>,
}

/// A slot that has just been leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) slot: u32,
    pub(super) stamp: Stamp,
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
    capacity: u32,
    lines: u32,
    /// One bit a line: a search found it full, and no release has touched it since. Bits beyond
    /// the last line are always set.
    full: Box<[AtomicU64]>,
    verdict: Verdict,
    next_due_ms: AtomicU64,
    presence: Presence,
    resting: AtomicU32,
    excluded: AtomicU32,
    pins: AtomicU32,
    rest: Mutex<RestQueue<u32>>,
}

// SAFETY: `body` is replaced only under the conditions in the type's documentation, which
// leave no other reference to it; all else is atomics and locks.
unsafe impl Sync for Field {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Field {}

impl Field {
    /// An empty head for `capacity` slots; [`Field::furnish`] makes it usable.
    pub(super) fn new(capacity: u32) -> Self {
        let lines = capacity.div_ceil(LINE_SLOTS);
        Self {
            body: UnsafeCell::default(),
            capacity,
            lines,
            full: (0..lines.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            verdict: Verdict::new(),
            next_due_ms: AtomicU64::new(NEVER),
            presence: Presence::new(),
            resting: AtomicU32::new(0),
            excluded: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            rest: Mutex::new(RestQueue::default()),
        }
    }

    /// Gives an empty field its body: `held` are the slots that are leased or resting, `own`
    /// is the destination itself, if it is one of our slots. Generations start after `base`.
    /// Under the table's lock, before anybody else can find the field.
    pub(super) fn furnish(
        &self,
        exclusions: &Exclusions,
        own: Option<u32>,
        held: impl Iterator<Item = Won>,
        base: u32,
    ) {
        let mut words = vec![0u64; self.lines as usize * WORDS];
        let mut stamps = vec![Stamp::idle(base); self.capacity as usize];
        for (i, word) in words.iter_mut().enumerate() {
            let first = i as u32 * 64;
            if first < self.capacity {
                *word = exclusions.word(i as u32);
            }
            let real = self.capacity.saturating_sub(first);
            if real < 64 {
                *word |= u64::MAX << real;
            }
        }
        if let Some(own) = own {
            words[own as usize / 64] |= 1 << (own % 64);
        }
        let mut excluded = 0;
        for (slot, stamp) in (0u32..).zip(&mut stamps) {
            if words[slot as usize / 64] >> (slot % 64) & 1 != 0 {
                *stamp = stamp.with(State::Excluded);
                excluded += 1;
            }
        }
        let mut resting = 0;
        for Won { slot, stamp } in held {
            let bit = 1 << (slot % 64);
            excluded -= u32::from(words[slot as usize / 64] & bit != 0);
            resting += u32::from(stamp.state() == State::Resting);
            words[slot as usize / 64] |= bit;
            stamps[slot as usize] = stamp;
        }
        let lines = words
            .chunks_exact(WORDS)
            .map(|line| Line(std::array::from_fn(|i| AtomicU64::new(line[i]))))
            .collect();
        let slots = stamps.into_iter().map(SlotWord::new).collect();
        // SAFETY: nobody has a slot of an empty field, and nobody else can find it yet.
        unsafe { *self.body.get() = Body { lines, slots } };
        // Relaxed: the table's lock publishes all of it. A release that is late from the
        // field's former life may still clear a mark or move the epoch: both do no harm.
        for (first, marks) in (0..).step_by(64).zip(&self.full) {
            let real: u32 = self.lines - first;
            marks.store(if real < 64 { u64::MAX << real } else { 0 }, Ordering::Relaxed);
        }
        self.resting.store(resting, Ordering::Relaxed);
        self.excluded.store(excluded, Ordering::Relaxed);
    }

    fn body(&self) -> &Body {
        // SAFETY: the caller is inside an acquire or a release of a live slot, or holds the
        // table's lock; each keeps the body from being replaced (see the type).
        unsafe { &*self.body.get() }
    }

    // ---- acquire ------------------------------------------------------------------------

    /// Leases a random free slot; `Err` only if there is none.
    #[inline]
    pub(super) fn acquire(
        &self,
        exclusions: &Exclusions,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Won, Full> {
        // Relaxed: a deadline that another thread adds at this moment is met by the next look.
        if self.next_due_ms.load(Ordering::Relaxed) != NEVER {
            self.wake(exclusions, clock, WAKE_BATCH);
        }
        if self.verdict.stands() {
            return Err(self.full_house());
        }
        let (a, b) = (random.next_u64(), random.next_u64());
        let share = self.presence.share(random.lane(), a as u32, self.lines);
        let looks: [u32; LOOKS] = [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
            .map(|draw| share.slot(draw, self.capacity, self.lines));
        let body = self.body();
        let starts = looks.map(|slot| slot / LINE_SLOTS);
        if !self.is_marked(starts[0]) {
            let mut free = 0;
            for (i, &slot) in looks.iter().enumerate() {
                free |= u32::from(body.is_free(slot)) << i;
            }
            if free != 0 {
                let slot = looks[free.trailing_zeros() as usize];
                if body.claim(slot)
                    && let Some(won) = self.lease(exclusions, slot)
                {
                    return Ok(won);
                }
            }
        }
        self.search(exclusions, clock, random, starts)
    }

    /// Turns a claimed bit into a lease, unless the slot has been excluded meanwhile.
    #[inline]
    fn lease(&self, exclusions: &Exclusions, slot: u32) -> Option<Won> {
        if exclusions.blocks(slot) {
            self.give_back(exclusions, slot);
            return None;
        }
        Some(Won { slot, stamp: self.body().slots[slot as usize].begin() })
    }

    /// The way of an acquire whose random looks met no free slot.
    #[cold]
    #[inline(never)]
    fn search(
        &self,
        exclusions: &Exclusions,
        clock: &impl Clock,
        random: &mut impl Random,
        starts: [u32; LOOKS],
    ) -> Result<Won, Full> {
        let body = self.body();
        // Among the free slots of several random lines together: a line with few of them then
        // seldom gives one, and no slot is favoured for being the last of its line.
        let mut lines = [0; LOOKS];
        let mut n = 0;
        for line in starts {
            if !self.is_marked(line) && !lines[..n].contains(&line) {
                lines[n] = line;
                n += 1;
            }
        }
        if let Some(won) = self.claim_in(exclusions, &lines[..n], random) {
            return Ok(won);
        }
        lines[..n].iter().for_each(|&line| self.mark_if_full(body, line));
        let mut line = starts[0];
        for _ in 0..self.lines {
            let Some(next) = self.next_unmarked(line) else { break };
            match self.claim_in(exclusions, &[next], random) {
                Some(won) => return Ok(won),
                None => self.mark_if_full(body, next),
            }
            line = if next + 1 == self.lines { 0 } else { next + 1 };
        }
        self.acquire_or_prove_full(exclusions, clock, random)
    }

    /// Reads every line, again and again until it wins a slot or no release came between:
    /// a repetition means that another thread released, so that some thread makes progress.
    fn acquire_or_prove_full(
        &self,
        exclusions: &Exclusions,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Won, Full> {
        loop {
            let mark = self.verdict.begin();
            self.wake(exclusions, clock, usize::MAX);
            for line in 0..self.lines {
                if let Some(won) = self.claim_in(exclusions, &[line], random) {
                    return Ok(won);
                }
            }
            if self.verdict.pronounce(mark) {
                return Err(self.full_house());
            }
        }
    }

    /// Leases a free slot of `lines`, at most [`LOOKS`] different ones, each slot as likely as
    /// the others; `None`: there is none, or other threads were faster.
    fn claim_in(
        &self,
        exclusions: &Exclusions,
        lines: &[u32],
        random: &mut impl Random,
    ) -> Option<Won> {
        let body = self.body();
        for _ in 0..RACES_MAX {
            let mut free = [[0u64; WORDS]; LOOKS];
            let mut counts = [0u32; LOOKS];
            for (n, &line) in lines.iter().enumerate() {
                // SeqCst: the proof of fullness reads a word after it has begun a verdict; a
                // release clears the bit and then looks for a verdict.
                let words = &body.lines[line as usize].0;
                free[n] = std::array::from_fn(|w| !words[w].load(Ordering::SeqCst));
                counts[n] = free[n].iter().map(|word| word.count_ones()).sum();
            }
            let total: u32 = counts.iter().sum();
            if total == 0 {
                return None;
            }
            let mut pick = scale((random.next_u64() >> 32) as u32, total);
            let mut n = 0;
            while pick >= counts[n] {
                pick -= counts[n];
                n += 1;
            }
            let slot = lines[n] * LINE_SLOTS + nth_one(&free[n], pick);
            if body.claim(slot)
                && let Some(won) = self.lease(exclusions, slot)
            {
                return Some(won);
            }
        }
        None
    }

    /// Leases a free slot of `window`; `Err` only if there is none in it.
    pub(super) fn acquire_within(
        &self,
        window: Range<u32>,
        exclusions: &Exclusions,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Won, Full> {
        if window.is_empty() {
            return Err(Full { leased: 0, resting: 0, excluded: 0, next_due_ms: None });
        }
        self.wake(exclusions, clock, WAKE_BATCH);
        let width = window.end - window.start;
        loop {
            let mark = self.verdict.begin();
            let draw = random.next_u64();
            let start = window.start + scale((draw >> 32) as u32, width);
            for slots in [start..window.end, window.start..start] {
                if let Some(won) = self.claim_first(exclusions, slots) {
                    return Ok(won);
                }
            }
            if self.wake(exclusions, clock, usize::MAX) == 0 && self.verdict.unmoved(mark) {
                return Err(self.census_within(window, exclusions).1);
            }
        }
    }

    fn claim_first(&self, exclusions: &Exclusions, slots: Range<u32>) -> Option<Won> {
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
            if slot < slots.end
                && body.claim(slot)
                && let Some(won) = self.lease(exclusions, slot)
            {
                return Some(won);
            }
            slot += 1;
        }
        None
    }

    /// Leases exactly `slot`, if it is free.
    pub(super) fn acquire_exactly(&self, exclusions: &Exclusions, slot: u32) -> Option<Won> {
        if !self.body().claim(slot) {
            return None;
        }
        self.lease(exclusions, slot)
    }

    // ---- release ------------------------------------------------------------------------

    /// Ends a lease that the caller owns. Not for an excluded slot: see [`Field::end_excluded`].
    #[inline]
    pub(super) fn release(&self, held: Won, rest_until_ms: Option<u64>) {
        let word = &self.body().slots[held.slot as usize];
        match rest_until_ms {
            None => {
                word.end_owned(held.stamp, State::Idle);
                self.open(held.slot);
            }
            Some(due_ms) => {
                word.end_owned(held.stamp, State::Resting);
                self.lay_down(held.slot, due_ms);
            }
        }
    }

    /// Ends the lease that `held` names, if it is current: decides between all who try. Under
    /// the table's lock, for a stale name keeps nothing alive.
    #[must_use = "false: the name is stale"]
    pub(super) fn release_named(
        &self,
        exclusions: &Exclusions,
        held: Won,
        rest_until_ms: Option<u64>,
    ) -> bool {
        let Some(word) = self.body().slots.get(held.slot as usize) else { return false };
        if !held.stamp.is_leased() {
            return false;
        }
        match rest_until_ms {
            None if word.change(held.stamp, State::Idle) => self.give_back(exclusions, held.slot),
            Some(due_ms) if word.change(held.stamp, State::Resting) => {
                self.lay_down(held.slot, due_ms);
            }
            _ => return false,
        }
        true
    }

    /// Ends a lease that the caller owns, on a slot that may be excluded. Under the table's lock.
    pub(super) fn end_excluded(&self, exclusions: &Exclusions, held: Won) {
        self.body().slots[held.slot as usize].end_owned(held.stamp, State::Idle);
        self.give_back(exclusions, held.slot);
    }

    /// Whether `held` is leased now. Under the table's lock.
    pub(super) fn is_live(&self, held: Won) -> bool {
        let word = self.body().slots.get(held.slot as usize);
        held.stamp.is_leased() && word.is_some_and(|word| word.look() == held.stamp)
    }

    /// Clears the bit of a slot that is ours and idle. The body may be gone right after.
    #[inline]
    fn open(&self, slot: u32) {
        let line = slot / LINE_SLOTS;
        // SeqCst: Release publishes the slot's word to the next claimer; the total order with
        // the two looks that follow is what makes full lines and exhaustion exact.
        self.body().word(slot).fetch_and(!(1 << (slot % 64)), Ordering::SeqCst);
        model_fence();
        if self.is_marked(line) {
            // SeqCst: as above.
            self.full[line as usize / 64].fetch_and(!(1 << (line % 64)), Ordering::SeqCst);
        }
        self.verdict.refute();
    }

    /// Makes a slot that is ours (bit set, state idle) free, or excluded if it must be. The
    /// caller keeps the body alive.
    fn give_back(&self, exclusions: &Exclusions, slot: u32) {
        if exclusions.blocks(slot) {
            // Relaxed: counts are exact at quiet moments.
            self.excluded.fetch_add(1, Ordering::Relaxed);
            let word = &self.body().slots[slot as usize];
            word.exclude();
            model_fence();
            if exclusions.blocks(slot)
                || !word.change(word.look().with(State::Excluded), State::Idle)
            {
                // Excluded; or an include came between and has freed the slot.
                return;
            }
            self.excluded.fetch_sub(1, Ordering::Relaxed);
        }
        self.open(slot);
    }

    // ---- resting ------------------------------------------------------------------------

    fn lay_down(&self, slot: u32, due_ms: u64) {
        let mut queue = self.rest.lock();
        queue.push(due_ms, slot);
        // Relaxed: written under the lock; a reader that misses it is told by its next look.
        self.resting.fetch_add(1, Ordering::Relaxed);
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Takes over what rested while the destination was small.
    pub(super) fn take_resting(&self, entries: impl Iterator<Item = (u64, u32)>) {
        let mut queue = self.rest.lock();
        entries.for_each(|(due_ms, slot)| queue.push(due_ms, slot));
        // Relaxed: as in `lay_down`; `furnish` has counted them.
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Brings back up to `batch` slots that have rested enough; returns how many.
    pub(super) fn wake(&self, exclusions: &Exclusions, clock: &impl Clock, batch: usize) -> usize {
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
        while woken < batch
            && let Some(slot) = queue.pop_due(now_ms)
        {
            let word = &self.body().slots[slot as usize];
            word.rise();
            self.resting.fetch_sub(1, Ordering::Relaxed);
            self.give_back(exclusions, slot);
            woken += 1;
        }
        self.next_due_ms.store(queue.next_due_ms().unwrap_or(NEVER), Ordering::Relaxed);
        woken
    }

    // ---- exclusion, under the table's lock ----------------------------------------------

    /// Takes `slot` away if it is free; a lease or a rest goes on.
    pub(super) fn exclude(&self, slot: u32) {
        if self.body().claim(slot) {
            self.excluded.fetch_add(1, Ordering::Relaxed);
            self.body().slots[slot as usize].exclude();
        }
    }

    /// Frees `slot` if it is excluded.
    pub(super) fn include(&self, slot: u32) {
        let word = &self.body().slots[slot as usize];
        let seen = word.look_after_unblocking();
        if seen.state() == State::Excluded && word.change(seen, State::Idle) {
            self.excluded.fetch_sub(1, Ordering::Relaxed);
            self.open(slot);
        }
    }

    // ---- pins and the end ---------------------------------------------------------------

    /// Keeps the body until [`Field::unpin`]. Under the table's lock.
    pub(super) fn pin(&self) {
        // Relaxed: ordered by the table's lock.
        self.pins.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unpin(&self) {
        // Release: what the pinner did comes before the body is freed.
        self.pins.fetch_sub(1, Ordering::Release);
    }

    /// Whether nothing needs the body. Under the table's lock.
    pub(super) fn is_idle(&self) -> bool {
        // Acquire: pairs with `unpin`.
        self.pins.load(Ordering::Acquire) == 0
            && self.resting.load(Ordering::Relaxed) == 0
            && self.body().ones() == self.tail() + self.excluded.load(Ordering::Relaxed)
    }

    /// Frees the body of an idle field. Under the table's lock, with [`Field::is_idle`] seen.
    pub(super) fn strip(&self) {
        // SAFETY: idle: no lease, no rest, no pin; and the table's lock keeps acquires out. A
        // release that is still on its way has cleared its bit and touches the head alone.
        drop(std::mem::take(unsafe { &mut *self.body.get() }));
    }

    /// The highest generation in use, so that later leases can start after it.
    pub(super) fn generation_max(&self) -> u32 {
        self.body().slots.iter().map(|word| word.look().generation()).max().unwrap_or(0)
    }

    // ---- counts -------------------------------------------------------------------------

    /// Bits beyond the capacity, always set.
    fn tail(&self) -> u32 {
        self.lines * LINE_SLOTS - self.capacity
    }

    /// The counts of an exhausted field, without reading its lines.
    fn full_house(&self) -> Full {
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
    pub(super) fn census(&self, exclusions: &Exclusions) -> (u32, Full) {
        let mut free = 0;
        let mut blocked = 0;
        for (i, word) in self.body().lines.iter().flat_map(|line| &line.0).enumerate() {
            let open = !word.load(Ordering::Relaxed);
            free += open.count_ones();
            if open != 0 && exclusions.count() != 0 {
                blocked += (open & exclusions.word(i as u32)).count_ones();
            }
        }
        let mut counts = self.full_house();
        counts.leased = counts.leased.saturating_sub(free);
        counts.excluded += blocked;
        (free - blocked, counts)
    }

    /// As [`Field::census`], of `window` alone.
    fn census_within(&self, window: Range<u32>, exclusions: &Exclusions) -> (u32, Full) {
        let mut free = 0;
        let mut counts = Full { leased: 0, resting: 0, excluded: 0, ..self.full_house() };
        for slot in window {
            match self.body().slots[slot as usize].look().state() {
                State::Idle if exclusions.blocks(slot) => counts.excluded += 1,
                State::Idle => free += 1,
                State::Leased => counts.leased += 1,
                State::Resting => counts.resting += 1,
                State::Excluded => counts.excluded += 1,
            }
        }
        (free, counts)
    }

    /// Whether a slot of `window` is leased or rests. Under the table's lock.
    pub(super) fn uses(&self, window: Range<u32>) -> bool {
        let slots = &self.body().slots[window.start as usize..window.end as usize];
        slots.iter().any(|word| matches!(word.look().state(), State::Leased | State::Resting))
    }

    // ---- marks of full lines ------------------------------------------------------------

    #[inline]
    fn is_marked(&self, line: u32) -> bool {
        // SeqCst: see `open`.
        self.full[line as usize / 64].load(Ordering::SeqCst) >> (line % 64) & 1 != 0
    }

    /// Marks a line as full, unless a release comes between.
    fn mark_if_full(&self, body: &Body, line: u32) {
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
        &self.lines[(slot / LINE_SLOTS) as usize].0[(slot / 64) as usize % WORDS]
    }

    #[inline]
    fn is_free(&self, slot: u32) -> bool {
        // Relaxed: a look; the claim decides.
        self.word(slot).load(Ordering::Relaxed) >> (slot % 64) & 1 == 0
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

/// The position of the `n`-th one, from 0; `words` have more than `n`.
fn nth_one(words: &[u64; WORDS], mut n: u32) -> u32 {
    let mut w = 0;
    while n >= words[w].count_ones() {
        n -= words[w].count_ones();
        w += 1;
    }
    let mut bits = words[w];
    for _ in 0..n {
        bits &= bits - 1;
    }
    w as u32 * 64 + bits.trailing_zeros()
}
