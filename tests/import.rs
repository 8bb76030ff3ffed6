//! What others hold: sockets from before the pool's time, and listeners.

mod common;
#[path = "common/seccomp.rs"]
mod seccomp;
#[path = "common/sysctl.rs"]
mod settings;

use common::in_namespace;
use portlease::{Error, Exhausted, Lease, ModeChoice, Pool, PortRange, Protocol};
use seccomp::forbid;
use settings::sysctl;
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pool(sources: &str, mode: ModeChoice) -> Pool {
    Pool::builder().sources(sources).bind_mode(mode).build().unwrap()
}

fn explicit(sources: &str) -> Pool {
    pool(sources, ModeChoice::Explicit)
}

fn socket(source: &str, kind: Type) -> Socket {
    let source = at(source);
    let socket = Socket::new(Domain::for_address(source), kind, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&source.into()).unwrap();
    socket
}

fn listen(address: &str) -> TcpListener {
    let socket = socket(address, Type::STREAM);
    socket.listen(4096).unwrap();
    socket.into()
}

fn connected(source: &str, to: SocketAddr, kind: Type) -> Socket {
    let socket = socket(source, kind);
    socket.connect(&to.into()).unwrap();
    socket
}

/// The counts behind "exhausted".
fn exhausted(pool: &Pool, protocol: Protocol, to: SocketAddr) -> Exhausted {
    match pool.acquire(protocol, to) {
        Err(Error::Exhausted(counts)) => counts,
        other => panic!("{other:?}"),
    }
}

/// Tries until a lease comes, as it must in the end.
fn acquire_in_the_end(pool: &Pool, protocol: Protocol, to: SocketAddr) -> SocketAddr {
    in_the_end(|| pool.acquire(protocol, to))
}

