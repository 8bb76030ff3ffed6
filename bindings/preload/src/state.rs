//! The pool and the table of one process: made when it first connects something, abandoned in a
//! child of fork.

use super::agreement::Count;
use super::settings::{self, Wish};
use super::sweep::Sweep;
use super::table::Table;
use super::tally;
use portlease::{Error, Pool};
use std::os::fd::RawFd;
use std::process;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) struct State {
    pub(crate) pool: Pool,
    pub(crate) wish: Wish,
    pub(crate) table: Table,
    pub(crate) sweep: Sweep,
    /// The descriptors of the territory, in order: no program's to close.
    pub(crate) own_fds: Vec<RawFd>,
    process: u32,
}

/// | value | means |
/// | --- | --- |
/// | 0 | nothing was connected yet |
/// | [`REFUSED`] | there can be no pool: the program goes on without |
/// | odd | process number value / 4 is at it |
/// | other | the address of a [`State`] that is there for good |
static STATE: AtomicUsize = AtomicUsize::new(0);
const REFUSED: usize = 2;
const BUILDING: usize = 1;

/// Forks that this process has made: what was connected before one may be shared with a child.
static FORKS: AtomicU32 = AtomicU32::new(0);
static WATCHED: AtomicU32 = AtomicU32::new(0);

impl State {
    /// Whether this is the process that the state belongs to. A child of vfork, which runs on its
    /// parent's memory, is another; so is one whose maker left no word.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.process == process::id()
    }
}

/// The forks so far.
pub(crate) fn forks() -> u32 {
    // Relaxed: whoever forks and closes in two threads at once has no order either.
    FORKS.load(Ordering::Relaxed)
}

/// The state, if there is one: one load.
pub(crate) fn present() -> Option<&'static State> {
    // Acquire: the state was made before it was shown.
    as_state(STATE.load(Ordering::Acquire))
}

/// The state, made if need be; `None` where there can be none.
pub(crate) fn get() -> Option<&'static State> {
    loop {
        // Acquire: as in `present`.
        let seen = STATE.load(Ordering::Acquire);
        if let Some(state) = as_state(seen) {
            if state.is_of_this_process() {
                return Some(state);
            }
            // It touches no lock where the memory is a copy; and where it is the parent's own,
            // nothing of the parent's is for us.
            match state.pool.blocks_held() {
                Err(Error::Forked) => abandon(seen),
                _ => return None,
            }
        } else if seen == REFUSED || !settings::are_there() {
            return None;
        } else if seen == 0 || seen >> 2 != process::id() as usize {
            // A builder of another process is one that was forked away from us.
            let mine = (process::id() as usize) << 2 | BUILDING;
            // Relaxed, both: nothing is read through it.
            let (won, lost) = (Ordering::Relaxed, Ordering::Relaxed);
            if STATE.compare_exchange(seen, mine, won, lost).is_ok() {
                build();
            }
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Makes place for a new state where this one cannot go on.
pub(crate) fn replace(state: &'static State) {
    abandon(std::ptr::from_ref(state).addr());
}

fn abandon(seen: usize) {
    // Relaxed, both: nothing is read through it.
    let _ = STATE.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
}

fn as_state(value: usize) -> Option<&'static State> {
    let is_address = value & 3 == 0 && value != 0;
    // SAFETY: such a value is the address of a leaked state.
    is_address.then(|| unsafe { &*std::ptr::with_exposed_provenance::<State>(value) })
}

#[cold]
fn build() {
    tally::open();
    watch_forks();
    let value = match settings::read() {
        Ok((pool, wish)) => {
            tally::add(Count::Processes);
            let (table, sweep, process) = (Table::new(), Sweep::default(), process::id());
            let mut own_fds: Vec<_> = pool.shared_fds().collect();
            own_fds.sort_unstable();
            let state = Box::new(State { pool, wish, table, sweep, own_fds, process });
            Box::into_raw(state).expose_provenance()
        }
        Err(error) => {
            tally::tell(&format!("{error}; process {} connects without leases", process::id()));
            REFUSED
        }
    };
    // Release: to whoever sees the address.
    STATE.store(value, Ordering::Release);
}

fn watch_forks() {
    // Relaxed: two threads cannot be here at once, and a child of fork inherits the handlers.
    if WATCHED.swap(1, Ordering::Relaxed) == 0 {
        // SAFETY: the handlers take nothing and call nothing.
        unsafe { libc::pthread_atfork(None, Some(note_fork), Some(forget)) };
    }
}

unsafe extern "C" fn note_fork() {
    // Relaxed: see `forks`.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// In the child, which has one thread: the parent's state is left as it is, for a thread that is
/// not here may have been changing it.
unsafe extern "C" fn forget() {
    // Relaxed, both: one thread.
    if STATE.load(Ordering::Relaxed) != REFUSED {
        STATE.store(0, Ordering::Relaxed);
    }
}
