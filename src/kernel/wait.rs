//! Waiting, and a thread that disturbs nobody.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits until one of the descriptors can be read, or for `ms_max` milliseconds; which can be.
pub(crate) fn wait_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    ms_max: Option<u64>,
) -> io::Result<[bool; N]> {
    let mut all = descriptors.map(|descriptor| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let ms_max = ms_max.map_or(-1, |ms| ms.min(i32::MAX as u64) as i32);
    // SAFETY: as many entries as said, which live as long as the call.
    if unsafe { libc::poll(all.as_mut_ptr(), N as libc::nfds_t, ms_max) } < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok([false; N]),
            _ => Err(error),
        };
    }
    Ok(all.map(|entry| entry.revents != 0))
}

/// Runs `spawn` with all signals blocked, which a thread that it starts inherits: the program's
/// signals go to the program's threads (pthread_sigmask(3)).
pub(crate) fn without_signals<R>(spawn: impl FnOnce() -> R) -> R {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the first call fills `all`, the second reads it and fills `before`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let result = spawn();
    // SAFETY: filled above: neither call can fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}
