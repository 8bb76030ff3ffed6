//! DashMap: a hash map in shards, with a lock each.

use super::{SipWithEqualKeys, search};
use crate::allocator::Pool;
use crate::space::{SourcePort, Space};
use dashmap::DashSet as Set;
use std::net::SocketAddrV4;

/// Every lease is a (destination, source, port) in one sharded set.
pub struct DashSet {
    space: Space,
    leased: Set<(SocketAddrV4, SourcePort), SipWithEqualKeys>,
}

impl DashSet {
    /// Nothing is leased.
    pub fn new(space: Space) -> Self {
        Self { space, leased: Set::default() }
    }
}

impl Pool for DashSet {
    type Lease<'a> = SourcePort;

    #[inline]
    fn acquire(&self, to: SocketAddrV4) -> Option<SourcePort> {
        search(&self.space, |candidate| self.leased.insert((to, candidate)))
    }

    #[inline]
    fn release(&self, to: SocketAddrV4, lease: SourcePort) {
        assert!(self.leased.remove(&(to, lease)).is_some(), "released twice");
    }

    fn take_all(&self, to: SocketAddrV4) -> Vec<SourcePort> {
        self.space.iter().inspect(|&lease| assert!(self.leased.insert((to, lease)))).collect()
    }

    fn identity(&self, lease: &SourcePort) -> u32 {
        lease.packed()
    }
}
