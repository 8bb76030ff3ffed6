//! How long a released four-tuple must rest before the kernel takes it again.

use super::{BindMode, ClosedFirst, Tcp};

/// `TCP_TIMEWAIT_LEN`, include/net/tcp.h: a constant of the kernel. What it ends by comes later:
/// [`TimeWaitSettings::timer_late_ms`].
pub(crate) const TIME_WAIT_MS: u64 = 60_000;

/// TIME_WAIT begins when the peer's FIN has come, a little after our `close`; and the kernel wants
/// more than `tcp_tw_reuse_delay`, not as much. Measured on loopback: 1.001 s and more.
const AFTER_THE_DELAY_MS: u64 = 5;

/// `net.ipv4.tcp_tw_reuse`, ip-sysctl: whether `connect` may choose a port in TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TwReuse {
    Never,
    Always,
    /// Where source or destination is a loopback address.
    Loopback,
}

/// Whether a connection stays on this host, as the kernel sees it (`tcp_twsk_unique`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Loopback,
    Network,
}

/// What the rest of a TCP four-tuple hangs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Released {
    pub(crate) mode: BindMode,
    pub(crate) tcp: Tcp,
    pub(crate) path: Path,
    pub(crate) settings: TimeWaitSettings,
}

/// The host's settings about TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeWaitSettings {
    pub(crate) tw_reuse: TwReuse,
    /// `net.ipv4.tcp_tw_reuse_delay`, Linux 6.14; one second before.
    pub(crate) tw_reuse_delay_ms: u32,
    /// How much later than [`TIME_WAIT_MS`] the kernel's own timer may end it.
    pub(crate) timer_late_ms: u32,
    /// What this host does: `net.ipv4.tcp_timestamps`.
    pub(crate) timestamps: bool,
}

impl TimeWaitSettings {
    const ALWAYS: u64 = 1;
    const LOOPBACK: u64 = 2;
    const TIMESTAMPS: u64 = 4;
    const LATE_SHIFT: u32 = 8;
    const LATE_MAX: u32 = (1 << 24) - 1;

    /// As one word, to be read and replaced at once.
    pub(super) fn to_bits(self) -> u64 {
        let tw_reuse = match self.tw_reuse {
            TwReuse::Never => 0,
            TwReuse::Always => Self::ALWAYS,
            TwReuse::Loopback => Self::LOOPBACK,
        };
        let timestamps = if self.timestamps { Self::TIMESTAMPS } else { 0 };
        let late = u64::from(self.timer_late_ms.min(Self::LATE_MAX)) << Self::LATE_SHIFT;
        u64::from(self.tw_reuse_delay_ms) << 32 | late | tw_reuse | timestamps
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            tw_reuse: match bits & (Self::ALWAYS | Self::LOOPBACK) {
                0 => TwReuse::Never,
                Self::ALWAYS => TwReuse::Always,
                _ => TwReuse::Loopback,
            },
            tw_reuse_delay_ms: (bits >> 32) as u32,
            timer_late_ms: (bits >> Self::LATE_SHIFT) as u32 & Self::LATE_MAX,
            timestamps: bits & Self::TIMESTAMPS != 0,
        }
    }
}

