//! Sources as people write them. The grammar stands at [`Sources`].

use super::port_range::{self, PortRange};
use super::{Joined, Source, Sources};
use crate::SourcesError;
use crate::ledger::tuple::{Family, is_link_local};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// More is a slip of the pen: nobody has configured so many addresses by hand.
const ADDRESSES_MAX: usize = 65_536;
/// The ledger numbers the pairs of address and port in 32 bits, with room to spare.
const PAIRS_MAX: u64 = 1 << 31;

impl FromStr for Sources {
    type Err = SourcesError;

    /// Understands [the text form](Sources#as-text); interfaces by index only, where
    /// [`PoolBuilder::sources`](crate::PoolBuilder::sources) takes their names too.
    fn from_str(text: &str) -> Result<Self, SourcesError> {
        Self::parse_with_interfaces(text, |_| None)
    }
}

impl Sources {
    /// As [`str::parse`], with `index_of` to turn an interface's name into its index: `fe80::1%eth0`.
    ///
    /// The parser itself makes no system call; `if_nametoindex(3)` would be one.
    pub fn parse_with_interfaces(
        text: &str,
        mut index_of: impl FnMut(&str) -> Option<u32>,
    ) -> Result<Self, SourcesError> {
        let mut joined = Joined::default();
        for (offset, part) in parts(text)? {
            let wrong = |problem| SourcesError { part: part.to_owned(), offset, problem };
            let (span, ports) = understand(part, &mut index_of).map_err(wrong)?;
            joined.extend(span.addresses().map(|address| Source {
                address,
                scope: span.scope,
                ports: ports.clone(),
            }));
            within_limits(&joined).map_err(wrong)?;
        }
        Ok(joined.sources())
    }
}

/// The parts and where each begins. An empty part is an error: it may be a variable that was
/// meant to hold an address.
pub(in crate::ledger) fn parts(text: &str) -> Result<Vec<(usize, &str)>, SourcesError> {
    let mut parts = Vec::new();
    let mut start = 0;
    for between_commas in text.split(',') {
        let before = parts.len();
        parts.extend(between_commas.split_whitespace().map(|part| {
            // `part` is a slice of `text`.
            (part.as_ptr() as usize - text.as_ptr() as usize, part)
        }));
        if parts.len() == before {
            let problem = match text.contains(',') {
                true => "nothing before or after a comma: name an address or drop the comma",
                false => "no source: name at least one address",
            };
            let part = between_commas.to_owned();
            return Err(SourcesError { part, offset: start, problem: problem.to_owned() });
        }
        start += between_commas.len() + 1;
    }
    Ok(parts)
}

fn within_limits(joined: &Joined) -> Result<(), String> {
    let (addresses, pairs) = (joined.sources.len(), joined.pairs);
    if addresses > ADDRESSES_MAX {
        return Err(format!(
            "with it there are {addresses} addresses: name at most {ADDRESSES_MAX}"
        ));
    }
    if pairs > PAIRS_MAX {
        return Err(format!(
            "with it there are {pairs} pairs of address and port, at most {PAIRS_MAX} can be: \
             name fewer addresses or fewer ports"
        ));
    }
    Ok(())
}

/// The addresses from `first` to `last`, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Span {
    first: IpAddr,
    last: IpAddr,
    /// 0 where there is none.
    scope: u32,
}

impl Span {
    /// Whether `address` is in it; a scope counts where both have one.
    pub(in crate::ledger) fn contains(&self, address: IpAddr, scope: u32) -> bool {
        Family::of(self.first) == Family::of(address)
            && (self.first..=self.last).contains(&address)
            && (self.scope == scope || [self.scope, scope].contains(&0))
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let family = Family::of(self.first);
        (number(self.first)..=number(self.last)).map(move |n| address(family, n))
    }
}

fn understand(
    part: &str,
    index_of: &mut impl FnMut(&str) -> Option<u32>,
) -> Result<(Span, Vec<PortRange>), String> {
    let (addresses, ports) = cut_ports(part)?;
    let span = span(addresses, index_of)?;
    few_enough(addresses, &span)?;
    may_be_sources(&span)?;
    Ok((span, ports.map_or(Ok(Vec::new()), port_ranges)?))
}

