//! Millions of random calls of the C face: `fuzz/world.rs` says what is checked after each.

#[path = "fuzz/world.rs"]
mod world;

use arbitrary::Unstructured;
use world::World;

const CALLS: usize = 2_000_000;

#[test]
fn random_calls_never_break_the_ledger() {
    // splitmix64: the same calls in each run.
    let mut state = 0x5eed_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut world = World::new();
    let mut bytes = vec![0u8; 1 << 16];
    let mut calls = 0;
    while calls < CALLS {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&next().to_ne_bytes());
        }
        let mut u = Unstructured::new(&bytes);
        while u.len() > 256 && calls < CALLS {
            world.step(&mut u).expect("there are bytes left");
            world.check();
            calls += 1;
        }
    }
    assert!(world.exhausted > 1000 && world.stale > 1000, "the walk saw both ends");
}
