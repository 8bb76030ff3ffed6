//! What the kernel says of a program's descriptor. Each function is one system call.

use super::{address, real};
use libc::{c_int, sockaddr_storage, socklen_t};
use portlease::Protocol;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// TCP or UDP; `None` for all else, such as MPTCP, pipes and files (`SO_PROTOCOL`, socket(7)).
pub(crate) fn protocol(fd: c_int) -> Option<Protocol> {
    match get::<c_int>(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)? {
        libc::IPPROTO_TCP => Some(Protocol::Tcp),
        libc::IPPROTO_UDP => Some(Protocol::Udp),
        _ => None,
    }
}

/// A number that no other socket has had since the host started (`SO_COOKIE`, Linux 4.12).
pub(crate) fn cookie(fd: c_int) -> Option<u64> {
    get::<u64>(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// The address that the socket is bound to.
pub(crate) fn source(fd: c_int) -> Option<SocketAddr> {
    let (storage, len) = bound(fd)?;
    // SAFETY: the kernel has written `len` bytes at most, and all of them can be read.
    unsafe { address::read(storage.as_ptr().cast(), len) }
}

/// Whether `bind` leaves the port to `connect` (`IP_BIND_ADDRESS_NO_PORT`, ip(7), Linux 4.2).
pub(crate) fn leave_port(fd: c_int, leave: bool) -> bool {
    let value = c_int::from(leave);
    // SAFETY: `value` is a number that is only read.
    let answer = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    answer == 0
}

/// Binds a socket that has an address to a port of the kernel's choice.
pub(crate) fn take_port(fd: c_int) {
    leave_port(fd, false);
    if let Some((bound, len)) = bound(fd) {
        // SAFETY: what the kernel wrote is an address of that length.
        unsafe { real::bind(fd, bound.as_ptr().cast(), len) };
    }
}

/// Takes [`take_port`] back. A port of the kernel's choice goes with the state of the socket: from
/// LISTEN, where it is for a moment, to CLOSE again (`tcp_set_state` in net/ipv4/tcp.c; `AF_UNSPEC`,
/// connect(2)). Its address stays.
pub(crate) fn give_up_port(fd: c_int) {
    let nobody = MaybeUninit::<libc::sockaddr>::zeroed();
    // SAFETY: zeroes are an address of the family `AF_UNSPEC`.
    unsafe {
        if libc::listen(fd, 0) == 0 {
            real::connect(fd, nobody.as_ptr(), size_of::<libc::sockaddr>() as socklen_t);
        }
    }
    leave_port(fd, true);
}

fn bound(fd: c_int) -> Option<(MaybeUninit<sockaddr_storage>, socklen_t)> {
    let mut storage = MaybeUninit::<sockaddr_storage>::zeroed();
    let mut len = size_of::<sockaddr_storage>() as socklen_t;
    // SAFETY: `storage` is writable and `len` long.
    let answer = unsafe { real::getsockname(fd, storage.as_mut_ptr().cast(), &raw mut len) };
    (answer == 0).then_some((storage, len))
}

/// A program's descriptor, as the library takes it.
pub(crate) fn borrow(fd: c_int) -> BorrowedFd<'static> {
    // SAFETY: not -1, as the kernel has said something of it; it is used during the program's own
    // call with it alone, and were it closed meanwhile, a system call would say so.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn get<T>(fd: c_int, level: c_int, name: c_int) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: `value` is writable and `len` long.
    let answer =
        unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) };
    // SAFETY: zeroed, and called with integers alone, of which any bytes are a value.
    (answer == 0).then(|| unsafe { value.assume_init() })
}
