//! A destination as the table stores it: 8 bytes for IPv4, 24 for IPv6, exact.

use super::hash::Hasher;
use super::{Destination, Family};

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
    fn hash(self, hasher: &Hasher) -> u64;
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

impl Key for Key4 {
    const EMPTY: Self = Self(0);

    #[inline]
    fn of(to: &Destination) -> Self {
        let ([_, address], rest) = to.words();
        Self(address << 32 | rest)
    }

    fn destination(self) -> Destination {
        let rest = u64::from(self.0 as u32);
        Destination::from_words([0, self.0 >> 32], rest, Family::V4)
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

    #[inline]
    fn hash(self, hasher: &Hasher) -> u64 {
        hasher.hash([self.0 >> 8])
    }
}

impl Key for Key6 {
    const EMPTY: Self = Self { head: [0; 2], tail: 0 };

    #[inline]
    fn of(to: &Destination) -> Self {
        let (head, tail) = to.words();
        Self { head, tail }
    }

    fn destination(self) -> Destination {
        Destination::from_words(self.head, self.tail, Family::V6)
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

    fn hash(self, hasher: &Hasher) -> u64 {
        hasher.hash([self.head[0], self.head[1], self.tail >> 8])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ledger::Protocol;

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
