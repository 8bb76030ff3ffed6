//! Which port is bound how, and rests how long, by the host's settings.

use super::capabilities::{Capabilities, Capability};
use super::rest::{Path, Released, TimeWaitSettings, rest_ms};
use super::sysctl::Settings;
use super::{BindMode, ClosedFirst, ModeChoice, Tcp};
use crate::error::Error;
use crate::ledger::{Destination, PortRange, Protocol};
use crate::sync::{AtomicU64, Mutex, Ordering};
use std::net::{IpAddr, SocketAddr};

/// The least time between two looks at the settings.
const LOOK_AGAIN_MS: u64 = 1_000;

/// The rules of one pool. The host's settings may change while it lives: what does not fit any more
/// shows as a refused port, and then they are read again.
pub(crate) struct Host {
    choice: ModeChoice,
    /// A bit for each port: set where TCP is bound late.
    late: Box<[AtomicU64]>,
    /// [`TimeWaitSettings`] as one word.
    time_wait: AtomicU64,
    now: Mutex<Capabilities>,
    looked_ms: AtomicU64,
}

impl Host {
    /// # Errors
    ///
    /// [`Error::Unsupported`] where late mode is asked for and this kernel has none.
    pub(crate) fn probe(choice: ModeChoice) -> Result<Self, Error> {
        Self::new(choice, Capabilities::probe(Settings::read()?)?)
    }

    fn new(choice: ModeChoice, capabilities: Capabilities) -> Result<Self, Error> {
        if choice == ModeChoice::Late && capabilities.late_bind() != Capability::Set {
            return Err(Error::Unsupported {
                capability: "late binding (IP_LOCAL_PORT_RANGE)",
                since: "6.3",
            });
        }
        let host = Self {
            choice,
            late: (0..=u16::MAX / 64).map(|_| AtomicU64::new(0)).collect(),
            time_wait: AtomicU64::new(0),
            now: Mutex::new(capabilities),
            looked_ms: AtomicU64::new(0),
        };
        host.go_by(&host.now.lock());
        Ok(host)
    }

    /// Refuses ports that the mode of the caller's choice cannot bind.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] that names the range.
    pub(crate) fn check_ports(&self, address: IpAddr, ports: PortRange) -> Result<(), Error> {
        if self.choice != ModeChoice::Late {
            return Ok(());
        }
        let now = self.now.lock();
        let local = now.settings.local_port_range;
        let problem = if !(local.contains(ports.first()) && local.contains(ports.last())) {
            format!("outside of net.ipv4.ip_local_port_range ({local})")
        } else if let Some(reserved) =
            (ports.first()..=ports.last()).find(|port| now.settings.is_reserved(*port))
        {
            format!("port {reserved} is in net.ipv4.ip_local_reserved_ports")
        } else {
            return Ok(());
        };
        Err(Error::Config {
            problem: format!(
                "source {address}: ports {ports} cannot be bound late: {problem}; choose other \
                 ports, or ModeChoice::ByPort"
            ),
        })
    }

    /// As [`Host::check_ports`], for one port.
    pub(crate) fn check_port(&self, source: SocketAddr) -> Result<(), Error> {
        let port = PortRange::new(source.port(), source.port());
        port.map_or(Ok(()), |port| self.check_ports(source.ip(), port))
    }

    /// All ports that a source has which names none: those that the kernel chooses from, as far as
    /// they can be bound in the mode of the caller's choice.
    pub(crate) fn default_ports(&self) -> Vec<PortRange> {
        let now = self.now.lock();
        let local = now.settings.local_port_range;
        if self.choice != ModeChoice::Late {
            return vec![local];
        }
        let mut ranges: Vec<PortRange> = Vec::new();
        for port in (local.first()..=local.last()).filter(|port| !now.settings.is_reserved(*port)) {
            let joins = ranges.last().filter(|last| last.last() + 1 == port).copied();
            if joins.is_some() {
                ranges.pop();
            }
            ranges.extend(PortRange::new(joins.map_or(port, |last| last.first()), port));
        }
        ranges
    }

