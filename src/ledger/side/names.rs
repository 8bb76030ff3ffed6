//! Claims as plain values, which may be stale, copied or made up.

use super::{Inner, Side};
use crate::ledger::key::Key;
use crate::ledger::table::{At, Value};
use crate::ledger::{Claim, ClaimId, Destination, Names};

impl<K: Key, const N: usize> Side<K, N> {
    pub(in crate::ledger) fn name(&self, to: &Destination, claim: Claim) -> ClaimId {
        assert_eq!(self.names, Names::Kept, "a ledger that keeps no names gives none");
        let destination_hash = K::of(to).hash(&self.hasher);
        ClaimId { destination_hash, slot: claim.slot(), stamp: claim.won().stamp.raw() }
    }

    #[cfg(feature = "capi")]
    pub(in crate::ledger) fn hash_of(&self, to: &Destination) -> u64 {
        K::of(to).hash(&self.hasher)
    }

    pub(in crate::ledger) fn is_live(&self, id: ClaimId) -> bool {
        let inner = self.shard(id.destination_hash).inner.lock();
        self.find_id(&inner, id).is_some()
    }

    #[must_use = "false: the id is stale"]
    pub(in crate::ledger) fn release_id(&self, id: ClaimId, rest_until_ms: Option<u64>) -> bool {
        let mut inner = self.shard(id.destination_hash).inner.lock();
        let Some((at, value)) = self.find_id(&inner, id) else { return false };
        if let Value::Field(index) = value {
            let field = inner.fields[index as usize].field;
            return field.get().release_named(id.won(), rest_until_ms);
        }
        self.end_small(&mut inner, id.destination_hash, (at, value), id.won(), rest_until_ms);
        true
    }

    /// As [`Side::release_id`], of a destination that the caller has pinned.
    #[cfg(any(feature = "capi", test))]
    #[must_use = "false: the id is stale"]
    pub(in crate::ledger) fn release_id_pinned(
        &self,
        field: crate::ledger::side::FieldRef,
        id: ClaimId,
        rest_until_ms: Option<u64>,
    ) -> bool {
        field.get().release_named(id.won(), rest_until_ms)
    }

    fn find_id(&self, inner: &Inner<K, N>, id: ClaimId) -> Option<(At, Value)> {
        let won = id.won();
        if !won.stamp.is_leased() {
            return None;
        }
        inner.table.find_hashed(id.destination_hash, |value, key| {
            let live = match value {
                Value::One(only) => only == won,
                Value::Small(index) => {
                    inner.smalls[index as usize].get(won.slot) == Some(won.stamp)
                }
                Value::Field(index) => inner.fields[index as usize].field.get().is_live(won),
            };
            live && key.hash(&self.hasher) == id.destination_hash
        })
    }
}
