//! The right to one four-tuple.

use super::home::{Anywhere, Home, ThroughHandle};
use super::inner::Inner;
use crate::error::Error;
use crate::kernel::{BindMode, Call, ClosedFirst, KernelHolds, Tcp, Verdict};
use crate::ledger::{ClaimId, Destination, FourTuple, From, Slot, SourcePort, Then};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

/// The right to use one four-tuple until it is released.
///
/// A lease says nothing to the kernel: bind a socket with [`Lease::bind`] and connect it, and
/// keep the lease as long as the socket lives. **Close the socket before the lease is dropped**
/// or released; [`LeasedStream`](crate::LeasedStream) does so by itself.
///
/// A dropped lease rests as long as the kernel might need the four-tuple in the worst case;
/// [`Lease::release_after`] knows better where the caller knows who closed first.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use portlease::{Pool, Protocol};
/// use socket2::{Domain, Socket, Type};
///
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let destination = listener.local_addr()?;
/// let pool = Pool::builder().sources("127.0.0.2").build()?;
/// let lease = pool.acquire(Protocol::Tcp, destination)?;
///
/// let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
/// lease.bind(&socket)?;
/// socket.connect(&destination.into())?;
///
/// drop(socket);
/// lease.release_after(portlease::ClosedFirst::Us);
/// # Ok(())
/// # }
/// ```
///
/// Two kinds: `Lease<'a>`, which comes from anywhere, and [`HandleLease`], two words long, which a
/// [`DestinationHandle`](crate::DestinationHandle) gives out; [`Lease::into_owned`] turns either
/// into a `Lease<'static>`.
#[must_use = "a lease that is not kept is released at once"]
#[expect(private_bounds, reason = "nobody else can have a home for leases")]
pub struct Lease<'a, H: Home = Anywhere<'a>> {
    /// `None` once it is given back.
    claim: Option<H::Claim>,
    home: H,
    /// Of the pool, or of its handle.
    borrow: PhantomData<&'a ()>,
}

/// A lease of a [`DestinationHandle`](crate::DestinationHandle), which it borrows.
pub type HandleLease<'a> = Lease<'a, ThroughHandle<'a>>;

const HAS_CLAIM: &str = "a lease that is not given back has its claim";

/// What [`Lease::report`] makes of an error.
#[derive(Debug)]
#[expect(private_bounds, reason = "as for leases")]
pub struct Reported<'a, H: Home = Anywhere<'a>> {
    /// What the error means.
    pub verdict: Verdict,
    /// The lease for the next try, with a new socket. `None` where another source cannot help:
    /// the error is the caller's.
    pub next: Option<Lease<'a, H>>,
}

#[expect(private_bounds, reason = "as for leases")]
impl<'a, H: Home> Lease<'a, H> {
    #[inline(never)]
    pub(super) fn acquire(home: H, from: From) -> Result<Self, Error> {
        let claim = home.acquire(from)?;
        Ok(Self::new(claim, home))
    }

    #[inline]
    pub(super) fn new(claim: H::Claim, home: H) -> Self {
        Self { claim: Some(claim), home, borrow: PhantomData }
    }

    /// The source address and port that the lease is for.
    pub fn source(&self) -> SocketAddr {
        self.source_port().socket_address()
    }

    /// The destination that the lease is for.
    pub fn destination(&self) -> Destination {
        *self.home.destination()
    }

    /// Both ends.
    pub fn four_tuple(&self) -> FourTuple {
        FourTuple { source: self.source(), destination: self.destination() }
    }

    /// How [`Lease::bind`] binds now: it follows from the port and the host's settings.
    pub fn mode(&self) -> BindMode {
        self.inner().mode_of(self.home.destination().protocol(), self.source_port().port)
    }

    /// Binds `socket`, which is new, to the source, with all options that this needs.
    ///
    /// A late-bound socket gets its port while it connects.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with the kernel's answer: hand it to [`Lease::report`].
    pub fn bind(&self, socket: &impl AsFd) -> Result<(), Error> {
        self.inner().check_process()?;
        self.inner().bind_theirs(socket.as_fd(), self.home.destination(), &self.source_port())
    }

    /// Looks whether a `socket` that was bound by this lease and is connected, or on its way, has
    /// the source that it was bound to. Where the host's settings have just changed, the kernel
    /// gives a late-bound socket any port it likes, without a word.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with `EADDRNOTAVAIL` for a socket on another source: close it, release the
    /// lease, and try again.
    pub fn check(&self, socket: &impl AsFd) -> Result<(), Error> {
        self.inner().check_process()?;
        self.inner().check_theirs(socket.as_fd(), &self.four_tuple())
    }

    /// Asks the kernel whether it would refuse the four-tuple to a new socket, because it still
    /// has it for another one. For callers who leave `connect` to somebody else, and with it the
    /// chance to try again.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with `EADDRNOTAVAIL`: hand it to [`Lease::report`] with [`Call::Connect`].
    /// [`Error::Unsupported`] where the kernel does not tell (sock_diag).
    pub fn probe(&self) -> Result<(), Error> {
        self.inner().check_process()?;
        self.inner().probe(&self.four_tuple())
    }

