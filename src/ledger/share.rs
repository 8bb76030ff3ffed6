//! Where in a field a thread looks first, so that threads do not fight over cache lines.
//!
//! A preference, not a partition: a thread whose lines are full takes from any other, which
//! thread prefers which lines changes all the time, and a lone thread prefers nothing.

use super::field::LINE_SLOTS;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Lines to a thread below which preferences would narrow the choice too much.
const LINES_MIN: u32 = 8;
/// The most classes of lines, a power of two.
const CLASSES_MAX: u32 = 8;
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
    /// How many classes of lines that makes, less one: one less than a power of two.
    class_mask: AtomicU32,
    /// The most that it may be.
    class_mask_max: u32,
    /// Turns the classes among the threads.
    turn: AtomicU32,
}

/// One of some classes of lines, a power of two: those whose number ends like the class's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    class_mask: u32,
    class: u32,
}

impl Presence {
    pub(super) fn new(lines: u32) -> Self {
        let classes_max = 1 << (lines / LINES_MIN).checked_ilog2().unwrap_or(0);
        Self {
            seen: AtomicU64::new(0),
            class_mask: AtomicU32::new(0),
            class_mask_max: CLASSES_MAX.min(classes_max) - 1,
            turn: AtomicU32::new(0),
        }
    }

    /// Whether no other thread was seen lately than the one with the bit `me`. `sample` is random.
    #[inline]
    pub(super) fn is_lone(&self, me: u64, sample: u32) -> bool {
        // Relaxed, here and below: a hint; any value gives a right answer.
        self.seen.load(Ordering::Relaxed) == me && sample & FORGET_MASK != 0
    }

    /// The share of the thread with the bit `me`; `sample` is random.
    #[inline]
    pub(super) fn share(&self, me: u64, sample: u32) -> Share {
        let seen = self.seen.load(Ordering::Relaxed);
        if sample & FORGET_MASK == 0 || seen & me == 0 {
            self.look_around(me, seen, sample);
        }
        let rank = (seen & (me - 1)).count_ones();
        let turn = self.turn.load(Ordering::Relaxed);
        let class_mask = self.class_mask.load(Ordering::Relaxed);
        Share { class_mask, class: rank.wrapping_add(turn) & class_mask }
    }

    /// Forgets the other threads, or enters the one with the bit `me`.
    #[cold]
    #[inline(never)]
    fn look_around(&self, me: u64, seen: u64, sample: u32) {
        let now = if sample & FORGET_MASK == 0 {
            self.seen.store(me, Ordering::Relaxed);
            if sample & TURN_MASK == 0 {
                self.turn.fetch_add(1, Ordering::Relaxed);
            }
            me
        } else {
            self.seen.fetch_or(me, Ordering::Relaxed);
            seen | me
        };
        let classes = now.count_ones().next_power_of_two();
        self.class_mask.store((classes - 1).min(self.class_mask_max), Ordering::Relaxed);
    }
}

impl Share {
    /// The slot of the share that stands for `slot`: even over all slots, they are even over those
    /// of the share, but for the last of all.
    #[inline]
    pub(super) fn instead_of(self, slot: u32, capacity: u32) -> u32 {
        let Self { class_mask, class } = self;
        let mine = slot & !(class_mask * LINE_SLOTS) | (class * LINE_SLOTS);
        // The last lines may be too few for all classes.
        mine.min(capacity - 1)
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
            let presence = Presence::new(lines);
            let share = |lane| presence.share(1u64 << lane, 1);
            (0..4).map(share).for_each(|_| ());
            let shares: Vec<Share> = (0..4).map(share).collect();
            let capacity = lines * LINE_SLOTS - 1;
            let classes = shares[0].class_mask as usize + 1;
            assert_eq!(classes, if lines < 32 { 2 } else { 4 });
            let mut owners = vec![None; lines as usize];
            for share in shares.iter().take(classes) {
                for draw in (0..u32::MAX).step_by(1 << 16) {
                    let slot = share.instead_of(scale(draw, capacity), capacity);
                    if slot == capacity - 1 {
                        continue;
                    }
                    let owner = &mut owners[(slot / LINE_SLOTS) as usize];
                    assert!(owner.is_none_or(|class| class == share.class));
                    *owner = Some(share.class);
                }
            }
            assert!(owners.iter().all(Option::is_some), "{lines}: {owners:?}");
        }
    }

    #[test]
    fn few_lines_are_everybodys() {
        let presence = Presence::new(15);
        let slots =
            |me| [0, 3_840, 7_679].map(|slot| presence.share(me, 1).instead_of(slot, 7_680));
        assert_eq!(slots(1), [0, 3_840, 7_679]);
        assert_eq!(slots(2), slots(1));
    }

    #[test]
    fn a_lone_thread_chooses_from_all() {
        let presence = Presence::new(100);
        let me = 1 << 3;
        assert!(!presence.is_lone(me, 1));
        presence.share(me, 1);
        assert!(presence.is_lone(me, 1));
        let share = presence.share(me, 1);
        assert_eq!(share.instead_of(0, 51_200), 0);
        assert_eq!(share.instead_of(51_199, 51_200), 51_199);
    }
}
