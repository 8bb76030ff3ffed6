//! What rests, in the order in which it comes back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Lanes before an entry that fits none goes into the heap. A pool rests for a handful of
/// durations; entries of one duration come in order and share a lane.
const LANES_MAX: usize = 8;

/// Deadlines count milliseconds from the queue's own base, so that an entry is four bytes
/// and its `T`.
type Due = u32;

/// Entries ordered by the moment when they are due.
///
/// Sorted lanes, each appended to at its end: constant time for an entry that is not due
/// before the last of some lane, which holds while there are at most [`LANES_MAX`] different
/// durations. Others go through a heap, in logarithmic time. Order and deadlines are exact in
/// both.
#[derive(Debug)]
pub(super) struct RestQueue<T> {
    base_ms: u64,
    lanes: Vec<VecDeque<(Due, T)>>,
    heap: BinaryHeap<Reverse<(Due, T)>>,
    len: usize,
}

impl<T> Default for RestQueue<T>
where
    T: Ord,
{
    fn default() -> Self {
        Self { base_ms: 0, lanes: Vec::new(), heap: BinaryHeap::new(), len: 0 }
    }
}

impl<T: Ord + Copy> RestQueue<T> {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the first entry is due, in milliseconds.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.first().map(|(_, due)| self.base_ms + u64::from(due))
    }

    /// Number of the entries that `wanted` says yes to, and when the first of them is due, in
    /// milliseconds. Looks at all.
    pub(super) fn count_where(&self, wanted: impl Fn(T) -> bool) -> (u32, Option<u64>) {
        let in_lanes = self.lanes.iter().flatten();
        let all = in_lanes.chain(self.heap.iter().map(|Reverse(entry)| entry));
        let dues = all.filter(|&&(_, what)| wanted(what)).map(|&(due, _)| due);
        let (count, first) = dues.fold((0, None), |(count, first): (u32, Option<Due>), due| {
            (count + 1, Some(first.map_or(due, |first| first.min(due))))
        });
        (count, first.map(|due| self.base_ms + u64::from(due)))
    }

    /// Takes in `what`, due at `due_ms`; a deadline more than 49 days away is brought forward.
    pub(super) fn push(&mut self, due_ms: u64, what: T) {
        if self.len == 0 {
            self.base_ms = due_ms;
        }
        if due_ms < self.base_ms || due_ms - self.base_ms > u64::from(Due::MAX) {
            self.rebase(due_ms);
        }
        let due = Due::try_from(due_ms.saturating_sub(self.base_ms)).unwrap_or(Due::MAX);
        self.len += 1;
        let last = |lane: &VecDeque<(Due, T)>| lane.back().map(|&(last, _)| last);
        let lanes = self.lanes.iter().enumerate();
        let fitting = lanes
            .filter(|(_, lane)| last(lane).is_none_or(|last| last <= due))
            .max_by_key(|(_, lane)| last(lane));
        match fitting.map(|(lane, _)| lane) {
            Some(lane) => append(&mut self.lanes[lane], (due, what)),
            None if self.lanes.len() < LANES_MAX => {
                let mut lane = VecDeque::new();
                append(&mut lane, (due, what));
                self.lanes.push(lane);
            }
            None => self.heap.push(Reverse((due, what))),
        }
    }

    /// The next entry that is due at `now_ms`, in order.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<T> {
        let (place, due) = self.first()?;
        if self.base_ms + u64::from(due) > now_ms {
            return None;
        }
        self.len -= 1;
        match place {
            Some(lane) => {
                let lane = &mut self.lanes[lane];
                let (_, what) = lane.pop_front()?;
                if lane.capacity() > 64 && lane.len() < lane.capacity() / 4 {
                    lane.shrink_to(lane.len() * 2);
                }
                Some(what)
            }
            None => self.heap.pop().map(|Reverse((_, what))| what),
        }
    }

    /// Takes out all that `wanted` says yes to, with their deadlines in milliseconds.
    pub(super) fn extract(&mut self, mut wanted: impl FnMut(T) -> bool) -> Vec<(u64, T)> {
        let mut out = Vec::new();
        let base_ms = self.base_ms;
        let mut keep = |due: Due, what: T| {
            let taken = wanted(what);
            if taken {
                out.push((base_ms + u64::from(due), what));
            }
            !taken
        };
        for lane in &mut self.lanes {
            lane.retain(|&(due, what)| keep(due, what));
        }
        self.heap.retain(|&Reverse((due, what))| keep(due, what));
        self.len -= out.len();
        out
    }

    /// Lane (`None`: the heap) and deadline of the first entry.
    fn first(&self) -> Option<(Option<usize>, Due)> {
        let lanes = self.lanes.iter().enumerate();
        let in_lanes = lanes.filter_map(|(i, lane)| Some((Some(i), lane.front()?.0)));
        let in_heap = self.heap.peek().map(|&Reverse((due, _))| (None, due));
        in_lanes.chain(in_heap).min_by_key(|&(_, due)| due)
    }

    /// Moves the base so that `due_ms` fits, if all entries still do.
    fn rebase(&mut self, due_ms: u64) {
        let Some((_, first)) = self.first() else { return };
        let new_base = due_ms.min(self.base_ms + u64::from(first));
        let old_base = self.base_ms;
        let shifted =
            |due: Due| Due::try_from(old_base + u64::from(due) - new_base).unwrap_or(Due::MAX);
        for lane in &mut self.lanes {
            lane.iter_mut().for_each(|(due, _)| *due = shifted(*due));
        }
        let heap = std::mem::take(&mut self.heap);
        self.heap =
            heap.into_iter().map(|Reverse((due, what))| Reverse((shifted(due), what))).collect();
        self.base_ms = new_base;
    }
}

