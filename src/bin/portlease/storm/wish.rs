//! What is asked for: the command line with every default filled in.

use super::problem::Problem;
use super::sources;
use crate::args::{By, Mode, StormArgs};
use portlease::{Family, PortRange, Source, Sources, SourcesError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Addresses that no real network has (RFC 2544), for a namespace of our own.
const TARGET_APART: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SOURCE_APART: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Connections without `-n`: one more than there are port numbers, and one for port 0.
const CONNECTIONS: u64 = 65_537;

/// Connections from which on the target accepts nothing.
const DEEP_FROM: u64 = 200_000;

#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// `None`: a target of our own.
    pub(crate) to: Option<SocketAddr>,
    /// Where a target of our own listens.
    pub(crate) target: IpAddr,
    /// Of the destination's family, each with its ranges.
    pub(crate) sources: Vec<Source>,
    pub(crate) work: Work,
    pub(crate) mode: Mode,
    /// A file that others share too.
    pub(crate) shared: Option<PathBuf>,
    /// A target of our own accepts nothing: connections wait in its backlog, for which a namespace
    /// of our own has been set up.
    pub(crate) has_deep_backlog: bool,
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Open so many and hold them.
    Fill { connections: u64 },
    /// Connect and close, at most so many.
    Churn { seconds: u64, limit: u64 },
}

impl Wish {
    /// `kernel_ports`: the range that the kernel chooses from.
    pub(crate) fn new(args: &StormArgs, kernel_ports: PortRange) -> Result<Self, Problem> {
        let sources = sources_of(args, kernel_ports)?;
        if args.by == By::Kernel && args.shared.is_some() {
            return Err(Problem::impossible(
                "the kernel's own choice shares no file",
                "leave --shared out, or choose with --by portlease",
            ));
        }
        let sources = of_one_family(sources, args)?;
        let sources = args.slice.map_or_else(|| sources.clone(), |slice| slice.of(&sources));
        let work = if args.churn {
            Work::Churn { seconds: args.seconds, limit: args.connections.unwrap_or(u64::MAX) }
        } else {
            let all = sources::capacity(&sources);
            let default = if args.compare { all } else { CONNECTIONS };
            Work::Fill { connections: args.connections.unwrap_or(default) }
        };
        let target = match sources.first().map(sources::family) {
            Some(Family::V6) => Ipv6Addr::LOCALHOST.into(),
            _ => Ipv4Addr::LOCALHOST.into(),
        };
        let timeout = Duration::from_secs(args.timeout);
        let shared = args.shared.clone();
        Ok(Self {
            to: args.to,
            target,
            sources,
            work,
            mode: args.mode,
            shared,
            has_deep_backlog: false,
            timeout,
        })
    }

    /// As [`Wish::new`], with the kernel's own range on every source. Where all four-tuples were
    /// wanted, 1 % are left to the others on this host.
    pub(crate) fn settled(args: &StormArgs, kernel_ports: PortRange) -> Result<Self, Problem> {
        let args = StormArgs { ports: Some(kernel_ports), ..args.clone() };
        let mut wish = Self::new(&args, kernel_ports)?.with_ports(kernel_ports);
        if let (Work::Fill { .. }, true, None) = (wish.work, args.compare, args.connections) {
            let all = sources::capacity(&wish.sources);
            wish.work = Work::Fill { connections: all - all.div_ceil(100) };
        }
        Ok(wish)
    }

    /// The backlog of a target that accepts nothing, for so many connections that accepting them
    /// would take dozens of processes and a file for each.
    pub(crate) fn deep_backlog(&self) -> Option<u64> {
        match self.work {
            Work::Fill { connections } if connections >= DEEP_FROM && self.to.is_none() => {
                Some(connections)
            }
            _ => None,
        }
    }

    /// Whether everything stays on the loopback interface.
    pub(crate) fn is_loopback(&self) -> bool {
        self.to.is_none() && self.sources.iter().all(|source| source.address.is_loopback())
    }

