//! The one error type; it carries the numbers.

use crate::ledger::Destination;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Why portlease could not do what it was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No four-tuple towards the destination is free. Exact, never a guess.
    Exhausted(Exhausted),
    /// The pool has no source address of the destination's family.
    NoSource {
        /// Where the lease was to lead.
        destination: Destination,
    },
    /// A text that does not say which sources to use.
    Sources(SourcesError),
    /// A setting that cannot be.
    Config {
        /// What is wrong, with the value and the way out.
        problem: String,
    },
    /// The kernel refused a system call.
    Os {
        /// The call, as its manual page is named.
        call: &'static str,
        /// The source that it was about.
        source_address: Option<SocketAddr>,
        /// The destination that it was about.
        destination: Option<SocketAddr>,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The kernel of this host lacks what was asked for.
    Unsupported {
        /// The capability, as its option is named.
        capability: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// A source that is none of the pool's.
    NotOurs {
        /// The source; port 0 where all its ports are meant.
        source_address: SocketAddr,
    },
    /// A four-tuple to be adopted that the pool has given to somebody else, rests or excludes.
    Taken {
        /// The source.
        source_address: SocketAddr,
        /// The destination.
        destination: Destination,
    },
    /// A four-tuple to be adopted whose port is in a block that another pool on the shared file holds.
    HeldElsewhere {
        /// The source.
        source_address: SocketAddr,
        /// The destination.
        destination: Destination,
        /// The block: ports of the source, first and last.
        ports: RangeInclusive<u16>,
        /// The shared file.
        path: PathBuf,
    },
    /// The shared file of a territory cannot be used, or not any longer.
    SharedFile {
        /// The file, as an absolute path where it could be made one.
        path: PathBuf,
        /// What is wrong, with the value and the way out.
        problem: String,
        /// The kernel's answer, where a system call failed.
        error: Option<io::Error>,
    },
    /// The lease was released before, belongs to another pool, or never was.
    StaleLease,
    /// The pool belongs to the parent of this process; a child builds one of its own.
    Forked,
}

/// The counts behind [`Error::Exhausted`]; `leased + resting + excluded` is the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The destination that nothing is left for.
    pub destination: Destination,
    /// Four-tuples that are leased.
    pub leased: u64,
    /// Four-tuples that rest after their release.
    pub resting: u64,
    /// Four-tuples that may not be leased.
    pub excluded: u64,
    /// Milliseconds until the next resting four-tuple is free; `None` if none rests.
    pub next_free_ms: Option<u64>,
}

/// A part of a text of sources or ports that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcesError {
    /// The part, as it was written.
    pub part: String,
    /// Where the part begins, in bytes from the start of the text.
    pub offset: usize,
    /// What is wrong with it, and the way out.
    pub problem: String,
}

impl Error {
    /// The operating system's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Os { error, .. } | Self::SharedFile { error: Some(error), .. } => {
                error.raw_os_error()
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted(counts) => counts.fmt(f),
            Self::NoSource { destination } => write!(
                f,
                "no {} source for {destination}: add one to the pool",
                destination.family()
            ),
            Self::Sources(bad) => write!(f, "sources: {bad}"),
            Self::Config { problem } => f.write_str(problem),
            Self::Os { call, source_address, destination, error } => {
                f.write_str(call)?;
                if let Some(source) = source_address {
                    write!(f, " from {source}")?;
                }
                if let Some(destination) = destination {
                    write!(f, " to {destination}")?;
                }
                write!(f, ": {error}")?;
                match (*call, error.kind()) {
                    ("bind", io::ErrorKind::PermissionDenied) => f.write_str(
                        ": a port below net.ipv4.ip_unprivileged_port_start needs \
                         CAP_NET_BIND_SERVICE, or lower that setting; a security module may \
                         forbid any other",
                    ),
                    ("bind", io::ErrorKind::AddrNotAvailable) => f.write_str(
                        ": this host does not have the address any more: add it to an interface",
                    ),
                    _ => Ok(()),
                }
            }
            Self::Unsupported { capability, since } => {
                write!(f, "this kernel has no {capability}: it came with Linux {since}")
            }
            Self::NotOurs { source_address } => {
                write!(f, "the pool has no source {source_address}: add it to the pool")
            }
            Self::Taken { source_address, destination } => write!(
                f,
                "{} {source_address} -> {} is leased, resting or excluded already",
                destination.protocol(),
                destination.address()
            ),
            Self::HeldElsewhere { source_address, destination, ports, path } => write!(
                f,
                "{} {source_address} -> {}: another pool holds ports {}-{} of this source (shared \
                 file {}): adopt it there, or when that pool has given them back",
                destination.protocol(),
                destination.address(),
                ports.start(),
                ports.end(),
                path.display()
            ),
            Self::SharedFile { path, problem, error } => {
                write!(f, "shared file {}: {problem}", path.display())?;
                error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
            }
            Self::StaleLease => f.write_str("stale lease: released before, or of another pool"),
            Self::Forked => f.write_str(
                "this pool belongs to the parent process: build one in the child after fork",
            ),
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, leased, resting, excluded, next_free_ms } = self;
        write!(
            f,
            "exhausted: no four-tuple to {destination} is free \
             ({leased} leased, {resting} resting, {excluded} excluded"
        )?;
        match next_free_ms {
            Some(wait) => write!(f, "; the next comes free in {wait} ms)"),
            None => f.write_str("); add sources or ports"),
        }
    }
}

impl fmt::Display for SourcesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, offset, problem } = self;
        write!(f, "'{part}' at byte {offset}: {problem}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { error, .. } | Self::SharedFile { error: Some(error), .. } => Some(error),
            Self::Sources(bad) => Some(bad),
            _ => None,
        }
    }
}

impl std::error::Error for SourcesError {}

impl From<SourcesError> for Error {
    fn from(bad: SourcesError) -> Self {
        Self::Sources(bad)
    }
}

impl From<Exhausted> for Error {
    fn from(counts: Exhausted) -> Self {
        Self::Exhausted(counts)
    }
}

/// An [`io::Error`] of the kind that a caller of `TcpStream::connect` would expect.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Exhausted(_) | Error::NoSource { .. } => io::ErrorKind::AddrNotAvailable,
            Error::NotOurs { .. } => io::ErrorKind::AddrNotAvailable,
            Error::Taken { .. } | Error::HeldElsewhere { .. } => io::ErrorKind::AddrInUse,
            Error::Sources(_) | Error::Config { .. } | Error::StaleLease => {
                io::ErrorKind::InvalidInput
            }
            Error::Os { error, .. } | Error::SharedFile { error: Some(error), .. } => error.kind(),
            Error::SharedFile { error: None, .. } => io::ErrorKind::InvalidData,
            Error::Unsupported { .. } | Error::Forked => io::ErrorKind::Unsupported,
        };
        Self::new(kind, error)
    }
}
