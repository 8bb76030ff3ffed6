//! Models of each atomic protocol, run by loom over all the interleavings that bounded
//! preemption allows: `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`.
//!
//! Under `--cfg loom` a line is one word and there is one shard, so that a model stays small;
//! the code is the code that ships.

mod loom {
    use crate::error::Error;
    use crate::ledger::verdict::Verdict;
    use crate::ledger::*;
    use crate::sync::{AtomicU64, Ordering, model_fence};
    use ::loom::model::Builder;
    use ::loom::sync::Arc;
    use ::loom::thread;

    struct Noon;

    impl Clock for Noon {
        fn now_ms(&self) -> u64 {
            720
        }
    }

    /// Not random at all: a model must repeat.
    struct Fixed(u32);

    impl Random for Fixed {
        fn next_u64(&mut self) -> u64 {
            1
        }

        fn lane(&self) -> u32 {
            self.0
        }
    }

    const TO: &str = "192.0.2.1:443";

    fn to() -> Destination {
        Destination::new(Protocol::Tcp, TO.parse().unwrap())
    }

    fn ledger(ports: u16, names: Names) -> Arc<Ledger> {
        let ports = vec![PortRange::new(1, ports).unwrap()];
        let source = Source { address: "10.0.0.1".parse().unwrap(), scope: 0, ports };
        Arc::new(Ledger::new(&[source], names, [1, 2]).unwrap())
    }

    fn check(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 20_000;
        builder.check(model);
    }

    fn acquire(ledger: &Ledger, pin: &Pin, lane: u32) -> Result<Claim, Error> {
        ledger.acquire_pinned(pin, From::AnySource, &Noon, &mut Fixed(lane))
    }

    fn assert_all_free(ledger: &Ledger, ports: u64) {
        let census = ledger.census_of(&to(), &Noon);
        assert_eq!((census.free, census.leased), (ports, 0));
    }