    /// Tells the pool that `call` failed for a socket that was bound by this lease, and that the
    /// socket is closed; returns what that means and the lease for the next try.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::acquire`](crate::Pool::acquire), where another try is called for and
    /// there is nothing to try.
    pub fn report(self, call: Call, error: &io::Error) -> Result<Reported<'a, H>, Error> {
        self.inner().check_process()?;
        let home = self.home.clone();
        let verdict = self.settle(call, error);
        let next = match verdict {
            Verdict::GiveUp => None,
            _ => Some(Lease::acquire(home, From::AnySource)?),
        };
        Ok(Reported { verdict, next })
    }

    /// Gives the four-tuple back as if no socket had used it: the next acquire may have it.
    #[inline]
    pub fn release(mut self) {
        // One of two words comes in registers and stays there; one that is larger is not copied
        // before it is used, for the copy would wait for what has just been written.
        let is_large = size_of::<H>() > size_of::<usize>();
        if is_large {
            self.give_back(Then::Free);
        }
        let mut lease = ManuallyDrop::new(self);
        if !is_large {
            lease.give_back(Then::Free);
        }
        // SAFETY: nobody sees the lease again. Its claim is given back, so that all that its drop
        // would still do is to drop its home; a compiler that has to look whether it is sees to it
        // that every release pays for that.
        unsafe { ptr::drop_in_place(&raw mut lease.home) };
    }

    /// Gives the four-tuple back after its socket was closed; `closed` says by whom first, and it
    /// rests as long as the kernel needs after that, or the pool's own minimum if that is longer.
    pub fn release_after(mut self, closed: ClosedFirst) {
        let tcp = self.inner().host.closed(closed);
        self.give_back_after(tcp);
    }

    /// Asks the kernel, just before the caller closes `socket`, who closes first. For callers who
    /// cannot leave that to [`Lease::close`]: the answer is for [`Lease::release_after`].
    pub fn closing(&self, socket: &impl AsFd) -> ClosedFirst {
        self.inner().ending(socket.as_fd(), &self.four_tuple()).in_a_word()
    }

    /// Asks the kernel who closed first, closes `socket`, and gives the four-tuple back.
    pub fn close(self, socket: impl Into<OwnedFd>) {
        let socket = socket.into();
        let closed = self.closing(&socket);
        drop(socket);
        self.release_after(closed);
    }

    /// What the kernel does with the four-tuple now: for callers who cannot know whether the
    /// socket is closed, as some other process may have a descriptor of it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where kernel or sandbox has no sock_diag, [`Error::Os`] where the
    /// kernel does not tell for another reason.
    pub fn kernel_holds(&self) -> Result<KernelHolds, Error> {
        self.inner().check_process()?;
        self.inner().finder.holds(&self.four_tuple())
    }

    /// Takes the lease apart from the lifetime of the pool: it keeps the pool alive instead.
    pub fn into_owned(mut self) -> Lease<'static> {
        let claim = self.claim.take().expect(HAS_CLAIM);
        Lease::new(self.home.whole(claim), self.home.to_owned())
    }

    /// Turns the lease into a plain value, for where an object cannot be kept. It lives on until
    /// that value is given to [`Pool::release_id`](crate::Pool::release_id).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where the pool was built without
    /// [`PoolBuilder::lease_ids`](crate::PoolBuilder::lease_ids); the lease is released then.
    pub fn into_id(mut self) -> Result<LeaseId, Error> {
        self.inner().check_process()?;
        self.inner().check_ids()?;
        let (pool, destination) = (self.inner().id, self.destination());
        let claim = self.home.whole(self.claim.take().expect(HAS_CLAIM));
        Ok(LeaseId { pool, destination, claim: self.inner().ledger.name(&destination, claim) })
    }

    /// Gives the four-tuple back as the kernel's answer asks for.
    pub(super) fn settle(mut self, call: Call, error: &io::Error) -> Verdict {
        let (verdict, then) = self.inner().judge(self.home.destination(), self.slot(), call, error);
        self.give_back(then);
        verdict
    }

    pub(super) fn source_port(&self) -> SourcePort {
        self.inner().source_port(self.home.destination().family(), self.slot())
    }

    #[inline]
    pub(super) fn inner(&self) -> &Inner {
        self.home.inner()
    }

    fn slot(&self) -> Slot {
        H::slot(self.claim.as_ref().expect(HAS_CLAIM))
    }

    #[inline(never)]
    fn give_back_after_whoever(&mut self) {
        let tcp = self.inner().host.closed(ClosedFirst::Unknown);
        self.give_back_after(tcp);
    }

    fn give_back_after(&mut self, tcp: Tcp) {
        // A child of fork touches nothing of its parent's pool.
        if self.inner().check_process().is_ok() {
            let then = self.inner().then(self.home.destination(), self.slot(), tcp);
            self.give_back(then);
        }
    }

    #[inline]
    fn give_back(&mut self, then: Then) {
        if let Some(claim) = self.claim.take() {
            self.home.release(claim, then);
        }
    }
}

impl<'a> std::convert::From<HandleLease<'a>> for Lease<'a> {
    /// For where leases of pools and of handles are kept together.
    fn from(mut lease: HandleLease<'a>) -> Self {
        let claim = lease.claim.take().expect(HAS_CLAIM);
        Self::new(lease.home.whole(claim), lease.home.anywhere())
    }
}

impl<H: Home> Drop for Lease<'_, H> {
    #[inline]
    fn drop(&mut self) {
        if self.claim.is_some() {
            self.give_back_after_whoever();
        }
    }
}

impl<H: Home> fmt::Debug for Lease<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&format_args!("{}", self.four_tuple())).finish()
    }
}

/// A lease as a plain value: it can be copied, kept anywhere, and be out of date, which is an
/// error and harms nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    pub(super) pool: u64,
    pub(super) destination: Destination,
    pub(super) claim: ClaimId,
}

impl LeaseId {
    /// The destination that the lease is for.
    pub fn destination(&self) -> Destination {
        self.destination
    }
}
