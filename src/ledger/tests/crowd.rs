//! The last few ports of a busy destination, which lie in cells.

use super::*;

/// Eight lines and a bit, on two sources.
const CAPACITY: u32 = 2_000 + 2_200;

fn nearly_full() -> (Ledger, Destination) {
    let sources = [source("10.0.0.1", 1, 2_000), source("10.0.0.2", 1, 2_200)];
    (ledger(&sources), tcp("192.0.2.1:80"))
}

/// Everything that anyone can do with the last ports, against a set of what is free: none is
/// handed out twice, none is lost, and "exhausted" is said only where none is free.
#[test]
fn the_last_ports_are_where_a_set_says() {
    let (ledger, to) = nearly_full();
    let (clock, random) = (TestClock::default(), &mut TestRandom(5, 0));
    let pin = ledger.pin(&to).unwrap();
    let mut held = fill(&ledger, &to, CAPACITY as usize, random);
    let mut free = BTreeSet::new();
    let mut resting: Vec<(u64, u32)> = Vec::new();
    let mut crowds = 0;
    for step in 0..200_000u32 {
        clock.0.set(u64::from(step));
        while let Some(at) = resting.iter().position(|&(due_ms, _)| due_ms <= clock.now_ms()) {
            free.insert(resting.swap_remove(at).1);
        }
        crowds += u32::from(pin.field.get().is_crowded());
        let draw = random.next_u32();
        // Now nearly none, now so many that the crowd disperses.
        let want = if step / 5_000 % 4 == 0 { 30 } else { 6 };
        let mut won = |claim: Result<Claim, Error>, window: Range<u32>| match claim {
            Ok(claim) => {
                assert!(window.contains(&claim.slot().0));
                assert!(free.remove(&claim.slot().0), "{step}: {:?} is not free", claim.slot());
                held.push(claim);
            }
            Err(_) => {
                let left: Vec<_> = free.range(window).collect();
                assert!(left.is_empty(), "{step}: exhausted with {left:?} free");
            }
        };
        match draw % 16 {
            0..6 => {
                let claim = acquire_pinned(&ledger, &pin, From::AnySource, &clock, random);
                won(claim, 0..CAPACITY);
            }
            6 => {
                let source = draw >> 8 & 1;
                let claim = ledger.acquire(&to, From::Source(source), &clock, random);
                won(claim, ledger.slots_of(source));
            }
            7 => {
                let slot = free.first().copied().unwrap_or(draw % CAPACITY);
                match ledger.acquire_exactly(&to, Slot(slot), &clock) {
                    Some(claim) => {
                        assert!(free.remove(&slot), "{step}: slot {slot} is not free");
                        held.push(claim);
                    }
                    None => assert!(!free.contains(&slot), "{step}: slot {slot} is free"),
                }
            }
            8 => {
                let census = ledger.census_of(&to, &clock);
                assert_eq!(census.free, free.len() as u64, "{step}");
                assert_eq!(census.resting, resting.len() as u64, "{step}");
            }
            9 => {
                let (first, count) = (draw >> 8 & 4_095, 1 + (draw >> 4 & 15));
                ledger.exclude(Family::V4, Slot(first), count, Why::Listener);
                let window = first..first + count;
                let idle = free.range(window.clone()).count() as u32;
                let usage = ledger.usage(Family::V4, std::slice::from_ref(&window), &clock);
                assert_eq!(usage.used, [count - idle], "{step}: {first} and {count} more");
                ledger.include(Family::V4, Slot(first), count, Why::Listener);
            }
            10 => ledger.tidy(&clock, random),
            11 => {
                let claim = held.swap_remove(draw as usize / 16 % held.len());
                let due_ms = clock.now_ms() + u64::from(draw >> 8 & 31) + 1;
                resting.push((due_ms, claim.slot().0));
                ledger.release(&to, claim, Then::RestUntilMs(due_ms));
            }
            _ if free.len() < want => {
                let claim = held.swap_remove(draw as usize / 16 % held.len());
                free.insert(claim.slot().0);
                ledger.release(&to, claim, Then::Free);
            }
            _ => {}
        }
    }
    assert!((20_000..180_000).contains(&crowds), "crowded in {crowds} of 200,000 steps");
    held.into_iter().for_each(|claim| ledger.release(&to, claim, Then::Free));
    ledger.unpin(&pin);
}

