//! Sockets of the caller's own, connected by the pool on the descriptor that they have.

use portlease::{BindMode, Error, KernelHolds, ModeChoice, Pool, PortRange, Protocol};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);
/// Outside of the kernel's own range, unless somebody has moved it far down.
const EXPLICIT: u16 = 9_700;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn pool(first: u16, last: u16, mode: ModeChoice) -> Result<Pool, Error> {
    let ports = PortRange::new(first, last).unwrap();
    Pool::builder().sources(SOURCE.to_string()).ports(ports).bind_mode(mode).build()
}

/// Its close resets the connection, so that nothing of it stays.
fn socket(domain: Domain) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket
}

fn source_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// A stranger's connection to `to` from `port` of the source.
fn stranger(port: u16, to: SocketAddr) -> Socket {
    let socket = socket(Domain::IPV4);
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((SOURCE, port)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket
}

/// A range of `count` ports in which sockets of the pool are bound late, if this kernel can.
fn late_ports(count: u16) -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let last: u16 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    let (first, last) = (last - 700, last - 701 + count);
    match pool(first, last, ModeChoice::Late) {
        Ok(_) => Some((first, last)),
        Err(error) => {
            println!("SKIP: binding late: {error}");
            None
        }
    }
}

#[test]
fn an_event_loops_socket_stays_the_same_while_ports_are_tried() {
    let late = late_ports(16).map(|(first, last)| (first, last, ModeChoice::Late));
    let explicit = (EXPLICIT, EXPLICIT + 15, ModeChoice::Explicit);
    for (first, last, mode) in late.into_iter().chain([explicit]) {
        let (_listener, to) = listener();
        let strangers: Vec<_> = (first..last).map(|port| stranger(port, to)).collect();
        let pool = pool(first, last, mode).unwrap();
        let socket = socket(Domain::IPV4);
        socket.set_nonblocking(true).unwrap();
        let connect = || socket.connect(&to.into());
        let dialed = pool.connect_socket(&socket, None, Protocol::Tcp, to, connect).unwrap();
        let lease = dialed.lease.expect("a lease");
        if let Err(error) = dialed.answer {
            assert_eq!(error.raw_os_error(), Some(115), "EINPROGRESS, not {error}");
        }
        assert_eq!(lease.source(), SocketAddr::from((SOURCE, last)));
        assert_eq!(source_of(&socket), lease.source());
        assert_eq!(lease.kernel_holds().unwrap(), KernelHolds::Socket);
        let closed = lease.closing(&socket);
        drop(socket);
        assert_eq!(lease.kernel_holds().unwrap(), KernelHolds::Nothing);
        lease.release_after(closed);
        assert_eq!(pool.census().unwrap().sum.leased, 0);
        drop(strangers);
    }
}

#[test]
fn all_ports_taken_is_an_error_and_the_socket_can_be_used_without_the_pool() {
    let (_listener, to) = listener();
    let stranger = stranger(EXPLICIT + 20, to);
    let pool = pool(EXPLICIT + 20, EXPLICIT + 20, ModeChoice::Explicit).unwrap();
    let socket = socket(Domain::IPV4);
    let connect = || panic!("there is nothing to connect from");
    let refused = pool.connect_socket(&socket, None, Protocol::Tcp, to, connect).unwrap_err();
    assert!(matches!(refused, Error::Exhausted(_)), "{refused}");
    socket.connect(&to.into()).unwrap();
    drop(stranger);
}

