//! Models of each atomic protocol, run by loom over all the interleavings that bounded
//! preemption allows: `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`.
//!
//! Under `--cfg loom` a line is one word and there is one shard, so that a model stays small;
//! the code is the code that ships.

pub(super) mod loom {
    use crate::error::Error;
    use crate::ledger::verdict::Verdict;
    use crate::ledger::*;
    use crate::sync::{AtomicU64, Ordering, model_fence};
    use ::loom::model::Builder;
    use ::loom::sync::Arc;
    use ::loom::thread;

    pub(in crate::ledger) struct Noon;

    impl Clock for Noon {
        fn now_ms(&self) -> u64 {
            720
        }
    }

    /// Not random at all: a model must repeat. The thread's number.
    pub(in crate::ledger) struct Fixed(pub(in crate::ledger) u32);

    /// All four looks at up to 200 slots meet slot 0, and nobody is forgotten.
    const ALL_AT_0: u32 = 407_187;

    impl Random for Fixed {
        fn next_u32(&mut self) -> u32 {
            ALL_AT_0
        }

        fn me(&self) -> ThreadBit {
            ThreadBit::of(self.0.into())
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
        check_with(3, model);
    }

    pub(in crate::ledger) fn check_with(
        preemptions: usize,
        model: impl Fn() + Sync + Send + 'static,
    ) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 20_000;
        builder.check(model);
    }

