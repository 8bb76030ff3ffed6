//! Where in a field a thread looks first, so that threads do not fight over cache lines.
//!
//! A preference, not a partition: a thread whose lines are full takes from any other, which
//! thread prefers which lines changes all the time, and a lone thread prefers nothing.

use super::field::LINE_SLOTS;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Lines to a thread below which preferences would narrow the choice too much.
const LINES_MIN: u32 = 4;
/// The most classes of lines, a power of two.
const CLASSES_MAX: u32 = 8;
/// One in so many acquires forgets the threads that were not seen since the last that did.
const FORGET_MASK: u32 = (1 << 12) - 1;
/// One in so many turns the classes: seldom, for after a turn a thread's leases all lie in lines
/// that are now another's, and until they are released the two meet there.
const TURN_MASK: u32 = (1 << 24) - 1;

/// One bit of 32, which threads that run at the same time seldom share; in both halves of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadBit(u64);

/// The threads that were seen lately at one field.
#[derive(Debug)]
pub(super) struct Presence {
    /// A bit for each thread: in the low half for those seen since the last acquire that forgot
    /// some, in the high half for those seen between that and the one before. So nobody who goes
    /// on is forgotten: a thread that takes itself for the only one spreads over everyone's lines.
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

    /// Whether no other thread than `me` was seen lately. `sample` is random.
    #[inline]
    pub(super) fn is_lone(&self, me: ThreadBit, sample: u32) -> bool {
        // Relaxed, here and below: a hint; any value gives a right answer.
        self.seen.load(Ordering::Relaxed) == me.0 && sample & FORGET_MASK != 0
    }

    /// The share of the thread `me`; `sample` is random.
    #[inline]
    pub(super) fn share(&self, me: ThreadBit, sample: u32) -> Share {
        let seen = self.seen.load(Ordering::Relaxed);
        if sample & FORGET_MASK == 0 || seen as u32 & me.low() == 0 {
            self.look_around(me, seen, sample);
        }
        let rank = (everyone(seen) & (me.low() - 1)).count_ones();
        let turn = self.turn.load(Ordering::Relaxed);
        let class_mask = self.class_mask.load(Ordering::Relaxed);
        Share { class_mask, class: rank.wrapping_add(turn) & class_mask }
    }

    /// Forgets the threads that were not seen for a while, or enters `me`.
    #[cold]
    #[inline(never)]
    fn look_around(&self, me: ThreadBit, seen: u64, sample: u32) {
        let now = if sample & FORGET_MASK == 0 {
            let now = seen << 32 | u64::from(me.low());
            self.seen.store(now, Ordering::Relaxed);
            if sample & TURN_MASK == 0 {
                self.turn.fetch_add(1, Ordering::Relaxed);
            }
            now
        } else {
            // The first of all has nobody to wait for.
            let me = if seen == 0 { me.0 } else { me.low().into() };
            self.seen.fetch_or(me, Ordering::Relaxed) | me
        };
        let classes = everyone(now).count_ones().next_power_of_two();
        self.class_mask.store((classes - 1).min(self.class_mask_max), Ordering::Relaxed);
    }
}

/// The threads in either half.
fn everyone(seen: u64) -> u32 {
    (seen >> 32) as u32 | seen as u32
}

impl ThreadBit {
    /// Of a thread that is not there yet.
    pub(crate) const NONE: Self = Self(0);

    /// Of the thread with this number.
    pub(crate) fn of(number: u64) -> Self {
        Self(0x1_0000_0001 << (number % 32))
    }

    fn low(self) -> u32 {
        self.0 as u32
    }
}

impl Share {
    /// The slot of the share that stands for `slot`: even over all slots, they are even over those
    /// of the share, but that the last lines may be too few for all classes: then the share's line
    /// before stands for two.
    #[inline]
    pub(super) fn instead_of(self, slot: u32, capacity: u32) -> u32 {
        let Self { class_mask, class } = self;
        let mine = slot & !(class_mask * LINE_SLOTS) | (class * LINE_SLOTS);
        if mine < capacity { mine } else { mine - (class_mask + 1) * LINE_SLOTS }
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
        for lines in [8, 9, 63, 1000] {
            let presence = Presence::new(lines);
            let share = |number| presence.share(ThreadBit::of(number), 1);
            (0..4).map(share).for_each(|_| ());
            let shares: Vec<Share> = (0..4).map(share).collect();
            let capacity = lines * LINE_SLOTS - 1;
            let classes = shares[0].class_mask as usize + 1;
            assert_eq!(classes, if lines < 16 { 2 } else { 4 });
            let mut owners = vec![None; lines as usize];
            for share in shares.iter().take(classes) {
                for draw in (0..u32::MAX).step_by(1 << 16) {
                    let slot = share.instead_of(scale(draw, capacity), capacity);
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
        let presence = Presence::new(7);
        let slots = |number| {
            let share = presence.share(ThreadBit::of(number), 1);
            [0, 3_840, 7_167].map(|slot| share.instead_of(slot, 7_168))
        };
        assert_eq!(slots(0), [0, 3_840, 7_167]);
        assert_eq!(slots(1), slots(0));
    }

    #[test]
    fn a_lone_thread_chooses_from_all() {
        let presence = Presence::new(100);
        let me = ThreadBit::of(35);
        assert!(!presence.is_lone(me, 1));
        presence.share(me, 1);
        assert!(presence.is_lone(me, 1));
        let share = presence.share(me, 1);
        assert_eq!(share.instead_of(0, 51_200), 0);
        assert_eq!(share.instead_of(51_199, 51_200), 51_199);
    }

    #[test]
    fn a_thread_that_goes_on_is_not_forgotten() {
        let presence = Presence::new(100);
        let [me, other] = [4, 9].map(ThreadBit::of);
        let classes = |me, sample| presence.share(me, sample).class_mask + 1;
        classes(other, 1);
        for _ in 0..10 {
            assert_eq!(classes(me, 0), 2);
            assert!(!presence.is_lone(me, 1));
            assert_eq!(classes(other, 1), 2);
        }
        assert_eq!(classes(me, 0), 2, "seen a moment ago");
        assert_eq!(classes(me, 0), 1, "gone");
        assert!(presence.is_lone(me, 1));
    }
}
