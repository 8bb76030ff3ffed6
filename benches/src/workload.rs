//! One destination: pairs of a release and an acquire at a given occupancy, the "no" of a full
//! pool, and the last free port.

use crate::allocator::Ports;
use crate::measure::{Candidate, Upcoming};
use crate::memory;
use crate::random::Random;

/// Leases that somebody holds. A release picks one at random, so its order has nothing to do
/// with the order of the acquires. On cache lines of its own, for a thread of its own.
#[repr(align(128))]
pub struct Held<'a, P: Ports + 'a> {
    ports: &'a P,
    leases: Vec<Option<P::Lease<'a>>>,
    upcoming: Upcoming,
}

impl<'a, P: Ports> Held<'a, P> {
    /// Takes everything, then releases at random until `share` of it is held.
    pub fn fill(ports: &'a P, share: f64) -> Self {
        let mut random = Random::new(7);
        let mut leases = ports.take_all();
        random.shuffle(&mut leases);
        let kept = (leases.len() as f64 * share) as usize;
        leases.drain(kept..).for_each(|lease| ports.release(lease));
        let leases: Vec<_> = leases.into_iter().map(Some).collect();
        let upcoming = Upcoming::new(random, leases.len());
        Self { ports, leases, upcoming }
    }

    /// Half for each of two threads.
    pub fn halve(mut self) -> [Self; 2] {
        let leases = self.leases.split_off(self.leases.len() / 2);
        self.upcoming = Upcoming::new(Random::new(7), self.leases.len());
        let upcoming = Upcoming::new(Random::new(8), leases.len());
        let other = Self { ports: self.ports, leases, upcoming };
        [self, other]
    }

    /// `n` times: releases a random lease and acquires another. Gives how many acquires said
    /// "exhausted", which is false: something was released just before.
    #[inline]
    pub fn pairs(&mut self, n: u64) -> u64 {
        let mut false_nos = 0;
        for _ in 0..n {
            let index = self.upcoming.next(&self.leases);
            let place = &mut self.leases[index];
            if let Some(lease) = place.take() {
                self.ports.release(lease);
            }
            *place = loop {
                match self.ports.acquire() {
                    None => false_nos += 1,
                    some => break some,
                }
            };
        }
        false_nos
    }

    /// Until hardly a lease is left of those that somebody else may have acquired.
    pub fn turn_over(&mut self) {
        self.pairs(12 * self.leases.len() as u64);
    }

    /// `n` times: asks when nothing is free.
    #[inline]
    pub fn refusals(&mut self, n: u64) {
        for _ in 0..n {
            assert!(self.ports.acquire().is_none() || !P::ENDS, "leased although all is taken");
        }
    }
}

impl<'a, P: Ports> Drop for Held<'a, P> {
    fn drop(&mut self) {
        let ports = self.ports;
        self.leases.drain(..).flatten().for_each(|lease| ports.release(lease));
    }
}

/// A release and an acquire with `share` of the range held. With `share` = 1 the port that was
/// just released is the only one free.
pub fn pairs<'a, P: Ports>(name: &'static str, ports: &'a P, share: f64) -> Candidate<'a> {
    let mut held = Held::fill(ports, share);
    Candidate::new(name, move |n| held.pairs(n))
}

/// An acquire when nothing is free.
pub fn refusals<'a, P: Ports>(name: &'static str, ports: &'a P) -> Candidate<'a> {
    let mut held = Held::fill(ports, 1.0);
    Candidate::new(name, move |n| {
        held.refusals(n);
        0
    })
}

/// Calls to the memory allocator in a hundred thousand pairs with half of the range held.
pub fn allocations(ports: &impl Ports) -> u64 {
    let mut held = Held::fill(ports, 0.5);
    held.pairs(10_000);
    let before = memory::allocations();
    held.pairs(100_000);
    memory::allocations() - before
}
