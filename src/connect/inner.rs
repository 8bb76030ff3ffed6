//! What all handles of one pool share.

use super::grounds::Grounds;
use super::judging::Unusable;
use super::keeper::Keeper;
use super::random::{Seed, Stream};
use super::watch::Watch;
use crate::error::{Error, Exhausted};
use crate::kernel::{self, BindMode, CallError, ClosedFirst, Host, Monotonic, SourceOptions, Tcp};
use crate::ledger::{
    Census, Claim, Clock, Destination, Family, FourTuple, From, Ledger, Names, Pin, PinnedClaim,
    PortRange, Protocol, Random, Slot, Source, SourcePort, Then, canonical, is_link_local,
    scope_of,
};
use crate::sync::Mutex;
use crate::territory::{Growth, Hold, Territory};
use socket2::{SockRef, Socket};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

pub(super) struct Inner {
    pub(super) ledger: Ledger,
    pub(super) clock: Monotonic,
    pub(super) seed: Seed,
    pub(super) process: kernel::Watch,
    /// Random, so that a lease id of another pool is told from one of ours.
    pub(super) id: u64,
    /// In the ledger's order, with all ranges filled in.
    pub(super) sources: Vec<Source>,
    /// One for each source.
    pub(super) options: Vec<SourceOptions>,
    pub(super) host: Host,
    pub(super) names: Names,
    pub(super) rest_min_ms: u64,
    pub(super) watch: Watch,
    pub(super) finder: kernel::Finder,
    pub(super) grounds: Grounds,
    /// The last source that could not be used for want of a right or of its address.
    pub(super) unusable: Mutex<Option<Unusable>>,
    /// Set right after the pool was made, where a thread is asked for.
    pub(super) keeper: Mutex<Option<Keeper>>,
}

impl Inner {
    /// One load: whether this is the process that built the pool.
    #[inline]
    pub(super) fn check_process(&self) -> Result<(), Error> {
        if self.process.forked() { Err(Error::Forked) } else { Ok(()) }
    }

    // ---- acquire --------------------------------------------------------------------------

    #[inline]
    pub(super) fn acquire(&self, to: &Destination, from: From) -> Result<Claim, Error> {
        self.acquire_by(from, |random| self.ledger.acquire(to, from, &self.clock, random))
    }

    /// As [`Inner::acquire`] from any source, where there is nothing to mind: an answer of two words
    /// instead of an error's dozen. `None`: [`Inner::acquire`] knows.
    #[inline(never)]
    pub(super) fn try_acquire_to(&self, to: &Destination) -> Option<Claim> {
        if !self.process.surely_not_forked() || self.grounds.is_shared() {
            return None;
        }
        self.seed.with(|random| {
            if random.is_spent() {
                self.do_chores(random);
            }
            self.ledger.try_acquire(to, &self.clock, random)
        })
    }

    /// As [`Ledger::try_acquire_pinned`]; `None` also where this may be a child of fork.
    ///
    /// A function of its own that calls others only as its last act, so that what nearly every
    /// acquire does has hardly a register to save.
    #[inline(never)]
    pub(super) fn try_acquire(&self, pin: &Pin) -> Option<PinnedClaim> {
        if !self.process.surely_not_forked() {
            return None;
        }
        let otherwise = |unused| self.try_acquire_with_care(pin, unused);
        self.seed.with_drawn(
            || otherwise(None),
            |draw, me| self.ledger.acquire_at_once(pin, draw, me, otherwise),
        )
    }

    #[inline(never)]
    fn try_acquire_with_care(&self, pin: &Pin, unused: Option<u32>) -> Option<PinnedClaim> {
        self.seed.with(|random| {
            let draw = unused.unwrap_or_else(|| {
                if random.is_spent() {
                    self.do_chores(random);
                }
                random.next_u32()
            });
            self.ledger.try_acquire_pinned(pin, draw, &self.clock, random)
        })
    }

    /// The counts of a destination that is exhausted, where those who keep something from us were
    /// asked a moment ago or are nobody. `None`: [`Inner::acquire_by`] knows.
    #[inline]
    pub(super) fn full_for_sure(&self, pin: &Pin) -> Option<Exhausted> {
        let counts = self.ledger.full_pinned(pin)?;
        let is_sure = !self.watch.has_imported()
            && (counts.excluded == 0
                || !self.grounds.is_shared()
                    && self.watch.knows_listeners(self.clock.about_now_ms()));
        is_sure.then_some(counts)
    }

