//! What a failed call means for the pool: who rests, and for how long.

use super::inner::Inner;
use crate::error::{Error, Exhausted};
use crate::kernel::{
    self, BindMode, Call, ClosedFirst, Diag, SocketState, SourceOptions, TIME_WAIT_MS, Verdict,
};
use crate::ledger::{
    Clock, Destination, Family, FourTuple, Slot, SourcePort, Then, socket_address,
};
use std::io;
use std::net::SocketAddr;

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

/// A source that rests for a reason that no waiting ends.
pub(super) struct Unusable {
    call: Call,
    source_address: SocketAddr,
    os_error: i32,
    until_ms: u64,
}

impl Inner {
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

    /// What `connect` would say for want of the four-tuple, without a socket: another has it, or
    /// TIME_WAIT does. Not for sources with an interface of their own, whose number it takes to ask.
    pub(super) fn probe(&self, four_tuple: &FourTuple) -> Result<(), Error> {
        let FourTuple { source, destination } = four_tuple;
        let is_held = match self.finder.find(four_tuple)? {
            None => false,
            Some(SocketState::Live | SocketState::Orphan) => true,
            Some(SocketState::TimeWait { left_ms }) => {
                let tcp = self.host.closed(ClosedFirst::Us);
                let ago_ms = TIME_WAIT_MS.saturating_sub(left_ms.into());
                self.host.rest_ms(*source, destination, tcp, 0) > ago_ms
            }
        };
        match is_held {
            false => Ok(()),
            true => Err(Error::Os {
                call: "connect",
                source_address: Some(*source),
                destination: Some(destination.address()),
                error: kernel::taken(),
            }),
        }
    }

    /// The kernel's own words where it lets nothing of the pool be used: to wait for a port, as
    /// who is exhausted does, would not help.
    pub(super) fn why_unusable(&self, exhausted: &Exhausted) -> Option<Error> {
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
}
