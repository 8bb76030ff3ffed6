//! The source addresses and the port ranges that may be leased on each.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// A range of ports, inclusive at both ends, never empty, never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// The range `first..=last`; `None` if it would be empty or hold port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(&self) -> u16 {
        self.first.get()
    }

    /// The highest port.
    pub fn last(&self) -> u16 {
        self.last.get()
    }

    /// The number of ports, 1 to 65,535.
    pub fn count(&self) -> u32 {
        u32::from(self.last.get()) - u32::from(self.first.get()) + 1
    }

    /// Whether `port` lies in the range.
    pub fn contains(&self, port: u16) -> bool {
        (self.first.get()..=self.last.get()).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// One source address with the ports that may be leased on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address, in canonical form (never IPv4-mapped).
    pub address: IpAddr,
    /// The scope id of a link-local IPv6 address, else 0.
    pub scope: u32,
    /// Sorted ranges that neither overlap nor touch. Empty: the pool's own range.
    pub ports: Vec<PortRange>,
}
