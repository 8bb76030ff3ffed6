//! The messages of sock_diag(7), byte by byte. All numbers are in the host's order, but for
//! addresses and ports.

use crate::ledger::{Family, FourTuple, PortRange, Protocol, canonical};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Bits for the states of a socket (`include/net/tcp_states.h`). A UDP socket without a peer is in
/// `CLOSE`, one with a peer in the first of `CONNECTED`.
pub(super) const CLOSE: u32 = 1 << 7;
pub(super) const LISTEN: u32 = 1 << 10;
/// All states of a socket that has a peer: 1 to 11, but for the two above.
pub(super) const CONNECTED: u32 = 0xffe & !(CLOSE | LISTEN);
const TIME_WAIT: u8 = 6;
/// `idiag_timer`, sock_diag(7).
const TIMER_TIME_WAIT: u8 = 3;

/// Those of `linux/sock_diag.h` and `linux/inet_diag.h` that libc does not have.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_GE: u8 = 2;
const INET_DIAG_BC_S_LE: u8 = 3;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// `struct nlmsghdr`: length, type, flags, sequence number, port id.
const HEADER_LEN: usize = 16;
/// `struct inet_diag_msg`: family, state, timer, retransmits, a socket id, and five numbers.
const ENTRY_LEN: usize = 72;
/// Messages and attributes begin at multiples of this.
const ALIGN: usize = 4;

/// Which sockets to tell of.
pub(super) struct Request {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) states: u32,
    pub(super) ports: PortRange,
}

/// One message of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) what: What,
    /// The list changed while it was told.
    pub(super) interrupted: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Entry(Entry),
    /// The list is complete.
    Done,
    /// With an errno.
    Failed(i32),
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// In canonical form, with the interface as scope id where that means something.
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) is_time_wait: bool,
    /// Until the timer that is running goes off, in milliseconds.
    pub(super) expires_ms: u32,
    pub(super) interface: u32,
    /// Whether a file stands for it: one that is closed has no inode any more.
    pub(super) has_holder: bool,
    pub(super) v6_only: bool,
}

// ---- to the kernel ------------------------------------------------------------------------

/// Asks for a list.
pub(super) fn dump(sequence: u32, request: &Request) -> Vec<u8> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    let mut message = begin(sequence, flags, request.family, request.protocol, request.states);
    message.resize(message.len() + 48, 0);
    let filter = between(request.ports);
    message.extend((4 + filter.len() as u16).to_ne_bytes());
    message.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    message.extend(filter);
    end(message)
}

