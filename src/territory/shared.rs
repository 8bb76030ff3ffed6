//! Blocks that the processes of a host share: when to claim, when to give back.

use super::bell::Bell;
use super::file::SharedFile;
use super::ground::Ground;
use super::guard::Guard;
use super::locks::{Lock, Mode};
use super::{Growth, Hold, Outlook, Tenant, Territory};
use crate::Error;
use crate::ledger::{Family, From, Slot, Source};
use crate::sync::{AtomicU64, Mutex, Ordering};
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

/// An empty block is kept this long before it is given back, if nobody is in want of it.
pub(super) const IDLE_MS: u64 = 10_000;

/// A process counts as starving until this long after its last fruitless wish.
const HUNGER_MS: u64 = 1_000;

/// Blocks count as scarce until this long after anybody was last seen to starve. Then nobody claims
/// ahead of need, which would only move the want to another.
const SCARCE_MS: u64 = 10_000;

/// Blocks that one lock takes at most. Neighbours are one entry in the kernel's list of the
/// file's locks, which every call walks; more of them would bare a process's ports to a guess.
const RUN_MAX: u32 = 64;

/// Between two looks at what is empty while nobody starves.
const LOOK_MS: u64 = IDLE_MS / 4;

/// A shared file and what this process holds of it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) file: SharedFile,
    /// Behind the file: who may come with another file must find the blocks given back.
    guard: Guard,
    pub(super) sources: Vec<Source>,
    grounds: [Ground; 2],
    /// Passes over all blocks that have begun, of each family: who waits for the lock while
    /// another's pass begins and finds nothing need not make one of its own.
    passes: [AtomicU64; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sides: [Side; 2],
    /// For those who wait for others to be in want; made when it is first asked for.
    bell: Option<Bell>,
    /// The file was not the one that our locks are on when last looked at.
    lost: bool,
}

/// What is held of one family.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) held: BTreeMap<u32, Held>,
    /// When to look next at what is empty, if nobody starves before.
    next_look_ms: u64,
    /// Claimed since the last call of `maintain`: more will be wanted.
    growing: bool,
    /// Whether anybody was seen to starve since the last call of `maintain`.
    want_seen: bool,
    scarce_until_ms: u64,
    is_scarce: bool,
    /// The last pass over all sources that found nothing.
    fruitless: u64,
    /// The last pass that found something.
    fruitful: u64,
    /// Sources that we starve for, each with the end of its hunger; `None` if we have asked in vain
    /// since the last call of `maintain`.
    pub(super) hunger: BTreeMap<u32, Option<u64>>,
    /// Whether the file was touched for our hunger since the last call of `maintain`.
    pub(super) is_announced: bool,
    /// Blocks that are not drained, since they turned out to be needed, until a moment.
    pub(super) kept_min: usize,
    kept_until_ms: u64,
    /// Whether a block was taken back since the last call of `maintain`.
    pub(super) has_taken_back: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// When the block was first seen empty, if it has been so at each look since.
    pub(super) empty_since_ms: Option<u64>,
    /// Kept from new leases, so that it can be given back when those that it has are over.
    pub(super) is_draining: bool,
}

impl Shared {
    pub(super) fn new(
        path: &Path,
        sources: &[Source],
        tenant: &impl Tenant,
    ) -> Result<Self, Error> {
        let grounds = [Ground::new(Family::V4, sources)?, Ground::new(Family::V6, sources)?];
        let guard = Guard::open(path)?;
        if !path.exists() {
            // Before it is made: those who still have the former one are told that it is gone.
            guard.refuse_others(path, None, &grounds, sources)?;
        }
        let file = SharedFile::open(path)?;
        guard.enter(file.path(), file.identity(), &grounds, sources)?;
        for ground in grounds.iter().filter(|ground| ground.block_count() > 0) {
            tenant.revoke(ground.run(0..ground.block_count()));
        }
        let state = Mutex::new(State::default());
        let passes = [AtomicU64::new(0), AtomicU64::new(0)];
        Ok(Self { file, guard, sources: sources.to_vec(), grounds, passes, state })
    }