    /// What can wait, and is done once in a while by whoever acquires.
    #[cold]
    #[inline(never)]
    fn do_chores(&self, random: &mut Stream<'_>) {
        self.ledger.tidy(&self.clock, random);
        if self.grounds.is_due(&self.clock) {
            self.grounds.maintain_since_due(&self.ledger, &self.clock, random);
        }
    }

    /// Runs `acquire`, a look into the ledger, with the thread's random numbers.
    #[inline]
    pub(super) fn acquire_by<C>(
        &self,
        from: From,
        acquire: impl Fn(&mut Stream<'_>) -> Result<C, Error>,
    ) -> Result<C, Error> {
        self.check_process()?;
        let claim = self.seed.with(|random| {
            if random.is_spent() {
                self.do_chores(random);
            }
            if self.grounds.is_due(&self.clock) {
                self.grounds.maintain_since_due(&self.ledger, &self.clock, random);
            }
            acquire(random)
        });
        match claim {
            Err(Error::Exhausted(counts)) => self.look_again(counts, from, acquire),
            _ => claim,
        }
    }

    /// Asks for more ports, and then looks whether those who keep something from us still do;
    /// tries again after each.
    #[cold]
    fn look_again<C>(
        &self,
        mut exhausted: Exhausted,
        from: From,
        acquire: impl Fn(&mut Stream<'_>) -> Result<C, Error>,
    ) -> Result<C, Error> {
        let family = exhausted.destination.family();
        let mut may_grow = self.grounds.is_shared() && exhausted.excluded > 0;
        while may_grow {
            let (ledger, clock) = (&self.ledger, &self.clock);
            let grow =
                |random: &mut Stream<'_>| self.grounds.grow(family, from, ledger, clock, random);
            // Where nothing was free the last look is still to come: another thread may have been
            // granted the last block since ours.
            may_grow = matches!(self.seed.with(grow)?, Growth::Grown(_));
            match self.seed.with(&acquire) {
                Err(Error::Exhausted(counts)) => exhausted = counts,
                claim => return claim,
            }
            // What another thread has begun to drain since is ours to take back.
            may_grow |= self.grounds.is_draining(family, from);
        }
        // Where the kernel does not tell, nothing came free.
        let listeners = || self.watch.refresh_listeners_if_old(self).unwrap_or(false);
        let imported =
            self.watch.refresh_imported_if_old(self, &exhausted.destination).unwrap_or(false);
        if imported || exhausted.excluded > 0 && listeners() {
            self.seed.with(acquire)
        } else {
            Err(self.why_unusable(&exhausted).unwrap_or_else(|| exhausted.into()))
        }
    }

    /// The source with `address`, as far as it can dial `to`: a link-local address is the one of
    /// the destination's interface.
    pub(super) fn source_at(&self, address: IpAddr, to: &Destination) -> Result<From, Error> {
        let address = address.to_canonical();
        if Family::of(address) != to.family() {
            return Err(Error::NoSource { destination: *to });
        }
        let scope = scope_of(to.address());
        let reaches = |source: &Source| [0, scope].contains(&source.scope);
        (0..)
            .zip(&self.sources)
            .find(|(_, source)| source.address == address && reaches(source))
            .map(|(index, _)| From::Source(index))
            .ok_or(Error::NotOurs { source_address: SocketAddr::new(address, 0) })
    }

    // ---- use ------------------------------------------------------------------------------

    pub(super) fn source_port(&self, family: Family, slot: Slot) -> SourcePort {
        self.ledger.source_port(family, slot)
    }

    pub(super) fn mode_of(&self, protocol: Protocol, port: u16) -> BindMode {
        self.host.mode_of(protocol, port)
    }

    pub(super) fn options_of(&self, at: &SourcePort) -> &SourceOptions {
        &self.options[at.source as usize]
    }

    /// Binds in the mode that is right now, and says which that was.
    pub(super) fn bind(
        &self,
        socket: &Socket,
        protocol: Protocol,
        at: &SourcePort,
    ) -> Result<BindMode, CallError> {
        self.bind_as(socket, at.socket_address(), protocol, at)
    }

    fn bind_as(
        &self,
        socket: &Socket,
        source: SocketAddr,
        protocol: Protocol,
        at: &SourcePort,
    ) -> Result<BindMode, CallError> {
        let mode = self.mode_of(protocol, at.port);
        kernel::bind(socket, source, mode, self.options_of(at))?;
        Ok(mode)
    }

    /// As [`Inner::bind`], for a socket of the caller's.
    pub(super) fn bind_theirs(
        &self,
        socket: BorrowedFd<'_>,
        to: &Destination,
        at: &SourcePort,
    ) -> Result<(), Error> {
        let bound = self.bind_their_socket(&SockRef::from(&socket), to.protocol(), at);
        bound.map(drop).map_err(|CallError { call, error }| {
            let source_address = Some(at.socket_address());
            Error::Os { call, source_address, destination: Some(to.address()), error }
        })
    }

    /// As [`Inner::bind`], for a socket that need not be of the source's own family.
    pub(super) fn bind_their_socket(
        &self,
        socket: &Socket,
        protocol: Protocol,
        at: &SourcePort,
    ) -> Result<BindMode, CallError> {
        let source = kernel::as_written_for(socket, at.socket_address())
            .map_err(|error| CallError { call: "getsockopt(SO_DOMAIN)", error })?;
        self.bind_as(socket, source, protocol, at)
    }

    /// Whether a connected or connecting socket has the source that it was bound to.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with `EADDRNOTAVAIL` where it has another; then the settings are read again,
    /// for they must have changed.
    pub(super) fn check_theirs(
        &self,
        socket: BorrowedFd<'_>,
        four_tuple: &FourTuple,
    ) -> Result<(), Error> {
        let source = four_tuple.source;
        let Err(error) = kernel::check_source(&SockRef::from(&socket), source) else {
            return Ok(());
        };
        self.host.refresh()?;
        Err(Error::Os {
            call: "connect",
            source_address: Some(source),
            destination: Some(four_tuple.destination.address()),
            error,
        })
    }

    /// The claim to what a connected socket holds already.
    pub(super) fn adopt(&self, socket: BorrowedFd<'_>) -> Result<(Claim, Destination), Error> {
        let (protocol, source_address, peer) =
            kernel::ends(socket).map_err(|CallError { call, error }| Error::Os {
                call,
                source_address: None,
                destination: None,
                error,
            })?;
        let destination = Destination::new(protocol, peer);
        let slot = self.slot_of(source_address).ok_or(Error::NotOurs { source_address })?;
        let claim = match self.watch.take_imported(&destination, slot) {
            Some(claim) => claim,
            None => self.claim_exactly(source_address, slot, &destination)?,
        };
        Ok((claim, destination))
    }

    /// The claim to one given four-tuple; where ports are shared, its block is claimed along.
    pub(super) fn claim_exactly(
        &self,
        source_address: SocketAddr,
        slot: Slot,
        to: &Destination,
    ) -> Result<Claim, Error> {
        let acquire = || self.ledger.acquire_exactly(to, slot, &self.clock);
        let destination = *to;
        let claim = match acquire() {
            None => match self.hold(to.family(), slot)? {
                Hold::Ours => None,
                Hold::Granted => acquire(),
                Hold::Theirs(path) => {
                    let ports = Territory::block_of(source_address.port());
                    return Err(Error::HeldElsewhere { source_address, destination, ports, path });
                }
            },
            claim => claim,
        };
        claim.ok_or(Error::Taken { source_address, destination })
    }

    /// Claims the ports around `slot` from the other processes, where they are shared.
    pub(super) fn hold(&self, family: Family, slot: Slot) -> Result<Hold, Error> {
        self.grounds.hold(family, slot, &self.ledger, &self.clock)
    }

    // ---- give back ------------------------------------------------------------------------

    /// Gives back a four-tuple whose socket is closed. In a child of fork nothing happens: the
    /// lease is its parent's.
    #[inline]
    pub(super) fn release(&self, to: &Destination, claim: Claim, then: Then) {
        if !self.process.forked() {
            self.ledger.release(to, claim, then);
            self.look_after_grounds();
        }
    }

    /// As [`Inner::release_pinned`], where there is nothing to mind; else the claim comes back.
    #[inline]
    pub(super) fn try_release(
        &self,
        pin: &Pin,
        claim: PinnedClaim,
        then: Then,
    ) -> Result<(), PinnedClaim> {
        if then != Then::Free || !self.process.surely_not_forked() || self.grounds.is_shared() {
            return Err(claim);
        }
        self.ledger.try_release_pinned(pin, claim)
    }

    /// As [`Inner::release`], of a claim through `pin`.
    #[inline(never)]
    pub(super) fn release_pinned(&self, pin: &Pin, claim: PinnedClaim, then: Then) {
        if !self.process.forked() {
            self.ledger.release_pinned(pin, claim, then);
            self.look_after_grounds();
        }
    }

    /// How a connection ends, asked just before its socket is closed.
    pub(super) fn ending(&self, socket: BorrowedFd<'_>, four_tuple: &FourTuple) -> Tcp {
        let told = kernel::closed_first(socket, four_tuple, &self.finder);
        told.unwrap_or_else(|_| self.host.closed(ClosedFirst::Unknown))
    }

    /// Where ports are shared whoever calls does so, now and then: there is no thread for it.
    #[inline]
    pub(super) fn look_after_grounds(&self) {
        if self.grounds.is_due(&self.clock) {
            self.seed.with(|random| {
                self.grounds.maintain_since_due(&self.ledger, &self.clock, random);
            });
        }
    }

    /// Looks after the territory now.
    pub(super) fn maintain(&self) -> Result<(), Error> {
        self.check_process()?;
        let maintain =
            |random: &mut Stream<'_>| self.grounds.maintain(&self.ledger, &self.clock, random);
        if self.seed.with(maintain)? {
            // What was imported may be gone. Where the kernel does not tell, nothing was.
            let _ = self.watch.refresh_imported_under_pressure(self);
        }
        Ok(())
    }

    /// What becomes of a four-tuple whose connection was closed.
    pub(super) fn then(&self, to: &Destination, slot: Slot, tcp: Tcp) -> Then {
        self.then_closed_ago(to, slot, tcp, 0)
    }

    /// As [`Inner::then`], for a socket that was closed `ago_ms` before now.
    pub(super) fn then_closed_ago(
        &self,
        to: &Destination,
        slot: Slot,
        tcp: Tcp,
        ago_ms: u64,
    ) -> Then {
        let source = self.source_port(to.family(), slot).socket_address();
        let rest_ms = self.host.rest_ms(source, to, tcp, self.rest_min_ms);
        self.rest(rest_ms.saturating_sub(ago_ms))
    }

    /// What becomes of a four-tuple that the kernel has forgotten.
    pub(super) fn then_at_least(&self) -> Then {
        self.rest(self.rest_min_ms)
    }

    pub(super) fn rest(&self, rest_ms: u64) -> Then {
        match rest_ms {
            0 => Then::Free,
            _ => Then::RestUntilMs(self.clock.now_ms().saturating_add(rest_ms)),
        }
    }

    // ---- what there is --------------------------------------------------------------------

    pub(super) fn census_of(&self, to: &Destination) -> Result<Census, Error> {
        self.check_process()?;
        self.look_after_grounds();
        Ok(self.ledger.census_of(to, &self.clock))
    }

    /// The range that has all ports of all sources.
    pub(super) fn ports(&self) -> PortRange {
        let all = self.sources.iter().flat_map(|source| &source.ports).copied();
        let join = |a: PortRange, b: PortRange| {
            PortRange::new(a.first().min(b.first()), a.last().max(b.last())).unwrap_or(a)
        };
        all.reduce(join).expect("a pool has sources, and each has ports")
    }

    /// The slot of a source address and port, if it is ours.
    pub(super) fn slot_of(&self, source: SocketAddr) -> Option<Slot> {
        let source = canonical(source);
        self.ledger.slot(source.ip(), scope_of(source), source.port())
    }
}

/// Refuses a destination that names no host or no port: the kernel would put another in its place
/// (ip(7)), and the ledger would not know. A link-local one without its interface is another host
/// for each source.
#[inline]
pub(super) fn destination(protocol: Protocol, address: SocketAddr) -> Result<Destination, Error> {
    let destination = Destination::new(protocol, address);
    if !destination.is_definite() || lacks_scope(&address) {
        return Err(no_destination(destination.address()));
    }
    Ok(destination)
}

#[inline]
fn lacks_scope(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if is_link_local(v6.ip()) && v6.scope_id() == 0)
}

#[cold]
fn no_destination(address: SocketAddr) -> Error {
    let takes = match lacks_scope(&address) {
        true => "a link-local address takes its interface, as in [fe80::7%3]:80 (its scope id)",
        false => "it takes a host and a port above 0",
    };
    Error::Config { problem: format!("destination {address}: {takes}") }
}
