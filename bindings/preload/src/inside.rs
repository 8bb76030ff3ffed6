//! What a thread is doing, and its errno.

use libc::c_int;
use std::cell::Cell;

// Without a destructor: there is nothing to register, and it works in a thread that ends.
thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" {
    /// pthread_setcancelstate(3).
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// While a thread has one, its calls go straight on: they are our own, or those of a signal handler
/// that has interrupted us and must not wait for what its own thread holds. A thread that is cancelled
/// meanwhile ends afterwards: what it holds here would stay held.
pub(crate) struct Inside {
    errno: c_int,
    cancel_state: c_int,
}

impl Inside {
    /// `None` where the thread is inside already.
    pub(crate) fn enter() -> Option<Self> {
        match INSIDE.replace(true) {
            false => {
                let (errno, mut cancel_state) = (errno(), 0);
                // SAFETY: the place is writable.
                unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut cancel_state) };
                Some(Self { errno, cancel_state })
            }
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
        INSIDE.set(false);
        let mut unused = 0;
        // SAFETY: the place is writable, and the state is one that the thread had.
        unsafe { pthread_setcancelstate(self.cancel_state, &raw mut unused) };
        set_errno(self.errno);
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
