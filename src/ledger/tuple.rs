//! Four-tuples and their two ends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The transport protocol; TCP and UDP ports are separate number spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, IP protocol number 6.
    Tcp = 6,
    /// UDP, IP protocol number 17.
    Udp = 17,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The address family of a source or a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4; also IPv4-mapped IPv6 addresses, which are the same hosts.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; an IPv4-mapped IPv6 address is IPv4 (RFC 4291 section 2.5.5.2).
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The end of a four-tuple that we do not choose: protocol, address and port.
///
/// An IPv4-mapped IPv6 address is the IPv4 address that it maps, so that one peer is one
/// destination however it is written. A scope id is kept where it means something: on
/// link-local IPv6 addresses (RFC 4007).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    // Whole words: every lease carries them, and a processor forwards what it has just written only
    // to a load of the same size.
    /// The address in two halves; an IPv4 one is all low.
    high: u64,
    low: u64,
    /// From the top: scope (32 bits), port (16), protocol (8), family (8).
    rest: u64,
}

const PORT_SHIFT: u32 = 16;
const PROTOCOL_SHIFT: u32 = 8;
const FAMILY_MASK: u64 = 0xff;

impl Destination {
    /// The destination at `address`, in canonical form.
    #[inline]
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::of_v4(protocol, v4),
            SocketAddr::V6(_) => Self::of_v6(protocol, canonical(address)),
        }
    }

    #[inline]
    fn of_v4(protocol: Protocol, address: SocketAddrV4) -> Self {
        Self {
            high: 0,
            low: address.ip().to_bits().into(),
            rest: rest(0, address.port(), protocol, Family::V4),
        }
    }

    fn of_v6(protocol: Protocol, address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::of_v4(protocol, v4),
            SocketAddr::V6(v6) => {
                let bits = v6.ip().to_bits();
                let rest = rest(v6.scope_id(), v6.port(), protocol, Family::V6);
                Self { high: (bits >> 64) as u64, low: bits as u64, rest }
            }
        }
    }

    /// The protocol.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        let number = (self.rest >> PROTOCOL_SHIFT) as u8;
        if number == Protocol::Udp as u8 { Protocol::Udp } else { Protocol::Tcp }
    }

    /// Address and port, in canonical form.
    pub fn address(&self) -> SocketAddr {
        let address = match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(self.low as u32)),
            Family::V6 => {
                IpAddr::V6(Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low)))
            }
        };
        socket_address(address, self.port(), (self.rest >> 32) as u32)
    }

    /// The family that a source must have.
    #[inline]
    pub fn family(&self) -> Family {
        if self.rest & FAMILY_MASK == Family::V4 as u64 { Family::V4 } else { Family::V6 }
    }

    #[inline]
    pub(super) fn port(&self) -> u16 {
        (self.rest >> PORT_SHIFT) as u16
    }

    /// Whether it names a host and a port.
    #[inline]
    pub(crate) fn is_definite(&self) -> bool {
        self.high | self.low != 0 && self.port() != 0
    }

    /// The address in two halves, and a word that with them is the destination: scope, port and
    /// protocol, above a byte that is zero.
    #[inline]
    pub(super) fn words(&self) -> ([u64; 2], u64) {
        ([self.high, self.low], self.rest & !FAMILY_MASK)
    }

    /// From [`Destination::words`].
    pub(super) fn from_words([high, low]: [u64; 2], rest: u64, family: Family) -> Self {
        Self { high, low, rest: rest | family as u64 }
    }
}

#[inline]
fn rest(scope: u32, port: u16, protocol: Protocol, family: Family) -> u64 {
    u64::from(scope) << 32
        | u64::from(port) << PORT_SHIFT
        | (protocol as u64) << PROTOCOL_SHIFT
        | family as u64
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol(), self.address())
    }
}

/// What identifies a connection or flow: protocol, source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourTuple {
    /// The end that we choose.
    pub source: SocketAddr,
    /// The end that we are asked for.
    pub destination: Destination,
}

impl fmt::Display for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, address) = (self.destination.protocol(), self.destination.address());
        write!(f, "{protocol} {} -> {address}", self.source)
    }
}

/// One spelling for each socket address: mapped IPv4 becomes IPv4, flow labels go, and scope
/// ids go where the address is not link-local.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, v6.port())),
            None => {
                let scope = if is_link_local(v6.ip()) { v6.scope_id() } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope))
            }
        },
    }
}

/// fe80::/10 and link-local multicast, where an address means nothing without its interface.
pub(crate) fn is_link_local(address: &Ipv6Addr) -> bool {
    let head = address.segments()[0];
    head & 0xffc0 == 0xfe80 || head & 0xff0f == 0xff02
}

/// A socket address of either family with a scope id (ignored for IPv4).
pub(crate) fn socket_address(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
        IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope)),
    }
}

/// The scope id of a socket address; 0 for IPv4.
pub(crate) fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

/// The unspecified address of a family.
pub(crate) fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
