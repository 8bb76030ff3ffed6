//! What all handles of one pool share.

use super::grounds::Grounds;
use super::keeper::Keeper;
use super::random::{Seed, Stream};
use super::watch::Watch;
use crate::error::{Error, Exhausted};
use crate::kernel::{self, BindMode, Call, CallError, ClosedFirst, Host, Monotonic};
use crate::kernel::{Diag, SocketState, SourceOptions, TIME_WAIT_MS, Tcp, Verdict};
use crate::ledger::{
    Census, Claim, Clock, Destination, Family, FourTuple, From, Ledger, Names, Pin, PortRange,
    Protocol, Slot, Source, SourcePort, Then, canonical, is_link_local, scope_of, socket_address,
};
use crate::sync::Mutex;
use crate::territory::{Growth, Hold, Territory};
use socket2::{SockRef, Socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// How long a four-tuple or a port rests that turned out to be held by a socket that is not ours.
/// Its holder may keep it for microseconds or for days: one try in a second finds out soon, and
/// costs a thousandth of a processor for each hundred ports that stay held.
const FOREIGN_REST_MS: u64 = 1_000;

/// The same where it is held by a connection that is closed and that only the peer keeps: one of
/// our own, mostly, whose four-tuple was drawn again within a round trip.
const ORPHAN_REST_MS: u64 = 50;

/// How long an address rests that could not be bound: it was taken from the interface, or IPv6
/// still looks for a duplicate of it (RFC 4862 section 5.4), which takes about a second.
const ADDRESS_REST_MS: u64 = 5_000;

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
    pub(super) grounds: Grounds,
    /// The last source that could not be used for want of a right or of its address.
    pub(super) unusable: Mutex<Option<Unusable>>,
    /// Set right after the pool was made, where a thread is asked for.
    pub(super) keeper: Mutex<Option<Keeper>>,
}

/// A source that rests for a reason that no waiting ends.
pub(super) struct Unusable {
    call: Call,
    source_address: SocketAddr,
    os_error: i32,
    until_ms: u64,
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