    #[test]
    fn two_acquires_for_the_last_port() {
        check(|| {
            let ledger = ledger(1, Names::None);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).ok())
            };
            let mine = acquire(&ledger, &pin, 0).ok();
            let theirs = other.join().unwrap();
            assert_eq!(mine.is_some() as u32 + theirs.is_some() as u32, 1);
            mine.into_iter().chain(theirs).for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 1);
        });
    }

    /// Two ports, one leased: while it is released, somebody acquires two. "Exhausted" may be
    /// said only while both are out.
    #[test]
    fn an_acquire_against_a_release() {
        check(|| {
            let ledger = ledger(2, Names::None);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let held = acquire(&ledger, &pin, 0).unwrap();
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || {
                    let first = acquire(&ledger, &pin, 1).expect("one is free all the time");
                    (first, acquire(&ledger, &pin, 1))
                })
            };
            ledger.release(&to(), held, Then::Free);
            let (first, second) = other.join().unwrap();
            if second.is_err() {
                let third = acquire(&ledger, &pin, 0).expect("the released port is found");
                assert_ne!(first.slot(), third.slot());
                ledger.release(&to(), third, Then::Free);
            }
            for claim in [Some(first), second.ok()].into_iter().flatten() {
                ledger.release(&to(), claim, Then::Free);
            }
            assert_all_free(&ledger, 2);
        });
    }

    /// A verdict of "exhausted" is refuted by a release that comes while it is proved.
    #[test]
    fn a_release_against_the_proof_of_exhaustion() {
        check(|| {
            let ledger = ledger(1, Names::None);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let held = acquire(&ledger, &pin, 0).unwrap();
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).ok())
            };
            ledger.release(&to(), held, Then::Free);
            let theirs = other.join().unwrap();
            let after = acquire(&ledger, &pin, 0);
            assert_eq!(after.is_ok(), theirs.is_none(), "no verdict outlives the release");
        });
    }

    /// Of two ports, in different lines, one is free at any moment, but not always the same: it
    /// moves behind a search that reads line by line.
    #[test]
    fn a_free_port_that_moves_behind_a_search() {
        check(|| {
            let ledger = ledger(65, Names::None);
            ledger.exclude(Family::V4, Slot(1), 63, Why::NotOurs);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let held = ledger.acquire_exactly(&to(), Slot(0), &Noon).unwrap();
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).expect("one is always free"))
            };
            ledger.release(&to(), held, Then::Free);
            let mine = ledger.acquire_exactly(&to(), Slot(64), &Noon);
            let theirs = other.join().unwrap();
            assert!(mine.as_ref().is_none_or(|mine| mine.slot() != theirs.slot()));
            mine.into_iter().chain([theirs]).for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 2);
        });
    }

    /// The proof itself, entered at once: a release behind its reading moves the epoch, and
    /// "exhausted" is not pronounced.
    #[test]
    fn a_proof_that_reads_past_a_moving_port() {
        check(|| {
            let taken = |bit| Arc::new(AtomicU64::new(bit));
            let (words, verdict) = ([taken(1), taken(0)], Arc::new(Verdict::new()));
            let mover = {
                let (words, verdict) = (words.clone(), Arc::clone(&verdict));
                thread::spawn(move || {
                    words[0].fetch_and(0, Ordering::SeqCst);
                    model_fence();
                    verdict.refute();
                    words[1].fetch_or(1, Ordering::AcqRel);
                })
            };
            let proof = verdict.begin();
            let read = words.map(|word| word.load(Ordering::SeqCst));
            if read == [1, 1] {
                assert!(!verdict.pronounce(proof), "a port was free at every moment");
            }
            mover.join().unwrap();
        });
    }

    /// A destination grows into a field, by a pin, while a lease of its small days ends and
    /// another begins.
    #[test]
    fn growth_into_a_field_against_acquire_and_release() {
        check(|| {
            let ledger = ledger(3, Names::None);
            let small = ledger.acquire(&to(), From::AnySource, &Noon, &mut Fixed(0)).unwrap();
            let other = {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || {
                    let pin = ledger.pin(&to()).unwrap();
                    let claim = acquire(&ledger, &pin, 1).expect("two are free");
                    ledger.unpin(pin);
                    claim
                })
            };
            let second = ledger.acquire(&to(), From::AnySource, &Noon, &mut Fixed(0)).unwrap();
            ledger.release(&to(), small, Then::Free);
            let third = other.join().unwrap();
            assert_ne!(second.slot(), third.slot());
            ledger.release(&to(), second, Then::Free);
            ledger.release(&to(), third, Then::Free);
            assert_all_free(&ledger, 3);
        });
    }

    /// An idle field is stripped, by two visits, while the last lease ends and a new one begins.
    #[test]
    fn eviction_of_an_idle_destination_against_a_new_acquire() {
        check(|| {
            let ledger = ledger(2, Names::None);
            let pin = ledger.pin(&to()).unwrap();
            let last = acquire(&ledger, &pin, 0).unwrap();
            ledger.unpin(pin);
            let other = {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || {
                    ledger.tidy(&Noon, &mut Fixed(1));
                    ledger.tidy(&Noon, &mut Fixed(1));
                    ledger.tidy(&Noon, &mut Fixed(1));
                })
            };
            ledger.release(&to(), last, Then::Free);
            let claim = ledger.acquire(&to(), From::AnySource, &Noon, &mut Fixed(0)).unwrap();
            other.join().unwrap();
            let census = ledger.census_of(&to(), &Noon);
            assert_eq!((census.free, census.leased), (1, 1));
            ledger.release(&to(), claim, Then::Free);
            assert_all_free(&ledger, 2);
        });
    }

    /// Two threads release one name; the slot is leased anew meanwhile. One of them is told
    /// that the name is stale, and the new lease is untouched.
    #[test]
    fn a_stale_name_against_its_release_and_the_next_lease() {
        check(|| {
            let ledger = ledger(1, Names::Kept);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let name = {
                let claim = acquire(&ledger, &pin, 0).unwrap();
                ledger.name(&to(), claim)
            };
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || ledger.release_id_pinned(&pin, name, Then::Free).is_ok())
            };
            let mine = ledger.release_id_pinned(&pin, name, Then::Free).is_ok();
            let next = acquire(&ledger, &pin, 0).ok();
            let theirs = other.join().unwrap();
            assert!(mine != theirs, "exactly one release counts");
            let census = ledger.census_of(&to(), &Noon);
            assert_eq!(census.leased, u64::from(next.is_some()));
            if let Some(claim) = next {
                assert!(ledger.release_id_pinned(&pin, name, Then::Free).is_err());
                ledger.release(&to(), claim, Then::Free);
            }
            assert_all_free(&ledger, 1);
        });
    }

    /// A slot is excluded and included again while it is released.
    #[test]
    fn exclusion_against_a_release() {
        check(|| {
            let ledger = ledger(1, Names::None);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let held = acquire(&ledger, &pin, 0).unwrap();
            let other = {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || {
                    ledger.exclude(Family::V4, Slot(0), 1, Why::Listener);
                    ledger.include(Family::V4, Slot(0), 1, Why::Listener);
                })
            };
            ledger.release(&to(), held, Then::Free);
            other.join().unwrap();
            assert_all_free(&ledger, 1);
        });
    }
}
