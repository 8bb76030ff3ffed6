//! Where the shards' tables are, so that their lines can be fetched ahead of the lock.

use super::{Inner, Side, shard_of};
use crate::ledger::Destination;
use crate::ledger::key::Key;
use crate::ledger::prefetch;
use crate::ledger::table::home_of;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The places of all tables, close together: so they stay in the caches.
#[derive(Debug)]
pub(super) struct Places(Box<[Place]>);

/// May be old, and is never followed.
#[derive(Debug)]
struct Place {
    address: AtomicU64,
    buckets: AtomicU32,
}

impl Places {
    pub(super) fn new(shards: usize) -> Self {
        let place = |_| Place { address: AtomicU64::new(0), buckets: AtomicU32::new(0) };
        Self((0..shards).map(place).collect())
    }
}

impl<K: Key, const N: usize> Side<K, N> {
    pub(in crate::ledger) fn announce(&self, to: &Destination) {
        self.fetch(K::of(to).hash(&self.hasher));
    }

    /// Brings the lock of a destination's shard, and the line of the table where it is looked for,
    /// towards the caches: both at once, for a locked instruction lets no later one past.
    #[inline]
    pub(super) fn fetch(&self, hash: u64) {
        let shard = shard_of(hash);
        prefetch(&raw const self.shards[shard] as usize);
        let place = &self.places.0[shard];
        // Relaxed, here and below: an old address or number only makes the prefetch useless.
        let buckets = place.buckets.load(Ordering::Relaxed);
        if buckets > 0 {
            let address = place.address.load(Ordering::Relaxed) as usize;
            prefetch(address + home_of(hash, buckets) as usize * 64);
        }
    }

    /// After each change of a shard's table.
    #[inline]
    pub(super) fn note_table(&self, hash: u64, inner: &Inner<K, N>) {
        let (address, buckets) = inner.table.place();
        let place = &self.places.0[shard_of(hash)];
        // Seldom written: the cache line is many shards'.
        if place.address.load(Ordering::Relaxed) != address as u64 {
            place.address.store(address as u64, Ordering::Relaxed);
            place.buckets.store(buckets, Ordering::Relaxed);
        }
    }
}
