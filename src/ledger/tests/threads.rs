//! Many threads, destinations of every form.

use super::*;

/// Two million actions on eight threads: each lease is marked by its holder in a table of its
/// own, which tells at once when two hold one; afterwards nothing is lost.
#[test]
fn eight_threads_never_hold_one_four_tuple_twice_and_lose_none() {
    const THREADS: u32 = 8;
    const ACTIONS: u32 = 250_000;
    let sources = [source("10.0.0.1", 60_000, 65_535), source("10.0.0.2", 1, 70)];
    let ledger = ledger(&sources);
    let capacity = ledger.capacity(Family::V4) as usize;
    // A busy one, a scarce one through pins, small ones, and one that comes and goes.
    let destinations: Vec<Destination> = (0..6).map(|i| tcp(&format!("192.0.2.{i}:443"))).collect();
    let owners: Vec<Vec<StdAtomicU64>> = destinations
        .iter()
        .map(|_| (0..capacity).map(|_| StdAtomicU64::new(0)).collect())
        .collect();
    let clock = SharedClock(StdAtomicU64::new(0));
    std::thread::scope(|scope| {
        let mut handles = Vec::new();
        for thread in 1..=THREADS {
            let (ledger, destinations, owners, clock) = (&ledger, &destinations, &owners, &clock);
            handles.push(scope.spawn(move || {
                let random = &mut TestRandom(thread.into(), thread);
                let mut held: Vec<(usize, Claim)> = Vec::new();
                for action in 0..ACTIONS {
                    let draw = random.next_u64();
                    let to = (draw % 16).min(5) as usize;
                    let want = if to == 5 { 700 } else { 40 };
                    let release = held.len() > want || draw >> 32 & 7 < 3;
                    if release && !held.is_empty() {
                        let nth = (draw >> 36) as usize % held.len();
                        let (to, claim) = held.swap_remove(nth);
                        let owner = &owners[to][claim.slot().0 as usize];
                        assert_eq!(owner.swap(0, StdOrdering::Relaxed), thread.into());
                        let now = clock.now_ms();
                        let then =
                            if draw >> 60 == 0 { Then::RestUntilMs(now + 3) } else { Then::Free };
                        ledger.release(&destinations[to], claim, then);
                    } else {
                        let from = if draw >> 58 == 0 { From::Source(1) } else { From::AnySource };
                        match ledger.acquire(&destinations[to], from, clock, random) {
                            Ok(claim) => {
                                let owner = &owners[to][claim.slot().0 as usize];
                                let before = owner.swap(thread.into(), StdOrdering::Relaxed);
                                assert_eq!(before, 0, "held by {before} and {thread}");
                                held.push((to, claim));
                            }
                            Err(Error::Exhausted(_)) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    match draw >> 50 & 0x3ff {
                        0 => {
                            clock.0.fetch_add(1, StdOrdering::Relaxed);
                        }
                        1 => ledger.tidy(clock, random),
                        2 => {
                            let pin = ledger.pin(&destinations[to]).unwrap();
                            if let Ok(claim) =
                                acquire_pinned(ledger, &pin, From::AnySource, clock, random)
                            {
                                let owner = &owners[to][claim.slot().0 as usize];
                                assert_eq!(owner.swap(thread.into(), StdOrdering::Relaxed), 0);
                                held.push((to, claim));
                            }
                            ledger.unpin(&pin);
                        }
                        3 if action % 4 == 0 => {
                            let first = draw as u32 % 5_000;
                            ledger.exclude(Family::V4, Slot(first), 9, Why::Listener);
                            ledger.include(Family::V4, Slot(first), 9, Why::Listener);
                        }
                        _ => {}
                    }
                }
                for (to, claim) in held {
                    owners[to][claim.slot().0 as usize].store(0, StdOrdering::Relaxed);
                    ledger.release(&destinations[to], claim, Then::Free);
                }
            }));
        }
        // Joined one by one: a race detector does not see the scope's own join.
        handles.into_iter().for_each(|handle| handle.join().unwrap());
    });
    clock.0.fetch_add(1_000, StdOrdering::Relaxed);
    for to in &destinations {
        let census = ledger.census_of(to, &clock);
        let free = Census { capacity: capacity as u64, free: capacity as u64, ..Census::default() };
        assert_eq!(census, free, "{to}");
    }
}

/// What is excluded changes while a small destination is counted: no count is ever more than there
/// is, and they add up.
#[test]
fn the_counts_of_a_small_destination_fit_while_exclusions_come_and_go() {
    const CAPACITY: u64 = 30;
    let ledger = ledger(&[source("10.0.0.1", 1, CAPACITY as u16)]);
    let to = tcp("192.0.2.1:80");
    let (clock, random) = (TestClock::default(), &mut TestRandom(1, 0));
    let claim = ledger.acquire(&to, From::AnySource, &clock, random).unwrap();
    let slot = claim.slot();
    std::thread::scope(|scope| {
        let excluding = scope.spawn(|| {
            for _ in 0..100_000 {
                ledger.exclude(Family::V4, slot, 1, Why::Listener);
                ledger.include(Family::V4, slot, 1, Why::Listener);
            }
        });
        while !excluding.is_finished() {
            let Census { capacity, free, leased, resting, excluded } =
                ledger.census_of(&to, &clock);
            assert_eq!((capacity, leased, resting), (CAPACITY, 1, 0));
            assert!(excluded <= 1, "{excluded}");
            assert_eq!(free + leased + excluded, capacity);
        }
    });
    ledger.release(&to, claim, Then::Free);
}
