//! From a bound socket to a connected one.

use super::CallError;
use crate::ledger::{Family, Protocol};
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Connected,
    InProgress,
}

/// A new TCP socket, closed on exec.
pub(crate) fn stream_socket(family: Family, nonblocking: bool) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let kind = if nonblocking { Type::STREAM.nonblocking() } else { Type::STREAM };
    Socket::new(domain, kind, None)
}

/// connect(2). An interrupted call goes on in the kernel, and so does the wait for it.
///
/// # Errors
///
/// The kernel's; `ETIMEDOUT` for a blocking socket that is not connected when its `SO_SNDTIMEO` is
/// over, where the kernel says `EINPROGRESS` (socket(7)).
pub(crate) fn connect(socket: &Socket, to: SocketAddr) -> io::Result<Progress> {
    match socket.connect(&to.into()) {
        Ok(()) => Ok(Progress::Connected),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            match socket.nonblocking()? {
                true => Ok(Progress::InProgress),
                false => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            wait_connected(socket, None)?;
            Ok(Progress::Connected)
        }
        Err(error) => Err(error),
    }
}

/// Whether connect(2) that answered so has begun a connection, which goes on without it.
pub(crate) fn is_under_way(answer: &io::Result<()>) -> bool {
    let errno = answer.as_ref().err().map(io::Error::raw_os_error);
    matches!(errno, None | Some(Some(libc::EINPROGRESS | libc::EINTR)))
}

/// Waits with poll(2) until a connection that is in progress is there or failed; `ETIMEDOUT` where
/// that takes longer than `timeout`.
pub(crate) fn wait_connected(socket: &Socket, timeout: Option<Duration>) -> io::Result<()> {
    // A timeout that no clock can show is none.
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    loop {
        let wait_ms = match end {
            None => -1,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                left.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX)
            }
        };
        // SAFETY: the pointer is to one `pollfd`, which is ours and writable.
        match unsafe { libc::poll(&raw mut poll, 1, wait_ms) } {
            0 if end.is_some_and(|end| end <= Instant::now()) => {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            0 => {}
            1.. => return socket.take_error()?.map_or(Ok(()), Err),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Takes `O_NONBLOCK` off.
pub(crate) fn set_blocking(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(false)
}

/// Protocol and both ends of a connected socket: `SO_TYPE`, getsockname(2), getpeername(2).
pub(crate) fn ends(
    socket: BorrowedFd<'_>,
) -> Result<(Protocol, SocketAddr, SocketAddr), CallError> {
    let socket = SockRef::from(&socket);
    let named = |call| move |error| CallError { call, error };
    let not_ip = |call| CallError { call, error: io::Error::from_raw_os_error(libc::EAFNOSUPPORT) };
    let protocol = match socket.r#type().map_err(named("getsockopt(SO_TYPE)"))? {
        Type::STREAM => Protocol::Tcp,
        Type::DGRAM => Protocol::Udp,
        _ => return Err(not_ip("getsockopt(SO_TYPE)")),
    };
    let source = socket.local_addr().map_err(named("getsockname"))?;
    let destination = socket.peer_addr().map_err(named("getpeername"))?;
    Ok((
        protocol,
        source.as_socket().ok_or_else(|| not_ip("getsockname"))?,
        destination.as_socket().ok_or_else(|| not_ip("getpeername"))?,
    ))
}