    /// As [`Ledger::try_acquire_pinned`]; `None` also in a child of fork.
    #[inline]
    pub(super) fn try_acquire(&self, pin: &Pin) -> Option<Claim> {
        if self.process.forked() {
            return None;
        }
        self.seed.with(|random| {
            if random.has_chore() {
                self.do_chores(random);
            }
            self.ledger.try_acquire_pinned(pin, &self.clock, random)
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
    fn do_chores(&self, random: &mut Stream) {
        self.ledger.tidy(&self.clock, random);
        if self.grounds.is_due(&self.clock) {
            self.grounds.maintain_since_due(&self.ledger, &self.clock, random);
        }
    }

    /// Runs `acquire`, a look into the ledger, with the thread's random numbers.
    #[inline]
    pub(super) fn acquire_by(
        &self,
        from: From,
        acquire: impl Fn(&mut Stream) -> Result<Claim, Error>,
    ) -> Result<Claim, Error> {
        self.check_process()?;
        let claim = self.seed.with(|random| {
            if random.has_chore() {
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
    fn look_again(
        &self,
        mut exhausted: Exhausted,
        from: From,
        acquire: impl Fn(&mut Stream) -> Result<Claim, Error>,
    ) -> Result<Claim, Error> {
        let family = exhausted.destination.family();
        let mut may_grow = self.grounds.is_shared() && exhausted.excluded > 0;
        while may_grow {
            let (ledger, clock) = (&self.ledger, &self.clock);
            let grow = |random: &mut _| self.grounds.grow(family, from, ledger, clock, random);
            // Where nothing was free the last look is still to come: another thread may have been
            // granted the last block since ours.
            may_grow = matches!(self.seed.with(grow)?, Growth::Grown(_));
            match self.seed.with(&acquire) {
                Err(Error::Exhausted(counts)) => exhausted = counts,
                claim => return claim,
            }
            // What another thread has begun to drain since is ours to take back.
            may_grow |= self.grounds.is_draining(family);
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

    /// The kernel's own words where it lets nothing of the pool be used: to wait for a port, as
    /// who is exhausted does, would not help.
    fn why_unusable(&self, exhausted: &Exhausted) -> Option<Error> {
        let unusable = self.unusable.lock();
        let Unusable { call, source_address, os_error, until_ms } = unusable.as_ref()?;
        let is_all = exhausted.leased == 0 && exhausted.resting == 0;
        (is_all && self.clock.now_ms() < *until_ms).then(|| Error::Os {
            call: match call {
                Call::Bind => "bind",
                Call::Connect => "connect",
            },
            source_address: Some(*source_address),
            destination: Some(exhausted.destination.address()),
            error: io::Error::from_raw_os_error(*os_error),
        })
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
        let mode = self.mode_of(protocol, at.port);
        kernel::bind(socket, at.socket_address(), mode, self.options_of(at))?;
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
        let mode = self.mode_of(protocol, at.port);
        let source = kernel::as_written_for(socket, at.socket_address())
            .map_err(|error| CallError { call: "getsockopt(SO_DOMAIN)", error })?;
        kernel::bind(socket, source, mode, self.options_of(at))?;
        Ok(mode)
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
        let acquire = || self.ledger.acquire_exactly(&destination, slot, &self.clock);
        let mut claim = self.watch.take_imported(&destination, slot).or_else(acquire);
        if claim.is_none() {
            match self.hold(destination.family(), slot)? {
                Hold::Ours => {}
                Hold::Granted => claim = acquire(),
                Hold::Theirs(path) => {
                    let ports = Territory::block_of(source_address.port());
                    return Err(Error::HeldElsewhere { source_address, destination, ports, path });
                }
            }
        }
        claim.map(|claim| (claim, destination)).ok_or(Error::Taken { source_address, destination })
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
        if self.check_process().is_ok() {
            self.ledger.release(to, claim, then);
            self.look_after_grounds();
        }
    }

    /// How a connection ends, asked just before its socket is closed.
    pub(super) fn ending(&self, socket: BorrowedFd<'_>, four_tuple: &FourTuple) -> Tcp {
        let told = kernel::closed_first(socket, four_tuple);
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
        let maintain = |random: &mut _| self.grounds.maintain(&self.ledger, &self.clock, random);
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

    fn rest(&self, rest_ms: u64) -> Then {
        match rest_ms {
            0 => Then::Free,
            _ => Then::RestUntilMs(self.clock.now_ms().saturating_add(rest_ms)),
        }
    }

    /// What `error` of `call` means for whoever used the lease of `slot`, after its socket was
    /// closed: what has to rest for all is withheld, and what the four-tuple itself has to do is
    /// returned.
    pub(super) fn judge(
        &self,
        to: &Destination,
        slot: Slot,
        call: Call,
        error: &io::Error,
    ) -> (Verdict, Then) {
        let at = self.source_port(to.family(), slot);
        let mode = self.mode_of(to.protocol(), at.port);
        let verdict = kernel::verdict_on(call, error, mode);
        let verdict = match verdict {
            Verdict::GiveUp if self.is_absent(&at, error) => Verdict::RestAddress,
            verdict => verdict,
        };
        if matches!(verdict, Verdict::RestTuple | Verdict::RestPort) {
            // The port may have become one of the kernel's own, or ceased to be one.
            self.host.look_again(self.clock.now_ms());
        }
        let then = match verdict {
            Verdict::TryAnother => self.rest(FOREIGN_REST_MS),
            Verdict::RestTuple => self.rest(self.held_rest_ms(to, &at, mode)),
            Verdict::RestPort => {
                let until_ms = self.leave_alone(to.family(), slot);
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.note_unusable(call, &at, error, until_ms);
                }
                // A listener keeps its port for longer; where the kernel does not tell of it,
                // the port is met again in a second.
                let _ = self.watch.refresh_listeners_if_old(self);
                Then::Free
            }
            Verdict::RestAddress => {
                let until_ms = self.clock.now_ms() + ADDRESS_REST_MS;
                let slots = self.ledger.slots_of(at.source);
                self.ledger.exclude_until(to.family(), slots, until_ms);
                self.note_unusable(call, &at, error, until_ms);
                Then::Free
            }
            Verdict::GiveUp => self.then_at_least(),
        };
        (verdict, then)
    }

    /// How long a four-tuple rests that the kernel says is in use, by who holds it. Late, the
    /// refusal may be about the port.
    fn held_rest_ms(&self, to: &Destination, at: &SourcePort, mode: BindMode) -> u64 {
        if mode == BindMode::Late || self.options_of(at).device.is_some() {
            return FOREIGN_REST_MS;
        }
        let four_tuple = FourTuple { source: at.socket_address(), destination: *to };
        match Diag::open().and_then(|mut diag| diag.find(&four_tuple, at.scope)) {
            Ok(None | Some(SocketState::Orphan)) => ORPHAN_REST_MS,
            // Was an orphan a moment ago.
            Ok(Some(SocketState::TimeWait { left_ms }))
                if u64::from(left_ms) + FOREIGN_REST_MS > TIME_WAIT_MS =>
            {
                ORPHAN_REST_MS
            }
            Ok(Some(SocketState::Live | SocketState::TimeWait { .. })) | Err(_) => FOREIGN_REST_MS,
        }
    }

    fn note_unusable(&self, call: Call, at: &SourcePort, error: &io::Error, until_ms: u64) {
        let source_address = at.socket_address();
        *self.unusable.lock() = error.raw_os_error().map(|os_error| Unusable {
            call,
            source_address,
            os_error,
            until_ms,
        });
    }

    /// Whether a source that may be absent is: then the kernel has no way from it to anywhere, and
    /// says of the destination that it cannot be reached.
    fn is_absent(&self, at: &SourcePort, error: &io::Error) -> bool {
        let options = self.options_of(at);
        let may_be = options.freebind && !options.transparent;
        let here = SourceOptions { freebind: false, ..options.clone() };
        may_be
            && error.kind() == io::ErrorKind::NetworkUnreachable
            && kernel::check_bindable(socket_address(at.address, 0, at.scope), &here).is_err()
    }

    /// Withholds a port that a socket of somebody else holds, for a while; until when.
    pub(super) fn leave_alone(&self, family: Family, slot: Slot) -> u64 {
        let until_ms = self.clock.now_ms() + FOREIGN_REST_MS;
        self.ledger.exclude_until(family, slot.0..slot.0 + 1, until_ms);
        until_ms
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
    let address = destination.address();
    if address.port() == 0 || address.ip().is_unspecified() || lacks_scope(&address) {
        return Err(no_destination(address));
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
