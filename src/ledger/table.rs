//! The destinations of one shard: a hash table whose buckets are cache lines.
//!
//! A bucket counts the entries that wanted it and found it full, so that a look-up that
//! misses ends, nearly always, in the line where it began. Growth is by a quarter, to keep
//! a million destinations at 21 bytes each instead of 35, and nobody waits for it: whoever
//! changes the table afterwards moves a few of the old buckets.

use super::field::Won;
use super::hash::Hasher;
use super::key::Key;
use super::stamp::Stamp;

/// Entries per hundred places above which the table grows, below which it shrinks.
const LOAD_MAX: usize = 82;
const LOAD_MIN: usize = 35;
/// Entries below that before it does: how many a small table has swings more than its load does.
const SWING: usize = 8;
/// Old buckets that one change moves: all are moved before the table can change its size again,
/// which takes a change for each three buckets at least (from shrunk to too full).
const MOVES: usize = 32;

/// What is known of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// One slot, leased or resting.
    One(Won),
    /// An index into the shard's small sets.
    Small(u32),
    /// An index into the shard's fields.
    Field(u32),
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    /// Its low byte: two bits of kind (0: empty) and, in a bucket's first entry, six bits that
    /// count the bucket's overflow.
    key: K,
    value: u64,
}

const KIND: u64 = 3;
const OVERFLOW: u64 = 0xfc;
const TAIL: u64 = !0xff;
const OVERFLOW_SHIFT: u32 = 2;
/// "Many": never counted down, until the table is made anew.
const OVERFLOW_MAX: u64 = 63;

#[derive(Clone, Copy, Debug)]
struct Bucket<K, const N: usize>([Entry<K>; N]);

/// A bucket on a cache line of its own.
#[repr(align(64))]
#[derive(Clone, Copy, Debug)]
struct Line<K, const N: usize>(Bucket<K, N>);

/// Where an entry stands, until the table changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    is_old: bool,
    entry: u8,
    bucket: u32,
}

/// Destinations by key, `N` to a bucket.
///
/// In the order in which it is used: what every call needs shares a cache line with the lock.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Table<K, const N: usize> {
    lines: Box<[Line<K, N>]>,
    /// What the table was before its size changed, as far as it is not moved.
    old: Box<[Line<K, N>]>,
    len: u32,
    /// How many of the old buckets are.
    moved: u32,
    /// The only bucket while `lines` is empty; empty else. So few destinations never need the
    /// memory allocator.
    first: Bucket<K, N>,
}

impl<K: Key> Entry<K> {
    const EMPTY: Self = Self { key: K::EMPTY, value: 0 };

    /// Whether it is the entry of `key`. An empty one is nobody's.
    #[inline]
    fn holds(&self, key: &K) -> bool {
        (self.key.tail() ^ key.tail()) & TAIL == 0 && self.key.same_head(key)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.key.tail() & KIND == 0
    }

    #[inline]
    fn value(&self) -> Option<Value> {
        match self.key.tail() & KIND {
            0 => None,
            1 => {
                let (slot, raw) = ((self.value >> 32) as u32, self.value as u32);
                Some(Value::One(Won { slot, stamp: Stamp::from_raw(raw) }))
            }
            2 => Some(Value::Small(self.value as u32)),
            _ => Some(Value::Field(self.value as u32)),
        }
    }

    /// Becomes the entry of `key`; what counts the bucket's overflow stays.
    #[inline]
    fn put(&mut self, key: K, value: Value) {
        let (kind, bits) = match value {
            Value::One(Won { slot, stamp }) => (1, u64::from(slot) << 32 | u64::from(stamp.raw())),
            Value::Small(index) => (2, u64::from(index)),
            Value::Field(index) => (3, u64::from(index)),
        };
        self.value = bits;
        self.key = key.with_tail(key.tail() & TAIL | self.key.tail() & OVERFLOW | kind);
    }

    /// Becomes empty; what counts the bucket's overflow stays.
    #[inline]
    fn clear(&mut self) {
        self.key = K::EMPTY.with_tail(self.key.tail() & OVERFLOW);
    }
}

impl<K: Key, const N: usize> Bucket<K, N> {
    const EMPTY: Self = Self([Entry::EMPTY; N]);

