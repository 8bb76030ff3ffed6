//! What Linux does with source ports: how a socket gets its source, what an errno means, how long
//! a released four-tuple rests, who holds what.

mod bind;
mod capabilities;
mod clock;
mod closed;
mod connect;
mod diag;
mod finder;
mod fork;
mod host;
mod mode;
mod numbers;
mod options;
mod random;
mod rest;
mod sysctl;
#[cfg(test)]
mod tests;
mod udp;
mod verdict;
mod wait;

pub(crate) use bind::{CallError, as_written_for, bind, check_bindable, check_source, taken};
pub use capabilities::{Capabilities, Capability};
pub(crate) use clock::Monotonic;
pub use closed::ClosedFirst;
pub(crate) use closed::{Tcp, closed_first};
pub(crate) use connect::{
    Progress, connect, ends, is_under_way, set_blocking, stream_socket, wait_connected,
};
pub use diag::KernelHolds;
pub(crate) use diag::{Diag, Held, Listener, SocketState};
pub(crate) use finder::Finder;
pub(crate) use fork::Watch;
pub(crate) use host::Host;
pub use mode::{BindMode, ModeChoice};
pub(crate) use numbers::beyond_low_numbers;
pub use options::SourceOptions;
pub(crate) use options::interface_index;
pub(crate) use random::random_seed;
pub(crate) use rest::TIME_WAIT_MS;
pub(crate) use udp::{bind_alone, connected_udp};
pub(crate) use verdict::verdict_on;
pub use verdict::{Call, Verdict};
pub(crate) use wait::{wait_readable, without_signals};
