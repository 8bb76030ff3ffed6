//! Connecting sockets that the caller made and keeps: on the same descriptor, whatever the kernel
//! says to the first source.

use super::dial::{Failure, dial};
use super::home::Anywhere;
use super::inner::{Inner, destination as checked};
use super::lease::Lease;
use super::pool::Pool;
use crate::error::Error;
use crate::kernel::{self, BindMode, Call, ClosedFirst, KernelHolds, Verdict};
use crate::ledger::{Destination, From, Protocol};
use socket2::{SockRef, Socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

/// What came of [`Pool::connect_socket`].
#[derive(Debug)]
pub struct Dialed {
    /// The lease of the four-tuple that the socket has; to be kept until it is closed, failed or
    /// not. `None` where the host's settings had just changed and the kernel took another one.
    pub lease: Option<Lease<'static>>,
    /// The answer of the last call of connect(2), as it came.
    pub answer: io::Result<()>,
}

impl Pool {
    /// Connects `socket`, which is the caller's, from a four-tuple of the pool's choice: binds it,
    /// calls `connect`, which is to call connect(2) on it with `destination`, and does so again
    /// with another four-tuple where that helps. The socket stays the same throughout, with all
    /// that is registered for its descriptor.
    ///
    /// It is to be new, or bound to an address alone (ip(7), `IP_BIND_ADDRESS_NO_PORT`): then name
    /// that as `source`. An IPv6 socket may dial an IPv4-mapped destination. Without waiting, the
    /// answer is `EINPROGRESS`; what comes later is the destination's.
    ///
    /// A socket that is bound explicitly cannot be bound again, so the kernel is asked first
    /// whether it holds the four-tuple. Should somebody take it in between, the answer is
    /// `EADDRNOTAVAIL`.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::acquire`], [`Error::NotOurs`] where the pool does not have `source`, and
    /// [`Error::Os`] where the socket cannot be bound for a reason of its own.
    pub fn connect_socket(
        &self,
        socket: &impl AsFd,
        source: Option<IpAddr>,
        protocol: Protocol,
        destination: SocketAddr,
        mut connect: impl FnMut() -> io::Result<()>,
    ) -> Result<Dialed, Error> {
        let inner = self.inner();
        inner.check_process()?;
        let to = checked(protocol, destination)?;
        let from = match source {
            Some(address) => inner.source_at(address, &to)?,
            None => From::AnySource,
        };
        let home = Anywhere::pool(inner, to);
        let socket = SockRef::from(socket);
        let ((source_is_kept, answer), lease) =
            dial(&home, from, |lease| attempt(lease, &socket, &mut connect))?;
        if source_is_kept {
            return Ok(Dialed { lease: Some(lease), answer });
        }
        inner.host.refresh()?;
        lease.release();
        let taken = socket.local_addr().ok().and_then(|address| address.as_socket());
        let lease = taken.and_then(|source| self.exactly(source, to).ok());
        Ok(Dialed { lease, answer })
    }

    /// Acquires one given four-tuple, for a socket that is bound to its source already.
    ///
    /// # Errors
    ///
    /// [`Error::NotOurs`] where the pool does not have the source, [`Error::Taken`] where the
    /// four-tuple is leased, rests or is excluded, [`Error::HeldElsewhere`] where another process
    /// has the ports around it, [`Error::Forked`], and [`Error::Config`] for a destination that
    /// names no host or no port.
    pub fn acquire_exactly(
        &self,
        source: SocketAddr,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Lease<'static>, Error> {
        self.inner().check_process()?;
        self.exactly(source, checked(protocol, destination)?)
    }

    fn exactly(&self, source: SocketAddr, to: Destination) -> Result<Lease<'static>, Error> {
        let inner: &Arc<Inner> = self.inner();
        let not_ours = Error::NotOurs { source_address: source };
        let slot = inner.slot_of(source).ok_or(not_ours)?;
        let claim = inner.claim_exactly(source, slot, &to)?;
        Ok(Lease::new(claim, Anywhere::own_pool(Arc::clone(inner), to)))
    }
}

/// One try; whether the socket has the lease's source, and what connect(2) said.
fn attempt(
    lease: &Lease<'_>,
    socket: &Socket,
    connect: &mut impl FnMut() -> io::Result<()>,
) -> Result<(bool, io::Result<()>), Failure> {
    let (to, at, inner) = (lease.destination(), lease.source_port(), lease.inner());
    if inner.mode_of(to.protocol(), at.port) == BindMode::Explicit && is_held(lease) {
        return Err(Failure::of_source(Call::Connect, kernel::taken()));
    }
    let mode = inner.bind_their_socket(socket, to.protocol(), &at)?;
    let answer = connect();
    if mode == BindMode::Explicit {
        return Ok((true, answer));
    }
    match answer {
        Err(error) if kernel::verdict_on(Call::Connect, &error, mode) != Verdict::GiveUp => {
            Err(Failure::of_source(Call::Connect, error))
        }
        answer => {
            let is_elsewhere = kernel::is_under_way(&answer)
                && kernel::check_source(socket, at.socket_address()).is_err();
            Ok((!is_elsewhere, answer))
        }
    }
}

/// Whether an explicit socket would be refused this four-tuple. Where the kernel does not tell,
/// its answer to connect(2) has to do.
fn is_held(lease: &Lease<'_>) -> bool {
    match lease.kernel_holds() {
        Ok(KernelHolds::Socket | KernelHolds::Closing) => true,
        Ok(KernelHolds::TimeWait) => !lease.inner().host.closed(ClosedFirst::Us).timestamps,
        Ok(KernelHolds::Nothing) | Err(_) => false,
    }
}
