//! Source ports, leased per destination.

mod connect;
mod error;
#[cfg(feature = "capi")]
pub mod ffi;
mod kernel;
mod ledger;
mod sync;
mod territory;

pub use connect::{
    ConnectOptions, DestinationHandle, Lease, LeaseId, LeasedPort, LeasedStream, LeasedUdpSocket,
    Pool, PoolBuilder, PrivilegedPorts, Reported,
};
pub use error::{Error, Exhausted, SourcesError};
pub use kernel::{
    BindMode, Call, Capabilities, Capability, ClosedFirst, ModeChoice, SourceOptions, Verdict,
};
pub use ledger::{
    Census, Destination, Family, FourTuple, PoolCensus, PortRange, Protocol, Source, Sources,
};
pub use territory::Slice;