/// Asks for one socket.
pub(super) fn lookup(sequence: u32, four_tuple: &FourTuple, interface: u32) -> Vec<u8> {
    let FourTuple { source, destination } = four_tuple;
    let protocol = destination.protocol();
    let mut message = begin(sequence, libc::NLM_F_REQUEST, destination.family(), protocol, !0);
    // For UDP, and one socket, the kernel takes them the other way round (`udp_dump_one`).
    let (first, second) = match protocol {
        Protocol::Tcp => (*source, destination.address()),
        Protocol::Udp => (destination.address(), *source),
    };
    for end in [first, second] {
        message.extend(end.port().to_be_bytes());
    }
    for end in [first, second] {
        let mut address = [0; 16];
        match end.ip() {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        message.extend(address);
    }
    message.extend(interface.to_ne_bytes());
    // No cookie: whichever socket it is.
    message.extend([0xff; 8]);
    end(message)
}

/// `struct nlmsghdr` and the first half of `struct inet_diag_req_v2`.
fn begin(sequence: u32, flags: i32, family: Family, protocol: Protocol, states: u32) -> Vec<u8> {
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let mut message = vec![0; 4];
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([family as u8, protocol as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    message
}

fn end(mut message: Vec<u8>) -> Vec<u8> {
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

/// A filter of two `struct inet_diag_bc_op` pairs, that the kernel runs for each socket: its
/// source port is one of `ports`. To jump beyond the end is to say no.
fn between(ports: PortRange) -> Vec<u8> {
    let mut filter = Vec::new();
    for (code, no, port) in
        [(INET_DIAG_BC_S_GE, 20, ports.first()), (INET_DIAG_BC_S_LE, 12, ports.last())]
    {
        filter.extend([code, 8]);
        filter.extend(u16::to_ne_bytes(no));
        filter.extend([0, 0]);
        filter.extend(port.to_ne_bytes());
    }
    filter
}

// ---- from the kernel ----------------------------------------------------------------------

/// The messages of one datagram. What is no answer to `sequence`, too short, or of another kind is
/// passed over.
pub(super) fn answers(mut bytes: &[u8], sequence: u32) -> impl Iterator<Item = Answer> {
    std::iter::from_fn(move || {
        loop {
            let len = u32_at(bytes, 0)? as usize;
            if len < HEADER_LEN || len > bytes.len() {
                return None;
            }
            let (message, rest) = bytes.split_at(len);
            bytes = rest.get(len.next_multiple_of(ALIGN) - len..).unwrap_or_default();
            if u32_at(message, 8) == Some(sequence) {
                if let Some(answer) = answer(message) {
                    return Some(answer);
                }
            }
        }
    })
}

fn answer(message: &[u8]) -> Option<Answer> {
    let (kind, flags) = (u16_at(message, 4)?, u16_at(message, 6)?);
    let body = &message[HEADER_LEN..];
    let end = |errno: u32| match errno as i32 {
        0 => What::Done,
        errno => What::Failed(-errno),
    };
    let what = match i32::from(kind) {
        // The end of a list says whether it failed.
        libc::NLMSG_DONE => end(u32_at(body, 0).unwrap_or(0)),
        libc::NLMSG_ERROR => end(u32_at(body, 0)?),
        _ if kind == SOCK_DIAG_BY_FAMILY => What::Entry(entry(body)?),
        _ => return None,
    };
    let interrupted = flags & libc::NLM_F_DUMP_INTR as u16 != 0;
    Some(Answer { what, interrupted })
}

/// `struct inet_diag_msg` and its attributes.
fn entry(body: &[u8]) -> Option<Entry> {
    let attributes = body.get(ENTRY_LEN..)?;
    let is_v6 = i32::from(body[0]) == libc::AF_INET6;
    let interface = u32_at(body, 40)?;
    let address = |port_at: usize, address_at: usize| {
        let port = u16::from_be_bytes(body[port_at..port_at + 2].try_into().ok()?);
        let octets: [u8; 16] = body[address_at..address_at + 16].try_into().ok()?;
        let [a, b, c, d, ..] = octets;
        Some(match is_v6 {
            false => SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)),
            true => canonical(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, interface).into()),
        })
    };
    Some(Entry {
        source: address(4, 8)?,
        destination: address(6, 24)?,
        // Also that of a socket whose peer is still to close: the kernel keeps as little of it.
        is_time_wait: body[1] == TIME_WAIT || body[2] == TIMER_TIME_WAIT,
        expires_ms: u32_at(body, 52)?,
        interface,
        has_holder: u32_at(body, 68)? != 0,
        v6_only: attribute(attributes, INET_DIAG_SKV6ONLY).is_some_and(|value| value[0] != 0),
    })
}

/// The value of one `struct nlattr`, at least a byte long.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let value = bytes.get(4..len).filter(|value| !value.is_empty());
        if kind == wanted {
            return value;
        }
        bytes = bytes.get(len.next_multiple_of(ALIGN).max(ALIGN)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Destination;

    const SEQUENCE: u32 = 7;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_LEN as u32 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    /// A link-local socket in TIME_WAIT, with two attributes.
    fn body() -> Vec<u8> {
        let mut body = vec![libc::AF_INET6 as u8, TIME_WAIT, 3, 0];
        body.extend(5000u16.to_be_bytes());
        body.extend(443u16.to_be_bytes());
        body.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        body.extend("fe80::2".parse::<Ipv6Addr>().unwrap().octets());
        body.extend(9u32.to_ne_bytes());
        body.extend([0xff; 8]);
        body.extend(41_000u32.to_ne_bytes());
        body.extend([0; 12]);
        body.extend(77u32.to_ne_bytes());
        for (kind, value) in [(8, 1), (INET_DIAG_SKV6ONLY, 1)] {
            body.extend(5u16.to_ne_bytes());
            body.extend(u16::to_ne_bytes(kind));
            body.extend([value, 0, 0, 0]);
        }
        body
    }

    fn whats(bytes: &[u8]) -> Vec<What> {
        answers(bytes, SEQUENCE).map(|answer| answer.what).collect()
    }

    #[test]
    fn an_entry_is_read_with_its_scope_and_attributes() {
        let entry = Entry {
            source: "[fe80::1%9]:5000".parse().unwrap(),
            destination: "[fe80::2%9]:443".parse().unwrap(),
            is_time_wait: true,
            expires_ms: 41_000,
            interface: 9,
            has_holder: true,
            v6_only: true,
        };
        let bytes = message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &body());
        assert_eq!(whats(&bytes), [What::Entry(entry)]);
    }

    #[test]
    fn a_datagram_that_ends_early_is_read_as_far_as_it_goes() {
        let bytes = message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &body());
        for len in 0..bytes.len() {
            assert_eq!(whats(&bytes[..len]), [], "{len} bytes");
        }
        for len in 0..body().len() {
            let bytes = message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE, &body()[..len]);
            assert_eq!(whats(&bytes).len(), usize::from(len >= ENTRY_LEN), "{len} bytes of body");
        }
    }

    #[test]
    fn what_is_not_for_us_is_passed_over_and_the_end_says_how_it_ended() {
        let errno = |errno: i32| (-errno).to_ne_bytes();
        let mut bytes = message(SOCK_DIAG_BY_FAMILY, 2, SEQUENCE - 1, &body());
        bytes.extend(message(libc::NLMSG_NOOP as u16, 0, SEQUENCE, &[]));
        bytes.extend(message(libc::NLMSG_DONE as u16, 2, SEQUENCE, &errno(0)));
        assert_eq!(whats(&bytes), [What::Done]);
        let failed = message(libc::NLMSG_DONE as u16, 2, SEQUENCE, &errno(libc::ENOBUFS));
        assert_eq!(whats(&failed), [What::Failed(libc::ENOBUFS)]);
        let failed = message(libc::NLMSG_ERROR as u16, 0, SEQUENCE, &errno(libc::ENOENT));
        assert_eq!(whats(&failed), [What::Failed(libc::ENOENT)]);
        let interrupted = libc::NLM_F_DUMP_INTR as u16;
        let bytes = message(libc::NLMSG_DONE as u16, interrupted, SEQUENCE, &errno(0));
        let answers: Vec<_> = answers(&bytes, SEQUENCE).collect();
        assert_eq!(answers, [Answer { what: What::Done, interrupted: true }]);
    }

    #[test]
    fn one_udp_socket_is_asked_for_with_its_ends_exchanged() {
        let four_tuple = |protocol| FourTuple {
            source: "127.0.0.2:5000".parse().unwrap(),
            destination: Destination::new(protocol, "127.0.0.1:700".parse().unwrap()),
        };
        let ports = |protocol| lookup(1, &four_tuple(protocol), 0)[24..28].to_vec();
        assert_eq!(ports(Protocol::Tcp), [0x13, 0x88, 0x02, 0xbc]);
        assert_eq!(ports(Protocol::Udp), [0x02, 0xbc, 0x13, 0x88]);
    }
}
