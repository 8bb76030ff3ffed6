//! The host's settings, as `/proc/sys/net/ipv4` has them for this network namespace; they count
//! for IPv6 as well (ip-sysctl in the kernel's documentation).

use super::clock::timer_late_ms;
use super::rest::{TIME_WAIT_MS, TimeWaitSettings, TwReuse};
use crate::error::Error;
use crate::ledger::PortRange;
use std::fs;

/// What the settings were at one moment. `None`: this kernel does not have it, or does not show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) local_port_range: PortRange,
    pub(super) reserved_ports: Vec<PortRange>,
    pub(super) unprivileged_port_start: Option<u32>,
    pub(super) tw_reuse: Option<u32>,
    pub(super) tw_reuse_delay_ms: Option<u32>,
    pub(super) timestamps: Option<u32>,
    pub(super) fin_timeout_s: Option<u32>,
}

/// How long `tcp_tw_reuse` waited before `tcp_tw_reuse_delay` could say it.
const TW_REUSE_DELAY_MS: u32 = 1_000;

impl Settings {
    /// # Errors
    ///
    /// [`Error::Config`] where the local port range cannot be read.
    pub(super) fn read() -> Result<Self, Error> {
        const RANGE: &str = "ip_local_port_range";
        let unreadable = |what: String| Error::Config {
            problem: format!("{}: {what}: it takes a /proc of this network namespace", path(RANGE)),
        };
        let text =
            fs::read_to_string(path(RANGE)).map_err(|error| unreadable(error.to_string()))?;
        let local_port_range = port_range(&text)
            .ok_or_else(|| unreadable(format!("'{}' is no range", text.trim())))?;
        let number = |name| fs::read_to_string(path(name)).ok()?.trim().parse().ok();
        Ok(Self {
            local_port_range,
            reserved_ports: fs::read_to_string(path("ip_local_reserved_ports"))
                .map(|text| port_ranges(&text))
                .unwrap_or_default(),
            unprivileged_port_start: number("ip_unprivileged_port_start"),
            tw_reuse: number("tcp_tw_reuse"),
            tw_reuse_delay_ms: number("tcp_tw_reuse_delay"),
            timestamps: number("tcp_timestamps"),
            fin_timeout_s: number("tcp_fin_timeout"),
        })
    }

    pub(super) fn time_wait(&self) -> TimeWaitSettings {
        TimeWaitSettings {
            tw_reuse: match self.tw_reuse {
                Some(1) => TwReuse::Always,
                Some(2) => TwReuse::Loopback,
                _ => TwReuse::Never,
            },
            tw_reuse_delay_ms: self.tw_reuse_delay_ms.unwrap_or(TW_REUSE_DELAY_MS),
            timer_late_ms: timer_late_ms(TIME_WAIT_MS),
            timestamps: self.timestamps.is_some_and(|timestamps| timestamps != 0),
        }
    }

    pub(super) fn is_reserved(&self, port: u16) -> bool {
        self.reserved_ports.iter().any(|range| range.contains(port))
    }
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/ipv4/{name}")
}

/// Two numbers, as `ip_local_port_range` has them.
fn port_range(text: &str) -> Option<PortRange> {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse::<u16>().ok());
    // The kernel lets port 0 be the first, and never chooses it.
    PortRange::new(words.next()??.max(1), words.next()??)
}

/// A list as `ip_local_reserved_ports` has it: `8080,9148-9150`.
fn port_ranges(text: &str) -> Vec<PortRange> {
    let parts = text.trim().split(',');
    parts
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            PortRange::new(first.parse::<u16>().ok()?.max(1), last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ports_are_read_as_the_kernel_writes_them() {
        let range = |first, last| PortRange::new(first, last).unwrap();
        assert_eq!(port_range("32768\t60999\n"), Some(range(32768, 60999)));
        assert_eq!(port_range("0 60999"), Some(range(1, 60999)));
        assert_eq!(port_range("1024"), None);
        assert_eq!(port_ranges("\n"), []);
        assert_eq!(port_ranges("8080,9148-9150\n"), [range(8080, 8080), range(9148, 9150)]);
    }
}