    /// The one range that the kernel's choice would need.
    pub(crate) fn range_for_kernel(&self) -> Result<PortRange, Problem> {
        sources::common_range(&self.sources).ok_or_else(|| {
            Problem::impossible(
                "the kernel's own choice has one range of ports for all sources",
                "give --ports instead of ranges in --sources",
            )
        })
    }

    /// The same between two addresses that are not loopback ones, which have to be added to the
    /// namespace: `tcp_tw_reuse` is kinder to loopback addresses than to any other.
    pub(crate) fn off_loopback(&self) -> (Self, [Ipv4Addr; 2]) {
        let mut changed = self.clone();
        changed.target = TARGET_APART.into();
        changed.sources.truncate(1);
        for source in &mut changed.sources {
            source.address = SOURCE_APART.into();
        }
        (changed, [TARGET_APART, SOURCE_APART])
    }

    /// The same with other ports on every source.
    pub(crate) fn with_ports(&self, ports: PortRange) -> Self {
        let mut changed = self.clone();
        for source in &mut changed.sources {
            source.ports = vec![ports];
        }
        changed
    }
}

/// The sources, each with its ranges; the defaults are told in [`StormArgs`].
fn sources_of(args: &StormArgs, kernel_ports: PortRange) -> Result<Vec<Source>, Problem> {
    let whole = PortRange::new(1024, 65_535).expect("a range that is not empty");
    let default = if args.churn {
        PortRange::new(10_000, 12_000)
    } else if args.compare {
        Some(whole)
    } else if args.by == By::Kernel || args.mode == Mode::Late {
        Some(kernel_ports)
    } else {
        None
    };
    let ports = args.ports.or(default);
    let connections = args.connections.unwrap_or(CONNECTIONS);

    if let Some(text) = &args.sources {
        let sources: Sources = text
            .parse()
            .map_err(|bad: SourcesError| Problem::impossible(format!("--sources: {bad}"), ""))?;
        let mut sources: Vec<_> = sources.into_iter().collect();
        let count = sources.iter().filter(|source| source.ports.is_empty()).count() as u64;
        let ports = ports.unwrap_or_else(|| highest_ports(connections, count.max(1)));
        for source in &mut sources {
            if source.ports.is_empty() {
                source.ports = vec![ports];
            }
        }
        return Ok(sources);
    }
    if let Some(to) = args.to.filter(|to| !to.ip().to_canonical().is_loopback()) {
        return Err(Problem::impossible(
            format!("{to} is not on loopback, and no sources are named"),
            "say with --sources which addresses of this host to dial from",
        ));
    }
    if args.to.is_some_and(|to| Family::of(to.ip()) == Family::V6) {
        let ports = ports.unwrap_or_else(|| highest_ports(connections, 1));
        let address = IpAddr::V6(Ipv6Addr::LOCALHOST);
        return Ok(vec![Source { address, scope: 0, ports: vec![ports] }]);
    }
    let count = if args.churn || args.compare && args.connections.is_none() {
        1
    } else {
        with_spare(connections).div_ceil(u64::from(ports.unwrap_or(whole).count()))
    };
    Ok(sources::loopback(count, ports.unwrap_or_else(|| highest_ports(connections, count))))
}

/// The highest ports that give `connections` on `sources` addresses, with some to spare for
/// those that somebody else holds.
fn highest_ports(connections: u64, sources: u64) -> PortRange {
    let count = with_spare(connections).div_ceil(sources).clamp(1, 64_512) as u16;
    PortRange::new(u16::MAX - (count - 1), u16::MAX).expect("at most 64,512 ports")
}

/// 1 % more and some.
fn with_spare(connections: u64) -> u64 {
    connections.saturating_add(connections / 100).saturating_add(50)
}

