//! What can never be leased towards one destination, whatever is free.

use super::Side;
use crate::ledger::key::Key;
use crate::ledger::layout::{Layout, Scoped};
use crate::ledger::tuple::scope_of;
use crate::ledger::{Destination, Slot};
use std::ops::Range;

/// The slots that no lease towards one destination can have: its own address and port, which would
/// connect it to itself, and those of sources on other interfaces.
#[derive(Clone, Copy, Debug)]
pub(in crate::ledger) struct Barred<'a> {
    layout: &'a Layout,
    to: &'a Destination,
}

impl<'a> Barred<'a> {
    #[inline]
    pub(in crate::ledger) fn has(&self, slot: u32) -> bool {
        // Nearly always told by two looks.
        self.layout.port(Slot(slot)) == self.to.port() && self.own() == Some(slot)
            || !self.layout.scoped().is_empty() && self.is_elsewhere(slot)
    }

    #[inline(never)]
    fn is_elsewhere(&self, slot: u32) -> bool {
        self.elsewhere().any(|at| at.slots.contains(&slot))
    }

    #[inline(never)]
    fn own(&self) -> Option<u32> {
        let address = self.to.address();
        let slot = self.layout.slot(address.ip(), scope_of(address), address.port());
        slot.map(|slot| slot.0)
    }

    /// The sources on other interfaces. A destination without one is on none.
    fn elsewhere(&self) -> impl Iterator<Item = &'a Scoped> + use<'a> {
        let scope = scope_of(self.to.address());
        self.layout.scoped().iter().filter(move |at| at.scope != scope)
    }

    /// Each slot of `window` that is barred, once.
    pub(in crate::ledger) fn within(&self, window: Range<u32>) -> impl Iterator<Item = u32> {
        let own = self.own().filter(|slot| window.contains(slot));
        // The own slot has the destination's interface, so it is in none of these.
        own.into_iter().chain(
            self.elsewhere()
                .flat_map(move |at| at.slots.start.max(window.start)..at.slots.end.min(window.end)),
        )
    }
}

impl<K: Key, const N: usize> Side<K, N> {
    #[inline]
    pub(in crate::ledger) fn barred<'a>(&'a self, to: &'a Destination) -> Barred<'a> {
        Barred { layout: &self.layout, to }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::error::Error;
    use crate::ledger::tests::TestRandom;
    use crate::ledger::{Clock, Destination, From, Ledger, Names, PortRange, Protocol, Source};

    struct Noon;

    impl Clock for Noon {
        fn now_ms(&self) -> u64 {
            0
        }
    }

    fn source(address: &str, scope: u32) -> Source {
        let ports = vec![PortRange::new(5000, 5001).expect("a range")];
        Source { address: address.parse().expect("an address"), scope, ports }
    }

    /// The interfaces of all sources that serve `to`, each time, until none is left; `None` where
    /// none ever could.
    fn served_by(sources: &[Source], to: &str, pinned: bool) -> Option<Vec<u32>> {
        let ledger = Ledger::new(sources, Names::None, [1, 2]).expect("sources");
        let to = Destination::new(Protocol::Tcp, to.parse().expect("an address"));
        let random = &mut TestRandom(7, 0);
        let pin = pinned.then(|| ledger.pin(&to).expect("a source of its family"));
        let mut scopes = Vec::new();
        let mut claims = Vec::new();
        let last = loop {
            match ledger.acquire(&to, From::AnySource, &Noon, random) {
                Ok(claim) => {
                    scopes.push(ledger.source_port(to.family(), claim.slot()).scope);
                    claims.push(claim);
                }
                Err(error) => break error,
            }
        };
        scopes.sort_unstable();
        pin.into_iter().for_each(|pin| ledger.unpin(&pin));
        match last {
            Error::NoSource { destination } if destination == to => None,
            Error::Exhausted(_) => Some(scopes),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_source_on_an_interface_serves_that_interface_alone() {
        let two = [source("fe80::1", 5), source("fe80::1", 6)];
        let three = [&two[..], &[source("2001:db8::1", 0)]].concat();
        type Case<'a> = (&'a [Source], &'a str, Option<&'a [u32]>);
        let table: [Case<'_>; 7] = [
            (&two, "[fe80::2%5]:80", Some(&[5, 5])),
            (&two, "[fe80::2%6]:80", Some(&[6, 6])),
            (&two, "[fe80::2%7]:80", None),
            (&two, "[2001:db8::2]:80", None),
            (&three, "[fe80::2%6]:80", Some(&[0, 0, 6, 6])),
            (&three, "[fe80::2%7]:80", Some(&[0, 0])),
            (&three, "[2001:db8::2]:80", Some(&[0, 0])),
        ];
        for (sources, to, scopes) in table {
            for pinned in [false, true] {
                let found = served_by(sources, to, pinned);
                assert_eq!(found.as_deref(), scopes, "{to}, pinned: {pinned}");
            }
        }
    }
}
