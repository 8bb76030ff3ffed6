//! After `fork` the child's pool is no pool, and its parent's leases stay its parent's.

mod common;

use common::in_namespace;
use portlease::{Error, Family, ModeChoice, Pool, Protocol};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn build() -> Pool {
    Pool::builder()
        .sources("127.0.0.2:5000-5063")
        .bind_mode(ModeChoice::Explicit)
        .lease_ids()
        .build()
        .unwrap()
}

/// Runs `body` in a child; whether it went well. A child that hangs is ended by its alarm.
fn in_child(body: impl FnOnce()) -> bool {
    // SAFETY: the child touches no lock that another thread may have held: that is the test.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no argument is a pointer.
            unsafe { libc::alarm(20) };
            let well = catch_unwind(AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!well)) }
        }
        child => {
            assert!(child > 0, "{}", std::io::Error::last_os_error());
            let mut status = 0;
            // SAFETY: `status` is a valid place, and `child` is ours.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            status == 0
        }
    }
}

fn is_forked<T>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Forked)));
}

#[test]
fn a_child_is_told_and_builds_a_pool_of_its_own() {
    in_namespace("a_child_is_told_and_builds_a_pool_of_its_own", || {
        let listener = TcpListener::bind("127.0.0.1:700").unwrap();
        let to = listener.local_addr().unwrap();
        let pool = build();
        let handle = pool.destination(Protocol::Tcp, to).unwrap();
        let id = pool.acquire(Protocol::Tcp, to).unwrap().into_id().unwrap();
        assert!(in_child(|| {
            is_forked(pool.acquire(Protocol::Tcp, to));
            is_forked(pool.connect(to));
            is_forked(pool.connect_udp(to));
            is_forked(pool.destination(Protocol::Tcp, to));
            is_forked(pool.acquire_port(Family::V4));
            is_forked(pool.acquire_many(Protocol::Tcp, &[to]).next().unwrap());
            is_forked(pool.census());
            is_forked(pool.census_of(Protocol::Tcp, to));
            is_forked(pool.import());
            is_forked(pool.refresh());
            is_forked(pool.source_of(id));
            is_forked(pool.release_id(id, None));
            is_forked(handle.acquire());
            is_forked(handle.connect());
            is_forked(handle.census());
            pool.announce(Protocol::Tcp, to);
            let own = build();
            own.connect(to).unwrap();
            // The grandchild's pool is its own affair again.
            assert!(in_child(|| is_forked(own.acquire(Protocol::Tcp, to))));
        }));
        pool.release_id(id, None).unwrap();
    });
}

#[test]
fn what_a_child_drops_stays_leased_in_its_parent() {
    in_namespace("what_a_child_drops_stays_leased_in_its_parent", || {
        let listener = TcpListener::bind("127.0.0.1:700").unwrap();
        let to = listener.local_addr().unwrap();
        let pool = build();
        let handle = pool.destination(Protocol::Tcp, to).unwrap();
        let mut held = Some((
            pool.acquire(Protocol::Tcp, to).unwrap().into_owned(),
            handle.acquire().unwrap().into_owned(),
            pool.connect(to).unwrap(),
            pool.connect_udp(to).unwrap(),
            pool.acquire_port(Family::V4).unwrap(),
            handle,
        ));
        assert!(in_child(|| drop(held.take())));
        let census = pool.census_of(Protocol::Tcp, to).unwrap();
        assert_eq!((census.leased, census.excluded), (3, 1));
        let (.., stream, _, _, _) = held.take().unwrap();
        // The child's copy of the descriptor is gone, ours is still connected.
        assert_eq!(stream.get_ref().peer_addr().unwrap(), to);
        drop(stream);
        let census = pool.census_of(Protocol::Tcp, to).unwrap();
        assert_eq!((census.leased, census.excluded), (0, 0));
    });
}

#[test]
fn forks_amid_threads_never_hang() {
    in_namespace("forks_amid_threads_never_hang", || {
        let pool = build();
        let destinations: Vec<_> =
            (1..=64).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for lease in pool.acquire_many(Protocol::Tcp, &destinations) {
                            drop(lease.unwrap().into_owned());
                        }
                    }
                });
            }
            let leases: Vec<_> =
                destinations.iter().map(|to| pool.acquire(Protocol::Tcp, *to).unwrap()).collect();
            let mut leases = Some(leases);
            for _ in 0..300 {
                assert!(in_child(|| {
                    is_forked(pool.acquire(Protocol::Tcp, at("127.0.0.1:1")));
                    drop(leases.take());
                    is_forked(pool.census());
                }));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(pool.census().unwrap().sum.leased, 0);
    });
}
