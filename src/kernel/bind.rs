//! Binding a socket to a leased source, in either mode.

use super::{BindMode, SourceOptions, options};
use socket2::{SockAddr, Socket, Type};
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
/// with [`bound_as_leased`].
pub(crate) fn bind(
    socket: &Socket,
    source: SocketAddr,
    mode: BindMode,
    options: &SourceOptions,
) -> Result<(), CallError> {
    let named = |call| move |error| CallError { call, error };
    options.apply(socket, source)?;
    let mut address = source;
    match mode {
        BindMode::Explicit => {
            socket.set_reuse_address(true).map_err(named("setsockopt(SO_REUSEADDR)"))?;
            // Without it every bind walks all sockets of the port: 10,000 destinations on one
            // port cost 354 us a bind, with it 0.6 us. UDP would share datagrams by it.
            if socket.r#type().map_err(named("getsockopt(SO_TYPE)"))? == Type::STREAM {
                socket.set_reuse_port(true).map_err(named("setsockopt(SO_REUSEPORT)"))?;
            }
        }
        BindMode::Late => {
            options::set_bind_address_no_port(socket)
                .map_err(named("setsockopt(IP_BIND_ADDRESS_NO_PORT)"))?;
            options::set_local_port(socket, source.port())
                .map_err(named("setsockopt(IP_LOCAL_PORT_RANGE)"))?;
            address.set_port(0);
        }
    }
    socket.bind(&SockAddr::from(address)).map_err(named("bind"))
}

/// Whether a connected socket has the port that it was leased: the kernel silently ignores
/// `IP_LOCAL_PORT_RANGE` where `ip_local_port_range` changed under us.
pub(crate) fn bound_as_leased(socket: &Socket, source: SocketAddr) -> io::Result<bool> {
    let bound = socket.local_addr()?.as_socket();
    Ok(bound.is_some_and(|bound| bound.ip() == source.ip() && bound.port() == source.port()))
}
