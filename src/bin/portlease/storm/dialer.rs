//! Who dials: a lease from portlease, or the kernel's own choice of the port.

use super::wire::{Cause, Failure, Job};
use crate::args::By;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use portlease::{
    ClosedFirst, ConnectOptions, DestinationHandle, Error, LeasedStream, Pool, PrivilegedPorts,
    Protocol,
};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How long a connect may go without an answer, as `TCP_USER_TIMEOUT` (tcp(7)).
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer may take to close after us.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) enum Dialer {
    Portlease { pool: Pool, handle: DestinationHandle, is_shared: bool },
    Kernel(KernelsChoice),
}

/// A connection; closed when dropped.
pub(crate) enum Connection {
    Portlease(LeasedStream),
    Kernel(TcpStream),
}

impl Dialer {
    pub(crate) fn new(job: &Job) -> Result<Self, Failure> {
        match job.by {
            By::Portlease => {
                let built = pool(job).and_then(|pool| {
                    let handle = pool.destination(Protocol::Tcp, job.to)?;
                    Ok(Self::Portlease { pool, handle, is_shared: job.shared.is_some() })
                });
                built.map_err(failure_of)
            }
            By::Kernel => Ok(Self::Kernel(KernelsChoice::new(job))),
        }
    }

    pub(crate) fn dial(&mut self) -> Result<Connection, Failure> {
        match self {
            Self::Portlease { handle, .. } => {
                let options = ConnectOptions::new().prepare(&be_patient);
                handle.connect_with(&options).map(Connection::Portlease).map_err(failure_of)
            }
            Self::Kernel(kernel) => kernel.dial().map(Connection::Kernel),
        }
    }

    /// Whether ports move between this worker and others.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Portlease { is_shared: true, .. })
    }

    /// Gives back ports that others are in want of, where they are shared.
    pub(crate) fn maintain(&self) -> Result<(), Failure> {
        match self {
            Self::Portlease { pool, is_shared: true, .. } => pool.maintain().map_err(failure_of),
            _ => Ok(()),
        }
    }
}

impl Connection {
    /// Closing will reset the connection, even if the process is killed: neither end keeps a
    /// socket in TIME_WAIT.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Self::Portlease(stream) => reset_on_close(stream),
            Self::Kernel(stream) => reset_on_close(stream),
        }
    }
}

/// A pool over the worker's slice, or over what all workers share.
fn pool(job: &Job) -> Result<Pool, Error> {
    let pool = Pool::builder()
        .sources(&job.sources)
        .bind_mode(job.mode.choice())
        // The ports of a storm are those that its user named.
        .privileged_ports(PrivilegedPorts::Lease);
    match &job.shared {
        Some(file) => pool.shared(file).build(),
        None => pool.build(),
    }
}

fn be_patient(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_user_timeout(Some(PATIENCE))
}

impl Connection {
    /// Says to the peer that we have nothing more to send: we close first.
    pub(crate) fn begin_close(&self) -> io::Result<()> {
        let stream = match self {
            Self::Portlease(stream) => stream.get_ref(),
            Self::Kernel(stream) => stream,
        };
        stream.set_read_timeout(Some(CLOSE_PATIENCE))?;
        stream.shutdown(Shutdown::Write)
    }

    /// Waits until the peer has closed as well, and gives everything back. What is left is our
    /// TIME_WAIT.
    pub(crate) fn end_close(self) {
        // A peer that resets or takes too long ends it just as well.
        match self {
            Self::Portlease(stream) => {
                let (mut stream, lease) = stream.into_parts();
                let _ = stream.read(&mut [0; 1]);
                drop(stream);
                lease.release_after(ClosedFirst::Us);
            }
            Self::Kernel(mut stream) => {
                let _ = stream.read(&mut [0; 1]);
            }
        }
    }
}

fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// The kernel chooses the port at connect, for each four-tuple anew; the sources take turns.
pub(crate) struct KernelsChoice {
    to: SocketAddr,
    sources: Vec<SocketAddr>,
    next: usize,
}

impl KernelsChoice {
    fn new(job: &Job) -> Self {
        Self { to: job.to, next: 0, sources: job.addresses.clone() }
    }

    /// A source without a port left is passed over; the failure is that of the last one.
    fn dial(&mut self) -> Result<TcpStream, Failure> {
        let mut tries = 1;
        loop {
            let source = self.sources[self.next];
            self.next = (self.next + 1) % self.sources.len();
            match self.dial_from(source) {
                Ok(stream) => return Ok(stream),
                Err(failure) if failure.cause == Cause::Exhausted && tries < self.sources.len() => {
                    tries += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn dial_from(&self, source: SocketAddr) -> Result<TcpStream, Failure> {
        let told = |call| {
            move |error| {
                let (source_address, destination) = (Some(source), Some(self.to));
                failure_of(Error::Os { call, source_address, destination, error })
            }
        };
        let domain = Domain::for_address(self.to);
        let socket = Socket::new(domain, Type::STREAM, None).map_err(told("socket"))?;
        setsockopt(&socket, IpBindAddressNoPort, &true)
            .map_err(|errno| told("setsockopt IP_BIND_ADDRESS_NO_PORT")(errno.into()))?;
        be_patient(socket.as_fd()).map_err(told("setsockopt TCP_USER_TIMEOUT"))?;
        socket.bind(&source.into()).map_err(told("bind"))?;
        socket.connect(&self.to.into()).map_err(told("connect"))?;
        Ok(socket.into())
    }
}

fn failure_of(error: Error) -> Failure {
    let cause = match &error {
        Error::Exhausted(_) => Cause::Exhausted,
        Error::NoSource { .. } => Cause::NoSource,
        Error::Os { call: "bind", error, .. }
            if error.kind() == io::ErrorKind::AddrNotAvailable =>
        {
            Cause::NoSource
        }
        Error::Os { error, .. } => cause_of(error),
        _ => Cause::Other,
    };
    Failure { cause, text: error.to_string() }
}

/// What an errno of `socket`, `bind` or `connect` means for a storm.
fn cause_of(error: &io::Error) -> Cause {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE) => Cause::Exhausted,
        Some(Errno::EACCES | Errno::EPERM) => Cause::NotAllowed,
        Some(Errno::ECONNREFUSED) => Cause::Refused,
        Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL) => Cause::Unreachable,
        Some(Errno::ETIMEDOUT) => Cause::TimedOut,
        Some(Errno::EMFILE | Errno::ENFILE) => Cause::Descriptors,
        Some(Errno::ENOMEM | Errno::ENOBUFS) => Cause::Memory,
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: &'static str, errno: Errno) -> Cause {
        let error = io::Error::from(errno);
        failure_of(Error::Os { call, source_address: None, destination: None, error }).cause
    }

    #[test]
    fn cause_follows_from_call_and_errno() {
        for (call, errno, cause) in [
            ("socket", Errno::EMFILE, Cause::Descriptors),
            ("socket", Errno::ENFILE, Cause::Descriptors),
            ("socket", Errno::ENOBUFS, Cause::Memory),
            ("bind", Errno::EADDRNOTAVAIL, Cause::NoSource),
            ("bind", Errno::EACCES, Cause::NotAllowed),
            ("connect", Errno::EADDRNOTAVAIL, Cause::Exhausted),
            ("connect", Errno::ECONNREFUSED, Cause::Refused),
            ("connect", Errno::ETIMEDOUT, Cause::TimedOut),
            ("connect", Errno::ENETUNREACH, Cause::Unreachable),
            ("connect", Errno::EHOSTUNREACH, Cause::Unreachable),
            ("connect", Errno::ECONNRESET, Cause::Other),
        ] {
            assert_eq!(told(call, errno), cause, "{call} {errno}");
        }
    }
}
