//! What the kernel says others hold: listeners, and four-tuples from before our time.

use super::grounds::DUTY;
use super::inner::Inner;
use crate::error::Error;
use crate::kernel::{ClosedFirst, Diag, Held, Listener, SocketState, TIME_WAIT_MS};
use crate::ledger::{Claim, Clock, Destination, Family, FourTuple, Protocol, Slot, Why, scope_of};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::territory::{Hold, Territory};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// The least time between two looks at the same thing that nobody asked for.
const LOOK_AGAIN_MS: u64 = 1_000;

/// What was seen at the last look.
#[derive(Default)]
pub(super) struct Watch {
    seen: Mutex<Seen>,
    /// Ports that are leased for all destinations: who listens on them is no stranger.
    held: Mutex<HashSet<(Family, Slot)>>,
    listeners_looked_ms: AtomicU64,
    /// When to look next at all that is imported because others are in want.
    pressed_due_ms: AtomicU64,
    /// How many destinations have imported four-tuples.
    imported: AtomicU32,
}

#[derive(Default)]
struct Seen {
    /// Slots that are excluded because somebody listens there.
    listeners: HashSet<(Family, Slot)>,
    /// What the kernel's own sockets hold until it forgets them.
    imported: HashMap<Destination, Imported>,
    /// Whether somebody wants to know of four-tuples from before our time.
    imports: bool,
}

/// The imported four-tuples of one destination.
#[derive(Default)]
struct Imported {
    claims: HashMap<Slot, ImportedClaim>,
    looked_ms: u64,
}

struct ImportedClaim {
    claim: Claim,
    /// What the kernel needs to find the socket again.
    interface: u32,
}

impl Watch {
    /// Looks at everything, and at the host's settings.
    pub(super) fn refresh(&self, inner: &Inner) -> Result<(), Error> {
        inner.host.refresh()?;
        let mut diag = Diag::open()?;
        self.look_at_listeners(inner, &mut diag)?;
        let mut seen = self.seen.lock();
        let looked = seen.look_at_all_imported(inner, &mut diag);
        self.count_imported(&seen);
        looked
    }

    /// Looks at who listens, unless somebody did a moment ago or is about to. Whether a port came
    /// free.
    pub(super) fn refresh_listeners_if_old(&self, inner: &Inner) -> Result<bool, Error> {
        let now_ms = inner.clock.about_now_ms();
        if self.knows_listeners(now_ms) {
            return Ok(false);
        }
        // Relaxed, all three: only how often the kernel is asked hangs on it.
        let looked_ms = self.listeners_looked_ms.load(Ordering::Relaxed);
        let is_ours = self
            .listeners_looked_ms
            .compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if is_ours { self.look_at_listeners(inner, &mut Diag::open()?) } else { Ok(false) }
    }

    /// Whether somebody looked at the listeners a moment ago.
    #[inline]
    pub(super) fn knows_listeners(&self, now_ms: u64) -> bool {
        // Relaxed: as above.
        let looked_ms = self.listeners_looked_ms.load(Ordering::Relaxed);
        looked_ms != 0 && now_ms < looked_ms.saturating_add(LOOK_AGAIN_MS)
    }

    /// Whether any lease is held for a socket that was imported.
    #[inline]
    pub(super) fn has_imported(&self) -> bool {
        // Relaxed: whoever was told of an import sees its count.
        self.imported.load(Ordering::Relaxed) != 0
    }

    /// Looks at the imported four-tuples of one destination, unless somebody did a moment ago.
    /// Whether one came free.
    pub(super) fn refresh_imported_if_old(
        &self,
        inner: &Inner,
        to: &Destination,
    ) -> Result<bool, Error> {
        if !self.has_imported() {
            return Ok(false);
        }
        let mut seen = self.seen.lock();
        let now_ms = inner.clock.now_ms();
        match seen.imported.get_mut(to) {
            Some(imported) if now_ms >= imported.looked_ms.saturating_add(LOOK_AGAIN_MS) => {
                imported.looked_ms = now_ms;
                let came_free = seen.look_at_imported(inner, &mut Diag::open()?, to);
                self.count_imported(&seen);
                came_free
            }
            _ => Ok(false),
        }
    }

