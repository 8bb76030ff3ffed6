//! UDP: connected sockets that own a four-tuple, and whole ports for unconnected ones.

use super::inner::Inner;
use super::lease::Lease;
use crate::error::Error;
use crate::kernel::{self, CallError, ClosedFirst};
use crate::ledger::unspecified;
use crate::ledger::{Destination, Family, FourTuple, From, Protocol, Slot, Then, Why};
use socket2::SockRef;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

/// A connected UDP socket together with the lease of its four-tuple.
///
/// The kernel lets two sockets connect from the same source to the same destination, and gives
/// all datagrams to the newer one: nothing but the lease keeps them apart. Dropping it closes the
/// socket, and then gives the four-tuple back.
pub struct LeasedUdpSocket {
    // Dropped by hand: the descriptor is closed before its lease is released.
    socket: ManuallyDrop<UdpSocket>,
    lease: ManuallyDrop<Lease<'static>>,
}

impl LeasedUdpSocket {
    /// Joins a socket with the lease that it was connected under.
    pub fn from_parts(socket: UdpSocket, lease: Lease<'static>) -> Self {
        Self { socket: ManuallyDrop::new(socket), lease: ManuallyDrop::new(lease) }
    }

    /// Takes socket and lease apart. From now on the caller closes the socket before the lease is
    /// released.
    pub fn into_parts(self) -> (UdpSocket, Lease<'static>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so each part is taken exactly once.
        unsafe { (ManuallyDrop::take(&mut this.socket), ManuallyDrop::take(&mut this.lease)) }
    }

    /// The socket, to send, receive and set options.
    pub fn get_ref(&self) -> &UdpSocket {
        &self.socket
    }

    /// The lease.
    pub fn lease(&self) -> &Lease<'static> {
        &self.lease
    }

    /// Both ends.
    pub fn four_tuple(&self) -> FourTuple {
        self.lease.four_tuple()
    }
}

impl Drop for LeasedUdpSocket {
    fn drop(&mut self) {
        // SAFETY: the fields are not used again after this, the only place that drops them.
        let (socket, lease) =
            unsafe { (ManuallyDrop::take(&mut self.socket), ManuallyDrop::take(&mut self.lease)) };
        drop(socket);
        lease.release_after(ClosedFirst::Us);
    }
}

impl AsFd for LeasedUdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LeasedUdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl fmt::Debug for LeasedUdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedUdpSocket")
            .field("fd", &self.as_raw_fd())
            .field("four_tuple", &self.four_tuple())
            .finish()
    }
}

/// A UDP port for all destinations at once: no lease of the pool uses it while this lives.
///
/// Bind a socket with [`LeasedPort::bind`], and close it before this is dropped.
#[must_use = "a port that is not kept is given back at once"]
pub struct LeasedPort {
    inner: Arc<Inner>,
    family: Family,
    slot: Slot,
}

impl LeasedPort {
    pub(super) fn acquire(inner: &Arc<Inner>, family: Family) -> Result<Self, Error> {
        // Who wants a whole port first leases it towards this destination, which nobody can
        // dial: so two never look at the same port, and no port is looked at twice.
        let anyone = Destination::new(Protocol::Udp, SocketAddr::new(unspecified(family), 0));
        let mut in_use = Vec::new();
        let found = loop {
            let claim = match inner.acquire(&anyone, From::AnySource) {
                Ok(claim) => claim,
                Err(exhausted) => break Err(exhausted),
            };
            let slot = claim.slot();
            // In this order: from here on no new lease can come between.
            inner.ledger.exclude(family, slot, 1, Why::Held);
            inner.ledger.release(&anyone, claim, Then::Free);
            if !inner.ledger.in_use(family, slot, 1, &inner.clock) {
                inner.watch.hold(family, slot);
                break Ok(Self { inner: Arc::clone(inner), family, slot });
            }
            inner.ledger.include(family, slot, 1, Why::Held);
            in_use.extend(inner.ledger.acquire_exactly(&anyone, slot, &inner.clock));
        };
        for claim in in_use {
            inner.ledger.release(&anyone, claim, Then::Free);
        }
        found
    }

    /// The source address and port.
    pub fn source(&self) -> SocketAddr {
        self.inner.source_port(self.family, self.slot).socket_address()
    }

    /// Binds `socket`, which is new, to the port and nobody else beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with the kernel's answer. With `EADDRINUSE`, drop this and acquire another:
    /// the port is left alone for a while.
    pub fn bind(&self, socket: &impl AsFd) -> Result<(), Error> {
        self.inner.check_process()?;
        let at = self.inner.source_port(self.family, self.slot);
        let socket = SockRef::from(socket);
        kernel::bind_alone(&socket, at.socket_address(), self.inner.options_of(&at)).map_err(
            |CallError { call, error }| {
                if error.kind() == io::ErrorKind::AddrInUse {
                    self.inner.leave_alone(self.family, self.slot);
                }
                let source_address = Some(at.socket_address());
                Error::Os { call, source_address, destination: None, error }
            },
        )
    }
}

impl Drop for LeasedPort {
    fn drop(&mut self) {
        // A child of fork touches nothing of its parent's pool.
        if self.inner.check_process().is_ok() {
            self.inner.watch.let_go(self.family, self.slot);
            if let Then::RestUntilMs(until_ms) = self.inner.then_at_least() {
                let slots = self.slot.0..self.slot.0 + 1;
                self.inner.ledger.exclude_until(self.family, slots, until_ms);
            }
            self.inner.ledger.include(self.family, self.slot, 1, Why::Held);
        }
    }
}

impl fmt::Debug for LeasedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedPort").field("source", &self.source()).finish_non_exhaustive()
    }
}