/// Milliseconds from `close` until the kernel takes the four-tuple again, and no less than
/// `min_ms`:
///
/// | closed first | timestamps | explicit | late |
/// | --- | --- | --- | --- |
/// | by the peer, or reset by either | | 0 | 0 |
/// | by us | on | 0 | `tcp_tw_reuse_delay` if `tcp_tw_reuse` allows it, else 60 s |
/// | by us | off | 60 s | 60 s |
///
/// To both comes what is late: a moment until the peer's FIN is there, and after the 60 s the
/// kernel's timer, by up to two seconds on a host with 250 ticks a second.
///
/// After `tcp_twsk_unique` in net/ipv4/tcp_ipv4.c and RFC 6191. Where the peer has not closed yet,
/// the kernel may hold the four-tuple for longer than this says (FIN_WAIT1 until the peer has
/// acknowledged all, FIN_WAIT2 for `tcp_fin_timeout`); that cannot be known at `close`, and costs
/// a try each second.
pub(crate) fn rest_ms(released: Released, min_ms: u64) -> u64 {
    let Released { mode, tcp, path, settings } = released;
    let may_reuse = match settings.tw_reuse {
        TwReuse::Never => false,
        TwReuse::Always => true,
        TwReuse::Loopback => path == Path::Loopback,
    };
    let kernel_ms = match (tcp.closed, mode) {
        (ClosedFirst::Peer | ClosedFirst::Reset, _) => 0,
        (ClosedFirst::Us | ClosedFirst::Unknown, BindMode::Explicit) if tcp.timestamps => 0,
        (ClosedFirst::Us | ClosedFirst::Unknown, BindMode::Late) if tcp.timestamps && may_reuse => {
            u64::from(settings.tw_reuse_delay_ms) + AFTER_THE_DELAY_MS
        }
        (ClosedFirst::Us | ClosedFirst::Unknown | ClosedFirst::UsWithoutTimestamps, _) => {
            TIME_WAIT_MS + u64::from(settings.timer_late_ms) + AFTER_THE_DELAY_MS
        }
    };
    kernel_ms.max(min_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_as_one_word() {
        for tw_reuse in [TwReuse::Never, TwReuse::Always, TwReuse::Loopback] {
            for timestamps in [true, false] {
                for tw_reuse_delay_ms in [1, 1_000, u32::MAX] {
                    let timer_late_ms = 5_130;
                    let settings =
                        TimeWaitSettings { tw_reuse, tw_reuse_delay_ms, timer_late_ms, timestamps };
                    assert_eq!(TimeWaitSettings::from_bits(settings.to_bits()), settings);
                }
            }
        }
    }

    #[test]
    fn rests_follow_the_kernels_rules() {
        use BindMode::{Explicit, Late};
        use ClosedFirst::{Peer, Reset, Unknown, Us, UsWithoutTimestamps};
        use Path::{Loopback, Network};
        use TwReuse::{Always, Never};
        const ONLY_LOOPBACK: TwReuse = TwReuse::Loopback;
        for (mode, closed, timestamps, tw_reuse, path, expected) in [
            (Explicit, Peer, false, Never, Network, 0),
            (Late, Peer, false, Never, Network, 0),
            (Explicit, Reset, false, Never, Network, 0),
            (Late, Reset, false, Never, Network, 0),
            (Explicit, Us, true, Never, Network, 0),
            (Explicit, Us, true, Always, Loopback, 0),
            (Explicit, Us, false, Always, Loopback, 62_005),
            (Explicit, Unknown, false, Never, Network, 62_005),
            (Late, Us, true, Never, Loopback, 62_005),
            (Late, Us, true, Always, Network, 1_005),
            (Late, Us, true, ONLY_LOOPBACK, Loopback, 1_005),
            (Late, Us, true, ONLY_LOOPBACK, Network, 62_005),
            (Late, Us, false, Always, Loopback, 62_005),
            (Late, Unknown, true, Always, Network, 1_005),
            (Late, UsWithoutTimestamps, true, Always, Loopback, 62_005),
            (Explicit, UsWithoutTimestamps, true, Always, Loopback, 62_005),
        ] {
            let settings = TimeWaitSettings {
                tw_reuse,
                tw_reuse_delay_ms: 1_000,
                timer_late_ms: 2_000,
                timestamps: true,
            };
            let released = Released { mode, tcp: Tcp { closed, timestamps }, path, settings };
            assert_eq!(rest_ms(released, 0), expected, "{released:?}");
            assert_eq!(rest_ms(released, 7_000), expected.max(7_000), "{released:?}");
        }
    }
}
