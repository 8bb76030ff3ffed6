//! Who closes a connection first, and what it negotiated.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whose end of a TCP connection closed first; it decides which end keeps `TIME_WAIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedFirst {
    /// We do: the four-tuple waits on our side.
    Us,
    /// The peer did: nothing stays on our side.
    Peer,
    /// Nobody: it was reset or never established, and nothing stays.
    Reset,
    /// Not known; treated as [`ClosedFirst::Us`].
    Unknown,
}

/// A TCP connection just before its `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) closed: ClosedFirst,
    /// Both ends agreed on timestamps (RFC 7323).
    pub(crate) timestamps: bool,
}

/// Asks `TCP_INFO`, tcp(7), Linux 2.4. To be called just before `close`.
pub(crate) fn closed_first(socket: BorrowedFd<'_>) -> io::Result<Tcp> {
    // The head of struct tcp_info: state, four bytes of counters, options.
    let mut head = [0u8; 8];
    let mut length = head.len() as libc::socklen_t;
    // SAFETY: `head` and `length` describe a writable buffer; the kernel fills no more than it.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            head.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Tcp { closed: of_state(head[0]), timestamps: head[5] & TCPI_OPT_TIMESTAMPS != 0 })
}

/// `uapi/linux/tcp.h`.
const TCPI_OPT_TIMESTAMPS: u8 = 1;

/// The states of `net/tcp_states.h`.
fn of_state(state: u8) -> ClosedFirst {
    const ESTABLISHED: u8 = 1;
    const SYN_SENT: u8 = 2;
    const FIN_WAIT1: u8 = 4;
    const FIN_WAIT2: u8 = 5;
    const CLOSE: u8 = 7;
    const CLOSE_WAIT: u8 = 8;
    const LAST_ACK: u8 = 9;
    const CLOSING: u8 = 11;
    match state {
        ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSING => ClosedFirst::Us,
        CLOSE_WAIT | LAST_ACK => ClosedFirst::Peer,
        SYN_SENT => ClosedFirst::Reset,
        // After shutdown(2) by both ends the socket shows CLOSE while TIME_WAIT lives on without
        // it, exactly as after a reset: TCP_INFO cannot tell them apart.
        CLOSE => ClosedFirst::Unknown,
        _ => ClosedFirst::Unknown,
    }
}
