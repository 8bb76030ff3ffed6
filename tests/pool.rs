//! The pool without a connection: leases, their numbers and their ends.

use portlease::{
    ClosedFirst, Destination, DestinationHandle, Error, Exhausted, Family, Lease, LeaseId,
    LeasedPort, LeasedStream, LeasedUdpSocket, ModeChoice, Pool, PoolBuilder, PortRange,
    PrivilegedPorts, Protocol, Slice,
};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

fn pool(sources: &str) -> Pool {
    Pool::builder().sources(sources).bind_mode(ModeChoice::Explicit).build().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[track_caller]
fn exhausted<T: std::fmt::Debug>(result: Result<T, Error>) -> Exhausted {
    match result.unwrap_err() {
        Error::Exhausted(counts) => counts,
        other => panic!("{other}"),
    }
}

#[test]
fn what_may_cross_threads_does() {
    fn free<T: Send + Sync + Unpin>() {}
    free::<Pool>();
    free::<PoolBuilder>();
    free::<DestinationHandle>();
    free::<Lease<'static>>();
    free::<LeaseId>();
    free::<LeasedStream>();
    free::<LeasedUdpSocket>();
    free::<LeasedPort>();
    free::<Error>();
    fn unwinds<T: UnwindSafe + RefUnwindSafe>() {}
    unwinds::<LeaseId>();
    unwinds::<Exhausted>();
    fn is_static<T: 'static>(_: &T) {}
    is_static(&pool("127.0.0.2:5000").destination(Protocol::Tcp, at("127.0.0.1:80")).unwrap());
}

#[test]
fn each_destination_has_every_port_once() {
    let pool = pool("127.0.0.2:5000-5009, 127.0.0.3:6000-6004");
    for destination in ["127.0.0.1:80", "127.0.0.1:81"].map(at) {
        let leases: Vec<_> =
            (0..15).map(|_| pool.acquire(Protocol::Tcp, destination).unwrap()).collect();
        let sources: HashSet<_> = leases.iter().map(Lease::source).collect();
        assert_eq!(sources.len(), 15);
        let counts = exhausted(pool.acquire(Protocol::Tcp, destination));
        assert_eq!((counts.leased, counts.resting, counts.excluded), (15, 0, 0));
        assert_eq!(counts.destination, Destination::new(Protocol::Tcp, destination));
        assert_eq!(counts.next_free_ms, None);
        let census = pool.census_of(Protocol::Tcp, destination).unwrap();
        assert_eq!((census.capacity, census.free, census.leased), (15, 0, 15));
        drop(leases);
        assert_eq!(pool.census_of(Protocol::Tcp, destination).unwrap().free, 15);
    }
}

#[test]
fn tcp_and_udp_ports_are_separate() {
    let pool = pool("127.0.0.2:5000");
    let tcp = pool.acquire(Protocol::Tcp, at("127.0.0.1:80")).unwrap();
    let udp = pool.acquire(Protocol::Udp, at("127.0.0.1:80")).unwrap();
    assert_eq!(tcp.source(), udp.source());
}

#[test]
fn a_mapped_destination_is_the_ipv4_one() {
    let pool = pool("127.0.0.2:5000");
    let lease = pool.acquire(Protocol::Tcp, at("[::ffff:127.0.0.1]:80")).unwrap();
    assert_eq!(lease.destination().address(), at("127.0.0.1:80"));
    exhausted(pool.acquire(Protocol::Tcp, at("127.0.0.1:80")));
}

#[test]
fn a_family_without_a_source_is_told() {
    let pool = pool("127.0.0.2:5000");
    let error = pool.acquire(Protocol::Tcp, at("[::1]:80")).unwrap_err();
    assert!(matches!(error, Error::NoSource { .. }), "{error}");
    assert!(error.to_string().contains("IPv6"), "{error}");
    let error = pool.destination(Protocol::Tcp, at("[::1]:80")).unwrap_err();
    assert!(matches!(error, Error::NoSource { .. }), "{error}");
}

#[test]
fn one_source_can_be_asked_for() {
    let pool = pool("127.0.0.2:5000-5001, 127.0.0.3:5000-5001");
    let from =
        |text: &str| pool.acquire_from(text.parse().unwrap(), Protocol::Tcp, at("127.0.0.1:80"));
    let leases = [from("127.0.0.3").unwrap(), from("::ffff:127.0.0.3").unwrap()];
    assert!(leases.iter().all(|lease| lease.source().ip() == at("127.0.0.3:0").ip()));
    exhausted(from("127.0.0.3"));
    from("127.0.0.2").unwrap().release();
    let error = from("127.0.0.4").unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }), "{error}");
}

