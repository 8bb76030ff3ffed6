//! A descriptor that a child of `fork` does not keep open.
//!
//! The locks of an open file description live until its last descriptor is closed (fcntl(2),
//! "Open file description locks"). `O_CLOEXEC` closes it where a child executes a program; for a
//! child that does not, a handler of pthread_atfork(3) closes it before `fork` returns there. Else
//! a child that lives on would keep the blocks of a parent that died. A child made by a bare
//! clone(2) runs no handler: it keeps them until it ends or executes.

use crate::Error;
use crate::kernel::beyond_low_numbers;
use crate::sync::{Ordering, StaticU32};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};

/// Pools on shared files that one process can have at a time, and the descriptors of each.
const POOLS_MAX: usize = 256;
const OPEN_MAX: usize = 2 * POOLS_MAX;

/// The descriptors to be closed in a child, each plus one; zero is an empty place.
static OPEN: [StaticU32; OPEN_MAX] = [const { StaticU32::new(0) }; OPEN_MAX];

/// Forks between this process and the one that loaded the library.
static GENERATION: StaticU32 = StaticU32::new(0);

static HANDLER_SET: StaticU32 = StaticU32::new(0);

/// Owns a descriptor in the process that opened it, and nothing in any other.
#[derive(Debug)]
pub(super) struct Descriptor {
    place: usize,
    generation: u32,
    process: u32,
    /// Device and inode, to notice when somebody else has closed the descriptor.
    file: (u64, u64),
}

impl Descriptor {
    /// What is wrong where it is not intact.
    pub(super) const CLOSED: &str = "its descriptor was closed by somebody else in this process \
                                     (close_range, a loop over all descriptors?): build the pool \
                                     after that";

    /// Fails where no place is left for it.
    pub(super) fn new(file: File) -> Result<Self, Error> {
        set_handler()?;
        let identity = identity(file.as_raw_fd()).map_err(|error| os("fstat", error))?;
        let raw = beyond_low_numbers(file.into()).into_raw_fd();
        for (place, cell) in OPEN.iter().enumerate() {
            // Relaxed: the descriptor's number is all there is to see.
            if cell
                .compare_exchange(0, raw as u32 + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                // Relaxed: only a child's single thread, before `fork` returns, ever changes it.
                let generation = GENERATION.load(Ordering::Relaxed);
                return Ok(Self { place, generation, process: std::process::id(), file: identity });
            }
        }
        // SAFETY: `raw` came out of a `File` above and was stored nowhere.
        unsafe { libc::close(raw) };
        Err(Error::Config {
            problem: format!("{POOLS_MAX} pools of this process share files: close one of them"),
        })
    }

    /// The descriptor; [`Error::Forked`] in a child of the process that opened it. Touches no lock.
    pub(super) fn get(&self) -> Result<BorrowedFd<'_>, Error> {
        if !self.is_of_this_process() {
            return Err(Error::Forked);
        }
        // Relaxed: written by `new` before `self` was made, and by nobody until `self` is dropped.
        let raw = OPEN[self.place].load(Ordering::Relaxed) as i32 - 1;
        // SAFETY: `raw` stays open until `self` is dropped: no handler has closed it in this
        // process, and the place is ours.
        Ok(unsafe { BorrowedFd::borrow_raw(raw) })
    }

    /// Whether the descriptor is still the file that it was opened for: a loop over all descriptors
    /// may have closed it, and another file have got its number.
    pub(super) fn is_intact(&self) -> Result<bool, Error> {
        let raw = self.get()?.as_raw_fd();
        Ok(identity(raw).is_ok_and(|identity| identity == self.file))
    }

    /// The generation alone would do but for bare clones, the process id alone but for processes
    /// that are number 1 in a namespace each.
    fn is_of_this_process(&self) -> bool {
        // Relaxed: only a child's single thread, before `fork` returns, ever changes it.
        self.generation == GENERATION.load(Ordering::Relaxed) && self.process == std::process::id()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let Ok(intact) = self.is_intact() else { return };
        // Relaxed: as in `get`. The place is emptied first, so that a fork in between closes
        // nothing of another's; the child then keeps a description without locks.
        let raw = OPEN[self.place].swap(0, Ordering::Relaxed) as i32 - 1;
        if intact {
            // SAFETY: `raw` is ours, and nobody can reach it through `self` any more.
            unsafe { libc::close(raw) };
        }
    }
}

/// Device and inode of an open file.
fn identity(raw: i32) -> io::Result<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what the call writes; a closed `raw` is an error.
    if unsafe { libc::fstat(raw, stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled `stat`.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

fn os(call: &'static str, error: io::Error) -> Error {
    Error::Os { call, source_address: None, destination: None, error }
}

fn set_handler() -> Result<(), Error> {
    // Relaxed: two threads that come at once set it twice, and closing twice does nothing.
    if HANDLER_SET.load(Ordering::Relaxed) == 0 {
        // SAFETY: the handler takes nothing and calls only what is safe after `fork`.
        let error = unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
        if error != 0 {
            return Err(os("pthread_atfork", io::Error::from_raw_os_error(error)));
        }
        // Relaxed: as above.
        HANDLER_SET.store(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Runs in the child, which has one thread yet: only atomics and close(2), which
/// signal-safety(7) allows.
unsafe extern "C" fn forget_in_child() {
    // Relaxed: no other thread.
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for cell in &OPEN {
        let raw = cell.swap(0, Ordering::Relaxed) as i32 - 1;
        if raw >= 0 {
            // SAFETY: the place held an open descriptor of the parent, which is ours by copy.
            unsafe { libc::close(raw) };
        }
    }
}
