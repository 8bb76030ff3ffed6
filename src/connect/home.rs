//! Where a lease comes from and goes back to.

use super::handle::Handle;
use super::inner::Inner;
use crate::error::Error;
use crate::ledger::{Claim, Destination, From, PinnedClaim, Slot, Then};
use std::sync::Arc;

/// What a lease needs of the place that it comes from.
pub(super) trait Home: Clone {
    /// The right to a four-tuple, as far as the home does not know it.
    type Claim;

    fn inner(&self) -> &Inner;

    fn destination(&self) -> &Destination;

    fn acquire(&self, from: From) -> Result<Self::Claim, Error>;

    fn release(&self, claim: Self::Claim, then: Then);

    fn slot(claim: &Self::Claim) -> Slot;

    /// The claim for those who do not know the home.
    fn whole(&self, claim: Self::Claim) -> Claim;

    /// The same, keeping pool and handle alive by itself.
    fn to_owned(&self) -> Anywhere<'static>;
}

/// A [`Lease`](crate::Lease) knows its destination by itself, and may come from anywhere.
#[derive(Clone)]
pub struct Anywhere<'a>(Place<'a>);

#[derive(Clone)]
enum Place<'a> {
    Pool(&'a Arc<Inner>, Destination),
    OwnPool(Arc<Inner>, Destination),
    Handle(&'a Arc<Handle>),
    OwnHandle(Arc<Handle>),
}

/// A [`HandleLease`](crate::HandleLease) knows its destination by the handle that it borrows.
#[derive(Clone, Copy)]
pub struct ThroughHandle<'a>(&'a Arc<Handle>);

impl<'a> Anywhere<'a> {
    #[inline]
    pub(super) fn pool(inner: &'a Arc<Inner>, to: Destination) -> Self {
        Self(Place::Pool(inner, to))
    }

    pub(super) fn own_pool(inner: Arc<Inner>, to: Destination) -> Self {
        Self(Place::OwnPool(inner, to))
    }

    pub(super) fn handle(handle: &'a Arc<Handle>) -> Self {
        Self(Place::Handle(handle))
    }
}

impl Home for Anywhere<'_> {
    type Claim = Claim;

    #[inline]
    fn inner(&self) -> &Inner {
        match &self.0 {
            Place::Pool(inner, _) => inner,
            Place::OwnPool(inner, _) => inner,
            Place::Handle(handle) => handle.inner(),
            Place::OwnHandle(handle) => handle.inner(),
        }
    }

    #[inline]
    fn destination(&self) -> &Destination {
        match &self.0 {
            Place::Pool(_, destination) | Place::OwnPool(_, destination) => destination,
            Place::Handle(handle) => handle.destination(),
            Place::OwnHandle(handle) => handle.destination(),
        }
    }

    #[inline]
    fn acquire(&self, from: From) -> Result<Claim, Error> {
        match &self.0 {
            Place::Pool(inner, destination) => inner.acquire(destination, from),
            Place::OwnPool(inner, destination) => inner.acquire(destination, from),
            Place::Handle(handle) => handle.acquire(from),
            Place::OwnHandle(handle) => handle.acquire(from),
        }
    }

    #[inline]
    fn release(&self, claim: Claim, then: Then) {
        self.inner().release(self.destination(), claim, then);
    }

    #[inline]
    fn slot(claim: &Claim) -> Slot {
        claim.slot()
    }

    fn whole(&self, claim: Claim) -> Claim {
        claim
    }

    fn to_owned(&self) -> Anywhere<'static> {
        Anywhere(match &self.0 {
            Place::Pool(inner, destination) => Place::OwnPool(Arc::clone(inner), *destination),
            Place::OwnPool(inner, destination) => Place::OwnPool(Arc::clone(inner), *destination),
            Place::Handle(handle) => Place::OwnHandle(Arc::clone(handle)),
            Place::OwnHandle(handle) => Place::OwnHandle(Arc::clone(handle)),
        })
    }
}

impl<'a> ThroughHandle<'a> {
    #[inline]
    pub(super) fn new(handle: &'a Arc<Handle>) -> Self {
        Self(handle)
    }

    pub(super) fn anywhere(self) -> Anywhere<'a> {
        Anywhere(Place::Handle(self.0))
    }
}

impl Home for ThroughHandle<'_> {
    type Claim = PinnedClaim;

    #[inline]
    fn inner(&self) -> &Inner {
        self.0.inner()
    }

    #[inline]
    fn destination(&self) -> &Destination {
        self.0.destination()
    }

    fn acquire(&self, from: From) -> Result<PinnedClaim, Error> {
        self.0.acquire_pinned(from)
    }

    #[inline]
    fn release(&self, claim: PinnedClaim, then: Then) {
        match self.inner().try_release(self.0.pin(), claim, then) {
            Ok(()) => {}
            Err(claim) => self.inner().release_pinned(self.0.pin(), claim, then),
        }
    }

    #[inline]
    fn slot(claim: &PinnedClaim) -> Slot {
        claim.slot()
    }

    fn whole(&self, claim: PinnedClaim) -> Claim {
        self.0.pin().claim(claim)
    }

    fn to_owned(&self) -> Anywhere<'static> {
        Anywhere(Place::OwnHandle(Arc::clone(self.0)))
    }
}
