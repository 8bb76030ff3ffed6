//! What may not be leased towards any destination, told to all fields.

use super::Side;
use crate::ledger::field::Field;
use crate::ledger::key::Key;
use crate::ledger::table::Value;
use crate::ledger::{Clock, Usage, Why};
use crate::sync::Ordering;
use std::ops::Range;

impl<K: Key, const N: usize> Side<K, N> {
    pub(in crate::ledger) fn exclude(&self, slots: Range<u32>, why: Why) {
        let mut changed = Vec::new();
        self.exclusions.add(slots, why, |slot| changed.push(slot));
        self.take_from_fields(&changed);
    }

    /// Tells every field of slots that are newly excluded.
    pub(in crate::ledger) fn take_from_fields(&self, slots: &[u32]) {
        if !slots.is_empty() {
            self.each_field(|_, field| slots.iter().for_each(|&slot| field.exclude(slot)));
        }
    }

    pub(in crate::ledger) fn include(&self, slots: Range<u32>, why: Why) {
        let mut changed = Vec::new();
        self.exclusions.remove(slots, why, |slot| changed.push(slot));
        self.free_in_fields(&changed);
    }

    /// Tells every field of slots that are excluded no more.
    pub(in crate::ledger) fn free_in_fields(&self, slots: &[u32]) {
        if slots.is_empty() {
            return;
        }
        self.each_field(|key, field| {
            let to = key.destination();
            let barred = self.barred(&to);
            slots.iter().filter(|&&slot| !barred.has(slot)).for_each(|&slot| field.include(slot));
        });
    }

    pub(in crate::ledger) fn exclude_until(&self, slots: Range<u32>, until_ms: u64) {
        let mut changed = Vec::new();
        {
            let mut foreign = self.foreign.lock();
            for slot in slots.clone() {
                let last = foreign.until_ms.entry(slot).or_insert(0);
                *last = until_ms.max(*last);
                foreign.queue.push(until_ms, slot);
            }
            // Under the lock, or the end could come before the beginning.
            self.exclusions.add(slots, Why::Foreign, |slot| changed.push(slot));
            // Relaxed: written under the lock; a reader that misses it is told by its next look.
            let due_ms = foreign.queue.next_due_ms().unwrap_or(u64::MAX);
            self.foreign_due_ms.store(due_ms, Ordering::Relaxed);
        }
        self.take_from_fields(&changed);
    }

    /// Whether there is anything that [`Side::exclude_until`] will end.
    #[inline]
    pub(in crate::ledger) fn withholds_for_a_while(&self) -> bool {
        // Relaxed: see `exclude_until`.
        self.foreign_due_ms.load(Ordering::Relaxed) != u64::MAX
    }

    /// Ends what of [`Side::exclude_until`] is due; whether there was any.
    pub(in crate::ledger) fn end_foreign(&self, clock: &impl Clock) -> bool {
        // Relaxed: see `exclude_until`.
        let due_ms = self.foreign_due_ms.load(Ordering::Relaxed);
        if due_ms == u64::MAX {
            return false;
        }
        let now_ms = clock.now_ms();
        if due_ms > now_ms {
            return false;
        }
        let mut changed = Vec::new();
        let mut ended = false;
        {
            let mut foreign = self.foreign.lock();
            while let Some(slot) = foreign.queue.pop_due(now_ms) {
                if foreign.until_ms.get(&slot).is_some_and(|&until_ms| until_ms <= now_ms) {
                    foreign.until_ms.remove(&slot);
                    ended = true;
                    self.exclusions.remove(slot..slot + 1, Why::Foreign, |slot| changed.push(slot));
                }
            }
            let due_ms = foreign.queue.next_due_ms().unwrap_or(u64::MAX);
            self.foreign_due_ms.store(due_ms, Ordering::Relaxed);
        }
        self.free_in_fields(&changed);
        ended
    }

    pub(in crate::ledger) fn each_field(&self, mut visit: impl FnMut(K, &Field)) {
        for shard in &self.shards {
            let inner = shard.inner.lock();
            inner.fields.iter().for_each(|(_, busy)| visit(busy.key, busy.field.get()));
        }
    }

    /// How much of `windows`, which are sorted and apart, is leased or rests. One pass for all.
    pub(in crate::ledger) fn usage(&self, windows: &[Range<u32>], clock: &impl Clock) -> Usage {
        let mut usage = Usage { used: vec![0; windows.len()], most: 0 };
        for (shard, number) in self.shards.iter().zip(0u64..) {
            let mut inner = shard.inner.lock();
            self.wake(&mut inner, number << 32, clock, usize::MAX);
            for (_, value) in inner.table.iter() {
                match value {
                    Value::One(won) => usage.count(windows, std::iter::once(won.slot)),
                    Value::Small(index) => {
                        let small = &inner.smalls[index as usize];
                        usage.count(windows, small.iter().map(|won| won.slot));
                    }
                    Value::Field(index) => {
                        let field = inner.fields[index as usize].field.get();
                        field.wake(clock, usize::MAX);
                        let used = windows.iter().map(|window| field.used_within(window.clone()));
                        usage.add(used);
                    }
                }
            }
        }
        usage
    }

    /// Whether any of `slots` is excluded for the reason `why`.
    pub(in crate::ledger) fn is_excluded(&self, slots: Range<u32>, why: Why) -> bool {
        self.exclusions.any(slots, why)
    }
}

impl Usage {
    /// Adds the slots of one destination.
    fn count(&mut self, windows: &[Range<u32>], slots: impl Iterator<Item = u32>) {
        let mut sum = 0;
        for slot in slots {
            let next = windows.partition_point(|window| window.end <= slot);
            if windows.get(next).is_some_and(|window| window.contains(&slot)) {
                self.used[next] += 1;
                sum += 1;
            }
        }
        self.most = self.most.max(sum);
    }

    /// Adds what one destination has in each window.
    fn add(&mut self, counts: impl Iterator<Item = u32>) {
        let mut sum = 0;
        for (used, count) in self.used.iter_mut().zip(counts) {
            *used = used.saturating_add(count);
            sum += count;
        }
        self.most = self.most.max(sum);
    }
}
