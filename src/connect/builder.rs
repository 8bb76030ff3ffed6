//! From what the user says to a pool that works, or a clear no.

use super::grounds::Grounds;
use super::inner::Inner;
use super::keeper::Keeper;
use super::pool::Pool;
use super::random::Seed;
use super::watch::Watch;
use crate::error::Error;
use crate::kernel::{self, Host, ModeChoice, Monotonic, SourceOptions};
use crate::ledger::{Ledger, Names, PortRange, Source, Sources, socket_address};
use crate::sync::Mutex;
use crate::territory::{Plan, Slice};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Whether ports below 1024, which the system keeps for its own services, may be leased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivilegedPorts {
    /// A range that holds one is an error.
    #[default]
    Refuse,
    /// They are ports like all others. Binding them needs `CAP_NET_BIND_SERVICE`, and only
    /// explicit binding reaches them.
    Lease,
}

/// Who looks after ports that are [shared](PoolBuilder::shared) with other processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintenance {
    /// Whoever calls the pool. A process that may fall silent while it holds ports that others want
    /// waits for [`Pool::maintain_fd`] in its event loop.
    #[default]
    ByCallers,
    /// A thread of the pool's own as well. It blocks all signals and sleeps until others are in want
    /// of ports or something has to be looked at, every 2.5 seconds at most while ports are held; it
    /// ends with the pool.
    ByThread,
}

/// The first port that needs no privilege, unless the system says otherwise (ip(7)).
const UNPRIVILEGED_FIRST: u16 = 1024;

/// A pool in the making: sources, ports, and how to use them.
///
/// ```
/// # fn main() -> Result<(), portlease::Error> {
/// use portlease::{ModeChoice, Pool, PortRange};
/// use std::time::Duration;
///
/// let pool = Pool::builder()
///     .sources("127.0.0.2, 127.0.0.8-127.0.0.15, 127.1.0.0/28:2048-4095")
///     .ports(PortRange::new(1024, 65535).unwrap())
///     .bind_mode(ModeChoice::ByPort)
///     .min_rest(Duration::from_millis(500))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "`build` makes the pool"]
pub struct PoolBuilder {
    texts: Vec<String>,
    sources: Vec<Source>,
    ports: Option<PortRange>,
    mode: ModeChoice,
    rest_min: Duration,
    privileged: PrivilegedPorts,
    options: SourceOptions,
    options_of: Vec<(IpAddr, SourceOptions)>,
    seed: Option<[u8; 32]>,
    names: Names,
    territory: Plan,
    maintenance: Maintenance,
}

