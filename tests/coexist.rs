//! One pool over all ports of a host on which other programs connect as they always do.

mod common;

use common::{in_namespace, sysctl};
use portlease::{Error, Mode, ModeChoice, Pool, PortRange, Protocol};
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener, TcpStream};

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
        let late = streams.iter().filter(|stream| stream.lease().mode() == Mode::Late).count();
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
        assert_eq!(pool.connect(to).unwrap().lease().mode(), Mode::Late);
        sysctl("net.ipv4.ip_local_port_range", "50000 50099");
        let streams: Vec<_> = (0..50).map(|_| pool.connect(to).unwrap()).collect();
        for stream in &streams {
            assert_eq!(stream.get_ref().local_addr().unwrap(), stream.four_tuple().source);
            assert_eq!(stream.lease().mode(), Mode::Explicit);
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
