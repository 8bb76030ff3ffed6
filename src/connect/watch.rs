//! What the kernel says others hold: listeners, and four-tuples from before our time.

use super::inner::Inner;
use crate::error::Error;
use crate::kernel::{self, ClosedFirst, State};
use crate::ledger::{Claim, Clock, Destination, Family, Protocol, Slot, Why};
use crate::sync::{AtomicU64, Mutex, Ordering};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;

/// The least time between two looks that nobody asked for.
const LOOK_AGAIN_MS: u64 = 1_000;

/// What was seen at the last look.
#[derive(Default)]
pub(super) struct Watch {
    seen: Mutex<Seen>,
    looked_ms: AtomicU64,
}

#[derive(Default)]
struct Seen {
    /// Slots that are excluded because somebody listens there.
    listeners: HashSet<(Family, Slot)>,
    /// Leases that the kernel's own sockets hold until it forgets them.
    imported: HashMap<(Destination, Slot), Claim>,
}

impl Watch {
    /// Looks, unless somebody did a moment ago or is about to. Whether anything came free.
    pub(super) fn refresh_if_old(&self, inner: &Inner) -> Result<bool, Error> {
        let now_ms = inner.clock.now_ms();
        // Relaxed, both: only how often the kernel is asked hangs on it.
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        if now_ms < looked_ms.saturating_add(LOOK_AGAIN_MS) {
            return Ok(false);
        }
        let is_ours = self
            .looked_ms
            .compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if is_ours { self.refresh(inner) } else { Ok(false) }
    }

    /// Looks. Whether anything came free.
    pub(super) fn refresh(&self, inner: &Inner) -> Result<bool, Error> {
        inner.host.refresh()?;
        let mut seen = self.seen.lock();
        let ports_came_free = seen.look_at_listeners(inner)?;
        let four_tuples_came_free = !seen.imported.is_empty() && seen.look_at_imported(inner)?;
        Ok(ports_came_free || four_tuples_came_free)
    }

    /// Withholds what the kernel holds and the ledger does not; how many four-tuples that are.
    pub(super) fn import(&self, inner: &Inner) -> Result<usize, Error> {
        let mut seen = self.seen.lock();
        let mut taken = 0;
        for (to, slot, state) in held_by_the_kernel(inner)? {
            let Some(claim) = inner.ledger.acquire_exactly(&to, slot, &inner.clock) else {
                continue;
            };
            taken += 1;
            match state {
                State::TimeWait => give_back(inner, &to, claim, ClosedFirst::Us),
                _ => drop(seen.imported.insert((to, slot), claim)),
            }
        }
        Ok(taken)
    }

    /// The imported claim of a four-tuple, for the socket that turned up.
    pub(super) fn take_imported(&self, to: Destination, slot: Slot) -> Option<Claim> {
        self.seen.lock().imported.remove(&(to, slot))
    }
}

impl Seen {
    fn look_at_listeners(&mut self, inner: &Inner) -> Result<bool, Error> {
        let mut now = HashSet::new();
        for listener in kernel::listeners().map_err(untold)? {
            now.extend(slots_at(inner, listener.source));
        }
        for (family, slot) in now.difference(&self.listeners) {
            inner.ledger.exclude(*family, *slot, 1, Why::Listener);
        }
        let mut came_free = false;
        for (family, slot) in self.listeners.difference(&now) {
            inner.ledger.include(*family, *slot, 1, Why::Listener);
            came_free = true;
        }
        self.listeners = now;
        Ok(came_free)
    }

    fn look_at_imported(&mut self, inner: &Inner) -> Result<bool, Error> {
        let held: HashMap<_, _> = held_by_the_kernel(inner)?
            .into_iter()
            .map(|(to, slot, state)| ((to, slot), state))
            .collect();
        let gone = |key: &(Destination, Slot)| match held.get(key) {
            None => Some(ClosedFirst::Peer),
            Some(State::TimeWait) => Some(ClosedFirst::Us),
            Some(_) => None,
        };
        let all = std::mem::take(&mut self.imported);
        let before = all.len();
        for (key, claim) in all {
            match gone(&key) {
                Some(closed) => give_back(inner, &key.0, claim, closed),
                None => drop(self.imported.insert(key, claim)),
            }
        }
        Ok(self.imported.len() < before)
    }
}

/// Our slots that a listener at `address` keeps from us: the wildcard address has all sources.
fn slots_at(inner: &Inner, address: SocketAddr) -> Vec<(Family, Slot)> {
    let port = address.port();
    let (ip, any) = (address.ip().to_canonical(), address.ip().is_unspecified());
    inner
        .sources
        .iter()
        .filter(|source| {
            // A wildcard of IPv6 is taken to serve IPv4 too, as it does by default (ipv6(7)).
            let is_any = any && (address.is_ipv6() || source.address.is_ipv4());
            is_any || source.address == ip
        })
        .filter_map(|source| {
            let slot = inner.ledger.slot(source.address, source.scope, port)?;
            Some((Family::of(source.address), slot))
        })
        .collect()
}

/// All connected sockets of our sources and ports, with those in TIME_WAIT.
fn held_by_the_kernel(inner: &Inner) -> Result<Vec<(Destination, Slot, State)>, Error> {
    let mut held = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for socket in kernel::sockets(protocol).map_err(untold)? {
            if !matches!(socket.state, State::Connected | State::TimeWait) {
                continue;
            }
            let destination = Destination::new(protocol, socket.destination);
            if let Some(slot) = inner.slot_of(socket.source) {
                held.push((destination, slot, socket.state));
            }
        }
    }
    Ok(held)
}

fn give_back(inner: &Inner, to: &Destination, claim: Claim, closed: ClosedFirst) {
    let then = inner.then(to, claim.slot(), inner.host.closed(closed));
    inner.release(to, claim, then);
}

fn untold(error: io::Error) -> Error {
    Error::Os { call: "sock_diag", source_address: None, destination: None, error }
}
