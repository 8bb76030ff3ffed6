//! Ranges of ports.

use crate::SourcesError;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A range of ports, inclusive at both ends, never empty, never port 0.
///
/// As text: `5000` or `5000-5999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// The range `first..=last`; `None` if it would be empty or hold port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(&self) -> u16 {
        self.first.get()
    }

    /// The highest port.
    pub fn last(&self) -> u16 {
        self.last.get()
    }

    /// The number of ports, 1 to 65,535.
    pub fn count(&self) -> u32 {
        u32::from(self.last.get()) - u32::from(self.first.get()) + 1
    }

    /// Whether `port` lies in the range.
    pub fn contains(&self, port: u16) -> bool {
        (self.first.get()..=self.last.get()).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.first < self.last {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

impl FromStr for PortRange {
    type Err = SourcesError;

    fn from_str(text: &str) -> Result<Self, SourcesError> {
        parse(text).map_err(|problem| SourcesError { part: text.to_owned(), offset: 0, problem })
    }
}

/// `N` or `N-M`; else what is wrong.
pub(super) fn parse(text: &str) -> Result<PortRange, String> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    PortRange::new(first, last).ok_or_else(|| {
        format!("the ports {first}-{last} end before they begin: write {last}-{first}")
    })
}

fn port(text: &str) -> Result<u16, String> {
    match decimal(text) {
        Some(0) => Err("port 0 asks the kernel to choose: the lowest port is 1".to_owned()),
        Some(number) => {
            u16::try_from(number).map_err(|_| format!("port {text}: the highest is 65535"))
        }
        None => Err(format!("'{text}' is not a port: write a number from 1 to 65535")),
    }
}

/// Digits and nothing else (`str::parse` would take a sign); huge numbers are cut to `u32::MAX`.
pub(super) fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

/// The same ports as sorted ranges that neither overlap nor touch.
pub(super) fn normalize(ranges: &mut Vec<PortRange>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joins = u32::from(next.first.get()) <= u32::from(kept.last.get()) + 1;
        if joins {
            kept.last = kept.last.max(next.last);
        }
        joins
    });
}

/// The number of ports in ranges that do not overlap.
pub(super) fn count(ranges: &[PortRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count())).sum()
}
