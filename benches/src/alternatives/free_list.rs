//! A first-in-first-out list of the free ports behind parking_lot's mutex: flat at any
//! occupancy, and 256 KiB a destination and source from the first lease on.

use crate::allocator::{Pool, Ports};
use crate::space::{SourcePort, Space};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;

/// One destination's free list, on cache lines of its own.
#[repr(align(128))]
pub struct FreeList(Mutex<VecDeque<SourcePort>>);

impl FreeList {
    /// Everything is free.
    pub fn new(space: Space) -> Self {
        Self(Mutex::new(space.iter().collect()))
    }
}

impl Ports for FreeList {
    type Lease<'a> = SourcePort;

    #[inline]
    fn acquire(&self) -> Option<SourcePort> {
        self.0.lock().pop_front()
    }

    #[inline]
    fn release(&self, lease: SourcePort) {
        self.0.lock().push_back(lease);
    }

    fn identity(&self, lease: &SourcePort) -> u32 {
        lease.packed()
    }
}

/// A free list for each destination, all behind one mutex.
pub struct FreeLists {
    space: Space,
    lists: Mutex<HashMap<SocketAddrV4, VecDeque<SourcePort>>>,
}

impl FreeLists {
    /// Nothing is leased.
    pub fn new(space: Space) -> Self {
        Self { space, lists: Mutex::default() }
    }
}

impl Pool for FreeLists {
    type Lease<'a> = SourcePort;

    #[inline]
    fn acquire(&self, to: SocketAddrV4) -> Option<SourcePort> {
        let mut lists = self.lists.lock();
        lists.entry(to).or_insert_with(|| self.space.iter().collect()).pop_front()
    }

    #[inline]
    fn release(&self, to: SocketAddrV4, lease: SourcePort) {
        self.lists.lock().get_mut(&to).expect("a lease has a list").push_back(lease);
    }

    fn identity(&self, lease: &SourcePort) -> u32 {
        lease.packed()
    }
}
