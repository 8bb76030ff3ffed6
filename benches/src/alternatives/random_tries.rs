//! The method of VPP's NAT: ten random tries in one hash table of all leases, then it says
//! that nothing is free, although something may be.

use crate::allocator::Pool;
use crate::random::thread_below;
use crate::space::{SourcePort, Space};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddrV4;

const TRIES: u32 = 10;
const SHARDS: usize = 256;

type Shard = Mutex<HashSet<(SocketAddrV4, SourcePort)>>;

/// Every lease is a (destination, source, port) in a sharded set.
pub struct RandomTries {
    space: Space,
    hasher: RandomState,
    shards: Box<[Shard]>,
}

impl RandomTries {
    /// Nothing is leased.
    pub fn new(space: Space) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { space, hasher: RandomState::new(), shards }
    }

    #[inline]
    fn shard(&self, key: &(SocketAddrV4, SourcePort)) -> &Shard {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    #[inline]
    fn insert(&self, to: SocketAddrV4, lease: SourcePort) -> bool {
        let key = (to, lease);
        self.shard(&key).lock().insert(key)
    }
}

impl Pool for RandomTries {
    type Lease<'a> = SourcePort;

    #[inline]
    fn acquire(&self, to: SocketAddrV4) -> Option<SourcePort> {
        let capacity = self.space.capacity();
        let mut candidates = (0..TRIES).map(|_| self.space.source_port(thread_below(capacity)));
        candidates.find(|&candidate| self.insert(to, candidate))
    }

    #[inline]
    fn release(&self, to: SocketAddrV4, lease: SourcePort) {
        let key = (to, lease);
        assert!(self.shard(&key).lock().remove(&key), "released twice");
    }

    fn take_all(&self, to: SocketAddrV4) -> Vec<SourcePort> {
        self.space.iter().inspect(|&lease| assert!(self.insert(to, lease))).collect()
    }

    fn identity(&self, lease: &SourcePort) -> u32 {
        lease.packed()
    }
}
