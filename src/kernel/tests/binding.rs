//! Both modes on both families, and what the kernel lists of them.

use crate::kernel::*;
use crate::ledger::Protocol;
use crate::testing::in_namespace;
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener, UdpSocket};

#[test]
fn both_modes_bind_the_leased_port_and_are_listed() {
    in_namespace("kernel::tests::binding::both_modes_bind_the_leased_port_and_are_listed", || {
        for (host, domain) in [("127.0.0.1", Domain::IPV4), ("[::1]", Domain::IPV6)] {
            let listener = TcpListener::bind(format!("{host}:0")).unwrap();
            let to = listener.local_addr().unwrap();
            for (mode, port, leased) in [
                (BindMode::Explicit, 2000, true),
                (BindMode::Late, 40000, true),
                (BindMode::Late, 2001, false),
            ] {
                let source: SocketAddr = format!("{host}:{port}").parse().unwrap();
                let socket = Socket::new(domain, Type::STREAM, None).unwrap();
                bind(&socket, source, mode, &SourceOptions::default()).unwrap();
                socket.connect(&to.into()).unwrap();
                assert_eq!(bound_as_leased(&socket, source).unwrap(), leased, "{mode:?} {source}");
                let held = sockets(Protocol::Tcp).unwrap();
                let listed = held.iter().any(|it| {
                    (it.source, it.destination, it.state) == (source, to, State::Connected)
                });
                assert_eq!(listed, leased, "{held:?}");
                assert!(held.iter().any(|it| it.source == to && it.state == State::Listen));
            }
        }
    });
}

#[test]
fn a_udp_socket_never_hears_a_stranger_under_a_flood() {
    in_namespace(
        "kernel::tests::binding::a_udp_socket_never_hears_a_stranger_under_a_flood",
        || {
            let source = SocketAddr::from(([127, 0, 0, 2], 3000));
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let stopped = stopped;
                    while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                        let _ = stranger.send_to(b"stranger", source);
                    }
                });
                let mut heard = 0;
                for _ in 0..2000 {
                    let socket: UdpSocket = connected_udp(
                        source,
                        peer.local_addr().unwrap(),
                        &SourceOptions::default(),
                    )
                    .unwrap()
                    .into();
                    peer.send_to(b"peer", source).unwrap();
                    let mut buffer = [0; 16];
                    let length = socket.recv(&mut buffer).unwrap();
                    heard += usize::from(&buffer[..length] != b"peer");
                }
                drop(stop);
                assert_eq!(heard, 0, "datagrams of a stranger");
            });
        },
    );
}
