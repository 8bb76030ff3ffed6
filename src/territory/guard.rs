//! Keeps pools on different files from leasing the same ports: locks on the network namespace.
//!
//! A file can be removed or replaced while pools hold locks on it, and pools on the new one do not
//! see them. The network namespace, whose ports these are, cannot. So each pool locks, on the
//! namespace's own inode (`/proc/thread-self/ns/net`), the bytes that stand for its file and for
//! all blocks that it may ever claim, and refuses where others have locked those of another file.
//! Locks first, looks then: of two that come at once with two files at least one is refused.

use super::descriptor::Descriptor;
use super::file::{failed, unfit};
use super::ground::Ground;
use super::locks::{self, Lock, Mode};
use crate::Error;
use crate::ledger::{Family, Source};
use siphasher::sip::SipHasher24;
use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// Of the thread that builds the pool: threads can be in different namespaces (Linux 3.17).
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// A file's fingerprint is cut in halves, for an offset has no room for both; each half has an area
/// of its own for each family. Two files that live at once have one in 2^38 chances to look alike.
const HALVES: u32 = 2;
const AREA_BITS: u32 = 61;
const HALF_BITS: u32 = AREA_BITS - Ground::PLACE_BITS;

/// Locks on the network namespace. They go when this is dropped, or when its process ends.
#[derive(Debug)]
pub(super) struct Guard {
    descriptor: Descriptor,
}

/// Device and inode of the file that a pool uses.
pub(super) type Identity = (u64, u64);

impl Guard {
    /// `path` is the shared file, for what is said where this fails.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let namespace = File::open(NAMESPACE).map_err(|error| {
            let problem = "the network namespace cannot be opened to guard it against a second \
                           file (/proc/thread-self/ns/net): mount /proc";
            failed(path, problem, error)
        })?;
        Ok(Self { descriptor: Descriptor::new(namespace)? })
    }

    /// `None` in a child of the process that opened it.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.descriptor.get().ok().map(|fd| fd.as_raw_fd())
    }

    /// Locks what `grounds` may claim for the file `identity`; an error where another file is in
    /// use for some of it.
    pub(super) fn enter(
        &self,
        path: &Path,
        identity: Identity,
        grounds: &[Ground],
        sources: &[Source],
    ) -> Result<(), Error> {
        let raw = self.descriptor.get()?.as_raw_fd();
        for (ground, half) in areas(grounds) {
            let first = first_byte(ground, half, fingerprint(identity, half));
            for (_, place) in ground.places() {
                let bytes = first + place.start..first + place.end;
                // Never busy: nobody can open a namespace for writing, so all locks are shared.
                let _: Lock = locks::lock(raw, bytes, Mode::Shared)
                    .map_err(|error| not_locked(path, error))?;
            }
        }
        self.refuse_others(path, Some(identity), grounds, sources)
    }

    /// An error where a file other than `identity` is in use for some of `grounds`.
    pub(super) fn refuse_others(
        &self,
        path: &Path,
        identity: Option<Identity>,
        grounds: &[Ground],
        sources: &[Source],
    ) -> Result<(), Error> {
        let raw = self.descriptor.get()?.as_raw_fd();
        for (ground, half) in areas(grounds) {
            let all = first_byte(ground, half, 0)..first_byte(ground, half, 1 << HALF_BITS);
            let ours = identity.map_or(all.start..all.start, |identity| {
                let first = first_byte(ground, half, fingerprint(identity, half));
                first..first + (1 << Ground::PLACE_BITS)
            });
            for bytes in [all.start..ours.start, ours.end..all.end] {
                let found =
                    locks::locks_of_others(raw, bytes).map_err(|error| not_locked(path, error))?;
                let in_common = found.into_iter().find_map(|bytes| ground.in_common(&bytes));
                if let Some(blocks) = in_common {
                    return Err(refusal(path, ground, sources, blocks));
                }
            }
        }
        Ok(())
    }

    /// Whether the locks are still there, as far as can be told.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        match self.descriptor.is_intact()? {
            true => Ok(()),
            false => Err(unfit(path, Descriptor::CLOSED)),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // As with the file: closing alone would leave the locks to a child of a bare clone.
        if let Ok(true) = self.descriptor.is_intact() {
            if let Ok(descriptor) = self.descriptor.get() {
                let _ = locks::unlock(descriptor.as_raw_fd(), locks::ALL);
            }
        }
    }
}

fn areas(grounds: &[Ground]) -> impl Iterator<Item = (&Ground, u32)> {
    let used = grounds.iter().filter(|ground| ground.block_count() > 0);
    used.flat_map(|ground| (0..HALVES).map(move |half| (ground, half)))
}

fn first_byte(ground: &Ground, half: u32, fingerprint: u64) -> u64 {
    let area = match ground.family() {
        Family::V4 => half,
        Family::V6 => HALVES + half,
    };
    (u64::from(area) << AREA_BITS) + (fingerprint << Ground::PLACE_BITS)
}

fn fingerprint((device, inode): Identity, half: u32) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, half.into());
    hasher.write_u64(device);
    hasher.write_u64(inode);
    hasher.finish() >> (u64::BITS - HALF_BITS)
}

fn not_locked(path: &Path, error: io::Error) -> Error {
    let problem = "the network namespace cannot be locked to guard it against a second file (fcntl \
                   F_OFD_SETLK on /proc/thread-self/ns/net, since Linux 3.15): allow that, or give \
                   each process a slice of its own";
    failed(path, problem, error)
}

fn refusal(path: &Path, ground: &Ground, sources: &[Source], blocks: Range<u32>) -> Error {
    let index = (0..sources.len() as u32)
        .find(|index| ground.blocks_of(*index).contains(&blocks.start))
        .expect("each block is of a source");
    let address = sources[index as usize].address;
    unfit(
        path,
        format!(
            "ports of source {address} are in use through another shared file, or through one of \
             this name that was removed or replaced: name the same file, or end the pools that \
             have the other one"
        ),
    )
}
