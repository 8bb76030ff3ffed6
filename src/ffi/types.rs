//! Numbers and plain values

use crate::connect::{Mark, Parts};
use crate::error::Error;
use crate::kernel::{self, ClosedFirst, ModeChoice};
use crate::ledger;
use crate::ledger::Destination;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::status::Failure;

/// The transport protocol, by the numbers of IPPROTO_TCP and IPPROTO_UDP. TCP and UDP ports are
/// separate.
#[repr(i32)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

/// How sockets get their source port.
#[repr(i32)]
pub enum Mode {
    /// It follows from the port: late inside of net.ipv4.ip_local_port_range where the kernel
    /// can, otherwise explicit.
    ByPort = 0,
    /// SO_REUSEADDR and bind(2) to address and port.
    Explicit = 1,
    /// IP_BIND_ADDRESS_NO_PORT and IP_LOCAL_PORT_RANGE of one port: connect(2) takes it. Needs
    /// Linux 6.3; ports outside of ip_local_port_range cannot be leased then.
    Late = 2,
}

/// Whether ports below 1024 may be leased.
#[repr(i32)]
pub enum Privileged {
    /// A port range that holds one is PORTLEASE_BAD_CONFIG.
    Refuse = 0,
    /// They are ports like all others; binding them needs CAP_NET_BIND_SERVICE.
    Lease = 1,
}

/// Who looks after ports that are shared with other processes.
#[repr(i32)]
pub enum Maintenance {
    /// Whoever calls the pool. A process that may fall silent while it holds ports that others
    /// want waits for portlease_pool_maintain_fd() in its event loop.
    ByCallers = 0,
    /// A thread of the pool's own as well. It blocks all signals, sleeps until others are in want
    /// of ports or something has to be looked at, and ends with the pool.
    ByThread = 1,
}

/// Whose end of a connection was closed first: it decides whether the kernel keeps the
/// four-tuple in TIME_WAIT, and so how long it has to rest.
#[repr(i32)]
pub enum Closed {
    /// Not known: treated as our end.
    Unknown = 0,
    /// Our end.
    Us = 1,
    /// The peer's end.
    Peer = 2,
    /// None: the connection was reset, or never came about.
    Reset = 3,
    /// No socket was ever connected under the lease: it is free again at once.
    Unused = 4,
    /// Our end, and the ends had not agreed on TCP timestamps: the kernel keeps it for longer.
    UsWithoutTimestamps = 5,
}

/// The system call that failed.
#[repr(i32)]
pub enum Call {
    /// bind(2), also inside of portlease_lease_bind().
    Bind = 0,
    /// connect(2).
    Connect = 1,
}

/// What a failed system call says about the four-tuple that it was made with.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against it: try another one.
    TryAnother = 0,
    /// Somebody else holds this four-tuple: it rests; try another one.
    RestTuple = 1,
    /// Somebody else holds this source port: it rests for all destinations; try another one.
    RestPort = 2,
    /// The source address cannot be bound: all its ports rest; try another one.
    RestAddress = 3,
    /// The error is the destination's or yours: another source would not help.
    GiveUp = 4,
}

/// How far a connection has come.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is there.
    Connected = 0,
    /// It is on its way: the socket becomes writable when it is there or has failed, and
    /// SO_ERROR tells which.
    InProgress = 1,
}

/// The right to use one four-tuple until it is released: a plain value, to be copied and kept
/// wherever you like, with no meaning of its own inside. Only its first release counts; what
/// comes later, through whatever copy, is PORTLEASE_STALE_LEASE and harms nothing. All zeros is
/// a lease of nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Not for you.
    pub opaque: [u64; 5],
}

/// The counts of one destination, or of all of a pool:
/// free + leased + resting + excluded = capacity, at any quiet moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All four-tuples that the sources and their ports give towards one destination.
    pub capacity: u64,
    /// Those that the next acquire may give out.
    pub free: u64,
    /// Those that are leased.
    pub leased: u64,
    /// Those that rest after their release.
    pub resting: u64,
    /// Those that may not be leased: somebody listens there, they are not ours, or source and
    /// destination are the same.
    pub excluded: u64,
}

const _: () = {
    assert!(size_of::<Lease>() == 40);
    assert!(std::mem::offset_of!(Lease, opaque) == 0);
    assert!(size_of::<Census>() == 40);
    assert!(std::mem::offset_of!(Census, capacity) == 0);
    assert!(std::mem::offset_of!(Census, free) == 8);
    assert!(std::mem::offset_of!(Census, leased) == 16);
    assert!(std::mem::offset_of!(Census, resting) == 24);
    assert!(std::mem::offset_of!(Census, excluded) == 32);
};

// ---- numbers that come in -----------------------------------------------------------------

pub(super) fn protocol(number: i32) -> Result<ledger::Protocol, Failure> {
    match number {
        6 => Ok(ledger::Protocol::Tcp),
        17 => Ok(ledger::Protocol::Udp),
        _ => Err(unknown("protocol", number, "PORTLEASE_PROTOCOL_TCP (6) or _UDP (17)")),
    }
}

pub(super) fn mode(number: i32) -> Result<ModeChoice, Failure> {
    match number {
        0 => Ok(ModeChoice::ByPort),
        1 => Ok(ModeChoice::Explicit),
        2 => Ok(ModeChoice::Late),
        _ => Err(unknown("mode", number, "a portlease_mode (0 to 2)")),
    }
}

/// `None`: no socket used the lease.
#[inline]
pub(super) fn closed(number: i32) -> Result<Option<ClosedFirst>, Failure> {
    match number {
        0 => Ok(Some(ClosedFirst::Unknown)),
        1 => Ok(Some(ClosedFirst::Us)),
        2 => Ok(Some(ClosedFirst::Peer)),
        3 => Ok(Some(ClosedFirst::Reset)),
        4 => Ok(None),
        5 => Ok(Some(ClosedFirst::UsWithoutTimestamps)),
        _ => Err(unknown("closed", number, "a portlease_closed (0 to 5)")),
    }
}

