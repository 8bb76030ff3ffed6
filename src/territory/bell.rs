//! A descriptor that becomes readable when a process should look after its territory, for those
//! that nobody calls: it waits for the file to be touched, which says "hunger", and for a time.

use super::file::{SharedFile, failed};
use crate::Error;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// An epoll instance over an inotify watch and a timer. A child of `fork` has copies that it never
/// reads.
#[derive(Debug)]
pub(super) struct Bell {
    epoll: OwnedFd,
    touches: OwnedFd,
    timer: OwnedFd,
}

/// What happens to a file that is touched, changed, removed or moved (inotify(7)).
const EVENTS: u32 = libc::IN_ATTRIB | libc::IN_MODIFY | libc::IN_MOVE_SELF;

impl Bell {
    /// Rings at once for the first time.
    pub(super) fn new(file: &SharedFile) -> Result<Self, Error> {
        let told = |call: &str, error| {
            let problem = format!(
                "cannot be watched for others in want ({call}): raise \
                 fs.inotify.max_user_instances or the limit of open files, or call maintain from \
                 a timer"
            );
            failed(file.path(), &problem, error)
        };
        let epoll = silent().map_err(|error| told("epoll_create1", error))?;
        // SAFETY: takes no pointer.
        let touches = owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })
            .map_err(|error| told("inotify_init1", error))?;
        // The inode that our locks are on, whatever the path names by now.
        let path = format!("/proc/self/fd/{}\0", file.raw()?);
        // SAFETY: `path` ends with a zero byte and lives as long as the call.
        match unsafe { libc::inotify_add_watch(touches.as_raw_fd(), path.as_ptr().cast(), EVENTS) }
        {
            -1 => return Err(told("inotify_add_watch", io::Error::last_os_error())),
            _watch => {}
        }
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes no pointer.
        let timer = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })
            .map_err(|error| told("timerfd_create", error))?;
        for member in [&touches, &timer] {
            add(&epoll, member).map_err(|error| told("epoll_ctl", error))?;
        }
        let bell = Self { epoll, touches, timer };
        bell.ring_in(Some(0));
        Ok(bell)
    }

    /// Another descriptor of it, which its owner may close.
    pub(super) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.epoll.try_clone().map_err(|error| Error::Os {
            call: "fcntl",
            source_address: None,
            destination: None,
            error,
        })
    }

    /// Rings after so many milliseconds; `None`: when others touch the file, not before.
    pub(super) fn ring_in(&self, wait_ms: Option<u64>) {
        // Zero would disarm it: a nanosecond is at once.
        let (seconds, nanos) = match wait_ms {
            None => (0, 0),
            Some(ms) => (ms / 1_000, (ms % 1_000 * 1_000_000).max(1)),
        };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let first =
            libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: nanos as libc::c_long };
        let when = libc::itimerspec { it_interval: never, it_value: first };
        // It cannot fail: the descriptor is a timer, and the numbers are in their ranges.
        // SAFETY: `when` lives as long as the call, which writes nothing where the last is null.
        unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &when, ptr::null_mut()) };
    }

    /// Forgets what has rung so far.
    pub(super) fn hush(&self) {
        // The timer has 8 bytes to tell, inotify as many as it has events without a name.
        let mut buffer = [0u8; 1024];
        for member in [&self.timer, &self.touches] {
            // SAFETY: `buffer` is as long as said. Its alignment does not matter to the kernel.
            while unsafe {
                libc::read(member.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
            } == buffer.len() as isize
            {}
        }
    }
}

/// A descriptor that is never readable.
pub(super) fn silent() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

fn owned(raw: i32) -> io::Result<OwnedFd> {
    match raw {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a system call has just made it, and nobody else has it.
        raw => Ok(unsafe { OwnedFd::from_raw_fd(raw) }),
    }
}

fn add(epoll: &OwnedFd, member: &OwnedFd) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let (epoll, member) = (epoll.as_raw_fd(), member.as_raw_fd());
    // SAFETY: `event` lives as long as the call.
    match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, member, &mut event) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
