//! One family's half of the ledger: the destinations in shards, each in the smallest form
//! that holds its leases.
//!
//! A destination starts as one slot in its table entry, becomes a small set with the second
//! and a [`Field`] when a sixteenth of the capacity is in use or somebody pins it.

pub(super) mod barred;
mod census;
mod exclusion;
mod fields;
mod names;
mod places;

use self::barred::Barred;
use super::exclusions::Exclusions;
use super::field::{Field, Full, Won};
use super::key::Key;
use super::layout::Layout;
use super::rest::RestQueue;
use super::share::scale;
use super::small::Small;
use super::stamp::{Stamp, State};
use super::table::{At, Table, Value};
use super::{Claim, Clock, Destination, From, Names, Random};
use crate::error::{Error, Exhausted};
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use places::Places;
use siphasher::sip::SipHasher13;
use slab::Slab;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// A table of a thousandth of the destinations is rebuilt in a thousandth of the time.
const SHARDS_LOG2: u32 = if cfg!(loom) { 0 } else { 10 };
/// Leases up to which a destination is small, whatever the capacity.
const SMALL_MAX: u32 = 16;
/// A destination is small up to this part of the capacity, where a set costs as much as a
/// field: 13 bytes a lease against an eighth of a byte a slot.
const SMALL_PART: u32 = 128;
/// The same where leases have names, for which a field spends four bytes more a slot.
const SMALL_PART_NAMED: u32 = 16;
/// Random picks before a small destination is searched from a random start.
const PICKS: usize = 8;
/// Entries that one visit wakes.
const WAKE_BATCH: usize = 32;

/// A field that the ledger owns, referred to by table entries, claims and pins.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldRef(NonNull<Field>);

// SAFETY: `Field` is `Sync` and outlives every reference: see `FieldRef::get`.
unsafe impl Send for FieldRef {}
// SAFETY: as above.
unsafe impl Sync for FieldRef {}

impl FieldRef {
    fn new(field: Field) -> Self {
        Self(NonNull::from(Box::leak(Box::new(field))))
    }

    pub(super) fn get(&self) -> &Field {
        // SAFETY: heads are freed by the drop of their `Side` alone, which every claim and pin
        // must not outlive (see `Ledger`).
        unsafe { self.0.as_ref() }
    }
}

#[repr(C)]
#[derive(Debug)]
struct Inner<K, const N: usize> {
    /// First: see [`Table`].
    table: Table<K, N>,
    smalls: Slab<Small>,
    fields: Slab<Busy<K>>,
    /// What rests at small destinations: the low half of the destination's hash, and the slot.
    rest: RestQueue<(u32, u32)>,
    /// The last generation given to a small destination's lease.
    generation: u32,
}

#[derive(Debug)]
struct Busy<K> {
    key: K,
    field: FieldRef,
    /// Was idle at the last visit: goes if it still is at the next.
    was_idle: bool,
}

#[repr(align(128))]
#[derive(Debug)]
struct Shard<K, const N: usize> {
    inner: Mutex<Inner<K, N>>,
}

/// Slots that the kernel told us are held by others, until a moment.
#[derive(Debug, Default)]
struct Foreign {
    queue: RestQueue<u32>,
    until_ms: BTreeMap<u32, u64>,
}

/// Heads of fields that are in no table.
#[derive(Debug, Default)]
struct Spare {
    heads: Vec<FieldRef>,
    /// How many heads there are in all.
    made: usize,
}

/// All destinations of one family.
#[derive(Debug)]
pub(super) struct Side<K: Key, const N: usize> {
    pub(super) layout: Layout,
    names: Names,
    /// Leases from which on a destination has a field.
    small_max: u32,
    exclusions: Arc<Exclusions>,
    hasher: SipHasher13,
    shards: Box<[Shard<K, N>]>,
    places: Places,
    spare: Mutex<Spare>,
    foreign: Mutex<Foreign>,
    /// When the first of `foreign` ends; `u64::MAX`: never.
    foreign_due_ms: AtomicU64,
}

