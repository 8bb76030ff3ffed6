//! The numbers of descriptors that are kept.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Programs give low numbers to descriptors of their own choice (dup2(2), the shell's
/// `exec 3>file`), which closes what has the number. Moves `fd` beyond those, if the limit of
/// descriptors allows (fcntl(2), `F_DUPFD_CLOEXEC`, Linux 2.6.24).
pub(crate) fn beyond_low_numbers(fd: OwnedFd) -> OwnedFd {
    const LOWEST: libc::c_int = 512;
    // SAFETY: `fd` is open; the call takes plain numbers.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, LOWEST) };
    match moved {
        // SAFETY: `moved` is open, and nobody else's.
        0.. => unsafe { OwnedFd::from_raw_fd(moved) },
        _ => fd,
    }
}
