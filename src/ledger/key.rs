//! A destination as the table stores it: 8 bytes for IPv4, 24 for IPv6, exact.

use super::{Destination, Protocol};
use crate::ledger::tuple::socket_address;
use siphasher::sip::SipHasher13;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A destination of one family. The low byte of [`Key::tail`] is the table's: always zero here.
pub(super) trait Key: Copy + Send + Sync + 'static {
    /// What an empty entry holds; no destination is equal to it.
    const EMPTY: Self;

    fn of(to: &Destination) -> Self;
    fn destination(self) -> Destination;
    fn tail(self) -> u64;
    fn with_tail(self, tail: u64) -> Self;
    /// All but the tail are equal.
    fn same_head(&self, other: &Self) -> bool;
    fn hash(self, hasher: &SipHasher13) -> u64;
}

/// Address, port and protocol, above the table's byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key4(u64);

/// Address; scope, port and protocol, above the table's byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key6 {
    head: [u64; 2],
    tail: u64,
}

fn low_bits(to: &Destination) -> u64 {
    u64::from(to.address().port()) << 16 | (to.protocol() as u64) << 8
}

fn protocol(tail: u64) -> Protocol {
    if tail >> 8 & 0xff == Protocol::Udp as u64 { Protocol::Udp } else { Protocol::Tcp }
}

impl Key for Key4 {
    const EMPTY: Self = Self(0);

    fn of(to: &Destination) -> Self {
        match to.address() {
            SocketAddr::V4(v4) => Self(u64::from(v4.ip().to_bits()) << 32 | low_bits(to)),
            SocketAddr::V6(_) => unreachable!("the ledger's sides are chosen by family"),
        }
    }

    fn destination(self) -> Destination {
        let address = IpAddr::V4(Ipv4Addr::from_bits((self.0 >> 32) as u32));
        let port = (self.0 >> 16) as u16;
        Destination::new(protocol(self.0), socket_address(address, port, 0))
    }

    fn tail(self) -> u64 {
        self.0
    }

    fn with_tail(self, tail: u64) -> Self {
        Self(tail)
    }

    fn same_head(&self, _: &Self) -> bool {
        true
    }

    fn hash(self, hasher: &SipHasher13) -> u64 {
        hasher.hash(&self.0.to_ne_bytes())
    }
}

impl Key for Key6 {
    const EMPTY: Self = Self { head: [0; 2], tail: 0 };

    fn of(to: &Destination) -> Self {
        match to.address() {
            SocketAddr::V6(v6) => {
                let bits = v6.ip().to_bits();
                Self {
                    head: [(bits >> 64) as u64, bits as u64],
                    tail: u64::from(v6.scope_id()) << 32 | low_bits(to),
                }
            }
            SocketAddr::V4(_) => unreachable!("the ledger's sides are chosen by family"),
        }
    }

    fn destination(self) -> Destination {
        let bits = u128::from(self.head[0]) << 64 | u128::from(self.head[1]);
        let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
        let (port, scope) = ((self.tail >> 16) as u16, (self.tail >> 32) as u32);
        Destination::new(protocol(self.tail), socket_address(address, port, scope))
    }

    fn tail(self) -> u64 {
        self.tail
    }

    fn with_tail(self, tail: u64) -> Self {
        Self { tail, ..self }
    }

    fn same_head(&self, other: &Self) -> bool {
        self.head == other.head
    }

    fn hash(self, hasher: &SipHasher13) -> u64 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.head[0].to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.head[1].to_ne_bytes());
        bytes[16..].copy_from_slice(&self.tail.to_ne_bytes());
        hasher.hash(&bytes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_destination() {
        for (protocol, address) in [
            (Protocol::Tcp, "0.0.0.0:1"),
            (Protocol::Udp, "255.255.255.255:65535"),
            (Protocol::Tcp, "[::ffff:10.0.0.1]:80"),
        ] {
            let to = Destination::new(protocol, address.parse().unwrap());
            assert_eq!(Key4::of(&to).destination(), to);
        }
        for (protocol, address) in
            [(Protocol::Udp, "[::]:1"), (Protocol::Tcp, "[fe80::1%4294967295]:65535")]
        {
            let to = Destination::new(protocol, address.parse().unwrap());
            assert_eq!(Key6::of(&to).destination(), to);
        }
    }
}
