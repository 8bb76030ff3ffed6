//! Source ports, leased per destination.

mod connect;
mod error;
mod kernel;
mod ledger;
mod sync;
mod territory;

pub use error::{Error, Exhausted, SourcesError};
pub use ledger::{
    Census, Destination, Family, FourTuple, PoolCensus, PortRange, Protocol, Source, Sources,
};
pub use territory::Slice;
