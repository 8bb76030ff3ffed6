//! One destination, looked up once, for callers that dial it all day.

use super::dial::{self, ConnectOptions};
use super::home::{Anywhere, ThroughHandle};
use super::inner::Inner;
use super::lease::{HandleLease, Lease};
use super::random::Stream;
use super::stream::LeasedStream;
use crate::error::Error;
use crate::ledger::{Census, Claim, Destination, From, Pin, PinnedClaim};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One destination of a pool, looked up once: acquiring through it is the fastest way.
///
/// It keeps its pool alive, can be cloned, and serves any number of threads at once. While it
/// lives the destination's state stays in memory, about 8 KiB for each source.
///
/// ```
/// # fn main() -> Result<(), portlease::Error> {
/// use portlease::{Pool, Protocol};
///
/// let pool = Pool::builder().sources("127.0.0.2").build()?;
/// let upstream = pool.destination(Protocol::Tcp, "127.0.0.1:8080".parse().unwrap())?;
/// let lease = upstream.acquire()?;
/// assert_eq!(upstream.census()?.leased, 1);
/// lease.release();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DestinationHandle {
    handle: Arc<Handle>,
}

pub(super) struct Handle {
    inner: Arc<Inner>,
    pin: Pin,
}

impl DestinationHandle {
    pub(super) fn new(inner: Arc<Inner>, destination: Destination) -> Result<Self, Error> {
        inner.check_process()?;
        let pin = inner.ledger.pin(&destination)?;
        Ok(Self { handle: Arc::new(Handle { inner, pin }) })
    }

    /// Acquires a four-tuple towards the destination.
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] where none is free, [`Error::Forked`] in a child of the process that
    /// built the pool.
    #[inline]
    pub fn acquire(&self) -> Result<HandleLease<'_>, Error> {
        match self.handle.inner.try_acquire(self.handle.pin()) {
            Some(claim) => Ok(Lease::new(claim, ThroughHandle::new(&self.handle))),
            None => self.acquire_or_tell_why(),
        }
    }

    #[cold]
    #[inline(never)]
    fn acquire_or_tell_why(&self) -> Result<HandleLease<'_>, Error> {
        let Handle { inner, .. } = &*self.handle;
        inner.check_process()?;
        match inner.full_for_sure(self.handle.pin()) {
            Some(counts) => Err(Error::Exhausted(counts)),
            None => Lease::acquire(ThroughHandle::new(&self.handle), From::AnySource),
        }
    }

    /// As [`Pool::connect`](crate::Pool::connect).
    pub fn connect(&self) -> Result<LeasedStream, Error> {
        self.connect_with(&ConnectOptions::new())
    }

    /// As [`Pool::connect_timeout`](crate::Pool::connect_timeout).
    pub fn connect_timeout(&self, timeout: Duration) -> Result<LeasedStream, Error> {
        self.connect_with(&ConnectOptions::new().timeout(timeout))
    }

    /// As [`Pool::connect_with`](crate::Pool::connect_with).
    pub fn connect_with(&self, options: &ConnectOptions<'_>) -> Result<LeasedStream, Error> {
        dial::connect(&Anywhere::handle(&self.handle), options)
    }

    /// The destination.
    pub fn destination(&self) -> Destination {
        *self.handle.destination()
    }

    /// The counts for this destination.
    pub fn census(&self) -> Result<Census, Error> {
        self.handle.inner.census_of(self.handle.destination())
    }
}

#[cfg(feature = "capi")]
impl DestinationHandle {
    #[inline]
    pub(super) fn inner(&self) -> &Inner {
        &self.handle.inner
    }

    #[inline]
    pub(super) fn pin(&self) -> &Pin {
        self.handle.pin()
    }

    #[inline]
    pub(super) fn acquire_claim(&self) -> Result<PinnedClaim, Error> {
        match self.handle.inner.try_acquire(self.handle.pin()) {
            Some(claim) => Ok(claim),
            None => self.handle.acquire_pinned(From::AnySource),
        }
    }
}

impl fmt::Debug for DestinationHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DestinationHandle")
            .field("destination", self.handle.destination())
            .finish_non_exhaustive()
    }
}

impl Handle {
    #[inline]
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    #[inline]
    pub(super) fn destination(&self) -> &Destination {
        self.pin().destination()
    }

    pub(super) fn acquire(&self, from: From) -> Result<Claim, Error> {
        self.acquire_pinned(from).map(|claim| self.pin.claim(claim))
    }

    pub(super) fn acquire_pinned(&self, from: From) -> Result<PinnedClaim, Error> {
        let Inner { ledger, clock, .. } = &*self.inner;
        let acquire =
            |random: &mut Stream<'_>| ledger.acquire_pinned(self.pin(), from, clock, random);
        self.inner.acquire_by(from, acquire)
    }

    #[inline]
    pub(super) fn pin(&self) -> &Pin {
        &self.pin
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A child of fork touches nothing of its parent's pool.
        if self.inner.check_process().is_ok() {
            self.inner.ledger.unpin(&self.pin);
        }
    }
}