/// The sources that can reach the destination.
fn of_one_family(sources: Vec<Source>, args: &StormArgs) -> Result<Vec<Source>, Problem> {
    let family = match (args.to, sources.first()) {
        (Some(to), _) => Family::of(to.ip()),
        (None, Some(first)) => sources::family(first),
        (None, None) => Family::V4,
    };
    let fitting: Vec<_> =
        sources.into_iter().filter(|source| sources::family(source) == family).collect();
    if fitting.is_empty() {
        let to = args.to.map_or_else(String::new, |to| format!(" for {to}"));
        return Err(Problem::impossible(
            format!("no {family} source{to}"),
            format!("name {family} addresses with --sources"),
        ));
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn wish(line: &str) -> Result<Wish, Problem> {
        let words = ["portlease", "storm"].into_iter().chain(line.split_whitespace());
        let Command::Storm(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not a storm");
        };
        Wish::new(&args, PortRange::new(32_768, 60_999).unwrap())
    }

    /// Connections, sources, and the range that all have in common.
    fn filled(line: &str) -> (u64, usize, String) {
        let wish = wish(line).unwrap();
        let Work::Fill { connections } = wish.work else { panic!("{line} churns") };
        let range = sources::common_range(&wish.sources).unwrap();
        assert!(connections <= sources::capacity(&wish.sources), "{line}");
        (connections, wish.sources.len(), range.to_string())
    }

    #[test]
    fn defaults_hold_what_is_asked_for_with_some_to_spare() {
        for (line, connections, sources, range) in [
            ("", 65_537, 2, "32415-65535"),
            ("-n 10", 10, 1, "65476-65535"),
            ("-n 64512 --sources 127.0.0.2", 64_512, 1, "1024-65535"),
            ("-n 1000000", 1_000_000, 16, "2407-65535"),
            ("--ports 1024-65535", 65_537, 2, "1024-65535"),
            ("--by kernel", 65_537, 3, "32768-60999"),
            ("--mode late", 65_537, 3, "32768-60999"),
            ("--compare", 64_512, 1, "1024-65535"),
            ("--compare --ports 5000-5999", 1000, 1, "5000-5999"),
            ("--compare --sources 127.0.0.2-127.0.0.3 --ports 5000-5999", 2000, 2, "5000-5999"),
            ("--compare -n 1500 --ports 5000-5999", 1500, 2, "5000-5999"),
            ("--to [::1]:80 -n 100", 100, 1, "65385-65535"),
        ] {
            assert_eq!(filled(line), (connections, sources, range.to_string()), "{line}");
        }
    }

    #[test]
    fn ranges_in_the_sources_stay() {
        let wish = wish("-n 20 --sources 127.0.0.2:5000-5009,127.0.0.3 --ports 7-8").unwrap();
        assert_eq!(sources::capacity(&wish.sources), 12);
        assert!(wish.range_for_kernel().is_err());
        let range = PortRange::new(9, 9).unwrap();
        assert_eq!(wish.with_ports(range).range_for_kernel().unwrap(), range);
    }

    #[test]
    fn churning_ends_by_time_or_number() {
        let work = |line| wish(line).unwrap().work;
        assert_eq!(work("--churn"), Work::Churn { seconds: 5, limit: u64::MAX });
        assert_eq!(work("--churn --seconds 9 -n 3"), Work::Churn { seconds: 9, limit: 3 });
    }

    #[test]
    fn sources_are_of_the_family_of_the_destination() {
        let both = "--sources 127.0.0.2,::1 --ports 5000-5999 -n 9";
        assert_eq!(wish(both).unwrap().target, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(wish(both).unwrap().sources.len(), 1);
        let six = wish(&format!("--to [::1]:80 {both}")).unwrap();
        assert_eq!(six.sources[0].address, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert!(wish("--to [::1]:80 --sources 127.0.0.2").is_err());
        assert!(wish("--to 192.0.2.1:80").is_err());
        assert!(wish("--to 192.0.2.1:80 --sources 192.0.2.2").is_ok());
    }
}
