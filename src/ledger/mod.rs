//! Which four-tuple is leased to whom, until when. Pure: no system call, no clock, no random
//! source, no global; time and randomness come in as arguments.

mod sources;
mod tuple;

pub use sources::{PortRange, Source};
pub use tuple::{Destination, Family, FourTuple, Protocol};

use crate::Error;
use rand_chacha::rand_core::RngCore;
use std::net::IpAddr;

/// Where the ledger's time comes from: milliseconds since any fixed moment, never backwards.
/// Asked only where something rests.
pub(crate) trait Clock {
    fn now_ms(&self) -> u64;
}

/// The counts of one destination or of a whole pool:
/// `free + leased + resting + excluded = capacity` at any quiet moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All four-tuples that the sources and ranges give towards one destination.
    pub capacity: u64,
    /// Four-tuples that the next acquire may hand out.
    pub free: u64,
    /// Four-tuples that are leased.
    pub leased: u64,
    /// Four-tuples that rest after their release.
    pub resting: u64,
    /// Four-tuples that may not be leased: not ours, listened on, or a connection to itself.
    pub excluded: u64,
}

/// The right to one four-tuple. Given back with [`Ledger::release`], never copied.
#[must_use]
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) slot: Slot,
}

/// A claim as a plain value, for callers in other languages: may be stale, copied or made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClaimId {
    pub(crate) destination_hash: u64,
    pub(crate) slot: Slot,
    pub(crate) stamp: u32,
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

/// What becomes of a released four-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next acquire may have it.
    Free,
    /// It is withheld until the clock shows this.
    RestUntilMs(u64),
}

/// Why a slot may not be leased towards any destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Outside this process's territory.
    NotOurs,
    /// Somebody listens on it.
    Listener,
    /// A socket that is not ours holds it, as the kernel told; until a moment.
    Foreign,
}

/// Which sources an acquire may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    AnySource,
    /// Index into the list of sources that the ledger was made from.
    Source(u32),
}

pub(crate) struct Ledger;
pub(crate) struct Pin;

#[allow(unused_variables)]
impl Ledger {
    /// `sources`: none twice, each with its ranges filled in. `key`: for hashing, secret.
    pub(crate) fn new(sources: &[Source], key: [u64; 2]) -> Result<Self, Error> {
        todo!()
    }

    pub(crate) fn acquire(
        &self,
        to: &Destination,
        from: From,
        clock: &impl Clock,
        random: &mut impl RngCore,
    ) -> Result<Claim, Error> {
        todo!()
    }

    /// Gives a four-tuple back. `to` is the destination that it was acquired for.
    pub(crate) fn release(&self, to: &Destination, claim: Claim, then: Then) {
        todo!()
    }

    pub(crate) fn id(&self, to: &Destination, claim: &Claim) -> ClaimId {
        todo!()
    }

    /// Whether `id` is leased now.
    pub(crate) fn is_live(&self, family: Family, id: ClaimId) -> bool {
        todo!()
    }

    /// Gives back what a plain value stands for; [`Error::StaleLease`] changes nothing.
    pub(crate) fn release_id(&self, family: Family, id: ClaimId, then: Then) -> Result<(), Error> {
        todo!()
    }

    /// Keeps a destination's state in its fast form until [`Ledger::unpin`].
    pub(crate) fn pin(&self, to: &Destination) -> Result<Pin, Error> {
        todo!()
    }

    pub(crate) fn unpin(&self, pin: Pin) {
        todo!()
    }

    /// As [`Ledger::acquire`], without the look-up.
    pub(crate) fn acquire_pinned(
        &self,
        pin: &Pin,
        from: From,
        clock: &impl Clock,
        random: &mut impl RngCore,
    ) -> Result<Claim, Error> {
        todo!()
    }

    /// Brings what `to` needs towards the caches, for an acquire or release soon after.
    pub(crate) fn announce(&self, to: &Destination) {
        todo!()
    }

    pub(crate) fn source_port(&self, family: Family, slot: Slot) -> SourcePort {
        todo!()
    }

    /// The slot of (address, scope, port), if it is one of ours.
    pub(crate) fn slot(&self, address: IpAddr, scope: u32, port: u16) -> Option<Slot> {
        todo!()
    }

    /// Takes a four-tuple that somebody holds already (import, adoption) into the ledger.
    /// `None`: it is leased, resting or excluded.
    pub(crate) fn acquire_exactly(
        &self,
        to: &Destination,
        slot: Slot,
        clock: &impl Clock,
    ) -> Option<Claim> {
        todo!()
    }

    /// From now on `count` slots from `first` may not be leased towards any destination, for
    /// the reason `why`; leases that exist go on. Reasons add up.
    pub(crate) fn exclude(&self, family: Family, first: Slot, count: u32, why: Why) {
        todo!()
    }

    /// Takes one reason away; a slot without any may be leased again.
    pub(crate) fn include(&self, family: Family, first: Slot, count: u32, why: Why) {
        todo!()
    }

    /// [`Ledger::exclude`] for [`Why::Foreign`] that ends by itself when the clock shows `until_ms`.
    pub(crate) fn exclude_until(&self, family: Family, slot: Slot, until_ms: u64) {
        todo!()
    }

    /// Whether any of `count` slots from `first` is leased or resting, towards any destination.
    pub(crate) fn in_use(
        &self,
        family: Family,
        first: Slot,
        count: u32,
        clock: &impl Clock,
    ) -> bool {
        todo!()
    }

    pub(crate) fn census(&self, clock: &impl Clock) -> Census {
        todo!()
    }

    pub(crate) fn census_of(&self, to: &Destination, clock: &impl Clock) -> Census {
        todo!()
    }
}