type Locked<'a, K, const N: usize> = MutexGuard<'a, Inner<K, N>>;

impl<K: Key, const N: usize> Side<K, N> {
    pub(super) fn new(layout: Layout, names: Names, key: [u64; 2]) -> Self {
        let part = match names {
            Names::None => SMALL_PART,
            Names::Kept => SMALL_PART_NAMED,
        };
        let shard = |_| Shard {
            inner: Mutex::new(Inner {
                table: Table::new(),
                smalls: Slab::new(),
                fields: Slab::new(),
                rest: RestQueue::default(),
                generation: 0,
            }),
        };
        Self {
            names,
            small_max: (layout.capacity() / part).max(SMALL_MAX),
            exclusions: Arc::new(Exclusions::new(layout.capacity())),
            layout,
            hasher: SipHasher13::new_with_keys(key[0], key[1]),
            shards: (0..1 << SHARDS_LOG2).map(shard).collect(),
            places: Places::new(1 << SHARDS_LOG2),
            spare: Mutex::new(Spare::default()),
            foreign: Mutex::new(Foreign::default()),
            foreign_due_ms: AtomicU64::new(u64::MAX),
        }
    }

    fn capacity(&self) -> u32 {
        self.layout.capacity()
    }

    fn shard(&self, hash: u64) -> &Shard<K, N> {
        &self.shards[shard_of(hash)]
    }

    // ---- acquire ------------------------------------------------------------------------