#[test]
fn a_destination_without_host_or_port_is_refused() {
    let pool = pool("127.0.0.2:5000");
    for nowhere in ["0.0.0.0:80", "127.0.0.1:0", "[::]:80"].map(at) {
        let error = pool.acquire(Protocol::Tcp, nowhere).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(error.to_string().contains(&nowhere.to_string()), "{error}");
    }
}

#[test]
fn a_port_never_dials_itself() {
    let pool = pool("127.0.0.2:5000-5001");
    let myself = at("127.0.0.2:5000");
    let lease = pool.acquire(Protocol::Tcp, myself).unwrap();
    assert_eq!(lease.source(), at("127.0.0.2:5001"));
    let counts = exhausted(pool.acquire(Protocol::Tcp, myself));
    assert_eq!((counts.leased, counts.excluded), (1, 1));
}

#[test]
fn a_handle_and_the_pool_share_one_ledger() {
    let pool = pool("127.0.0.2:5000-5002");
    let to = at("127.0.0.1:80");
    let before = pool.acquire(Protocol::Tcp, to).unwrap();
    let handle = pool.destination(Protocol::Tcp, to).unwrap();
    let by_handle = handle.acquire().unwrap();
    let after = pool.acquire(Protocol::Tcp, to).unwrap();
    let sources = HashSet::from([before.source(), by_handle.source(), after.source()]);
    assert_eq!(sources.len(), 3);
    exhausted(handle.acquire());
    assert_eq!(handle.census().unwrap().leased, 3);
    drop((before, by_handle, after));
    assert_eq!(handle.census().unwrap().free, 3);
}

#[test]
fn a_lease_of_its_own_outlives_pool_and_handle() {
    let pool = pool("127.0.0.2:5000-5001");
    let handle = pool.destination(Protocol::Tcp, at("127.0.0.1:80")).unwrap();
    let leases: [Lease<'static>; 2] = [
        pool.acquire(Protocol::Tcp, at("127.0.0.1:80")).unwrap().into_owned(),
        handle.acquire().unwrap().into_owned(),
    ];
    drop((pool, handle));
    assert_ne!(leases[0].source(), leases[1].source());
    std::thread::spawn(move || drop(leases)).join().unwrap();
}

#[test]
fn many_come_in_order() {
    let pool = pool("127.0.0.2:5000");
    let destinations: Vec<_> =
        (1..100).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let leases: Result<Vec<_>, _> = pool.acquire_many(Protocol::Tcp, &destinations).collect();
    let dialled: Vec<_> =
        leases.unwrap().iter().map(|lease| lease.destination().address()).collect();
    assert_eq!(dialled, destinations);
    assert_eq!(pool.census().unwrap().destinations, 0);
}

#[test]
fn a_minimal_rest_is_kept_and_told() {
    let pool = Pool::builder()
        .sources("127.0.0.2:5000")
        .bind_mode(ModeChoice::Explicit)
        .min_rest(Duration::from_secs(3600))
        .build()
        .unwrap();
    let to = at("127.0.0.1:80");
    pool.acquire(Protocol::Tcp, to).unwrap().release();
    let lease = pool.acquire(Protocol::Tcp, to).unwrap();
    lease.release_after(ClosedFirst::Peer);
    let counts = exhausted(pool.acquire(Protocol::Tcp, to));
    assert_eq!((counts.leased, counts.resting), (0, 1));
    assert!((3_500_000..=3_600_000).contains(&counts.next_free_ms.unwrap()), "{counts}");
    // Towards another destination the port is free all the while.
    pool.acquire(Protocol::Tcp, at("127.0.0.1:81")).unwrap().release();
}

