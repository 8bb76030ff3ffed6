//! The last free slots of a field that is nearly full: a handful of cells instead of a search.

use crate::sync::{AtomicU32, Ordering};

/// Cells: more free slots than that are no crowd.
const CELLS: usize = if cfg!(loom) { 2 } else { 16 };
/// Free slots from which on a field is crowded. Far enough from [`CELLS`] that a field does not
/// become crowded and cease to be at each turn.
pub(super) const CROWD: u32 = if cfg!(loom) { 1 } else { 8 };

/// Slots that nobody has, and whose bits are set all the same, so that an acquire takes them from
/// here and nowhere else. One atomic instruction puts a slot in, one takes it out.
#[repr(align(64))]
#[derive(Debug)]
pub(super) struct Crowd {
    /// The slot's number and one; 0: empty.
    cells: [AtomicU32; CELLS],
}

impl Crowd {
    pub(super) fn new() -> Self {
        Self { cells: std::array::from_fn(|_| AtomicU32::new(0)) }
    }

    /// Puts in a slot that is the caller's. `false`: no cell is empty, and it still is.
    #[inline]
    pub(super) fn put(&self, slot: u32) -> bool {
        let looks = [slot, slot >> 4, slot >> 8, slot >> 12];
        let mut at = self.look(looks, |cell| cell == 0);
        loop {
            // SeqCst: see `Verdict::signs`; as a Release it publishes the slot's word to the next
            // holder. Relaxed on failure: the next look decides.
            let cell = &self.cells[at];
            if cell.compare_exchange(0, slot + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return true;
            }
            match self.find(slot, |cell| cell == 0) {
                Some(empty) => at = empty,
                None => return false,
            }
        }
    }

    /// Takes out any slot; `draw` is random. `None`: there was none at some moment.
    #[inline]
    pub(super) fn take(&self, draw: u32) -> Option<u32> {
        let looks = [draw >> 28, draw >> 24, draw >> 20, draw >> 16];
        let mut at = self.look(looks, |cell| cell != 0);
        loop {
            let cell = &self.cells[at];
            // Relaxed: as in `look`.
            let found = cell.load(Ordering::Relaxed);
            // AcqRel: Acquire pairs with `put`. Relaxed on failure: other threads have won or
            // released one.
            if found != 0
                && cell.compare_exchange(found, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                return Some(found - 1);
            }
            at = self.find(draw >> 12, |cell| cell != 0)?;
        }
    }

    /// The first of `looks` whose cell is wanted, the last if none is. Without a branch, for which
    /// one it is falls to chance.
    #[inline]
    fn look(&self, looks: [u32; 4], is_wanted: impl Fn(u32) -> bool) -> usize {
        let [a, b, c, d] = looks.map(|look| look as usize % CELLS);
        // Relaxed: a look; an exchange decides.
        let is_wanted = |at: usize| is_wanted(self.cells[at].load(Ordering::Relaxed));
        let at = if is_wanted(c) { c } else { d };
        let at = if is_wanted(b) { b } else { at };
        if is_wanted(a) { a } else { at }
    }

    /// The first wanted cell from `start` on, round the end.
    #[cold]
    #[inline(never)]
    fn find(&self, start: u32, is_wanted: impl Fn(u32) -> bool) -> Option<usize> {
        let round = (0..CELLS).map(|nth| (start as usize + nth) % CELLS);
        // SeqCst: see `Verdict::signs`.
        round.into_iter().find(|&at| is_wanted(self.cells[at].load(Ordering::SeqCst)))
    }

    /// Takes out whatever there is.
    pub(super) fn drain(&self) -> impl Iterator<Item = u32> {
        // SeqCst: after the field has ceased to be crowded; see `Verdict::signs`.
        self.cells.iter().filter_map(|cell| cell.swap(0, Ordering::SeqCst).checked_sub(1))
    }
}