/// As [`understand`], however many addresses that are, and whether or not they can be sources.
pub(in crate::ledger) fn understand_any(part: &str) -> Result<(Span, Vec<PortRange>), String> {
    let (addresses, ports) = cut_ports(part)?;
    Ok((span(addresses, &mut |_| None)?, ports.map_or(Ok(Vec::new()), port_ranges)?))
}

fn span(addresses: &str, index_of: &mut impl FnMut(&str) -> Option<u32>) -> Result<Span, String> {
    match addresses.split_once('/') {
        Some((network, len)) => prefix(network, len, index_of),
        None => range(addresses, index_of),
    }
}

fn few_enough(written: &str, span: &Span) -> Result<(), String> {
    let more = number(span.last) - number(span.first);
    if more < ADDRESSES_MAX as u128 {
        return Ok(());
    }
    let Some((_, len)) = written.split_once('/') else {
        let (count, Span { first, last, .. }) = (more.saturating_add(1), span);
        return Err(format!(
            "from {first} to {last} there are {count} addresses: name at most {ADDRESSES_MAX}"
        ));
    };
    let bits = if written.contains(':') { 128 } else { 32 };
    let host_bits = port_range::decimal(len).map_or(0, |len| bits - len);
    Err(format!(
        "/{len} has 2^{host_bits} addresses: name at most {ADDRESSES_MAX}, a /{} or longer",
        bits - ADDRESSES_MAX.ilog2()
    ))
}

/// The addresses, without brackets, and the text of the ports.
fn cut_ports(part: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(bracketed) = part.strip_prefix('[') {
        let (addresses, rest) = bracketed.split_once(']').ok_or("the bracket is not closed")?;
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((addresses, Some(ports))),
            None if rest.is_empty() => Ok((addresses, None)),
            None => Err(format!(
                "'{rest}' after the bracket: range and prefix stand inside it, then ':' and ports"
            )),
        };
    }
    match part.split_once(':') {
        // An IPv6 address has two colons at least.
        Some((addresses, ports)) if !ports.contains(':') => Ok((addresses, Some(ports))),
        _ => Ok((part, None)),
    }
}

fn port_ranges(text: &str) -> Result<Vec<PortRange>, String> {
    if text.is_empty() {
        return Err("no port after the colon: name ports or drop the colon".to_owned());
    }
    text.split('+').map(port_range::parse).collect()
}

fn prefix(
    network: &str,
    len: &str,
    index_of: &mut impl FnMut(&str) -> Option<u32>,
) -> Result<Span, String> {
    let (written, scope) = scoped(network, index_of)?;
    // The family as written: an IPv4-mapped prefix counts its length in IPv6's bits.
    let (family, bits) = if written.is_ipv4() { (Family::V4, 32_u32) } else { (Family::V6, 128) };
    let host_bits = port_range::decimal(len)
        .and_then(|len| bits.checked_sub(len))
        .ok_or_else(|| format!("'/{len}' is not a prefix length: write 0 to {bits}"))?;
    let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    let network = address(family, number(written) & !hosts);
    if network != written {
        return Err(format!(
            "{written} is one address of the prefix {network}/{len}: write one or the other"
        ));
    }
    let last = address(family, number(written) | hosts);
    one_scope(written.to_canonical(), last.to_canonical(), scope, None)
}

fn range(text: &str, index_of: &mut impl FnMut(&str) -> Option<u32>) -> Result<Span, String> {
    let Some((first, last)) = ends(text) else {
        let (only, scope) = scoped(text, index_of)?;
        let only = only.to_canonical();
        return one_scope(only, only, scope, None);
    };
    let ((first, first_scope), (last, last_scope)) =
        (scoped(first, index_of)?, scoped(last, index_of)?);
    let (first, last) = (first.to_canonical(), last.to_canonical());
    if Family::of(first) != Family::of(last) {
        return Err(format!("from {first} to {last} is from one family to the other"));
    }
    if first > last {
        return Err(format!("it ends before it begins: write {last}-{first}"));
    }
    one_scope(first, last, first_scope, last_scope)
}

