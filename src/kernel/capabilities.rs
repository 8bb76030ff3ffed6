//! What this host's kernel can do and how it is set, as values to print.

use super::{PortPolicy, Settings, mode::read_setting, options};
use std::{fmt, io};

/// One capability or setting.
#[derive(Debug)]
pub enum Capability {
    /// The kernel has it, or the setting reads so.
    Set(String),
    /// The kernel lacks it.
    NotSupported,
    /// It could not be found out.
    Error(io::Error),
}

/// What a pool found when it was made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// `IP_LOCAL_PORT_RANGE`, Linux 6.3.
    pub late_bind: Capability,
    /// `IP_FREEBIND`, Linux 2.4.
    pub freebind: Capability,
    /// `net.ipv4.tcp_timestamps`.
    pub timestamps: Capability,
    /// `net.ipv4.tcp_tw_reuse` and its delay.
    pub tw_reuse: Capability,
    /// `net.ipv4.ip_local_port_range`.
    pub local_port_range: Capability,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved_ports: Capability,
}

impl Capabilities {
    /// Asks the kernel, in the calling thread's network namespace.
    pub(crate) fn probe() -> Self {
        let setting = |name| Capability::of(read_setting(name));
        let range = PortPolicy::read()
            .map(|policy| format!("{}-{}", policy.local_range.start(), policy.local_range.end()));
        let reuse = Settings::read()
            .map(|it| format!("{}, after {} ms", it.tw_reuse, it.tw_reuse_delay_ms));
        Self {
            late_bind: Capability::has(options::has_local_port_range()),
            freebind: Capability::has(options::has_freebind()),
            timestamps: setting("tcp_timestamps"),
            tw_reuse: Capability::of(reuse),
            local_port_range: Capability::of(range),
            reserved_ports: setting("ip_local_reserved_ports"),
        }
    }
}

impl Capability {
    fn of(text: io::Result<String>) -> Self {
        text.map_or_else(Self::Error, Self::Set)
    }

    fn has(answer: io::Result<bool>) -> Self {
        match answer {
            Ok(true) => Self::Set("yes".into()),
            Ok(false) => Self::NotSupported,
            Err(error) => Self::Error(error),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(text) if text.is_empty() => f.write_str("none"),
            Self::Set(text) => f.write_str(text),
            Self::NotSupported => f.write_str("not supported"),
            Self::Error(error) => write!(f, "error: {error}"),
        }
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "late bind: {}", self.late_bind)?;
        writeln!(f, "freebind: {}", self.freebind)?;
        writeln!(f, "tcp_timestamps: {}", self.timestamps)?;
        writeln!(f, "tcp_tw_reuse: {}", self.tw_reuse)?;
        writeln!(f, "ip_local_port_range: {}", self.local_port_range)?;
        write!(f, "ip_local_reserved_ports: {}", self.reserved_ports)
    }
}
