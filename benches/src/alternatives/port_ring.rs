//! The method of HAProxy's port ranges: a ring of the free ports of one server, taken at one
//! end and given back at the other, without a lock.

use crate::allocator::Ports;
use crate::space::{SourcePort, Space};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One destination's ring.
///
/// Positions only grow, unlike in the original: a thread that sleeps while the ring turns
/// once can't take a port that another has. On cache lines of its own.
#[repr(align(128))]
pub struct PortRing {
    ports: Box<[AtomicU32]>,
    mask: u64,
    /// The next to take.
    get: AtomicU64,
    /// The next place that a release may claim.
    claimed: AtomicU64,
    /// All places before it hold a port.
    filled: AtomicU64,
}

impl PortRing {
    /// Everything is free.
    pub fn new(space: Space) -> Self {
        let capacity = u64::from(space.capacity());
        let places = capacity.next_power_of_two();
        let ports: Box<[_]> = (0..places).map(|_| AtomicU32::new(0)).collect();
        for (place, port) in ports.iter().zip(space.iter()) {
            // Relaxed: nobody else has the ring yet.
            place.store(port.packed(), Ordering::Relaxed);
        }
        Self {
            ports,
            mask: places - 1,
            get: AtomicU64::new(0),
            claimed: AtomicU64::new(capacity),
            filled: AtomicU64::new(capacity),
        }
    }

    #[inline]
    fn place(&self, position: u64) -> &AtomicU32 {
        &self.ports[(position & self.mask) as usize]
    }
}

impl Ports for PortRing {
    type Lease<'a> = SourcePort;

    #[inline]
    fn acquire(&self) -> Option<SourcePort> {
        // Relaxed: only a guess; the exchange below decides.
        let mut get = self.get.load(Ordering::Relaxed);
        loop {
            // Acquire: what lies before `filled` was written before it moved.
            if get == self.filled.load(Ordering::Acquire) {
                return None;
            }
            // Relaxed: ordered by `filled`; worthless if `get` has moved on.
            let port = self.place(get).load(Ordering::Relaxed);
            // AcqRel: whoever claims this place again comes after the load above.
            match self.get.compare_exchange_weak(get, get + 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return SourcePort::from_packed(port),
                Err(moved) => get = moved,
            }
        }
    }

    #[inline]
    fn release(&self, lease: SourcePort) {
        // AcqRel: as many ports were taken as were released before, so this place is empty; the
        // chain of releases makes the acquire that emptied it come before the store below.
        let mine = self.claimed.fetch_add(1, Ordering::AcqRel);
        // Relaxed: `filled` publishes it.
        self.place(mine).store(lease.packed(), Ordering::Relaxed);
        // Acquire: the places before this one, filled by others, are published with it.
        while self.filled.load(Ordering::Acquire) != mine {
            spin_loop();
        }
        // Release: publishes this place and all before it.
        self.filled.store(mine + 1, Ordering::Release);
    }

    fn identity(&self, lease: &SourcePort) -> u32 {
        lease.packed()
    }
}
