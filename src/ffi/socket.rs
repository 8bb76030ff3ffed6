//! Sockets

use super::lease::named;
use super::pool::Pool;
use super::status::{ErrorInfo, Failure, Status, answer};
use super::types::{Closed, Lease, Progress, unknown};
use super::{address, object, place};
use crate::connect::{ConnectOptions, LeasedStream, LeasedUdpSocket};
use crate::error::Error;
use socket2::SockRef;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// Makes a socket and connects it to a destination, from a four-tuple of the pool's.
/// socket_type is SOCK_STREAM (TCP) or SOCK_DGRAM (UDP), as for socket(2), and with it
/// SOCK_NONBLOCK, SOCK_CLOEXEC or both. A source port that somebody else turns out to hold costs another try,
/// never a failure: it is left alone for a while, and the next one is tried with a new socket.
///
/// With SOCK_NONBLOCK the connection may still be on its way: progress, a place for a
/// portlease_progress that may be NULL, tells. All that another source could help against is
/// known by then, so the SO_ERROR that comes later is the destination's.
///
/// End the connection with portlease_pool_close(), or by close(2) and then
/// portlease_pool_release().
///
/// PORTLEASE_EXHAUSTED, PORTLEASE_NO_SOURCE: as portlease_pool_acquire(). PORTLEASE_OS: the
/// destination's own refusal, such as ECONNREFUSED, or the process's limits, such as EMFILE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_connect(
    pool: *const Pool,
    socket_type: i32,
    dst: *const libc::sockaddr,
    dst_len: libc::socklen_t,
    fd: *mut i32,
    lease: *mut Lease,
    progress: *mut Progress,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions, both.
        let (pool, dst) = unsafe { (object("pool", pool)?, address::read("dst", dst, dst_len)?) };
        let tcp = |options: &ConnectOptions<'_>| pool.0.connect_with(dst, options);
        let udp = || pool.0.connect_udp(dst);
        // SAFETY: the conventions.
        unsafe { connect(socket_type, &tcp, Some(&udp), fd, lease, progress) }
    })
}

/// Binds a new socket of yours to the lease's source, with all options that this needs. A socket
/// that you have bound to the lease's address already, with or without its port, keeps its
/// address.
///
/// A late-bound socket has no port until connect(2).
///
/// PORTLEASE_OS: the kernel's answer; close the socket and hand the errno to
/// portlease_pool_report() with PORTLEASE_CALL_BIND. PORTLEASE_BOUND_ELSEWHERE: it is bound to
/// another address or port; portlease_pool_acquire_from() gives a lease for a given address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_lease_bind(
    pool: *const Pool,
    lease: *const Lease,
    fd: i32,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        let leased = pool.0.source_of(id)?;
        // SAFETY: the caller keeps the descriptor open during the call; one that is closed only
        // gives `EBADF`.
        let socket = unsafe { borrow(fd) }?;
        let bound = SockRef::from(&socket).local_addr().map_err(|error| refused(fd, error))?;
        let bound = bound.as_socket().ok_or_else(|| descriptor(fd, libc::EAFNOSUPPORT))?;
        match (bound.port(), bound.ip() == leased.ip()) {
            (port, true) if port == leased.port() => return Ok(()),
            // Its address alone: the kernel lets the port follow (`__inet_bind`).
            (0, true) => {}
            (0, _) if bound.ip().is_unspecified() => {}
            _ => return Err(Failure::BoundElsewhere { bound, leased }),
        }
        Ok(pool.0.bind_id(id, &socket)?)
    })
}

/// Takes a connection that was inherited, received or made elsewhere into the pool: from now on
/// its four-tuple is leased. The descriptor stays yours.
///
/// PORTLEASE_NOT_OURS: its source is none of the pool's. PORTLEASE_TAKEN: its four-tuple is
/// leased already. PORTLEASE_OS: it is not connected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_adopt(
    pool: *const Pool,
    fd: i32,
    lease: *mut Lease,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("lease", lease)?;
        // SAFETY: the conventions.
        let pool = unsafe { object("pool", pool) }?;
        // SAFETY: as in `portlease_lease_bind`.
        let socket = unsafe { borrow(fd) }?;
        SockRef::from(&socket).r#type().map_err(|error| refused(fd, error))?;
        let parts = pool.0.adopt_parts(socket)?;
        // SAFETY: not NULL, so a place of the caller's for a lease.
        unsafe { out.write(parts.into()) };
        Ok(())
    })
}

