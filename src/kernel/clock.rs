//! The ledger's time.

use crate::ledger::Clock;
use std::mem::MaybeUninit;

/// `CLOCK_MONOTONIC`, clock_gettime(2), in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Monotonic;

impl Clock for Monotonic {
    fn now_ms(&self) -> u64 {
        read_ms(libc::CLOCK_MONOTONIC)
    }
}

impl Monotonic {
    /// The same up to a tick ago, in a quarter of the time.
    pub(crate) fn coarse_ms(&self) -> u64 {
        read_ms(libc::CLOCK_MONOTONIC_COARSE)
    }
}

fn read_ms(clock: libc::clockid_t) -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `now` is writable and of the type that the call fills.
    let answer = unsafe { libc::clock_gettime(clock, now.as_mut_ptr()) };
    assert_eq!(answer, 0, "every Linux since 2.6.32 has this clock");
    // SAFETY: the call succeeded, so it filled `now`.
    let now = unsafe { now.assume_init() };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
