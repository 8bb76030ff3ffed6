//! Connections over real sockets, in namespaces of their own.

mod common;
#[path = "common/sysctl.rs"]
mod settings;

use common::in_namespace;
use portlease::{
    BindMode, Call, ClosedFirst, ConnectOptions, Error, ModeChoice, Pool, Protocol, Reported,
    Verdict,
};
use settings::sysctl;
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pool(sources: &str, mode: ModeChoice) -> Pool {
    Pool::builder().sources(sources).bind_mode(mode).build().unwrap()
}

/// A listener with a long queue that accepts only when told to.
fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let address = at(address);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The flags that a descriptor was opened with and has now.
fn flags_of(socket: &impl AsRawFd) -> i32 {
    let path = format!("/proc/self/fdinfo/{}", socket.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap()
}

/// A socket of somebody who knows nothing of us, bound as programs do.
fn foreign(source: &str, reuse: bool) -> Socket {
    let source = at(source);
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).unwrap();
    socket.set_reuse_address(reuse).unwrap();
    socket.bind(&source.into()).unwrap();
    socket
}

#[test]
fn a_stream_reads_writes_and_gives_back() {
    in_namespace("a_stream_reads_writes_and_gives_back", || {
        for mode in [ModeChoice::Explicit, ModeChoice::Late] {
            let (listener, to) = listen("127.0.0.1:0");
            let pool = pool("127.0.0.2:40000-40001", mode);
            let mut stream = pool.connect(to).unwrap();
            let (mut peer, from) = listener.accept().unwrap();
            assert_eq!(stream.four_tuple().source, from);
            assert_eq!(stream.get_ref().local_addr().unwrap(), from);
            stream.write_all(b"ping").unwrap();
            let mut buffer = [0; 4];
            peer.read_exact(&mut buffer).unwrap();
            peer.write_all(b"pong").unwrap();
            (&stream).read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"pong");
            // No child inherits the descriptor unasked.
            assert_eq!(flags_of(&stream), libc::O_RDWR | libc::O_CLOEXEC);
            // The peer closes first: nothing stays behind on our side.
            drop(peer);
            assert_eq!(stream.read(&mut buffer).unwrap(), 0);
            stream.close();
            assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().free, 2);
        }
    });
}

