//! The pool

use super::address;
use super::config::Config;
use super::status::{ErrorInfo, Status, answer};
use super::types::{Census, Lease, ip, protocol};
use super::{object, place};
use crate::connect;
use std::os::fd::IntoRawFd;

/// A pool of source addresses and ports, leased per destination.
#[derive(Debug)]
pub struct Pool(pub(super) connect::Pool);

/// Makes a pool. The configuration stays yours, and later changes of it do not reach the pool.
///
/// PORTLEASE_BAD_CONFIG: no source at all, an address that is not this host's, or ports that are
/// privileged or cannot be bound in the mode that was asked for. PORTLEASE_UNSUPPORTED: a mode
/// that this kernel does not have. PORTLEASE_OS: the kernel refused something else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_new(
    config: *const Config,
    pool: *mut *mut Pool,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("pool", pool)?;
        // SAFETY: the conventions.
        let config = unsafe { object("config", config) }?;
        let pool = Box::new(Pool(config.builder().build()?));
        // SAFETY: not NULL, so a place of the caller's for a pointer.
        unsafe { out.write(Box::into_raw(pool)) };
        Ok(())
    })
}

/// Frees a pool; NULL is none. Its destinations may live on, and with them what they need of it.
/// In a child of fork(2) this does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_free(pool: *mut Pool) {
    answer(std::ptr::null_mut(), || {
        // SAFETY: NULL, or what `portlease_pool_new` made, and the caller's alone.
        if unsafe { pool.as_ref() }.is_some_and(|pool| pool.0.is_ours()) {
            // SAFETY: not NULL, and the caller gives it back once.
            drop(unsafe { Box::from_raw(pool) });
        }
        Ok(())
    });
}

/// Acquires a four-tuple towards a destination, for a socket of your own: bind it with
/// portlease_lease_bind(), connect it, and release the lease when it is closed. protocol is a
/// portlease_protocol.
///
/// PORTLEASE_EXHAUSTED: none is free. PORTLEASE_NO_SOURCE: the pool has no source of this
/// address family or, link-local, on its interface. PORTLEASE_BAD_ADDRESS,
/// PORTLEASE_BAD_CONFIG: dst is no destination. PORTLEASE_OS: the kernel has just
/// refused to bind whatever the pool has, with EACCES for privileged ports, EADDRNOTAVAIL for an
/// address that is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_acquire(
    pool: *const Pool,
    protocol: i32,
    dst: *const libc::sockaddr,
    dst_len: libc::socklen_t,
    lease: *mut Lease,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("lease", lease)?;
        // SAFETY: the conventions, both.
        let (pool, dst) = unsafe { (object("pool", pool)?, address::read("dst", dst, dst_len)?) };
        let parts = pool.0.acquire_parts(None, self::protocol(protocol)?, dst)?;
        // SAFETY: not NULL, so a place of the caller's for a lease.
        unsafe { out.write(parts.into()) };
        Ok(())
    })
}

/// As portlease_pool_acquire(), from one source address, on any of its ports; the port of source
/// does not matter.
///
/// PORTLEASE_NOT_OURS: the pool does not have that source.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_acquire_from(
    pool: *const Pool,
    source: *const libc::sockaddr,
    source_len: libc::socklen_t,
    protocol: i32,
    dst: *const libc::sockaddr,
    dst_len: libc::socklen_t,
    lease: *mut Lease,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("lease", lease)?;
        // SAFETY: the conventions, all three.
        let (pool, source, dst) = unsafe {
            (
                object("pool", pool)?,
                address::read("source", source, source_len)?,
                address::read("dst", dst, dst_len)?,
            )
        };
        let parts = pool.0.acquire_parts(Some(ip(source)), self::protocol(protocol)?, dst)?;
        // SAFETY: not NULL, so a place of the caller's for a lease.
        unsafe { out.write(parts.into()) };
        Ok(())
    })
}

/// Learns which four-tuples of the pool's sources the kernel holds already, connected or in
/// TIME_WAIT, and withholds them until it does not any more. A process that was restarted while
/// its connections lived starts with the truth this way. count, which may be NULL, gets how many
/// were new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_import(
    pool: *const Pool,
    count: *mut u64,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let pool = unsafe { object("pool", pool) }?;
        let imported = pool.0.import()?;
        if !count.is_null() {
            // SAFETY: not NULL, so a place of the caller's for a number.
            unsafe { count.write(imported as u64) };
        }
        Ok(())
    })
}

/// Looks again which ports of the pool's sources somebody listens on, and which imported
/// four-tuples the kernel still holds. The pool does so by itself when it is made, when a port
/// turns out to be held by somebody else, and before it says "exhausted", at most once a second.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_refresh(
    pool: *const Pool,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        Ok(unsafe { object("pool", pool) }?.0.refresh()?)
    })
}

/// Gives back ports that other processes want and this one does not use, and looks whether the
/// shared file (portlease_config_set_shared()) is still the one that it was. Acquires, releases
/// and censuses do so by themselves; a process that may fall silent for long calls this when
/// portlease_pool_maintain_fd() can be read, or from a timer, every second or so. Nothing to do
/// for other pools, nor with PORTLEASE_MAINTENANCE_BY_THREAD.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_maintain(
    pool: *const Pool,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        Ok(unsafe { object("pool", pool) }?.0.maintain()?)
    })
}

/// A descriptor that can be read when portlease_pool_maintain() is worth a call: when another
/// process has come to be in want of ports, when the shared file was changed, and when it is time
/// to look again. For an event loop that may have nothing else to do: watch it for reading,
/// level-triggered, call portlease_pool_maintain() when it can be read, and never read from it.
/// It is the caller's to close, before or after the pool is freed; each call gives another one.
/// For a pool that shares nothing it is never readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_maintain_fd(
    pool: *const Pool,
    fd: *mut i32,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("fd", fd)?;
        // SAFETY: the conventions.
        let pool = unsafe { object("pool", pool) }?;
        let descriptor = pool.0.maintain_fd()?;
        // SAFETY: not NULL, so a place of the caller's for a number.
        unsafe { out.write(descriptor.into_raw_fd()) };
        Ok(())
    })
}

/// Counts over all destinations that have a lease, rest something or have a handle: how many
/// they are, and their counts added up. Either result may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_census(
    pool: *const Pool,
    destinations: *mut u64,
    sum: *mut Census,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let census = unsafe { object("pool", pool) }?.0.census()?;
        if !destinations.is_null() {
            // SAFETY: not NULL, so a place of the caller's for a number.
            unsafe { destinations.write(census.destinations) };
        }
        if !sum.is_null() {
            // SAFETY: not NULL, so a place of the caller's for a census.
            unsafe { sum.write(census.sum.into()) };
        }
        Ok(())
    })
}

/// The counts of one destination.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_census_of(
    pool: *const Pool,
    protocol: i32,
    dst: *const libc::sockaddr,
    dst_len: libc::socklen_t,
    census: *mut Census,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("census", census)?;
        // SAFETY: the conventions, both.
        let (pool, dst) = unsafe { (object("pool", pool)?, address::read("dst", dst, dst_len)?) };
        let census = pool.0.census_of(self::protocol(protocol)?, dst)?;
        // SAFETY: not NULL, so a place of the caller's for a census.
        unsafe { out.write(census.into()) };
        Ok(())
    })
}