    /// The first entry that `wanted` says yes to. Which one it is falls to chance, so that a branch
    /// on each would be guessed wrong.
    #[inline(always)]
    fn first(&self, mut wanted: impl FnMut(&Entry<K>) -> bool) -> Option<usize> {
        let mut those = 0u32;
        for (number, entry) in self.0.iter().enumerate() {
            those |= u32::from(wanted(entry)) << number;
        }
        (those != 0).then_some(those.trailing_zeros() as usize)
    }

    #[inline]
    fn overflow(&self) -> u64 {
        (self.0[0].key.tail() & OVERFLOW) >> OVERFLOW_SHIFT
    }

    fn set_overflow(&mut self, count: u64) {
        let first = &mut self.0[0];
        first.key = first.key.with_tail(first.key.tail() & !OVERFLOW | count << OVERFLOW_SHIFT);
    }
}

impl<K: Key, const N: usize> Table<K, N> {
    pub(super) fn new() -> Self {
        Self { lines: Box::default(), old: Box::default(), len: 0, moved: 0, first: Bucket::EMPTY }
    }

    /// Address and number of the buckets that have lines of their own, for [`home_of`].
    #[inline]
    pub(super) fn place(&self) -> (usize, u32) {
        (self.lines.as_ptr() as usize, self.lines.len() as u32)
    }

    #[inline]
    fn buckets(&self) -> u32 {
        (self.lines.len() as u32).max(1)
    }

    /// A bucket of the table, or of the old one.
    #[inline]
    fn bucket(&self, is_old: bool, bucket: u32) -> &Bucket<K, N> {
        let lines = if is_old { &self.old } else { &self.lines };
        lines.get(bucket as usize).map_or(&self.first, |line| &line.0)
    }

    #[inline]
    fn bucket_mut(&mut self, is_old: bool, bucket: u32) -> &mut Bucket<K, N> {
        let lines = if is_old { &mut self.old } else { &mut self.lines };
        lines.get_mut(bucket as usize).map_or(&mut self.first, |line| &mut line.0)
    }