/// Grows by a quarter: doubling would spend up to twice the bytes on a million entries.
fn append<T>(lane: &mut VecDeque<T>, entry: T) {
    if lane.len() == lane.capacity() {
        lane.reserve_exact((lane.len() / 4).max(8));
    }
    lane.push_back(entry);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Promises: nothing comes before its deadline, nothing due stays, order is by
        /// deadline, nothing is lost, whatever the durations.
        #[test]
        fn comes_back_in_order_and_on_time(
            steps in prop::collection::vec((0u64..40, 0u64..5000, any::<bool>()), 1..400),
            start in 0u64..u64::from(u32::MAX) * 3,
        ) {
            let mut queue = RestQueue::default();
            let mut model: Vec<(u64, u32)> = Vec::new();
            let mut now = start;
            for (i, (pass, rest, few_durations)) in steps.into_iter().enumerate() {
                now += pass;
                let rest = if few_durations { rest % 3 * 1000 } else { rest };
                queue.push(now + rest, i as u32);
                model.push((now + rest, i as u32));
                prop_assert_eq!(queue.next_due_ms(), model.iter().map(|e| e.0).min());
                let mut last = 0;
                while let Some(what) = queue.pop_due(now) {
                    let at = model.iter().position(|e| e.1 == what).unwrap();
                    let (due, _) = model.remove(at);
                    prop_assert!(due <= now && due >= last);
                    last = due;
                }
                prop_assert!(model.iter().all(|e| e.0 > now));
                prop_assert_eq!(queue.len, model.len());
            }
        }
    }

    #[test]
    fn a_million_entries_take_at_most_sixteen_bytes_each() {
        let mut queue = RestQueue::default();
        for i in 0..1_000_000u32 {
            queue.push(u64::from(i / 7), (i, i));
        }
        let bytes: usize = queue.lanes.iter().map(|lane| lane.capacity() * 12).sum();
        assert!(bytes <= 16_000_000, "{bytes}");
    }

    #[test]
    fn outlives_the_range_of_its_deadlines() {
        let mut queue = RestQueue::default();
        let day_ms = 86_400_000;
        queue.push(day_ms, 1);
        queue.push(day_ms * 40, 2);
        queue.push(day_ms * 80, 3);
        assert_eq!(queue.pop_due(day_ms * 39), Some(1));
        assert_eq!(queue.pop_due(day_ms * 39), None);
        queue.push(day_ms * 85, 4);
        assert_eq!(queue.pop_due(day_ms * 90), Some(2));
        assert_eq!(queue.pop_due(day_ms * 90), Some(3));
        assert_eq!(queue.pop_due(day_ms * 90), Some(4));
        assert_eq!(queue.len, 0);
    }
}
