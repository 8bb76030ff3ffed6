//! How a connection ends, seen just before its descriptor is closed.

use super::{Finder, KernelHolds};
use crate::ledger::FourTuple;
use socket2::SockRef;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Whose end of a TCP connection closed first; it decides which end keeps `TIME_WAIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedFirst {
    /// We do: the four-tuple waits on our side.
    Us,
    /// We do, and the ends had not agreed on TCP timestamps: it waits there for longer.
    UsWithoutTimestamps,
    /// The peer did: nothing stays on our side.
    Peer,
    /// Nobody: it was reset, by either end, or never established, and nothing stays.
    Reset,
    /// Not known; treated as [`ClosedFirst::Us`].
    Unknown,
}

/// A TCP connection just before its `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) closed: ClosedFirst,
    /// Both ends agreed on timestamps (RFC 7323), which tell an old connection's segments from
    /// those of a new one on the same four-tuple.
    pub(crate) timestamps: bool,
}

impl Tcp {
    /// The same in one word, for a caller who closes the socket later.
    pub(crate) fn in_a_word(self) -> ClosedFirst {
        match self.closed {
            ClosedFirst::Us if !self.timestamps => ClosedFirst::UsWithoutTimestamps,
            closed => closed,
        }
    }
}

/// Asks the kernel, just before `close`, who closes first: `TCP_INFO`, tcp(7), Linux 2.4.
pub(crate) fn closed_first(
    socket: BorrowedFd<'_>,
    four_tuple: &FourTuple,
    finder: &Finder,
) -> io::Result<Tcp> {
    let info = tcp_info(socket)?;
    let closed = match of_state(info[STATE]) {
        ClosedFirst::Us if will_reset(socket) => ClosedFirst::Reset,
        ClosedFirst::Unknown => left_behind(socket, four_tuple, finder),
        closed => closed,
    };
    Ok(Tcp { closed, timestamps: info[OPTIONS] & OPTION_TIMESTAMPS != 0 })
}

// Bytes of `struct tcp_info`, `uapi/linux/tcp.h`; its fields only ever grow at the end.
const STATE: usize = 0;
const OPTIONS: usize = 5;
const OPTION_TIMESTAMPS: u8 = 1;

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<[u8; OPTIONS + 1]> {
    let mut info = [0; OPTIONS + 1];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: `info` and `length` describe a writable buffer; the kernel fills no more than it.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// The states of `include/net/tcp_states.h`.
fn of_state(state: u8) -> ClosedFirst {
    const ESTABLISHED: u8 = 1;
    const SYN_SENT: u8 = 2;
    const SYN_RECV: u8 = 3;
    const FIN_WAIT1: u8 = 4;
    const FIN_WAIT2: u8 = 5;
    const CLOSE_WAIT: u8 = 8;
    const LAST_ACK: u8 = 9;
    const CLOSING: u8 = 11;
    match state {
        ESTABLISHED | SYN_RECV | FIN_WAIT1 | FIN_WAIT2 | CLOSING => ClosedFirst::Us,
        CLOSE_WAIT | LAST_ACK => ClosedFirst::Peer,
        SYN_SENT => ClosedFirst::Reset,
        // CLOSE: after a reset, and also after both ends were shut down while the descriptor was
        // open, when TIME_WAIT lives on without the socket. sock_diag tells them apart.
        _ => ClosedFirst::Unknown,
    }
}

/// Whether TIME_WAIT lives on without a socket that is out of the kernel's tables already.
fn left_behind(socket: BorrowedFd<'_>, four_tuple: &FourTuple, finder: &Finder) -> ClosedFirst {
    if !matches!(SockRef::from(&socket).device(), Ok(None)) {
        // It takes the number of the interface to ask for it.
        return ClosedFirst::Unknown;
    }
    match finder.holds(four_tuple) {
        Ok(KernelHolds::Nothing) => ClosedFirst::Reset,
        Ok(_) => ClosedFirst::Us,
        Err(_) => ClosedFirst::Unknown,
    }
}

/// Whether our `close` resets the connection (`__tcp_close` in net/ipv4/tcp.c): data that nobody
/// read (RFC 2525 section 2.17; `FIONREAD`, tcp(7)), or `SO_LINGER` of no time (socket(7)).
fn will_reset(socket: BorrowedFd<'_>) -> bool {
    unread(socket).is_ok_and(|bytes| bytes > 0)
        || SockRef::from(&socket).linger().is_ok_and(|linger| linger == Some(Duration::ZERO))
}

fn unread(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `bytes` is a valid place for the answer.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if answer == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_tells_who_closed_first() {
        use ClosedFirst::{Peer, Reset, Unknown, Us};
        for (state, expected) in [
            (1, Us),
            (2, Reset),
            (3, Us),
            (4, Us),
            (5, Us),
            (6, Unknown),
            (7, Unknown),
            (8, Peer),
            (9, Peer),
            (11, Us),
        ] {
            assert_eq!(of_state(state), expected, "{state}");
        }
    }
}
