//! Random numbers without a lock: each thread has a stream of its own for each pool.

use crate::ledger::{Random, ThreadBit};
use crate::sync::{AtomicU64, Ordering};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::cell::{Cell, RefCell};

/// A pool's secret, from which every thread's stream of ChaCha8 numbers follows.
#[derive(Debug)]
pub(super) struct Seed {
    pool: u64,
    seed: [u8; 32],
    streams: AtomicU64,
}

/// The streams that a thread keeps at once, each in the place that its pool's number gives it. A
/// thread that goes round pools which share a place opens a new stream at each turn, which costs
/// it some hundred nanoseconds and nobody a repetition.
const STREAMS_MAX: usize = 4;

/// Numbers that are made at once. What can wait is done as often, by the acquire that needs new
/// ones: often enough for a pool that shrinks, and too seldom for anyone to measure.
const SUPPLY: usize = 128;

/// A thread's numbers for one pool. Nothing in here is borrowed while somebody else's code runs.
struct Store {
    pool: Cell<u64>,
    /// How many of `numbers` are not drawn yet: those at the front.
    left: Cell<usize>,
    me: Cell<ThreadBit>,
    numbers: [Cell<u32>; SUPPLY],
    generator: RefCell<Option<ChaCha8Rng>>,
}

/// No pool has this number.
const NO_POOL: u64 = u64::MAX;

/// One thread's numbers for one pool.
#[derive(Clone, Copy)]
pub(super) struct Stream<'a>(&'a Store);

impl Stream<'_> {
    /// A number of those that are there. `None`: it is this acquire's turn to do what can wait;
    /// [`Random::next_u32`] makes more.
    #[inline]
    pub(super) fn draw(&self) -> Option<u32> {
        let left = self.0.left.get().checked_sub(1)?;
        self.0.left.set(left);
        Some(self.0.numbers[left % SUPPLY].get())
    }

    /// Whether it is the next acquire's turn to do what can wait.
    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.0.left.get() == 0
    }

    #[cold]
    #[inline(never)]
    fn draw_anew(&self) -> u32 {
        if let Some(generator) = &mut *self.0.generator.borrow_mut() {
            let mut bytes = [[0; 4]; SUPPLY];
            generator.fill_bytes(bytes.as_flattened_mut());
            for (number, bytes) in self.0.numbers.iter().zip(bytes) {
                number.set(u32::from_le_bytes(bytes));
            }
        }
        self.0.left.set(SUPPLY - 1);
        self.0.numbers[SUPPLY - 1].get()
    }
}

impl Random for Stream<'_> {
    #[inline]
    fn next_u32(&mut self) -> u32 {
        self.draw().unwrap_or_else(|| self.draw_anew())
    }

    #[inline]
    fn me(&self) -> ThreadBit {
        self.0.me.get()
    }
}

impl RngCore for Stream<'_> {
    fn next_u32(&mut self) -> u32 {
        Random::next_u32(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_chacha::rand_core::impls::next_u64_via_u32(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        rand_chacha::rand_core::impls::fill_bytes_via_next(self, bytes);
    }
}

// Nothing in here needs dropping, so a lease that is acquired while a thread's other
// thread-locals are torn down still finds it.
thread_local! {
    static STORES: [Store; STREAMS_MAX] = const {
        [const {
            Store {
                pool: Cell::new(NO_POOL),
                left: Cell::new(0),
                me: Cell::new(ThreadBit::NONE),
                numbers: [const { Cell::new(0) }; SUPPLY],
                generator: RefCell::new(None),
            }
        }; STREAMS_MAX]
    };
}

impl Seed {
    /// `pool` names the pool; no two living pools of a process have the same.
    pub(super) fn new(pool: u64, seed: [u8; 32]) -> Self {
        Self { pool: pool.min(NO_POOL - 1), seed, streams: AtomicU64::new(1) }
    }

    /// The secret key of the ledger's hashes: the first numbers of stream 0, which no thread has.
    pub(super) fn hash_key(&self) -> [u64; 2] {
        let mut numbers = self.numbers(0);
        [numbers.next_u64(), numbers.next_u64()]
    }

    /// Calls `draw` with the calling thread's stream.
    #[inline]
    pub(super) fn with<R>(&self, draw: impl FnOnce(&mut Stream<'_>) -> R) -> R {
        STORES.with(|stores| {
            let store = &stores[self.pool as usize % STREAMS_MAX];
            if store.pool.get() != self.pool {
                self.open(store);
            }
            draw(&mut Stream(store))
        })
    }

    /// Calls `draw` with a number of the calling thread's stream and the thread's bit, or
    /// `otherwise` where no number is there.
    #[inline(always)]
    pub(super) fn with_drawn<R>(
        &self,
        otherwise: impl FnOnce() -> R,
        draw: impl FnOnce(u32, ThreadBit) -> R,
    ) -> R {
        STORES.with(|stores| {
            let store = &stores[self.pool as usize % STREAMS_MAX];
            if store.pool.get() != self.pool {
                return otherwise();
            }
            match Stream(store).draw() {
                Some(number) => draw(number, store.me.get()),
                None => otherwise(),
            }
        })
    }

    #[cold]
    #[inline(never)]
    fn open(&self, store: &Store) {
        // Relaxed: only that no two threads get the same number matters.
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        store.pool.set(self.pool);
        store.left.set(0);
        store.me.set(ThreadBit::of(number));
        *store.generator.borrow_mut() = Some(self.numbers(number));
    }

    fn numbers(&self, stream: u64) -> ChaCha8Rng {
        let mut numbers = ChaCha8Rng::from_seed(self.seed);
        numbers.set_stream(stream);
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: &Seed) -> u64 {
        seed.with(|stream| stream.next_u64())
    }

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let (one, two) = (Seed::new(1, [7; 32]), Seed::new(2, [7; 32]));
        assert_eq!(one.hash_key(), two.hash_key());
        for _ in 0..1000 {
            assert_eq!(draw(&one), draw(&two));
        }
        assert_ne!(draw(&one), draw(&Seed::new(3, [8; 32])));
    }

    #[test]
    fn no_two_threads_share_a_stream() {
        let seed = Seed::new(4, [7; 32]);
        let other = std::thread::scope(|scope| scope.spawn(|| draw(&seed)).join().unwrap());
        assert_ne!(draw(&seed), other);
    }

    #[test]
    fn more_pools_than_streams_never_repeat_a_number() {
        let seeds: Vec<_> =
            (10..10 + 2 * STREAMS_MAX as u64).map(|id| Seed::new(id, [7; 32])).collect();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..8 {
            assert!(seen.insert(draw(&seeds[0])));
            seeds[1..].iter().for_each(|seed| {
                draw(seed);
            });
        }
    }
}
