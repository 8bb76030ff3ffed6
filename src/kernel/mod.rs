//! What Linux does with source ports: options, bind modes, errno to verdict, rest, clock.

mod bind;
mod capabilities;
mod clock;
mod closed;
mod connect;
mod fork;
mod mode;
mod options;
mod random;
mod rest;
mod sock_diag;
mod udp;
mod verdict;

#[cfg(test)]
mod tests;

pub(crate) use bind::{CallError, bind, bound_as_leased};
pub use capabilities::{Capabilities, Capability};
pub(crate) use clock::Monotonic;
pub use closed::ClosedFirst;
pub(crate) use closed::{Tcp, closed_first};
pub(crate) use connect::{
    Progress, bind_alone, connect, ends, set_blocking, stream_socket, wait_connected,
};
pub(crate) use fork::Watch;
pub(crate) use mode::PortPolicy;
pub use mode::{BindMode, ModeChoice};
pub use options::SourceOptions;
pub(crate) use random::random_seed;
pub(crate) use rest::uses_timestamps;
pub(crate) use rest::{Settings, is_loopback_destination, rest_ms};
pub(crate) use sock_diag::{State, listeners, sockets};
pub(crate) use udp::connected_udp;
pub(crate) use verdict::verdict;
pub use verdict::{Call, Verdict};
