//! The destinations of one shard: a hash table whose buckets are cache lines.
//!
//! A bucket counts the entries that wanted it and found it full, so that a look-up that
//! misses ends, nearly always, in the line where it began. Growth is by a quarter, to keep
//! a million destinations at 21 bytes each instead of 35.

use super::field::Won;
use super::key::Key;
use super::stamp::Stamp;
use siphasher::sip::SipHasher13;

/// Entries per hundred places above which the table grows, below which it shrinks.
const LOAD_MAX: usize = 82;
const LOAD_MIN: usize = 35;

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
const TAIL: u64 = !0xff;
const OVERFLOW_SHIFT: u32 = 2;
/// "Many": never counted down, until the table is made anew.
const OVERFLOW_MAX: u64 = 63;

#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Bucket<K, const N: usize>([Entry<K>; N]);

/// Where an entry stands, until the table changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    bucket: u32,
    entry: u32,
}

/// Destinations by key, `N` to a bucket.
#[derive(Debug)]
pub(super) struct Table<K, const N: usize> {
    buckets: Vec<Bucket<K, N>>,
    len: usize,
}

impl<K: Key> Entry<K> {
    const EMPTY: Self = Self { key: K::EMPTY, value: 0 };

    fn holds(&self, key: &K) -> bool {
        self.key.tail() & TAIL == key.tail() && self.kind() != 0 && self.key.same_head(key)
    }

    fn kind(&self) -> u64 {
        self.key.tail() & KIND
    }

    fn value(&self) -> Option<Value> {
        match self.kind() {
            0 => None,
            1 => {
                let (slot, raw) = ((self.value >> 32) as u32, self.value as u32);
                Some(Value::One(Won { slot, stamp: Stamp::from_raw(raw) }))
            }
            2 => Some(Value::Small(self.value as u32)),
            _ => Some(Value::Field(self.value as u32)),
        }
    }

    fn put(&mut self, value: Value) {
        let (kind, bits) = match value {
            Value::One(Won { slot, stamp }) => (1, u64::from(slot) << 32 | u64::from(stamp.raw())),
            Value::Small(index) => (2, u64::from(index)),
            Value::Field(index) => (3, u64::from(index)),
        };
        self.value = bits;
        self.key = self.key.with_tail(self.key.tail() & !KIND | kind);
    }
}

impl<K: Key, const N: usize> Bucket<K, N> {
    const EMPTY: Self = Self([Entry::EMPTY; N]);

    fn overflow(&self) -> u64 {
        (self.0[0].key.tail() & !TAIL) >> OVERFLOW_SHIFT
    }

    fn set_overflow(&mut self, count: u64) {
        let first = &mut self.0[0];
        let tail = first.key.tail() & !(!TAIL & !KIND) | count << OVERFLOW_SHIFT;
        first.key = first.key.with_tail(tail);
    }
}

impl<K: Key, const N: usize> Table<K, N> {
    pub(super) fn new() -> Self {
        Self { buckets: Vec::new(), len: 0 }
    }

    /// Address and number of the buckets, for [`home_of`].
    pub(super) fn place(&self) -> (usize, u32) {
        (self.buckets.as_ptr() as usize, self.buckets.len() as u32)
    }

