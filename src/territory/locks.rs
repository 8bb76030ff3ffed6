//! Open-file-description locks on the bytes of a descriptor: fcntl(2), Linux 3.15.

use std::io;
use std::ops::Range;

/// All offsets that a lock can have.
pub(super) const ALL: Range<u64> = 0..1 << 63;

/// What a try to lock has met.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Taken,
    Busy,
}

/// How a lock gets along with those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Exclusive,
    /// Needs a descriptor that can be read, no more.
    Shared,
}

impl Mode {
    fn kind(self) -> i32 {
        match self {
            Self::Exclusive => libc::F_WRLCK,
            Self::Shared => libc::F_RDLCK,
        }
    }
}

/// Locks all of `bytes`, or none.
pub(super) fn lock(raw: i32, bytes: Range<u64>, mode: Mode) -> io::Result<Lock> {
    match fcntl(raw, libc::F_OFD_SETLK, mode.kind(), bytes) {
        Ok(_) => Ok(Lock::Taken),
        // POSIX would allow EACCES as well. On Linux that is a security module's "no", to all.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Lock::Busy),
        Err(error) => Err(error),
    }
}

/// Locks all of `bytes`, for nobody else, as soon as others let it.
pub(super) fn wait_and_lock(raw: i32, bytes: Range<u64>) -> io::Result<()> {
    loop {
        match fcntl(raw, libc::F_OFD_SETLKW, libc::F_WRLCK, bytes.clone()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

pub(super) fn unlock(raw: i32, bytes: Range<u64>) -> io::Result<()> {
    fcntl(raw, libc::F_OFD_SETLK, libc::F_UNLCK, bytes).map(drop)
}

/// A lock of another description that meets `bytes`, in its full length; not always the first.
pub(super) fn lock_of_another(raw: i32, bytes: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let found = fcntl(raw, libc::F_OFD_GETLK, libc::F_WRLCK, bytes)?;
    if found.l_type == libc::F_UNLCK as libc::c_short {
        return Ok(None);
    }
    let start = found.l_start as u64;
    // A length of zero reaches to the end of all offsets.
    let end = if found.l_len == 0 { ALL.end } else { start + found.l_len as u64 };
    Ok(Some(start..end))
}

/// The parts of `bytes` that others have locked; each once, in no order.
pub(super) fn locks_of_others(raw: i32, bytes: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut locked = Vec::new();
    // Each lock that is met splits what is left in two, so that none is missed.
    let mut open = vec![bytes];
    while let Some(bytes) = open.pop() {
        if bytes.is_empty() {
            continue;
        }
        if let Some(found) = lock_of_another(raw, bytes.clone())? {
            let found = found.start.max(bytes.start)..found.end.min(bytes.end);
            open.push(bytes.start..found.start);
            open.push(found.end..bytes.end);
            locked.push(found);
        }
    }
    Ok(locked)
}

fn fcntl(raw: i32, command: i32, kind: i32, bytes: Range<u64>) -> io::Result<libc::flock> {
    // SAFETY: all fields are integers, for which zero is a value; `l_pid` has to be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = bytes.start as libc::off_t;
    // The range that ends at the last of all offsets has no length that fits: zero stands for it.
    lock.l_len = if bytes.end >= ALL.end { 0 } else { (bytes.end - bytes.start) as libc::off_t };
    // SAFETY: these commands take a pointer to a `flock`, which they read and write.
    match unsafe { libc::fcntl(raw, command, &mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}
