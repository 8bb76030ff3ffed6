//! Promises of the whole ledger: never twice, exact, counts that add up, rests that end on
//! time, stale ids that change nothing, spread.

mod crowd;
mod spread;
mod threads;

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};

/// SplitMix64: repeatable, and good enough to test with.
pub(super) struct TestRandom(pub(super) u64, pub(super) u32);

impl TestRandom {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl Random for TestRandom {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn me(&self) -> ThreadBit {
        ThreadBit::of(self.1.into())
    }
}

#[derive(Default)]
struct TestClock(Cell<u64>);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.get()
    }
}

struct SharedClock(StdAtomicU64);

impl Clock for SharedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(StdOrdering::Relaxed)
    }
}

fn source(address: &str, first: u16, last: u16) -> Source {
    let ports = vec![PortRange::new(first, last).unwrap()];
    Source { address: address.parse().unwrap(), scope: 0, ports }
}

fn tcp(address: &str) -> Destination {
    Destination::new(Protocol::Tcp, address.parse().unwrap())
}

fn ledger(sources: &[Source]) -> Ledger {
    Ledger::new(sources, Names::None, [1, 2]).unwrap()
}

/// A claim through a pin, won as a handle would, as one that is given back without it.
fn acquire_pinned(
    ledger: &Ledger,
    pin: &Pin,
    from: From,
    clock: &impl Clock,
    random: &mut TestRandom,
) -> Result<Claim, Error> {
    if from == From::AnySource {
        let at_once = ledger.acquire_at_once(pin, random.next_u32(), random.me(), |_| None);
        if let Some(claim) = at_once {
            return Ok(pin.claim(claim));
        }
    }
    ledger.acquire_pinned(pin, from, clock, random).map(|claim| pin.claim(claim))
}

fn fill(ledger: &Ledger, to: &Destination, n: usize, random: &mut TestRandom) -> Vec<Claim> {
    let clock = TestClock::default();
    (0..n).map(|_| ledger.acquire(to, From::AnySource, &clock, random).unwrap()).collect()
}

// ---- against a dumb model ---------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Action {
    Acquire { to: usize, from: Option<u32> },
    Release { nth: usize, rest_ms: u64 },
    ReleaseStale { nth: usize },
    Pass { ms: u64 },
    Exclude { slot: u32, count: u32, listener: bool },
    Include { slot: u32, count: u32, listener: bool },
    ExcludeUntil { slot: u32, ms: u64 },
    Pin { to: usize },
    Unpin,
    Tidy,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => (0..DESTINATIONS, prop::option::weighted(0.2, 0u32..3))
            .prop_map(|(to, from)| Action::Acquire { to, from }),
        6 => (any::<usize>(), prop_oneof![Just(0u64), 1u64..50, Just(20)])
            .prop_map(|(nth, rest_ms)| Action::Release { nth, rest_ms }),
        1 => any::<usize>().prop_map(|nth| Action::ReleaseStale { nth }),
        2 => (0u64..30).prop_map(|ms| Action::Pass { ms }),
        1 => (0u32..60, 0u32..20, any::<bool>())
            .prop_map(|(slot, count, listener)| Action::Exclude { slot, count, listener }),
        1 => (0u32..60, 0u32..40, any::<bool>())
            .prop_map(|(slot, count, listener)| Action::Include { slot, count, listener }),
        1 => (0u32..80, 0u64..60).prop_map(|(slot, ms)| Action::ExcludeUntil { slot, ms }),
        1 => (0..DESTINATIONS).prop_map(|to| Action::Pin { to }),
        1 => Just(Action::Unpin),
        1 => Just(Action::Tidy),
    ]
}

/// What the ledger should know, as simply as it can be said.
#[derive(Default)]
struct Model {
    now_ms: u64,
    /// (destination, slot) of every lease.
    leased: BTreeSet<(usize, u32)>,
    /// (destination, slot) to the end of the rest.
    resting: BTreeMap<(usize, u32), u64>,
    /// [not ours, listener] by slot.
    excluded: BTreeSet<(bool, u32)>,
    /// Slot to the end of the exclusion.
    foreign: BTreeMap<u32, u64>,
}

impl Model {
    fn settle(&mut self) {
        let now_ms = self.now_ms;
        self.resting.retain(|_, until_ms| *until_ms > now_ms);
        self.foreign.retain(|_, until_ms| *until_ms > now_ms);
    }

    /// Without the slots that are barred from one destination.
    fn is_excluded(&self, slot: u32) -> bool {
        let given = |listener| self.excluded.contains(&(listener, slot));
        given(false) || given(true) || self.foreign.contains_key(&slot)
    }

