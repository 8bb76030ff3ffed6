//! The source addresses and the port ranges that may be leased on each.

mod port_range;
#[cfg(test)]
mod tests;
pub(super) mod text;

pub use port_range::PortRange;

use super::tuple::is_link_local;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One source address with the ports that may be leased on it.
///
/// Displayed as [`Sources`] are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address, in canonical form (never IPv4-mapped).
    pub address: IpAddr,
    /// The interface of a link-local IPv6 address, else 0. Such a source serves the link-local
    /// destinations on its interface, and no others (RFC 4007 section 9).
    pub scope: u32,
    /// Sorted ranges that neither overlap nor touch. Empty: the pool's own range.
    pub ports: Vec<PortRange>,
}

/// Source addresses with their ports: each address once, in the order of first mention.
///
/// # As text
///
/// `"10.0.0.2, 10.0.0.8-10.0.0.15, 10.1.0.0/28:2048-4095, [2001:db8::7]:5000-5999"`
///
/// Parts stand between commas or white space. A part is
///
/// | written | means |
/// | --- | --- |
/// | `10.0.0.2`, `2001:db8::7` | one address |
/// | `10.0.0.8-10.0.0.15` | the addresses from one to the other, both included |
/// | `10.1.0.0/28`, `2001:db8::/124` | all addresses of the prefix, first and last too |
/// | `10.0.0.2:5000-5999` | the same with ports; without, an address has the pool's range |
/// | `10.0.0.2:5000-5999+7000` | several ranges of ports, joined by `+` |
/// | `[2001:db8::7]:5000`, `[2001:db8::/124]:5000` | IPv6 with ports is bracketed whole |
/// | `fe80::1%3`, `fe80::%eth0/126` | link-local IPv6 names its interface (RFC 4007 section 11) |
///
/// Without brackets `2001:db8::7:5000` is an address that ends in `5000`. An IPv4-mapped IPv6
/// address is the IPv4 address. All addresses of a prefix means those that a subnet uses for
/// itself too, for they can be bound on loopback and where the prefix is routed to the host;
/// elsewhere, write a range.
///
/// An address that is mentioned more than once has the ports of all mentions together; a mention
/// without ports adds none to one with ports. So `10.0.0.0/28, 10.0.0.8:5000-5999` gives one of
/// 16 addresses ports of its own.
///
/// At most 65,536 addresses and 2^31 pairs of address and port: more is an error.
///
/// ```
/// use portlease::Sources;
///
/// let sources: Sources = "10.0.0.8-10.0.0.15 [2001:db8::7]:5000-5999".parse()?;
/// assert_eq!(sources.len(), 9);
/// assert_eq!(sources.to_string(), "10.0.0.8-10.0.0.15, [2001:db8::7]:5000-5999");
///
/// let wrong = "10.0.0.2, 10.0.0.300".parse::<Sources>().unwrap_err();
/// assert_eq!((wrong.part.as_str(), wrong.offset), ("10.0.0.300", 10));
/// # Ok::<(), portlease::SourcesError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// The sources, in the order of first mention.
    pub fn as_slice(&self) -> &[Source] {
        &self.0
    }

    /// Iterates over the sources.
    pub fn iter(&self) -> std::slice::Iter<'_, Source> {
        self.0.iter()
    }

    /// The number of addresses.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none. Never so for sources that were parsed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Source> for Sources {
    /// Brings the sources into canonical form and joins those of the same address, as
    /// [in text](Sources#as-text), without a limit and without a look at what can be bound.
    fn from_iter<I: IntoIterator<Item = Source>>(sources: I) -> Self {
        let mut joined = Joined::default();
        joined.extend(sources);
        joined.sources()
    }
}

impl IntoIterator for Sources {
    type Item = Source;
    type IntoIter = std::vec::IntoIter<Source>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Sources {
    type Item = &'a Source;
    type IntoIter = std::slice::Iter<'a, Source>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Sources in the making: each address once.
#[derive(Default)]
struct Joined {
    sources: Vec<Source>,
    /// Where each address stands in `sources`.
    places: BTreeMap<(IpAddr, u32), usize>,
    /// The pairs of address and port, as far as the ports are named.
    pairs: u64,
}

impl Joined {
    fn add(&mut self, source: Source) {
        let Source { address, scope, mut ports } = source;
        let address = address.to_canonical();
        let scope = match &address {
            IpAddr::V6(v6) if is_link_local(v6) => scope,
            _ => 0,
        };
        let place = *self.places.entry((address, scope)).or_insert_with(|| {
            self.sources.push(Source { address, scope, ports: Vec::new() });
            self.sources.len() - 1
        });
        let joined = &mut self.sources[place].ports;
        self.pairs -= port_range::count(joined);
        joined.append(&mut ports);
        port_range::normalize(joined);
        self.pairs += port_range::count(joined);
    }

    fn sources(self) -> Sources {
        Sources(self.sources)
    }
}

impl Extend<Source> for Joined {
    fn extend<I: IntoIterator<Item = Source>>(&mut self, sources: I) {
        sources.into_iter().for_each(|source| self.add(source));
    }
}
