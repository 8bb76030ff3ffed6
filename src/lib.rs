//! Source ports, leased per destination.
//!
//! A connection is its four-tuple: source address, source port, destination address, destination
//! port. A source port is used up only towards one destination, so a host has (source addresses x
//! ports) connections **to each destination**. A [`Pool`] keeps the ledger of which four-tuple is
//! held by whom, over many source addresses, and makes the kernel agree with it: it binds each
//! socket to its source, tries another four-tuple where a socket of somebody else is in the way,
//! closes before it releases, and lets a four-tuple rest as long as the kernel needs.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let destination = listener.local_addr()?;
//! use portlease::{Pool, Protocol};
//! use std::io::Write;
//!
//! let pool = Pool::builder().sources("127.0.0.2-127.0.0.9").build()?;
//! let mut stream = pool.connect(destination)?; // owns its lease
//! stream.write_all(b"hello")?;
//!
//! let census = pool.census_of(Protocol::Tcp, destination)?;
//! assert_eq!(census.leased, 1);
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! | --- | --- |
//! | dial | [`Pool::connect`], [`Pool::connect_with`], [`Pool::connect_udp`] |
//! | dial one destination all day | [`Pool::destination`], a [`DestinationHandle`] |
//! | keep your own sockets | [`Pool::connect_socket`], or [`Pool::acquire`], [`Lease::bind`], [`Lease::report`], [`Lease::close`] |
//! | start beside sockets that exist | [`Pool::import`], [`Pool::adopt`] |
//! | share ports with other processes | [`PoolBuilder::shared`], [`Pool::maintain_fd`], [`PoolBuilder::slice`] |
//! | see what is left | [`Pool::census`], [`Pool::census_of`], [`Pool::capabilities`] |
//! | call from C and C++ | feature `capi`, `include/portlease.h` |
//!
//! Linux only. `ARCHITECTURE.md` in the repository shows the rooms of the house, `DESIGN.md` says
//! why each is as it is.

mod connect;
mod error;
#[cfg(feature = "capi")]
pub mod ffi;
mod kernel;
mod ledger;
mod sync;
mod territory;

pub use connect::{
    Anywhere, ConnectOptions, DestinationHandle, Dialed, HandleLease, Lease, LeaseId, LeasedPort,
    LeasedStream, LeasedUdpSocket, Maintenance, Pool, PoolBuilder, PrivilegedPorts, Reported,
    ThroughHandle,
};
pub use error::{Error, Exhausted, SourcesError};
pub use kernel::{
    BindMode, Call, Capabilities, Capability, ClosedFirst, KernelHolds, ModeChoice, SourceOptions,
    Verdict,
};
pub use ledger::{
    Census, Destination, Destinations, Family, FourTuple, PoolCensus, PortRange, Protocol, Source,
    Sources,
};
pub use territory::Slice;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