    /// Exclusions are given for the first family alone.
    fn census(&self, family: Family, to: usize, window: Range<u32>, barred: &[u32]) -> Census {
        let mut census = Census { capacity: window.len() as u64, ..Census::default() };
        for slot in window {
            if self.leased.contains(&(to, slot)) {
                census.leased += 1;
            } else if self.resting.contains_key(&(to, slot)) {
                census.resting += 1;
            } else if family == Family::V4 && self.is_excluded(slot) || barred.contains(&slot) {
                census.excluded += 1;
            } else {
                census.free += 1;
            }
        }
        census
    }
}

const DESTINATIONS: usize = 7;

/// Destinations of the first family take up to 66 slots on three sources; the second is one of
/// our own (source, port)s. The last three are of the other family, which has 3 slots on a global
/// source and 4 on each of two interfaces; the last of them is one of our own again.
fn agrees_with_the_model(actions: Vec<Action>, seed: u64) {
    let sources = [
        source("10.0.0.1", 65_506, 65_535),
        source("10.0.0.2", 1_024, 1_058),
        source("10.0.0.3", 7, 7),
        source("2001:db8::1", 9, 11),
        Source { scope: 5, ..source("fe80::1", 9, 12) },
        Source { scope: 6, ..source("fe80::1", 9, 12) },
    ];
    let names = if seed % 2 == 0 { Names::Kept } else { Names::None };
    let ledger = Ledger::new(&sources, names, [1, 2]).unwrap();
    let destinations = [
        tcp("192.0.2.1:443"),
        tcp("10.0.0.2:1030"),
        Destination::new(Protocol::Udp, "192.0.2.1:443".parse().unwrap()),
        tcp("[::ffff:192.0.2.9]:80"),
        tcp("[2001:db8::2]:443"),
        tcp("[fe80::2%5]:443"),
        tcp("[fe80::1%6]:10"),
    ];
    let barred: [&[u32]; DESTINATIONS] =
        [&[], &[36], &[], &[], &[3, 4, 5, 6, 7, 8, 9, 10], &[7, 8, 9, 10], &[3, 4, 5, 6, 8]];
    let clock = TestClock::default();
    let random = &mut TestRandom(seed, 0);
    let mut model = Model::default();
    let mut held: Vec<(usize, Claim)> = Vec::new();
    let mut pins: Vec<(usize, Pin)> = Vec::new();
    let mut dead: Vec<(usize, ClaimId)> = Vec::new();
    for (step, action) in actions.into_iter().enumerate() {
        model.now_ms = clock.now_ms();
        model.settle();
        match action {
            Action::Acquire { to, from } => {
                let destination = &destinations[to];
                let family = destination.family();
                let from = from.filter(|_| family == Family::V4);
                let window = match from {
                    Some(source) => ledger.slots_of(source),
                    None => 0..ledger.capacity(family),
                };
                let from = from.map_or(From::AnySource, From::Source);
                let census = model.census(family, to, window.clone(), barred[to]);
                let pin = pins.iter().find(|(pinned, _)| *pinned == to);
                let won = match pin {
                    Some((_, pin)) => acquire_pinned(&ledger, pin, from, &clock, random),
                    None => ledger.acquire(destination, from, &clock, random),
                };
                match won {
                    Ok(claim) => {
                        assert!(census.free > 0, "won where nothing is free");
                        assert!(window.contains(&claim.slot().0));
                        assert!(!model.resting.contains_key(&(to, claim.slot().0)), "rests");
                        assert!(!barred[to].contains(&claim.slot().0), "barred");
                        if family == Family::V4 {
                            assert!(!model.is_excluded(claim.slot().0), "excluded");
                        }
                        assert!(model.leased.insert((to, claim.slot().0)), "twice");
                        held.push((to, claim));
                    }
                    Err(Error::Exhausted(counts)) => {
                        assert_eq!(census.free, 0, "exhausted is said only when it is true");
                        assert_eq!(
                            (counts.leased, counts.resting, counts.excluded),
                            (census.leased, census.resting, census.excluded)
                        );
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            Action::Release { nth, rest_ms } if !held.is_empty() => {
                let (to, claim) = held.swap_remove(nth % held.len());
                let destination = &destinations[to];
                let slot = claim.slot().0;
                let until_ms = model.now_ms + rest_ms;
                let then = if rest_ms == 0 { Then::Free } else { Then::RestUntilMs(until_ms) };
                if names == Names::Kept && nth % 3 > 0 {
                    let family = destination.family();
                    let id = ledger.name(destination, claim);
                    assert!(ledger.is_live(family, id));
                    match pins.iter().find(|(pinned, _)| *pinned == to && nth % 3 == 1) {
                        Some((_, pin)) => ledger.release_id_pinned(pin, id, then).unwrap(),
                        None => ledger.release_id(family, id, then).unwrap(),
                    }
                    dead.push((to, id));
                } else {
                    ledger.release(destination, claim, then);
                }
                assert!(model.leased.remove(&(to, slot)));
                if rest_ms > 0 {
                    model.resting.insert((to, slot), until_ms);
                }
            }
            Action::ReleaseStale { nth } if !dead.is_empty() => {
                let (to, id) = dead[nth % dead.len()];
                let family = destinations[to].family();
                assert!(!ledger.is_live(family, id));
                let stale = ledger.release_id(family, id, Then::Free);
                assert!(matches!(stale, Err(Error::StaleLease)));
                if let Some((_, pin)) = pins.iter().find(|(pinned, _)| *pinned == to) {
                    assert!(ledger.release_id_pinned(pin, id, Then::Free).is_err());
                }
                let made_up = ClaimId { stamp: nth as u32, ..id };
                if !held
                    .iter()
                    .any(|(t, claim)| *t == to && claim.won().stamp.raw() == made_up.stamp)
                {
                    assert!(ledger.release_id(family, made_up, Then::Free).is_err());
                }
            }
            Action::Pass { ms } => clock.0.set(clock.0.get() + ms),
            Action::Exclude { slot, count, listener }
            | Action::Include { slot, count, listener } => {
                let count = count.min(66 - slot);
                let why = if listener { Why::Listener } else { Why::NotOurs };
                let slots = slot..slot + count;
                if matches!(action, Action::Exclude { .. }) {
                    ledger.exclude(Family::V4, Slot(slot), count, why);
                    model.excluded.extend(slots.map(|slot| (listener, slot)));
                } else {
                    ledger.include(Family::V4, Slot(slot), count, why);
                    slots.for_each(|slot| {
                        model.excluded.remove(&(listener, slot));
                    });
                }
            }
            Action::ExcludeUntil { slot, ms } => {
                let (slot, until_ms) = (slot % 66, model.now_ms + ms);
                ledger.exclude_until(Family::V4, slot..slot + 1, until_ms);
                let last = model.foreign.entry(slot).or_insert(0);
                *last = until_ms.max(*last);
            }
            Action::Pin { to } if pins.len() < 3 => {
                pins.push((to, ledger.pin(&destinations[to]).unwrap()));
            }
            Action::Unpin if !pins.is_empty() => ledger.unpin(&pins.remove(0).1),
            Action::Tidy => (0..1024).for_each(|_| ledger.tidy(&clock, random)),
            _ => {}
        }
        model.now_ms = clock.now_ms();
        model.settle();
        let thorough = step % 32 == 0;
        for (to, destination) in destinations.iter().enumerate() {
            if !thorough && to != step % DESTINATIONS {
                continue;
            }
            let census = ledger.census_of(destination, &clock);
            let family = destination.family();
            let all = 0..ledger.capacity(family);
            let expected = model.census(family, to, all, barred[to]);
            assert_eq!(census, expected, "{destination} after {action:?}");
        }
        if !thorough {
            continue;
        }
        let all = ledger.census(&clock);
        assert_eq!(all.sum.leased, held.len() as u64);
        assert_eq!(all.sum.resting, model.resting.len() as u64);
    }
    for (to, claim) in held {
        ledger.release(&destinations[to], claim, Then::Free);
    }
    pins.into_iter().for_each(|(_, pin)| ledger.unpin(&pin));
    clock.0.set(clock.0.get() + 100);
    for _ in 0..40_000 {
        ledger.tidy(&clock, random);
        if ledger.census(&clock).destinations == 0 {
            return;
        }
    }
    panic!("idle destinations stay: {:?}", ledger.census(&clock));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn random_actions_agree_with_a_dumb_model(
        actions in prop::collection::vec(action(), 1..600),
        seed in any::<u64>(),
    ) {
        agrees_with_the_model(actions, seed);
    }
}

// ---- exactness and edges ----------------------------------------------------------------

#[test]
fn every_four_tuple_is_handed_out_once_before_exhausted() {
    for count in [1u16, 2, 17, 63, 64, 65, 511, 512, 513, 1000, 64_512] {
        let sources = [source("127.0.0.1", u16::MAX - (count - 1), u16::MAX)];
        let ledger = ledger(&sources);
        let to = tcp("192.0.2.1:80");
        let random = &mut TestRandom(u64::from(count), 0);
        let claims = fill(&ledger, &to, count.into(), random);
        let slots: HashSet<u32> = claims.iter().map(|claim| claim.slot().0).collect();
        assert_eq!(slots.len(), usize::from(count));
        let clock = TestClock::default();
        for _ in 0..3 {
            match ledger.acquire(&to, From::AnySource, &clock, random) {
                Err(Error::Exhausted(counts)) => assert_eq!(counts.leased, count.into()),
                other => panic!("{other:?}"),
            }
        }
        let mut claims = claims;
        let last = claims.pop().unwrap();
        let freed = last.slot();
        ledger.release(&to, last, Then::Free);
        let again = ledger.acquire(&to, From::AnySource, &clock, random).unwrap();
        assert_eq!(again.slot(), freed, "the one free port is found");
        claims.push(again);
        claims.into_iter().for_each(|claim| ledger.release(&to, claim, Then::Free));
        assert_eq!(ledger.census_of(&to, &clock).free, count.into());
    }
}

#[test]
fn a_destination_without_a_source_of_its_family_is_an_error_of_its_own() {
    let ledger = ledger(&[source("10.0.0.1", 1, 9)]);
    let to = tcp("[2001:db8::1]:80");
    let refused =
        ledger.acquire(&to, From::AnySource, &TestClock::default(), &mut TestRandom(1, 0));
    assert!(matches!(refused, Err(Error::NoSource { destination }) if destination == to));
    assert!(ledger.pin(&to).is_err());
}

#[test]
fn a_verdict_does_not_outlive_its_field() {
    let ledger = ledger(&[source("10.0.0.1", 1, 1_000)]);
    let (to, clock, random) = (tcp("192.0.2.1:80"), TestClock::default(), &mut TestRandom(1, 0));
    let pin = ledger.pin(&to).unwrap();
    ledger.exclude(Family::V4, Slot(0), 1_000, Why::NotOurs);
    assert!(acquire_pinned(&ledger, &pin, From::AnySource, &clock, random).is_err());
    ledger.unpin(&pin);
    (0..20_000).for_each(|_| ledger.tidy(&clock, random));
    ledger.include(Family::V4, Slot(0), 1_000, Why::NotOurs);
    let pin = ledger.pin(&to).unwrap();
    let claim = acquire_pinned(&ledger, &pin, From::AnySource, &clock, random);
    ledger.release(&to, claim.expect("all are free"), Then::Free);
    ledger.unpin(&pin);
}

#[test]
fn a_rest_ends_at_its_moment_and_not_before() {
    for pinned in [false, true] {
        let ledger = ledger(&[source("10.0.0.1", 5, 5)]);
        let to = tcp("192.0.2.1:80");
        let pin = pinned.then(|| ledger.pin(&to).unwrap());
        let (clock, random) = (TestClock::default(), &mut TestRandom(1, 0));
        let claim = ledger.acquire(&to, From::AnySource, &clock, random).unwrap();
        ledger.release(&to, claim, Then::RestUntilMs(1_000));
        clock.0.set(999);
        match ledger.acquire(&to, From::AnySource, &clock, random) {
            Err(Error::Exhausted(counts)) => {
                assert_eq!((counts.resting, counts.next_free_ms), (1, Some(1)));
            }
            other => panic!("{other:?}"),
        }
        clock.0.set(1_000);
        let claim = ledger.acquire(&to, From::AnySource, &clock, random).unwrap();
        ledger.release(&to, claim, Then::Free);
        pin.into_iter().for_each(|pin| ledger.unpin(&pin));
    }
}

#[test]
fn the_next_free_moment_is_that_of_the_source_that_was_asked_for() {
    let ledger = ledger(&[source("10.0.0.1", 5, 5), source("10.0.0.2", 5, 5)]);
    let to = tcp("192.0.2.1:80");
    let (clock, random) = (TestClock::default(), &mut TestRandom(1, 0));
    for (source, until_ms) in [(0, 1_000), (1, 10)] {
        let claim = ledger.acquire(&to, From::Source(source), &clock, random).unwrap();
        ledger.release(&to, claim, Then::RestUntilMs(until_ms));
    }
    for (from, expected) in [(From::Source(0), 1_000), (From::AnySource, 10)] {
        match ledger.acquire(&to, from, &clock, random) {
            Err(Error::Exhausted(counts)) => assert_eq!(counts.next_free_ms, Some(expected)),
            other => panic!("{other:?}"),
        }
    }
}

// ---- threads ----------------------------------------------------------------------------
