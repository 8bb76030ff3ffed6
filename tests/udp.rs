//! UDP: a socket of ours reads what its peer sent it, and nothing else.

mod common;

use common::in_namespace;
use portlease::{Error, Family, ModeChoice, Pool, Protocol};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn explicit(sources: &str) -> Pool {
    Pool::builder().sources(sources).bind_mode(ModeChoice::Explicit).build().unwrap()
}

/// Bound as our sockets are, but with nothing done about strangers.
fn bound(source: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(source), Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&source.into()).unwrap();
    socket
}

/// What is queued.
fn read(socket: &UdpSocket) -> Option<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    match socket.recv(&mut buffer) {
        Ok(len) => Some(buffer[..len].to_vec()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn no_strangers_datagram_is_read_under_a_flood() {
    in_namespace("no_strangers_datagram_is_read_under_a_flood", || {
        const OPENED: u32 = 20_000;
        for (peer, ours, stranger) in [
            ("127.0.0.1:0", "127.0.0.2:5000", "127.0.0.3:0"),
            // The same host as the peer, and another port.
            ("[::1]:0", "[::1]:5000", "[::1]:0"),
        ] {
            let peer = UdpSocket::bind(at(peer)).unwrap();
            let to = peer.local_addr().unwrap();
            let pool = explicit(ours);
            let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let flood = UdpSocket::bind(at(stranger)).unwrap();
                    while !done.load(Ordering::Relaxed) {
                        // Nobody hears most of them.
                        let _ = flood.send_to(b"stranger", at(ours));
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while sent.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                let mut strays_without = 0;
                for round in 0..OPENED {
                    let socket = pool.connect_udp(to).unwrap();
                    assert_eq!(socket.four_tuple().source, at(ours));
                    assert_eq!(read(socket.get_ref()), None, "round {round}");
                    if round % 100 == 0 {
                        // It hears its peer all the same.
                        peer.send_to(b"peer", at(ours)).unwrap();
                        assert_eq!(read(socket.get_ref()).unwrap(), b"peer");
                    }
                    drop(socket);
                    // What the flood does to a socket that nothing was done for.
                    let plain = bound(at(ours));
                    plain.connect(&to.into()).unwrap();
                    strays_without += u32::from(read(&plain.into()).is_some());
                }
                done.store(true, Ordering::Relaxed);
                println!("{ours}: {strays_without} of {OPENED} read a stranger's without");
            });
        }
    });
}

#[test]
fn without_a_filter_a_strangers_datagram_is_read_after_connect() {
    in_namespace("without_a_filter_a_strangers_datagram_is_read_after_connect", || {
        for (ours, to, stranger) in [
            ("127.0.0.2:5000", "127.0.0.1:700", "127.0.0.3:0"),
            ("[::1]:5000", "[::1]:700", "[::1]:0"),
        ] {
            let plain = bound(at(ours));
            UdpSocket::bind(at(stranger)).unwrap().send_to(b"stranger", at(ours)).unwrap();
            plain.connect(&at(to).into()).unwrap();
            assert_eq!(read(&plain.into()).unwrap(), b"stranger");
        }
    });
}

#[test]
fn what_is_for_the_ports_former_holder_is_not_read() {
    in_namespace("what_is_for_the_ports_former_holder_is_not_read", || {
        let (before, now) = (UdpSocket::bind("127.0.0.1:0").unwrap(), at("127.0.0.1:700"));
        let pool = explicit("127.0.0.2:5000");
        let former = pool.connect_udp(before.local_addr().unwrap()).unwrap();
        before.send_to(b"yours", at("127.0.0.2:5000")).unwrap();
        assert_eq!(read(former.get_ref()).unwrap(), b"yours");
        let held = pool.connect_udp(now).unwrap();
        before.send_to(b"yours", at("127.0.0.2:5000")).unwrap();
        assert_eq!((read(held.get_ref()), read(former.get_ref())), (None, Some(b"yours".to_vec())));
        drop(former);
        before.send_to(b"late", at("127.0.0.2:5000")).unwrap();
        assert_eq!(read(held.get_ref()), None);
    });
}

#[test]
fn the_kernel_lets_two_sockets_have_one_four_tuple_and_the_ledger_does_not() {
    let name = "the_kernel_lets_two_sockets_have_one_four_tuple_and_the_ledger_does_not";
    in_namespace(name, || {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = peer.local_addr().unwrap();
        let ours = at("127.0.0.2:5000");
        let [older, newer] = [(); 2].map(|()| {
            let socket = bound(ours);
            socket.connect(&to.into()).unwrap();
            UdpSocket::from(socket)
        });
        for _ in 0..10 {
            peer.send_to(b"whose?", ours).unwrap();
            assert_eq!((read(&older), read(&newer)), (None, Some(b"whose?".to_vec())));
        }
        drop((older, newer));

        let pool = explicit("127.0.0.2:5000");
        let only = pool.connect_udp(to).unwrap();
        assert!(matches!(pool.connect_udp(to), Err(Error::Exhausted(_))));
        peer.send_to(b"yours", ours).unwrap();
        assert_eq!(read(only.get_ref()).unwrap(), b"yours");
    });
}

#[test]
fn a_port_for_all_destinations_is_exclusive_on_its_source() {
    in_namespace("a_port_for_all_destinations_is_exclusive_on_its_source", || {
        let pool = explicit("127.0.0.2:5000-5001, 127.0.0.3:5000");
        let peers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = peers[0].local_addr().unwrap();
        let port = pool.acquire_port(Family::V4).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        port.bind(&socket).unwrap();
        let socket = UdpSocket::from(socket);
        assert_eq!(socket.local_addr().unwrap(), port.source());
        // One socket, many destinations.
        for peer in &peers {
            socket.send_to(b"hello", peer.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            let (_, from) = peer.recv_from(&mut buffer).unwrap();
            peer.send_to(b"welcome", from).unwrap();
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"welcome"[..], peer.local_addr().unwrap()));
        }
        // Nobody gets beside it: no lease towards any destination, no other port, no stranger.
        let others: Vec<_> = (0..2).map(|_| pool.connect_udp(to).unwrap()).collect();
        assert!(others.iter().all(|other| other.four_tuple().source != port.source()));
        assert!(matches!(pool.connect_udp(to), Err(Error::Exhausted(_))));
        assert!(matches!(pool.acquire_port(Family::V4), Err(Error::Exhausted(_))));
        let stranger = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        stranger.set_reuse_address(true).unwrap();
        let error = stranger.bind(&port.source().into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // Our own socket is no stranger that listens.
        pool.refresh().unwrap();
        drop(socket);
        let source = port.source();
        drop(port);
        assert_eq!(pool.acquire(Protocol::Udp, to).unwrap().source(), source);
    });
}