    /// Looks at all imported four-tuples, unless that was done a moment ago, measured by how long it
    /// takes: others are in want of the ports, and no acquire here need ever come to look.
    pub(super) fn refresh_imported_under_pressure(&self, inner: &Inner) -> Result<(), Error> {
        let begin_ms = inner.clock.now_ms();
        // Relaxed, all: only how often the kernel is asked hangs on it.
        if self.imported.load(Ordering::Relaxed) == 0
            || begin_ms < self.pressed_due_ms.load(Ordering::Relaxed)
        {
            return Ok(());
        }
        let mut seen = self.seen.lock();
        let looked = seen.look_at_all_imported(inner, &mut Diag::open()?);
        self.count_imported(&seen);
        let end_ms = inner.clock.now_ms();
        let pause_ms = LOOK_AGAIN_MS.max((end_ms - begin_ms) * DUTY);
        self.pressed_due_ms.store(end_ms + pause_ms, Ordering::Relaxed);
        looked
    }

    /// Withholds what the kernel holds and the ledger does not; how many four-tuples that are.
    pub(super) fn import(&self, inner: &Inner) -> Result<usize, Error> {
        let mut seen = self.seen.lock();
        seen.imports = true;
        let taken = seen.import(inner, &mut Diag::open()?);
        self.count_imported(&seen);
        taken
    }

    /// The imported claim of a four-tuple, for the socket that turned up.
    pub(super) fn take_imported(&self, to: &Destination, slot: Slot) -> Option<Claim> {
        let mut seen = self.seen.lock();
        let imported = seen.imported.get_mut(to)?;
        let found = imported.claims.remove(&slot)?;
        if imported.claims.is_empty() {
            seen.imported.remove(to);
        }
        self.count_imported(&seen);
        Some(found.claim)
    }

    /// From now on who listens on the slot is one of us.
    pub(super) fn hold(&self, family: Family, slot: Slot) {
        self.held.lock().insert((family, slot));
    }

    /// The end of [`Watch::hold`].
    pub(super) fn let_go(&self, family: Family, slot: Slot) {
        self.held.lock().remove(&(family, slot));
    }

    fn look_at_listeners(&self, inner: &Inner, diag: &mut Diag) -> Result<bool, Error> {
        let mut seen = self.seen.lock();
        // Those that came or went while the kernel was asked are ours too.
        let mut held = self.held.lock().clone();
        let tcp = diag.listeners(Protocol::Tcp, inner.ports())?;
        let mut udp = diag.listeners(Protocol::Udp, inner.ports())?;
        held.extend(self.held.lock().iter().copied());
        // Among the ports that the kernel chooses from, a UDP socket without a peer is a client
        // more often than a service. They come and go by the thousand, and to leave their ports
        // to them would take these from TCP as well.
        let chosen = inner.host.local_port_range();
        udp.retain(|listener| !chosen.contains(listener.address.port()));
        let mut now: HashSet<_> = tcp.iter().flat_map(|l| slots_of(inner, l)).collect();
        now.extend(udp.iter().flat_map(|l| slots_of(inner, l)).filter(|at| {
            // A socket of ours has no peer for a moment after it was bound.
            let is_ours = |(family, slot)| inner.ledger.in_use(family, slot, 1, &inner.clock);
            !held.contains(at) && (seen.listeners.contains(at) || !is_ours(*at))
        }));
        for (family, slot) in now.difference(&seen.listeners) {
            inner.ledger.exclude(*family, *slot, 1, Why::Listener);
        }
        let gone: Vec<_> = seen.listeners.difference(&now).copied().collect();
        for (family, slot) in &gone {
            inner.ledger.include(*family, *slot, 1, Why::Listener);
        }
        seen.listeners = now;
        if !gone.is_empty() && seen.imports {
            // What the listener has accepted stays when it goes.
            let imported = seen.import(inner, diag);
            self.count_imported(&seen);
            imported?;
        }
        Ok(!gone.is_empty())
    }

    fn count_imported(&self, seen: &Seen) {
        // Relaxed: a hint where to look; what is counted stands behind the lock.
        self.imported.store(seen.imported.len() as u32, Ordering::Relaxed);
    }
}

