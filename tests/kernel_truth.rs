//! What others hold: listeners, sockets from before our time, strangers' datagrams.

mod common;

use common::in_namespace;
use portlease::{Error, ModeChoice, Pool, Protocol};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pool(sources: &str) -> Pool {
    Pool::builder().sources(sources).bind_mode(ModeChoice::Explicit).build().unwrap()
}

fn connected(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at(source).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn a_listeners_port_is_excluded_as_long_as_it_listens() {
    in_namespace("a_listeners_port_is_excluded_as_long_as_it_listens", || {
        let to = at("127.0.0.1:700");
        let _destination = TcpListener::bind(to).unwrap();
        let before = TcpListener::bind("127.0.0.2:5000").unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:5001").unwrap();
        let elsewhere = TcpListener::bind("127.0.0.4:5002").unwrap();
        let pool = pool("127.0.0.2-127.0.0.3:5000-5003");
        let census = || pool.census_of(Protocol::Tcp, to).unwrap();
        assert_eq!((census().excluded, census().free), (3, 5));
        let streams: Vec<_> = (0..5).map(|_| pool.connect(to).unwrap()).collect();
        match pool.connect(to).unwrap_err() {
            Error::Exhausted(counts) => assert_eq!((counts.leased, counts.excluded), (5, 3)),
            other => panic!("{other}"),
        }
        drop((streams, before));
        pool.refresh().unwrap();
        assert_eq!((census().excluded, census().free), (2, 6));
        drop((everywhere, elsewhere));
        let after = TcpListener::bind("[::]:5003").unwrap();
        pool.refresh().unwrap();
        assert_eq!((census().excluded, census().free), (2, 6));
        drop(after);
        pool.refresh().unwrap();
        assert_eq!(census().free, 8);
    });
}

#[test]
fn a_listener_that_came_later_is_met_once_and_then_known() {
    in_namespace("a_listener_that_came_later_is_met_once_and_then_known", || {
        let to = at("127.0.0.1:700");
        let _destination = TcpListener::bind(to).unwrap();
        let pool = pool("127.0.0.2:5000-5001");
        let _later = TcpListener::bind("127.0.0.2:5000").unwrap();
        // The look that the pool took as it was built may be the last for a second.
        pool.refresh().unwrap();
        let stream = pool.connect(to).unwrap();
        assert_eq!(stream.four_tuple().source, at("127.0.0.2:5001"));
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().excluded, 1);
    });
}

#[test]
fn what_the_kernel_holds_is_imported_and_let_go() {
    in_namespace("what_the_kernel_holds_is_imported_and_let_go", || {
        for (ip, six) in [("127.0.0.1", false), ("[::1]", true)] {
            let listener = TcpListener::bind(format!("{ip}:700")).unwrap();
            let to = listener.local_addr().unwrap();
            let source = |port: u16| match six {
                false => format!("127.0.0.2:{port}"),
                true => format!("[::1]:{port}"),
            };
            let first = connected(&source(5000), to);
            let second = connected(&source(5001), to);
            let udp = UdpSocket::bind(source(5000)).unwrap();
            udp.connect(to).unwrap();
            let pool = pool(&source(5000).replace("5000", "5000-5002"));
            let leased = |protocol| pool.census_of(protocol, to).unwrap().leased;
            assert_eq!(pool.import().unwrap(), 3);
            assert_eq!(pool.import().unwrap(), 0);
            assert_eq!((leased(Protocol::Tcp), leased(Protocol::Udp)), (2, 1));
            // What is imported can be adopted.
            let adopted = pool.adopt(second).unwrap();
            assert_eq!(adopted.four_tuple().source, at(&source(5001)));
            assert_eq!(leased(Protocol::Tcp), 2);
            // Reset, not closed: else the kernel would hold it in TIME_WAIT.
            socket2::SockRef::from(&first).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop((first, udp));
            pool.refresh().unwrap();
            assert_eq!((leased(Protocol::Tcp), leased(Protocol::Udp)), (1, 0));
            drop(adopted);
            assert_eq!(leased(Protocol::Tcp), 0);
        }
    });
}