    pub(super) fn acquire(
        &self,
        to: &Destination,
        from: From,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Claim, Error> {
        let window = self.window(from);
        let key = K::of(to);
        let hash = key.hash(&self.hasher);
        self.fetch(hash);
        loop {
            let full = match self.acquire_once(to, key, hash, window.clone(), clock, random) {
                Ok(claim) => return Ok(claim),
                Err(full) => full,
            };
            if !self.end_foreign(clock) {
                return Err(self.exhausted(to, full, clock));
            }
        }
    }

    #[inline]
    pub(super) fn try_acquire(
        &self,
        to: &Destination,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<Claim> {
        let key = K::of(to);
        let hash = key.hash(&self.hasher);
        self.fetch(hash);
        self.acquire_once(to, key, hash, None, clock, random).ok()
    }

    #[inline]
    fn acquire_once(
        &self,
        to: &Destination,
        key: K,
        hash: u64,
        window: Option<Range<u32>>,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Claim, Full> {
        let mut inner = self.shard(hash).inner.lock();
        let mut batch = WAKE_BATCH;
        loop {
            let woken = self.wake(&mut inner, hash, clock, batch);
            let at = inner.table.find(hash, &key);
            let value = at.map(|at| inner.table.value(at));
            if let Some(Value::Field(index)) = value {
                let field = inner.fields[index as usize].field;
                return self.acquire_from_field(field, window, clock, random);
            }
            let barred = self.barred(to);
            let all = window.clone().unwrap_or(0..self.capacity());
            if let Some(slot) = self.pick_small(&inner, value, &all, barred, random) {
                return Ok(self.lease_small(&mut inner, key, hash, at, slot, barred));
            }
            if batch == usize::MAX || woken < batch {
                return Err(self.small_census(&inner, hash, value, &all, barred).1);
            }
            batch = usize::MAX;
        }
    }

    /// Leases `slot`, which is free, for a destination that has no field; makes it one if it
    /// has grown too large.
    fn lease_small(
        &self,
        inner: &mut Locked<'_, K, N>,
        key: K,
        hash: u64,
        at: Option<At>,
        slot: u32,
        barred: Barred<'_>,
    ) -> Claim {
        inner.generation += 1;
        let won = Won { slot, stamp: Stamp::idle(inner.generation).with(State::Leased) };
        let Some(at) = at else {
            inner.table.insert(hash, key, Value::One(won), &self.hasher);
            self.note_table(hash, inner);
            return Claim::new(won, None);
        };
        let index = match inner.table.value(at) {
            Value::Small(index) => index as usize,
            Value::One(other) => {
                let index = inner.smalls.insert(Small::of(other));
                inner.table.set(at, Value::Small(index as u32));
                index
            }
            Value::Field(_) => unreachable!("the caller has looked"),
        };
        let small = &mut inner.smalls[index];
        small.put(won);
        if small.len() > self.small_max {
            return Claim::new(won, Some(self.make_field(inner, key, hash, barred)));
        }
        Claim::new(won, None)
    }

    #[inline]
    fn acquire_from_field(
        &self,
        field: FieldRef,
        window: Option<Range<u32>>,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Claim, Full> {
        let won = match window {
            None => {
                let (draw, me) = (random.next_u32(), random.me());
                let won = field.get().acquire_at_once(draw, me, |unused| {
                    let draw = unused.unwrap_or_else(|| random.next_u32());
                    field.get().acquire(draw, clock, random)
                });
                won.ok_or_else(|| field.get().full_house())?
            }
            Some(window) => field.get().acquire_within(window, clock, random)?,
        };
        Ok(Claim { won, field: Some(field) })
    }

    /// The way of an acquire through a pin that cannot have just any slot.
    #[cold]
    #[inline(never)]
    pub(super) fn acquire_pinned(
        &self,
        to: &Destination,
        field: FieldRef,
        from: From,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Claim, Error> {
        loop {
            let window = self.window(from);
            match self.acquire_from_field(field, window, clock, random) {
                Ok(claim) => return Ok(claim),
                Err(full) if !self.end_foreign(clock) => {
                    return Err(self.exhausted(to, full, clock));
                }
                Err(_) => {}
            }
        }
    }

    /// Why there is no free slot: all are in use, or none could ever serve the destination.
    #[cold]
    fn exhausted(&self, to: &Destination, full: Full, clock: &impl Clock) -> Error {
        let Full { leased, resting, excluded, next_due_ms } = full;
        if self.barred(to).within(0..self.capacity()).count() == self.capacity() as usize {
            return Error::NoSource { destination: *to };
        }
        Error::Exhausted(Exhausted {
            destination: *to,
            leased: leased.into(),
            resting: resting.into(),
            excluded: excluded.into(),
            next_free_ms: next_due_ms.map(|due_ms| due_ms.saturating_sub(clock.now_ms())),
        })
    }

    fn window(&self, from: From) -> Option<Range<u32>> {
        match from {
            From::AnySource => None,
            From::Source(source) => Some(self.layout.slots_of(source)),
        }
    }

    /// Leases exactly `slot`, if it is free.
    pub(super) fn acquire_exactly(
        &self,
        to: &Destination,
        slot: u32,
        clock: &impl Clock,
    ) -> Option<Claim> {
        let barred = self.barred(to);
        let key = K::of(to);
        let hash = key.hash(&self.hasher);
        let mut inner = self.shard(hash).inner.lock();
        self.wake(&mut inner, hash, clock, usize::MAX);
        let at = inner.table.find(hash, &key);
        let value = at.map(|at| inner.table.value(at));
        if let Some(Value::Field(index)) = value {
            let field = inner.fields[index as usize].field;
            field.get().wake(clock, usize::MAX);
            let won = field.get().acquire_exactly(slot)?;
            return Some(Claim { won, field: Some(field) });
        }
        if self.exclusions.blocks(slot) || !self.is_usable(&inner, value, barred, slot) {
            return None;
        }
        Some(self.lease_small(&mut inner, key, hash, at, slot, barred))
    }

    /// Whether a small destination neither holds `slot` nor is barred from it.
    fn is_usable(
        &self,
        inner: &Inner<K, N>,
        value: Option<Value>,
        barred: Barred<'_>,
        slot: u32,
    ) -> bool {
        !barred.has(slot)
            && match value {
                None => true,
                Some(Value::One(won)) => won.slot != slot,
                Some(Value::Small(index)) => inner.smalls[index as usize].get(slot).is_none(),
                Some(Value::Field(_)) => false,
            }
    }

    /// A slot of `window` that a small destination may have: random, then the first after a
    /// random start. `None`: there is none.
    fn pick_small(
        &self,
        inner: &Inner<K, N>,
        value: Option<Value>,
        window: &Range<u32>,
        barred: Barred<'_>,
        random: &mut impl Random,
    ) -> Option<u32> {
        let usable = |slot| self.is_usable(inner, value, barred, slot);
        let width = window.end - window.start;
        let mut pick = window.start;
        for _ in 0..PICKS {
            pick = window.start + scale(random.next_u32(), width);
            if width > 0 && !self.exclusions.blocks(pick) && usable(pick) {
                return Some(pick);
            }
        }
        [pick..window.end, window.start..pick].into_iter().find_map(|slots| {
            let mut slot = slots.start;
            while slot < slots.end {
                let open = !self.exclusions.word(slot / 64) >> (slot % 64);
                if open == 0 {
                    slot = (slot / 64 + 1) * 64;
                    continue;
                }
                slot += open.trailing_zeros();
                if slot < slots.end && usable(slot) {
                    return Some(slot);
                }
                slot += 1;
            }
            None
        })
    }

    // ---- release ------------------------------------------------------------------------

    /// Ends a lease of a destination that was small, or of an excluded slot.
    pub(super) fn release(&self, to: &Destination, claim: Claim, rest_until_ms: Option<u64>) {
        let won = claim.won();
        let key = K::of(to);
        let hash = key.hash(&self.hasher);
        self.fetch(hash);
        let mut inner = self.shard(hash).inner.lock();
        let at = inner.table.find(hash, &key).expect("a destination with a lease has an entry");
        if let Value::Field(index) = inner.table.value(at) {
            let field = inner.fields[index as usize].field.get();
            if field.release(won, rest_until_ms).is_err() {
                field.end_excluded(won);
            }
            return;
        }
        self.end_small(&mut inner, hash, at, won, rest_until_ms);
    }

    /// Ends a lease or a rest of a small destination.
    fn end_small(
        &self,
        inner: &mut Inner<K, N>,
        hash: u64,
        at: At,
        won: Won,
        rest_until_ms: Option<u64>,
    ) {
        let state = if rest_until_ms.is_some() { State::Resting } else { State::Idle };
        let ended = Won { stamp: won.stamp.with(state), ..won };
        match inner.table.value(at) {
            Value::One(_) if state == State::Idle => {
                inner.table.remove(at, hash, &self.hasher);
                self.note_table(hash, inner);
            }
            Value::One(_) => inner.table.set(at, Value::One(ended)),
            Value::Small(index) => {
                let small = &mut inner.smalls[index as usize];
                small.put(ended);
                if small.len() == 1 {
                    let last = small.iter().next().expect("its length is 1");
                    inner.smalls.remove(index as usize);
                    inner.table.set(at, Value::One(last));
                }
            }
            Value::Field(_) => unreachable!("a field ends its own leases"),
        }
        if let Some(due_ms) = rest_until_ms {
            inner.rest.push(due_ms, (hash as u32, won.slot));
        }
    }
}

impl<K: Key, const N: usize> Drop for Side<K, N> {
    fn drop(&mut self) {
        let hanging = self.shards.iter().flat_map(|shard| {
            let inner = shard.inner.lock();
            inner.fields.iter().map(|(_, busy)| busy.field).collect::<Vec<_>>()
        });
        for field in hanging.chain(self.spare.lock().heads.drain(..)) {
            // SAFETY: made by `Box::leak`; in exactly one of the two places; no claim or pin
            // outlives the ledger.
            drop(unsafe { Box::from_raw(field.0.as_ptr()) });
        }
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize & ((1 << SHARDS_LOG2) - 1)
}
