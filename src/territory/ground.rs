//! Blocks: what is claimed and given back as one. A block is 64 ports of one source.
//!
//! Which block a port lies in, and which byte of the shared file stands for that block, follow
//! from (address, scope, port) alone. So pools with other sources or with overlapping ranges
//! agree by construction: nothing is written, nothing has to be compared.

use super::Run;
use crate::Error;
use crate::ledger::{Family, From, Slot, Source};
use siphasher::sip::SipHasher24;
use std::collections::HashMap;
use std::hash::Hasher;
use std::net::IpAddr;
use std::ops::Range;

/// Ports in a block: one word of the ledger's bitmaps, 1,024 blocks to an address.
pub(super) const BLOCK_PORTS: u16 = 64;

const BLOCKS_PER_ADDRESS: u32 = (1 << u16::BITS) / BLOCK_PORTS as u32;
const BLOCKS_BITS: u32 = BLOCKS_PER_ADDRESS.ilog2();

// Where the locks lie: far beyond the end of the file, which fcntl(2) allows. An address is a key
// of 32 bits in IPv4, of 52 bits (a hash) in IPv6; each of the four areas has room for all keys.
const HUNGER_V4: u64 = 1 << 32;
const BLOCKS_V4: u64 = 1 << 42;
const HUNGER_V6: u64 = 1 << 52;
const BLOCKS_V6: u64 = 1 << 62;
const V6_KEY_BITS: u32 = 62 - BLOCKS_BITS;

/// The blocks of one family that a pool's sources and ranges touch, numbered densely in the order
/// of the slots.
#[derive(Debug)]
pub(super) struct Ground {
    family: Family,
    stretches: Vec<Stretch>,
    /// The first slot of each block, and behind the last the end of all slots.
    first_slots: Vec<u32>,
    /// Sorted by key.
    keys: Vec<(u64, Range<u32>)>,
    /// The blocks of each source, by its index in the list; empty for the other family's.
    blocks_of: Vec<Range<u32>>,
}

/// Blocks of one source whose bytes follow each other.
#[derive(Debug)]
struct Stretch {
    blocks: Range<u32>,
    first_byte: u64,
}

impl Ground {
    /// `sources` as the ledger got them: none twice, each with sorted ranges that do not overlap.
    pub(super) fn new(family: Family, sources: &[Source]) -> Result<Self, Error> {
        let mut ground = Self {
            family,
            stretches: Vec::new(),
            first_slots: Vec::new(),
            keys: Vec::new(),
            blocks_of: vec![0..0; sources.len()],
        };
        let mut slots: u32 = 0;
        for (index, source) in sources.iter().enumerate() {
            if Family::of(source.address) == family {
                slots = ground.add(index, source, slots);
            }
        }
        ground.first_slots.push(slots);
        ground.keys.sort_by_key(|(key, _)| *key);
        ground.refuse_shared_keys(sources)?;
        Ok(ground)
    }

    /// Takes a source in whose first slot is `slots`; gives the slot behind its last.
    fn add(&mut self, index: usize, source: &Source, mut slots: u32) -> u32 {
        let key = key(source);
        let first = self.count_so_far();
        let mut last_number = None;
        for range in &source.ports {
            for number in range.first() / BLOCK_PORTS..=range.last() / BLOCK_PORTS {
                // Two ranges may meet in one block; its slots follow each other all the same.
                if last_number != Some(number) {
                    let byte = first_byte(self.family, key) + u64::from(number);
                    self.append(byte, last_number.is_some_and(|last| last + 1 == number));
                    self.first_slots.push(slots);
                    last_number = Some(number);
                }
                let low = range.first().max(number * BLOCK_PORTS);
                let high = range.last().min(number * BLOCK_PORTS + (BLOCK_PORTS - 1));
                slots += u32::from(high - low) + 1;
            }
        }
        self.blocks_of[index] = first..self.count_so_far();
        self.keys.push((key, first..self.count_so_far()));
        slots
    }

    fn append(&mut self, byte: u64, follows: bool) {
        let block = self.count_so_far();
        match self.stretches.last_mut() {
            Some(stretch) if follows => stretch.blocks.end = block + 1,
            _ => self.stretches.push(Stretch { blocks: block..block + 1, first_byte: byte }),
        }
    }

    fn count_so_far(&self) -> u32 {
        self.first_slots.len() as u32
    }