#[test]
fn equal_seeds_choose_equal_ports() {
    let ports = |seed| {
        let pool = Pool::builder()
            .sources("127.0.0.2:1024-65535")
            .bind_mode(ModeChoice::Explicit)
            .seed(seed)
            .build()
            .unwrap();
        let leases: Vec<_> =
            (0..20).map(|_| pool.acquire(Protocol::Tcp, at("127.0.0.1:80")).unwrap()).collect();
        leases.iter().map(|lease| lease.source().port()).collect::<Vec<_>>()
    };
    assert_eq!(ports([1; 32]), ports([1; 32]));
    assert_ne!(ports([1; 32]), ports([2; 32]));
}

#[test]
fn ids_go_stale() {
    let build = || Pool::builder().sources("127.0.0.2:5000").lease_ids().build().unwrap();
    let (one, other) = (build(), build());
    let to = at("127.0.0.1:80");
    let id = one.acquire(Protocol::Tcp, to).unwrap().into_id().unwrap();
    exhausted(one.acquire(Protocol::Tcp, to));
    assert_eq!(one.source_of(id).unwrap(), at("127.0.0.2:5000"));
    assert!(matches!(other.release_id(id, None), Err(Error::StaleLease)));
    one.release_id(id, None).unwrap();
    assert!(matches!(one.release_id(id, None), Err(Error::StaleLease)));
    let next = one.acquire(Protocol::Tcp, to).unwrap().into_id().unwrap();
    assert_ne!(id, next);
    assert!(matches!(one.source_of(id), Err(Error::StaleLease)));
    assert!(matches!(one.release_id(id, Some(ClosedFirst::Us)), Err(Error::StaleLease)));
    one.release_id(next, Some(ClosedFirst::Peer)).unwrap();
    one.acquire(Protocol::Tcp, to).unwrap().release();
    let without = pool("127.0.0.2:5000");
    let refused = without.acquire(Protocol::Tcp, to).unwrap().into_id();
    assert!(matches!(refused, Err(Error::Config { .. })));
    without.acquire(Protocol::Tcp, to).unwrap().release();
}

#[test]
fn a_whole_port_is_for_nobody_else() {
    let pool = pool("127.0.0.2:5000-5003");
    let lease = pool.acquire(Protocol::Udp, at("127.0.0.1:80")).unwrap();
    let ports: Vec<_> = (0..3).map(|_| pool.acquire_port(Family::V4).unwrap()).collect();
    let sources: HashSet<_> =
        ports.iter().map(LeasedPort::source).chain([lease.source()]).collect();
    assert_eq!(sources.len(), 4);
    // The fourth port is leased towards one destination, so it is no whole port any more.
    exhausted(pool.acquire_port(Family::V4));
    for destination in ["127.0.0.1:80", "127.0.0.1:81"].map(at) {
        assert_eq!(pool.census_of(Protocol::Udp, destination).unwrap().excluded, 3);
    }
    drop(ports);
    lease.release();
    let all: Vec<_> = (0..4).map(|_| pool.acquire_port(Family::V4).unwrap()).collect();
    assert_eq!(all.len(), 4);
    exhausted(pool.acquire(Protocol::Udp, at("127.0.0.1:80")));
    assert!(matches!(pool.acquire_port(Family::V6), Err(Error::NoSource { .. })));
}

