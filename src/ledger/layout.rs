//! Slots: all (source, port) pairs of one family, numbered densely in the order of the sources.

use super::sources::Source;
use super::{Slot, SourcePort};
use crate::error::Error;
use std::net::IpAddr;
use std::ops::Range;

/// The most slots that a family may have: 2^31, half of what a slot number can hold.
pub(super) const SLOTS_MAX: u64 = 1 << 31;

/// Slots to a step of the index from slots to spans.
const STEP_SHIFT: u32 = 9;

/// One port range of one source.
#[derive(Clone, Copy, Debug)]
struct Span {
    first_slot: u32,
    source: u32,
    first_port: u16,
}

impl Span {
    /// The port of one of its slots.
    #[inline]
    fn port_of(&self, slot: Slot) -> u16 {
        self.first_port + (slot.0 - self.first_slot) as u16
    }
}

/// The spans of one source.
#[derive(Clone, Debug)]
struct Home {
    address: IpAddr,
    scope: u32,
    source: u32,
    spans: Range<u32>,
}

/// The slots of a source that is on one interface.
#[derive(Clone, Debug)]
pub(super) struct Scoped {
    pub(super) slots: Range<u32>,
    pub(super) scope: u32,
}

/// Which slot stands for which (source, port), both ways.
#[derive(Debug)]
pub(super) struct Layout {
    spans: Vec<Span>,
    /// For each step of slots, the span that holds its first; one more at the end.
    steps: Vec<u32>,
    /// Sorted by address and scope.
    homes: Vec<Home>,
    scoped: Vec<Scoped>,
    capacity: u32,
}

