//! Random calls of the C face with random and hostile arguments.
//!
//! After each call: the answer is one that the call may give, nothing but what it should have
//! changed has changed, and each destination's census adds up to what is held.

use arbitrary::{Arbitrary, Result, Unstructured};
use portlease::ffi::*;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

/// Few ports, so that destinations are exhausted now and then.
const SOURCES: &std::ffi::CStr = c"127.0.0.2:5000-5010, 127.0.0.3:5000-5010";
const CAPACITY: u64 = 22;
const DESTINATIONS: usize = 3;

type V4 = libc::sockaddr_in;

fn v4(ip: [u8; 4], port: u16) -> V4 {
    V4 {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
        sin_zero: [0; 8],
    }
}

fn len() -> libc::socklen_t {
    size_of::<V4>() as libc::socklen_t
}

/// The pool, the handles of its destinations, and what is held.
pub(crate) struct World {
    pool: *mut Pool,
    other: *mut Pool,
    handles: [*mut Destination; DESTINATIONS],
    live: Vec<(usize, Lease)>,
    dead: Vec<Lease>,
    pub(crate) exhausted: u64,
    pub(crate) stale: u64,
}

fn new_pool(config: *const Config) -> *mut Pool {
    let mut pool = null_mut();
    // SAFETY: the pointers are valid.
    assert_eq!(unsafe { portlease_pool_new(config, &mut pool, null_mut()) }, Status::Ok);
    pool
}

fn address(destination: usize) -> V4 {
    v4([127, 0, 0, 1], 80 + destination as u16)
}

impl World {
    pub(crate) fn new() -> Self {
        let mut config = null_mut();
        // SAFETY: the pointers are valid, and the configuration is used by this thread alone.
        let (pool, other) = unsafe {
            assert_eq!(portlease_config_new(&mut config), Status::Ok);
            let added = portlease_config_add_sources(config, SOURCES.as_ptr(), null_mut());
            assert_eq!(added, Status::Ok);
            assert_eq!(portlease_config_set_mode(config, 1, null_mut()), Status::Ok);
            let pools = (new_pool(config), new_pool(config));
            portlease_config_free(config);
            pools
        };
        let handles: [_; DESTINATIONS] = std::array::from_fn(|destination| {
            let (to, mut handle) = (address(destination), null_mut());
            // SAFETY: the pointers are valid.
            let made = unsafe {
                let to = (&raw const to).cast();
                portlease_pool_destination(pool, 6, to, len(), &mut handle, null_mut())
            };
            assert_eq!(made, Status::Ok);
            handle
        });
        // The last destination has no handle, so its leases are kept in the small form.
        // SAFETY: it is freed once.
        unsafe { portlease_destination_free(handles[DESTINATIONS - 1]) };
        let handles = [handles[0], handles[1], null_mut()];
        Self { pool, other, handles, live: vec![], dead: vec![], exhausted: 0, stale: 0 }
    }

    fn leased(&self, destination: usize) -> u64 {
        self.live.iter().filter(|(of, _)| *of == destination).count() as u64
    }

    /// Every destination holds what it should.
    pub(crate) fn check(&self) {
        for destination in 0..DESTINATIONS {
            let to = address(destination);
            let mut census = Census::default();
            // SAFETY: the pointers are valid.
            let told = unsafe {
                let to = (&raw const to).cast();
                portlease_pool_census_of(self.pool, 6, to, len(), &mut census, null_mut())
            };
            assert_eq!(told, Status::Ok);
            assert_eq!(census.capacity, CAPACITY);
            assert_eq!(
                census.free + census.leased + census.resting + census.excluded,
                census.capacity
            );
            assert_eq!(census.leased, self.leased(destination), "destination {destination}");
        }
    }

    /// A lease to hand in, and its place in `live` where it is one.
    fn lease(&self, u: &mut Unstructured<'_>) -> Result<(Lease, Option<usize>)> {
        let at = |u: &mut Unstructured<'_>, len: usize| u.choose_index(len);
        let lease = match u.int_in_range(0..=7)? {
            0..=4 if !self.live.is_empty() => {
                let index = at(u, self.live.len())?;
                return Ok((self.live[index].1, Some(index)));
            }
            5 if !self.dead.is_empty() => self.dead[at(u, self.dead.len())?],
            6 if !self.live.is_empty() => {
                let mut bent = self.live[at(u, self.live.len())?].1;
                let bit = u.int_in_range(0..=319)?;
                bent.opaque[bit / 64] ^= 1 << (bit % 64);
                bent
            }
            _ => Lease { opaque: <[u64; 5]>::arbitrary(u)? },
        };
        // A bent lease may be another live one.
        let known = self.live.iter().position(|(_, known)| *known == lease);
        Ok((lease, known))
    }

