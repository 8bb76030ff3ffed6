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
mod smalls;

use super::exclusions::Exclusions;
use super::field::{Field, Full};
use super::hash::Hasher;
use super::key::Key;
use super::layout::Layout;
use super::rest::RestQueue;
use super::share::scale;
use super::small::Small;
use super::table::{Table, Value};
use super::{Claim, Clock, Destination, From, Names, Random};
use crate::error::{Error, Exhausted};
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use places::Places;
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

    /// For [`FieldRef::from_ptr`].
    #[inline]
    pub(super) fn as_ptr(self) -> *const Field {
        self.0.as_ptr()
    }

    /// # Safety
    ///
    /// `field` comes from [`FieldRef::as_ptr`].
    #[inline]
    pub(super) unsafe fn from_ptr(field: *const Field) -> Self {
        // SAFETY: it was a reference.
        Self(unsafe { NonNull::new_unchecked(field.cast_mut()) })
    }

    pub(super) fn get(&self) -> &Field {
        // SAFETY: heads are freed by the drop of their `Side` alone, which every claim and pin
        // must not outlive (see `Ledger`).
        unsafe { self.0.as_ref() }
    }
}

/// In the order in which it is used: what every call needs shares a cache line with the lock.
#[repr(C)]
#[derive(Debug)]
struct Inner<K, const N: usize> {
    /// The last generation given to a small destination's lease.
    generation: u32,
    /// What rests at small destinations: the low half of the destination's hash, and the slot.
    /// `None`: nothing.
    rest: Option<Box<RestQueue<(u32, u32)>>>,
    table: Table<K, N>,
    smalls: Slab<Small>,
    fields: Slab<Busy<K>>,
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
    hasher: Hasher,
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
                generation: 0,
                rest: None,
                table: Table::new(),
                smalls: Slab::new(),
                fields: Slab::new(),
            }),
        };
        Self {
            names,
            small_max: (layout.capacity() / part).max(SMALL_MAX),
            exclusions: Arc::new(Exclusions::new(layout.capacity())),
            layout,
            hasher: Hasher::new(key),
            shards: (0..1 << SHARDS_LOG2).map(shard).collect(),
            places: Places::new(1 << SHARDS_LOG2),
            spare: Mutex::new(Spare::default()),
            foreign: Mutex::new(Foreign::default()),
            foreign_due_ms: AtomicU64::new(u64::MAX),
        }
    }

    #[inline]
    fn capacity(&self) -> u32 {
        self.layout.capacity()
    }

    #[inline]
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

    /// As [`Side::acquire`] from any source, by one look at a destination that is small. `None`:
    /// [`Side::acquire`] knows.
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
        let draw = random.next_u32();
        let mut inner = self.shard(hash).inner.lock();
        self.wake(&mut inner, hash, clock, WAKE_BATCH);
        let found = inner.table.find(hash, &key);
        let value = found.map(|(_, value)| value);
        if let Some(Value::Field(index)) = value {
            let field = inner.fields[index as usize].field;
            let won = field.get().acquire_soon(draw, clock, random);
            return won.map(|won| Claim::of_field(won, field));
        }
        let slot = scale(draw, self.capacity());
        let barred = self.barred(to);
        let is_usable =
            !self.exclusions.blocks(slot) && !barred.has(slot) && !inner.holds(value, slot);
        is_usable.then(|| self.lease_small(&mut inner, key, hash, found, slot, barred))
    }

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
            let found = inner.table.find(hash, &key);
            let value = found.map(|(_, value)| value);
            if let Some(Value::Field(index)) = value {
                let field = inner.fields[index as usize].field;
                return self.acquire_from_field(field, window, clock, random);
            }
            let barred = self.barred(to);
            let all = window.clone().unwrap_or(0..self.capacity());
            if let Some(slot) = self.pick_small(&inner, value, &all, barred, random) {
                return Ok(self.lease_small(&mut inner, key, hash, found, slot, barred));
            }
            if batch == usize::MAX || woken < batch {
                return Err(self.small_census(&inner, hash, value, &all, barred).1);
            }
            batch = usize::MAX;
        }
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
            None => field
                .get()
                .acquire_soon(random.next_u32(), clock, random)
                .ok_or_else(|| field.get().full_house())?,
            Some(window) => field.get().acquire_within(window, clock, random)?,
        };
        Ok(Claim::of_field(won, field))
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
        let found = inner.table.find(hash, &key);
        let value = found.map(|(_, value)| value);
        if let Some(Value::Field(index)) = value {
            let field = inner.fields[index as usize].field;
            field.get().wake(clock, usize::MAX);
            let won = field.get().acquire_exactly(slot)?;
            return Some(Claim::of_field(won, field));
        }
        if self.exclusions.blocks(slot) || barred.has(slot) || inner.holds(value, slot) {
            return None;
        }
        Some(self.lease_small(&mut inner, key, hash, found, slot, barred))
    }

    // ---- release ------------------------------------------------------------------------

    /// Ends a lease of a destination that was small, or of an excluded slot.
    pub(super) fn release(&self, to: &Destination, claim: Claim, rest_until_ms: Option<u64>) {
        let won = claim.won();
        let key = K::of(to);
        let hash = claim.hash().unwrap_or_else(|| key.hash(&self.hasher));
        self.fetch(hash);
        let mut inner = self.shard(hash).inner.lock();
        let found = inner.table.find(hash, &key);
        let (at, value) = found.expect("a destination with a lease has an entry");
        if let Value::Field(index) = value {
            let field = inner.fields[index as usize].field.get();
            if field.release(won, rest_until_ms).is_err() {
                field.end_excluded(won);
            }
            return;
        }
        self.end_small(&mut inner, hash, (at, value), won, rest_until_ms);
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

#[inline]
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize & ((1 << SHARDS_LOG2) - 1)
}
