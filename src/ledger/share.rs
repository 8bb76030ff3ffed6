//! Where in a field a thread looks first, so that threads do not fight over cache lines.
//!
//! A preference, not a partition: a thread whose lines are full takes from any other, which
//! thread prefers which lines changes all the time, and a lone thread prefers nothing.

use super::field::LINE_SLOTS;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Lines to a thread below which preferences would narrow the choice too much.
const LINES_MIN: u32 = 8;
/// The most classes of lines: 2^3.
const CLASSES_LOG2_MAX: u32 = 3;
/// One in so many acquires forgets which threads were seen.
const FORGET_MASK: u32 = (1 << 12) - 1;
/// One in so many turns the classes: seldom, for after a turn a thread still holds slots in the
/// lines that are now another's, and their releases meet.
const TURN_MASK: u32 = (1 << 20) - 1;

/// The threads that were seen lately at one field.
#[derive(Debug)]
pub(super) struct Presence {
    /// A bit for each thread, by its number modulo 64.
    seen: AtomicU64,
    /// Turns the classes among the threads.
    turn: AtomicU32,
}

/// One of 2^`classes_log2` classes of lines: those whose number leaves `class` behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    classes_log2: u32,
    class: u32,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self { seen: AtomicU64::new(0), turn: AtomicU32::new(0) }
    }

    /// The share of the thread with number `lane`; `sample` is random.
    #[inline]
    pub(super) fn share(&self, lane: u32, sample: u32, lines: u32) -> Share {
        let me = 1u64 << (lane % 64);
        // Relaxed, here and below: a hint; any value gives a right answer.
        let seen = self.seen.load(Ordering::Relaxed);
        if seen == me && sample & FORGET_MASK != 0 {
            return Share { classes_log2: 0, class: 0 };
        }
        self.share_with_others(me, seen, sample, lines)
    }

    #[inline(never)]
    fn share_with_others(&self, me: u64, seen: u64, sample: u32, lines: u32) -> Share {
        if sample & FORGET_MASK == 0 {
            self.seen.store(me, Ordering::Relaxed);
            if sample & TURN_MASK == 0 {
                self.turn.fetch_add(1, Ordering::Relaxed);
            }
        } else if seen & me == 0 {
            self.seen.fetch_or(me, Ordering::Relaxed);
        }
        let threads = (seen | me).count_ones();
        let rank = (seen & (me - 1)).count_ones();
        let wanted = threads.next_power_of_two().trailing_zeros();
        let room = (lines / LINES_MIN).checked_ilog2().unwrap_or(0);
        let classes_log2 = wanted.min(room).min(CLASSES_LOG2_MAX);
        let turn = self.turn.load(Ordering::Relaxed);
        Share { classes_log2, class: rank.wrapping_add(turn) & ((1 << classes_log2) - 1) }
    }
}

impl Share {
    /// A slot of the share, each as likely as the others; may lie beyond the capacity.
    #[inline]
    pub(super) fn slot(self, draw: u32, capacity: u32, lines: u32) -> u32 {
        if self.classes_log2 == 0 {
            return scale(draw, capacity);
        }
        let mine = (lines - self.class).div_ceil(1 << self.classes_log2);
        let at = scale(draw, mine * LINE_SLOTS);
        let line = ((at / LINE_SLOTS) << self.classes_log2) + self.class;
        line * LINE_SLOTS + at % LINE_SLOTS
    }
}

/// `draw`, even over 2^32, made even over `0..n` (Lemire, "Fast Random Integer Generation in
/// an Interval", 2019, without the rejection: the bias is at most n / 2^32).
#[inline]
pub(super) fn scale(draw: u32, n: u32) -> u32 {
    ((u64::from(draw) * u64::from(n)) >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_threads_cover_all_lines_once() {
        for lines in [16, 17, 126, 1000] {
            let presence = Presence::new();
            for lane in 0..4 {
                presence.share(lane, 1, lines);
            }
            let shares: Vec<Share> = (0..4).map(|lane| presence.share(lane, 1, lines)).collect();
            let classes = 1 << shares[0].classes_log2;
            let mut owners = vec![None; lines as usize];
            for share in shares.iter().take(classes) {
                for draw in (0..u32::MAX).step_by(1 << 18) {
                    let slot = share.slot(draw, lines * LINE_SLOTS, lines);
                    let owner = &mut owners[(slot / LINE_SLOTS) as usize];
                    assert!(owner.is_none_or(|class| class == share.class));
                    *owner = Some(share.class);
                }
            }
            assert!(owners.iter().all(Option::is_some), "{lines}: {owners:?}");
        }
    }

    #[test]
    fn a_lone_thread_chooses_from_all() {
        let presence = Presence::new();
        presence.share(3, 1, 100);
        let share = presence.share(3, 1, 100);
        assert_eq!(share.slot(0, 51_200, 100), 0);
        assert_eq!(share.slot(u32::MAX, 51_200, 100), 51_199);
    }
}
