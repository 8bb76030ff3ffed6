//! The sources of a storm: how many four-tuples they give, and how they are cut.

use portlease::{Family, PortRange, Source};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

/// The first `count` loopback addresses from 127.0.0.2 on.
pub(crate) fn loopback(count: u64, ports: PortRange) -> Vec<Source> {
    let first = u64::from(u32::from(Ipv4Addr::new(127, 0, 0, 2)));
    let last = u64::from(u32::from(Ipv4Addr::new(127, 255, 255, 254)));
    (first..=last)
        .take(count as usize)
        .map(|bits| Source {
            address: IpAddr::V4(Ipv4Addr::from(bits as u32)),
            scope: 0,
            ports: vec![ports],
        })
        .collect()
}

/// Four-tuples towards one destination.
pub(crate) fn capacity(sources: &[Source]) -> u64 {
    sources.iter().map(|source| u64::from(ports(source))).sum()
}

/// The range that all sources have in common, where all have just that.
pub(crate) fn common_range(sources: &[Source]) -> Option<PortRange> {
    let (first, rest) = sources.split_first()?;
    match first.ports.as_slice() {
        &[range] if rest.iter().all(|source| source.ports == first.ports) => Some(range),
        _ => None,
    }
}

pub(crate) fn family(source: &Source) -> Family {
    Family::of(source.address)
}

/// Part `number` of `parts` that together hold every port of every source once. Each part has
/// its share of every source, so parts that fill evenly fill the whole evenly.
pub(crate) fn slice(sources: &[Source], number: u64, parts: u64) -> Vec<Source> {
    sources
        .iter()
        .filter_map(|source| {
            let count = u64::from(ports(source));
            let (from, to) = (count * number / parts, count * (number + 1) / parts);
            let ports = cut(&source.ports, from as u32, to as u32);
            (!ports.is_empty()).then(|| Source { ports, ..source.clone() })
        })
        .collect()
}

/// The addresses with port 0, beginning with number `first`.
pub(crate) fn addresses(sources: &[Source], first: usize) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = sources
        .iter()
        .map(|source| match source.address {
            IpAddr::V4(address) => SocketAddr::from((address, 0)),
            IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, source.scope).into(),
        })
        .collect();
    addresses.rotate_left(first % sources.len());
    addresses
}

/// The sources for a reader: how many, from where to where, with which ports.
pub(crate) fn describe(sources: &[Source]) -> String {
    let names = match sources {
        [] => return "no source".to_string(),
        [one] => format!("1 source ({})", one.address),
        [first, .., last] => {
            format!("{} sources ({} to {})", sources.len(), first.address, last.address)
        }
    };
    match common_range(sources) {
        Some(range) => format!("{names} with ports {range}"),
        None => format!("{names} with {} ports in all", capacity(sources)),
    }
}

fn ports(source: &Source) -> u32 {
    source.ports.iter().map(PortRange::count).sum()
}

/// The ports at the places `from..to` of `ranges`, counted from the lowest.
fn cut(ranges: &[PortRange], from: u32, to: u32) -> Vec<PortRange> {
    let mut before = 0;
    let mut parts = Vec::new();
    for range in ranges {
        let (begin, end) = (from.max(before), to.min(before + range.count()));
        if begin < end {
            let port = |place: u32| range.first() + (place - before) as u16;
            parts.extend(PortRange::new(port(begin), port(end - 1)));
        }
        before += range.count();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn loopback_addresses_count_up_from_the_second() {
        let sources = loopback(300, range(1, 2));
        assert_eq!(sources[0].address.to_string(), "127.0.0.2");
        assert_eq!(sources[299].address.to_string(), "127.0.1.45");
        assert_eq!(capacity(&sources), 600);
        assert_eq!(common_range(&sources), Some(range(1, 2)));
    }

    #[test]
    fn slices_hold_every_port_of_every_source_once() {
        let mut sources = loopback(3, range(65_000, 65_535));
        sources[1].ports = vec![range(7, 7), range(100, 149), range(65_535, 65_535)];
        for parts in [1, 2, 3, 7, 52] {
            let mut seen = Vec::new();
            for number in 0..parts {
                for source in slice(&sources, number, parts) {
                    for range in &source.ports {
                        seen.extend(
                            (range.first()..=range.last()).map(|port| (source.address, port)),
                        );
                    }
                }
            }
            assert_eq!(seen.len() as u64, capacity(&sources), "{parts} parts");
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len() as u64, capacity(&sources), "{parts} parts");
        }
    }
}