    fn acquire(ledger: &Ledger, pin: &Pin, lane: u32) -> Result<Claim, Error> {
        let claim = ledger.acquire_pinned(pin, From::AnySource, &Noon, &mut Fixed(lane));
        claim.map(|claim| pin.claim(claim))
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
                    verdict.refute(verdict.signs());
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
                    ledger.unpin(&pin);
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
            ledger.unpin(&pin);
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

    /// A ledger whose free slots are 0, 64, .. only: one a line, `lines` of them. A random look
    /// meets slot 0 alone.
    fn thin_ledger(lines: u16, names: Names) -> Arc<Ledger> {
        let ledger = ledger((lines - 1) * 64 + 1, names);
        (0..u32::from(lines) - 1).for_each(|line| {
            ledger.exclude(Family::V4, Slot(line * 64 + 1), 63, Why::NotOurs);
        });
        ledger
    }

    /// The same with two slots, both leased: the search for the second has made it crowded.
    fn crowded_ledger(names: Names) -> (Arc<Ledger>, Arc<Pin>, [Claim; 2]) {
        let ledger = thin_ledger(2, names);
        let pin = Arc::new(ledger.pin(&to()).unwrap());
        let held = [0, 1].map(|_| acquire(&ledger, &pin, 0).unwrap());
        assert_eq!(held.each_ref().map(Claim::slot), [Slot(0), Slot(64)]);
        (ledger, pin, held)
    }

    /// A slot is put into a cell while somebody who wants it by its number empties the cells.
    #[test]
    fn a_release_into_a_crowd_that_is_dispersed() {
        check(|| {
            let (ledger, _pin, [low, high]) = crowded_ledger(Names::None);
            let other = {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || ledger.acquire_exactly(&to(), Slot(64), &Noon))
            };
            ledger.release(&to(), high, Then::Free);
            let theirs = other.join().unwrap();
            let next = ledger.acquire_exactly(&to(), Slot(64), &Noon);
            assert_eq!(next.is_some(), theirs.is_none(), "free, or theirs");
            [Some(low), theirs, next].into_iter().flatten().for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 2);
        });
    }

    /// A slot is put into a cell while "exhausted" is proved, or after it was.
    #[test]
    fn a_release_into_a_crowd_against_the_proof_of_exhaustion() {
        check(|| {
            let (ledger, pin, [low, high]) = crowded_ledger(Names::None);
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).ok())
            };
            ledger.release(&to(), high, Then::Free);
            let theirs = other.join().unwrap();
            let after = acquire(&ledger, &pin, 0).ok();
            assert_eq!(after.is_some(), theirs.is_none(), "no verdict outlives the release");
            [Some(low), theirs, after].into_iter().flatten().for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 2);
        });
    }

    /// Two threads want the one slot that lies in a cell.
    #[test]
    fn two_acquires_for_the_last_of_a_crowd() {
        check(|| {
            let (ledger, pin, [low, high]) = crowded_ledger(Names::None);
            ledger.release(&to(), high, Then::Free);
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).ok())
            };
            let mine = acquire(&ledger, &pin, 0).ok();
            let theirs = other.join().unwrap();
            assert_eq!(mine.is_some() as u32 + theirs.is_some() as u32, 1);
            [Some(low), mine, theirs].into_iter().flatten().for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 2);
        });
    }

    /// Whoever takes a slot out of a cell goes on from the generation that it had.
    #[test]
    fn a_name_that_ends_in_a_crowd_against_the_next() {
        check(|| {
            let (ledger, pin, [low, high]) = crowded_ledger(Names::Kept);
            let name = ledger.name(&to(), high);
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).ok())
            };
            ledger.release_id_pinned(&pin, name, Then::Free).expect("it is current");
            let next = other.join().unwrap().map(|claim| ledger.name(&to(), claim));
            assert_ne!(next, Some(name));
            assert!(ledger.release_id_pinned(&pin, name, Then::Free).is_err());
            let next = next.into_iter();
            next.for_each(|name| ledger.release_id_pinned(&pin, name, Then::Free).unwrap());
            ledger.release(&to(), low, Then::Free);
            assert_all_free(&ledger, 2);
        });
    }

    /// A slot moves from its cell to its line, where a search has been, while it is wanted.
    #[test]
    fn a_free_port_that_moves_out_of_a_cell() {
        check(|| {
            let (ledger, pin, [low, high]) = crowded_ledger(Names::None);
            ledger.release(&to(), high, Then::Free);
            let other = {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || ledger.census_of(&to(), &Noon))
            };
            let mine = acquire(&ledger, &pin, 0).expect("one is free all the time");
            other.join().unwrap();
            [low, mine].into_iter().for_each(|claim| ledger.release(&to(), claim, Then::Free));
            assert_all_free(&ledger, 2);
        });
    }

    /// Of three ports two are free, and two threads want one each; whoever comes first moves the
    /// other's into a cell.
    #[test]
    fn a_free_port_that_moves_into_a_cell() {
        check(|| {
            let ledger = thin_ledger(3, Names::None);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let held = acquire(&ledger, &pin, 0).unwrap();
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).expect("one for each"))
            };
            let mine = acquire(&ledger, &pin, 0).expect("one for each");
            let theirs = other.join().unwrap();
            assert_ne!(mine.slot(), theirs.slot());
            assert!(acquire(&ledger, &pin, 0).is_err());
            [held, mine, theirs].into_iter().for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 3);
        });
    }

    /// The same, where one of the two reads the lines one by one and at once.
    #[test]
    fn a_free_port_that_moves_into_a_cell_past_the_search_of_a_source() {
        check(|| {
            let ledger = thin_ledger(3, Names::None);
            let pin = Arc::new(ledger.pin(&to()).unwrap());
            let [held, others @ ..] = [0; 3].map(|_| acquire(&ledger, &pin, 0).unwrap());
            others.into_iter().for_each(|claim| ledger.release(&to(), claim, Then::Free));
            // Nothing tells of a move any more but the move: the first line is marked already.
            let _ = ledger.census_of(&to(), &Noon);
            let other = {
                let (ledger, pin) = (Arc::clone(&ledger), Arc::clone(&pin));
                thread::spawn(move || acquire(&ledger, &pin, 1).expect("one for each"))
            };
            let from = From::Source(0);
            let mine = ledger.acquire(&to(), from, &Noon, &mut Fixed(0)).expect("one for each");
            let theirs = other.join().unwrap();
            assert_ne!(mine.slot(), theirs.slot());
            [held, mine, theirs].into_iter().for_each(|claim| {
                ledger.release(&to(), claim, Then::Free);
            });
            assert_all_free(&ledger, 3);
        });
    }

    /// Not random at all, and the only thread that was ever seen.
    struct Lone;

    impl Random for Lone {
        fn next_u32(&mut self) -> u32 {
            1
        }

        fn me(&self) -> ThreadBit {
            ThreadBit::of(0)
        }
    }

    /// A slot is excluded while a lone thread, which looks a few times and no more, claims it.
    #[test]
    fn an_exclusion_against_a_lone_acquire() {
        check(|| {
            let ledger = ledger(2, Names::None);
            let pin = ledger.pin(&to()).unwrap();
            let first = ledger.acquire(&to(), From::AnySource, &Noon, &mut Lone).unwrap();
            ledger.release(&to(), first, Then::Free);
            let other = {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || ledger.exclude(Family::V4, Slot(0), 1, Why::Listener))
            };
            let claim = ledger.acquire(&to(), From::AnySource, &Noon, &mut Lone);
            let claim = claim.expect("slot 1 is free all the time");
            other.join().unwrap();
            ledger.release(&to(), claim, Then::Free);
            ledger.unpin(&pin);
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