    /// Where the destination's entry is, and what it holds.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, key: &K) -> Option<(At, Value)> {
        self.find_where(hash, |entry| entry.holds(key))
    }

    /// The entry of a destination with this hash that `wanted` says yes to.
    pub(super) fn find_hashed(
        &self,
        hash: u64,
        mut wanted: impl FnMut(Value, K) -> bool,
    ) -> Option<(At, Value)> {
        self.find_where(hash, |entry| {
            entry.value().is_some_and(|value| wanted(value, bare(entry.key)))
        })
    }

    #[inline(always)]
    fn find_where(
        &self,
        hash: u64,
        mut wanted: impl FnMut(&Entry<K>) -> bool,
    ) -> Option<(At, Value)> {
        let found = self.find_in(false, self.buckets(), hash, &mut wanted);
        if found.is_some() || self.old.is_empty() { found } else { self.find_old(hash, wanted) }
    }

    #[cold]
    #[inline(never)]
    fn find_old(&self, hash: u64, wanted: impl FnMut(&Entry<K>) -> bool) -> Option<(At, Value)> {
        self.find_in(true, self.old.len() as u32, hash, wanted)
    }

    #[inline(always)]
    fn find_in(
        &self,
        is_old: bool,
        of: u32,
        hash: u64,
        mut wanted: impl FnMut(&Entry<K>) -> bool,
    ) -> Option<(At, Value)> {
        let mut bucket = home_of(hash, of);
        for _ in 0..of {
            let line = self.bucket(is_old, bucket);
            if let Some(entry) = line.first(&mut wanted) {
                let value = line.0[entry].value()?;
                return Some((At { is_old, entry: entry as u8, bucket }, value));
            }
            if line.overflow() == 0 {
                return None;
            }
            bucket = after(bucket, of);
        }
        None
    }

    #[inline]
    fn entry_mut(&mut self, at: At) -> &mut Entry<K> {
        &mut self.bucket_mut(at.is_old, at.bucket).0[usize::from(at.entry)]
    }

    pub(super) fn key(&self, at: At) -> K {
        bare(self.bucket(at.is_old, at.bucket).0[usize::from(at.entry)].key)
    }

    pub(super) fn set(&mut self, at: At, value: Value) {
        let entry = self.entry_mut(at);
        entry.put(entry.key, value);
    }

    /// Adds a destination that is not in the table. May grow it.
    #[inline]
    pub(super) fn insert(&mut self, hash: u64, key: K, value: Value, hasher: &Hasher) {
        let buckets = self.buckets() as usize;
        if self.len as usize >= entries_max(buckets, N) {
            self.resize((buckets * 5 / 4).max(buckets + 1), hasher);
        }
        self.move_some(hasher);
        self.len += 1;
        self.place_new(hash, key, value);
    }

    /// Removes the entry at `at`, whose destination has `hash`. May shrink the table.
    #[inline]
    pub(super) fn remove(&mut self, at: At, hash: u64, hasher: &Hasher) {
        self.entry_mut(at).clear();
        let of = if at.is_old { self.old.len() as u32 } else { self.buckets() };
        let mut passed = home_of(hash, of);
        while passed != at.bucket {
            let line = self.bucket_mut(at.is_old, passed);
            if line.overflow() < OVERFLOW_MAX {
                line.set_overflow(line.overflow() - 1);
            }
            passed = after(passed, of);
        }
        self.len -= 1;
        let len = self.len as usize;
        let is_wide = (len + SWING) * 100 < self.lines.len() * N * LOAD_MIN;
        if is_wide || len == 0 && !self.lines.is_empty() {
            self.resize((len * 3).div_ceil(2 * N).max(1), hasher);
        }
        self.move_some(hasher);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, Value)> {
        let lines = self.lines.iter().chain(&self.old).map(|line| &line.0);
        let entries = lines.chain([&self.first]).flat_map(|bucket| &bucket.0);
        entries.filter_map(|entry| Some((bare(entry.key), entry.value()?)))
    }

    #[cold]
    #[inline(never)]
    fn resize(&mut self, buckets: usize, hasher: &Hasher) {
        while !self.old.is_empty() {
            self.move_some(hasher);
        }
        let new = if buckets == 1 { 0 } else { buckets };
        let new = vec![Line(Bucket::EMPTY); new].into();
        self.old = std::mem::replace(&mut self.lines, new);
        if self.old.is_empty() {
            let first = std::mem::replace(&mut self.first, Bucket::EMPTY);
            self.place_all(&first, hasher);
        }
    }

    #[inline]
    fn move_some(&mut self, hasher: &Hasher) {
        if !self.old.is_empty() {
            self.move_buckets(hasher);
        }
    }

    #[cold]
    #[inline(never)]
    fn move_buckets(&mut self, hasher: &Hasher) {
        let end = self.old.len().min(self.moved as usize + MOVES);
        for moved in self.moved as usize..end {
            let bucket = self.old[moved].0;
            // What counts the entries that came past is left: look-ups go further than they need
            // to, for a while.
            self.old[moved].0.0.iter_mut().for_each(Entry::clear);
            self.place_all(&bucket, hasher);
        }
        self.moved = end as u32;
        if end == self.old.len() {
            (self.old, self.moved) = (Box::default(), 0);
        }
    }

    fn place_all(&mut self, bucket: &Bucket<K, N>, hasher: &Hasher) {
        for entry in &bucket.0 {
            if let Some(value) = entry.value() {
                let key = bare(entry.key);
                self.place_new(key.hash(hasher), key, value);
            }
        }
    }

    #[inline]
    fn place_new(&mut self, hash: u64, key: K, value: Value) {
        let of = self.buckets();
        let mut bucket = home_of(hash, of);
        loop {
            let line = self.bucket_mut(false, bucket);
            if let Some(entry) = line.first(Entry::is_empty) {
                return line.0[entry].put(key, value);
            }
            line.set_overflow((line.overflow() + 1).min(OVERFLOW_MAX));
            bucket = after(bucket, of);
        }
    }
}

/// The most entries that so many buckets take. A single one may be full: all look-ups end in it.
fn entries_max(buckets: usize, of: usize) -> usize {
    if buckets == 1 { of } else { buckets * of * LOAD_MAX / 100 }
}

/// The bucket where a destination is looked for first; even over any number of buckets.
#[inline]
pub(super) fn home_of(hash: u64, buckets: u32) -> u32 {
    ((u64::from(hash as u32) * u64::from(buckets)) >> 32) as u32
}

#[inline]
fn after(bucket: u32, buckets: u32) -> u32 {
    if bucket + 1 == buckets { 0 } else { bucket + 1 }
}

