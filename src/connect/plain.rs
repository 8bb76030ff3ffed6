//! Leases as bare parts, for the C face: nothing to allocate, to drop or to look up.

use super::handle::DestinationHandle;
use super::inner::{Inner, destination as checked};
use super::lease::LeaseId;
use super::pool::Pool;
use crate::error::Error;
use crate::kernel::ClosedFirst;
use crate::ledger::{ClaimId, Destination, From, Protocol, Slot, Then};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// What a lease towards a known destination is, and all of it may be made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What a [`LeaseId`] is made of, but for what follows from these by computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) pool: u64,
    pub(crate) destination: Destination,
    pub(crate) mark: Mark,
}

impl LeaseId {
    pub(crate) fn parts(&self) -> Parts {
        let mark = Mark { slot: self.claim.slot.0, generation: self.claim.stamp };
        Parts { pool: self.pool, destination: self.destination, mark }
    }
}

impl Pool {
    /// As [`Pool::acquire`] or [`Pool::acquire_from`].
    pub(crate) fn acquire_parts(
        &self,
        source: Option<IpAddr>,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Parts, Error> {
        let inner = self.inner();
        inner.check_ids()?;
        let destination = checked(protocol, destination)?;
        let from = match source {
            Some(address) => inner.source_at(address, &destination)?,
            None => From::AnySource,
        };
        let (slot, generation) = inner.acquire(&destination, from)?.into_generation();
        let mark = Mark { slot: slot.0, generation };
        Ok(Parts { pool: inner.id, destination, mark })
    }

    /// As [`Pool::release_id`], with one look into the ledger.
    pub(crate) fn release_parts(
        &self,
        parts: &Parts,
        closed: Option<ClosedFirst>,
    ) -> Result<(), Error> {
        let inner = self.inner();
        let id = self.id_of(parts)?;
        let then = inner.then_after(&parts.destination, parts.mark, closed)?;
        inner.ledger.release_id(parts.destination.family(), id.claim, then)
    }

    /// The id with these parts, which need not be that of a lease.
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`] where they are another pool's.
    pub(crate) fn id_of(&self, parts: &Parts) -> Result<LeaseId, Error> {
        let inner = self.inner();
        inner.check_process()?;
        let destination = parts.destination;
        let destination_hash = inner.ledger.hash_of(&destination);
        match destination_hash.filter(|_| parts.pool == inner.id) {
            Some(destination_hash) => {
                let Mark { slot, generation: stamp } = parts.mark;
                let claim = ClaimId { destination_hash, slot: Slot(slot), stamp };
                Ok(LeaseId { pool: inner.id, destination, claim })
            }
            None => Err(Error::StaleLease),
        }
    }

    /// As [`Pool::adopt`]; the socket stays the caller's.
    pub(crate) fn adopt_parts(&self, socket: BorrowedFd<'_>) -> Result<Parts, Error> {
        let inner = self.inner();
        inner.check_process()?;
        inner.check_ids()?;
        let (claim, destination) = inner.adopt(socket)?;
        let (slot, generation) = claim.into_generation();
        Ok(Parts { pool: inner.id, destination, mark: Mark { slot: slot.0, generation } })
    }

    /// Whether this process may free it. A child of fork leaves it as it is: threads of the parent
    /// may have been changing what would be freed.
    pub(crate) fn is_ours(&self) -> bool {
        self.inner().check_process().is_ok()
    }
}

impl DestinationHandle {
    /// The number that tells its pool's leases from others.
    pub(crate) fn pool_number(&self) -> u64 {
        self.inner().id
    }

    /// As [`DestinationHandle::acquire`].
    #[inline]
    pub(crate) fn acquire_mark(&self) -> Result<Mark, Error> {
        let (slot, generation) = self.acquire_claim()?.into_generation();
        Ok(Mark { slot: slot.0, generation })
    }

    /// Gives back a lease of this destination and pool, which may be made up.
    #[inline]
    pub(crate) fn release_mark(
        &self,
        mark: Mark,
        closed: Option<ClosedFirst>,
    ) -> Result<(), Error> {
        let (inner, pin) = (self.inner(), self.pin());
        inner.check_process()?;
        let then = inner.then_after(pin.destination(), mark, closed)?;
        let Mark { slot, generation: stamp } = mark;
        let claim = ClaimId { destination_hash: 0, slot: Slot(slot), stamp };
        inner.ledger.release_id_pinned(pin, claim, then)
    }

    /// As [`Pool::is_ours`].
    pub(crate) fn is_ours(&self) -> bool {
        self.inner().check_process().is_ok()
    }
}

impl Inner {
    /// What becomes of a four-tuple; `closed` is `None` where no socket has used it.
    #[inline]
    fn then_after(
        &self,
        to: &Destination,
        mark: Mark,
        closed: Option<ClosedFirst>,
    ) -> Result<Then, Error> {
        let Some(closed) = closed else { return Ok(Then::Free) };
        if mark.slot >= self.ledger.capacity(to.family()) {
            return Err(Error::StaleLease);
        }
        Ok(self.then(to, Slot(mark.slot), self.host.closed(closed)))
    }
}