/// Asks the kernel whose end of a connection is closed first, just before you close its socket:
/// closed, a place for a portlease_closed, gets what portlease_pool_release() is to be told after
/// close(2). For programs that leave the closing to somebody else; portlease_pool_close() does all
/// of it.
///
/// PORTLEASE_STALE_LEASE, PORTLEASE_BAD_DESCRIPTOR: nothing was asked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_lease_closing(
    pool: *const Pool,
    lease: *const Lease,
    fd: i32,
    closed: *mut Closed,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("closed", closed)?;
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        pool.0.source_of(id)?;
        // SAFETY: as in `portlease_lease_bind`.
        let socket = unsafe { borrow(fd) }?;
        SockRef::from(&socket).r#type().map_err(|error| refused(fd, error))?;
        let closed = pool.0.closing_id(id, &socket)?;
        // SAFETY: not NULL, so a place of the caller's for a closed.
        unsafe { out.write(closed.into()) };
        Ok(())
    })
}

/// Ends a connection: asks the kernel whose end was closed first, closes the socket, and then
/// releases the lease, to rest as long as the kernel needs.
///
/// PORTLEASE_STALE_LEASE, PORTLEASE_BAD_DESCRIPTOR: nothing was closed and nothing released, for
/// the number may be another connection's by now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_close(
    pool: *const Pool,
    fd: i32,
    lease: *const Lease,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        pool.0.source_of(id)?;
        // SAFETY: as in `portlease_lease_bind`.
        let socket = unsafe { borrow(fd) }?;
        // A datagram socket has no such answer, and needs none.
        SockRef::from(&socket).r#type().map_err(|error| refused(fd, error))?;
        // SAFETY: it is open, as the kernel has just told, and the caller gives it to us.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(pool.0.close_id(id, socket)?)
    })
}

type Tcp<'a> = &'a dyn Fn(&ConnectOptions<'_>) -> Result<LeasedStream, Error>;
type Udp<'a> = &'a dyn Fn() -> Result<LeasedUdpSocket, Error>;

/// Connects in one of two ways, and hands over what comes of it.
///
/// # Safety
///
/// The pointers keep to the conventions.
pub(super) unsafe fn connect(
    socket_type: i32,
    tcp: Tcp<'_>,
    udp: Option<Udp<'_>>,
    fd: *mut i32,
    lease: *mut Lease,
    progress: *mut Progress,
) -> Result<(), Failure> {
    let (out_fd, out_lease) = (place("fd", fd)?, place("lease", lease)?);
    let nonblocking = socket_type & libc::SOCK_NONBLOCK != 0;
    let (socket, lease) = match (socket_type & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), udp) {
        (libc::SOCK_STREAM, _) => {
            let options = ConnectOptions::new();
            let options = if nonblocking { options.nonblocking() } else { options };
            let (stream, lease) = tcp(&options)?.into_parts();
            (OwnedFd::from(stream), lease)
        }
        (libc::SOCK_DGRAM, Some(udp)) => {
            let (socket, lease) = udp()?.into_parts();
            (OwnedFd::from(socket), lease)
        }
        _ => {
            let known = "SOCK_STREAM or SOCK_DGRAM, with SOCK_NONBLOCK and SOCK_CLOEXEC";
            return Err(unknown("socket_type", socket_type, known));
        }
    };
    let settings = set_up(&socket, nonblocking, socket_type & libc::SOCK_CLOEXEC != 0);
    if let Err(error) = settings {
        lease.close(socket);
        let call = "fcntl";
        return Err(Error::Os { call, source_address: None, destination: None, error }.into());
    }
    let now = match SockRef::from(&socket).peer_addr() {
        Ok(_) => Progress::Connected,
        Err(_) => Progress::InProgress,
    };
    let id = lease.into_id()?;
    // SAFETY: not NULL, so places of the caller's.
    unsafe {
        out_fd.write(socket.into_raw_fd());
        out_lease.write(id.parts().into());
    }
    if !progress.is_null() {
        // SAFETY: not NULL, so a place of the caller's for a progress.
        unsafe { progress.write(now) };
    }
    Ok(())
}

/// Gives a socket the flags that the caller asked for; it comes with close-on-exec set.
fn set_up(socket: &OwnedFd, nonblocking: bool, cloexec: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if nonblocking {
        socket.set_nonblocking(true)?;
    }
    if !cloexec {
        socket.set_cloexec(false)?;
    }
    Ok(())
}

/// A descriptor of the caller's, for the time of a call.
///
/// # Safety
///
/// The caller keeps it open, if it is.
unsafe fn borrow<'a>(fd: i32) -> Result<BorrowedFd<'a>, Failure> {
    if fd < 0 {
        return Err(descriptor(fd, libc::EBADF));
    }
    // SAFETY: not negative; and the system calls that it is used for tell a closed one apart.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

#[cold]
fn descriptor(fd: i32, errno: i32) -> Failure {
    Failure::Descriptor { fd, errno }
}

/// The kernel's answer to a question about a descriptor.
#[cold]
fn refused(fd: i32, error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(errno @ (libc::EBADF | libc::ENOTSOCK)) => descriptor(fd, errno),
        _ => {
            let call = "getsockopt";
            Error::Os { call, source_address: None, destination: None, error }.into()
        }
    }
}
