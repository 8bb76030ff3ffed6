//! Leases of destinations that have no field: one slot in the table's entry, or a small set.

use super::barred::Barred;
use super::{Inner, Locked, Side};
use crate::ledger::field::Won;
use crate::ledger::key::Key;
use crate::ledger::share::scale;
use crate::ledger::small::Small;
use crate::ledger::stamp::{Stamp, State};
use crate::ledger::table::{At, Value};
use crate::ledger::{Claim, Random};
use std::ops::Range;

/// Random picks before a small destination is searched from a random start.
const PICKS: usize = 8;

impl<K, const N: usize> Inner<K, N> {
    /// Whether a destination that has `value` and no field has a lease of `slot`, or it rests.
    #[inline]
    pub(super) fn holds(&self, value: Option<Value>, slot: u32) -> bool {
        match value {
            Some(Value::One(won)) => won.slot == slot,
            Some(Value::Small(index)) => self.smalls[index as usize].get(slot).is_some(),
            Some(Value::Field(_)) | None => false,
        }
    }
}

impl<K: Key, const N: usize> Side<K, N> {
    /// A slot of `window` that a small destination may have: random, then the first after a
    /// random start. `None`: there is none.
    pub(super) fn pick_small(
        &self,
        inner: &Inner<K, N>,
        value: Option<Value>,
        window: &Range<u32>,
        barred: Barred<'_>,
        random: &mut impl Random,
    ) -> Option<u32> {
        let usable = |slot| !barred.has(slot) && !inner.holds(value, slot);
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

    /// Leases `slot`, which is free, for a destination that has no field; makes it one if it
    /// has grown too large.
    pub(super) fn lease_small(
        &self,
        inner: &mut Locked<'_, K, N>,
        key: K,
        hash: u64,
        found: Option<(At, Value)>,
        slot: u32,
        barred: Barred<'_>,
    ) -> Claim {
        inner.generation += 1;
        let won = Won { slot, stamp: Stamp::idle(inner.generation).with(State::Leased) };
        let claim = Claim::of_small(won, hash);
        let Some((at, value)) = found else {
            inner.table.insert(hash, key, Value::One(won), &self.hasher);
            self.note_table(hash, inner);
            return claim;
        };
        let index = match value {
            Value::Small(index) => index as usize,
            Value::One(other) => {
                let index = inner.smalls.insert(Small::of(other));
                inner.table.set(at, Value::Small(index as u32));
                index
            }
            Value::Field(_) => unreachable!("the caller has looked"),
        };
        let small = &mut inner.smalls[index];
        small.add(won);
        if small.len() > self.small_max {
            let field = self.make_field(inner, key, hash, barred);
            return Claim::of_field(claim.into_pinned(), field);
        }
        claim
    }

    /// Ends a lease or a rest of a small destination.
    #[inline]
    pub(super) fn end_small(
        &self,
        inner: &mut Inner<K, N>,
        hash: u64,
        (at, value): (At, Value),
        won: Won,
        rest_until_ms: Option<u64>,
    ) {
        let state = if rest_until_ms.is_some() { State::Resting } else { State::Idle };
        let ended = Won { stamp: won.stamp.with(state), ..won };
        match value {
            Value::One(_) if state == State::Idle => {
                inner.table.remove(at, hash, &self.hasher);
                self.note_table(hash, inner);
            }
            Value::One(_) => inner.table.set(at, Value::One(ended)),
            Value::Small(index) => {
                let small = &mut inner.smalls[index as usize];
                small.change(ended);
                if small.len() == 1 {
                    let last = small.iter().next().expect("its length is 1");
                    inner.smalls.remove(index as usize);
                    inner.table.set(at, Value::One(last));
                }
            }
            Value::Field(_) => unreachable!("a field ends its own leases"),
        }
        if let Some(due_ms) = rest_until_ms {
            let rest = inner.rest.get_or_insert_default();
            rest.push(due_ms, (hash as u32, won.slot));
        }
    }
}
