//! What a Rust program calls.
