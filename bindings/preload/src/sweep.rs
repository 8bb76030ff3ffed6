//! Descriptors that were closed in a way that no hook sees: by a bare system call, inside the C
//! library, by a thread with a table of its own.

use super::leaving;
use super::socket;
use super::state::State;
use portlease::Lease;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The least time between two sweeps that nobody is in need of.
const EVERY_MS: u64 = 1_000;
/// A sweep takes one part in so many of a processor at most; one without which a connection would be
/// refused takes more.
const DUTY: u64 = 50;
const URGENT_DUTY: u64 = 5;

#[derive(Default)]
pub(crate) struct Sweep {
    /// When the next one is due, on `CLOCK_MONOTONIC`.
    due_ms: AtomicU64,
    urgent_due_ms: AtomicU64,
    /// Leases of connections without a descriptor here, which a child of ours may have.
    waiting: Mutex<Vec<Lease<'static>>>,
}

impl Sweep {
    /// Keeps the lease until nobody has a descriptor of its connection.
    pub(crate) fn wait_for(&self, lease: Lease<'static>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
    }

    /// Sweeps if it is time, by one of the threads that come along.
    pub(crate) fn now_and_then(&self, state: &'static State) {
        let now_ms = now_ms();
        // Relaxed, both: only how often there is a sweep hangs on it.
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        let next_ms = now_ms + EVERY_MS;
        let is_ours = now_ms >= due_ms
            && self
                .due_ms
                .compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_ours && due_ms > 0 {
            self.sweep(state);
        }
    }

    /// Sweeps before somebody is told that nothing is free; whether something came free.
    pub(crate) fn before_refusal(&self, state: &'static State) -> bool {
        // Relaxed: as in `now_and_then`.
        now_ms() >= self.urgent_due_ms.load(Ordering::Relaxed) && self.sweep(state) > 0
    }

    /// Looks at every connection of this process; how many leases came free.
    fn sweep(&self, state: &'static State) -> usize {
        let begin = Instant::now();
        let mut released = 0;
        for fd in state.table.descriptors(0, i32::MAX) {
            let is_gone = |connection: &super::connection::Connection| {
                socket::cookie(fd) != Some(connection.cookie)
            };
            if let Some(connection) = state.table.take_if(fd, is_gone) {
                leaving::unseen(state, connection);
                released += 1;
            }
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.len();
        let still: Vec<_> = waiting.drain(..).filter_map(leaving::release_if_gone).collect();
        *waiting = still;
        released += before - waiting.len();
        let (took_ms, end_ms) = (begin.elapsed().as_millis() as u64, now_ms());
        // Relaxed, both: see `now_and_then`.
        self.due_ms.store(end_ms + EVERY_MS.max(took_ms * DUTY), Ordering::Relaxed);
        self.urgent_due_ms.store(end_ms + took_ms * URGENT_DUTY, Ordering::Relaxed);
        released
    }
}

fn now_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable; the clock is one that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}
