//! The harness's random numbers: fixed seeds, a few instructions, the same for everyone.
//! Good enough to choose a port or an index; no secret depends on them.

use std::cell::Cell;

/// A generator of the wyrand kind: one addition, one wide multiplication.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(0x1234_5678_9abc_def1 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let wide = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (wide >> 64) as u64 ^ wide as u64
    }

    /// A number below `bound`, by multiplication; its bias is below `bound / 2^32`.
    #[inline]
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u64() as u32) * u64::from(bound)) >> 32) as u32
    }

    /// Any order is as likely as any other.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

thread_local! {
    static OF_THREAD: Cell<Random> = const { Cell::new(Random(0x5eed)) };
}

/// A number below `bound` from the calling thread's own generator, for the alternatives that
/// choose at random.
#[inline]
pub fn thread_below(bound: u32) -> u32 {
    OF_THREAD.with(|own| {
        let mut random = own.replace(Random(0));
        let number = random.below(bound);
        own.set(random);
        number
    })
}

/// Makes the calling thread's generator differ from those of other threads.
pub fn seed_thread(seed: u64) {
    OF_THREAD.with(|own| own.set(Random::new(seed)));
}
