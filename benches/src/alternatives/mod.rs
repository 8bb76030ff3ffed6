//! What a user has today. All of it is written here, by our own hand; where a project's name
//! stands, its method is meant, not its code. None of them has generations, resting or a
//! census.

mod dash_map;
mod free_list;
mod hash_set;
mod null;
mod port_ring;
mod random_tries;

pub use dash_map::DashSet;
pub use free_list::{FreeList, FreeLists};
pub use hash_set::MutexHashSet;
pub use null::Null;
pub use port_ring::PortRing;
pub use random_tries::RandomTries;

use crate::random::thread_below;
use crate::space::{SourcePort, Space};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// std's own hash, with the same keys in each run: a run that is repeated does the same again.
type SipWithEqualKeys = BuildHasherDefault<DefaultHasher>;

/// Random tries before the two sets walk through everything.
const TRIES: u32 = 64;

/// How people search a set: some random tries, then all in order from a random start.
#[inline]
fn search(space: &Space, mut insert: impl FnMut(SourcePort) -> bool) -> Option<SourcePort> {
    let capacity = space.capacity();
    for _ in 0..TRIES {
        let candidate = space.source_port(thread_below(capacity));
        if insert(candidate) {
            return Some(candidate);
        }
    }
    let start = thread_below(capacity);
    (start..capacity)
        .chain(0..start)
        .map(|index| space.source_port(index))
        .find(|&candidate| insert(candidate))
}