fn bare<K: Key>(key: K) -> K {
    key.with_tail(key.tail() & TAIL)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::key::{Key4, Key6};
    use super::super::{Destination, Protocol};
    use super::*;
    use std::collections::HashMap;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn nth(n: u32, v6: bool) -> Destination {
        let address = if v6 {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(n) << 64 | 1))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(n / 2))
        };
        let protocol = if n % 2 == 0 { Protocol::Tcp } else { Protocol::Udp };
        Destination::new(protocol, std::net::SocketAddr::new(address, 443))
    }

    /// Promises: every destination that was put in is found with its value, no other is,
    /// whatever the order of insertions and removals, through growth and shrinking.
    fn agrees_with_a_map<K: Key, const N: usize>(v6: bool) {
        let hasher = Hasher::new([1, 2]);
        let mut table = Table::<K, N>::new();
        let mut model = HashMap::new();
        let mut x = 1u32;
        for step in 0..200_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let to = nth((x >> 8) % 20_000, v6);
            let key = K::of(&to);
            let hash = key.hash(&hasher);
            let found = table.find(hash, &key);
            assert_eq!(found.map(|(_, value)| value), model.get(&to).copied());
            let (buckets, left) = (table.buckets(), table.old.len() - table.moved as usize);
            // First mostly in, then mostly out.
            match found {
                Some((at, _)) if (x >> 30 == 0) == (step < 100_000) => {
                    assert_eq!(table.key(at).destination(), to);
                    table.remove(at, hash, &hasher);
                    model.remove(&to);
                }
                Some((at, _)) => {
                    table.set(at, Value::Small(x));
                    model.insert(to, Value::Small(x));
                }
                None => {
                    let value = Value::One(Won { slot: x, stamp: Stamp::from_raw(!x) });
                    table.insert(hash, key, value, &hasher);
                    model.insert(to, value);
                }
            }
            assert_eq!(table.len as usize, model.len());
            // Nobody moves more than a few buckets.
            let now_left = table.old.len() - table.moved as usize;
            assert!(if table.buckets() == buckets { left - now_left } else { left } <= MOVES);
        }
        let all: HashMap<_, _> = table.iter().map(|(k, v)| (k.destination(), v)).collect();
        assert_eq!(all, model);
        assert!(!model.is_empty());
    }

    #[test]
    fn agrees_with_a_map_for_both_families() {
        agrees_with_a_map::<Key4, 4>(false);
        agrees_with_a_map::<Key6, 2>(true);
    }

    #[test]
    fn shrinks_through_every_small_length() {
        let hasher = Hasher::new([1, 2]);
        for most in 0..200 {
            let mut table = Table::<Key4, 4>::new();
            let keys: Vec<Key4> = (0..most).map(|n| Key4::of(&nth(n, false))).collect();
            keys.iter().for_each(|&key| {
                table.insert(key.hash(&hasher), key, Value::Small(0), &hasher);
            });
            for (gone, key) in keys.iter().enumerate() {
                let hash = key.hash(&hasher);
                let (at, _) = table.find(hash, key).expect("not removed yet");
                table.remove(at, hash, &hasher);
                assert_eq!(table.len as usize, keys.len() - gone - 1);
                assert!(table.len <= table.buckets() * 4);
            }
            assert!(table.lines.is_empty() && table.old.is_empty(), "nothing is kept");
        }
    }

    #[test]
    fn a_hash_that_collides_merges_nobody() {
        let hasher = Hasher::new([1, 2]);
        let mut table = Table::<Key4, 4>::new();
        table.lines = vec![Line(Bucket::EMPTY); 100].into();
        for n in 0..300 {
            table.len += 1;
            table.place_new(5, Key4::of(&nth(n, false)), Value::Small(n));
        }
        for n in 0..300 {
            let (_, value) = table.find(5, &Key4::of(&nth(n, false))).expect("all are there");
            assert_eq!(value, Value::Small(n));
        }
        assert_eq!(table.find(5, &Key4::of(&nth(300, false))), None);
        for n in (0..300).rev().step_by(2) {
            let (at, _) = table.find(5, &Key4::of(&nth(n, false))).expect("not removed yet");
            table.remove(at, 5, &hasher);
            assert_eq!(table.find(5, &Key4::of(&nth(n, false))), None);
            if table.buckets() != 100 {
                break;
            }
        }
    }
}
