//! The right to a four-tuple in its forms, and to a destination's fast one.

use super::field::{Field, Won};
use super::hash::HASH_MARK;
use super::side::FieldRef;
use super::stamp::Stamp;
use super::{Destination, Slot};
#[cfg(doc)]
use super::{Ledger, Names};
use std::num::NonZeroU64;
use std::ptr;

/// The right to one four-tuple. Given back with [`Ledger::release`], never copied.
#[must_use]
#[derive(Debug)]
pub(crate) struct Claim {
    won: PinnedClaim,
    origin: Origin,
}

/// What a release needs to find the destination.
///
/// One word: a field, whose address is even, or a hash, which is odd; where a pointer has not 64
/// bits, nothing.
#[derive(Debug)]
struct Origin(*const Field);

/// The right to one four-tuple of a pinned destination. Given back with
/// [`Ledger::release_pinned`], never copied.
///
/// Slot and stamp in one word, which a processor forwards whole to whoever moves the claim. Not
/// zero, for a lease's stamp says so.
#[must_use]
#[derive(Debug)]
pub(crate) struct PinnedClaim(NonZeroU64);

// SAFETY: nothing in it belongs to a thread: a field is `Sync` and outlives its claims.
unsafe impl Send for Origin {}
// SAFETY: as above.
unsafe impl Sync for Origin {}

impl Claim {
    /// Towards a destination that has `field`.
    #[inline]
    pub(super) fn of_field(won: PinnedClaim, field: FieldRef) -> Self {
        Self { won, origin: Origin(field.as_ptr()) }
    }

    /// Towards a destination that is small, and has `hash`.
    #[inline]
    pub(super) fn of_small(won: Won, hash: u64) -> Self {
        debug_assert_eq!(hash & HASH_MARK, HASH_MARK);
        let word = if usize::BITS == u64::BITS { hash as usize } else { HASH_MARK as usize };
        Self { won: PinnedClaim::new(won), origin: Origin(ptr::without_provenance(word)) }
    }

    #[inline]
    pub(super) fn won(&self) -> Won {
        self.won.won()
    }

    #[inline]
    pub(super) fn into_pinned(self) -> PinnedClaim {
        self.won
    }

    /// The hash of a destination that was small when the claim was made.
    #[inline]
    pub(super) fn hash(&self) -> Option<u64> {
        let word = self.origin.0.addr() as u64;
        (word & HASH_MARK != 0 && usize::BITS == u64::BITS).then_some(word)
    }

    /// The field of a destination that had one when the claim was made.
    #[inline]
    pub(super) fn field(&self) -> Option<FieldRef> {
        let Origin(field) = self.origin;
        let is_field = field.addr() as u64 & HASH_MARK == 0;
        // SAFETY: then it came from `FieldRef::as_ptr`.
        is_field.then(|| unsafe { FieldRef::from_ptr(field) })
    }

    /// The slot of the four-tuple's source.
    #[inline]
    pub(crate) fn slot(&self) -> Slot {
        self.won.slot()
    }

    /// As [`PinnedClaim::into_generation`].
    #[cfg(feature = "capi")]
    #[inline]
    pub(crate) fn into_generation(self) -> (Slot, u32) {
        self.won.into_generation()
    }
}

impl PinnedClaim {
    #[inline]
    pub(super) fn new(Won { slot, stamp }: Won) -> Self {
        Self(NonZeroU64::MIN | u64::from(slot) << 32 | u64::from(stamp.raw()))
    }

    #[inline]
    pub(super) fn won(&self) -> Won {
        let packed = self.0.get();
        Won { slot: (packed >> 32) as u32, stamp: Stamp::from_raw(packed as u32) }
    }

    /// The slot of the four-tuple's source.
    #[inline]
    pub(crate) fn slot(&self) -> Slot {
        Slot(self.won().slot)
    }

    /// Turns a claim into its slot and generation, in which it lives on: a [`ClaimId`] for those
    /// who know the destination. Only with [`Names::Kept`].
    #[cfg(feature = "capi")]
    #[inline]
    pub(crate) fn into_generation(self) -> (Slot, u32) {
        (self.slot(), self.0.get() as u32)
    }
}

/// A claim as a plain value, for callers in other languages: may be stale, copied or made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClaimId {
    pub(crate) destination_hash: u64,
    pub(crate) slot: Slot,
    pub(crate) stamp: u32,
}

impl ClaimId {
    pub(super) fn won(self) -> Won {
        Won { slot: self.slot.0, stamp: Stamp::from_raw(self.stamp) }
    }
}

/// A destination whose state is kept in its fast form.
#[must_use = "a pin is given back with `Ledger::unpin`"]
#[derive(Debug)]
pub(crate) struct Pin {
    pub(super) to: Destination,
    pub(super) field: FieldRef,
}

impl Pin {
    pub(crate) fn destination(&self) -> &Destination {
        &self.to
    }

    /// A claim through this pin, for those who do not know the pin.
    #[inline]
    pub(crate) fn claim(&self, claim: PinnedClaim) -> Claim {
        Claim::of_field(claim, self.field)
    }
}
