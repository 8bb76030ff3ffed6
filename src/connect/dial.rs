//! From a destination to a connected socket: acquire, bind, connect, and judge what failed.

use super::home::{Anywhere, Home};
use super::lease::Lease;
use super::stream::LeasedStream;
use super::udp::LeasedUdpSocket;
use crate::error::Error;
use crate::kernel::{self, BindMode, Call, CallError, Progress, Verdict};
use crate::ledger::From;
use socket2::Socket;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How to connect, where it is not the usual way.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use portlease::{ConnectOptions, Pool};
/// use std::time::Duration;
///
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let destination = listener.local_addr()?;
/// let pool = Pool::builder().sources("127.0.0.2-127.0.0.4").build()?;
/// let options = ConnectOptions::new()
///     .source("127.0.0.3".parse()?)
///     .timeout(Duration::from_secs(3));
/// let stream = pool.connect_with(destination, &options)?;
/// assert_eq!(stream.get_ref().local_addr()?.ip().to_string(), "127.0.0.3");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Default)]
pub struct ConnectOptions<'a> {
    source: Option<IpAddr>,
    wait: Wait,
    prepare: Option<&'a Prepare>,
}

/// What is done to each new socket before it is bound.
type Prepare = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Sync;

/// How long to wait for the peer's answer.
#[derive(Clone, Copy, Default)]
enum Wait {
    #[default]
    AsLongAsTheKernel,
    AtMost(Duration),
    /// The socket is in non-blocking mode, and stays in it.
    NotAtAll,
}

impl<'a> ConnectOptions<'a> {
    /// The usual way: any source, a blocking socket, the kernel's own timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only from this source address, on any of its ports.
    pub fn source(mut self, address: IpAddr) -> Self {
        self.source = Some(address.to_canonical());
        self
    }

    /// Waits at most this long for the peer's answer. The socket is in blocking mode afterwards.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::AtMost(timeout);
        self
    }

    /// Does not wait: the stream comes in non-blocking mode and is connected, or failed, when it
    /// becomes writable ([`std::net::TcpStream::take_error`] tells which).
    ///
    /// All that another source port could help against is known before, so the error that comes
    /// then is the destination's.
    pub fn nonblocking(mut self) -> Self {
        self.wait = Wait::NotAtAll;
        self
    }

    /// Calls `prepare` with each new socket before it is bound, to set options on it. A
    /// `SO_SNDTIMEO` set there bounds the wait as [`ConnectOptions::timeout`] does.
    pub fn prepare(mut self, prepare: &'a Prepare) -> Self {
        self.prepare = Some(prepare);
        self
    }
}

/// Connects over TCP from a four-tuple of `home`'s choice.
pub(super) fn connect(
    home: &Anywhere<'_>,
    options: &ConnectOptions<'_>,
) -> Result<LeasedStream, Error> {
    let from = match options.source {
        Some(address) => home.inner().source_at(address, home.destination())?,
        None => From::AnySource,
    };
    let (socket, lease) = dial(home, from, |lease| open_tcp(lease, options))?;
    Ok(LeasedStream::from_parts(socket.into(), lease))
}

/// Connects over UDP from a four-tuple of `home`'s choice.
pub(super) fn connect_udp(home: &Anywhere<'_>) -> Result<LeasedUdpSocket, Error> {
    let (socket, lease) = dial(home, From::AnySource, open_udp)?;
    Ok(LeasedUdpSocket::from_parts(socket.into(), lease))
}

