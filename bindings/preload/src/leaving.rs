//! A descriptor goes: when it was the last of its connection, the lease is released.

use super::agreement::Count;
use super::connection::{Connection, Holds};
use super::state::{self, State};
use super::{socket, tally};
use libc::c_int;
use portlease::{ClosedFirst, KernelHolds, Lease};
use std::sync::Arc;

/// A descriptor that is about to be closed.
pub(crate) struct Leaving {
    connection: Arc<Connection>,
    /// `None` where the number is another socket's by now.
    closed: Option<ClosedFirst>,
}

impl Leaving {
    /// Takes what `fd` has, and asks how it ends. `None` where it has nothing, or where it is not
    /// this process's to say.
    pub(crate) fn begin(state: &'static State, fd: c_int) -> Option<Self> {
        if !state.table.has(fd) || !state.is_of_this_process() {
            return None;
        }
        let connection = state.table.take(fd)?;
        let is_it = socket::cookie(fd) == Some(connection.cookie);
        let closed = match &connection.holds {
            Holds::Lease(lease) if is_it => Some(lease.closing(&socket::borrow(fd))),
            _ => None,
        };
        Some(Self { connection, closed })
    }

    /// The descriptor is still there.
    pub(crate) fn cancel(self, state: &'static State, fd: c_int) {
        super::connection::keep(state, fd, self.connection);
    }

    /// The descriptor is closed.
    pub(crate) fn end(self, state: &'static State) {
        let Some(closed) = self.closed else { return unseen(state, self.connection) };
        let may_be_shared = self.connection.forks != state::forks();
        let Some(lease) = last(self.connection) else { return };
        if may_be_shared && matches!(lease.kernel_holds(), Ok(KernelHolds::Socket)) {
            // A child has it still.
            return state.sweep.wait_for(lease);
        }
        lease.release_after(closed);
        tally::add(Count::Closed);
    }
}

/// It was closed, nobody saw when.
pub(crate) fn unseen(state: &'static State, connection: Arc<Connection>) {
    if let Some(lease) = last(connection) {
        if let Some(lease) = release_if_gone(lease) {
            state.sweep.wait_for(lease);
        }
    }
}

/// Releases the lease of a connection that nobody has a descriptor of; else it is returned.
pub(crate) fn release_if_gone(lease: Lease<'static>) -> Option<Lease<'static>> {
    match lease.kernel_holds() {
        Ok(KernelHolds::Socket) => return Some(lease),
        Ok(KernelHolds::Nothing) => lease.release_after(ClosedFirst::Reset),
        Ok(KernelHolds::Closing | KernelHolds::TimeWait) => lease.release_after(ClosedFirst::Us),
        Err(_) => lease.release_after(ClosedFirst::Unknown),
    }
    tally::add(Count::Found);
    None
}

/// The lease, where this was its last descriptor.
fn last(connection: Arc<Connection>) -> Option<Lease<'static>> {
    match Arc::into_inner(connection)?.holds {
        Holds::Lease(lease) => Some(lease),
        Holds::Address => None,
    }
}