    pub(super) fn grow(
        &self,
        family: Family,
        from: From,
        tenant: &impl Tenant,
        random: &mut impl RngCore,
    ) -> Result<Growth, Error> {
        // Before the lock: in a child of fork it may be held by a thread that is not there.
        self.file.check_process()?;
        let passes = &self.passes[family as usize];
        // Relaxed: a number that is too small costs a pass; too large it cannot be, as only the
        // lock's owner counts, and whoever sees its count has asked after that pass began.
        let begun = passes.load(Ordering::Relaxed);
        let mut state = self.state.lock();
        self.check(&mut state, tenant)?;
        let State { sides, bell, .. } = &mut *state;
        let (ground, side) = (&self.grounds[family as usize], &mut sides[family as usize]);
        let among = ground.blocks_for(from);
        // Before all else: "nothing free" is not true while something is kept from new leases.
        if let Some(run) = side.take_back_one(ground, &among, random) {
            tenant.grant(run);
            return Ok(Growth::Grown(run.count));
        }
        if side.fruitless > begun {
            return Ok(Growth::NothingFree);
        }
        if side.fruitful > begun && from == From::AnySource {
            return Ok(Growth::Grown(0));
        }
        side.want_seen |= !self.others_starve(ground)?.is_empty();
        // Relaxed: counted under the lock.
        let pass = passes.fetch_add(1, Ordering::Relaxed) + 1;
        match self.claim(ground, side, among.clone(), side.wanted(), random)? {
            Some(blocks) => {
                (side.growing, side.fruitful) = (true, pass);
                if let Some(bell) = bell {
                    bell.ring_in(Some(Territory::MAINTAIN_MS));
                }
                tenant.grant(ground.run(blocks.clone()));
                self.end_hunger(ground, side, |_| true)?;
                let run = ground.run(blocks);
                Ok(Growth::Grown(run.count))
            }
            None => {
                if from == From::AnySource {
                    side.fruitless = pass;
                }
                side.want_seen = true;
                self.starve(ground, side, &among)?;
                Ok(Growth::NothingFree)
            }
        }
    }

    pub(super) fn hold(
        &self,
        family: Family,
        slot: Slot,
        tenant: &impl Tenant,
    ) -> Result<Hold, Error> {
        self.file.check_process()?;
        let mut state = self.state.lock();
        self.check(&mut state, tenant)?;
        let (ground, side) = (&self.grounds[family as usize], &mut state.sides[family as usize]);
        let block = ground.block_of(slot);
        let held = side.held.get(&block);
        if held.is_some_and(|held| !held.is_draining) {
            return Ok(Hold::Ours);
        }
        let bytes = ground.bytes(&(block..block + 1));
        if held.is_none() && self.file.lock(bytes, Mode::Exclusive)? == Lock::Busy {
            return Ok(Hold::Theirs(self.file.path().to_owned()));
        }
        side.held.insert(block, Held::default());
        tenant.grant(ground.run(block..block + 1));
        if let Some(bell) = &state.bell {
            bell.ring_in(Some(Territory::MAINTAIN_MS));
        }
        Ok(Hold::Granted)
    }

    pub(super) fn maintain(
        &self,
        now_ms: u64,
        tenant: &impl Tenant,
        random: &mut impl RngCore,
    ) -> Result<Outlook, Error> {
        self.file.check_process()?;
        let mut state = self.state.lock();
        if let Some(bell) = &state.bell {
            bell.hush();
        }
        self.check(&mut state, tenant)?;
        let (mut next_ms, mut is_pressed) = (None, false);
        for (ground, side) in self.grounds.iter().zip(&mut state.sides) {
            self.end_hunger(ground, side, |until_ms| {
                *until_ms.get_or_insert(now_ms + HUNGER_MS) <= now_ms
            })?;
            let starving = self.others_starve(ground)?;
            side.note_want(!starving.is_empty(), now_ms);
            if !starving.is_empty() {
                self.yield_to(ground, side, &starving, tenant)?;
            } else if !side.is_scarce {
                side.end_draining(ground, tenant);
            }
            if side.next_look_ms <= now_ms {
                side.next_look_ms = now_ms + LOOK_MS;
                self.give_back_idle(ground, side, now_ms, tenant)?;
            }
            if std::mem::take(&mut side.growing) && !side.is_scarce {
                let all = 0..ground.block_count();
                if let Some(blocks) = self.claim(ground, side, all, side.wanted(), random)? {
                    tenant.grant(ground.run(blocks));
                }
            }
            if side.is_announced && !side.hunger.is_empty() {
                self.file.touch()?;
            }
            side.is_announced = false;
            is_pressed |= !starving.is_empty() && !side.held.is_empty();
            next_ms = next_ms.into_iter().chain(side.next_ms(now_ms, !starving.is_empty())).min();
        }
        let next_ms = next_ms.map(|next_ms: u64| next_ms.saturating_sub(now_ms));
        Ok(Outlook { next_ms, is_pressed })
    }

    pub(super) fn bell(&self) -> Result<OwnedFd, Error> {
        self.file.check_process()?;
        let mut state = self.state.lock();
        if state.bell.is_none() {
            state.bell = Some(Bell::new(&self.file)?);
        }
        state.bell.as_ref().expect("it was made if there was none").descriptor()
    }

    pub(super) fn ring_in(&self, wait_ms: Option<u64>) {
        if self.file.check_process().is_ok() {
            if let Some(bell) = &self.state.lock().bell {
                bell.ring_in(wait_ms);
            }
        }
    }

    pub(super) fn is_draining(&self, family: Family, from: From) -> bool {
        let among = self.grounds[family as usize].blocks_for(from);
        self.file.check_process().is_ok()
            && self.state.lock().sides[family as usize]
                .held
                .range(among)
                .any(|(_, held)| held.is_draining)
    }

