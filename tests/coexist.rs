//! One pool over all ports of a host on which other programs connect as they always do.

mod common;
#[path = "common/sysctl.rs"]
mod settings;

use common::in_namespace;
use portlease::{BindMode, Error, ModeChoice, Pool, PortRange, Protocol};
use settings::sysctl;
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener, TcpStream};

fn pool(sources: &str, mode: ModeChoice) -> Pool {
    Pool::builder().sources(sources).bind_mode(mode).build().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Connections queue up here; nobody accepts them.
fn listen(address: &str) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at(address).into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

#[test]
fn a_pool_uses_every_port_while_others_connect_as_ever() {
    in_namespace("a_pool_uses_every_port_while_others_connect_as_ever", || {
        // A host in small: 1,500 ports, of which the kernel chooses from 500 without 10.
        sysctl("net.ipv4.ip_local_port_range", "40000 40499");
        sysctl("net.ipv4.ip_local_reserved_ports", "40100-40109");
        const OURS: usize = 1_500;
        const THEIRS: usize = 490;
        let _ours = listen("127.0.0.1:700");
        let _theirs = listen("127.0.0.1:701");
        let pool = Pool::builder()
            .sources("127.0.0.2")
            .ports(PortRange::new(39_500, 40_999).unwrap())
            .bind_mode(ModeChoice::ByPort)
            .build()
            .unwrap();
        let (streams, foreign) = std::thread::scope(|scope| {
            let foreign = scope.spawn(|| {
                let connect = |_| TcpStream::connect(at("127.0.0.1:701")).unwrap();
                (0..THEIRS).map(connect).collect::<Vec<_>>()
            });
            let connect = |_| pool.connect(at("127.0.0.1:700")).unwrap();
            let streams: Vec<_> = (0..OURS).map(connect).collect();
            (streams, foreign.join().unwrap())
        });
        let ports: HashSet<_> =
            streams.iter().map(|stream| stream.get_ref().local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), OURS);
        assert_eq!(foreign.len(), THEIRS);
        let late = streams.iter().filter(|stream| stream.lease().mode() == BindMode::Late).count();
        assert_eq!(late, THEIRS);
        assert!(matches!(pool.connect(at("127.0.0.1:700")), Err(Error::Exhausted(_))));
        // With all of ours open, others still have every port towards their destinations.
        drop(foreign);
        let _another = listen("127.0.0.1:702");
        let connect = |_| TcpStream::connect(at("127.0.0.1:702")).unwrap();
        let foreign: Vec<_> = (0..THEIRS).map(connect).collect();
        assert_eq!(foreign.len(), THEIRS);
    });
}

#[test]
fn half_the_connections_to_one_destination_are_somebody_elses() {
    in_namespace("half_the_connections_to_one_destination_are_somebody_elses", || {
        sysctl("net.ipv4.ip_local_port_range", "40000 40499");
        let _listener = listen("127.0.0.1:700");
        let to = at("127.0.0.1:700");
        // From the source address that the kernel gives to others: the same four-tuples.
        let pool = Pool::builder().sources("127.0.0.1:40000-40499").build().unwrap();
        let foreign: Vec<_> = (0..250).map(|_| TcpStream::connect(to).unwrap()).collect();
        let streams: Vec<_> = (0..250).map(|_| pool.connect(to).unwrap()).collect();
        let taken = |address: SocketAddr| address.port();
        let ports: HashSet<_> = foreign
            .iter()
            .map(|stream| taken(stream.local_addr().unwrap()))
            .chain(streams.iter().map(|stream| taken(stream.four_tuple().source)))
            .collect();
        assert_eq!(ports.len(), 500);
    });
}

#[test]
fn a_range_that_moves_away_costs_tries_never_a_wrong_lease() {
    in_namespace("a_range_that_moves_away_costs_tries_never_a_wrong_lease", || {
        let _listener = listen("127.0.0.1:700");
        let to = at("127.0.0.1:700");
        sysctl("net.ipv4.ip_local_port_range", "40000 40099");
        let pool = Pool::builder().sources("127.0.0.2").build().unwrap();
        assert_eq!(pool.connect(to).unwrap().lease().mode(), BindMode::Late);
        sysctl("net.ipv4.ip_local_port_range", "50000 50099");
        let streams: Vec<_> = (0..50).map(|_| pool.connect(to).unwrap()).collect();
        for stream in &streams {
            assert_eq!(stream.get_ref().local_addr().unwrap(), stream.four_tuple().source);
            assert_eq!(stream.lease().mode(), BindMode::Explicit);
        }
    });
}