    fn acquired(&mut self, status: Status, destination: usize, lease: Lease, error: &ErrorInfo) {
        match status {
            Status::Ok => {
                assert!(self.live.iter().all(|(_, known)| *known != lease));
                assert!(!self.dead.contains(&lease), "a generation has come back");
                self.live.push((destination, lease));
            }
            Status::Exhausted => {
                self.exhausted += 1;
                assert_eq!(error.leased + error.resting + error.excluded, CAPACITY);
                assert_eq!(error.leased, self.leased(destination));
            }
            other => panic!("acquire: {other:?}"),
        }
    }

    fn released(&mut self, status: Status, known: Option<usize>) {
        match (status, known) {
            (Status::Ok, Some(index)) => {
                let (_, lease) = self.live.swap_remove(index);
                // Some are enough.
                if self.dead.len() == 64 {
                    self.dead.swap_remove(0);
                }
                self.dead.push(lease);
            }
            (Status::StaleLease, None) => self.stale += 1,
            other => panic!("release: {other:?}"),
        }
    }

    pub(crate) fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut error = MaybeUninit::<ErrorInfo>::zeroed();
        // SAFETY: all zeros is a `portlease_error`.
        let error = unsafe { error.assume_init_mut() };
        let destination = u.choose_index(DESTINATIONS)?;
        let handle = self.handles[destination];
        let to = address(destination);
        let dst = (&raw const to).cast::<libc::sockaddr>();
        let mut lease = Lease { opaque: [0x5555; 5] };
        let (pool, before) = (self.pool, lease);
        match u.int_in_range(0..=13)? {
            0..=2 => {
                // SAFETY: the pointers are valid.
                let status =
                    unsafe { portlease_pool_acquire(pool, 6, dst, len(), &mut lease, error) };
                self.acquired(status, destination, lease, error);
            }
            3..=4 if !handle.is_null() => {
                // SAFETY: the pointers are valid.
                let status = unsafe { portlease_destination_acquire(handle, &mut lease, error) };
                self.acquired(status, destination, lease, error);
            }
            5..=6 => {
                let (lease, known) = self.lease(u)?;
                let closed = u.int_in_range(0..=5)?;
                // SAFETY: the pointers are valid.
                let status = unsafe { portlease_pool_release(pool, &lease, closed, error) };
                self.released(status, known);
            }
            7 if !handle.is_null() => {
                let (lease, known) = self.lease(u)?;
                let known = known.filter(|index| self.live[*index].0 == destination);
                let closed = u.int_in_range(0..=5)?;
                // SAFETY: the pointers are valid.
                let status =
                    unsafe { portlease_destination_release(handle, &lease, closed, error) };
                self.released(status, known);
            }
            8 => {
                let (mut lease, known) = self.lease(u)?;
                let (call, errno) = (u.int_in_range(0..=1)?, i32::arbitrary(u)?);
                // Errors that keep a port from us would do so for a second.
                let errno = if errno & 1 == 0 { libc::ECONNREFUSED } else { errno | 1 << 20 };
                let mut verdict = Verdict::TryAnother;
                // SAFETY: the pointers are valid.
                let status = unsafe {
                    portlease_pool_report(pool, &mut lease, call, errno, &mut verdict, error)
                };
                assert!(status != Status::Ok || verdict == Verdict::GiveUp, "{errno}");
                self.released(status, known);
            }
            9 => {
                let (lease, known) = self.lease(u)?;
                // SAFETY: all zeros is a `sockaddr_storage`.
                let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
                let mut storage_len = 0;
                // SAFETY: the pointers are valid.
                let (source, destination) = unsafe {
                    let (at, len) = (&raw mut storage, &raw mut storage_len);
                    (
                        portlease_lease_source(pool, &lease, at, len, error),
                        portlease_lease_destination(pool, &lease, at, len, null_mut(), error),
                    )
                };
                let expected = if known.is_some() { Status::Ok } else { Status::StaleLease };
                assert_eq!((source, destination), (expected, expected));
            }
            10 => {
                // The other pool knows nothing of it.
                let (lease, _) = self.lease(u)?;
                // SAFETY: the pointers are valid.
                let status = unsafe { portlease_pool_release(self.other, &lease, 0, error) };
                assert_eq!(status, Status::StaleLease);
            }
            11 => {
                // Numbers that stand for nothing.
                let number = match i32::arbitrary(u)? {
                    known @ 0..=17 => known + 100,
                    unknown => unknown,
                };
                let (known, _) = self.lease(u)?;
                let mut verdict = Verdict::TryAnother;
                let mut fd = 77;
                // SAFETY: the pointers are valid, and an odd socket type makes no socket.
                let statuses = unsafe {
                    [
                        portlease_pool_acquire(pool, number, dst, len(), &mut lease, error),
                        portlease_pool_release(pool, &known, number, error),
                        portlease_pool_connect(
                            pool,
                            number | 0x40,
                            dst,
                            len(),
                            &mut fd,
                            &mut lease,
                            null_mut(),
                            error,
                        ),
                        portlease_pool_report(pool, &mut lease, number, 0, &mut verdict, error),
                    ]
                };
                assert!(
                    statuses
                        .iter()
                        .all(|status| { matches!(status, Status::BadNumber | Status::StaleLease) })
                );
                assert_eq!((lease, fd), (before, 77));
            }
            12 => {
                // Bytes that are no destination, of any length that is there.
                let bytes = <[u8; 40]>::arbitrary(u)?;
                let from = u.int_in_range(0..=3)?;
                let len = u.int_in_range(0..=36)?;
                // SAFETY: `len` bytes from there are readable.
                let status = unsafe {
                    let dst = bytes.as_ptr().add(from).cast();
                    portlease_pool_acquire(self.other, 17, dst, len, &mut lease, error)
                };
                match status {
                    // SAFETY: the pointers are valid.
                    Status::Ok => unsafe {
                        let back = portlease_pool_release(self.other, &lease, 4, error);
                        assert_eq!(back, Status::Ok);
                    },
                    Status::BadAddress | Status::BadConfig | Status::NoSource => {
                        assert_eq!(lease, before);
                        assert_eq!(error.status, status);
                    }
                    other => panic!("{other:?}"),
                }
            }
            _ => self.nulls_and_descriptors(u, dst, error)?,
        }
        Ok(())
    }

    /// Calls with a NULL, or a descriptor that is none.
    fn nulls_and_descriptors(
        &self,
        u: &mut Unstructured<'_>,
        dst: *const libc::sockaddr,
        error: *mut ErrorInfo,
    ) -> Result<()> {
        let mut lease = Lease::default();
        let (known, index) = self.lease(u)?;
        let (pool, out) = (self.pool, &raw mut lease);
        let error = if bool::arbitrary(u)? { error } else { null_mut() };
        // None of these numbers is a descriptor here.
        let fd = match u.int_in_range(0..=2)? {
            0 => -1,
            1 => i32::arbitrary(u)? | i32::MIN,
            _ => i32::arbitrary(u)? | 1 << 29,
        };
        // SAFETY: the pointers are valid or NULL.
        unsafe {
            for status in [
                portlease_pool_acquire(null(), 6, dst, len(), out, error),
                portlease_pool_acquire(pool, 6, null(), len(), out, error),
                portlease_pool_acquire(pool, 6, dst, len(), null_mut(), error),
                portlease_pool_release(null(), &known, 0, error),
                portlease_pool_release(pool, null(), 0, error),
                portlease_pool_report(pool, out, 0, 0, null_mut(), error),
                portlease_lease_source(null(), &known, null_mut(), null_mut(), error),
                portlease_destination_acquire(null(), out, error),
                portlease_pool_census_of(pool, 6, dst, len(), null_mut(), error),
            ] {
                assert_eq!(status, Status::NullArgument);
            }
            let expected = if index.is_some() { Status::BadDescriptor } else { Status::StaleLease };
            assert_eq!(portlease_lease_bind(pool, &known, fd, error), expected);
            assert_eq!(portlease_pool_close(pool, fd, &known, error), expected);
            assert_eq!(portlease_pool_adopt(pool, fd, out, error), Status::BadDescriptor);
        }
        assert_eq!(lease, Lease::default());
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: each is freed once, NULL included.
        unsafe {
            portlease_pool_free(self.pool);
            portlease_pool_free(self.other);
            self.handles.into_iter().for_each(|handle| portlease_destination_free(handle));
        }
    }
}
