//! The ledger's time.

use crate::ledger::Clock;
use std::mem::MaybeUninit;

/// How much later than it was set for a timer of the kernel's may ring. The wheel has steps of a
/// tick for the next 63 ticks, of 8 for 8 times as long, and so on, and a timer rings with the step
/// after its own (kernel/time/timer.c). A tick is the resolution of `CLOCK_MONOTONIC_COARSE`
/// (clock_getres(2)).
pub(super) fn timer_late_ms(timer_ms: u64) -> u32 {
    let mut tick = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `tick` is writable and of the type that the call fills.
    let answer = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, tick.as_mut_ptr()) };
    assert_eq!(answer, 0, "every Linux since 2.6.32 has CLOCK_MONOTONIC_COARSE");
    // SAFETY: the call succeeded, so it filled `tick`.
    let tick_ns = unsafe { tick.assume_init() }.tv_nsec as u64;
    late_ms(timer_ms, tick_ns.max(1))
}

fn late_ms(timer_ms: u64, tick_ns: u64) -> u32 {
    let ticks = timer_ms * 1_000_000 / tick_ns;
    let mut step = 1;
    while ticks >= 63 * step {
        step *= 8;
    }
    ((step + 1) * tick_ns).div_ceil(1_000_000) as u32
}

/// `CLOCK_MONOTONIC`, clock_gettime(2), in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Monotonic;

impl Clock for Monotonic {
    fn now_ms(&self) -> u64 {
        read_ms(libc::CLOCK_MONOTONIC)
    }
}

impl Monotonic {
    /// As of the last tick of the timer, at most 10 ms ago: for whoever asks all the time, as it
    /// takes a fifth of the time.
    #[inline]
    pub(crate) fn about_now_ms(&self) -> u64 {
        read_ms(libc::CLOCK_MONOTONIC_COARSE)
    }
}

#[inline]
fn read_ms(clock: libc::clockid_t) -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `now` is writable and of the type that the call fills.
    let answer = unsafe { libc::clock_gettime(clock, now.as_mut_ptr()) };
    assert_eq!(answer, 0, "every Linux since 2.6.32 has this clock");
    // SAFETY: the call succeeded, so it filled `now`.
    let now = unsafe { now.assume_init() };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_of_a_minute_is_seconds_late_at_most() {
        for (hz, expected_ms) in [(100, 5_130), (250, 2_052), (1_000, 4_097)] {
            assert_eq!(late_ms(60_000, 1_000_000_000 / hz), expected_ms, "{hz} Hz");
        }
        assert_eq!(late_ms(62, 1_000_000), 2);
        assert!((1..10_000).contains(&timer_late_ms(60_000)));
    }
}
