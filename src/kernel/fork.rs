//! Whether this process is a forked child of the one that made the pool.

use std::io;
use std::ptr::{self, NonNull};

/// Tells a forked child by one load: the kernel wipes a page in every child that has memory of
/// its own, however it was made (`MADV_WIPEONFORK`, madvise(2), Linux 4.14). Where the kernel
/// refuses, it compares process ids, one system call each time.
#[derive(Debug)]
pub(crate) struct Watch {
    page: NonNull<u8>,
    pid: u32,
}

// SAFETY: after `new` the page is only read, until `drop`, which has the watch alone.
unsafe impl Send for Watch {}
// SAFETY: as above; reads of one byte from many threads do not conflict.
unsafe impl Sync for Watch {}

/// One byte is enough; the kernel rounds up to a page.
const LENGTH: usize = 1;
/// In a page that would be wiped.
const NOT_FORKED: u8 = 1;
/// In a page that would not.
const ASK: u8 = 2;

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a new private mapping of the kernel's choosing touches no memory of ours.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let page = match NonNull::new(page.cast::<u8>()) {
            Some(mapped) if page != libc::MAP_FAILED => mapped,
            _ => return Err(io::Error::last_os_error()),
        };
        // SAFETY: the mapping above, whole.
        let is_wiped =
            unsafe { libc::madvise(page.as_ptr().cast(), LENGTH, libc::MADV_WIPEONFORK) } == 0;
        // SAFETY: the page is ours and writable.
        unsafe { page.write(if is_wiped { NOT_FORKED } else { ASK }) };
        Ok(Self { page, pid: std::process::id() })
    }

    /// Whether the caller runs in a forked child.
    #[inline]
    pub(crate) fn forked(&self) -> bool {
        !self.surely_not_forked() && self.has_other_pid()
    }

    /// Whether it does not for sure, by a look that calls nothing.
    #[inline]
    pub(crate) fn surely_not_forked(&self) -> bool {
        self.look() == NOT_FORKED
    }

    #[inline]
    fn look(&self) -> u8 {
        // SAFETY: mapped until `drop`. Volatile, as the kernel writes it behind the compiler.
        unsafe { self.page.read_volatile() }
    }

    #[cold]
    #[inline(never)]
    fn has_other_pid(&self) -> bool {
        self.look() != ASK || std::process::id() != self.pid
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; nobody reads it after the drop.
        unsafe { libc::munmap(self.page.as_ptr().cast(), LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use super::{ASK, Watch};

    fn child_sees(watch: &Watch) -> bool {
        // SAFETY: the child calls nothing but `forked` and `_exit`, both async-signal-safe.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            // SAFETY: ends the child without running the test harness's handlers.
            unsafe { libc::_exit(i32::from(watch.forked())) };
        }
        let mut status = 0;
        // SAFETY: `status` is writable and `child` is ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        libc::WEXITSTATUS(status) == 1
    }

    #[test]
    fn a_child_knows_and_the_parent_stays() {
        let wiped = Watch::new().unwrap();
        let counted = Watch::new().unwrap();
        // SAFETY: the page is the watch's own, and nobody else looks.
        unsafe { counted.page.write(ASK) };
        for watch in [wiped, counted] {
            assert!(!watch.forked());
            assert!(child_sees(&watch));
            assert!(!watch.forked());
        }
    }
}