/// The two sides of the dash of a range. A dash after `%` may be part of an interface's name.
fn ends(text: &str) -> Option<(&str, &str)> {
    text.match_indices('-').map(|(at, _)| (&text[..at], &text[at + 1..])).find(|(first, last)| {
        let bare = last.split('%').next().unwrap_or(last);
        !first.contains('%') || bare.parse::<IpAddr>().is_ok()
    })
}

/// An address as written, and the scope id if it has one.
fn scoped(
    text: &str,
    index_of: &mut impl FnMut(&str) -> Option<u32>,
) -> Result<(IpAddr, Option<u32>), String> {
    let (bare, zone) = match text.split_once('%') {
        Some((bare, zone)) => (bare, Some(zone)),
        None => (text, None),
    };
    let address = bare.parse::<IpAddr>().map_err(|_| match bare.matches(':').count() {
        0 | 1 => format!("'{bare}' is not an address (both ends of a range are written in full)"),
        _ => format!("'{bare}' is not an address (IPv6 with ports is written [address]:ports)"),
    })?;
    let Some(zone) = zone else { return Ok((address, None)) };
    let index = match zone.parse::<u32>() {
        Ok(index) if port_range::decimal(zone).is_some() => Some(index),
        _ => index_of(zone),
    };
    match index {
        Some(index) if index != 0 => Ok((address, Some(index))),
        _ => Err(format!(
            "'%{zone}' names no interface: write its index, as `ip link` shows it: {bare}%3"
        )),
    }
}

/// The span with the scope that either end names; link-local addresses need one, others can't
/// have one.
fn one_scope(
    first: IpAddr,
    last: IpAddr,
    first_scope: Option<u32>,
    last_scope: Option<u32>,
) -> Result<Span, String> {
    let linked = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if is_link_local(v6));
    let scope = match (first_scope, last_scope) {
        (Some(one), Some(other)) if one != other => {
            return Err(format!("from interface {one} to interface {other}: name one of them"));
        }
        (one, other) => one.or(other),
    };
    match (linked(&first), scope) {
        (one, _) if one != linked(&last) => {
            Err(format!("from {first} to {last} only some are link-local: write two ranges"))
        }
        (true, Some(scope)) => Ok(Span { first, last, scope }),
        (false, None) => Ok(Span { first, last, scope: 0 }),
        (true, None) => Err(format!(
            "{first} is link-local and means nothing without its interface: write {first}%3 with \
             the interface's index, as `ip link` shows it"
        )),
        (false, Some(_)) => {
            Err(format!("{first} is not link-local: write it without an interface"))
        }
    }
}

/// Spans are short, so a forbidden kind that is met inside one is met at an end too.
fn may_be_sources(span: &Span) -> Result<(), String> {
    for end in [span.first, span.last] {
        if end.is_unspecified() {
            return Err(format!("{end} leaves the choice of the source to the kernel: name one"));
        }
        if end.is_multicast() || end == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(format!("{end} is no host's address: nothing can be sent from it"));
        }
    }
    Ok(())
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The inverse of [`number`]; of an IPv4 number the low 32 bits.
fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_run(f, self, self)
    }
}

/// Neighbours that follow each other and have the same ports are written as a range.
impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for run in self.0.chunk_by(follows) {
            f.write_str(comma)?;
            write_run(f, &run[0], &run[run.len() - 1])?;
            comma = ", ";
        }
        Ok(())
    }
}

fn follows(one: &Source, next: &Source) -> bool {
    one.address.is_ipv4() == next.address.is_ipv4()
        && number(one.address).checked_add(1) == Some(number(next.address))
        && one.scope == next.scope
        && one.ports == next.ports
}

fn write_run(f: &mut fmt::Formatter<'_>, first: &Source, last: &Source) -> fmt::Result {
    let bracketed = first.address.is_ipv6() && !first.ports.is_empty();
    if bracketed {
        f.write_str("[")?;
    }
    write!(f, "{}", first.address)?;
    if first.scope != 0 {
        write!(f, "%{}", first.scope)?;
    }
    if first.address != last.address {
        write!(f, "-{}", last.address)?;
    }
    if bracketed {
        f.write_str("]")?;
    }
    for (at, range) in first.ports.iter().enumerate() {
        write!(f, "{}{range}", if at == 0 { ':' } else { '+' })?;
    }
    Ok(())
}