pub(super) fn call(number: i32) -> Result<kernel::Call, Failure> {
    match number {
        0 => Ok(kernel::Call::Bind),
        1 => Ok(kernel::Call::Connect),
        _ => Err(unknown("call", number, "a portlease_call (0 or 1)")),
    }
}

#[cold]
pub(super) fn unknown(argument: &'static str, value: i32, known: &'static str) -> Failure {
    Failure::Number { argument, value: value.into(), known }
}

// ---- what goes out ------------------------------------------------------------------------

impl From<ClosedFirst> for Closed {
    fn from(closed: ClosedFirst) -> Self {
        match closed {
            ClosedFirst::Unknown => Self::Unknown,
            ClosedFirst::Us => Self::Us,
            ClosedFirst::Peer => Self::Peer,
            ClosedFirst::Reset => Self::Reset,
            ClosedFirst::UsWithoutTimestamps => Self::UsWithoutTimestamps,
        }
    }
}

impl From<kernel::Verdict> for Verdict {
    fn from(verdict: kernel::Verdict) -> Self {
        match verdict {
            kernel::Verdict::TryAnother => Self::TryAnother,
            kernel::Verdict::RestTuple => Self::RestTuple,
            kernel::Verdict::RestPort => Self::RestPort,
            kernel::Verdict::RestAddress => Self::RestAddress,
            kernel::Verdict::GiveUp => Self::GiveUp,
        }
    }
}

impl From<ledger::Census> for Census {
    fn from(census: ledger::Census) -> Self {
        let ledger::Census { capacity, free, leased, resting, excluded } = census;
        Self { capacity, free, leased, resting, excluded }
    }
}

// ---- leases -------------------------------------------------------------------------------

/// Pool and destination in the form in which a lease has them.
pub(super) type Place = [u64; 4];

/// `pool` and `destination`, so packed that two of them are equal only if all of it is: the pool,
/// the address, then port, protocol (from bit 16), family (from bit 24, never 0) and scope (from
/// bit 32).
pub(super) fn place(pool: u64, destination: &Destination) -> Place {
    let address = destination.address();
    let (bits, family, scope) = match address {
        SocketAddr::V4(v4) => (u128::from(v4.ip().to_bits()), 4, 0),
        SocketAddr::V6(v6) => (v6.ip().to_bits(), 6, v6.scope_id()),
    };
    let protocol = destination.protocol() as u64;
    let rest = u64::from(address.port()) | protocol << 16 | family << 24 | u64::from(scope) << 32;
    [pool, (bits >> 64) as u64, bits as u64, rest]
}

impl Lease {
    #[inline]
    pub(super) fn new([pool, high, low, rest]: Place, mark: Mark) -> Self {
        let mark = u64::from(mark.slot) | u64::from(mark.generation) << 32;
        Self { opaque: [pool, high, low, rest, mark] }
    }

    #[inline]
    pub(super) fn place(&self) -> Place {
        let [pool, high, low, rest, _] = self.opaque;
        [pool, high, low, rest]
    }

    #[inline]
    pub(super) fn mark(&self) -> Mark {
        let mark = self.opaque[4];
        Mark { slot: mark as u32, generation: (mark >> 32) as u32 }
    }

    /// What the lease says, if it is one that [`Lease::new`] could have made.
    pub(super) fn parts(&self) -> Result<Parts, Failure> {
        let [pool, high, low, rest] = self.place();
        let port = rest as u16;
        let protocol = match (rest >> 16) as u8 {
            6 => ledger::Protocol::Tcp,
            17 => ledger::Protocol::Udp,
            _ => return Err(Error::StaleLease.into()),
        };
        let address = match (rest >> 24) as u8 {
            4 => SocketAddr::V4(SocketAddrV4::new((low as u32).into(), port)),
            6 => {
                let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, (rest >> 32) as u32))
            }
            _ => return Err(Error::StaleLease.into()),
        };
        let destination = Destination::new(protocol, address);
        match place(pool, &destination) == self.place() {
            true => Ok(Parts { pool, destination, mark: self.mark() }),
            false => Err(Error::StaleLease.into()),
        }
    }
}

impl From<Parts> for Lease {
    fn from(parts: Parts) -> Self {
        Self::new(place(parts.pool, &parts.destination), parts.mark)
    }
}

/// The address of a source: its port does not matter.
pub(super) fn ip(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_gives_back_what_it_was_made_of() {
        for address in ["127.0.0.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:443", "1.2.3.4:1"] {
            for protocol in [ledger::Protocol::Tcp, ledger::Protocol::Udp] {
                let destination = Destination::new(protocol, address.parse().unwrap());
                let mark = Mark { slot: u32::MAX - 1, generation: 0x8000_0001 };
                let parts = Parts { pool: u64::MAX - 7, destination, mark };
                assert_eq!(Lease::from(parts).parts().unwrap(), parts);
            }
        }
    }

    #[test]
    fn what_no_lease_looks_like_is_stale() {
        assert!(Lease::default().parts().is_err());
        assert!(Lease { opaque: [u64::MAX; 5] }.parts().is_err());
        // An IPv4 address in a spelling that is not ours.
        let to = Destination::new(ledger::Protocol::Tcp, "127.0.0.1:80".parse().unwrap());
        let mark = Mark { slot: 1, generation: 1 };
        let mut lease = Lease::from(Parts { pool: 1, destination: to, mark });
        lease.opaque[1] = 1;
        assert!(lease.parts().is_err());
    }
}
