//! portlease: source ports, leased per destination.
//!
//! A connection is its four-tuple: source address, source port, destination address, destination
//! port. A source port is used up only towards one destination, so a host has (source addresses x
//! ports) connections to each destination, not 65,536 in all. A pool keeps the ledger of who
//! holds which four-tuple and makes the kernel agree with it.
//!
//! SYNOPSIS
//!
//! ```c
//!     portlease_config *config;
//!     portlease_pool *pool;
//!     portlease_lease lease;
//!     int fd;
//!
//!     portlease_config_new(&config);
//!     portlease_config_add_sources(config, "10.0.0.2, 10.0.0.8-10.0.0.15", NULL);
//!     portlease_pool_new(config, &pool, NULL);
//!     portlease_config_free(config);
//!
//!     portlease_pool_connect(pool, SOCK_STREAM, dst, dst_len, &fd, &lease, NULL, NULL);
//!     ...
//!     portlease_pool_close(pool, fd, &lease, NULL);
//!     portlease_pool_free(pool);
//! ```
//!
//! CONVENTIONS
//!
//! Names are prefix, type, verb. The object comes first, results come last.
//!
//! Errors. Almost every call returns a portlease_status; PORTLEASE_OK is zero and the only
//! success. Numbers are only ever appended. Results are written on success only: after a failure
//! they hold what they held before. The last argument of most calls is a portlease_error of
//! yours, or NULL; it is written on failure only. There is no hidden last error. A call that
//! fails has changed nothing, unless its description says so.
//!
//! NULL. Pointers must not be NULL unless their description says that they may; NULL is
//! PORTLEASE_NULL_ARGUMENT, and to free NULL does nothing. Apart from that a pointer must be
//! valid, aligned, and of the object that it claims to be. Socket addresses may have any
//! alignment, and numbers may be any: what is unknown or out of range is a status.
//!
//! Ownership. What a call named new, or portlease_pool_destination(), gives you is yours until
//! you hand it to the free of its type, once. Everything else is a plain value: nothing to free.
//! The library keeps no pointer of yours after a call has returned: texts and addresses are
//! copied. Strings that it returns are static. Pool and destinations may be freed in any order.
//! A lease that nobody has released when its pool is freed is gone with it.
//!
//! Threads. A call that takes its object as const may run on any number of threads at once with
//! any other such call. One that takes it without const, as free does, needs it alone. A
//! portlease_config belongs to one thread at a time. A lease may be released by a thread other
//! than the one that acquired it.
//!
//! Closing. The kernel holds a four-tuple until its socket is closed, so close the socket first
//! and release the lease then; portlease_pool_close() does both in this order. A socket is closed
//! when its last descriptor is: mind those that dup(2) and fork(2) made. Sockets of the library
//! are inherited across execve(2) unless you ask for SOCK_CLOEXEC, as with socket(2).
//!
//! fork. In a child, calls on the pools and destinations of its parent are PORTLEASE_FORKED, touch
//! no lock and change nothing; to free them does nothing. The leases stay the parent's. The child
//! makes a pool of its own.
//!
//! Signals. The library installs no handler, blocks nothing and starts no thread.
//! portlease_status_str(), portlease_version() and portlease_abi_version() may be called in a
//! signal handler, all else may not.
//!
//! Panics. A defect of the library does not unwind into the caller: it is PORTLEASE_PANIC.
//!
//! ABI. Structs never change their size. What is called opaque or reserved is not for you.
//! portlease_abi_version() changes when a program has to be compiled again.

// The conventions above are what every call that is `unsafe` asks of its caller.
#![allow(clippy::missing_safety_doc)]

mod address;
mod config;
mod destination;
mod lease;
mod pool;
mod socket;
mod status;
mod types;
mod version;

pub use config::*;
pub use destination::*;
pub use lease::*;
pub use pool::*;
pub use socket::*;
pub use status::{ErrorInfo, Status, portlease_status_str};
pub use types::{
    Call, Census, Closed, Lease, Maintenance, Mode, Privileged, Progress, Protocol, Verdict,
};
pub use version::*;

use status::Failure;

/// The object behind a pointer of the caller's.
///
/// # Safety
///
/// `pointer` is NULL or points to a `T` that nobody changes during the call.
#[inline]
unsafe fn object<'a, T>(argument: &'static str, pointer: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or(Failure::Null(argument))
}

/// A place for a result.
#[inline]
fn place<T>(argument: &'static str, pointer: *mut T) -> Result<std::ptr::NonNull<T>, Failure> {
    std::ptr::NonNull::new(pointer).ok_or(Failure::Null(argument))
}
