//! std's `Mutex` around std's `HashSet`: the pool that most people write first.

use super::{SipWithEqualKeys, search};
use crate::allocator::Pool;
use crate::space::{SourcePort, Space};
use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard};

type Set = HashSet<(SocketAddrV4, SourcePort), SipWithEqualKeys>;

/// Every lease is a (destination, source, port) in one set.
pub struct MutexHashSet {
    space: Space,
    leased: Mutex<Set>,
}

impl MutexHashSet {
    /// Nothing is leased.
    pub fn new(space: Space) -> Self {
        Self { space, leased: Mutex::default() }
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Set> {
        self.leased.lock().expect("no holder panics")
    }
}

impl Pool for MutexHashSet {
    type Lease<'a> = SourcePort;

    #[inline]
    fn acquire(&self, to: SocketAddrV4) -> Option<SourcePort> {
        let mut leased = self.lock();
        search(&self.space, |candidate| leased.insert((to, candidate)))
    }

    #[inline]
    fn release(&self, to: SocketAddrV4, lease: SourcePort) {
        assert!(self.lock().remove(&(to, lease)), "released twice");
    }

    fn take_all(&self, to: SocketAddrV4) -> Vec<SourcePort> {
        self.lock().extend(self.space.iter().map(|lease| (to, lease)));
        self.space.iter().collect()
    }

    fn identity(&self, lease: &SourcePort) -> u32 {
        lease.packed()
    }
}