#[test]
fn every_port_serves_and_then_exhausted_has_the_numbers() {
    in_namespace("every_port_serves_and_then_exhausted_has_the_numbers", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:40000-40099, 127.0.0.3:1024-1123", ModeChoice::ByPort);
        let streams: Vec<_> = (0..200).map(|_| pool.connect(to).unwrap()).collect();
        let sources: HashSet<_> = streams.iter().map(|s| s.four_tuple().source).collect();
        assert_eq!(sources.len(), 200);
        match pool.connect(to).unwrap_err() {
            Error::Exhausted(counts) => {
                assert_eq!((counts.leased, counts.resting, counts.excluded), (200, 0, 0));
                assert_eq!(counts.destination.address(), to);
            }
            other => panic!("{other}"),
        }
        let error: io::Error = pool.connect(to).unwrap_err().into();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn foreign_sockets_cost_tries_never_a_connection() {
    in_namespace("foreign_sockets_cost_tries_never_a_connection", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let (_other, elsewhere) = listen("127.0.0.1:701");
        // Explicit: bound without SO_REUSEADDR, listening, and our very four-tuple.
        let bound: Vec<_> =
            (5000..5030).map(|port| foreign(&format!("127.0.0.2:{port}"), false)).collect();
        let listening: Vec<_> =
            (5030..5060).map(|port| listen(&format!("127.0.0.2:{port}"))).collect();
        let connected: Vec<_> = (5060..5090)
            .map(|port| {
                let socket = foreign(&format!("127.0.0.2:{port}"), true);
                socket.connect(&to.into()).unwrap();
                socket
            })
            .collect();
        let explicit = pool("127.0.0.2:5000-5099", ModeChoice::Explicit);
        let streams: Vec<_> = (0..10).map(|_| explicit.connect(to).unwrap()).collect();
        assert!(streams.iter().all(|s| (5090..5100).contains(&s.four_tuple().source.port())));
        let error = explicit.connect(to).unwrap_err();
        assert!(matches!(error, Error::Exhausted(_)), "{error}");
        drop((bound, listening, connected));

        // Late: our very four-tuple, and a port that explicit binding poisons.
        let connected: Vec<_> = (40_000..40_040)
            .map(|port| {
                let socket = foreign(&format!("127.0.0.2:{port}"), false);
                socket.connect(&to.into()).unwrap();
                socket
            })
            .collect();
        let poisoned: Vec<_> = (40_040..40_080)
            .map(|port| {
                let socket = foreign(&format!("127.0.0.9:{port}"), true);
                socket.connect(&elsewhere.into()).unwrap();
                socket
            })
            .collect();
        let late = pool("127.0.0.2:40000-40099", ModeChoice::Late);
        let streams: Vec<_> = (0..20).map(|_| late.connect(to).unwrap()).collect();
        assert!(streams.iter().all(|s| (40_080..40_100).contains(&s.four_tuple().source.port())));
        drop((connected, poisoned));
    });
}

#[test]
fn a_port_comes_back_after_its_foreign_holder_left() {
    in_namespace("a_port_comes_back_after_its_foreign_holder_left", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:5000", ModeChoice::Explicit);
        let holder = foreign("127.0.0.2:5000", false);
        // The only port is somebody else's: the ledger says so, with its numbers.
        match pool.connect(to).unwrap_err() {
            Error::Exhausted(counts) => assert_eq!((counts.leased, counts.excluded), (0, 1)),
            other => panic!("{other}"),
        }
        drop(holder);
        let stream = loop {
            match pool.connect(to) {
                Ok(stream) => break stream,
                Err(Error::Exhausted(_)) => std::thread::sleep(Duration::from_millis(50)),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(stream.four_tuple().source, at("127.0.0.2:5000"));
    });
}

#[test]
fn the_destinations_own_refusal_is_the_callers() {
    in_namespace("the_destinations_own_refusal_is_the_callers", || {
        let pool = pool("127.0.0.2:5000-5009", ModeChoice::Explicit);
        let nobody = at("127.0.0.1:9");
        for _ in 0..100 {
            let error = pool.connect(nobody).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
            assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
        }
        assert_eq!(pool.census_of(Protocol::Tcp, nobody).unwrap().free, 10);
    });
}

#[test]
fn without_descriptors_the_lease_comes_back() {
    in_namespace("without_descriptors_the_lease_comes_back", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:5000-5009", ModeChoice::Explicit);
        let mut files = Vec::new();
        let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        // SAFETY: `limit` is a valid rlimit, and this process is the test's own.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        while let Ok(file) = std::fs::File::open("/dev/null") {
            files.push(file);
        }
        for _ in 0..100 {
            let error = pool.connect(to).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
        }
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().free, 10);
        drop(files);
        pool.connect(to).unwrap();
    });
}

#[test]
fn a_timeout_is_kept_and_the_stream_blocks_again() {
    in_namespace("a_timeout_is_kept_and_the_stream_blocks_again", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:5000-5009", ModeChoice::Explicit);
        let stream = pool.connect_timeout(to, Duration::from_secs(60)).unwrap();
        assert_eq!(flags_of(&stream) & libc::O_NONBLOCK, 0);

        // A queue of one that is full drops what comes: nobody answers.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&at("127.0.0.1:701").into()).unwrap();
        full.listen(0).unwrap();
        let _first = TcpStream::connect(at("127.0.0.1:701")).unwrap();
        let error =
            pool.connect_timeout(at("127.0.0.1:701"), Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
        assert_eq!(pool.census_of(Protocol::Tcp, at("127.0.0.1:701")).unwrap().leased, 0);
    });
}

