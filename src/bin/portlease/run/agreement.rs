//! What `portlease run` and the library that it preloads have to agree on: this file is compiled
//! into both.

/// How the library is told what to do: by variables of the environment, which all that the command
/// starts inherits.
pub(crate) mod variable {
    /// Before each of them.
    pub(crate) const PREFIX: &str = "PORTLEASE_";
    /// The source addresses, as text.
    pub(crate) const SOURCES: &str = "PORTLEASE_SOURCES";
    /// The ports of sources that have none of their own, as `FIRST-LAST`.
    pub(crate) const PORTS: &str = "PORTLEASE_PORTS";
    /// `by-port`, `explicit` or `late`.
    pub(crate) const MODE: &str = "PORTLEASE_MODE";
    /// The least rest, in milliseconds.
    pub(crate) const REST_MS: &str = "PORTLEASE_REST_MS";
    /// The file of the territory.
    pub(crate) const SHARED: &str = "PORTLEASE_SHARED";
    /// The destinations that alone are leased for.
    pub(crate) const ONLY: &str = "PORTLEASE_ONLY";
    /// The destinations that nothing is leased for.
    pub(crate) const EXCEPT: &str = "PORTLEASE_EXCEPT";
    /// Set: UDP sockets too.
    pub(crate) const UDP: &str = "PORTLEASE_UDP";
    /// The file of the counts.
    pub(crate) const TALLY: &str = "PORTLEASE_TALLY";
}

/// What all processes of a run count together: one number of 64 bits each, in the machine's order,
/// in a file that they map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Processes that had something to lease.
    Processes,
    /// Four-tuples leased.
    Leased,
    /// Leases released as their last descriptor was closed.
    Closed,
    /// Leases released later: the descriptor was closed in a way that could not be seen.
    Found,
    /// Connections refused because no four-tuple was free.
    Exhausted,
    /// Connections left alone as `--only` or `--except` asks.
    Exempt,
    /// Connections left alone because the program has bound the socket to a port, or to an address
    /// that is no source.
    Bound,
    /// Connections left alone because no source is of the destination's family, or the
    /// destination is none.
    NoSource,
    /// Connections left to the kernel because a lease could not be had, as a message says.
    Unleased,
    /// Not a count: how often there was something to tell. The first one is told.
    Told,
}

impl Count {
    /// The length of the file, in bytes.
    pub(crate) const FILE_LEN: usize = (Self::Told as usize + 1) * 8;
}