impl PoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            texts: Vec::new(),
            sources: Vec::new(),
            ports: None,
            mode: ModeChoice::ByPort,
            rest_min: Duration::ZERO,
            privileged: PrivilegedPorts::default(),
            options: SourceOptions::default(),
            options_of: Vec::new(),
            seed: None,
            names: Names::None,
            territory: Plan::Whole,
            maintenance: Maintenance::default(),
        }
    }

    /// Adds source addresses, [as people write them](Sources#as-text):
    /// `"10.0.0.2, 10.0.0.8-10.0.0.15, 10.1.0.0/28:2048-4095, [2001:db8::7]:5000-5999"`.
    ///
    /// A text that cannot be understood is an error of [`PoolBuilder::build`].
    pub fn sources(mut self, text: impl Into<String>) -> Self {
        self.texts.push(text.into());
        self
    }

    /// Adds one source address.
    pub fn add_source(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// The ports of all sources that do not name their own. Without it, those that the kernel
    /// itself chooses from: `net.ipv4.ip_local_port_range`.
    pub fn ports(mut self, range: PortRange) -> Self {
        self.ports = Some(range);
        self
    }

    /// How sockets are bound; by default it follows from the port.
    pub fn bind_mode(mut self, mode: ModeChoice) -> Self {
        self.mode = mode;
        self
    }

    /// The least time that a four-tuple rests after its connection was closed, in whole
    /// milliseconds, rounded up: for a firewall or NAT on the way that remembers longer than the
    /// kernel does.
    pub fn min_rest(mut self, rest: Duration) -> Self {
        self.rest_min = rest;
        self
    }

    /// Whether ports below 1024 may be leased.
    pub fn privileged_ports(mut self, privileged: PrivilegedPorts) -> Self {
        self.privileged = privileged;
        self
    }

    /// The socket options of all sources that have none of their own.
    pub fn options(mut self, options: SourceOptions) -> Self {
        self.options = options;
        self
    }

    /// The socket options of one source address.
    pub fn options_of(mut self, source: IpAddr, options: SourceOptions) -> Self {
        self.options_of.push((source.to_canonical(), options));
        self
    }

    /// The seed of all random choices, for runs that can be repeated: a thread then chooses the
    /// same ports each time. Without it the kernel gives one. Who knows the seed can guess ports.
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Shares the ports with all pools on this host that name the same file, in this process and
    /// in others, so that no two lease the same port of the same source.
    ///
    /// Ports are claimed in blocks of 64, as they are needed, and given back when they are empty.
    /// The kernel gives back those of a process that dies, however it dies. The file is made where
    /// it is missing, readable and writable for its owner alone; put it on a local filesystem, such
    /// as `/run`, and remove it only when no pool uses it. Other pools may have other sources and
    /// ranges. Locks are those of fcntl(2), `F_OFD_SETLK`, Linux 3.15.
    ///
    /// All pools of a network namespace that have a port in common name one file: while some are on
    /// another one, or on a former file of that name that was removed or replaced, a pool is refused.
    ///
    /// A pool has one territory: of this and [`PoolBuilder::slice`] the last call counts.
    pub fn shared(mut self, file: impl Into<PathBuf>) -> Self {
        self.territory = Plan::Shared(file.into());
        self
    }

    /// Who looks after ports that are shared. Without [`PoolBuilder::shared`] there is nothing to do,
    /// and no thread.
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.maintenance = maintenance;
        self
    }

    /// Leases only this slice of each source's ports, for a split among processes that is planned:
    /// without a file, and without ports that move to where they are needed.
    pub fn slice(mut self, slice: Slice) -> Self {
        self.territory = Plan::Slice(slice);
        self
    }

    /// Leases can be turned into plain values ([`Lease::into_id`](crate::Lease::into_id)). That
    /// keeps a generation for each lease, 4 bytes for each port of a busy destination.
    pub fn lease_ids(mut self) -> Self {
        self.names = Names::Kept;
        self
    }

    /// Builds the pool.
    ///
    /// # Errors
    ///
    /// [`Error::Sources`] for a text that cannot be understood; [`Error::Config`] for no source at
    /// all, an address that is not local, or ports that are privileged or cannot be bound in the
    /// mode that was asked for; [`Error::Unsupported`] for a mode that this kernel does not have;
    /// [`Error::SharedFile`] for a shared file that cannot be used;
    /// [`Error::Os`] where the kernel refuses something else.
    pub fn build(self) -> Result<Pool, Error> {
        let host = Host::probe(self.mode)?;
        let sources = self.all_sources(&host)?;
        let options: Vec<_> = sources.iter().map(|source| self.options_for(source)).collect();
        for (source, options) in sources.iter().zip(&options) {
            for ports in &source.ports {
                host.check_ports(source.address, *ports)?;
            }
            self.check_privileges(source)?;
            let address = socket_address(source.address, 0, source.scope);
            kernel::check_bindable(address, options)?;
        }
        let random = || kernel::random_seed().map_err(|error| os("getrandom", error));
        let id = u64::from_ne_bytes(std::array::from_fn({
            let bytes = random()?;
            move |index| bytes[index]
        }));
        let seed = Seed::new(id, self.seed.map_or_else(random, Ok)?);
        let ledger = Ledger::new(&sources, self.names, seed.hash_key())?;
        let grounds = Grounds::new(&self.territory, &sources, &ledger, &Monotonic)?;
        let pool = Pool::from_inner(Inner {
            ledger,
            grounds,
            clock: Monotonic,
            seed,
            process: kernel::Watch::new().map_err(|error| os("mmap", error))?,
            id,
            sources,
            options,
            host,
            names: self.names,
            rest_min_ms: self
                .rest_min
                .as_nanos()
                .div_ceil(1_000_000)
                .try_into()
                .unwrap_or(u64::MAX),
            watch: Watch::default(),
            unusable: Mutex::new(None),
            keeper: Mutex::default(),
            finder: kernel::Finder::default(),
        });
        if self.maintenance == Maintenance::ByThread && pool.inner().grounds.is_shared() {
            *pool.inner().keeper.lock() = Some(Keeper::start(pool.inner())?);
        }
        match pool.refresh() {
            // `Pool::refresh` tells whoever asks; a port that somebody listens on costs a try.
            Ok(()) | Err(Error::Unsupported { .. }) => Ok(pool),
            Err(other) => Err(other),
        }
    }

    /// Each address once, with its ports.
    fn all_sources(&self, host: &Host) -> Result<Vec<Source>, Error> {
        let mut all = Vec::new();
        for text in &self.texts {
            all.extend(Sources::parse_with_interfaces(text, kernel::interface_index)?);
        }
        all.extend(self.sources.iter().cloned());
        let mut all: Vec<_> = all.into_iter().collect::<Sources>().into_iter().collect();
        if all.is_empty() {
            return Err(config("no source address: name some with PoolBuilder::sources"));
        }
        let ports = self.ports.map_or_else(|| host.default_ports(), |ports| vec![ports]);
        if ports.is_empty() {
            return Err(config(
                "the kernel has reserved all of net.ipv4.ip_local_port_range: name ports with \
                 PoolBuilder::ports, or choose ModeChoice::ByPort",
            ));
        }
        for source in &mut all {
            if source.ports.is_empty() {
                source.ports.clone_from(&ports);
            }
        }
        Ok(all)
    }

    fn options_for(&self, source: &Source) -> SourceOptions {
        let own = self.options_of.iter().rev().find(|(address, _)| *address == source.address);
        own.map_or(&self.options, |(_, own)| own).clone()
    }

    fn check_privileges(&self, source: &Source) -> Result<(), Error> {
        let low = source.ports.iter().find(|range| range.first() < UNPRIVILEGED_FIRST);
        match (low, self.privileged) {
            (Some(range), PrivilegedPorts::Refuse) => Err(config(format!(
                "source {}: ports {range} begin below {UNPRIVILEGED_FIRST}: start at \
                 {UNPRIVILEGED_FIRST}, or allow them with PoolBuilder::privileged_ports",
                source.address
            ))),
            _ => Ok(()),
        }
    }
}

fn config(problem: impl Into<String>) -> Error {
    Error::Config { problem: problem.into() }
}

fn os(call: &'static str, error: io::Error) -> Error {
    Error::Os { call, source_address: None, destination: None, error }
}
