//! UDP sockets: nothing but what their peer sends them.

use super::bind::bind_to;
use super::{BindMode, CallError, SourceOptions, bind};
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// A UDP socket from `source` to `destination` that never hears anybody else. The four-tuple's
/// exclusiveness is the ledger's alone.
pub(crate) fn connected_udp(
    source: SocketAddr,
    destination: SocketAddr,
    options: &SourceOptions,
) -> Result<Socket, CallError> {
    let named = |call| move |error| CallError { call, error };
    let socket = Socket::new(Domain::for_address(source), Type::DGRAM, None);
    let socket = socket.map_err(named("socket"))?;
    deafen(&socket).map_err(named("setsockopt(SO_ATTACH_FILTER)"))?;
    bind(&socket, source, BindMode::Explicit, options)?;
    socket.connect(&SockAddr::from(destination)).map_err(named("connect"))?;
    hear_only(&socket, destination).map_err(named("setsockopt(SO_ATTACH_FILTER)"))?;
    Ok(socket)
}

/// Lets no datagram into the socket's queue until [`hear_only`].
///
/// Between `bind` and `connect` a socket takes what comes to its port from whomever, and it stays
/// queued: after `connect` it would be read as if the peer had sent it.
///
/// The option is `SO_ATTACH_FILTER` (socket(7), Linux 2.2), which needs no privilege and takes the
/// place of a filter that was there before.
fn deafen(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&[keep(0)])
}

/// The end of [`deafen`], for a socket that is connected to `peer`: it hears what `peer` sends.
///
/// The filter stays. A processor may have found the socket for a stranger's datagram before
/// `connect`, and come to the filter only now: to take the filter away would let that one in.
fn hear_only(socket: &Socket, peer: SocketAddr) -> io::Result<()> {
    let (octets, at) = match peer.ip() {
        IpAddr::V4(v4) => (v4.octets().to_vec(), 12),
        IpAddr::V6(v6) => (v6.octets().to_vec(), 8),
    };
    let load = libc::BPF_LD | libc::BPF_ABS;
    // The filter sees the UDP header, which begins with the sender's port (RFC 768).
    let mut program = vec![step(load | libc::BPF_H, 0, 0)];
    program.extend(must_be(peer.port().into()));
    for (word, at) in octets.chunks_exact(4).zip((at..).step_by(4)) {
        let of_ip_header = libc::SKF_NET_OFF as u32;
        program.push(step(load | libc::BPF_W, 0, of_ip_header.wrapping_add(at)));
        program.extend(must_be(u32::from_be_bytes([word[0], word[1], word[2], word[3]])));
    }
    program.push(keep(u32::MAX));
    socket.attach_filter(&program)
}

/// Goes on if what was loaded is `value`, else drops the datagram.
fn must_be(value: u32) -> [SockFilter; 2] {
    [step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, value), keep(0)]
}

/// The end of a program: keeps so many bytes of the datagram, or drops it.
fn keep(bytes: u32) -> SockFilter {
    step(libc::BPF_RET | libc::BPF_K, 0, bytes)
}

fn step(code: u32, skip_if_equal: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, skip_if_equal, 0, k)
}

/// Binds to a port that nobody shares: a socket without `SO_REUSEADDR` lets no other beside it,
/// whatever that one has set (socket(7)).
pub(crate) fn bind_alone(
    socket: &Socket,
    source: SocketAddr,
    options: &SourceOptions,
) -> Result<(), CallError> {
    options.apply(socket, source)?;
    bind_to(socket, source)
}
