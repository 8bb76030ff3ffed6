//! What everyone is asked to do, as candidates of a comparison.

use crate::allocator::{Pool, Ports};
use crate::field::{PoolTask, PortsTask};
use crate::measure::Candidate;
use crate::{million, workload};

/// A release and an acquire with this share of the range held.
pub struct Pairs(pub f64);

impl PortsTask for Pairs {
    type Output<'a> = Candidate<'a>;

    fn on<'a, P: Ports>(&self, name: &'static str, ports: &'a [P; 2]) -> Candidate<'a> {
        workload::pairs(name, &ports[0], self.0)
    }
}

/// The "no" of a full pool.
pub struct Refusals;

impl PortsTask for Refusals {
    type Output<'a> = Candidate<'a>;

    fn on<'a, P: Ports>(&self, name: &'static str, ports: &'a [P; 2]) -> Candidate<'a> {
        workload::refusals(name, &ports[0])
    }
}

/// A release and an acquire over many destinations.
#[derive(Clone, Copy, Debug)]
pub enum ManyPairs {
    /// So many with a lease each; every acquire leads to one never seen.
    Fresh(u32),
    /// The same, announced ahead.
    Announced(u32),
    /// A thousand that stay, eight leases each.
    Cached,
}

impl PoolTask for ManyPairs {
    type Output<'a> = Candidate<'a>;

    fn on<'a, P: Pool>(&self, name: &'static str, pool: &'a P) -> Candidate<'a> {
        match *self {
            Self::Fresh(count) => million::pairs(name, pool, count),
            Self::Announced(count) => million::announced_pairs(name, pool, count),
            Self::Cached => million::cached_pairs(name, pool),
        }
    }
}
