//! What there is to lease: some source addresses, a port range on each; and whom to reach.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;

/// Source addresses and their port range, the same on each.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// How many source addresses: 127.0.1.1 and those after it.
    pub sources: u8,
    /// The first port, not 0.
    pub first_port: u16,
    /// The last port, inclusive.
    pub last_port: u16,
}

/// A source and a port on it, as the alternatives hand it out: four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourcePort(NonZeroU32);

impl Space {
    /// One source with every port that needs no privilege: 64,512.
    pub const ONE_SOURCE: Self = Self { sources: 1, first_port: 1024, last_port: u16::MAX };
    /// Eight such sources.
    pub const EIGHT_SOURCES: Self = Self { sources: 8, ..Self::ONE_SOURCE };

    /// Ports on one source.
    pub fn ports(&self) -> u32 {
        u32::from(self.last_port - self.first_port) + 1
    }

    /// Leases that exist towards one destination.
    pub fn capacity(&self) -> u32 {
        self.ports() * u32::from(self.sources)
    }

    /// The `index`-th of them; source by source, port by port.
    #[inline]
    pub fn source_port(&self, index: u32) -> SourcePort {
        let (source, port) = (index / self.ports(), index % self.ports());
        let packed = source << 16 | (u32::from(self.first_port) + port);
        SourcePort(NonZeroU32::new(packed).expect("port 0 is in no space"))
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = SourcePort> {
        (0..self.capacity()).map(move |index| self.source_port(index))
    }

    /// As portlease wants its sources to be written.
    pub fn text(&self) -> String {
        let Self { sources, first_port, last_port } = self;
        let one = |source| format!("127.0.1.{}:{first_port}-{last_port}", source + 1);
        (0..*sources).map(one).collect::<Vec<_>>().join(",")
    }
}

impl SourcePort {
    /// As one number: the source's index above 16 bits of port.
    #[inline]
    pub fn packed(self) -> u32 {
        self.0.get()
    }

    /// Back from [`SourcePort::packed`]; `None` for 0.
    #[inline]
    pub fn from_packed(packed: u32) -> Option<Self> {
        NonZeroU32::new(packed).map(Self)
    }
}

/// The `index`-th of 2^32 destinations, all different, without order.
#[inline]
pub fn destination(index: u32) -> SocketAddrV4 {
    // The finalizer of MurmurHash3: a bijection, so no two addresses are the same.
    let mut x = index.wrapping_add(1);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^= x >> 16;
    // No address of a loopback network and none of the special ones: the first byte is 11..=111.
    let [a, b, c, d] = x.to_be_bytes();
    let port = 1024 + u16::from(a);
    SocketAddrV4::new(Ipv4Addr::new(11 + a % 101, b, c, d), port)
}
