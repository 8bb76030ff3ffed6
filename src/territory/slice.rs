//! A pinned share of the ports, for a split that is planned: no file, no talk.

use super::Run;
use crate::Error;
use crate::ledger::{Family, PortRange, Slot, Source};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// One of `of` equal shares, written `2/8`. Each source's ports are cut into `of` parts whose
/// sizes differ by one port at most, so each slice has ports on every source (that has as many).
/// The processes of one split name the same sources and ranges, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    number: u32,
    of: u32,
}

impl Slice {
    /// The slice `number` of `of`, counted from 1; `None` if there is no such slice.
    pub fn new(number: u32, of: u32) -> Option<Self> {
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    /// What the slice has of each of `sources`; those of which it has nothing are left out.
    pub fn of(self, sources: &[Source]) -> Vec<Source> {
        let mut slices = Vec::new();
        let mut ordinals = [0; 2];
        for source in sources {
            let ordinal = &mut ordinals[Family::of(source.address) as usize];
            let count = source.ports.iter().map(|range| range.count()).sum();
            let ports = cut(&source.ports, self.part(*ordinal, count));
            *ordinal += 1;
            if !ports.is_empty() {
                slices.push(Source { ports, ..source.clone() });
            }
        }
        slices
    }

    /// What is not in the slice, as runs of slots: at most two to a source.
    pub(super) fn rest_of(self, family: Family, sources: &[Source]) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut first = 0;
        let homes = sources.iter().filter(|source| Family::of(source.address) == family);
        for (ordinal, source) in homes.enumerate() {
            let count: u32 = source.ports.iter().map(|range| range.count()).sum();
            let ours = self.part(ordinal, count);
            for gap in [0..ours.start, ours.end..count] {
                if !gap.is_empty() {
                    runs.push(Run {
                        family,
                        first: Slot(first + gap.start),
                        count: gap.len() as u32,
                    });
                }
            }
            first += count;
        }
        runs
    }

    /// The part moves on by one from source to source, so that no slice has the odd port of all.
    fn part(self, ordinal: usize, count: u32) -> Range<u32> {
        let of = u64::from(self.of);
        let index = (u64::from(self.number - 1) + ordinal as u64) % of;
        let edge = |index: u64| (u64::from(count) * index / of) as u32;
        edge(index)..edge(index + 1)
    }
}

/// The ports at `places` of `ranges`, counted from the lowest.
fn cut(ranges: &[PortRange], places: Range<u32>) -> Vec<PortRange> {
    let mut before = 0;
    let mut parts = Vec::new();
    for range in ranges {
        let (begin, end) = (places.start.max(before), places.end.min(before + range.count()));
        if begin < end {
            let port = |place: u32| range.first() + (place - before) as u16;
            parts.extend(PortRange::new(port(begin), port(end - 1)));
        }
        before += range.count();
    }
    parts
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Slice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text.split_once('/').and_then(|(number, of)| {
            Self::new(number.trim().parse().ok()?, of.trim().parse().ok()?)
        });
        parsed.ok_or_else(|| Error::Config {
            problem: format!(
                "slice '{text}' is none: write it as 2/8, the second of eight, counted from 1"
            ),
        })
    }
}
