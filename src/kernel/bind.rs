//! Binding a socket to a leased source, in either mode.

use super::{BindMode, SourceOptions, connect::stream_socket, options};
use crate::error::Error;
use crate::ledger::{Family, canonical};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// A system call that the kernel refused.
#[derive(Debug)]
pub(crate) struct CallError {
    /// The call, as its manual page is named.
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
}

/// Binds a new socket to `source`. In late mode the port is taken by `connect`; check it then
/// with [`check_source`].
pub(crate) fn bind(
    socket: &Socket,
    source: SocketAddr,
    mode: BindMode,
    source_options: &SourceOptions,
) -> Result<(), CallError> {
    let named = |call| move |error| CallError { call, error };
    source_options.apply(socket, source)?;
    match mode {
        BindMode::Explicit => {
            socket.set_reuse_address(true).map_err(named("setsockopt(SO_REUSEADDR)"))?;
            // UDP sockets would share datagrams by SO_REUSEPORT, and bind no faster.
            match socket.r#type().map_err(named("getsockopt(SO_TYPE)"))? {
                Type::STREAM => bind_beside_our_own(socket, source),
                _ => bind_to(socket, source),
            }
        }
        BindMode::Late => {
            options::set_bind_address_no_port(socket)
                .map_err(named("setsockopt(IP_BIND_ADDRESS_NO_PORT)"))?;
            options::set_local_port(socket, source.port())
                .map_err(named("setsockopt(IP_LOCAL_PORT_RANGE)"))?;
            bind_to(socket, with_port(source, 0))
        }
    }
}

/// `SO_REUSEADDR` alone lets any number of our sockets share a port, but `bind` then looks at each
/// of them (`inet_csk_bind_conflict`). With `SO_REUSEPORT` it looks at none if the last socket that
/// was bound to the port had the same user and address (`sk_reuseport_match`). Only `bind` needs
/// it: taken back, it keeps others from the wildcard address as if it had never been set.
fn bind_beside_our_own(socket: &Socket, source: SocketAddr) -> Result<(), CallError> {
    let named = |error| CallError { call: "setsockopt(SO_REUSEPORT)", error };
    socket.set_reuse_port(true).map_err(named)?;
    bind_to(socket, source)?;
    socket.set_reuse_port(false).map_err(named)
}

pub(super) fn bind_to(socket: &Socket, address: SocketAddr) -> Result<(), CallError> {
    let bound = socket.bind(&SockAddr::from(address));
    bound.map_err(|error| CallError { call: "bind", error })
}

/// `source` as `socket` has to hear it: an IPv6 socket that dials an IPv4-mapped destination takes
/// an IPv4-mapped source (ipv6(7); `SO_DOMAIN`, socket(7), Linux 2.6.32).
pub(crate) fn as_written_for(socket: &Socket, source: SocketAddr) -> io::Result<SocketAddr> {
    match source {
        SocketAddr::V4(v4) if socket.domain()? == Domain::IPV6 => {
            Ok(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())))
        }
        _ => Ok(source),
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Looks whether a connected or connecting socket has the source that it was leased: where
/// `ip_local_port_range` has changed the kernel ignores `IP_LOCAL_PORT_RANGE` without a word, and
/// takes any port. Such a socket must be closed: the pool has not leased what it holds.
///
/// # Errors
///
/// `EADDRNOTAVAIL` for a socket on another source.
pub(crate) fn check_source(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    let bound = socket.local_addr()?.as_socket();
    match bound.is_some_and(|bound| canonical(bound) == canonical(source)) {
        true => Ok(()),
        false => Err(taken()),
    }
}

/// As connect(2) says that a four-tuple is in use.
pub(crate) fn taken() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)
}

/// Whether sockets can have this source address at all, tried with a socket on no port.
///
/// # Errors
///
/// [`Error::Config`] for an address that is not ours, an interface that is not there or a right
/// that is missing, each with the way out; [`Error::Os`] for the rest.
pub(crate) fn check_bindable(
    source: SocketAddr,
    source_options: &SourceOptions,
) -> Result<(), Error> {
    let os = |CallError { call, error }| Error::Os {
        call,
        source_address: Some(source),
        destination: None,
        error,
    };
    let problem = |error: &io::Error, way_out: String| Error::Config {
        problem: format!("source {}: {error}: {way_out}", source.ip()),
    };
    let socket = stream_socket(Family::of(source.ip()), false)
        .map_err(|error| os(CallError { call: "socket", error }))?;
    source_options.apply(&socket, source).map_err(|refused| {
        match refused.error.raw_os_error() {
            Some(libc::ENODEV) => {
                let device = source_options.device.as_deref().unwrap_or_default();
                let way_out = format!("there is no interface '{device}' (SourceOptions::device)");
                problem(&refused.error, way_out)
            }
            Some(libc::EPERM) => problem(
                &refused.error,
                "SourceOptions::transparent, mark and device need CAP_NET_ADMIN or CAP_NET_RAW"
                    .into(),
            ),
            _ => os(refused),
        }
    })?;
    // Without it (before Linux 4.2) a port is taken for a moment, which does no harm either.
    let _ = options::set_bind_address_no_port(&socket);
    bind_to(&socket, with_port(source, 0)).map_err(|refused| match refused.error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => problem(
            &refused.error,
            "no address of this host: add it to an interface, or set freebind".into(),
        ),
        Some(libc::EINVAL) if source.is_ipv6() => problem(
            &refused.error,
            "a link-local address takes its interface, as in fe80::7%eth0".into(),
        ),
        _ => os(refused),
    })
}
