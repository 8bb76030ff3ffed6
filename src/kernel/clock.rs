//! The ledger's time.

use crate::ledger::Clock;
use std::mem::MaybeUninit;

/// `CLOCK_MONOTONIC`, clock_gettime(2), in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Monotonic;

impl Clock for Monotonic {
    fn now_ms(&self) -> u64 {
        let mut now = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: `now` is writable and of the type that the call fills.
        let answer = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) };
        assert_eq!(answer, 0, "every Linux has CLOCK_MONOTONIC");
        // SAFETY: the call succeeded, so it filled `now`.
        let now = unsafe { now.assume_init() };
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }
}
