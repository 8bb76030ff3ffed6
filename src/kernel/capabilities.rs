//! What the kernel of this host can do.

use super::connect::stream_socket;
use super::options::{self, SourceOptions};
use super::sysctl::Settings;
use crate::error::Error;
use crate::ledger::{Family, PortRange};
use socket2::Socket;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Whether the kernel lets us have an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// It could be set.
    Set,
    /// This kernel does not know it.
    NotSupported,
    /// The kernel knows it and refuses it, with this errno; mostly `EPERM`.
    Refused(i32),
}

impl Capability {
    fn of(result: io::Result<()>) -> Self {
        match result.map_err(|error| error.raw_os_error()) {
            Ok(()) => Self::Set,
            Err(Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Self::NotSupported,
            Err(errno) => Self::Refused(errno.unwrap_or(0)),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set => f.write_str("yes"),
            Self::NotSupported => f.write_str("not in this kernel"),
            Self::Refused(errno) => write!(f, "refused: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// What the kernel of this host can do for a pool, and the settings that it goes by.
///
/// Shown, it is a list for people: one line each, the option and its state.
#[derive(Clone, Debug)]
pub struct Capabilities {
    options: Vec<(&'static str, Capability)>,
    pub(super) settings: Settings,
}

const LATE: &str = "IP_LOCAL_PORT_RANGE";

impl Capabilities {
    /// Tries each option on a socket of its own.
    pub(super) fn probe(settings: Settings) -> Result<Self, Error> {
        let attempt = |set: &dyn Fn(&Socket) -> io::Result<()>| {
            let socket = stream_socket(Family::V4, false).map_err(no_socket)?;
            Ok::<_, Error>(Capability::of(set(&socket)))
        };
        let own = |options: SourceOptions| {
            let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            attempt(&move |socket| options.apply(socket, source).map_err(|refused| refused.error))
        };
        let port = settings.local_port_range.first();
        let options = vec![
            ("IP_BIND_ADDRESS_NO_PORT", attempt(&options::set_bind_address_no_port)?),
            (LATE, attempt(&|socket| options::set_local_port(socket, port))?),
            ("SO_REUSEPORT", attempt(&|socket| socket.set_reuse_port(true))?),
            ("IP_FREEBIND", own(SourceOptions::new().freebind())?),
            ("IP_TRANSPARENT", own(SourceOptions::new().transparent())?),
            ("SO_BINDTODEVICE", own(SourceOptions::new().device("lo"))?),
            ("SO_MARK", own(SourceOptions::new().mark(1))?),
        ];
        Ok(Self { options, settings })
    }

    /// Whether ports can be bound late ([`BindMode::Late`](crate::BindMode::Late)).
    pub fn late_bind(&self) -> Capability {
        let found = self.options.iter().find(|(name, _)| *name == LATE);
        found.map_or(Capability::NotSupported, |(_, capability)| *capability)
    }

    /// Each option that was tried, by its name, and what the kernel said.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, Capability)> + '_ {
        self.options.iter().copied()
    }

    /// `net.ipv4.ip_local_port_range`.
    pub fn local_port_range(&self) -> PortRange {
        self.settings.local_port_range
    }
}

fn no_socket(error: io::Error) -> Error {
    Error::Os { call: "socket", source_address: None, destination: None, error }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, capability) in &self.options {
            writeln!(f, "{name}: {capability}")?;
        }
        let Settings { local_port_range, reserved_ports, .. } = &self.settings;
        writeln!(f, "net.ipv4.ip_local_port_range: {local_port_range}")?;
        let reserved: Vec<_> = reserved_ports.iter().map(ToString::to_string).collect();
        let reserved = if reserved.is_empty() { "none".to_owned() } else { reserved.join(",") };
        write!(f, "net.ipv4.ip_local_reserved_ports: {reserved}")?;
        for (name, value) in [
            ("ip_unprivileged_port_start", self.settings.unprivileged_port_start),
            ("tcp_tw_reuse", self.settings.tw_reuse),
            ("tcp_tw_reuse_delay", self.settings.tw_reuse_delay_ms),
            ("tcp_timestamps", self.settings.timestamps),
            ("tcp_fin_timeout", self.settings.fin_timeout_s),
        ] {
            match value {
                Some(value) => write!(f, "\nnet.ipv4.{name}: {value}")?,
                None => write!(f, "\nnet.ipv4.{name}: not in this kernel")?,
            }
        }
        Ok(())
    }
}
