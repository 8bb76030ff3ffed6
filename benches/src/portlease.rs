//! portlease itself, through its public interface and with every promise kept.

use crate::allocator::{Pool, Ports};
use crate::dial::Dialer;
use crate::memory;
use crate::space::{Space, destination};
use portlease::{
    ClosedFirst, DestinationHandle, Error, HandleLease, Lease, LeasedStream, Protocol,
};
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

/// So many words a lease has in its holder's hands.
pub const LEASE_WORDS: usize = size_of::<Lease<'static>>().div_ceil(size_of::<u64>());
/// The same of a lease through a handle.
pub const HANDLE_LEASE_WORDS: usize = size_of::<HandleLease<'static>>().div_ceil(size_of::<u64>());

/// Every destination, named in each call.
pub struct Portlease(portlease::Pool);

/// One destination.
pub struct Handle(DestinationHandle);

impl Portlease {
    /// Nothing is leased.
    pub fn new(space: Space) -> Self {
        // Equal seeds, so that a run that is repeated does the same again.
        let pool = portlease::Pool::builder().sources(space.text()).seed([7; 32]).build();
        Self(pool.expect("127.0.1.0/24 is local"))
    }

    /// Looks a destination up, once.
    pub fn handle(&self, to: SocketAddrV4) -> Handle {
        Handle(self.0.destination(Protocol::Tcp, to.into()).expect("the pool has IPv4 sources"))
    }
}

/// "Exhausted" is an answer; any other error is the harness's mistake.
#[inline]
fn answer<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(lease) => Some(lease),
        Err(Error::Exhausted(_)) => None,
        Err(error) => panic!("portlease: {error}"),
    }
}

fn identity(source: SocketAddr) -> u32 {
    let IpAddr::V4(address) = source.ip() else { panic!("{source} is no IPv4 source") };
    let index = u32::from(address.octets()[3]) - 1;
    index << 16 | u32::from(source.port())
}

impl Pool for Portlease {
    type Lease<'a> = Lease<'a>;

    #[inline]
    fn acquire(&self, to: SocketAddrV4) -> Option<Lease<'_>> {
        answer(self.0.acquire(Protocol::Tcp, to.into()))
    }

    #[inline]
    fn release<'a>(&'a self, _: SocketAddrV4, lease: Lease<'a>) {
        lease.release();
    }

    #[inline]
    fn announce(&self, to: SocketAddrV4) {
        self.0.announce(Protocol::Tcp, to.into());
    }

    fn identity<'a>(&'a self, lease: &Lease<'a>) -> u32 {
        identity(lease.source())
    }
}

impl Ports for Handle {
    type Lease<'a> = HandleLease<'a>;

    #[inline]
    fn acquire(&self) -> Option<HandleLease<'_>> {
        answer(self.0.acquire())
    }

    #[inline]
    fn release<'a>(&'a self, lease: HandleLease<'a>) {
        lease.release();
    }

    fn identity<'a>(&'a self, lease: &HandleLease<'a>) -> u32 {
        identity(lease.source())
    }
}

/// What leases cost while they are held, and while they rest.
#[derive(Clone, Copy, Debug)]
pub struct Resting {
    /// Bytes for one lease that is held.
    pub leased_bytes_each: f64,
    /// Bytes for one that rests, all included.
    pub resting_bytes_each: f64,
}

/// Leases `each` ports towards each of `destinations`, then lets all of them rest for an hour.
pub fn rest(destinations: u32, each: u32) -> Resting {
    let builder = portlease::Pool::builder().sources(Space::ONE_SOURCE.text());
    let pool = builder.min_rest(Duration::from_secs(3600)).build().expect("127.0.1.1 is local");
    let count = destinations * each;
    let mut leases = Vec::with_capacity(count as usize);
    let empty = memory::live_bytes();
    let bytes_each = || (memory::live_bytes() - empty) as f64 / f64::from(count);
    for number in 0..destinations {
        for _ in 0..each {
            let lease = pool.acquire(Protocol::Tcp, destination(number).into());
            leases.push(lease.expect("each is below 64,512"));
        }
    }
    let leased_bytes_each = bytes_each();
    for lease in leases.drain(..) {
        lease.release_after(ClosedFirst::Peer);
    }
    Resting { leased_bytes_each, resting_bytes_each: bytes_each() }
}

impl Dialer for portlease::Pool {
    type Connection = LeasedStream;

    fn dial(&mut self, to: SocketAddrV4) -> io::Result<LeasedStream> {
        Ok(self.connect(to.into())?)
    }

    fn socket(connection: &LeasedStream) -> SockRef<'_> {
        SockRef::from(connection.get_ref())
    }

    fn close(&mut self, connection: LeasedStream) {
        connection.close();
    }

    fn abort(&mut self, connection: LeasedStream) {
        let (stream, lease): (TcpStream, _) = connection.into_parts();
        let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("an open socket has this option");
        drop(stream);
        lease.release();
    }

    fn retries(&self) -> Option<u64> {
        None
    }
}
