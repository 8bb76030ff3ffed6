//! A small territory for each file, and pools on it.

use portlease::{Error, Lease, Pool, PoolBuilder, Protocol};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Four blocks of 64 ports on each of two sources.
const PORTS: &str = "20032-20287";
pub(crate) const CAPACITY: usize = 512;
/// Far beyond what anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two neighbours that no other test has, for ports are shared through one file only.
pub(crate) fn sources(file: &str) -> [Ipv4Addr; 2] {
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    let first = 127 << 24 | (hasher.finish() as u32 & 0x7f_ffff) << 1 | 1 << 23;
    [first, first + 1].map(Ipv4Addr::from_bits)
}

pub(crate) fn builder(file: &str) -> PoolBuilder {
    let [first, second] = sources(file);
    Pool::builder().sources(format!("{first}-{second}:{PORTS}"))
}

pub(crate) fn shared(file: &str) -> Pool {
    builder(file).shared(file).build().unwrap()
}

pub(crate) fn all(pool: &Pool, to: SocketAddr) -> Vec<Lease<'_>> {
    std::iter::from_fn(|| match pool.acquire(Protocol::Tcp, to) {
        Ok(lease) => Some(lease),
        Err(Error::Exhausted(_)) => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

#[track_caller]
pub(crate) fn is_exhausted<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::Exhausted(_))), "{error:?}");
}
