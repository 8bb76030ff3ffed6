//! Destinations: looked up once, for callers that dial one all day

use super::pool::Pool;
use super::status::{ErrorInfo, Failure, Status, answer};
use super::types::{Census, Lease, Place, Progress, closed, place as place_of, protocol};
use super::{address, object, place, socket};
use crate::connect::{ConnectOptions, DestinationHandle};
use crate::error::Error;

/// One destination of a pool, looked up once: acquiring through it is the fastest way. While it
/// lives the destination's state stays in memory, about 8 KiB for each source.
#[derive(Debug)]
pub struct Destination {
    handle: DestinationHandle,
    /// What its leases have in common.
    place: Place,
}

/// Makes a handle for a destination. Free it with portlease_destination_free(); until then it
/// keeps its pool alive. protocol is a portlease_protocol.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_pool_destination(
    pool: *const Pool,
    protocol: i32,
    dst: *const libc::sockaddr,
    dst_len: libc::socklen_t,
    destination: *mut *mut Destination,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("destination", destination)?;
        // SAFETY: the conventions, both.
        let (pool, dst) = unsafe { (object("pool", pool)?, address::read("dst", dst, dst_len)?) };
        let handle = pool.0.destination(self::protocol(protocol)?, dst)?;
        let place = place_of(handle.pool_number(), &handle.destination());
        // SAFETY: not NULL, so a place of the caller's for a pointer.
        unsafe { out.write(Box::into_raw(Box::new(Destination { handle, place }))) };
        Ok(())
    })
}

/// Frees a handle; NULL is none. Leases acquired through it go on, and are released through the
/// pool or another handle. In a child of fork(2) this does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_destination_free(destination: *mut Destination) {
    answer(std::ptr::null_mut(), || {
        // SAFETY: NULL, or what `portlease_pool_destination` made, and the caller's alone.
        if unsafe { destination.as_ref() }.is_some_and(|this| this.handle.is_ours()) {
            // SAFETY: not NULL, and the caller gives it back once.
            drop(unsafe { Box::from_raw(destination) });
        }
        Ok(())
    });
}

/// Acquires a four-tuple towards the destination, as portlease_pool_acquire() does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_destination_acquire(
    destination: *const Destination,
    lease: *mut Lease,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("lease", lease)?;
        // SAFETY: the conventions.
        let destination = unsafe { object("destination", destination) }?;
        let mark = destination.handle.acquire_mark()?;
        // SAFETY: not NULL, so a place of the caller's for a lease.
        unsafe { out.write(Lease::new(destination.place, mark)) };
        Ok(())
    })
}

/// Gives a four-tuple back, as portlease_pool_release() does. Takes leases of the pool too, if
/// they are for this destination.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_destination_release(
    destination: *const Destination,
    lease: *const Lease,
    closed: i32,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions, both.
        let (destination, lease) =
            unsafe { (object("destination", destination)?, object("lease", lease)?) };
        let closed = self::closed(closed)?;
        if lease.place() != destination.place {
            return Err(stale());
        }
        Ok(destination.handle.release_mark(lease.mark(), closed)?)
    })
}

/// Connects to the destination, as portlease_pool_connect() does. Only for TCP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_destination_connect(
    destination: *const Destination,
    socket_type: i32,
    fd: *mut i32,
    lease: *mut Lease,
    progress: *mut Progress,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        // SAFETY: the conventions.
        let destination = unsafe { object("destination", destination) }?;
        let tcp = |options: &ConnectOptions<'_>| destination.handle.connect_with(options);
        // SAFETY: the conventions.
        unsafe { socket::connect(socket_type, &tcp, None, fd, lease, progress) }
    })
}

/// The counts of the destination.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_destination_census(
    destination: *const Destination,
    census: *mut Census,
    error: *mut ErrorInfo,
) -> Status {
    answer(error, || {
        let out = place("census", census)?;
        // SAFETY: the conventions.
        let census = unsafe { object("destination", destination) }?.handle.census()?;
        // SAFETY: not NULL, so a place of the caller's for a census.
        unsafe { out.write(census.into()) };
        Ok(())
    })
}

#[cold]
fn stale() -> Failure {
    Error::StaleLease.into()
}
