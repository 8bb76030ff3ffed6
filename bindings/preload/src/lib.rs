//! The library that `portlease run` preloads: it takes part in the calls by which a program
//! connects sockets and closes descriptors, and leases a four-tuple for each connection.
//!
//! `hooks` are the calls. `connection` connects under a lease, `leaving` sees a descriptor go and
//! releases, `sweep` finds those that went unseen. `state` is the pool and the `table` of what has a
//! lease, one for each process; `real` is what the hooks stand before.
//!
//! A process that connects nothing pays for a few loads. In a child of `fork` the parent's state is
//! abandoned without a look, and no lock of it is taken; the child makes its own when it connects.

mod address;
#[path = "../../../src/bin/portlease/run/agreement.rs"]
mod agreement;
mod connection;
mod hooks;
mod inside;
mod leaving;
mod real;
mod settings;
mod socket;
mod state;
mod sweep;
mod table;
mod tally;
