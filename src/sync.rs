//! The only door to atomics and locks: `parking_lot` and `std`, or `loom` under `--cfg loom`.
//!
//! Everything that threads share is built from what this module exports, so that the models in
//! `ledger/models.rs` and `ledger/field/models.rs` run the very code that ships.

#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::MutexGuard;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// `loom` treats `SeqCst` loads and stores as acquire and release, but knows `SeqCst` fences:
/// in a model, a fence stands where the shipped code relies on the total order of its `SeqCst`
/// operations.
#[inline(always)]
pub(crate) fn model_fence() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// For statics: `loom`'s atomics cannot be made in a constant, and no model reaches one.
pub(crate) type StaticU32 = std::sync::atomic::AtomicU32;

/// `loom`'s mutex with the signature of `parking_lot`'s: no poisoning.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("a model that panics has failed already")
    }

    pub(crate) fn try_lock(&self) -> Option<loom::sync::MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}
