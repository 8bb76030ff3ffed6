//! One destination, looked up once, for callers that dial it all day.

use super::dial::{self, ConnectOptions};
use super::inner::Inner;
use super::lease::{Home, Lease};
use super::stream::LeasedStream;
use crate::error::Error;
use crate::ledger::{Census, Claim, Destination, From, Pin};
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
    /// `None` only while it is dropped.
    pin: Option<Pin>,
}

impl DestinationHandle {
    pub(super) fn new(inner: Arc<Inner>, destination: Destination) -> Result<Self, Error> {
        inner.check_process()?;
        let pin = inner.ledger.pin(&destination)?;
        Ok(Self { handle: Arc::new(Handle { inner, pin: Some(pin) }) })
    }

    /// Acquires a four-tuple towards the destination.
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] where none is free, [`Error::Forked`] in a child of the process that
    /// built the pool.
    #[inline]
    pub fn acquire(&self) -> Result<Lease<'_>, Error> {
        match self.handle.inner.try_acquire(self.handle.pin()) {
            Some(claim) => Ok(Lease::new(claim, Home::Handle(&self.handle))),
            None => self.acquire_or_tell_why(),
        }
    }

    #[cold]
    #[inline(never)]
    fn acquire_or_tell_why(&self) -> Result<Lease<'_>, Error> {
        let Handle { inner, .. } = &*self.handle;
        inner.check_process()?;
        match inner.full_for_sure(self.handle.pin()) {
            Some(counts) => Err(Error::Exhausted(counts)),
            None => Lease::acquire(Home::Handle(&self.handle), From::AnySource),
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
        dial::connect(&Home::Handle(&self.handle), options)
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
    pub(super) fn acquire_claim(&self) -> Result<Claim, Error> {
        match self.handle.inner.try_acquire(self.handle.pin()) {
            Some(claim) => Ok(claim),
            None => self.handle.acquire(From::AnySource),
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

    #[inline]
    pub(super) fn acquire(&self, from: From) -> Result<Claim, Error> {
        let Inner { ledger, clock, .. } = &*self.inner;
        let acquire = |random: &mut _| ledger.acquire_pinned(self.pin(), from, clock, random);
        self.inner.acquire_by(from, acquire)
    }

    #[inline]
    fn pin(&self) -> &Pin {
        self.pin.as_ref().expect("a handle that is not dropped has its pin")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A child of fork touches nothing of its parent's pool.
        if self.inner.check_process().is_ok() {
            if let Some(pin) = self.pin.take() {
                self.inner.ledger.unpin(pin);
            }
        }
    }
}
