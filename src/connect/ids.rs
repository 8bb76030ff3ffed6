//! Leases as plain values: each call checks that the value stands for a lease.

use super::inner::Inner;
use super::lease::LeaseId;
use super::pool::Pool;
use crate::error::Error;
use crate::kernel::{Call, ClosedFirst, Tcp, Verdict};
use crate::ledger::{FourTuple, From, Names, SourcePort, Then};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

impl Pool {
    /// The source address and port of a lease.
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`] for a lease that was released before or is not of this pool.
    pub fn source_of(&self, id: LeaseId) -> Result<SocketAddr, Error> {
        Ok(self.inner().live(id)?.socket_address())
    }

    /// As [`Lease::bind`](crate::Lease::bind).
    ///
    /// # Errors
    ///
    /// Those of [`Lease::bind`](crate::Lease::bind), and [`Error::StaleLease`].
    pub fn bind_id(&self, id: LeaseId, socket: &impl AsFd) -> Result<(), Error> {
        let at = self.inner().live(id)?;
        self.inner().bind_theirs(socket.as_fd(), &id.destination, &at)
    }

    /// As [`Lease::probe`](crate::Lease::probe).
    ///
    /// # Errors
    ///
    /// Those of [`Lease::probe`](crate::Lease::probe), and [`Error::StaleLease`].
    pub fn probe_id(&self, id: LeaseId) -> Result<(), Error> {
        let source = self.inner().live(id)?.socket_address();
        self.inner().probe(&FourTuple { source, destination: id.destination })
    }

    /// As [`Lease::release_after`](crate::Lease::release_after); `None`: no socket used it, as [`Lease::release`](crate::Lease::release).
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`], and nothing has changed.
    pub fn release_id(&self, id: LeaseId, closed: Option<ClosedFirst>) -> Result<(), Error> {
        let tcp = closed.map(|closed| self.inner().host.closed(closed));
        self.inner().release_id(id, tcp)
    }

    /// As [`Lease::closing`](crate::Lease::closing).
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`].
    pub fn closing_id(&self, id: LeaseId, socket: &impl AsFd) -> Result<ClosedFirst, Error> {
        let source = self.inner().live(id)?.socket_address();
        let four_tuple = FourTuple { source, destination: id.destination };
        Ok(self.inner().ending(socket.as_fd(), &four_tuple).in_a_word())
    }

    /// Asks the kernel who closed first, closes `socket`, and gives the lease back.
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`]; the socket is closed all the same.
    pub fn close_id(&self, id: LeaseId, socket: OwnedFd) -> Result<(), Error> {
        let live = self.inner().live(id);
        let ending = live.map(|at| {
            let four_tuple = FourTuple { source: at.socket_address(), destination: id.destination };
            self.inner().ending(socket.as_fd(), &four_tuple)
        });
        drop(socket);
        self.inner().release_id(id, Some(ending?))
    }

    /// As [`Lease::report`](crate::Lease::report): `id` is released, and the next lease, if there is one, comes with
    /// the verdict.
    ///
    /// # Errors
    ///
    /// Those of [`Lease::report`](crate::Lease::report); [`Error::StaleLease`], and nothing has changed.
    pub fn report_id(
        &self,
        id: LeaseId,
        call: Call,
        error: &io::Error,
    ) -> Result<(Verdict, Option<LeaseId>), Error> {
        self.inner().live(id)?;
        let to = id.destination;
        let (verdict, then) = self.inner().judge(&to, id.claim.slot, call, error);
        self.inner().ledger.release_id(to.family(), id.claim, then)?;
        if verdict == Verdict::GiveUp {
            return Ok((verdict, None));
        }
        let next = self.acquire_by(to, From::AnySource)?;
        Ok((verdict, Some(next.into_id()?)))
    }
}

impl Inner {
    /// Only a pool that keeps the generations of its leases can give them names.
    pub(super) fn check_ids(&self) -> Result<(), Error> {
        match self.names {
            Names::Kept => Ok(()),
            Names::None => Err(Error::Config {
                problem: "leases of this pool have no ids: PoolBuilder::lease_ids gives them"
                    .to_owned(),
            }),
        }
    }

    fn release_id(&self, id: LeaseId, tcp: Option<Tcp>) -> Result<(), Error> {
        self.live(id)?;
        let then = tcp.map_or(Then::Free, |tcp| self.then(&id.destination, id.claim.slot, tcp));
        self.ledger.release_id(id.destination.family(), id.claim, then)?;
        self.look_after_grounds();
        Ok(())
    }

    /// The source of a lease that is live now.
    fn live(&self, id: LeaseId) -> Result<SourcePort, Error> {
        self.check_process()?;
        let family = id.destination.family();
        if id.pool != self.id || !self.ledger.is_live(family, id.claim) {
            return Err(Error::StaleLease);
        }
        Ok(self.source_port(family, id.claim.slot))
    }
}