#[test]
fn a_send_timeout_of_the_callers_ends_the_wait() {
    in_namespace("a_send_timeout_of_the_callers_ends_the_wait", || {
        let pool = pool("127.0.0.2:5000-5009", ModeChoice::Explicit);
        // A queue of one that is full: nobody answers.
        let to = at("127.0.0.1:701");
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&to.into()).unwrap();
        full.listen(0).unwrap();
        let _first = TcpStream::connect(to).unwrap();
        let brief = |socket: std::os::fd::BorrowedFd<'_>| {
            socket2::SockRef::from(&socket).set_write_timeout(Some(Duration::from_millis(50)))
        };
        let error = pool.connect_with(to, &ConnectOptions::new().prepare(&brief)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().leased, 0);
        // Where somebody answers, O_NONBLOCK changes nothing: a connected stream comes.
        let (_listener, to) = listen("127.0.0.1:700");
        let nonblocking = |socket: std::os::fd::BorrowedFd<'_>| {
            socket2::SockRef::from(&socket).set_nonblocking(true)
        };
        let options = ConnectOptions::new().prepare(&nonblocking);
        assert_eq!(pool.connect_with(to, &options).unwrap().get_ref().peer_addr().unwrap(), to);
    });
}

#[test]
fn without_waiting_the_stream_is_on_its_way() {
    in_namespace("without_waiting_the_stream_is_on_its_way", || {
        let (listener, to) = listen("127.0.0.1:700");
        for mode in [ModeChoice::Explicit, ModeChoice::Late] {
            let pool = pool("127.0.0.2:40000-40009", mode);
            let options = ConnectOptions::new().nonblocking();
            let stream = pool.connect_with(to, &options).unwrap();
            let (_peer, from) = listener.accept().unwrap();
            assert_eq!(stream.four_tuple().source, from);
            assert!(stream.get_ref().take_error().unwrap().is_none());
            let error = (&stream).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn options_choose_the_source_and_prepare_the_socket() {
    in_namespace("options_choose_the_source_and_prepare_the_socket", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2-127.0.0.9:5000-5009", ModeChoice::Explicit);
        let prepare = |socket: std::os::fd::BorrowedFd<'_>| {
            socket2::SockRef::from(&socket).set_tcp_nodelay(true)
        };
        let options = ConnectOptions::new().source("127.0.0.7".parse().unwrap()).prepare(&prepare);
        for _ in 0..10 {
            let stream = pool.connect_with(to, &options).unwrap();
            assert_eq!(stream.four_tuple().source.ip().to_string(), "127.0.0.7");
            assert!(stream.get_ref().nodelay().unwrap());
        }
        let refuse =
            |_: std::os::fd::BorrowedFd<'_>| Err(io::Error::from_raw_os_error(libc::EPERM));
        let error = pool.connect_with(to, &ConnectOptions::new().prepare(&refuse)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(pool.census().unwrap().sum.leased, 0);
    });
}

#[test]
fn a_port_of_ours_never_connects_to_itself() {
    in_namespace("a_port_of_ours_never_connects_to_itself", || {
        let pool = pool("127.0.0.2:7770-7779", ModeChoice::Explicit);
        for port in (7770..=7779).cycle().take(300) {
            let error = pool.connect(SocketAddr::from(([127, 0, 0, 2], port))).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
        }
    });
}

#[test]
fn the_descriptor_is_closed_before_the_lease_is_released() {
    in_namespace("the_descriptor_is_closed_before_the_lease_is_released", || {
        let (listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:5000", ModeChoice::Explicit);
        let mut stream = pool.connect(to).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        // A close that lingers takes until the peer has read what is on its way.
        stream.get_ref().set_nonblocking(true).unwrap();
        while stream.write(&[0; 65_536]).is_ok() {}
        stream.get_ref().set_nonblocking(false).unwrap();
        let linger = Some(Duration::from_secs(3600));
        socket2::SockRef::from(stream.get_ref()).set_linger(linger).unwrap();
        let closing = std::thread::spawn(move || drop(stream));
        // 127.0.0.2:5000 in FIN_WAIT1.
        let is_closing = || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            sockets.contains(" 0200007F:1388 0100007F:02BC 04 ")
        };
        while !is_closing() {
            std::thread::yield_now();
        }
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().leased, 1);
        io::copy(&mut peer, &mut io::sink()).unwrap();
        closing.join().unwrap();
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().free, 1);
    });
}

#[test]
fn two_threads_connect_ten_thousand_times_each() {
    in_namespace("two_threads_connect_ten_thousand_times_each", || {
        const EACH: usize = 10_000;
        let (listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2-127.0.0.5:1024-31000", ModeChoice::ByPort);
        let accepting = std::thread::spawn(move || {
            for _ in 0..2 * EACH {
                drop(listener.accept().unwrap());
            }
        });
        let connect = |handle: bool| {
            let handle = handle.then(|| pool.destination(Protocol::Tcp, to).unwrap());
            for _ in 0..EACH {
                let mut stream = match &handle {
                    Some(handle) => handle.connect().unwrap(),
                    None => pool.connect(to).unwrap(),
                };
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| connect(true));
            scope.spawn(|| connect(false));
        });
        accepting.join().unwrap();
        // One that was drawn again while the kernel still had it rests for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        let census = loop {
            let census = pool.census_of(Protocol::Tcp, to).unwrap();
            if census.resting == 0 || Instant::now() > deadline {
                break census;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!((census.leased, census.free), (0, census.capacity), "{census:?}");
    });
}

#[test]
fn callers_with_sockets_of_their_own_report_and_go_on() {
    in_namespace("callers_with_sockets_of_their_own_report_and_go_on", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let _holders: Vec<_> =
            (5000..5009).map(|port| foreign(&format!("127.0.0.2:{port}"), false)).collect();
        let pool = pool("127.0.0.2:5000-5009", ModeChoice::Explicit);
        let mut lease = pool.acquire(Protocol::Tcp, to).unwrap();
        let mut tries = 1;
        let socket = loop {
            assert_eq!(lease.mode(), BindMode::Explicit);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            match lease.bind(&socket.as_fd()) {
                Ok(()) => break socket,
                Err(Error::Os { call: "bind", error, .. }) => {
                    drop(socket);
                    let Reported { verdict, next } = lease.report(Call::Bind, &error).unwrap();
                    assert_eq!(verdict, Verdict::RestPort);
                    lease = next.unwrap();
                    tries += 1;
                }
                Err(other) => panic!("{other}"),
            }
        };
        assert!(tries <= 10);
        socket.connect(&to.into()).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(at("127.0.0.2:5009")));
        drop(socket);
        lease.release_after(ClosedFirst::Us);
        let lease = pool.acquire(Protocol::Tcp, to).unwrap();
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let reported = lease.report(Call::Connect, &refused).unwrap();
        assert_eq!(reported.verdict, Verdict::GiveUp);
        assert!(reported.next.is_none());
    });
}

