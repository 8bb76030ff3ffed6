//! Random numbers without a lock: each thread has a stream of its own for each pool.

use crate::ledger::Random;
use crate::sync::{AtomicU64, Ordering};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::cell::RefCell;

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

struct Streams {
    pools: [Option<u64>; STREAMS_MAX],
    streams: [Option<Stream>; STREAMS_MAX],
}

/// One thread's numbers for one pool.
#[derive(Debug)]
pub(super) struct Stream {
    numbers: ChaCha8Rng,
    lane: u32,
    until_chore: u32,
}

/// Acquires of a thread between two chores: often enough for a pool that shrinks, and too seldom
/// for anyone to measure.
const ACQUIRES_A_CHORE: u32 = 64;

impl Stream {
    /// Whether it is this acquire's turn to do what can wait.
    #[inline]
    pub(super) fn has_chore(&mut self) -> bool {
        self.until_chore = self.until_chore.checked_sub(1).unwrap_or(ACQUIRES_A_CHORE);
        self.until_chore == 0
    }

    pub(super) fn numbers(&mut self) -> &mut ChaCha8Rng {
        &mut self.numbers
    }
}

impl Random for Stream {
    #[inline]
    fn next_u64(&mut self) -> u64 {
        self.numbers.next_u64()
    }

    #[inline]
    fn lane(&self) -> u32 {
        self.lane
    }
}

// Nothing in here needs dropping, so a lease that is acquired while a thread's other
// thread-locals are torn down still finds it.
thread_local! {
    static STREAMS: RefCell<Streams> = const {
        RefCell::new(Streams {
            pools: [None; STREAMS_MAX],
            streams: [const { None }; STREAMS_MAX],
        })
    };
}

impl Seed {
    /// `pool` names the pool; no two living pools of a process have the same.
    pub(super) fn new(pool: u64, seed: [u8; 32]) -> Self {
        Self { pool, seed, streams: AtomicU64::new(1) }
    }

    /// The secret key of the ledger's hashes: the first numbers of stream 0, which no thread has.
    pub(super) fn hash_key(&self) -> [u64; 2] {
        let mut numbers = self.numbers(0);
        [numbers.next_u64(), numbers.next_u64()]
    }

    /// Calls `draw` with the calling thread's stream.
    #[inline]
    pub(super) fn with<R>(&self, draw: impl FnOnce(&mut Stream) -> R) -> R {
        STREAMS.with_borrow_mut(|streams| {
            let at = self.pool as usize % STREAMS_MAX;
            if streams.pools[at] != Some(self.pool) {
                self.open(streams);
            }
            match &mut streams.streams[at] {
                Some(stream) => draw(stream),
                None => unreachable!("a place with a pool has its stream"),
            }
        })
    }

    #[cold]
    #[inline(never)]
    fn open(&self, streams: &mut Streams) {
        let at = self.pool as usize % STREAMS_MAX;
        // Relaxed: only that no two threads get the same number matters.
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        streams.pools[at] = Some(self.pool);
        streams.streams[at] = Some(Stream {
            numbers: self.numbers(number),
            lane: number as u32,
            until_chore: ACQUIRES_A_CHORE,
        });
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
