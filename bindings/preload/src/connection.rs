//! Connecting a socket of the program's under a lease.

use super::agreement::Count;
use super::inside::Inside;
use super::leaving;
use super::state::{self, State};
use super::table::Table;
use super::{socket, tally};
use libc::c_int;
use portlease::{Destination, Dialed, Error, Lease, Protocol};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a descriptor has.
pub(crate) struct Connection {
    /// The socket, to tell it from another with the same number.
    pub(crate) cookie: u64,
    /// The forks before it was connected: a child of a later one has a descriptor too.
    pub(crate) forks: u32,
    pub(crate) holds: Holds,
}

pub(crate) enum Holds {
    /// Nothing yet: the program has bound it to an address and any port, and the choice of the port
    /// waits for a destination. One that it has asked for meanwhile is given up then.
    Address,
    Lease(Lease<'static>),
}

impl Connection {
    pub(crate) fn new(cookie: u64, holds: Holds) -> Arc<Self> {
        Arc::new(Self { cookie, forks: state::forks(), holds })
    }
}

/// What the program asks for.
pub(crate) struct Call<'a> {
    pub(crate) fd: c_int,
    pub(crate) protocol: Protocol,
    pub(crate) destination: SocketAddr,
    /// The program's own connect(2).
    pub(crate) connect: &'a dyn Fn() -> c_int,
}

impl Call<'_> {
    fn answer(&self) -> io::Result<()> {
        match (self.connect)() {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// connect(2) as the program sees it.
pub(crate) fn connect(state: &'static State, inside: &mut Inside, call: &Call<'_>) -> c_int {
    let left = |inside: &mut Inside, count| {
        tally::add(count);
        inside.run(call.connect)
    };
    if state.wish.is_exempt(call.destination) {
        return left(inside, Count::Exempt);
    }
    state.sweep.now_and_then(state);
    let Some(cookie) = socket::cookie(call.fd).filter(|_| Table::has_room(call.fd)) else {
        return left(inside, Count::Unleased);
    };
    let before = before(state, call.fd, cookie);
    if let Some(connection) = before.as_ref().filter(|connection| is_again(connection, call)) {
        keep(state, call.fd, Arc::clone(connection));
        return inside.run(call.connect);
    }
    let Some(source) = socket::source(call.fd) else { return inside.run(call.connect) };
    let answer = match before {
        Some(old) if matches!(old.holds, Holds::Lease(_)) => {
            elsewhere(state, call, cookie, source, old)
        }
        Some(_) => {
            if source.port() != 0 {
                socket::give_up_port(call.fd);
            }
            first(state, call, cookie, source.ip())
        }
        None if source.port() != 0 => return left(inside, Count::Bound),
        None => first(state, call, cookie, source.ip()),
    };
    match answer {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => inside.fail(error.raw_os_error().unwrap_or(libc::EINVAL)),
        Err(Left(count)) => left(inside, count),
    }
}

/// The connection is none of ours.
struct Left(Count);

type Answer = Result<io::Result<()>, Left>;

/// What this very socket has already. What another left under the number is released.
fn before(state: &'static State, fd: c_int, cookie: u64) -> Option<Arc<Connection>> {
    let before = state.table.take(fd)?;
    if before.cookie != cookie {
        leaving::unseen(state, before);
        return None;
    }
    Some(before)
}

/// Whether the program has connected the socket to the same destination before, and wants to know
/// how that went, or another try.
fn is_again(connection: &Connection, call: &Call<'_>) -> bool {
    match &connection.holds {
        Holds::Lease(lease) => {
            lease.destination() == Destination::new(call.protocol, call.destination)
        }
        Holds::Address => false,
    }
}

/// A socket with a lease is to go to another destination, from the source that it has.
fn elsewhere(
    state: &'static State,
    call: &Call<'_>,
    cookie: u64,
    source: SocketAddr,
    old: Arc<Connection>,
) -> Answer {
    if source.port() == 0 {
        leaving::unseen(state, old);
        return first(state, call, cookie, source.ip());
    }
    let taken = state.pool.acquire_exactly(source, call.protocol, call.destination);
    let lease = match taken {
        Ok(lease) => lease,
        Err(error) => {
            keep(state, call.fd, old);
            return refused(&error);
        }
    };
    let answer = call.answer();
    if answer.is_ok() || is_under_way(&answer) {
        leaving::unseen(state, old);
        tally::add(Count::Leased);
        keep(state, call.fd, Connection::new(cookie, Holds::Lease(lease)));
    } else {
        lease.release();
        keep(state, call.fd, old);
    }
    Ok(answer)
}

fn is_under_way(answer: &io::Result<()>) -> bool {
    let errno = answer.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(errno, Some(libc::EINPROGRESS | libc::EINTR))
}

/// A socket without a port.
fn first(state: &'static State, call: &Call<'_>, cookie: u64, address: IpAddr) -> Answer {
    let source = Some(address.to_canonical()).filter(|address| !address.is_unspecified());
    let dial = || {
        let socket = socket::borrow(call.fd);
        let connect = || call.answer();
        state.pool.connect_socket(&socket, source, call.protocol, call.destination, connect)
    };
    let dialed = match dial() {
        Err(Error::Exhausted(_)) if state.sweep.before_refusal(state) => dial(),
        dialed => dialed,
    };
    match dialed {
        Ok(Dialed { lease: Some(lease), answer }) => {
            tally::add(Count::Leased);
            keep(state, call.fd, Connection::new(cookie, Holds::Lease(lease)));
            Ok(answer)
        }
        Ok(Dialed { lease: None, answer }) => {
            tally::add(Count::Unleased);
            Ok(answer)
        }
        Err(error) => {
            if matches!(error, Error::SharedFile { .. }) {
                // It may be no more than our descriptor that the program has closed.
                state::replace(state);
            }
            refused(&error)
        }
    }
}

/// What the program is told where there is no lease.
fn refused(error: &Error) -> Answer {
    match error {
        Error::Exhausted(_) => {
            tally::add(Count::Exhausted);
            Ok(Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)))
        }
        Error::Taken { .. } | Error::HeldElsewhere { .. } => {
            Ok(Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)))
        }
        Error::Os { call: "connect", error, .. } => {
            Ok(Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EINVAL))))
        }
        Error::NoSource { .. } | Error::Config { .. } => Err(Left(Count::NoSource)),
        Error::NotOurs { .. } => Err(Left(Count::Bound)),
        other => {
            tally::tell(&format!("{other}; the connection goes on without a lease"));
            Err(Left(Count::Unleased))
        }
    }
}

pub(crate) fn keep(state: &'static State, fd: c_int, connection: Arc<Connection>) {
    if let Some(displaced) = state.table.put(fd, connection) {
        leaving::unseen(state, displaced);
    }
}