/// Four threads, each of which would like all the ports that are left: each port has one holder, and afterwards
/// all are free.
#[test]
fn threads_that_fight_for_the_last_ports_neither_share_nor_lose_one() {
    const EACH: usize = 200_000;
    let (ledger, to) = nearly_full();
    let random = &mut TestRandom(5, 0);
    let held = fill(&ledger, &to, CAPACITY as usize - 8, random);
    let owners: Vec<StdAtomicU64> = (0..CAPACITY).map(|_| StdAtomicU64::new(0)).collect();
    let all_here = std::sync::Barrier::new(4);
    let nos: Vec<usize> = std::thread::scope(|scope| {
        let fight = |thread: u32| {
            let (ledger, owners, all_here) = (&ledger, &owners, &all_here);
            scope.spawn(move || {
                let (clock, random) =
                    (TestClock::default(), &mut TestRandom(thread.into(), thread));
                let pin = ledger.pin(&to).unwrap();
                let (mut mine, mut nos) = (Vec::<Claim>::new(), 0);
                all_here.wait();
                for _ in 0..EACH {
                    if mine.len() == 9 || random.next_u32() % 4 == 0 {
                        let Some(claim) = mine.pop() else { continue };
                        owners[claim.slot().0 as usize].store(0, StdOrdering::Relaxed);
                        ledger.release(&to, claim, Then::Free);
                    } else if random.next_u32() % 1_000 == 0 {
                        let _ = ledger.census_of(&to, &clock);
                    } else {
                        match acquire_pinned(ledger, &pin, From::AnySource, &clock, random) {
                            Ok(claim) => {
                                let owner = &owners[claim.slot().0 as usize];
                                let before = owner.swap(thread.into(), StdOrdering::Relaxed);
                                assert_eq!(before, 0, "{:?} has two holders", claim.slot());
                                mine.push(claim);
                            }
                            Err(_) => nos += 1,
                        }
                    }
                }
                for claim in mine {
                    owners[claim.slot().0 as usize].store(0, StdOrdering::Relaxed);
                    ledger.release(&to, claim, Then::Free);
                }
                ledger.unpin(&pin);
                nos
            })
        };
        let threads: Vec<_> = (1..=4).map(fight).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(nos.iter().sum::<usize>() > 0, "nobody met the end");
    assert_eq!(ledger.census_of(&to, &TestClock::default()).free, 8);
    held.into_iter().for_each(|claim| ledger.release(&to, claim, Then::Free));
    assert_eq!(ledger.census_of(&to, &TestClock::default()).free, u64::from(CAPACITY));
}

/// Of the last ports each has its share.
#[test]
fn the_last_ports_take_turns() {
    let (ledger, to) = nearly_full();
    let (clock, random) = (TestClock::default(), &mut TestRandom(5, 0));
    let pin = ledger.pin(&to).unwrap();
    let _held = fill(&ledger, &to, CAPACITY as usize - 8, random);
    let mut counts = std::collections::BTreeMap::<u32, u32>::new();
    for _ in 0..8_000 {
        let claim = acquire_pinned(&ledger, &pin, From::AnySource, &clock, random).unwrap();
        *counts.entry(claim.slot().0).or_default() += 1;
        ledger.release(&to, claim, Then::Free);
    }
    assert!(pin.field.get().is_crowded());
    assert_eq!(counts.len(), 8, "{counts:?}");
    assert!(counts.values().all(|&n| (250..4_000).contains(&n)), "{counts:?}");
    ledger.unpin(&pin);
}
