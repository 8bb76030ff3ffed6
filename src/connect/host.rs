//! The host's settings as last read, in the form that every bind and every release asks for.

use crate::error::Error;
use crate::kernel::{self, BindMode, ClosedFirst, ModeChoice, PortPolicy, Settings, Tcp};
use crate::ledger::{Destination, Protocol};
use crate::sync::{AtomicU64, Ordering};
use std::io;

/// Reading is one load; settings that change while we run are seen at the next
/// [`refresh`](Host::refresh), and until then cost a verdict, never a wrong lease.
#[derive(Debug)]
pub(super) struct Host {
    choice: ModeChoice,
    /// A bit for each port that is late-bound over TCP.
    late: Box<[AtomicU64]>,
    /// See [`Packed`].
    rest: AtomicU64,
}

/// What decides how long a four-tuple rests, in one word: the delay in milliseconds, above it
/// `tcp_tw_reuse` and whether the host uses timestamps.
struct Packed(u64);

impl Packed {
    const DELAY_BITS: u32 = 32;
    const TIMESTAMPS_BIT: u32 = 40;

    fn new(settings: Settings, timestamps: bool) -> Self {
        let delay_ms = settings.tw_reuse_delay_ms.min(u32::MAX.into());
        let reuse = u64::from(settings.tw_reuse) << Self::DELAY_BITS;
        Self(delay_ms | reuse | u64::from(timestamps) << Self::TIMESTAMPS_BIT)
    }

    fn settings(&self) -> Settings {
        Settings {
            tw_reuse: (self.0 >> Self::DELAY_BITS) as u8,
            tw_reuse_delay_ms: u64::from(self.0 as u32),
        }
    }

    fn timestamps(&self) -> bool {
        self.0 >> Self::TIMESTAMPS_BIT & 1 != 0
    }
}

impl Host {
    /// What `policy` and the host's other settings say.
    pub(super) fn new(choice: ModeChoice, policy: &PortPolicy) -> Result<Self, Error> {
        let host = Self {
            choice,
            late: (0..=u16::MAX / 64).map(|_| AtomicU64::new(0)).collect(),
            rest: AtomicU64::new(0),
        };
        host.store(policy)?;
        Ok(host)
    }

    /// Reads all settings again.
    pub(super) fn refresh(&self) -> Result<(), Error> {
        self.store(&PortPolicy::read().map_err(unreadable)?)
    }

    fn store(&self, policy: &PortPolicy) -> Result<(), Error> {
        let settings = Settings::read().map_err(unreadable)?;
        let timestamps = kernel::uses_timestamps().map_err(unreadable)?;
        for (word, first) in self.late.iter().zip((0..=u16::MAX).step_by(64)) {
            let is_late = |bit: &u16| {
                let mode = policy.mode_of(self.choice, Protocol::Tcp, first + bit);
                mode == Some(BindMode::Late)
            };
            let bits = (0..64).filter(is_late).fold(0, |bits, bit| bits | 1 << bit);
            // Relaxed, as all in here: each word means something by itself.
            word.store(bits, Ordering::Relaxed);
        }
        self.rest.store(Packed::new(settings, timestamps).0, Ordering::Relaxed);
        Ok(())
    }

    /// How a socket gets `port`.
    pub(super) fn mode_of(&self, protocol: Protocol, port: u16) -> BindMode {
        let bits = self.late[usize::from(port / 64)].load(Ordering::Relaxed);
        match protocol {
            Protocol::Tcp if bits >> (port % 64) & 1 != 0 => BindMode::Late,
            _ => BindMode::Explicit,
        }
    }

    /// What is known of a connection when all one knows is who closed it first. Most peers use
    /// timestamps if we do; where one does not, that costs a try with another four-tuple.
    pub(super) fn closed(&self, closed: ClosedFirst) -> Tcp {
        let timestamps = Packed(self.rest.load(Ordering::Relaxed)).timestamps();
        Tcp { closed, timestamps }
    }

    /// Milliseconds that a four-tuple rests from `port` to `to`.
    pub(super) fn rest_ms(&self, to: &Destination, port: u16, tcp: Tcp, min_ms: u64) -> u64 {
        if to.protocol() == Protocol::Udp {
            return min_ms;
        }
        let settings = Packed(self.rest.load(Ordering::Relaxed)).settings();
        let loopback = kernel::is_loopback_destination(to.address().ip());
        let mode = self.mode_of(to.protocol(), port);
        kernel::rest_ms(mode, tcp.closed, tcp.timestamps, settings, loopback, min_ms)
    }
}

fn unreadable(error: io::Error) -> Error {
    Error::Os { call: "read", source_address: None, destination: None, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_packing() {
        for tw_reuse in 0..=2 {
            for tw_reuse_delay_ms in [0, 1000, u64::from(u32::MAX)] {
                for timestamps in [false, true] {
                    let settings = Settings { tw_reuse, tw_reuse_delay_ms };
                    let packed = Packed::new(settings, timestamps);
                    assert_eq!((packed.settings(), packed.timestamps()), (settings, timestamps));
                }
            }
        }
    }

    #[test]
    fn each_port_has_the_mode_that_the_policy_gives_it() {
        let policy = PortPolicy {
            local_range: 32768..=60999,
            reserved: vec![40000..=40000],
            unprivileged_start: 1024,
            late: true,
        };
        for choice in [ModeChoice::ByPort, ModeChoice::Explicit, ModeChoice::Late] {
            let host = Host::new(choice, &policy).unwrap();
            for port in 0..=u16::MAX {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let given = policy.mode_of(choice, protocol, port);
                    let expected = given.unwrap_or(BindMode::Explicit);
                    assert_eq!(host.mode_of(protocol, port), expected, "{protocol} {port}");
                }
            }
        }
    }
}