/// Tries one four-tuple after the other.
///
/// A try that fails for the source's sake makes something rest, so the ledger knows of less each
/// time; and there are never more tries than four-tuples, should what rests be back before all
/// were tried.
pub(super) fn dial<T>(
    home: &Anywhere<'_>,
    from: From,
    mut open: impl FnMut(&Lease<'_>) -> Result<T, Failure>,
) -> Result<(T, Lease<'static>), Error> {
    let (inner, to) = (home.inner(), *home.destination());
    let mut tries_left = inner.ledger.capacity(to.family());
    let mut last = None;
    loop {
        let lease = Lease::acquire(home.clone(), from)?;
        // Else nothing is left to try, and the ledger has said so, with its numbers.
        if let Some(failure) = last.filter(|_| tries_left == 0) {
            lease.release();
            return Err(failure);
        }
        let failure = match open(&lease) {
            Ok(opened) => return Ok((opened, lease.into_owned())),
            Err(failure) => failure,
        };
        let source = lease.source();
        let verdict = match failure.about {
            About::Source(call) => lease.settle(call, &failure.error),
            About::Caller => {
                lease.release();
                Verdict::GiveUp
            }
            About::Settings => {
                inner.host.refresh()?;
                lease.release();
                Verdict::TryAnother
            }
        };
        if matches!(verdict, Verdict::RestTuple | Verdict::TryAnother) {
            // Not a matter of luck, if the mode that was asked for cannot have the port any more.
            inner.host.check_port(source)?;
        }
        tries_left = tries_left.saturating_sub(1);
        let failure = Error::Os {
            call: failure.call,
            source_address: Some(source),
            destination: Some(to.address()),
            error: failure.error,
        };
        if verdict == Verdict::GiveUp {
            return Err(failure);
        }
        last = Some(failure);
    }
}

/// Why there is no connected socket. By the time one has this, the descriptor is closed, or as it
/// was before.
pub(super) struct Failure {
    about: About,
    call: &'static str,
    error: io::Error,
}

/// What a failure is about.
enum About {
    /// Perhaps the source: the table of verdicts knows.
    Source(Call),
    /// The caller or the process: descriptors, privileges, options.
    Caller,
    /// The kernel did not take the port that it was told to: its range changed under us.
    Settings,
}

impl Failure {
    /// Perhaps another source helps.
    pub(super) fn of_source(call: Call, error: io::Error) -> Self {
        let name = match call {
            Call::Bind => "bind",
            Call::Connect => "connect",
        };
        Self { about: About::Source(call), call: name, error }
    }

    pub(super) fn of_caller(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self { about: About::Caller, call, error }
    }
}

impl std::convert::From<CallError> for Failure {
    fn from(CallError { call, error }: CallError) -> Self {
        let about = match call {
            "bind" => About::Source(Call::Bind),
            "connect" => About::Source(Call::Connect),
            _ => About::Caller,
        };
        Self { about, call, error }
    }
}

/// One try: a new socket, bound to the lease's source, connected or on its way.
fn open_tcp(lease: &Lease<'_>, options: &ConnectOptions<'_>) -> Result<Socket, Failure> {
    let (to, at) = (lease.destination(), lease.source_port());
    let nonblocking = !matches!(options.wait, Wait::AsLongAsTheKernel);
    let socket =
        kernel::stream_socket(to.family(), nonblocking).map_err(Failure::of_caller("socket"))?;
    if let Some(prepare) = options.prepare {
        prepare(socket.as_fd()).map_err(Failure::of_caller("prepare"))?;
    }
    let mode = lease.inner().bind(&socket, to.protocol(), &at)?;
    let refused = |error| CallError { call: "connect", error };
    let progress = kernel::connect(&socket, to.address()).map_err(refused)?;
    if mode == BindMode::Late {
        kernel::check_source(&socket, at.socket_address()).map_err(|error| Failure {
            about: About::Settings,
            call: "connect",
            error,
        })?;
    }
    // On its way though it should block: `prepare` has set O_NONBLOCK.
    let timeout = match options.wait {
        Wait::NotAtAll => return Ok(socket),
        Wait::AsLongAsTheKernel => None,
        Wait::AtMost(timeout) => Some(timeout),
    };
    if progress == Progress::InProgress {
        kernel::wait_connected(&socket, timeout).map_err(refused)?;
    }
    if timeout.is_some() {
        kernel::set_blocking(&socket).map_err(Failure::of_caller("fcntl"))?;
    }
    Ok(socket)
}

fn open_udp(lease: &Lease<'_>) -> Result<Socket, Failure> {
    let (to, at) = (lease.destination(), lease.source_port());
    let options = lease.inner().options_of(&at);
    Ok(kernel::connected_udp(at.socket_address(), to.address(), options)?)
}
