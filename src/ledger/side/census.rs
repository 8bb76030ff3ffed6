//! The counts of one destination and of all.

use super::barred::Barred;
use super::{Inner, Side};
use crate::ledger::field::{Full, Won};
use crate::ledger::key::Key;
use crate::ledger::table::Value;
use crate::ledger::{Clock, Destination};
use std::ops::Range;

impl<K: Key, const N: usize> Side<K, N> {
    /// Free slots and the other counts of one destination.
    pub(in crate::ledger) fn census_of(&self, to: &Destination, clock: &impl Clock) -> (u32, Full) {
        self.end_foreign(clock);
        let key = K::of(to);
        let hash = key.hash(&self.hasher);
        let mut inner = self.shard(hash).inner.lock();
        self.wake(&mut inner, hash, clock, usize::MAX);
        let value = inner.table.find(hash, &key).map(|(_, value)| value);
        self.census_of_value(&inner, value, to, clock)
    }

    /// Calls `count` with each destination's free slots and other counts.
    pub(in crate::ledger) fn census(&self, clock: &impl Clock, mut count: impl FnMut(u32, Full)) {
        self.end_foreign(clock);
        for (shard, number) in self.shards.iter().zip(0u64..) {
            let mut inner = shard.inner.lock();
            self.wake(&mut inner, number << 32, clock, usize::MAX);
            for (key, value) in inner.table.iter() {
                let to = key.destination();
                let (free, counts) = self.census_of_value(&inner, Some(value), &to, clock);
                count(free, counts);
            }
        }
    }

    pub(super) fn census_of_value(
        &self,
        inner: &Inner<K, N>,
        value: Option<Value>,
        to: &Destination,
        clock: &impl Clock,
    ) -> (u32, Full) {
        if let Some(Value::Field(index)) = value {
            let field = inner.fields[index as usize].field.get();
            field.wake(clock, usize::MAX);
            return field.census();
        }
        let hash = K::of(to).hash(&self.hasher);
        self.small_census(inner, hash, value, &(0..self.capacity()), self.barred(to))
    }

    /// The counts of a small destination within `window`.
    pub(super) fn small_census(
        &self,
        inner: &Inner<K, N>,
        hash: u64,
        value: Option<Value>,
        window: &Range<u32>,
        barred: Barred<'_>,
    ) -> (u32, Full) {
        let mut counts = Full { leased: 0, resting: 0, excluded: 0, next_due_ms: None };
        let excluded = if window.len() as u32 == self.capacity() {
            self.exclusions.count()
        } else {
            window.clone().filter(|&slot| self.exclusions.blocks(slot)).count() as u32
        };
        let barred = barred.within(window.clone());
        let barred = barred.filter(|slot| !self.exclusions.blocks(*slot)).count() as u32;
        let mut held_excluded = 0;
        let mut take = |won: Won| {
            if window.contains(&won.slot) {
                counts.leased += u32::from(won.stamp.is_leased());
                counts.resting += u32::from(won.stamp.is_resting());
                held_excluded += u32::from(self.exclusions.blocks(won.slot));
            }
        };
        match value {
            Some(Value::One(won)) => take(won),
            Some(Value::Small(index)) => inner.smalls[index as usize].iter().for_each(take),
            _ => {}
        }
        if let Some(rest) = inner.rest.as_ref().filter(|_| counts.resting > 0) {
            let mine = |(hash_low, slot)| {
                hash_low == hash as u32 && window.contains(&slot) && inner.holds(value, slot)
            };
            (_, counts.next_due_ms) = rest.count_where(mine);
        }
        // Exclusions come and go without the shard's lock: what was counted at different moments
        // need not fit.
        let rest_of = window.len() as u32 - counts.leased - counts.resting;
        counts.excluded = (excluded + barred).saturating_sub(held_excluded).min(rest_of);
        (rest_of - counts.excluded, counts)
    }
}
