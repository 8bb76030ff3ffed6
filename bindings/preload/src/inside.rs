//! What a thread is doing, and its errno.

use libc::c_int;
use std::cell::Cell;

// Without a destructor: there is nothing to register, and it works in a thread that ends.
thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While a thread has one, its calls go straight on: they are our own, or those of a signal handler
/// that has interrupted us and must not wait for what its own thread holds.
pub(crate) struct Inside {
    errno: c_int,
}

impl Inside {
    /// `None` where the thread is inside already.
    pub(crate) fn enter() -> Option<Self> {
        match INSIDE.replace(true) {
            false => Some(Self { errno: errno() }),
            true => None,
        }
    }

    /// Runs `call`, which is the program's own, with the errno that it left, and keeps the errno
    /// that it leaves.
    pub(crate) fn run<R>(&mut self, call: impl FnOnce() -> R) -> R {
        set_errno(self.errno);
        let result = call();
        self.errno = errno();
        result
    }

    /// From here on the program shall see this errno.
    pub(crate) fn fail(&mut self, errno: c_int) -> c_int {
        self.errno = errno;
        -1
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        set_errno(self.errno);
        INSIDE.set(false);
    }
}

fn errno() -> c_int {
    // SAFETY: the place is the thread's own, and always there.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = errno };
}
