//! Leases

use super::address;
use super::pool::Pool;
use super::status::{ErrorInfo, Failure, Status, answer};
use super::types::{Lease, Verdict, call, closed};
use super::{object, place};
use crate::connect::LeaseId;
use std::io;
use std::net::SocketAddr;

/// The source address and port of a lease, into a struct sockaddr_storage. source_len, which may
/// be NULL, gets how many of its bytes bind(2) wants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_lease_source(
    pool: *const Pool,
    lease: *const Lease,
    source: *mut libc::sockaddr_storage,
    source_len: *mut libc::socklen_t,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        let address = pool.0.source_of(id)?;
        // SAFETY: the conventions.
        unsafe { tell(address, "source", source, source_len) }
    })
}

/// The destination of a lease, into a struct sockaddr_storage. destination_len and protocol, a
/// portlease_protocol, may be NULL. An IPv4-mapped IPv6 address is the IPv4 address that it maps.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_lease_destination(
    pool: *const Pool,
    lease: *const Lease,
    destination: *mut libc::sockaddr_storage,
    destination_len: *mut libc::socklen_t,
    protocol: *mut i32,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        // For the look whether it is a lease.
        pool.0.source_of(id)?;
        // SAFETY: the conventions.
        unsafe {
            tell(id.destination().address(), "destination", destination, destination_len)?;
        }
        if !protocol.is_null() {
            // SAFETY: not NULL, so a place of the caller's for a number.
            unsafe { protocol.write(id.destination().protocol() as i32) };
        }
        Ok(())
    })
}

/// Asks the kernel whether it would refuse the lease's four-tuple to a new socket, because it still
/// has it for another one. For programs that leave connect(2) to somebody else, and with it the
/// chance to try again.
///
/// PORTLEASE_OS: it would; hand the errno to portlease_pool_report() with PORTLEASE_CALL_CONNECT.
/// PORTLEASE_UNSUPPORTED: this kernel does not tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_lease_probe(
    pool: *const Pool,
    lease: *const Lease,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        Ok(pool.0.probe_id(id)?)
    })
}

/// Tells that a system call, a portlease_call, failed with an errno for a socket that was bound
/// under the lease, and that this socket is closed. verdict gets what that means. Unless it is
/// PORTLEASE_VERDICT_GIVE_UP, the lease is for another four-tuple now: try it with a new socket.
/// With PORTLEASE_VERDICT_GIVE_UP the lease is released, and the error is the destination's or
/// yours.
///
/// EINPROGRESS and EINTR are no failures: the connection is on its way.
///
/// PORTLEASE_EXHAUSTED: another try would make sense, but nothing is left to try; the lease is
/// released. After any other failure it is what it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_report(
    pool: *const Pool,
    lease: *mut Lease,
    call: i32,
    os_error: i32,
    verdict: *mut Verdict,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("verdict", verdict)?;
        // SAFETY: the conventions.
        let (pool, id) = unsafe { named(pool, lease) }?;
        let cause = io::Error::from_raw_os_error(os_error);
        let (verdict, next) = pool.0.report_id(id, self::call(call)?, &cause)?;
        if let Some(next) = next {
            // SAFETY: `named` has seen that it is not NULL, so it is the caller's lease.
            unsafe { lease.write(next.parts().into()) };
        }
        // SAFETY: not NULL, so a place of the caller's for a verdict.
        unsafe { out.write(verdict.into()) };
        Ok(())
    })
}

/// Gives a four-tuple back, after its socket was closed. closed, a portlease_closed, says whose
/// end was closed first: it rests as long as the kernel needs then, and at least the pool's own
/// time.
///
/// PORTLEASE_STALE_LEASE: it was released before, and nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_release(
    pool: *const Pool,
    lease: *const Lease,
    closed: i32,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions, both.
        let (pool, lease) = unsafe { (object("pool", pool)?, object("lease", lease)?) };
        let closed = self::closed(closed)?;
        Ok(pool.0.release_parts(&lease.parts()?, closed)?)
    })
}

/// Pool and lease, which may be stale.
///
/// # Safety
///
/// The pointers keep to the conventions.
pub(super) unsafe fn named<'a>(
    pool: *const Pool,
    lease: *const Lease,
) -> Result<(&'a Pool, LeaseId), Failure> {
    // SAFETY: as promised to us.
    let (pool, lease) = unsafe { (object("pool", pool)?, object("lease", lease)?) };
    Ok((pool, pool.0.id_of(&lease.parts()?)?))
}

/// Writes an address into a `sockaddr_storage` of the caller's.
///
/// # Safety
///
/// The pointers keep to the conventions.
unsafe fn tell(
    address: SocketAddr,
    argument: &'static str,
    to: *mut libc::sockaddr_storage,
    len: *mut libc::socklen_t,
) -> Result<(), Failure> {
    let to = place(argument, to)?;
    let (storage, storage_len) = address::storage(address);
    // SAFETY: not NULL, so a place of the caller's for an address.
    unsafe { to.write(storage) };
    if !len.is_null() {
        // SAFETY: not NULL, so a place of the caller's for a length.
        unsafe { len.write(storage_len) };
    }
    Ok(())
}