#[test]
fn parts_come_apart_and_together() {
    in_namespace("parts_come_apart_and_together", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:5000", ModeChoice::Explicit);
        let (stream, lease) = pool.connect(to).unwrap().into_parts();
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().leased, 1);
        drop(portlease::LeasedStream::from_parts(stream, lease));
        assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().leased, 0);
    });
}

#[test]
fn a_stream_from_elsewhere_is_adopted() {
    in_namespace("a_stream_from_elsewhere_is_adopted", || {
        let (_listener, to) = listen("127.0.0.1:700");
        let pool = pool("127.0.0.2:5000", ModeChoice::Explicit);
        let socket = foreign("127.0.0.2:5000", true);
        socket.connect(&to.into()).unwrap();
        let adopted = pool.adopt(socket.into()).unwrap();
        assert_eq!(adopted.four_tuple().source, at("127.0.0.2:5000"));
        assert!(matches!(pool.acquire(Protocol::Tcp, to), Err(Error::Exhausted(_))));
        let twice = adopted.get_ref().try_clone().unwrap();
        assert!(matches!(pool.adopt(twice), Err(Error::Taken { .. })));
        drop(adopted);
        pool.acquire(Protocol::Tcp, to).unwrap().release();
        let strange = TcpStream::connect(to).unwrap();
        assert!(matches!(pool.adopt(strange), Err(Error::NotOurs { .. })));
    });
}

