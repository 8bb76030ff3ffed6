//! Which destinations something is about.

use super::sources::{PortRange, text};
use super::tuple::{canonical, scope_of};
use crate::SourcesError;
use std::net::SocketAddr;
use std::str::FromStr;

/// A set of destinations, as people write it: addresses, ranges and prefixes, each with ports of
/// its own if you like.
///
/// Parts are written as those of [`Sources`](crate::Sources#as-text); without ports one means all.
/// Prefixes of any length may be named.
///
/// ```
/// use portlease::Destinations;
///
/// let inside: Destinations = "127.0.0.0/8, 10.0.0.0/8:5432+6379, ::1".parse()?;
/// assert!(inside.contains("10.7.0.1:6379".parse().unwrap()));
/// assert!(!inside.contains("10.7.0.1:443".parse().unwrap()));
/// # Ok::<(), portlease::SourcesError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations(Vec<(text::Span, Vec<PortRange>)>);

impl Destinations {
    /// Whether `destination` is one of them.
    pub fn contains(&self, destination: SocketAddr) -> bool {
        let to = canonical(destination);
        self.0.iter().any(|(span, ports)| {
            let has_port = ports.is_empty() || ports.iter().any(|range| range.contains(to.port()));
            has_port && span.contains(to.ip(), scope_of(to))
        })
    }
}

impl FromStr for Destinations {
    type Err = SourcesError;

    fn from_str(text: &str) -> Result<Self, SourcesError> {
        let understand = |(offset, part): (usize, &str)| {
            let wrong = |problem| SourcesError { part: part.to_owned(), offset, problem };
            text::understand_any(part).map_err(wrong)
        };
        text::parts(text)?.into_iter().map(understand).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::Destinations;

    #[test]
    fn addresses_prefixes_and_ports_are_told_apart() {
        let set =
            "10.0.0.0/8:443+8000-8999, 127.0.0.0/8, [2001:db8::/32]:53, ::1, 192.0.2.1-192.0.2.9";
        let set: Destinations = set.parse().unwrap();
        for (destination, expected) in [
            ("10.255.0.1:443", true),
            ("10.255.0.1:8999", true),
            ("10.255.0.1:80", false),
            ("11.0.0.1:443", false),
            ("127.255.255.255:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[2001:db8:ffff::1]:53", true),
            ("[2001:db9::1]:53", false),
            ("[::1]:9", true),
            ("[::2]:9", false),
            ("192.0.2.9:9", true),
            ("192.0.2.10:9", false),
        ] {
            assert_eq!(set.contains(destination.parse().unwrap()), expected, "{destination}");
        }
        let all: Destinations = "0.0.0.0/0, ::/0".parse().unwrap();
        assert!(all.contains("192.0.2.1:1".parse().unwrap()));
        assert!(all.contains("[ffff::1]:1".parse().unwrap()));
        assert!(!Destinations::default().contains("192.0.2.1:1".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_understood_is_named_with_its_place() {
        for (text, offset) in [("10.0.0.1,, ::1", 9), ("::1, 10.0.0.1/8", 5), ("::1:x-y, 7", 0)] {
            assert_eq!(text.parse::<Destinations>().unwrap_err().offset, offset, "{text}");
        }
    }
}
