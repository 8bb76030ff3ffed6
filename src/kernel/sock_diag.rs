//! The sockets that the kernel holds: sock_diag(7), Linux 3.3.

use crate::ledger::Protocol;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket that somebody in this network namespace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) protocol: Protocol,
    pub(crate) state: State,
    pub(crate) source: SocketAddr,
    /// Port 0: not connected.
    pub(crate) destination: SocketAddr,
}

/// What the kernel's state means for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Listen,
    TimeWait,
    /// Connected, connecting or closing.
    Connected,
    /// Bound, or about to vanish.
    Unconnected,
}

/// All sockets of one protocol, of both families and in all states.
pub(crate) fn sockets(protocol: Protocol) -> io::Result<Vec<Held>> {
    sockets_in(protocol, u32::MAX)
}

/// TCP's listening sockets, of both families: the kernel looks at no other for it.
pub(crate) fn listeners() -> io::Result<Vec<Held>> {
    /// `TCP_LISTEN` of `net/tcp_states.h`.
    const LISTEN: u32 = 10;
    sockets_in(Protocol::Tcp, 1 << LISTEN)
}

/// `states`: a bit for each state of `net/tcp_states.h`.
fn sockets_in(protocol: Protocol, states: u32) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family as u8, protocol, states, &mut held)?;
    }
    Ok(held)
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = HEADER + 56;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;

fn dump(family: u8, protocol: Protocol, states: u32, held: &mut Vec<Held>) -> io::Result<()> {
    // SAFETY: a plain system call; the answer is checked below.
    let raw = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            libc::NETLINK_SOCK_DIAG,
        )
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let request = request(family, protocol, states);
    // SAFETY: the pointer and the length describe `request`; the kernel's port is the default.
    let sent = unsafe { libc::send(raw, request.as_ptr().cast(), request.len(), 0) };
    if sent != request.len() as isize {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        // SAFETY: the pointer and the length describe `buffer`, which is writable.
        let got = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        };
        if got < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        let answer = buffer.get(..got as usize).ok_or_else(short)?;
        if take(answer, protocol, held)? {
            return Ok(());
        }
    }
}

fn request(family: u8, protocol: Protocol, states: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[HEADER] = family;
    request[HEADER + 1] = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    };
    request[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Takes the messages of one answer; `true` after the last one.
fn take(mut answer: &[u8], protocol: Protocol, held: &mut Vec<Held>) -> io::Result<bool> {
    while answer.len() >= HEADER {
        let length = u32::from_ne_bytes(answer[..4].try_into().expect("four bytes")) as usize;
        let kind = i32::from(u16::from_ne_bytes([answer[4], answer[5]]));
        let body = answer.get(HEADER..length).ok_or_else(short)?;
        if kind == libc::NLMSG_DONE || kind == libc::NLMSG_ERROR {
            let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
            return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(true) };
        }
        held.push(parse(body.get(..MESSAGE).ok_or_else(short)?, protocol));
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct inet_diag_msg`: family, state, timer, retransmits, ports, addresses, interface.
fn parse(message: &[u8], protocol: Protocol) -> Held {
    let scope = u32::from_ne_bytes(message[40..44].try_into().expect("four bytes"));
    let end = |port: usize, address: usize| {
        let number = u16::from_be_bytes([message[port], message[port + 1]]);
        let bytes: [u8; 16] = message[address..address + 16].try_into().expect("sixteen bytes");
        if message[0] == libc::AF_INET as u8 {
            let ip = Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
            return SocketAddr::from((ip, number));
        }
        let ip = Ipv6Addr::from(bytes);
        match ip.to_canonical() {
            IpAddr::V6(_) if ip.is_unicast_link_local() => {
                SocketAddr::V6(SocketAddrV6::new(ip, number, 0, scope))
            }
            canonical => SocketAddr::new(canonical, number),
        }
    };
    let destination = end(6, 24);
    let state = match message[1] {
        10 => State::Listen,
        6 => State::TimeWait,
        _ if destination.port() == 0 => State::Unconnected,
        _ => State::Connected,
    };
    Held { protocol, state, source: end(4, 8), destination }
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sock_diag: a message shorter than it says")
}
