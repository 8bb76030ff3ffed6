//! What is compared: two faces, one for a caller that dials one destination all day, one for
//! a caller that names the destination each time.

use std::net::SocketAddrV4;

/// The leases towards one destination, reached without a look-up.
pub trait Ports: Sync {
    /// Whether it can be full; only the harness's null never is.
    const ENDS: bool = true;

    /// What its holder keeps.
    type Lease<'a>: Send
    where
        Self: 'a;

    /// `None`: it says that nothing is free.
    fn acquire(&self) -> Option<Self::Lease<'_>>;

    /// Gives a lease back.
    fn release<'a>(&'a self, lease: Self::Lease<'a>);

    /// All leases that there are; nothing may be leased before.
    fn take_all(&self) -> Vec<Self::Lease<'_>> {
        std::iter::from_fn(|| self.acquire()).collect()
    }

    /// A number that no other lease has at the same time.
    fn identity<'a>(&'a self, lease: &Self::Lease<'a>) -> u32;
}

/// The leases towards all destinations.
pub trait Pool: Sync {
    /// What its holder keeps.
    type Lease<'a>: Send
    where
        Self: 'a;

    /// `None`: it says that nothing is free towards `to`.
    fn acquire(&self, to: SocketAddrV4) -> Option<Self::Lease<'_>>;

    /// Gives a lease back that was acquired for `to`.
    fn release<'a>(&'a self, to: SocketAddrV4, lease: Self::Lease<'a>);

    /// All leases towards `to` that there are; nothing may be leased before.
    fn take_all(&self, to: SocketAddrV4) -> Vec<Self::Lease<'_>> {
        std::iter::from_fn(|| self.acquire(to)).collect()
    }

    /// An acquire or a release for `to` comes soon.
    fn announce(&self, _to: SocketAddrV4) {}

    /// A number that no other lease towards the same destination has at the same time.
    fn identity<'a>(&'a self, lease: &Self::Lease<'a>) -> u32;
}

/// One destination of a pool, named in each call: the look-up is part of the cost.
pub struct Through<'p, P> {
    /// The pool.
    pub pool: &'p P,
    /// The destination.
    pub to: SocketAddrV4,
}

impl<P: Pool> Ports for Through<'_, P> {
    type Lease<'a>
        = P::Lease<'a>
    where
        Self: 'a;

    #[inline]
    fn acquire(&self) -> Option<Self::Lease<'_>> {
        self.pool.acquire(self.to)
    }

    #[inline]
    fn release<'a>(&'a self, lease: Self::Lease<'a>) {
        self.pool.release(self.to, lease);
    }

    fn take_all(&self) -> Vec<Self::Lease<'_>> {
        self.pool.take_all(self.to)
    }

    fn identity<'a>(&'a self, lease: &Self::Lease<'a>) -> u32 {
        self.pool.identity(lease)
    }
}
