//! The pool's territory: the ledger is its tenant, and whoever calls the pool looks after it.

use super::random::Stream;
use crate::error::Error;
use crate::kernel::Monotonic;
use crate::ledger::{Clock, Family, From, Ledger, Slot, Source, Usage, Why};
use crate::sync::{AtomicU64, Ordering};
use crate::territory::{Growth, Hold, Plan, Run, Tenant, Territory};
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};

/// Maintenance takes one part in so many of a processor at most, however much is leased.
pub(super) const DUTY: u64 = 20;

/// Between two looks at a file with which something is wrong.
const REPAIR_MS: u64 = 1_000;

pub(super) struct Grounds {
    territory: Territory,
    /// When maintenance is due next.
    due_ms: AtomicU64,
}

impl Grounds {
    /// The ledger begins with every slot granted, and loses what is not ours.
    pub(super) fn new(
        plan: &Plan,
        sources: &[Source],
        ledger: &Ledger,
        clock: &Monotonic,
    ) -> Result<Self, Error> {
        let territory = Territory::new(plan, sources, &Leaser { ledger, clock })?;
        Ok(Self { territory, due_ms: AtomicU64::new(0) })
    }

    /// Whether ports come and go. Where not, nothing here costs anything.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.territory, Territory::Shared(_))
    }

    pub(super) fn shared_fds(&self) -> [Option<RawFd>; 2] {
        self.territory.shared_fds()
    }

    pub(super) fn blocks_held(&self) -> Result<Option<u32>, Error> {
        self.territory.blocks_held()
    }

    /// Asks for more ports; see [`Territory::grow`].
    pub(super) fn grow(
        &self,
        family: Family,
        from: From,
        ledger: &Ledger,
        clock: &Monotonic,
        random: &mut Stream<'_>,
    ) -> Result<Growth, Error> {
        self.territory.grow(family, from, &Leaser { ledger, clock }, random)
    }

    /// Claims the ports around one slot; see [`Territory::hold`].
    pub(super) fn hold(
        &self,
        family: Family,
        slot: Slot,
        ledger: &Ledger,
        clock: &Monotonic,
    ) -> Result<Hold, Error> {
        self.territory.hold(family, slot, &Leaser { ledger, clock })
    }

    /// Whether ports of ours are kept from new leases so that they can be given back; see
    /// [`Territory::is_draining`].
    pub(super) fn is_draining(&self, family: Family, from: From) -> bool {
        self.territory.is_draining(family, from)
    }

    /// A descriptor that can be read when maintenance is worth a call; see [`Territory::bell`].
    pub(super) fn bell(&self) -> Result<OwnedFd, Error> {
        self.territory.bell()
    }

    /// Whether ports are shared and it is time to maintain. Asked by every call.
    #[inline]
    pub(super) fn is_due(&self, clock: &Monotonic) -> bool {
        // Relaxed: only how often there is maintenance hangs on it.
        self.is_shared() && clock.about_now_ms() >= self.due_ms.load(Ordering::Relaxed)
    }

    /// Maintains the territory where [`Grounds::is_due`], unless somebody else is about to.
    #[cold]
    pub(super) fn maintain_since_due(
        &self,
        ledger: &Ledger,
        clock: &Monotonic,
        random: &mut Stream<'_>,
    ) {
        // Relaxed, both: as in `is_due`.
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        let now_ms = clock.now_ms();
        let soon_ms = now_ms + Territory::MAINTAIN_MS;
        let is_ours = || {
            self.due_ms
                .compare_exchange(due_ms, soon_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        if now_ms >= due_ms && is_ours() {
            // What is wrong with the file has revoked all that was granted, so the next acquire
            // asks for more and is told.
            let _ = self.maintain(ledger, clock, random);
        }
    }

    /// Maintains the territory now; whether others are in want and we hold something.
    #[cold]
    pub(super) fn maintain(
        &self,
        ledger: &Ledger,
        clock: &Monotonic,
        random: &mut Stream<'_>,
    ) -> Result<bool, Error> {
        let begin_ms = clock.now_ms();
        let tenant = Leaser { ledger, clock };
        let done = self.territory.maintain(begin_ms, &tenant, random);
        let end_ms = clock.now_ms();
        let pause_ms = Territory::MAINTAIN_MS.max((end_ms - begin_ms) * DUTY);
        // Relaxed: as in `is_due`.
        self.due_ms.store(end_ms + pause_ms, Ordering::Relaxed);
        // After an error somebody may repair the file.
        let next_ms = done.as_ref().map_or(Some(REPAIR_MS), |outlook| outlook.next_ms);
        self.territory.ring_in(next_ms.map(|next_ms| next_ms.max(pause_ms)));
        done.map(|outlook| outlook.is_pressed)
    }
}

/// The ledger, which knows ports that are not ours and not why.
struct Leaser<'a> {
    ledger: &'a Ledger,
    clock: &'a Monotonic,
}

impl Tenant for Leaser<'_> {
    fn grant(&self, run: Run) {
        self.ledger.include(run.family, run.first, run.count, Why::NotOurs);
    }

    fn revoke(&self, run: Run) {
        self.ledger.exclude(run.family, run.first, run.count, Why::NotOurs);
    }

    fn usage(&self, runs: &[Run]) -> Usage {
        let Some(family) = runs.first().map(|run| run.family) else { return Usage::default() };
        let windows: Vec<Range<u32>> =
            runs.iter().map(|run| run.first.0..run.first.0 + run.count).collect();
        self.ledger.usage(family, &windows, self.clock)
    }
}