    /// The destination's entry.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &K) -> Option<At> {
        self.find_where(hash, |entry| entry.holds(key))
    }

    /// The entry of a destination with this hash that `wanted` says yes to.
    pub(super) fn find_hashed(
        &self,
        hash: u64,
        mut wanted: impl FnMut(Value, K) -> bool,
    ) -> Option<At> {
        self.find_where(hash, |entry| {
            entry.value().is_some_and(|value| wanted(value, bare(entry.key)))
        })
    }

    #[inline]
    fn find_where(&self, hash: u64, mut wanted: impl FnMut(&Entry<K>) -> bool) -> Option<At> {
        let buckets = self.buckets.len() as u32;
        if buckets == 0 {
            return None;
        }
        let mut bucket = home_of(hash, buckets);
        for _ in 0..buckets {
            let line = &self.buckets[bucket as usize];
            if let Some(entry) = line.0.iter().position(&mut wanted) {
                return Some(At { bucket, entry: entry as u32 });
            }
            if line.overflow() == 0 {
                return None;
            }
            bucket = after(bucket, buckets);
        }
        None
    }

    pub(super) fn value(&self, at: At) -> Value {
        let entry = &self.buckets[at.bucket as usize].0[at.entry as usize];
        entry.value().expect("an entry that was found is not empty")
    }

    pub(super) fn key(&self, at: At) -> K {
        bare(self.buckets[at.bucket as usize].0[at.entry as usize].key)
    }

    pub(super) fn set(&mut self, at: At, value: Value) {
        self.buckets[at.bucket as usize].0[at.entry as usize].put(value);
    }

    /// Adds a destination that is not in the table. May grow it.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: Value, hasher: &SipHasher13) {
        if (self.len + 1) * 100 > self.buckets.len() * N * LOAD_MAX {
            self.rebuild((self.buckets.len() * 5 / 4).max(self.buckets.len() + 1), hasher);
        }
        self.len += 1;
        self.place_new(hash, key, value);
    }

    /// Removes the entry at `at`, whose destination has `hash`. May shrink the table.
    pub(super) fn remove(&mut self, at: At, hash: u64, hasher: &SipHasher13) {
        let buckets = self.buckets.len() as u32;
        let overflow = self.buckets[at.bucket as usize].overflow();
        self.buckets[at.bucket as usize].0[at.entry as usize] = Entry::EMPTY;
        self.buckets[at.bucket as usize].set_overflow(overflow);
        let mut passed = home_of(hash, buckets);
        while passed != at.bucket {
            let line = &mut self.buckets[passed as usize];
            if line.overflow() < OVERFLOW_MAX {
                line.set_overflow(line.overflow() - 1);
            }
            passed = after(passed, buckets);
        }
        self.len -= 1;
        if self.len * 100 < self.buckets.len() * N * LOAD_MIN {
            self.rebuild((self.len * 3).div_ceil(2 * N), hasher);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, Value)> {
        let entries = self.buckets.iter().flat_map(|line| &line.0);
        entries.filter_map(|entry| Some((bare(entry.key), entry.value()?)))
    }

    #[cold]
    #[inline(never)]
    fn rebuild(&mut self, buckets: usize, hasher: &SipHasher13) {
        let old = std::mem::replace(&mut self.buckets, vec![Bucket::EMPTY; buckets]);
        for entry in old.iter().flat_map(|line| &line.0) {
            if let Some(value) = entry.value() {
                let key = bare(entry.key);
                self.place_new(key.hash(hasher), key, value);
            }
        }
    }

    fn place_new(&mut self, hash: u64, key: K, value: Value) {
        let buckets = self.buckets.len() as u32;
        let mut bucket = home_of(hash, buckets);
        loop {
            let line = &mut self.buckets[bucket as usize];
            let overflow = line.overflow();
            if let Some(entry) = line.0.iter_mut().find(|entry| entry.kind() == 0) {
                *entry = Entry { key, value: 0 };
                entry.put(value);
                line.set_overflow(overflow);
                return;
            }
            line.set_overflow((overflow + 1).min(OVERFLOW_MAX));
            bucket = after(bucket, buckets);
        }
    }
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
        let hasher = SipHasher13::new_with_keys(1, 2);
        let mut table = Table::<K, N>::new();
        let mut model = HashMap::new();
        let mut x = 1u32;
        for step in 0..200_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let to = nth((x >> 8) % 20_000, v6);
            let key = K::of(&to);
            let hash = key.hash(&hasher);
            let found = table.find(hash, &key);
            assert_eq!(found.map(|at| table.value(at)), model.get(&to).copied());
            // First mostly in, then mostly out.
            match found {
                Some(at) if (x >> 30 == 0) == (step < 100_000) => {
                    assert_eq!(table.key(at).destination(), to);
                    table.remove(at, hash, &hasher);
                    model.remove(&to);
                }
                Some(at) => {
                    table.set(at, Value::Small(x));
                    model.insert(to, Value::Small(x));
                }
                None => {
                    let value = Value::One(Won { slot: x, stamp: Stamp::from_raw(!x) });
                    table.insert(hash, key, value, &hasher);
                    model.insert(to, value);
                }
            }
            assert_eq!(table.len, model.len());
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
        let hasher = SipHasher13::new_with_keys(1, 2);
        for most in 0..200 {
            let mut table = Table::<Key4, 4>::new();
            let keys: Vec<Key4> = (0..most).map(|n| Key4::of(&nth(n, false))).collect();
            keys.iter().for_each(|&key| {
                table.insert(key.hash(&hasher), key, Value::Small(0), &hasher);
            });
            for (gone, key) in keys.iter().enumerate() {
                let hash = key.hash(&hasher);
                let at = table.find(hash, key).expect("not removed yet");
                table.remove(at, hash, &hasher);
                assert_eq!(table.len, keys.len() - gone - 1);
                assert!(table.len <= table.place().1 as usize * 4);
            }
            assert_eq!(table.place().1, 0, "an empty table keeps nothing");
        }
    }

    #[test]
    fn a_hash_that_collides_merges_nobody() {
        let hasher = SipHasher13::new_with_keys(1, 2);
        let mut table = Table::<Key4, 4>::new();
        table.buckets = vec![Bucket::EMPTY; 100];
        for n in 0..300 {
            table.len += 1;
            table.place_new(5, Key4::of(&nth(n, false)), Value::Small(n));
        }
        for n in 0..300 {
            let at = table.find(5, &Key4::of(&nth(n, false))).expect("all are there");
            assert_eq!(table.value(at), Value::Small(n));
        }
        assert_eq!(table.find(5, &Key4::of(&nth(300, false))), None);
        for n in (0..300).rev().step_by(2) {
            let at = table.find(5, &Key4::of(&nth(n, false))).expect("not removed yet");
            table.remove(at, 5, &hasher);
            assert_eq!(table.find(5, &Key4::of(&nth(n, false))), None);
            if table.place().1 != 100 {
                break;
            }
        }
    }
}