impl Seen {
    fn import(&mut self, inner: &Inner, diag: &mut Diag) -> Result<usize, Error> {
        let mut taken = 0;
        let (mut asked, mut failure) = (HashSet::new(), None);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            diag.connected(protocol, inner.ports(), |held| {
                match self.take(inner, held, &mut asked) {
                    Ok(is_new) => taken += usize::from(is_new),
                    Err(error) => failure = Some(error),
                }
            })?;
        }
        failure.map_or(Ok(taken), Err)
    }

    /// Whether `held` is of our sources, and new to the ledger. A block that nobody has is claimed
    /// for it; what is in another's block, that other knows. `asked`: sources and blocks that have
    /// been asked for already.
    fn take(
        &mut self,
        inner: &Inner,
        held: Held,
        asked: &mut HashSet<(IpAddr, u16)>,
    ) -> Result<bool, Error> {
        let FourTuple { source, destination: to } = held.four_tuple;
        let Some(slot) = inner.slot_of(source) else { return Ok(false) };
        let acquire = || inner.ledger.acquire_exactly(&to, slot, &inner.clock);
        let mut claim = acquire();
        let block = (source.ip(), *Territory::block_of(source.port()).start());
        if claim.is_none() && asked.insert(block) && inner.hold(to.family(), slot)? == Hold::Granted
        {
            claim = acquire();
        }
        let Some(claim) = claim else { return Ok(false) };
        match held.state {
            SocketState::TimeWait { left_ms } => rest_in_time_wait(inner, &to, claim, left_ms),
            SocketState::Live | SocketState::Orphan => {
                let claims = &mut self.imported.entry(to).or_default().claims;
                claims.insert(slot, ImportedClaim { claim, interface: held.interface });
            }
        }
        Ok(true)
    }

    fn look_at_all_imported(&mut self, inner: &Inner, diag: &mut Diag) -> Result<(), Error> {
        let destinations: Vec<_> = self.imported.keys().copied().collect();
        destinations.iter().try_for_each(|to| self.look_at_imported(inner, diag, to).map(drop))
    }

    /// Gives back what the kernel does not hold any more; whether there was any.
    fn look_at_imported(
        &mut self,
        inner: &Inner,
        diag: &mut Diag,
        to: &Destination,
    ) -> Result<bool, Error> {
        let Some(imported) = self.imported.get_mut(to) else { return Ok(false) };
        let mut failure = None;
        let mut came_free = false;
        for (slot, held) in std::mem::take(&mut imported.claims) {
            let source = inner.source_port(to.family(), slot).socket_address();
            let four_tuple = FourTuple { source, destination: *to };
            let state = match failure {
                None => diag.find(&four_tuple, held.interface),
                Some(_) => Ok(Some(SocketState::Live)),
            };
            match state {
                Ok(None) => inner.release(to, held.claim, inner.then_at_least()),
                Ok(Some(SocketState::TimeWait { left_ms })) => {
                    rest_in_time_wait(inner, to, held.claim, left_ms);
                }
                Ok(Some(SocketState::Live | SocketState::Orphan)) => {
                    imported.claims.insert(slot, held);
                }
                Err(error) => {
                    failure = Some(error);
                    imported.claims.insert(slot, held);
                }
            }
            came_free |= !imported.claims.contains_key(&slot);
        }
        if imported.claims.is_empty() {
            self.imported.remove(to);
        }
        failure.map_or(Ok(came_free), Err)
    }
}

/// Our slots that a listener keeps from us: the wildcard address has all sources.
fn slots_of(inner: &Inner, listener: &Listener) -> Vec<(Family, Slot)> {
    let scope = scope_of(listener.address);
    inner
        .sources
        .iter()
        .filter(|source| listener.covers(source.address) && [0, source.scope].contains(&scope))
        .filter_map(|source| {
            let slot = inner.ledger.slot(source.address, source.scope, listener.address.port())?;
            Some((Family::of(source.address), slot))
        })
        .collect()
}

/// Gives back a four-tuple that is in TIME_WAIT for a while already.
fn rest_in_time_wait(inner: &Inner, to: &Destination, claim: Claim, left_ms: u32) {
    let ago_ms = TIME_WAIT_MS.saturating_sub(left_ms.into());
    let tcp = inner.host.closed(ClosedFirst::Us);
    let then = inner.then_closed_ago(to, claim.slot(), tcp, ago_ms);
    inner.release(to, claim, then);
}
