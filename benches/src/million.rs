//! Many destinations with a lease or a few each, named in each call.

use crate::allocator::Pool;
use crate::measure::{AHEAD, Candidate, Upcoming, thread_ns};
use crate::memory;
use crate::random::{Random, seed_thread};
use crate::space::destination;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Leases towards many destinations, each with its destination.
pub struct Scattered<'a, P: Pool + 'a> {
    pool: &'a P,
    leases: Vec<(u32, Option<P::Lease<'a>>)>,
    upcoming: Upcoming,
    towards: Towards,
    random: Random,
    /// Which lease goes, and where the one after it leads.
    plan: VecDeque<(usize, u32)>,
}

/// Where the next acquire leads.
#[derive(Clone, Copy, Debug)]
pub enum Towards {
    /// A destination that nobody has seen: the one after the last such.
    Fresh(u32),
    /// One of the first so many, at random.
    Known(u32),
}

impl<'a, P: Pool> Scattered<'a, P> {
    /// `each` leases towards each of `count` destinations.
    pub fn fill(pool: &'a P, count: u32, each: u32, towards: Towards) -> Self {
        let mut leases = places(count * each);
        for (place, to) in leases.iter_mut().zip((0..count).cycle()) {
            *place = (to, pool.acquire(destination(to)));
        }
        let upcoming = Upcoming::new(Random::new(9), leases.len());
        Self { pool, leases, upcoming, towards, random: Random::new(10), plan: VecDeque::new() }
    }

    /// Which lease goes next, and where the one after it leads.
    #[inline]
    fn draw(&mut self) -> (usize, u32) {
        let index = self.upcoming.next(&self.leases);
        let number = match &mut self.towards {
            Towards::Known(count) => self.random.below(*count),
            Towards::Fresh(next) => {
                *next = next.wrapping_add(1);
                *next
            }
        };
        (index, number)
    }

    #[inline]
    fn swap(&mut self, (index, number): (usize, u32)) {
        let (held_to, place) = &mut self.leases[index];
        if let Some(lease) = place.take() {
            self.pool.release(destination(*held_to), lease);
        }
        *held_to = number;
        *place = self.pool.acquire(destination(number));
        assert!(place.is_some(), "one of 64,512");
    }

    /// `n` times: releases a random lease, and acquires towards the next destination.
    pub fn pairs(&mut self, n: u64) {
        for _ in 0..n {
            let drawn = self.draw();
            self.swap(drawn);
        }
    }

    /// The same, both destinations announced some steps ahead.
    pub fn announced_pairs(&mut self, n: u64) {
        for _ in 0..n {
            while self.plan.len() < AHEAD {
                let (index, number) = self.draw();
                self.pool.announce(destination(self.leases[index].0));
                self.pool.announce(destination(number));
                self.plan.push_back((index, number));
            }
            let planned = self.plan.pop_front().expect("filled above");
            self.swap(planned);
        }
    }
}

/// Places for leases, written once so that the harness's own pages are there.
fn places<L>(count: u32) -> Vec<(u32, Option<L>)> {
    (0..count).map(|_| (0, None)).collect()
}

impl<P: Pool> Drop for Scattered<'_, P> {
    fn drop(&mut self) {
        for (to, place) in &mut self.leases {
            if let Some(lease) = place.take() {
                self.pool.release(destination(*to), lease);
            }
        }
    }
}

/// Pairs over `count` destinations with a lease each, every acquire towards a fresh one.
pub fn pairs<'a, P: Pool>(name: &'static str, pool: &'a P, count: u32) -> Candidate<'a> {
    let mut scattered = Scattered::fill(pool, count, 1, Towards::Fresh(count));
    Candidate::new(name, move |n| {
        scattered.pairs(n);
        0
    })
}

/// The same, announced ahead.
pub fn announced_pairs<'a, P: Pool>(name: &'static str, pool: &'a P, count: u32) -> Candidate<'a> {
    let mut scattered = Scattered::fill(pool, count, 1, Towards::Fresh(count));
    Candidate::new(name, move |n| {
        scattered.announced_pairs(n);
        0
    })
}

/// Pairs over a thousand destinations that stay, eight leases each on average: the look-up
/// while all is in the caches.
pub fn cached_pairs<'a, P: Pool>(name: &'static str, pool: &'a P) -> Candidate<'a> {
    const COUNT: u32 = 1000;
    let mut scattered = Scattered::fill(pool, COUNT, 8, Towards::Known(COUNT));
    Candidate::new(name, move |n| {
        scattered.pairs(n);
        0
    })
}

/// What it took to lease one port towards each of many destinations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filling {
    /// Bytes that the pool allocated, for one lease.
    pub bytes_each: f64,
    /// Bytes that the process grew by, for one lease.
    pub resident_bytes_each: f64,
    /// Each single acquire in turn, in nanoseconds on a core.
    pub acquires_ns: Vec<u32>,
}

/// Leases one port towards each of `count` destinations. Only for a pool that is new: one that
/// has grown before does not grow again.
pub fn fill<P: Pool>(pool: &P, count: u32) -> Filling {
    seed_thread(1);
    let mut leases = places(count);
    let mut acquires_ns = vec![u32::MAX; count as usize];
    let (live, resident) = (memory::live_bytes(), memory::resident_bytes());
    let mut before = thread_ns();
    for ((place, ns), to) in leases.iter_mut().zip(&mut acquires_ns).zip(0..) {
        *place = (to, pool.acquire(destination(to)));
        let after = thread_ns();
        *ns = (after - before).try_into().unwrap_or(u32::MAX);
        before = after;
    }
    let each = |bytes: u64| bytes as f64 / f64::from(count);
    let filling = Filling {
        bytes_each: each(memory::live_bytes() - live),
        resident_bytes_each: each(memory::resident_bytes().saturating_sub(resident)),
        acquires_ns,
    };
    for (to, lease) in leases {
        pool.release(destination(to), lease.expect("leased above"));
    }
    filling
}

/// What remains of destinations that were visited and left.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Passage {
    /// Bytes that the pool had at most.
    pub peak_bytes: u64,
    /// Bytes that it has when all is released.
    pub left_bytes: u64,
    /// The slowest single acquire or release, in nanoseconds on a core.
    pub slowest_ns: u64,
}

/// Visits `count` destinations; `at_once` of them are leased at any moment, the oldest leaves
/// first.
pub fn pass_through<P: Pool>(pool: &P, count: u32, at_once: u32) -> Passage {
    let mut leases: VecDeque<P::Lease<'_>> = VecDeque::with_capacity(at_once as usize + 1);
    let live = memory::live_bytes();
    memory::reset_peak();
    let mut slowest_ns = 0;
    let mut before = thread_ns();
    let mut tick = || {
        let after = thread_ns();
        slowest_ns = slowest_ns.max(after - before);
        before = after;
    };
    for index in 0..count + at_once {
        if index < count {
            leases.push_back(pool.acquire(destination(index)).expect("the first of 64,512"));
            tick();
        }
        if index >= at_once {
            let oldest = leases.pop_front().expect("leased before");
            pool.release(destination(index - at_once), oldest);
            tick();
        }
    }
    Passage {
        peak_bytes: memory::peak_bytes() - live,
        left_bytes: memory::live_bytes().saturating_sub(live),
        slowest_ns,
    }
}