#[test]
fn what_cannot_be_built_is_told() {
    let build = |sources: &str| match Pool::builder().sources(sources).build() {
        Ok(_) => panic!("{sources}: built"),
        Err(error) => error,
    };
    assert!(matches!(build("127.0.0.2, nonsense"), Error::Sources(_)));
    // 192.0.2.0/24 is for documentation alone (RFC 5737).
    let error = build("127.0.0.2, 192.0.2.1");
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    let error = build("127.0.0.2:1000-2000");
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(error.to_string().contains("1000-2000"), "{error}");
    assert!(matches!(Pool::builder().build().unwrap_err(), Error::Config { .. }));
    let pool = Pool::builder()
        .sources("127.0.0.2:1000-2000")
        .bind_mode(ModeChoice::Explicit)
        .privileged_ports(PrivilegedPorts::Lease)
        .build()
        .unwrap();
    assert_eq!(pool.census_of(Protocol::Tcp, at("127.0.0.1:80")).unwrap().capacity, 1001);
}

#[test]
fn the_range_of_the_pool_serves_who_has_none() {
    let pool = Pool::builder()
        .sources("127.0.0.2, 127.0.0.3:5000")
        .ports(PortRange::new(65_530, 65_535).unwrap())
        .bind_mode(ModeChoice::Explicit)
        .build()
        .unwrap();
    assert_eq!(pool.census_of(Protocol::Tcp, at("127.0.0.1:80")).unwrap().capacity, 7);
}

#[test]
fn eight_threads_never_share_a_four_tuple() {
    let pool = pool("127.0.0.2:5000-5063");
    let to = [at("127.0.0.1:80"), at("127.0.0.1:81")];
    let held: [std::sync::Mutex<HashSet<SocketAddr>>; 2] = Default::default();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (pool, held) = (&pool, &held);
            scope.spawn(move || {
                let handle = pool.destination(Protocol::Tcp, to[thread % 2]).unwrap();
                let mut mine = Vec::new();
                for step in 0..20_000 {
                    let which = step % 2;
                    let lease = match which == thread % 2 {
                        true => handle.acquire().map(Lease::from),
                        false => pool.acquire(Protocol::Tcp, to[which]),
                    };
                    match lease {
                        Ok(lease) => {
                            assert!(held[which].lock().unwrap().insert(lease.source()));
                            mine.push((which, lease.into_owned()));
                        }
                        Err(Error::Exhausted(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                    if mine.len() > 10 || step % 3 == 0 {
                        for (which, lease) in mine.drain(..mine.len() / 2) {
                            assert!(held[which].lock().unwrap().remove(&lease.source()));
                            lease.release();
                        }
                    }
                }
                for (which, lease) in mine {
                    assert!(held[which].lock().unwrap().remove(&lease.source()));
                    drop(lease);
                }
            });
        }
    });
    assert_eq!(pool.census().unwrap().sum.leased, 0);
}

#[test]
fn slices_are_the_whole_cut_up() {
    const SOURCES: &str = "127.0.0.2-127.0.0.3:20032-20287";
    let to = at("127.0.0.1:80");
    let mut seen = HashSet::new();
    for number in 1..=3 {
        let slice = Slice::new(number, 3).unwrap();
        let pool = Pool::builder().sources(SOURCES).slice(slice).build().unwrap();
        assert_eq!(pool.blocks_held().unwrap(), None);
        let leases: Vec<_> = std::iter::from_fn(|| pool.acquire(Protocol::Tcp, to).ok()).collect();
        exhausted(pool.acquire(Protocol::Tcp, to));
        let sources: HashSet<_> = leases.iter().map(|lease| lease.source()).collect();
        let cut: HashSet<_> = slice
            .of(&SOURCES.parse::<portlease::Sources>().unwrap().into_iter().collect::<Vec<_>>())
            .iter()
            .flat_map(|source| {
                let ports = source.ports.iter().flat_map(|range| range.first()..=range.last());
                ports.map(|port| SocketAddr::new(source.address, port)).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(sources, cut);
        seen.extend(sources);
    }
    assert_eq!(seen.len(), 512);
}
