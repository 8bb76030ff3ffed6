//! Random calls of the C face, led by coverage.
#![no_main]

#[path = "../world.rs"]
mod world;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut world = world::World::new();
    let mut u = Unstructured::new(bytes);
    while !u.is_empty() && world.step(&mut u).is_ok() {
        world.check();
    }
});
