//! The target of our own: one listener, and processes that accept from it in turn.

use super::limits::Limits;
use super::plan::Plan;
use super::problem::Problem;
use super::process::{Crew, Id, News};
use super::report::thousands;
use super::run::died;
use super::target;
use super::wire::Event;
use super::wish::{Wish, Work};
use portlease::PortRange;
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long it may take to accept what is open already.
const HELD_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks at a backlog.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where connections lead, and who holds the other end.
pub(crate) struct Targets {
    address: SocketAddr,
    /// `None`: the target is somebody else's.
    listener: Option<Socket>,
    /// Connections wait in the listener's backlog, and the kernel counts them.
    has_deep_backlog: bool,
    /// What each process holds that has not been started.
    waiting: VecDeque<u64>,
    /// Each process and what it has said to hold.
    started: Vec<(Id, u64)>,
    /// What the started ones hold when they are full.
    room: u64,
}

impl Targets {
    pub(crate) fn new(wish: &Wish, plan: &Plan) -> Result<Self, Problem> {
        let (address, listener) = match wish.to {
            Some(address) => (address, None),
            None => {
                let ports = target_ports(wish, Limits::read().kernel_ports);
                let (address, listener) = target::listen(wish.target, ports).map_err(no_target)?;
                (address, Some(listener))
            }
        };
        let waiting = plan.targets.iter().copied().collect();
        let has_deep_backlog = wish.has_deep_backlog;
        Ok(Self { address, listener, has_deep_backlog, waiting, started: Vec::new(), room: 0 })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts processes until `connections` have a place: few at a time, because each that
    /// accepts is woken by every dial.
    pub(crate) fn make_room(
        &mut self,
        crew: &mut Crew<'_>,
        work: Work,
        connections: u64,
    ) -> Result<(), Problem> {
        let Some(listener) = &self.listener else { return Ok(()) };
        while self.room < connections {
            let Some(count) = self.waiting.pop_front() else { break };
            let mut arguments = vec!["storm-target".to_string()];
            if let Work::Fill { .. } = work {
                arguments.extend(["--hold".to_string(), count.to_string()]);
            }
            let input = listener.try_clone().map_err(no_target)?;
            self.started.push((crew.start(&arguments, Some(input.into()))?, 0));
            self.room += count;
        }
        Ok(())
    }

    pub(crate) fn set_held(&mut self, target: Id, count: u64) {
        for (id, held) in &mut self.started {
            if *id == target {
                *held = count;
            }
        }
    }

    /// Connections that have been accepted or wait for it; `None` if the target is not ours.
    pub(crate) fn held(&self) -> Option<u64> {
        if self.has_deep_backlog {
            return target::waiting(self.address);
        }
        self.listener.as_ref().map(|_| self.started.iter().map(|(_, held)| held).sum())
    }

    /// Waits until all that is open has been accepted.
    pub(crate) fn wait_for(&mut self, crew: &mut Crew<'_>, opened: u64) -> Result<(), Problem> {
        let end = Instant::now() + HELD_WITHIN;
        while self.held().is_some_and(|held| held < opened) {
            if Instant::now() >= end {
                return Err(Problem::failed(
                    format!(
                        "the target has accepted {} of {} connections",
                        thousands(self.held().unwrap_or(0)),
                        thousands(opened)
                    ),
                    "raise the sysctl net.core.somaxconn",
                ));
            }
            match crew.wait_until(end.min(Instant::now() + LOOK_EVERY))? {
                Some((id, News::Said(Event::Held { count }))) => self.set_held(id, count),
                Some((_, News::Gone)) => return Err(died()),
                Some((_, News::Said(_))) | None => {}
            }
        }
        Ok(())
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = Id> {
        self.started.iter().map(|(id, _)| *id)
    }
}

fn no_target(error: io::Error) -> Problem {
    Problem::failed(format!("no target of our own: {error}"), "name one with --to")
}

/// Ports for a target that take nothing from the sources: outside their ranges and the
/// kernel's, else privileged ones, else any.
fn target_ports(wish: &Wish, kernel_ports: PortRange) -> impl Iterator<Item = u16> {
    let mut ranges: Vec<_> =
        wish.sources.iter().flat_map(|source| source.ports.iter().copied()).collect();
    ranges.push(kernel_ports);
    ranges.sort_unstable();
    ranges.dedup();
    let is_free = move |port: &u16| !ranges.iter().any(|range| range.contains(*port));
    (1024..=u16::MAX).filter(is_free).take(100).chain((900..1024).rev()).chain([0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Mode;
    use crate::storm::sources;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn first_port(first: u16, last: u16) -> u16 {
        let range = |first, last| PortRange::new(first, last).unwrap();
        let wish = Wish {
            to: None,
            target: Ipv4Addr::LOCALHOST.into(),
            sources: sources::loopback(2, range(first, last)),
            work: Work::Fill { connections: 1 },
            mode: Mode::ByPort,
            shared: None,
            has_deep_backlog: false,
            timeout: Duration::from_secs(1),
        };
        target_ports(&wish, range(32_768, 60_999)).next().unwrap()
    }

    #[test]
    fn target_takes_no_port_of_the_sources() {
        assert_eq!(first_port(40_000, 65_535), 1024);
        assert_eq!(first_port(1024, 32_767), 61_000);
        assert_eq!(first_port(1024, 65_535), 1023);
    }
}
