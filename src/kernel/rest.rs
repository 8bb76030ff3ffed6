//! How long a released four-tuple must rest.

use super::{BindMode, ClosedFirst, mode::read_setting};
use std::io;
use std::net::IpAddr;

/// The settings that decide (`ip-sysctl.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `tcp_tw_reuse`: 0 never, 1 always, 2 loopback only.
    pub(crate) tw_reuse: u8,
    /// `tcp_tw_reuse_delay` in milliseconds, Linux 6.14; one second before.
    pub(crate) tw_reuse_delay_ms: u64,
}

impl Settings {
    /// Reads the settings of the calling thread's network namespace.
    pub(crate) fn read() -> io::Result<Self> {
        let number = |name: &str| {
            let text = read_setting(name)?;
            text.parse::<u64>().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, text))
        };
        let tw_reuse_delay_ms = match number("tcp_tw_reuse_delay") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 1000,
            other => other?,
        };
        Ok(Self { tw_reuse: number("tcp_tw_reuse")? as u8, tw_reuse_delay_ms })
    }
}

/// Whether this host offers timestamps: `net.ipv4.tcp_timestamps`.
pub(crate) fn uses_timestamps() -> io::Result<bool> {
    Ok(read_setting("tcp_timestamps")? != "0")
}

/// `TCP_TIMEWAIT_LEN`, a constant of the kernel.
const TIME_WAIT_MS: u64 = 60_000;

/// Milliseconds from `close` until the kernel accepts the four-tuple again, and at least the
/// user's own minimum.
pub(crate) fn rest_ms(
    mode: BindMode,
    closed: ClosedFirst,
    timestamps: bool,
    settings: Settings,
    loopback: bool,
    user_min_ms: u64,
) -> u64 {
    let kernel_ms = match (closed, mode) {
        (ClosedFirst::Peer | ClosedFirst::Reset, _) => 0,
        (_, _) if !timestamps => TIME_WAIT_MS,
        // The new connection's timestamps protect it from the old one's segments (RFC 6191).
        (_, BindMode::Explicit) => 0,
        (_, BindMode::Late) => match settings.tw_reuse {
            1 => settings.tw_reuse_delay_ms + 1,
            2 if loopback => settings.tw_reuse_delay_ms + 1,
            _ => TIME_WAIT_MS,
        },
    };
    kernel_ms.max(user_min_ms)
}

/// Whether `tcp_tw_reuse` of 2 holds for a destination: 127.0.0.0/8, `::1` and their mapped form.
pub(crate) fn is_loopback_destination(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