    pub(super) fn fds(&self) -> [Option<RawFd>; 2] {
        [self.file.fd(), self.guard.fd()]
    }

    pub(super) fn blocks_held(&self) -> Result<u32, Error> {
        self.file.check_process()?;
        Ok(self.state.lock().sides.iter().map(|side| side.held.len() as u32).sum())
    }

    /// Revokes all that is held while the file is not the one that our locks are on, and grants
    /// it again when it is: the locks themselves are never given up by this.
    fn check(&self, state: &mut State, tenant: &impl Tenant) -> Result<(), Error> {
        let verdict = self.file.check().and_then(|()| self.guard.check(self.file.path()));
        if state.lost != verdict.is_err() {
            state.lost = verdict.is_err();
            for (ground, side) in self.grounds.iter().zip(&state.sides) {
                for (block, _) in side.held.iter().filter(|(_, held)| !held.is_draining) {
                    let run = ground.run(*block..*block + 1);
                    if state.lost { tenant.revoke(run) } else { tenant.grant(run) }
                }
            }
        }
        verdict
    }

    /// Up to `want` free neighbours among the blocks `among`: the first from a random one on.
    /// `None` only after one complete pass over all of them.
    fn claim(
        &self,
        ground: &Ground,
        side: &mut Side,
        among: Range<u32>,
        want: u32,
        random: &mut impl RngCore,
    ) -> Result<Option<Range<u32>>, Error> {
        if among.is_empty() {
            return Ok(None);
        }
        let start = among.start + (random.next_u64() % u64::from(among.end - among.start)) as u32;
        for part in [start..among.end, among.start..start] {
            let found = self.claim_first(ground, side, part, want)?;
            if let Some(blocks) = found {
                side.held.extend(blocks.clone().map(|block| (block, Held::default())));
                return Ok(Some(blocks));
            }
        }
        Ok(None)
    }

    fn claim_first(
        &self,
        ground: &Ground,
        side: &Side,
        among: Range<u32>,
        want: u32,
    ) -> Result<Option<Range<u32>>, Error> {
        let mut next = among.start;
        while next < among.end {
            let mut ours = side.held.range(next..among.end).map(|(block, _)| *block).peekable();
            while ours.next_if_eq(&next).is_some() {
                next += 1;
            }
            if next == among.end {
                break;
            }
            let mut gap = ground.unbroken(next..ours.next().unwrap_or(among.end));
            let bytes = ground.bytes(&gap);
            // The first byte alone: where nearly all is taken this is one call for each lock.
            if let Some(theirs) = self.file.lock_of_another(bytes.start..bytes.start + 1)? {
                next += (theirs.end.min(bytes.end) - bytes.start) as u32;
                continue;
            }
            // All of `gap` may be free; each lock of another that is met makes it shorter.
            while let Some(theirs) = self.file.lock_of_another(ground.bytes(&gap))? {
                gap.end = gap.start + theirs.start.saturating_sub(bytes.start) as u32;
                if gap.is_empty() {
                    break;
                }
            }
            gap.end = gap.end.min(gap.start + want);
            // Busy: somebody was quicker, so somebody got on. Look again from the same place.
            if !gap.is_empty()
                && self.file.lock(ground.bytes(&gap), Mode::Exclusive)? == Lock::Taken
            {
                return Ok(Some(gap));
            }
        }
        Ok(None)
    }
}

impl Side {
    /// When there may be something to do that nobody else tells of.
    fn next_ms(&self, now_ms: u64, others_starve: bool) -> Option<u64> {
        let soon_ms = now_ms + Territory::MAINTAIN_MS;
        match (self.held.is_empty(), self.hunger.is_empty()) {
            (false, _) if others_starve => Some(soon_ms),
            (_, false) => Some(now_ms + HUNGER_MS),
            // The last connection may end without a call, in TIME_WAIT.
            (false, true) => Some(self.next_look_ms.max(soon_ms)),
            (true, true) => None,
        }
    }

    fn note_want(&mut self, is_seen: bool, now_ms: u64) {
        if std::mem::take(&mut self.want_seen) || is_seen {
            self.scarce_until_ms = now_ms + SCARCE_MS;
        }
        self.is_scarce = now_ms < self.scarce_until_ms;
        if std::mem::take(&mut self.has_taken_back) {
            self.kept_until_ms = now_ms + SCARCE_MS;
        } else if self.kept_until_ms <= now_ms {
            self.kept_min = 0;
        }
    }

    /// A sixteenth of what is held, so that a process that grows claims a number of times that goes
    /// with the logarithm, and never holds much more than it needed: leases spread over all that is
    /// held, so what is too much is not empty and cannot be given back soon. One block where they
    /// are scarce.
    fn wanted(&self) -> u32 {
        if self.want_seen || self.is_scarce {
            return 1;
        }
        (self.held.len() as u32 / 16).clamp(1, RUN_MAX)
    }
}
