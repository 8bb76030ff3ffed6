//! Everyone side by side: the same task for each, over the same space.

use crate::allocator::{Pool, Ports, Through};
use crate::alternatives::{DashSet, FreeList, MutexHashSet, Null, PortRing, RandomTries};
use crate::portlease::{HANDLE_LEASE_WORDS, Handle, LEASE_WORDS, Portlease};
use crate::space::{Space, destination};

/// The names in tables and plots.
pub mod names {
    /// The harness alone.
    pub const NULL: &str = "(the harness alone)";
    /// See [`crate::alternatives::MutexHashSet`].
    pub const HASH_SET: &str = "Mutex<HashSet>";
    /// See [`crate::alternatives::DashSet`].
    pub const DASH_MAP: &str = "DashMap";
    /// See [`crate::alternatives::RandomTries`].
    pub const RANDOM_TRIES: &str = "VPP's method: ten random tries";
    /// See [`crate::alternatives::FreeList`].
    pub const FREE_LIST: &str = "free list behind a mutex";
    /// See [`crate::alternatives::PortRing`].
    pub const PORT_RING: &str = "HAProxy's method: a port ring";
    /// See [`crate::portlease::Portlease`].
    pub const LOOKED_UP: &str = "portlease, looked up";
    /// See [`crate::portlease::Handle`].
    pub const HANDLE: &str = "portlease, through a handle";

    /// Those of [`super::PoolField`], in its order.
    pub const POOLS: [&str; 5] = [NULL, HASH_SET, DASH_MAP, RANDOM_TRIES, LOOKED_UP];
}

/// What is done with one destination.
pub trait PortsTask {
    /// What comes of it.
    type Output<'a>;

    /// `ports` are two destinations of one pool, or of two where a pool has only one.
    fn on<'a, P: Ports>(&self, name: &'static str, ports: &'a [P; 2]) -> Self::Output<'a>;
}

/// What is done with many destinations.
pub trait PoolTask {
    /// What comes of it.
    type Output<'a>;

    /// Does it.
    fn on<'a, P: Pool>(&self, name: &'static str, pool: &'a P) -> Self::Output<'a>;
}

/// Two destinations of everyone, nothing leased.
pub struct PortsField<'p> {
    null: [Null<HANDLE_LEASE_WORDS>; 2],
    hash_set: [Through<'p, MutexHashSet>; 2],
    dash_map: [Through<'p, DashSet>; 2],
    random_tries: [Through<'p, RandomTries>; 2],
    free_list: [FreeList; 2],
    port_ring: [PortRing; 2],
    looked_up: [Through<'p, Portlease>; 2],
    handle: [Handle; 2],
}

impl PortsField<'_> {
    /// Makes everyone, for as long as `then` runs.
    pub fn with<R>(space: Space, then: impl FnOnce(&PortsField<'_>) -> R) -> R {
        let hash_set = MutexHashSet::new(space);
        let dash_map = DashSet::new(space);
        let random_tries = RandomTries::new(space);
        let portlease = Portlease::new(space);
        then(&PortsField {
            null: [Null(space), Null(space)],
            hash_set: both(&hash_set),
            dash_map: both(&dash_map),
            random_tries: both(&random_tries),
            free_list: [FreeList::new(space), FreeList::new(space)],
            port_ring: [PortRing::new(space), PortRing::new(space)],
            looked_up: both(&portlease),
            handle: [2, 3].map(|index| portlease.handle(destination(index))),
        })
    }

    /// The task's outputs, the harness alone first.
    pub fn each<T: PortsTask>(&self, task: &T) -> Vec<T::Output<'_>> {
        vec![
            task.on(names::NULL, &self.null),
            task.on(names::HASH_SET, &self.hash_set),
            task.on(names::DASH_MAP, &self.dash_map),
            task.on(names::RANDOM_TRIES, &self.random_tries),
            task.on(names::FREE_LIST, &self.free_list),
            task.on(names::PORT_RING, &self.port_ring),
            task.on(names::LOOKED_UP, &self.looked_up),
            task.on(names::HANDLE, &self.handle),
        ]
    }
}

fn both<P>(pool: &P) -> [Through<'_, P>; 2] {
    [0, 1].map(|index| Through { pool, to: destination(index) })
}

/// Everyone who serves many destinations without 256 KiB for each.
pub struct PoolField {
    null: Null<LEASE_WORDS>,
    hash_set: MutexHashSet,
    dash_map: DashSet,
    random_tries: RandomTries,
    portlease: Portlease,
}

impl PoolField {
    /// Nothing is leased.
    pub fn new(space: Space) -> Self {
        Self {
            null: Null(space),
            hash_set: MutexHashSet::new(space),
            dash_map: DashSet::new(space),
            random_tries: RandomTries::new(space),
            portlease: Portlease::new(space),
        }
    }

    /// The task's outputs, the harness alone first.
    pub fn each<T: PoolTask>(&self, task: &T) -> Vec<T::Output<'_>> {
        vec![
            task.on(names::NULL, &self.null),
            task.on(names::HASH_SET, &self.hash_set),
            task.on(names::DASH_MAP, &self.dash_map),
            task.on(names::RANDOM_TRIES, &self.random_tries),
            task.on(names::LOOKED_UP, &self.portlease),
        ]
    }
}
