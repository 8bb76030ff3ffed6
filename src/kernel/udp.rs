//! A connected UDP socket that has never heard a stranger.

use super::{BindMode, CallError, SourceOptions, bind, options};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::SocketAddr;

/// A UDP socket from `source` to `destination`. A filter that drops all is on it from before
/// `bind` until after `connect`, so nothing that a stranger or a former holder's peer sent in
/// between is queued. The four-tuple's exclusiveness is the ledger's alone.
pub(crate) fn connected_udp(
    source: SocketAddr,
    destination: SocketAddr,
    options: &SourceOptions,
) -> Result<Socket, CallError> {
    let named = |call| move |error| CallError { call, error };
    let domain = Domain::for_address(source);
    let socket = Socket::new(domain, Type::DGRAM, None).map_err(named("socket"))?;
    options::attach_drop_all(&socket).map_err(named("setsockopt(SO_ATTACH_FILTER)"))?;
    bind(&socket, source, BindMode::Explicit, options)?;
    socket.connect(&SockAddr::from(destination)).map_err(named("connect"))?;
    options::detach_filter(&socket).map_err(named("setsockopt(SO_DETACH_FILTER)"))?;
    Ok(socket)
}
