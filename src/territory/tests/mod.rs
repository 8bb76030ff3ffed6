//! Promises: no block has two holders, in one process or in many, however they die; "nothing free"
//! is said only when no block is free; what one does not use, another that starves gets; whatever
//! is wrong with the file is an error, and grants nothing.

mod cutting;
mod file;
mod guard;
mod processes;
mod sharing;

use super::{Growth, Plan, Run, Tenant, Territory};
use crate::ledger::{Family, From, PortRange, Source, Usage};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use siphasher::sip::SipHasher24;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Remembers which slots it may lease and which it says it uses.
#[derive(Default)]
struct Book {
    granted: RefCell<BTreeSet<(bool, u32)>>,
    used: RefCell<BTreeSet<(bool, u32)>>,
}

fn slots(run: Run) -> impl Iterator<Item = (bool, u32)> {
    (run.first.0..run.first.0 + run.count).map(move |slot| (run.family == Family::V6, slot))
}

impl Tenant for Book {
    fn grant(&self, run: Run) {
        for slot in slots(run) {
            assert!(self.granted.borrow_mut().insert(slot), "granted twice: {slot:?}");
        }
    }

    fn revoke(&self, run: Run) {
        for slot in slots(run) {
            self.granted.borrow_mut().remove(&slot);
        }
    }

    /// All is used towards one destination.
    fn usage(&self, runs: &[Run]) -> Usage {
        let book = self.used.borrow();
        let used = runs.iter().map(|run| slots(*run).filter(|slot| book.contains(slot)).count());
        let used: Vec<u32> = used.map(|count| count as u32).collect();
        Usage { most: used.iter().sum(), used }
    }
}

/// A territory with its tenant and seed.
struct Pool {
    territory: Territory,
    book: Book,
    random: ChaCha8Rng,
}

impl Pool {
    /// On addresses that belong to the file's folder, so that tests side by side do not meet.
    fn new(path: &Path, sources: &[Source]) -> Result<Self, crate::Error> {
        Self::as_is(path, &moved_to(path.parent().unwrap_or(path), sources))
    }

    fn as_is(path: &Path, sources: &[Source]) -> Result<Self, crate::Error> {
        let book = Book::default();
        let territory = Territory::new(&Plan::Shared(path.to_owned()), sources, &book)?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        Ok(Self { territory, book, random: ChaCha8Rng::seed_from_u64(seed) })
    }

    fn grow(&mut self) -> Growth {
        self.try_grow(Family::V4, From::AnySource).unwrap()
    }

    fn try_grow(&mut self, family: Family, from: From) -> Result<Growth, crate::Error> {
        self.territory.grow(family, from, &self.book, &mut self.random)
    }

    fn grow_to_the_end(&mut self) {
        while self.grow() != Growth::NothingFree {}
    }

    fn maintain(&mut self, now_ms: u64) -> Result<(), crate::Error> {
        self.territory.maintain(now_ms, &self.book, &mut self.random).map(drop)
    }

    fn use_all(&self) {
        self.book.used.borrow_mut().extend(self.book.granted.borrow().iter());
    }

    fn granted(&self) -> BTreeSet<(bool, u32)> {
        self.book.granted.borrow().clone()
    }
}

/// The same sources under addresses whose first bits follow from `folder`.
fn moved_to(folder: &Path, sources: &[Source]) -> Vec<Source> {
    let mut hasher = SipHasher24::new();
    hasher.write(folder.as_os_str().as_bytes());
    let bits = hasher.finish();
    let moved = |address| match address {
        IpAddr::V4(address) => {
            Ipv4Addr::from_bits(address.to_bits() & 0xff | (bits as u32) << 8).into()
        }
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() ^ u128::from(bits) << 16).into()
        }
    };
    sources
        .iter()
        .map(|source| Source { address: moved(source.address), ..source.clone() })
        .collect()
}

fn source(address: &str, ranges: &[RangeInclusive<u16>]) -> Source {
    Source {
        address: address.parse().unwrap(),
        scope: 0,
        ports: ranges
            .iter()
            .map(|range| PortRange::new(*range.start(), *range.end()).unwrap())
            .collect(),
    }
}

/// A directory that goes when the test ends, on a local filesystem.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portlease-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("territory")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
