//! Counts.

use super::field::Full;

/// The counts of one destination or of a whole pool:
/// `free + leased + resting + excluded = capacity` at any quiet moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All four-tuples that the sources and ranges give towards one destination.
    pub capacity: u64,
    /// Four-tuples that the next acquire may hand out.
    pub free: u64,
    /// Four-tuples that are leased.
    pub leased: u64,
    /// Four-tuples that rest after their release.
    pub resting: u64,
    /// Four-tuples that may not be leased: not ours, listened on, or a connection to itself.
    pub excluded: u64,
}

/// The counts of all destinations of a pool that hold something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCensus {
    /// Destinations with a lease or a resting four-tuple, or that a handle is open for.
    pub destinations: u64,
    /// Their counts, added up.
    pub sum: Census,
}

impl Census {
    pub(super) fn of(capacity: u32, free: u32, counts: Full) -> Self {
        Self {
            capacity: capacity.into(),
            free: free.into(),
            leased: counts.leased.into(),
            resting: counts.resting.into(),
            excluded: counts.excluded.into(),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.capacity += other.capacity;
        self.free += other.free;
        self.leased += other.leased;
        self.resting += other.resting;
        self.excluded += other.excluded;
    }
}
