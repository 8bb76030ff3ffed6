//! The pool: sources, ports, and the ledger of who holds what.

use super::builder::PoolBuilder;
use super::dial::{self, ConnectOptions};
use super::handle::DestinationHandle;
use super::home::Anywhere;
use super::inner::{Inner, destination as checked};
use super::lease::Lease;
use super::stream::LeasedStream;
use super::udp::{LeasedPort, LeasedUdpSocket};
use crate::error::Error;
use crate::kernel::Capabilities;
use crate::ledger::{Census, Destination, Family, From, PoolCensus, Protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// A pool of source addresses and ports, leased per destination.
///
/// A source port is used up only towards one destination, so a pool gives (source addresses x
/// ports) connections **to each destination**. A clone is another handle to the same pool. All
/// methods may be called from any number of threads at once.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use portlease::Pool;
/// use std::io::Write;
///
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let destination = listener.local_addr()?;
/// let pool = Pool::builder().sources("127.0.0.2-127.0.0.9").build()?;
/// let mut stream = pool.connect(destination)?;
/// stream.write_all(b"hello")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl Pool {
    /// Begins a new pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(super) fn from_inner(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    // ---- leases ---------------------------------------------------------------------------

    /// Acquires a four-tuple towards `destination`, for a socket of the caller's own.
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] where none is free, [`Error::NoSource`] where the pool has no source
    /// of the destination's family or, link-local, on its interface, [`Error::Forked`] in a child
    /// of the process that built the pool, [`Error::Config`] for a destination that names no host
    /// or no port, and [`Error::Os`] where the kernel has just refused to bind whatever the pool
    /// has: `EACCES` for privileged ports, `EADDRNOTAVAIL` for an address that is gone.
    #[inline]
    pub fn acquire(&self, protocol: Protocol, destination: SocketAddr) -> Result<Lease<'_>, Error> {
        let to = checked(protocol, destination)?;
        match self.inner.try_acquire_to(&to) {
            Some(claim) => Ok(Lease::new(claim, Anywhere::pool(&self.inner, to))),
            None => self.acquire_by(to, From::AnySource),
        }
    }

    /// As [`Pool::acquire`], from one source address, whatever its port.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::acquire`], and [`Error::NotOurs`] where the pool does not have `source`.
    pub fn acquire_from(
        &self,
        source: IpAddr,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Lease<'_>, Error> {
        let destination = checked(protocol, destination)?;
        let from = self.inner.source_at(source, &destination)?;
        self.acquire_by(destination, from)
    }

    /// Acquires a four-tuple towards each of `destinations`, in their order, as the result is
    /// iterated over.
    ///
    /// Each destination is announced some leases ahead. Where the pool has so many that its tables
    /// are in no cache, that takes about two thirds of the time of as many calls of
    /// [`Pool::acquire`]; where they are, a little more.
    pub fn acquire_many<'p>(
        &'p self,
        protocol: Protocol,
        destinations: &'p [SocketAddr],
    ) -> impl Iterator<Item = Result<Lease<'p>, Error>> + 'p {
        /// What one core has under way at once, about.
        const AHEAD: usize = 8;
        destinations.iter().take(AHEAD).for_each(|soon| self.announce(protocol, *soon));
        destinations.iter().enumerate().map(move |(index, now)| {
            if let Some(soon) = destinations.get(index + AHEAD) {
                self.announce(protocol, *soon);
            }
            self.acquire(protocol, *now)
        })
    }

    /// Tells that a lease for `destination` is about to be acquired: what that needs is on its
    /// way into the processor's caches while the caller does something else.
    pub fn announce(&self, protocol: Protocol, destination: SocketAddr) {
        if self.inner.check_process().is_ok() {
            self.inner.ledger.announce(&Destination::new(protocol, destination));
        }
    }

    /// A handle for callers that dial one destination all day.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::acquire`], but for exhaustion.
    pub fn destination(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DestinationHandle, Error> {
        let destination = checked(protocol, destination)?;
        DestinationHandle::new(Arc::clone(&self.inner), destination)
    }

    /// A UDP port for all destinations at once, exclusive on its source: for one unconnected
    /// socket that talks to many, as QUIC does.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::acquire`]; exhausted here means that every port has a lease towards some
    /// destination, rests, or is excluded.
    pub fn acquire_port(&self, family: Family) -> Result<LeasedPort, Error> {
        LeasedPort::acquire(&self.inner, family)
    }

    #[inline]
    pub(super) fn acquire_by(
        &self,
        destination: Destination,
        from: From,
    ) -> Result<Lease<'_>, Error> {
        Lease::acquire(Anywhere::pool(&self.inner, destination), from)
    }

    // ---- connections ----------------------------------------------------------------------

    /// Connects to `destination` over TCP.
    ///
    /// A source port that somebody else turns out to hold costs another try, never a failure: it
    /// is left alone for a while, and the next one is tried with a new socket.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::acquire`], and [`Error::Os`] with the destination's own refusal or the
    /// process's own limits, such as `ECONNREFUSED` and `EMFILE`.
    pub fn connect(&self, destination: SocketAddr) -> Result<LeasedStream, Error> {
        self.connect_with(destination, &ConnectOptions::new())
    }

    /// As [`Pool::connect`], waiting at most `timeout` for the destination's answer.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::connect`]; [`Error::Os`] with `ETIMEDOUT` where no answer came in time.
    pub fn connect_timeout(
        &self,
        destination: SocketAddr,
        timeout: Duration,
    ) -> Result<LeasedStream, Error> {
        self.connect_with(destination, &ConnectOptions::new().timeout(timeout))
    }

    /// As [`Pool::connect`], in a way of the caller's choice: from a given source address, without
    /// waiting, with options of the socket's own.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::connect`].
    pub fn connect_with(
        &self,
        destination: SocketAddr,
        options: &ConnectOptions<'_>,
    ) -> Result<LeasedStream, Error> {
        let destination = checked(Protocol::Tcp, destination)?;
        dial::connect(&Anywhere::pool(&self.inner, destination), options)
    }

    /// A UDP socket that is connected to `destination`: its four-tuple is its own, and no datagram
    /// of a stranger or for the port's former holder reaches it.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::connect`].
    pub fn connect_udp(&self, destination: SocketAddr) -> Result<LeasedUdpSocket, Error> {
        let destination = checked(Protocol::Udp, destination)?;
        dial::connect_udp(&Anywhere::pool(&self.inner, destination))
    }

    // ---- what the kernel holds already ----------------------------------------------------

    /// Takes a connection that was inherited, received or made elsewhere into the pool: from now
    /// on its four-tuple is leased.
    ///
    /// # Errors
    ///
    /// [`Error::NotOurs`] where its source is none of the pool's, [`Error::Taken`] where its
    /// four-tuple is leased to somebody else, [`Error::HeldElsewhere`] where ports are shared and
    /// another pool holds the block that its port is in (one that nobody holds is claimed), and [`Error::Os`] where it is not connected. The
    /// stream is closed then, unless the caller kept a duplicate.
    pub fn adopt(&self, stream: TcpStream) -> Result<LeasedStream, Error> {
        self.inner.check_process()?;
        let (claim, destination) = self.inner.adopt(stream.as_fd())?;
        let home = Anywhere::own_pool(Arc::clone(&self.inner), destination);
        Ok(LeasedStream::from_parts(stream, Lease::new(claim, home)))
    }

    /// As [`Pool::adopt`], for a connected UDP socket.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::adopt`].
    pub fn adopt_udp(&self, socket: UdpSocket) -> Result<LeasedUdpSocket, Error> {
        self.inner.check_process()?;
        let (claim, destination) = self.inner.adopt(socket.as_fd())?;
        let home = Anywhere::own_pool(Arc::clone(&self.inner), destination);
        Ok(LeasedUdpSocket::from_parts(socket, Lease::new(claim, home)))
    }

    /// Learns which four-tuples of our sources the kernel holds, connected or in TIME_WAIT, and
    /// withholds them until it does not any more; returns how many were new. A process that was
    /// restarted or upgraded while its connections lived starts with the truth this way.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where kernel or sandbox has no sock_diag, [`Error::Os`] where the
    /// kernel does not tell for another reason.
    pub fn import(&self) -> Result<usize, Error> {
        self.inner.check_process()?;
        self.inner.watch.import(&self.inner)
    }

    /// Looks again which ports of our sources somebody listens on, and which imported four-tuples
    /// the kernel still holds. The pool does so by itself when it is built, when a port turns out
    /// to be held by somebody else, and before it says "exhausted", at most once a second.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where kernel or sandbox has no sock_diag, [`Error::Os`] where the
    /// kernel does not tell for another reason.
    pub fn refresh(&self) -> Result<(), Error> {
        self.inner.check_process()?;
        self.inner.watch.refresh(&self.inner)
    }

    // ---- ports that are shared with other processes -----------------------------------------

    /// Gives back blocks of ports that are empty and that another process is in want of, claims
    /// some ahead of need, and looks whether the shared file is still the one that it was, and, where
    /// others are in want, whether imported four-tuples still exist.
    ///
    /// Acquires, releases and censuses do this by themselves, every 50 ms at most. Only a process
    /// that can fall silent for long while others starve calls it: when [`Pool::maintain_fd`] can be
    /// read, or from a timer. Without a call of any kind nobody gives back what it holds, unless it
    /// has a thread for it ([`Maintenance::ByThread`](crate::Maintenance)). A pool without
    /// [`PoolBuilder::shared`] has nothing to do here.
    ///
    /// # Errors
    ///
    /// [`Error::SharedFile`] where the file cannot be used any longer: until a later call goes
    /// well, nothing new is leased.
    pub fn maintain(&self) -> Result<(), Error> {
        self.inner.maintain()
    }

    /// A descriptor that can be read when [`Pool::maintain`] is worth a call: when another process
    /// has come to be in want of ports, when the shared file was changed, and when it is time to
    /// look again, every 2.5 seconds at most while blocks are held and nobody is in want. For an
    /// event loop that may have nothing else to do: watch it for reading, level-triggered, call
    /// [`Pool::maintain`] when it can be read, and never read from it.
    ///
    /// The descriptor is an epoll instance and the caller's own; each call gives another one of the
    /// same instance. It holds one of the user's inotify instances for as long as the pool lives. For
    /// a pool without [`PoolBuilder::shared`] it is never readable.
    ///
    /// # Errors
    ///
    /// [`Error::SharedFile`] where the file cannot be watched, [`Error::Forked`].
    pub fn maintain_fd(&self) -> Result<OwnedFd, Error> {
        self.inner.check_process()?;
        self.inner.grounds.bell()
    }

    /// The blocks of 64 ports that this process holds of the shared file; `None` where the pool
    /// has none.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn blocks_held(&self) -> Result<Option<u32>, Error> {
        self.inner.check_process()?;
        self.inner.grounds.blocks_held()
    }

    /// The descriptors that this process's locks are on, for programs that close descriptors
    /// wholesale: whoever closes these gives up all blocks. None without a shared file, and none in
    /// a child of fork.
    pub fn shared_fds(&self) -> impl Iterator<Item = RawFd> + use<> {
        self.inner.grounds.shared_fds().into_iter().flatten()
    }

    // ---- what there is ----------------------------------------------------------------------

    /// The counts over all destinations that have a lease, rest something or have a handle.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn census(&self) -> Result<PoolCensus, Error> {
        self.inner.check_process()?;
        self.inner.look_after_grounds();
        Ok(self.inner.ledger.census(&self.inner.clock))
    }

    /// The counts for one destination.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn census_of(&self, protocol: Protocol, destination: SocketAddr) -> Result<Census, Error> {
        self.inner.census_of(&Destination::new(protocol, destination))
    }

    /// Whether `address` is one of the pool's sources.
    pub fn has_source(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.inner.sources.iter().any(|source| source.address == address)
    }

    /// What this host's kernel can do for the pool, and the settings that the pool goes by, as
    /// last read.
    pub fn capabilities(&self) -> Capabilities {
        self.inner.host.capabilities()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("sources", &self.inner.sources.len()).finish_non_exhaustive()
    }
}
