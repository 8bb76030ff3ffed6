//! Which bind mode a port takes, from the namespace's own settings.

use crate::ledger::Protocol;
use std::io;
use std::ops::RangeInclusive;

/// How a socket gets its source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindMode {
    /// `SO_REUSEADDR` and `bind(address, port)`.
    Explicit,
    /// `IP_BIND_ADDRESS_NO_PORT` and `IP_LOCAL_PORT_RANGE` of one port: the kernel takes the port
    /// in `connect` (Linux 6.3, TCP only).
    Late,
}

/// Who chooses the bind mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModeChoice {
    /// The port: late inside `ip_local_port_range` and not reserved, else explicit.
    #[default]
    ByPort,
    /// Explicit everywhere.
    Explicit,
    /// Late everywhere; ports that cannot be late-bound cannot be leased.
    Late,
}

/// A snapshot of this namespace's port settings (`ip-sysctl.rst`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortPolicy {
    pub(crate) local_range: RangeInclusive<u16>,
    pub(crate) reserved: Vec<RangeInclusive<u16>>,
    /// Ports below need `CAP_NET_BIND_SERVICE`.
    pub(crate) unprivileged_start: u16,
    /// Whether the kernel has `IP_LOCAL_PORT_RANGE`.
    pub(crate) late: bool,
}

impl PortPolicy {
    /// Reads the settings of the calling thread's network namespace.
    pub(crate) fn read() -> io::Result<Self> {
        let local = read_setting("ip_local_port_range")?;
        let mut bounds = local.split_whitespace().map(str::parse::<u16>);
        let (Some(Ok(first)), Some(Ok(last))) = (bounds.next(), bounds.next()) else {
            return Err(malformed("ip_local_port_range", &local));
        };
        let reserved = read_setting("ip_local_reserved_ports")?;
        let start = read_setting("ip_unprivileged_port_start")?;
        Ok(Self {
            local_range: first..=last,
            reserved: parse_ranges(&reserved)
                .ok_or_else(|| malformed("ip_local_reserved_ports", &reserved))?,
            unprivileged_start: start
                .parse()
                .map_err(|_| malformed("ip_unprivileged_port_start", &start))?,
            late: super::options::has_local_port_range()?,
        })
    }

    /// The bind mode of a port; `None`: `choice` is [`ModeChoice::Late`], and the port is outside
    /// `ip_local_port_range` or reserved, or the socket cannot be late-bound at all.
    pub(crate) fn mode_of(
        &self,
        choice: ModeChoice,
        protocol: Protocol,
        port: u16,
    ) -> Option<BindMode> {
        let late = self.late && protocol == Protocol::Tcp && self.is_automatic(port);
        match (choice, late) {
            (ModeChoice::ByPort | ModeChoice::Late, true) => Some(BindMode::Late),
            (ModeChoice::ByPort | ModeChoice::Explicit, _) => Some(BindMode::Explicit),
            (ModeChoice::Late, false) if protocol == Protocol::Udp => Some(BindMode::Explicit),
            (ModeChoice::Late, false) => None,
        }
    }

    /// Whether the kernel may choose the port by itself.
    fn is_automatic(&self, port: u16) -> bool {
        self.local_range.contains(&port) && !self.reserved.iter().any(|range| range.contains(&port))
    }
}

/// The text of `net.ipv4.NAME`, which governs IPv6 too.
pub(super) fn read_setting(name: &str) -> io::Result<String> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    Ok(text.trim().to_owned())
}

fn malformed(name: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("net.ipv4.{name} reads '{text}'"))
}

/// `8080,9000-9010` as the kernel prints it; empty text is no range.
fn parse_ranges(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(late: bool) -> PortPolicy {
        PortPolicy {
            local_range: 32768..=60999,
            reserved: vec![40000..=40000, 50000..=50010],
            unprivileged_start: 1024,
            late,
        }
    }

    #[test]
    fn a_port_names_its_mode() {
        use BindMode::{Explicit, Late};
        let table = [
            (1024, Some(Explicit), None),
            (32767, Some(Explicit), None),
            (32768, Some(Late), Some(Late)),
            (40000, Some(Explicit), None),
            (50010, Some(Explicit), None),
            (50011, Some(Late), Some(Late)),
            (60999, Some(Late), Some(Late)),
            (61000, Some(Explicit), None),
        ];
        for (port, by_port, late) in table {
            let mode = |choice| policy(true).mode_of(choice, Protocol::Tcp, port);
            assert_eq!(mode(ModeChoice::ByPort), by_port, "{port}");
            assert_eq!(mode(ModeChoice::Late), late, "{port}");
            assert_eq!(mode(ModeChoice::Explicit), Some(Explicit), "{port}");
        }
    }

    #[test]
    fn an_old_kernel_and_udp_bind_explicitly() {
        let old = policy(false);
        assert_eq!(old.mode_of(ModeChoice::ByPort, Protocol::Tcp, 33000), Some(BindMode::Explicit));
        assert_eq!(old.mode_of(ModeChoice::Late, Protocol::Tcp, 33000), None);
        assert_eq!(
            policy(true).mode_of(ModeChoice::ByPort, Protocol::Udp, 33000),
            Some(BindMode::Explicit)
        );
    }

    #[test]
    fn reserved_ports_parse_as_the_kernel_prints_them() {
        assert_eq!(parse_ranges(""), Some(vec![]));
        assert_eq!(parse_ranges("8080,9000-9010"), Some(vec![8080..=8080, 9000..=9010]));
        assert_eq!(parse_ranges("80-"), None);
    }
}