fn in_the_end<'a>(acquire: impl Fn() -> Result<Lease<'a>, Error>) -> SocketAddr {
    loop {
        match acquire() {
            Ok(lease) => {
                let source = lease.source();
                lease.release();
                break source;
            }
            Err(Error::Exhausted(_)) => std::thread::sleep(Duration::from_millis(20)),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Another process: it holds connections until it is told to close them.
struct Stranger(Child);

impl Stranger {
    /// Connects from each of `ports` of `source` to `to`, over both protocols.
    fn connect(source: &str, ports: std::ops::RangeInclusive<u16>, to: SocketAddr) -> Self {
        let program = "
import socket, sys
source, first, last, host, port = sys.argv[1:]
held = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for at in range(int(first), int(last) + 1):
        s = socket.socket(socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((source, at))
        s.connect((host, int(port)))
        held.append(s)
print('connected', flush=True)
sys.stdin.readline()
for s in held:
    s.close()
";
        let (first, last) = (ports.start().to_string(), ports.end().to_string());
        let mut child = Command::new("python3")
            .args(["-c", program, source, &first, &last, &to.ip().to_string()])
            .arg(to.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, which plays the other process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "connected\n");
        Self(child)
    }

    /// Closes all.
    fn leave(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn what_another_process_holds_is_never_handed_out() {
    in_namespace("what_another_process_holds_is_never_handed_out", || {
        let listener = listen("127.0.0.1:700");
        let to = listener.local_addr().unwrap();
        let stranger = Stranger::connect("127.0.0.2", 5010..=5019, to);
        let pool = explicit("127.0.0.2:5000-5029, 127.0.0.3:5010");
        // Nobody asked yet.
        assert_eq!(pool.census_of(Protocol::Udp, to).unwrap().free, 31);
        assert_eq!(pool.import().unwrap(), 20);
        assert_eq!(pool.import().unwrap(), 0);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let census = pool.census_of(protocol, to).unwrap();
            assert_eq!((census.leased, census.free), (10, 21), "{protocol}");
            let leases: Vec<_> = (0..21).map(|_| pool.acquire(protocol, to).unwrap()).collect();
            let sources: HashSet<_> = leases.iter().map(|lease| lease.source()).collect();
            assert_eq!(sources.len(), 21);
            for source in sources {
                let theirs = source.ip() == at("127.0.0.2:0").ip();
                assert!(!theirs || !(5010..=5019).contains(&source.port()), "{source}");
            }
            assert_eq!(exhausted(&pool, protocol, to).leased, 31);
            // Another destination is another matter.
            assert_eq!(pool.census_of(protocol, at("127.0.0.1:701")).unwrap().free, 31);
        }
        // They reset, so that nothing is in TIME_WAIT.
        while let Ok((peer, _)) = accept_now(&listener) {
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        }
        pool.refresh().unwrap();
        assert_eq!(pool.census_of(Protocol::Udp, to).unwrap().leased, 10);
        stranger.leave();
        pool.refresh().unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(pool.census_of(protocol, to).unwrap().free, 31, "{protocol}");
        }
    });
}

fn accept_now(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true).unwrap();
    listener.accept()
}

#[test]
fn who_is_exhausted_looks_whether_imported_connections_are_gone() {
    in_namespace("who_is_exhausted_looks_whether_imported_connections_are_gone", || {
        let to = at("127.0.0.1:700");
        let _listener = listen("127.0.0.1:700");
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
            let stranger = connected("127.0.0.2:5000", to, kind);
            let pool = explicit("127.0.0.2:5000");
            assert_eq!(pool.import().unwrap(), 1);
            assert_eq!(exhausted(&pool, protocol, to).leased, 1);
            if protocol == Protocol::Tcp {
                stranger.set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(stranger);
            assert_eq!(acquire_in_the_end(&pool, protocol, to), at("127.0.0.2:5000"));
        }
    });
}

#[test]
fn a_handle_looks_too_whether_imported_connections_are_gone() {
    in_namespace("a_handle_looks_too_whether_imported_connections_are_gone", || {
        let to = at("127.0.0.1:700");
        let _listener = listen("127.0.0.1:700");
        let stranger = connected("127.0.0.2:5000", to, Type::STREAM);
        let pool = explicit("127.0.0.2:5000");
        assert_eq!(pool.import().unwrap(), 1);
        let handle = pool.destination(Protocol::Tcp, to).unwrap();
        // The first proves it, the second knows it.
        for _ in 0..2 {
            assert!(matches!(handle.acquire(), Err(Error::Exhausted(_))));
        }
        stranger.set_linger(Some(Duration::ZERO)).unwrap();
        drop(stranger);
        assert_eq!(in_the_end(|| handle.acquire().map(Lease::from)), at("127.0.0.2:5000"));
    });
}

#[test]
fn time_wait_rests_for_what_is_left_of_it() {
    in_namespace("time_wait_rests_for_what_is_left_of_it", || {
        sysctl("net.ipv4.tcp_tw_reuse", "0");
        let listener = listen("127.0.0.1:700");
        let to = listener.local_addr().unwrap();
        let close = |source| {
            let ours = connected(source, to, Type::STREAM);
            let mut theirs = loop {
                let (theirs, from) = listener.accept().unwrap();
                if from == at(source) {
                    break theirs;
                }
            };
            drop(ours);
            // Our end is in TIME_WAIT once theirs is closed too.
            assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        };
        close("127.0.0.2:40000");
        std::thread::sleep(Duration::from_millis(300));
        close("127.0.0.2:40001");
        let late = pool("127.0.0.2:40000-40001", ModeChoice::Late);
        assert_eq!(late.import().unwrap(), 2);
        let counts = exhausted(&late, Protocol::Tcp, to);
        assert_eq!((counts.resting, counts.leased), (2, 0));
        let first_ms = counts.next_free_ms.unwrap();
        let whole = pool("127.0.0.2:40002", ModeChoice::Late);
        drop(whole.connect(to).unwrap());
        let whole_ms = exhausted(&whole, Protocol::Tcp, to).next_free_ms.unwrap();
        assert!((1..=whole_ms - 300).contains(&first_ms), "{first_ms} of {whole_ms}");
        // Explicit binding has no need to wait: what the pool hands out does connect.
        let now = explicit("127.0.0.2:40000-40001");
        now.import().unwrap();
        let _streams = [now.connect(to).unwrap(), now.connect(to).unwrap()];
        assert_eq!(exhausted(&now, Protocol::Tcp, to).leased, 2);
        // But the user's own minimum counts, from the moment of the close.
        close("127.0.0.3:40000");
        let minimum = Duration::from_millis(1_500);
        let careful = Pool::builder()
            .sources("127.0.0.3:40000")
            .bind_mode(ModeChoice::Explicit)
            .min_rest(minimum)
            .build()
            .unwrap();
        assert_eq!(careful.import().unwrap(), 1);
        let counts = exhausted(&careful, Protocol::Tcp, to);
        assert!(counts.next_free_ms.unwrap() <= 1_500, "{counts}");
        acquire_in_the_end(&careful, Protocol::Tcp, to);
        careful.connect(to).unwrap();
    });
}

#[test]
fn a_connection_that_ends_in_time_wait_rests_from_then_on() {
    in_namespace("a_connection_that_ends_in_time_wait_rests_from_then_on", || {
        sysctl("net.ipv4.tcp_tw_reuse", "0");
        let listener = listen("127.0.0.1:700");
        let to = listener.local_addr().unwrap();
        let ours = connected("127.0.0.2:40000", to, Type::STREAM);
        let (theirs, _) = listener.accept().unwrap();
        let late = pool("127.0.0.2:40000", ModeChoice::Late);
        assert_eq!(late.import().unwrap(), 1);
        assert_eq!(late.census_of(Protocol::Tcp, to).unwrap().leased, 1);
        drop(ours);
        drop(theirs);
        late.refresh().unwrap();
        assert_eq!(late.census_of(Protocol::Tcp, to).unwrap().resting, 1);
    });
}

#[test]
fn ipv6_and_mapped_ipv4_are_imported() {
    in_namespace("ipv6_and_mapped_ipv4_are_imported", || {
        let _six = listen("[::1]:700");
        let _four = listen("127.0.0.1:700");
        let pool = explicit("[::1]:5000-5001, 127.0.0.2:5000-5001");
        for kind in [Type::STREAM, Type::DGRAM] {
            let protocol = if kind == Type::STREAM { Protocol::Tcp } else { Protocol::Udp };
            let six = connected("[::1]:5000", at("[::1]:700"), kind);
            let mapped = connected("[::ffff:127.0.0.2]:5001", at("[::ffff:127.0.0.1]:700"), kind);
            assert_eq!(pool.import().unwrap(), 2);
            let lease = pool.acquire(protocol, at("[::1]:700")).unwrap();
            assert_eq!(lease.source(), at("[::1]:5001"));
            lease.release();
            let lease = pool.acquire(protocol, at("127.0.0.1:700")).unwrap();
            assert_eq!(lease.source(), at("127.0.0.2:5000"));
            lease.release();
            pool.refresh().unwrap();
            assert_eq!(pool.census().unwrap().sum.leased, 2, "still held");
            for held in [six, mapped] {
                if kind == Type::STREAM {
                    held.set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
            pool.refresh().unwrap();
            assert_eq!(pool.census().unwrap().sum.leased, 0);
        }
    });
}

#[test]
fn a_socket_bound_to_an_interface_is_found_again() {
    in_namespace("a_socket_bound_to_an_interface_is_found_again", || {
        let to = at("127.0.0.1:700");
        let _listener = listen("127.0.0.1:700");
        let pool = explicit("127.0.0.2:5000");
        for kind in [Type::STREAM, Type::DGRAM] {
            let held = socket("127.0.0.2:5000", kind);
            held.bind_device(Some(b"lo")).unwrap();
            held.connect(&to.into()).unwrap();
            assert_eq!(pool.import().unwrap(), 1);
            pool.refresh().unwrap();
            assert_eq!(pool.census().unwrap().sum.leased, 1);
            if kind == Type::STREAM {
                held.set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(held);
            pool.refresh().unwrap();
            assert_eq!(pool.census().unwrap().sum.leased, 0);
        }
    });
}

#[test]
fn many_connections_are_all_imported() {
    in_namespace("many_connections_are_all_imported", || {
        // More than the kernel tells in one piece, of both families.
        let _listener = listen("[::]:700");
        let (four, six) = (at("127.0.0.1:700"), at("[::1]:700"));
        let mut held = Vec::new();
        for port in 5000..7000 {
            held.push(connected(&format!("127.0.0.2:{port}"), four, Type::STREAM));
            held.push(connected(&format!("[::1]:{port}"), six, Type::STREAM));
        }
        let pool = explicit("127.0.0.2:5000-6999, [::1]:5000-6999, 127.0.0.3:1024-65535");
        assert_eq!(pool.import().unwrap(), 4000);
        assert_eq!(exhausted(&explicit_import("[::1]:5000-6999"), Protocol::Tcp, six).leased, 2000);
        drop(held);
    });
}

fn explicit_import(sources: &str) -> Pool {
    let pool = explicit(sources);
    pool.import().unwrap();
    pool
}

#[test]
fn a_listeners_port_is_never_leased_and_comes_back() {
    in_namespace("a_listeners_port_is_never_leased_and_comes_back", || {
        let to = at("127.0.0.1:700");
        let tcp = listen("127.0.0.2:5000");
        let any = listen("0.0.0.0:5001");
        let any_six = listen("[::]:5002");
        let only_six = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        only_six.set_only_v6(true).unwrap();
        only_six.bind(&at("[::]:5003").into()).unwrap();
        only_six.listen(1).unwrap();
        let udp = UdpSocket::bind("127.0.0.2:5004").unwrap();
        let elsewhere = listen("127.0.0.9:5005");
        let pool = explicit("127.0.0.2:5000-5009, [::1]:5000-5009");
        let expect = |four: u64, six: u64| {
            let census = pool.census_of(Protocol::Tcp, to).unwrap();
            assert_eq!((census.excluded, census.free), (four, 10 - four));
            let census = pool.census_of(Protocol::Tcp, at("[::1]:700")).unwrap();
            assert_eq!(census.excluded, six);
        };
        expect(4, 2);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let leases: Vec<_> = (0..6).map(|_| pool.acquire(protocol, to).unwrap()).collect();
            assert!(leases.iter().all(|l| [3, 5, 6, 7, 8, 9].contains(&(l.source().port() % 10))));
            assert_eq!(exhausted(&pool, protocol, to).excluded, 4);
            leases.into_iter().for_each(|lease| lease.release());
        }
        drop((tcp, any));
        pool.refresh().unwrap();
        expect(2, 2);
        let again = listen("127.0.0.2:5000");
        pool.refresh().unwrap();
        expect(3, 2);
        drop((again, any_six, only_six, udp, elsewhere));
        pool.refresh().unwrap();
        expect(0, 0);
    });
}

#[test]
fn a_listener_met_while_binding_is_left_alone_until_it_closes() {
    in_namespace("a_listener_met_while_binding_is_left_alone_until_it_closes", || {
        let _listener = listen("127.0.0.1:700");
        let to = at("127.0.0.1:700");
        let pool = explicit("127.0.0.2:5000");
        // In the pool's first second too: nobody looks again so soon but who is told to.
        let stranger = listen("127.0.0.2:5000");
        pool.connect(to).unwrap_err();
        pool.refresh().unwrap();
        // Longer than a port rests that somebody holds who does not listen.
        std::thread::sleep(Duration::from_millis(1_200));
        assert_eq!(exhausted(&pool, Protocol::Tcp, to).excluded, 1);
        drop(stranger);
        assert_eq!(acquire_in_the_end(&pool, Protocol::Tcp, to), at("127.0.0.2:5000"));
        pool.connect(to).unwrap();
    });
}

#[test]
fn what_a_listener_accepted_stays_after_it_went() {
    in_namespace("what_a_listener_accepted_stays_after_it_went", || {
        let listener = listen("127.0.0.2:5000");
        let client = connected("127.0.0.1:700", at("127.0.0.2:5000"), Type::STREAM);
        let (accepted, to) = listener.accept().unwrap();
        let pool = explicit("127.0.0.2:5000");
        assert_eq!(pool.import().unwrap(), 0, "the whole port is excluded");
        drop(listener);
        pool.refresh().unwrap();
        assert_eq!(exhausted(&pool, Protocol::Tcp, to).leased, 1);
        assert_eq!(pool.census_of(Protocol::Tcp, at("127.0.0.1:701")).unwrap().free, 1);
        drop((client, accepted));
    });
}

#[test]
fn inherited_sockets_are_adopted() {
    in_namespace("inherited_sockets_are_adopted", || {
        let _listener = listen("127.0.0.1:700");
        let to = at("127.0.0.1:700");
        let stream = connected("127.0.0.2:5000", to, Type::STREAM);
        let datagrams = connected("127.0.0.2:5000", to, Type::DGRAM);
        let pool = explicit("127.0.0.2:5000");
        for is_imported in [false, true] {
            if is_imported {
                assert_eq!(pool.import().unwrap(), 2);
            }
            let stream = pool.adopt(stream.try_clone().unwrap().into()).unwrap();
            assert_eq!(stream.four_tuple().source, at("127.0.0.2:5000"));
            assert_eq!(stream.four_tuple().destination.address(), to);
            let datagrams = pool.adopt_udp(datagrams.try_clone().unwrap().into()).unwrap();
            assert_eq!(datagrams.four_tuple().destination.protocol(), Protocol::Udp);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                assert_eq!(exhausted(&pool, protocol, to).leased, 1);
            }
            let twice = datagrams.get_ref().try_clone().unwrap();
            assert!(matches!(pool.adopt_udp(twice), Err(Error::Taken { .. })));
            // A look changes nothing about what is adopted.
            pool.refresh().unwrap();
            assert_eq!(exhausted(&pool, Protocol::Tcp, to).leased, 1);
            drop(stream.into_parts().0);
            drop(datagrams);
        }
        let unconnected = UdpSocket::bind("127.0.0.2:5001").unwrap();
        assert!(matches!(pool.adopt_udp(unconnected), Err(Error::Os { .. })));
    });
}

#[test]
fn a_hot_upgrade_keeps_connections_apart() {
    in_namespace("a_hot_upgrade_keeps_connections_apart", || {
        let _listener = listen("127.0.0.1:700");
        let to = at("127.0.0.1:700");
        let build = || {
            let ports = PortRange::new(5000, 5099).unwrap();
            let builder = Pool::builder().sources("127.0.0.2").ports(ports);
            builder.bind_mode(ModeChoice::Explicit).build().unwrap()
        };
        let before = build();
        let streams: Vec<_> = (0..60).map(|_| before.connect(to).unwrap()).collect();
        let old: HashSet<_> = streams.iter().map(|stream| stream.four_tuple().source).collect();
        let after = build();
        assert_eq!(after.import().unwrap(), 60);
        let streams: Vec<_> = (0..40).map(|_| after.connect(to).unwrap()).collect();
        assert!(streams.iter().all(|stream| !old.contains(&stream.four_tuple().source)));
        assert_eq!(exhausted(&after, Protocol::Tcp, to).leased, 100);
        let fds: HashSet<_> = streams.iter().map(|stream| stream.as_raw_fd()).collect();
        assert_eq!(fds.len(), 40);
    });
}

#[test]
fn where_the_kernel_does_not_tell_the_pool_works_and_says_so() {
    in_namespace("where_the_kernel_does_not_tell_the_pool_works_and_says_so", || {
        // As in a sandbox (systemd's `RestrictAddressFamilies=`).
        forbid(libc::SYS_socket, &[(0, libc::AF_NETLINK)], libc::EAFNOSUPPORT);
        let _listener = listen("127.0.0.1:700");
        let _in_the_way = listen("127.0.0.2:5000");
        let pool = explicit("127.0.0.2:5000-5001");
        let stream = pool.connect(at("127.0.0.1:700")).unwrap();
        assert_eq!(stream.four_tuple().source, at("127.0.0.2:5001"));
        for answer in [pool.refresh(), pool.import().map(drop)] {
            assert!(matches!(answer, Err(Error::Unsupported { .. })), "{answer:?}");
        }
    });
}