    /// Two IPv6 addresses of one pool with one key would be one block to the kernel and two to
    /// us. The chance for a thousand addresses is one in ten thousand million.
    fn refuse_shared_keys(&self, sources: &[Source]) -> Result<(), Error> {
        let mut seen = HashMap::new();
        for source in sources.iter().filter(|source| Family::of(source.address) == self.family) {
            if let Some(other) = seen.insert(key(source), source.address) {
                let problem = format!(
                    "sources {other} and {} cannot be told apart in a shared file: \
                     leave one of them out",
                    source.address
                );
                return Err(Error::Config { problem });
            }
        }
        Ok(())
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn block_count(&self) -> u32 {
        self.count_so_far() - 1
    }

    /// The blocks of the source with this index in the list.
    pub(super) fn blocks_of(&self, source: u32) -> Range<u32> {
        self.blocks_of[source as usize].clone()
    }

    /// The blocks that an acquire from `from` may use.
    pub(super) fn blocks_for(&self, from: From) -> Range<u32> {
        match from {
            From::AnySource => 0..self.block_count(),
            From::Source(source) => self.blocks_of(source),
        }
    }

    /// The slots of neighbouring blocks.
    pub(super) fn run(&self, blocks: Range<u32>) -> Run {
        let first = self.first_slots[blocks.start as usize];
        let end = self.first_slots[blocks.end as usize];
        Run { family: self.family, first: Slot(first), count: end - first }
    }

    /// The part of `blocks` from its start whose bytes follow each other. Not empty unless
    /// `blocks` is.
    pub(super) fn unbroken(&self, blocks: Range<u32>) -> Range<u32> {
        blocks.start..blocks.end.min(self.stretch(blocks.start).blocks.end)
    }

    /// The bytes of blocks within one stretch.
    pub(super) fn bytes(&self, blocks: &Range<u32>) -> Range<u64> {
        let first = self.byte(blocks.start);
        first..first + u64::from(blocks.end - blocks.start)
    }

    fn byte(&self, block: u32) -> u64 {
        let stretch = self.stretch(block);
        stretch.first_byte + u64::from(block - stretch.blocks.start)
    }

    fn stretch(&self, block: u32) -> &Stretch {
        let next = self.stretches.partition_point(|stretch| stretch.blocks.start <= block);
        &self.stretches[next - 1]
    }

    /// Bits of a place: 32 for an address (in IPv6 of its hash) and those of a block's number.
    pub(super) const PLACE_BITS: u32 = 32 + BLOCKS_BITS;

    /// The stretches, and their places among all ports that the family can have.
    pub(super) fn places(&self) -> impl Iterator<Item = (Range<u32>, Range<u64>)> {
        self.stretches.iter().map(|stretch| {
            let at = stretch.first_byte - first_byte(self.family, 0);
            let (key, number) = (at >> BLOCKS_BITS, at & u64::from(BLOCKS_PER_ADDRESS - 1));
            let key = match self.family {
                Family::V4 => key,
                Family::V6 => key >> (V6_KEY_BITS - 32),
            };
            let first = (key << BLOCKS_BITS) + number;
            (stretch.blocks.clone(), first..first + stretch.blocks.len() as u64)
        })
    }

    /// Blocks whose places lie in `places`, of which the lowest bits count; `None`: there are none.
    pub(super) fn in_common(&self, places: &Range<u64>) -> Option<Range<u32>> {
        let first = places.start & ((1 << Self::PLACE_BITS) - 1);
        let theirs = first..first + (places.end - places.start);
        self.places().find_map(|(blocks, ours)| {
            let common = ours.start.max(theirs.start)..ours.end.min(theirs.end);
            (!common.is_empty()).then(|| {
                let start = blocks.start + (common.start - ours.start) as u32;
                start..start + (common.end - common.start) as u32
            })
        })
    }

    /// The block that a slot lies in.
    pub(super) fn block_of(&self, slot: Slot) -> u32 {
        self.first_slots.partition_point(|first| *first <= slot.0) as u32 - 1
    }

    /// The bytes between which the hunger of all our sources lies; `None` without a source.
    pub(super) fn hunger_bytes(&self) -> Option<Range<u64>> {
        let (first, last) = (self.keys.first()?.0, self.keys.last()?.0);
        Some(hunger_byte(self.family, first)..hunger_byte(self.family, last) + 1)
    }

    /// The byte that says "in want of blocks of this source".
    pub(super) fn hunger_byte(&self, source: &Source) -> u64 {
        hunger_byte(self.family, key(source))
    }

    /// The blocks of the source whose hunger `byte` tells; `None` if it is none of ours.
    pub(super) fn blocks_of_hunger(&self, byte: u64) -> Option<Range<u32>> {
        let key = byte - hunger_byte(self.family, 0);
        let index = self.keys.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.keys[index].1.clone())
    }
}

/// What stands for an address in the file: exact in IPv4. In IPv6 a hash, the same in every
/// process; where two addresses of two pools meet in one key (2^-52 for a pair), they keep each
/// other's blocks out: fewer ports, never one port twice.
fn key(source: &Source) -> u64 {
    match source.address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let mut hasher = SipHasher24::new_with_keys(0, 0);
            hasher.write(&address.octets());
            hasher.write(&source.scope.to_le_bytes());
            hasher.finish() >> (u64::BITS - V6_KEY_BITS)
        }
    }
}

fn first_byte(family: Family, key: u64) -> u64 {
    let area = match family {
        Family::V4 => BLOCKS_V4,
        Family::V6 => BLOCKS_V6,
    };
    area + (key << BLOCKS_BITS)
}

fn hunger_byte(family: Family, key: u64) -> u64 {
    key + match family {
        Family::V4 => HUNGER_V4,
        Family::V6 => HUNGER_V6,
    }
}
