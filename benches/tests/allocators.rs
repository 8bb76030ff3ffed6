//! Everyone who is measured is a correct allocator, else its speed means nothing: no lease is handed
//! out twice, a full pool says so, and what is released comes back.

use portlease_benches::allocator::{Ports, Through};
use portlease_benches::alternatives::{
    DashSet, FreeList, FreeLists, MutexHashSet, PortRing, RandomTries,
};
use portlease_benches::portlease::Portlease;
use portlease_benches::random::{Random, seed_thread};
use portlease_benches::space::{Space, destination};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const SMALL: Space = Space { sources: 2, first_port: 65_236, last_port: u16::MAX };

/// Whether "exhausted" is the truth, or may be said too early.
#[derive(Clone, Copy, PartialEq)]
enum No {
    Exact,
    MayBeFalse,
}

fn is_an_allocator(ports: &impl Ports, no: No) {
    let mut random = Random::new(1);
    let mut held = Vec::new();
    let mut identities = HashSet::new();
    for step in 0..40_000_u32 {
        let filling = step / 4_000 % 2 == 0;
        if random.below(100) < if filling { 80 } else { 30 } {
            match ports.acquire() {
                Some(lease) => {
                    assert!(identities.insert(ports.identity(&lease)), "leased twice");
                    held.push(lease);
                }
                None if no == No::Exact => assert_eq!(held.len() as u32, SMALL.capacity()),
                None => {}
            }
        } else if !held.is_empty() {
            let lease = held.swap_remove(random.below(held.len() as u32) as usize);
            identities.remove(&ports.identity(&lease));
            ports.release(lease);
        }
    }
    held.drain(..).for_each(|lease| ports.release(lease));

    let all = ports.take_all();
    let identities: HashSet<_> = all.iter().map(|lease| ports.identity(lease)).collect();
    assert_eq!(identities.len() as u32, SMALL.capacity());
    assert!(ports.acquire().is_none(), "leased although all is taken");
    all.into_iter().for_each(|lease| ports.release(lease));
}

fn two_threads_never_share(ports: &impl Ports) {
    let owned: Vec<AtomicBool> = (0..1 << 17).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for seed in 0..2 {
            let owned = &owned;
            scope.spawn(move || {
                seed_thread(seed);
                let mut random = Random::new(seed);
                let mut held = Vec::new();
                for _ in 0..40_000 {
                    if random.below(100) < 55 && (held.len() as u32) < SMALL.capacity() / 2 {
                        let Some(lease) = ports.acquire() else { continue };
                        let place = &owned[ports.identity(&lease) as usize];
                        assert!(!place.swap(true, Ordering::SeqCst), "leased twice");
                        held.push(lease);
                    } else if !held.is_empty() {
                        let lease = held.swap_remove(random.below(held.len() as u32) as usize);
                        owned[ports.identity(&lease) as usize].store(false, Ordering::SeqCst);
                        ports.release(lease);
                    }
                }
                for lease in held {
                    owned[ports.identity(&lease) as usize].store(false, Ordering::SeqCst);
                    ports.release(lease);
                }
            });
        }
    });
}

fn check(ports: &impl Ports, no: No) {
    is_an_allocator(ports, no);
    two_threads_never_share(ports);
}

#[test]
fn mutex_and_hash_set() {
    check(&Through { pool: &MutexHashSet::new(SMALL), to: destination(0) }, No::Exact);
}

#[test]
fn dash_map() {
    check(&Through { pool: &DashSet::new(SMALL), to: destination(0) }, No::Exact);
}

#[test]
fn free_list_of_one_destination() {
    check(&FreeList::new(SMALL), No::Exact);
}

#[test]
fn free_list_for_each_destination() {
    check(&Through { pool: &FreeLists::new(SMALL), to: destination(0) }, No::Exact);
}

#[test]
fn port_ring() {
    check(&PortRing::new(SMALL), No::Exact);
}

#[test]
fn random_tries() {
    check(&Through { pool: &RandomTries::new(SMALL), to: destination(0) }, No::MayBeFalse);
}

#[test]
fn portlease_itself() {
    let pool = Portlease::new(SMALL);
    check(&pool.handle(destination(0)), No::Exact);
    check(&Through { pool: &pool, to: destination(1) }, No::Exact);
}

#[test]
fn destinations_differ() {
    let all: HashSet<_> = (0..300_000).map(destination).collect();
    assert_eq!(all.len(), 300_000);
}