#[test]
fn a_bound_address_is_kept_and_one_that_is_not_ours_refused() {
    let (_listener, to) = listener();
    let pool = Pool::builder()
        .sources("127.0.7.1-127.0.7.9")
        .ports(PortRange::new(EXPLICIT + 30, EXPLICIT + 31).unwrap())
        .build()
        .unwrap();
    let kept: IpAddr = "127.0.7.5".parse().unwrap();
    assert!(pool.has_source(kept));
    let socket = socket(Domain::IPV4);
    let connect = || socket.connect(&to.into());
    let dialed = pool.connect_socket(&socket, Some(kept), Protocol::Tcp, to, connect).unwrap();
    dialed.answer.unwrap();
    assert_eq!(source_of(&socket).ip(), kept);
    let foreign: IpAddr = "127.0.8.1".parse().unwrap();
    assert!(!pool.has_source(foreign));
    let refused = pool.connect_socket(&socket, Some(foreign), Protocol::Tcp, to, || Ok(()));
    assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
}

#[test]
fn an_ipv6_socket_dials_an_ipv4_mapped_destination_in_both_modes() {
    let late = late_ports(60).map(|(_, last)| (last, ModeChoice::Late, BindMode::Late));
    let explicit = (EXPLICIT + 40, ModeChoice::Explicit, BindMode::Explicit);
    for (port, mode, bound) in late.into_iter().chain([explicit]) {
        let (_listener, to) = listener();
        let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), to.port());
        let pool = pool(port, port, mode).unwrap();
        let socket = socket(Domain::IPV6);
        let connect = || socket.connect(&mapped.into());
        let dialed = pool.connect_socket(&socket, None, Protocol::Tcp, mapped, connect).unwrap();
        dialed.answer.unwrap();
        let lease = dialed.lease.unwrap();
        assert_eq!((lease.mode(), lease.source().port()), (bound, port));
        assert_eq!(source_of(&socket).ip(), IpAddr::from(SOURCE.to_ipv6_mapped()));
    }
}

#[test]
fn the_destinations_own_refusal_comes_with_the_lease() {
    let (listener, to) = listener();
    drop(listener);
    let pool = pool(EXPLICIT + 50, EXPLICIT + 50, ModeChoice::Explicit).unwrap();
    let socket = socket(Domain::IPV4);
    let connect = || socket.connect(&to.into());
    let dialed = pool.connect_socket(&socket, None, Protocol::Tcp, to, connect).unwrap();
    assert_eq!(dialed.answer.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(dialed.lease.is_some(), "the socket is bound to its port still");
}

#[test]
fn one_given_four_tuple_is_leased_once() {
    let (_listener, to) = listener();
    let pool = pool(EXPLICIT + 60, EXPLICIT + 61, ModeChoice::Explicit).unwrap();
    let source = SocketAddr::from((SOURCE, EXPLICIT + 60));
    let lease = pool.acquire_exactly(source, Protocol::Udp, to).unwrap();
    let again = pool.acquire_exactly(source, Protocol::Udp, to);
    assert!(matches!(again, Err(Error::Taken { .. })), "{again:?}");
    let elsewhere = SocketAddr::from((SOURCE, EXPLICIT + 70));
    let foreign = pool.acquire_exactly(elsewhere, Protocol::Udp, to);
    assert!(matches!(foreign, Err(Error::NotOurs { .. })), "{foreign:?}");
    lease.release();
    pool.acquire_exactly(source, Protocol::Udp, to).unwrap().release();
}

#[test]
fn a_connection_that_a_duplicate_keeps_is_held_until_that_is_closed() {
    let (listener, to) = listener();
    let pool = pool(EXPLICIT + 80, EXPLICIT + 80, ModeChoice::Explicit).unwrap();
    let (stream, lease) = pool.connect(to).unwrap().into_parts();
    let duplicate = stream.try_clone().unwrap();
    drop(stream);
    assert_eq!(lease.kernel_holds().unwrap(), KernelHolds::Socket);
    // The peer waits for ours, so that this end is in TIME_WAIT then.
    let (mut peer, _) = listener.accept().unwrap();
    drop(duplicate);
    io::copy(&mut peer, &mut io::sink()).unwrap();
    let closing = lease.kernel_holds().unwrap();
    assert!(matches!(closing, KernelHolds::Closing | KernelHolds::TimeWait), "{closing:?}");
}
