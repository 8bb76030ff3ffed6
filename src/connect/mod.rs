//! What a Rust program calls.

mod builder;
mod dial;
mod grounds;
mod handle;
mod home;
mod ids;
mod inner;
mod judging;
mod keeper;
mod lease;
#[cfg(feature = "capi")]
mod plain;
mod pool;
mod random;
mod stream;
mod theirs;
mod udp;
mod watch;

pub use builder::{Maintenance, PoolBuilder, PrivilegedPorts};
pub use dial::ConnectOptions;
pub use handle::DestinationHandle;
pub use home::{Anywhere, ThroughHandle};
pub use lease::{HandleLease, Lease, LeaseId, Reported};
#[cfg(feature = "capi")]
pub(crate) use plain::{Mark, Parts};
pub use pool::Pool;
pub use stream::LeasedStream;
pub use theirs::Dialed;
pub use udp::{LeasedPort, LeasedUdpSocket};
