//! `libportlease.so` and `libportlease.a`: the symbols of the C face, and nothing of its own.

pub use portlease::ffi::*;