impl Layout {
    /// `sources` with their indices into the whole list; all of one family.
    pub(super) fn new<'a>(sources: impl Iterator<Item = (u32, &'a Source)>) -> Result<Self, Error> {
        let mut spans = Vec::new();
        let mut homes = Vec::new();
        let mut scoped = Vec::new();
        let mut capacity = 0u64;
        for (source, Source { address, scope, ports }) in sources {
            let (first_span, first_slot) = (spans.len() as u32, capacity as u32);
            for range in ports {
                spans.push(Span { first_slot: capacity as u32, source, first_port: range.first() });
                capacity += u64::from(range.count());
                if capacity > SLOTS_MAX {
                    return Err(Error::Config {
                        problem: format!(
                            "more than {SLOTS_MAX} (source, port) pairs with source {address}: \
                             take fewer addresses or ports"
                        ),
                    });
                }
            }
            if *scope != 0 {
                scoped.push(Scoped { slots: first_slot..capacity as u32, scope: *scope });
            }
            homes.push(Home {
                address: *address,
                scope: *scope,
                source,
                spans: first_span..spans.len() as u32,
            });
        }
        homes.sort_by_key(|home| (home.address, home.scope));
        if let Some([twice, _]) = homes
            .windows(2)
            .find(|pair| (pair[0].address, pair[0].scope) == (pair[1].address, pair[1].scope))
        {
            return Err(Error::Config {
                problem: format!("source {} is named twice: join its ranges", twice.address),
            });
        }
        let capacity = capacity as u32;
        let mut steps = Vec::with_capacity((capacity >> STEP_SHIFT) as usize + 2);
        let mut span = 0;
        for first_slot in (0..capacity).step_by(1 << STEP_SHIFT) {
            while spans.get(span + 1).is_some_and(|next: &Span| next.first_slot <= first_slot) {
                span += 1;
            }
            steps.push(span as u32);
        }
        steps.push(spans.len().saturating_sub(1) as u32);
        Ok(Self { spans, steps, homes, scoped, capacity })
    }

    /// All slots, 0 to this exclusive.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The slots of sources that are on one interface alone.
    #[inline]
    pub(super) fn scoped(&self) -> &[Scoped] {
        &self.scoped
    }

    /// What `slot` stands for.
    pub(super) fn source_port(&self, sources: &[Source], slot: Slot) -> SourcePort {
        let span = self.span_of(slot);
        let Source { address, scope, .. } = sources[span.source as usize];
        SourcePort { source: span.source, address, scope, port: span.port_of(slot) }
    }

    /// The port of `slot`.
    #[inline]
    pub(super) fn port(&self, slot: Slot) -> u16 {
        self.span_of(slot).port_of(slot)
    }

    #[inline]
    fn span_of(&self, slot: Slot) -> &Span {
        match self.spans.as_slice() {
            [only] => only,
            spans => {
                let step = (slot.0 >> STEP_SHIFT) as usize;
                let candidates = &spans[self.steps[step] as usize..=self.steps[step + 1] as usize];
                &candidates[candidates.partition_point(|span| span.first_slot <= slot.0) - 1]
            }
        }
    }

    /// The slot of a (source, port), if it is one of ours.
    pub(super) fn slot(&self, address: IpAddr, scope: u32, port: u16) -> Option<Slot> {
        let at = self
            .homes
            .binary_search_by_key(&(address, scope), |home| (home.address, home.scope))
            .ok()?;
        let spans = self.homes[at].spans.clone();
        let of_source = &self.spans[spans.start as usize..spans.end as usize];
        let after = of_source.partition_point(|span| span.first_port <= port);
        let index = spans.start as usize + after.checked_sub(1)?;
        let slot = self.spans[index].first_slot + u32::from(port - self.spans[index].first_port);
        (slot < self.end_of(index)).then_some(Slot(slot))
    }

    /// The slots of one source, by its index in the whole list; empty if it is of the other family.
    pub(super) fn slots_of(&self, source: u32) -> Range<u32> {
        let Some(home) = self.homes.iter().find(|home| home.source == source) else {
            return 0..0;
        };
        if home.spans.is_empty() {
            return 0..0;
        }
        self.spans[home.spans.start as usize].first_slot..self.end_of(home.spans.end as usize - 1)
    }

    fn end_of(&self, span: usize) -> u32 {
        self.spans.get(span + 1).map_or(self.capacity, |next| next.first_slot)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::PortRange;
    use super::*;

    fn source(address: &str, ranges: &[(u16, u16)]) -> Source {
        let ports = ranges.iter().map(|&(a, b)| PortRange::new(a, b).unwrap()).collect();
        Source { address: address.parse().unwrap(), scope: 0, ports }
    }

    #[test]
    fn every_slot_leads_to_its_source_and_back() {
        let mut sources = vec![
            source("10.0.0.9", &[(1024, 65535)]),
            source("10.0.0.2", &[(1, 3), (5, 5), (65535, 65535)]),
            source("10.0.0.1", &[(7, 7)]),
        ];
        for i in 0..700u32 {
            let address = std::net::Ipv4Addr::from(0x0b00_0000 + i).to_string();
            sources.push(source(&address, &[(5, 5 + (i % 3) as u16), (99, 99)]));
        }
        let layout = Layout::new((0..).zip(&sources)).unwrap();
        let capacity: u32 = sources.iter().flat_map(|s| &s.ports).map(PortRange::count).sum();
        assert_eq!(layout.capacity(), capacity);
        for slot in (0..capacity).map(Slot) {
            let at = layout.source_port(&sources, slot);
            assert_eq!(layout.slot(at.address, at.scope, at.port), Some(slot));
            assert!(layout.slots_of(at.source).contains(&slot.0));
            let source = &sources[at.source as usize];
            assert_eq!(source.address, at.address);
            assert!(source.ports.iter().any(|range| range.contains(at.port)));
        }
        assert_eq!(layout.slot("10.0.0.2".parse().unwrap(), 0, 4), None);
        assert_eq!(layout.slot("10.0.0.2".parse().unwrap(), 0, 6), None);
        assert_eq!(layout.slot("10.0.0.1".parse().unwrap(), 0, 6), None);
        assert_eq!(layout.slot("10.0.0.3".parse().unwrap(), 0, 7), None);
    }
}
