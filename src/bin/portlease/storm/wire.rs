//! What a storm and its processes say to each other: one JSON value a line.

use crate::args::{By, Mode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The first line to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) by: By,
    pub(crate) mode: Mode,
    pub(crate) to: SocketAddr,
    /// The file that the workers share; without one, each has sources of its own.
    pub(crate) shared: Option<PathBuf>,
    /// The worker's slice, as a pool's sources are written.
    pub(crate) sources: String,
    /// The addresses alone, in the order in which the kernel's choice takes them.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Every further line to a worker. The end of its input: close everything and go.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Open so many more and hold them; answered by one [`Event::Batch`].
    Open { count: u64 },
    /// Connect and close, with at most so many on their way out; answered by batches and
    /// [`Event::Done`].
    Churn { seconds: u64, limit: u64, closing: usize },
}

/// A line from a worker or a target.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A worker is ready for orders.
    Ready,
    /// What a worker did since its last batch.
    Batch(Batch),
    /// A worker has finished churning.
    Done,
    /// So many connections are held by a target now.
    Held { count: u64 },
    /// A process cannot go on.
    Failed(Failure),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Nanoseconds of a dial, and how many took so long.
    pub(crate) dial_ns: Vec<(u64, u64)>,
    /// The first failure.
    pub(crate) failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) text: String,
}

/// What a failure means for the storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// No four-tuple is left to this worker.
    Exhausted,
    /// A source is not an address of this host.
    NoSource,
    /// The port needs a privilege.
    NotAllowed,
    Refused,
    Unreachable,
    TimedOut,
    /// No descriptor is left, to the process or the host.
    Descriptors,
    Memory,
    Other,
}

impl Cause {
    /// Whether the next try would fail as well.
    pub(crate) fn is_hopeless(self) -> bool {
        !matches!(self, Self::Exhausted | Self::Other)
    }
}

/// Writes one line and sends it off.
pub(crate) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// The next line; `None` at the end.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
