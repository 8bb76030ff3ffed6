//! Which four-tuple is leased to whom, until when. Pure: no system call, no clock, no random
//! source, no global; time and randomness come in as arguments.

mod census;
mod claim;
mod crowd;
mod destinations;
mod exclusions;
mod field;
mod hash;
mod key;
mod layout;
#[cfg(all(test, loom))]
mod models;
mod prefetch;
mod rest;
mod share;
mod side;
mod small;
mod sources;
mod stamp;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
mod tuple;
mod verdict;

pub use census::{Census, PoolCensus};
pub(crate) use claim::{Claim, ClaimId, Pin, PinnedClaim};
pub use destinations::Destinations;
pub use sources::{PortRange, Source, Sources};
pub use tuple::{Destination, Family, FourTuple, Protocol};
pub(crate) use tuple::{canonical, is_link_local, scope_of, socket_address, unspecified};

use crate::error::{Error, Exhausted};
use key::{Key4, Key6};
use layout::Layout;
use prefetch::prefetch;
pub(crate) use share::ThreadBit;
use side::Side;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// Where the ledger's time comes from: milliseconds since any fixed moment, never backwards.
/// Asked only where something rests.
pub(crate) trait Clock {
    fn now_ms(&self) -> u64;
}

/// Where the ledger's randomness comes from, and a hint who asks.
pub(crate) trait Random {
    /// 32 random bits, hard to predict for whoever sees the ports.
    fn next_u32(&mut self) -> u32;
    /// The thread that asks.
    fn me(&self) -> ThreadBit;
}

/// A (source, port), numbered densely within its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// What a slot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourcePort {
    /// Index into the list of sources that the ledger was made from.
    pub(crate) source: u32,
    pub(crate) address: IpAddr,
    pub(crate) scope: u32,
    pub(crate) port: u16,
}

impl SourcePort {
    pub(crate) fn socket_address(&self) -> SocketAddr {
        socket_address(self.address, self.port, self.scope)
    }
}

/// What becomes of a released four-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next acquire may have it.
    Free,
    /// It is withheld until the clock shows this.
    RestUntilMs(u64),
}

/// Whether claims can become plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Claims are owned values, which cannot be released twice.
    None,
    /// Each lease has a generation, kept with its slot: 4 bytes a slot of a busy destination.
    Kept,
}

/// Why a slot may not be leased towards any destination.
///
/// A slot is a port of both protocols: who listens over TCP costs the pool the UDP port of that
/// number too, and the other way round. Services mostly have both, and a bit for each protocol
/// would be looked at by every acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Outside this process's territory.
    NotOurs,
    /// Somebody listens on it.
    Listener,
    /// A socket that is not ours holds it, as the kernel told; until a moment.
    Foreign,
    /// It is leased for all destinations at once.
    Held,
}

/// How much of some windows of slots is leased or rests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of each window, for all destinations together.
    pub(crate) used: Vec<u32>,
    /// The most that one destination has in all windows together.
    pub(crate) most: u32,
}

/// Which sources an acquire may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    AnySource,
    /// Index into the list of sources that the ledger was made from.
    Source(u32),
}

/// The ledger: which four-tuple is leased or rests.
///
/// Every [`Claim`] and [`Pin`] belongs to the ledger that made it and must not outlive it;
/// their holders keep it alive.
#[derive(Debug)]
pub(crate) struct Ledger {
    sources: Box<[Source]>,
    v4: Option<Side<Key4, 4>>,
    v6: Option<Side<Key6, 2>>,
}

/// Calls a method of the side of one family; `$none` where there is no such side.
macro_rules! side {
    ($ledger:expr, $family:expr, $side:ident => $call:expr, else $none:expr) => {
        match $family {
            Family::V4 => match &$ledger.v4 {
                Some($side) => $call,
                None => $none,
            },
            Family::V6 => match &$ledger.v6 {
                Some($side) => $call,
                None => $none,
            },
        }
    };
}