#[test]
fn ipv6_works_as_ipv4_does() {
    in_namespace("ipv6_works_as_ipv4_does", || {
        let (listener, to) = listen("[::1]:700");
        for (mode, ports) in [(ModeChoice::Explicit, "5000"), (ModeChoice::Late, "40000")] {
            let pool = pool(&format!("[::1]:{ports}, 127.0.0.2:{ports}"), mode);
            let stream = pool.connect(to).unwrap();
            let (_, from) = listener.accept().unwrap();
            assert_eq!(from, stream.four_tuple().source);
            assert_eq!(from.to_string(), format!("[::1]:{ports}"));
        }
    });
}

#[test]
fn a_probe_foresees_what_connect_would_say() {
    in_namespace("a_probe_foresees_what_connect_would_say", || {
        sysctl("net.ipv4.tcp_tw_reuse", "0");
        let (listener, to) = listen("127.0.0.1:700");
        for (mode, port) in [(ModeChoice::Explicit, 5000), (ModeChoice::Late, 40000)] {
            let one = pool(&format!("127.0.0.2:{port}"), mode);
            let other = pool(&format!("127.0.0.2:{port}"), mode);
            // The other pool knows nothing of it: only the kernel does.
            let lease = other.acquire(Protocol::Tcp, to).unwrap();
            lease.probe().unwrap();
            let stream = one.connect(to).unwrap();
            let (peer, _) = listener.accept().unwrap();
            assert_eq!(lease.probe().unwrap_err().raw_os_error(), Some(libc::EADDRNOTAVAIL));
            // FIN_WAIT2, as soon as the peer has acknowledged, and then TIME_WAIT: explicit binding
            // takes both.
            drop(stream);
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(lease.probe().is_ok(), mode == ModeChoice::Explicit);
            drop(peer);
            assert_eq!(lease.probe().is_ok(), mode == ModeChoice::Explicit);
            lease.release();
        }
    });
}

#[test]
fn who_closed_first_decides_the_rest() {
    in_namespace("who_closed_first_decides_the_rest", || {
        // (mode, port, tcp_timestamps, tcp_tw_reuse, we close first) -> rests.
        let table = [
            (ModeChoice::Explicit, 5000, "1", "0", true, false),
            (ModeChoice::Explicit, 5001, "1", "0", false, false),
            (ModeChoice::Explicit, 5002, "0", "2", true, true),
            (ModeChoice::Explicit, 5003, "0", "2", false, false),
            (ModeChoice::Late, 40000, "1", "0", true, true),
            (ModeChoice::Late, 40001, "1", "0", false, false),
            (ModeChoice::Late, 40002, "1", "2", true, true),
            (ModeChoice::Late, 40003, "0", "1", true, true),
        ];
        let (listener, to) = listen("127.0.0.1:700");
        // The pool closes, or the caller does, after having asked.
        let rows = table.iter().flat_map(|row| [(row, true), (row, false)]);
        for (&(mode, port, timestamps, reuse, we_close, rests), pool_closes) in rows {
            let port = if pool_closes { port } else { port + 10 };
            sysctl("net.ipv4.tcp_timestamps", timestamps);
            sysctl("net.ipv4.tcp_tw_reuse", reuse);
            let pool = pool(&format!("127.0.0.2:{port}"), mode);
            let mut stream = pool.connect(to).unwrap();
            let (peer, _) = listener.accept().unwrap();
            let peer = Some(peer).filter(|_| we_close);
            if !we_close {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
            match pool_closes {
                true => drop(stream),
                false => {
                    let (stream, lease) = stream.into_parts();
                    let closed = lease.closing(&stream);
                    drop(stream);
                    lease.release_after(closed);
                }
            }
            drop(peer);
            let census = pool.census_of(Protocol::Tcp, to).unwrap();
            assert_eq!(
                census.resting == 1,
                rests,
                "{mode:?} {port} {timestamps} {reuse} {we_close} {pool_closes}"
            );
            // No rest, no conflict: the same four-tuple connects again.
            if !rests {
                assert_eq!(pool.connect(to).unwrap().four_tuple().source.port(), port);
                listener.accept().unwrap();
            }
        }
    });
}