    /// `net.ipv4.ip_local_port_range`: the ports that the kernel chooses from.
    pub(crate) fn local_port_range(&self) -> PortRange {
        self.now.lock().settings.local_port_range
    }

    /// How a port is bound now.
    #[inline]
    pub(crate) fn mode_of(&self, protocol: Protocol, port: u16) -> BindMode {
        // Relaxed: a mode that is out of date is met with a refusal.
        let word = self.late[usize::from(port / 64)].load(Ordering::Relaxed);
        match (protocol, word >> (port % 64) & 1) {
            (Protocol::Tcp, 1) => BindMode::Late,
            _ => BindMode::Explicit,
        }
    }

    /// What is known of a connection when all one knows is who closed it first. Most peers use
    /// timestamps if we do; where one does not, that costs a try with another four-tuple.
    pub(crate) fn closed(&self, closed: ClosedFirst) -> Tcp {
        match closed {
            ClosedFirst::UsWithoutTimestamps => Tcp { closed: ClosedFirst::Us, timestamps: false },
            _ => Tcp { closed, timestamps: self.time_wait_settings().timestamps },
        }
    }

    /// How many milliseconds a four-tuple rests after its socket was closed: no less than `min_ms`.
    pub(crate) fn rest_ms(
        &self,
        source: SocketAddr,
        to: &Destination,
        tcp: Tcp,
        min_ms: u64,
    ) -> u64 {
        if to.protocol() == Protocol::Udp {
            return min_ms;
        }
        let released = Released {
            mode: self.mode_of(to.protocol(), source.port()),
            tcp,
            path: path(source, to.address()),
            settings: self.time_wait_settings(),
        };
        rest_ms(released, min_ms)
    }

    fn time_wait_settings(&self) -> TimeWaitSettings {
        // Relaxed: a word of its own.
        TimeWaitSettings::from_bits(self.time_wait.load(Ordering::Relaxed))
    }

    /// Reads the settings again, unless somebody did a moment ago. What cannot be read any more
    /// stays as it was.
    pub(crate) fn look_again(&self, now_ms: u64) {
        // Relaxed, both: only how often the files are read hangs on it.
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let is_old = now_ms >= looked_ms.saturating_add(LOOK_AGAIN_MS);
        let is_ours = is_old
            && self
                .looked_ms
                .compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_ours {
            let _ = self.refresh();
        }
    }

    /// Reads the settings again.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where they cannot be read; they stay as they were.
    pub(crate) fn refresh(&self) -> Result<(), Error> {
        let settings = Settings::read()?;
        let mut now = self.now.lock();
        now.settings = settings;
        self.go_by(&now);
        Ok(())
    }

    /// What the kernel can do, and its settings as last read.
    pub(crate) fn capabilities(&self) -> Capabilities {
        self.now.lock().clone()
    }

    fn go_by(&self, now: &Capabilities) {
        // Relaxed, both here: one word each, and one that is out of date is met with a refusal.
        self.time_wait.store(now.settings.time_wait().to_bits(), Ordering::Relaxed);
        for (index, word) in (0_u32..).zip(&self.late) {
            let bits = (0..64).filter(|bit| {
                let port = u16::try_from(index * 64 + bit).expect("1,024 words have all ports");
                self.is_late(port, now)
            });
            word.store(bits.fold(0, |word, bit| word | 1 << bit), Ordering::Relaxed);
        }
    }

    fn is_late(&self, port: u16, now: &Capabilities) -> bool {
        match self.choice {
            ModeChoice::Explicit => false,
            ModeChoice::Late => true,
            ModeChoice::ByPort => {
                now.late_bind() == Capability::Set
                    && now.settings.local_port_range.contains(port)
                    && !now.settings.is_reserved(port)
            }
        }
    }
}

/// As `tcp_twsk_unique` sees it.
fn path(source: SocketAddr, destination: SocketAddr) -> Path {
    match source.ip().is_loopback() || destination.ip().is_loopback() {
        true => Path::Loopback,
        false => Path::Network,
    }
}