impl Ledger {
    /// `sources`: none twice, each with its ranges filled in. `key`: for hashing, secret.
    pub(crate) fn new(sources: &[Source], names: Names, key: [u64; 2]) -> Result<Self, Error> {
        let layout = |family| {
            let of_family = (0u32..).zip(sources).filter(move |(_, source)| {
                Family::of(source.address) == family && !source.ports.is_empty()
            });
            Layout::new(of_family).map(|layout| (layout.capacity() > 0).then_some(layout))
        };
        Ok(Self {
            sources: sources.into(),
            v4: layout(Family::V4)?.map(|layout| Side::new(layout, names, key)),
            v6: layout(Family::V6)?.map(|layout| Side::new(layout, names, key)),
        })
    }

    /// Leases a random free four-tuple towards `to`.
    pub(crate) fn acquire(
        &self,
        to: &Destination,
        from: From,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<Claim, Error> {
        side!(self, to.family(), side => {
            side.acquire(to, from, clock, random)
        }, else Err(Error::NoSource { destination: *to }))
    }

    /// As [`Ledger::acquire`] from any source. `None`: nothing is free, or nearly so;
    /// [`Ledger::acquire`] knows.
    #[inline]
    pub(crate) fn try_acquire(
        &self,
        to: &Destination,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<Claim> {
        side!(self, to.family(), side => side.try_acquire(to, clock, random), else None)
    }

    /// Gives a four-tuple back. `to` is the destination that it was acquired for.
    #[inline]
    pub(crate) fn release(&self, to: &Destination, claim: Claim, then: Then) {
        if let Some(field) = claim.field() {
            if field.get().release(claim.won(), then.until_ms()).is_ok() {
                return;
            }
        }
        side!(self, to.family(), side => side.release(to, claim, then.until_ms()), else ());
    }

    /// As [`Ledger::release_pinned`] of what may be leased again at once, where nothing is to be
    /// minded; else the claim comes back.
    #[inline]
    pub(crate) fn try_release_pinned(
        &self,
        pin: &Pin,
        claim: PinnedClaim,
    ) -> Result<(), PinnedClaim> {
        if pin.field.get().try_release(claim.won()) { Ok(()) } else { Err(claim) }
    }

    /// As [`Ledger::release`], for a claim through `pin`.
    #[inline]
    pub(crate) fn release_pinned(&self, pin: &Pin, claim: PinnedClaim, then: Then) {
        if pin.field.get().release(claim.won(), then.until_ms()).is_err() {
            let claim = pin.claim(claim);
            side!(self, pin.to.family(), side => {
                side.release(&pin.to, claim, then.until_ms());
            }, else ());
        }
    }

    /// Turns a claim into a plain value, in which it lives on. Only with [`Names::Kept`].
    pub(crate) fn name(&self, to: &Destination, claim: Claim) -> ClaimId {
        side!(self, to.family(), side => side.name(to, claim), else {
            unreachable!("a claim comes from a side")
        })
    }

    /// The hash of a destination in a [`ClaimId`]; `None` where no source reaches it.
    #[cfg(feature = "capi")]
    pub(crate) fn hash_of(&self, to: &Destination) -> Option<u64> {
        side!(self, to.family(), side => Some(side.hash_of(to)), else None)
    }

    /// Whether `id` is leased now.
    pub(crate) fn is_live(&self, family: Family, id: ClaimId) -> bool {
        side!(self, family, side => side.is_live(id), else false)
    }

    /// Gives back what a plain value stands for; [`Error::StaleLease`] changes nothing.
    pub(crate) fn release_id(&self, family: Family, id: ClaimId, then: Then) -> Result<(), Error> {
        let live = side!(self, family, side => side.release_id(id, then.until_ms()), else false);
        if live { Ok(()) } else { Err(Error::StaleLease) }
    }

    /// As [`Ledger::release_id`], without the look-up. Stale also if it is of another destination.
    #[cfg(any(feature = "capi", test))]
    pub(crate) fn release_id_pinned(
        &self,
        pin: &Pin,
        id: ClaimId,
        then: Then,
    ) -> Result<(), Error> {
        let live = side!(self, pin.to.family(), side => {
            side.release_id_pinned(pin.field, id, then.until_ms())
        }, else false);
        if live { Ok(()) } else { Err(Error::StaleLease) }
    }

    /// Keeps a destination's state in its fast form until [`Ledger::unpin`].
    pub(crate) fn pin(&self, to: &Destination) -> Result<Pin, Error> {
        let field = side!(self, to.family(), side => side.pin(to), else {
            return Err(Error::NoSource { destination: *to });
        });
        Ok(Pin { to: *to, field })
    }

    /// Ends a pin, once. Leases that were made through it go on.
    pub(crate) fn unpin(&self, pin: &Pin) {
        pin.field.get().unpin();
    }

    /// As [`Ledger::try_acquire_pinned`], by a few looks; `draw` is random, `me` as in [`Random`].
    /// Where it takes more than that it does what `otherwise` does with the number, unless it is
    /// used up.
    #[inline(always)]
    pub(crate) fn acquire_at_once(
        &self,
        pin: &Pin,
        draw: u32,
        me: ThreadBit,
        otherwise: impl FnOnce(Option<u32>) -> Option<PinnedClaim>,
    ) -> Option<PinnedClaim> {
        pin.field.get().acquire_at_once(draw, me, otherwise)
    }

    /// As [`Ledger::acquire`] from any source, without the look-up. `draw` comes from `random`.
    /// `None`: nothing is free, or nearly so; [`Ledger::acquire_pinned`] knows.
    pub(crate) fn try_acquire_pinned(
        &self,
        pin: &Pin,
        draw: u32,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Option<PinnedClaim> {
        pin.field.get().acquire(draw, clock, random)
    }

    /// The counts of a destination where nothing is free, and nothing comes free by time alone.
    /// `None`: [`Ledger::acquire_pinned`] knows.
    #[inline]
    pub(crate) fn full_pinned(&self, pin: &Pin) -> Option<Exhausted> {
        let field::Full { leased, excluded, .. } = pin.field.get().full_for_sure()?;
        let withheld =
            side!(self, pin.to.family(), side => side.withholds_for_a_while(), else false);
        (excluded == 0 || !withheld).then_some(Exhausted {
            destination: pin.to,
            leased: leased.into(),
            resting: 0,
            excluded: excluded.into(),
            next_free_ms: None,
        })
    }

    /// As [`Ledger::acquire`], without the look-up.
    pub(crate) fn acquire_pinned(
        &self,
        pin: &Pin,
        from: From,
        clock: &impl Clock,
        random: &mut impl Random,
    ) -> Result<PinnedClaim, Error> {
        let claim = side!(self, pin.to.family(), side => {
            side.acquire_pinned(&pin.to, pin.field, from, clock, random)
        }, else unreachable!("a pin comes from a side"));
        claim.map(Claim::into_pinned)
    }

    /// Brings what `to` needs towards the caches, for an acquire or release soon after.
    pub(crate) fn announce(&self, to: &Destination) {
        side!(self, to.family(), side => side.announce(to), else ());
    }

    /// What `slot` stands for.
    pub(crate) fn source_port(&self, family: Family, slot: Slot) -> SourcePort {
        side!(self, family, side => side.layout.source_port(&self.sources, slot), else {
            unreachable!("a slot comes from a side")
        })
    }

    /// The slot of (address, scope, port), if it is one of ours.
    pub(crate) fn slot(&self, address: IpAddr, scope: u32, port: u16) -> Option<Slot> {
        let family = Family::of(address);
        side!(self, family, side => side.layout.slot(address, scope, port), else None)
    }

    /// The slots of one source, by its index.
    pub(crate) fn slots_of(&self, source: u32) -> Range<u32> {
        let family = Family::of(self.sources[source as usize].address);
        side!(self, family, side => side.layout.slots_of(source), else 0..0)
    }

    /// The number of slots of a family.
    pub(crate) fn capacity(&self, family: Family) -> u32 {
        side!(self, family, side => side.layout.capacity(), else 0)
    }

    /// Takes a four-tuple that somebody holds already (import, adoption) into the ledger.
    /// `None`: it is leased, resting or excluded.
    pub(crate) fn acquire_exactly(
        &self,
        to: &Destination,
        slot: Slot,
        clock: &impl Clock,
    ) -> Option<Claim> {
        side!(self, to.family(), side => side.acquire_exactly(to, slot.0, clock), else None)
    }

    /// From now on `count` slots from `first` may not be leased towards any destination, for
    /// the reason `why`; leases that exist go on. Reasons add up.
    pub(crate) fn exclude(&self, family: Family, first: Slot, count: u32, why: Why) {
        side!(self, family, side => side.exclude(first.0..first.0 + count, why), else ());
    }

    /// Takes one reason away; a slot without any may be leased again.
    pub(crate) fn include(&self, family: Family, first: Slot, count: u32, why: Why) {
        side!(self, family, side => side.include(first.0..first.0 + count, why), else ());
    }

    /// [`Ledger::exclude`] for [`Why::Foreign`] that ends by itself when the clock shows `until_ms`.
    pub(crate) fn exclude_until(&self, family: Family, slots: Range<u32>, until_ms: u64) {
        side!(self, family, side => side.exclude_until(slots, until_ms), else ());
    }

    /// Whether any of `count` slots from `first` is leased or rests, towards any destination.
    pub(crate) fn in_use(
        &self,
        family: Family,
        first: Slot,
        count: u32,
        clock: &impl Clock,
    ) -> bool {
        let slots = first.0..first.0 + count;
        side!(self, family, side => side.usage(&[slots], clock).most > 0, else false)
    }

    /// How much of `windows`, which are sorted and apart, is in use, in one pass. A slot that is
    /// leased for all destinations at once ([`Why::Held`]) counts too.
    pub(crate) fn usage(
        &self,
        family: Family,
        windows: &[Range<u32>],
        clock: &impl Clock,
    ) -> Usage {
        side!(self, family, side => {
            let mut usage = side.usage(windows, clock);
            // In this order: what becomes held is leased until it is.
            for (used, window) in usage.used.iter_mut().zip(windows) {
                if side.is_excluded(window.clone(), Why::Held) {
                    *used = used.saturating_add(1);
                    usage.most = usage.most.saturating_add(1);
                }
            }
            usage
        }, else Usage { used: vec![0; windows.len()], most: 0 })
    }

    /// Does a little of what can wait: called now and then, by whoever calls often.
    #[cold]
    #[inline(never)]
    pub(crate) fn tidy(&self, clock: &impl Clock, random: &mut impl Random) {
        let shard = random.next_u32();
        side!(self, Family::V4, side => side.tidy(shard, clock), else ());
        side!(self, Family::V6, side => side.tidy(shard, clock), else ());
    }

    /// The counts of all destinations that hold something, added up.
    pub(crate) fn census(&self, clock: &impl Clock) -> PoolCensus {
        let mut all = PoolCensus::default();
        for family in [Family::V4, Family::V6] {
            side!(self, family, side => {
                let capacity = side.layout.capacity();
                side.census(clock, |free, counts| {
                    all.destinations += 1;
                    all.sum.add(Census::of(capacity, free, counts));
                });
            }, else ());
        }
        all
    }

    /// The counts of one destination; all zero where there is no source of its family.
    pub(crate) fn census_of(&self, to: &Destination, clock: &impl Clock) -> Census {
        side!(self, to.family(), side => {
            let (free, counts) = side.census_of(to, clock);
            Census::of(side.layout.capacity(), free, counts)
        }, else Census::default())
    }
}

impl Then {
    fn until_ms(self) -> Option<u64> {
        match self {
            Self::Free => None,
            Self::RestUntilMs(until_ms) => Some(until_ms),
        }
    }
}
