//! The set of ports that are ours to lease: all of the configured ones, a pinned slice of them, or
//! blocks that the processes of a host claim and give back as they need them.
//!
//! The ledger sees grants and revocations of runs of slots and never learns where they come from:
//! whoever owns both passes them on as a [`Tenant`].

mod bell;
mod descriptor;
mod file;
mod giving;
mod ground;
mod guard;
mod hunger;
mod locks;
mod shared;
mod slice;
#[cfg(test)]
mod tests;

pub use slice::Slice;

use crate::Error;
use crate::ledger::{Family, From, Slot, Source, Usage};
use rand_chacha::rand_core::RngCore;
use shared::Shared;
use std::ops::RangeInclusive;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

/// Slots that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) family: Family,
    pub(crate) first: Slot,
    pub(crate) count: u32,
}

/// Who leases the ports of a territory. Its methods are called under the territory's lock: they
/// must not call back into it.
pub(crate) trait Tenant {
    /// From now on the run may be leased.
    fn grant(&self, run: Run);
    /// From now on the run may not be leased; leases that exist go on. When this returns, no
    /// acquire that is under way may still take a slot of the run without [`Tenant::usage`]
    /// showing it.
    fn revoke(&self, run: Run);
    /// How much of the runs is leased or resting. They are of one family, sorted and apart. To be
    /// asked seldom, for many: it is a pass over all that is leased.
    fn usage(&self, runs: &[Run]) -> Usage;
}

/// Which territory a pool is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plan {
    /// All ports of the sources.
    #[default]
    Whole,
    /// A pinned part of them.
    Slice(Slice),
    /// Blocks claimed on the file that all pools of the host name.
    Shared(PathBuf),
}

/// What became of the wish for more ports.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// The tenant has been granted this many slots: zero where another thread's claim came
    /// between, which may do for this one too.
    Grown(u32),
    /// In one complete pass no block was free for us: what the ledger holds is all there is now.
    NothingFree,
}

/// What maintenance has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Milliseconds after which to maintain again where nothing else happens; `None`: no need.
    pub(crate) next_ms: Option<u64>,
    /// Others are in want, and we hold something.
    pub(crate) is_pressed: bool,
}

/// Who holds the block that a slot lies in.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// This pool did already, or there are no blocks.
    Ours,
    /// This pool does from now on: the tenant has been granted the block.
    Granted,
    /// Another pool on this file.
    Theirs(PathBuf),
}

/// The ports that this process may lease.
#[derive(Debug)]
pub(crate) enum Territory {
    /// Settled once and for all, when the pool was built.
    Fixed,
    /// Changes as the processes of the host claim and give back.
    Shared(Box<Shared>),
}

impl Territory {
    /// Revokes what is not ours from the start; the tenant begins with every slot granted.
    /// `sources` as the ledger got them.
    pub(crate) fn new(
        plan: &Plan,
        sources: &[Source],
        tenant: &impl Tenant,
    ) -> Result<Self, Error> {
        let families = [Family::V4, Family::V6];
        match plan {
            Plan::Whole => Ok(Self::Fixed),
            Plan::Slice(slice) => {
                let rest = families.iter().flat_map(|family| slice.rest_of(*family, sources));
                rest.for_each(|run| tenant.revoke(run));
                Ok(Self::Fixed)
            }
            Plan::Shared(path) => Ok(Self::Shared(Box::new(Shared::new(path, sources, tenant)?))),
        }
    }

    /// Called when the ledger has nothing for `from`, before anyone is told "exhausted". One
    /// answer of [`Growth::Grown`] asks for another try at the ledger, and so on: other threads
    /// may have taken what was granted.
    pub(crate) fn grow(
        &self,
        family: Family,
        from: From,
        tenant: &impl Tenant,
        random: &mut impl RngCore,
    ) -> Result<Growth, Error> {
        match self {
            Self::Fixed => Ok(Growth::NothingFree),
            Self::Shared(shared) => shared.grow(family, from, tenant, random),
        }
    }

    /// Claims the block of one slot, for a socket that exists already.
    pub(crate) fn hold(
        &self,
        family: Family,
        slot: Slot,
        tenant: &impl Tenant,
    ) -> Result<Hold, Error> {
        match self {
            Self::Fixed => Ok(Hold::Ours),
            Self::Shared(shared) => shared.hold(family, slot, tenant),
        }
    }

    /// The ports that are in one block with `port`.
    pub(crate) fn block_of(port: u16) -> RangeInclusive<u16> {
        let first = port / ground::BLOCK_PORTS * ground::BLOCK_PORTS;
        first..=first + (ground::BLOCK_PORTS - 1)
    }

    /// Whether blocks for `from` are kept from new leases until they are empty; [`Territory::grow`] grants them
    /// again before it claims any.
    pub(crate) fn is_draining(&self, family: Family, from: From) -> bool {
        match self {
            Self::Fixed => false,
            Self::Shared(shared) => shared.is_draining(family, from),
        }
    }

    /// To be called every [`Territory::MAINTAIN_MS`] or so, off the way of an acquire: claims
    /// ahead of need, gives back what is idle or what others starve for, and looks whether the
    /// file is still the one that our locks are on. After an error nothing is granted until a
    /// later call succeeds.
    pub(crate) fn maintain(
        &self,
        now_ms: u64,
        tenant: &impl Tenant,
        random: &mut impl RngCore,
    ) -> Result<Outlook, Error> {
        match self {
            Self::Fixed => Ok(Outlook::default()),
            Self::Shared(shared) => shared.maintain(now_ms, tenant, random),
        }
    }

    /// Milliseconds between two calls of [`Territory::maintain`]: how long a starving process
    /// waits for what others hold and do not use.
    pub(crate) const MAINTAIN_MS: u64 = 50;

    /// A descriptor that can be read when [`Territory::maintain`] is worth a call: at the time set by
    /// [`Territory::ring_in`], and when others come to be in want or the file is changed.
    pub(crate) fn bell(&self) -> Result<OwnedFd, Error> {
        match self {
            Self::Fixed => bell::silent().map_err(|error| Error::Os {
                call: "epoll_create1",
                source_address: None,
                destination: None,
                error,
            }),
            Self::Shared(shared) => shared.bell(),
        }
    }

    /// Sets when the bell rings at the latest, if there is one.
    pub(crate) fn ring_in(&self, wait_ms: Option<u64>) {
        if let Self::Shared(shared) = self {
            shared.ring_in(wait_ms);
        }
    }

    /// The descriptors that locks are on.
    pub(crate) fn shared_fds(&self) -> [Option<RawFd>; 2] {
        match self {
            Self::Fixed => [None; 2],
            Self::Shared(shared) => shared.fds(),
        }
    }

    /// Blocks held, for whoever wants to print them; `None` where nothing is counted in blocks.
    pub(crate) fn blocks_held(&self) -> Result<Option<u32>, Error> {
        match self {
            Self::Fixed => Ok(None),
            Self::Shared(shared) => shared.blocks_held().map(Some),
        }
    }
}