#[test]
fn before_it_says_exhausted_the_pool_looks_again() {
    in_namespace("before_it_says_exhausted_the_pool_looks_again", || {
        let to = at("127.0.0.1:700");
        let _destination = TcpListener::bind(to).unwrap();
        let listener = TcpListener::bind("127.0.0.2:5000").unwrap();
        let pool = pool("127.0.0.2:5000");
        drop(listener);
        // The last look may be young: then "exhausted" is said a while longer.
        let stream = loop {
            match pool.connect(to) {
                Ok(stream) => break stream,
                Err(Error::Exhausted(counts)) => {
                    assert_eq!(counts.excluded, 1);
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(stream.four_tuple().source, at("127.0.0.2:5000"));
    });
}

#[test]
fn udp_sockets_have_four_tuples_of_their_own() {
    in_namespace("udp_sockets_have_four_tuples_of_their_own", || {
        let peers = ["127.0.0.1:700", "127.0.0.1:701"].map(|at| UdpSocket::bind(at).unwrap());
        let pool = pool("127.0.0.2:5000");
        let sockets: Vec<_> = peers
            .iter()
            .map(|peer| pool.connect_udp(peer.local_addr().unwrap()).unwrap())
            .collect();
        for (peer, socket) in peers.iter().zip(&sockets) {
            let to = peer.local_addr().unwrap();
            assert!(matches!(pool.connect_udp(to), Err(Error::Exhausted(_))));
            let mine = to.port().to_be_bytes();
            peer.send_to(&mine, socket.four_tuple().source).unwrap();
            let mut buffer = [0; 9];
            assert_eq!(socket.get_ref().recv(&mut buffer).unwrap(), 2);
            assert_eq!(buffer[..2], mine);
        }
        drop(sockets);
        pool.connect_udp(peers[0].local_addr().unwrap()).unwrap();
    });
}

#[test]
fn no_strangers_datagram_reaches_a_new_udp_socket() {
    in_namespace("no_strangers_datagram_reaches_a_new_udp_socket", || {
        let peer = UdpSocket::bind("127.0.0.1:700").unwrap();
        let to = peer.local_addr().unwrap();
        let pool = pool("127.0.0.2:5000");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    // Refused while nobody has the port.
                    let _ = stranger.send_to(b"stranger", "127.0.0.2:5000");
                }
            });
            for _ in 0..2000 {
                let socket = pool.connect_udp(to).unwrap();
                socket.get_ref().set_nonblocking(true).unwrap();
                let error = socket.get_ref().recv(&mut [0; 9]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn a_whole_port_binds_alone() {
    in_namespace("a_whole_port_binds_alone", || {
        let pool = pool("127.0.0.2:5000-5001");
        let _foreign = UdpSocket::bind("127.0.0.2:5000").unwrap();
        let (port, socket) = loop {
            let port = pool.acquire_port(portlease::Family::V4).unwrap();
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            match port.bind(&socket) {
                Ok(()) => break (port, socket),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{error}"),
            }
        };
        assert_eq!(port.source(), at("127.0.0.2:5001"));
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(port.source()));
        assert!(matches!(pool.connect_udp(at("127.0.0.1:700")), Err(Error::Exhausted(_))));
    });
}

#[test]
fn what_only_the_peer_still_holds_rests_for_a_moment() {
    in_namespace("what_only_the_peer_still_holds_rests_for_a_moment", || {
        let to = at("127.0.0.1:700");
        let listener = TcpListener::bind(to).unwrap();
        let pool = pool("127.0.0.2:5000");
        let next_free_ms = || match pool.connect(to) {
            Err(Error::Exhausted(counts)) if counts.resting == 1 => counts.next_free_ms.unwrap(),
            other => panic!("{other:?}"),
        };
        // Closed with more on its way than the peer takes: our end waits in FIN_WAIT1.
        let stream = pool.connect(to).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        stream.get_ref().set_nonblocking(true).unwrap();
        while stream.get_ref().write(&[0; 65536]).is_ok() {}
        drop(stream);
        assert!(next_free_ms() <= 50);
        // As soon as the peer has it all the four-tuple serves again.
        peer.read_to_end(&mut Vec::new()).unwrap();
        drop(peer);
        let held = loop {
            match pool.connect(to) {
                Ok(stream) => break stream,
                Err(Error::Exhausted(_)) => std::thread::sleep(Duration::from_millis(5)),
                Err(other) => panic!("{other}"),
            }
        };
        let (peer, _) = listener.accept().unwrap();
        drop((peer, held));
        // Somebody's own socket is another matter.
        let _theirs = connected("127.0.0.2:5000", to);
        let wait_ms = next_free_ms();
        assert!((51..=1_000).contains(&wait_ms), "{wait_ms}");
    });
}