#[test]
fn a_range_that_moves_away_is_told_where_only_late_will_do() {
    in_namespace("a_range_that_moves_away_is_told_where_only_late_will_do", || {
        let listener = listen("127.0.0.1:700");
        let to = at("127.0.0.1:700");
        sysctl("net.ipv4.ip_local_port_range", "40000 40099");
        let late = Pool::builder().sources("127.0.0.2").bind_mode(ModeChoice::Late);
        let pool = late.build().unwrap();
        let lease = pool.acquire(Protocol::Tcp, to).unwrap();
        sysctl("net.ipv4.ip_local_port_range", "50000 50099");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        lease.bind(&socket).unwrap();
        socket.connect(&to.into()).unwrap();
        let error = lease.check(&socket).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL), "{error}");
        drop(socket);
        lease.release();
        match pool.connect(to) {
            Err(Error::Config { problem }) => assert!(problem.contains("50000-50099"), "{problem}"),
            other => panic!("{other:?}"),
        }
        // One try, not one for each port.
        listener.set_nonblocking(true).unwrap();
        assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), 2);
    });
}

#[test]
fn late_mode_refuses_ports_that_it_cannot_have() {
    in_namespace("late_mode_refuses_ports_that_it_cannot_have", || {
        sysctl("net.ipv4.ip_local_port_range", "40000 40099");
        let build = |ports: &str| {
            let sources = format!("127.0.0.2:{ports}");
            Pool::builder().sources(sources).bind_mode(ModeChoice::Late).build()
        };
        build("40000-40099").unwrap();
        let error = build("40050-40100").unwrap_err().to_string();
        for part in ["127.0.0.2", "40050-40100", "40000-40099", "ByPort"] {
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn a_range_that_changes_under_us_costs_no_connection() {
    in_namespace("a_range_that_changes_under_us_costs_no_connection", || {
        let (listener, to) = (listen("127.0.0.1:700"), at("127.0.0.1:700"));
        let pool = pool("127.0.0.2:40000-40009", ModeChoice::ByPort);
        let late = pool.connect(to).unwrap();
        assert_eq!(late.lease().mode(), BindMode::Late);
        // Outside of its range the kernel silently ignores which port it is told.
        sysctl("net.ipv4.ip_local_port_range", "50000 50999");
        let streams: Vec<_> = (0..9).map(|_| pool.connect(to).unwrap()).collect();
        assert_eq!(streams[0].lease().mode(), BindMode::Explicit);
        listener.accept().unwrap();
        for stream in &streams {
            let (_, from) = std::iter::repeat_with(|| listener.accept().unwrap())
                .find(|(_, from)| (40_000..40_010).contains(&from.port()))
                .unwrap();
            assert!((40_000..40_010).contains(&stream.get_ref().local_addr().unwrap().port()));
            assert_eq!(from.ip(), stream.four_tuple().source.ip());
            assert_eq!(stream.get_ref().local_addr().unwrap(), stream.four_tuple().source);
        }
    });
}

#[test]
fn the_pools_default_range_is_the_kernels() {
    in_namespace("the_pools_default_range_is_the_kernels", || {
        sysctl("net.ipv4.ip_local_port_range", "50000 50009");
        sysctl("net.ipv4.ip_local_reserved_ports", "50003,50006-50007");
        let (_listener, to) = (listen("127.0.0.1:700"), at("127.0.0.1:700"));
        let capacity =
            |mode| pool("127.0.0.2", mode).census_of(Protocol::Tcp, to).unwrap().capacity;
        assert_eq!(capacity(ModeChoice::ByPort), 10);
        // What the kernel has reserved it does not take by itself.
        assert_eq!(capacity(ModeChoice::Late), 7);
        let none = Pool::builder().sources("127.0.0.2:50003").bind_mode(ModeChoice::Late).build();
        assert!(matches!(none, Err(Error::Config { .. })));
        let pool = pool("127.0.0.2", ModeChoice::ByPort);
        let streams: Vec<_> = (0..10).map(|_| pool.connect(to).unwrap()).collect();
        for stream in streams {
            let explicit = [50_003, 50_006, 50_007].contains(&stream.four_tuple().source.port());
            assert_eq!(stream.lease().mode() == BindMode::Explicit, explicit);
        }
    });
}
