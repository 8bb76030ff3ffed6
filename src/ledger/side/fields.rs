//! How destinations become busy and idle again, and how what rests comes back.

use super::barred::Barred;
use super::{Busy, FieldRef, Inner, Locked, SHARDS_LOG2, Side, WAKE_BATCH};
use crate::ledger::field::{Field, Won};
use crate::ledger::key::Key;
use crate::ledger::stamp::Stamp;
use crate::ledger::table::Value;
use crate::ledger::{Clock, Destination};
use slab::Slab;
use std::sync::Arc;

impl<K: Key, const N: usize> Side<K, N> {
    /// Brings back what is due at the small destinations of one shard; returns how many.
    /// `hash` is of any destination of the shard.
    #[inline]
    pub(super) fn wake(
        &self,
        inner: &mut Inner<K, N>,
        hash: u64,
        clock: &impl Clock,
        batch: usize,
    ) -> usize {
        if inner.rest.is_none() { 0 } else { self.wake_due(inner, hash, clock, batch) }
    }

    #[inline(never)]
    fn wake_due(
        &self,
        inner: &mut Inner<K, N>,
        hash: u64,
        clock: &impl Clock,
        batch: usize,
    ) -> usize {
        let Some(due_ms) = inner.rest.as_ref().and_then(|rest| rest.next_due_ms()) else {
            return 0;
        };
        let now_ms = clock.now_ms();
        if due_ms > now_ms {
            return 0;
        }
        let mut woken = 0;
        while woken < batch {
            let due = inner.rest.as_mut().and_then(|rest| rest.pop_due(now_ms));
            let Some((hash_low, slot)) = due else { break };
            woken += 1;
            let full_hash = hash & !u64::from(u32::MAX) | u64::from(hash_low);
            let resting = |stamp: Option<Stamp>| stamp.filter(|stamp| stamp.is_resting());
            let of = |value| match value {
                Value::One(won) if won.slot == slot => resting(Some(won.stamp)),
                Value::Small(index) => resting(inner.smalls[index as usize].get(slot)),
                _ => None,
            };
            let found = inner.table.find_hashed(full_hash, |value, key| {
                of(value).is_some() && key.hash(&self.hasher) as u32 == hash_low
            });
            let (at, value) = found.expect("what rests at a small destination is in the table");
            let stamp = of(value).expect("it was just found resting");
            let full_hash = inner.table.key(at).hash(&self.hasher);
            self.end_small(inner, full_hash, (at, value), Won { slot, stamp }, None);
        }
        woken
    }

    /// The destination's field, made from what it was before if need be.
    pub(super) fn make_field(
        &self,
        inner: &mut Locked<'_, K, N>,
        key: K,
        hash: u64,
        barred: Barred<'_>,
    ) -> FieldRef {
        let found = inner.table.find(hash, &key);
        let mut held = Vec::new();
        match found.map(|(_, value)| value) {
            Some(Value::Field(index)) => return inner.fields[index as usize].field,
            Some(Value::One(won)) => held.push(won),
            Some(Value::Small(index)) => {
                held.extend(inner.smalls[index as usize].iter());
                inner.smalls.remove(index as usize);
            }
            None => {}
        }
        let field = self.spare_field();
        let base = inner.generation;
        let barred = barred.within(0..self.capacity());
        field.get().furnish(self.names, barred, held.iter().copied(), base);
        let mut resting: Vec<u32> =
            held.iter().filter(|won| won.stamp.is_resting()).map(|won| won.slot).collect();
        if !resting.is_empty() {
            let rest = inner.rest.as_mut().expect("what rests is in the queue");
            let mine = rest.extract(|(hash_low, slot)| {
                let at = resting.iter().position(|&one| hash_low == hash as u32 && one == slot);
                at.map(|at| resting.swap_remove(at)).is_some()
            });
            field.get().take_resting(mine.into_iter().map(|(due_ms, (_, slot))| (due_ms, slot)));
        }
        let index = inner.fields.insert(Busy { key, field, was_idle: false }) as u32;
        match found {
            Some((at, _)) => inner.table.set(at, Value::Field(index)),
            None => {
                inner.table.insert(hash, key, Value::Field(index), &self.hasher);
                self.note_table(hash, inner);
            }
        }
        field
    }

    pub(in crate::ledger) fn spare_field(&self) -> FieldRef {
        let mut spare = self.spare.lock();
        if let Some(field) = spare.heads.pop() {
            return field;
        }
        // Room for all of them now, so that none of them needs memory when it retires.
        spare.made += 1;
        let room = spare.made - spare.heads.len();
        spare.heads.reserve(room);
        FieldRef::new(Field::new(Arc::clone(&self.exclusions), self.capacity()))
    }

    pub(in crate::ledger) fn pin(&self, to: &Destination) -> FieldRef {
        let key = K::of(to);
        let hash = key.hash(&self.hasher);
        let mut inner = self.shard(hash).inner.lock();
        let field = self.make_field(&mut inner, key, hash, self.barred(to));
        field.get().pin();
        field
    }

    /// Visits one shard: what is due comes back, what is idle goes.
    pub(in crate::ledger) fn tidy(&self, shard: u32, clock: &impl Clock) {
        self.end_foreign(clock);
        let shard = shard & ((1 << SHARDS_LOG2) - 1);
        let Some(mut inner) = self.shards[shard as usize].inner.try_lock() else { return };
        let hash = u64::from(shard) << 32;
        self.wake(&mut inner, hash, clock, WAKE_BATCH);
        for (_, busy) in &inner.fields {
            busy.field.get().wake(clock, WAKE_BATCH);
        }
        let idle_twice =
            |(_, busy): &(usize, &Busy<K>)| busy.was_idle && busy.field.get().is_idle();
        while let Some((index, _)) = inner.fields.iter().find(idle_twice) {
            self.retire(&mut inner, index);
        }
        for (_, busy) in &mut inner.fields {
            busy.was_idle = busy.field.get().is_idle();
        }
        if inner.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            inner.rest = None;
        }
        if inner.smalls.is_empty() && inner.smalls.capacity() > 0 {
            inner.smalls = Slab::new();
        }
        if inner.fields.is_empty() && inner.fields.capacity() > 0 {
            inner.fields = Slab::new();
        }
    }

    /// Takes the field out of the table and keeps its head.
    pub(super) fn retire(&self, inner: &mut Inner<K, N>, index: usize) {
        let Busy { key, field, .. } = inner.fields.remove(index);
        let hash = key.hash(&self.hasher);
        let (at, _) = inner.table.find(hash, &key).expect("a field hangs in the table");
        inner.table.remove(at, hash, &self.hasher);
        self.note_table(hash, inner);
        inner.generation = inner.generation.max(field.get().generation_max());
        field.get().strip();
        self.spare.lock().heads.push(field);
    }
}
