//! Real sockets, in namespaces of their own.

#[path = "../../tests/common/mod.rs"]
mod common;
mod rests;
#[path = "../../tests/common/sysctl.rs"]
mod settings;

use super::*;
use crate::error::Error;
use crate::ledger::{Family, PortRange, Protocol};
use common::in_namespace;
use settings::sysctl;
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    socket
}

/// A socket that is bound and connected as the library does it.
fn dial(source: SocketAddr, to: SocketAddr, mode: BindMode) -> io::Result<Socket> {
    let socket = stream_socket(Family::of(source.ip()), false)?;
    bind(&socket, source, mode, &SourceOptions::new()).map_err(|refused| refused.error)?;
    assert_eq!(connect(&socket, to)?, Progress::Connected);
    check_source(&socket, source)?;
    Ok(socket)
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().expect("a refusal").kind()
}

fn host(choice: ModeChoice) -> Host {
    Host::probe(choice).unwrap()
}

#[test]
fn one_port_serves_many_destinations() {
    in_namespace("kernel::tests::one_port_serves_many_destinations", || {
        for (source, wildcard) in [("127.0.0.2:", "0.0.0.0:700"), ("[::1]:", "[::1]:700")] {
            let _listener = listen(at(wildcard));
            let others: Vec<_> =
                (701..720).map(|port| listen(at(&format!("[::1]:{port}")))).collect();
            for (port, mode) in [(5000, BindMode::Explicit), (40000, BindMode::Late)] {
                let source = at(&format!("{source}{port}"));
                let to = |n: u16| match source {
                    SocketAddr::V4(_) => SocketAddr::from(([127, 1, 0, n as u8], 700)),
                    SocketAddr::V6(_) => at(&format!("[::1]:{}", 700 + n)),
                };
                let held: Vec<_> = (0..20).map(|n| dial(source, to(n), mode).unwrap()).collect();
                for socket in &held {
                    assert_eq!(socket.local_addr().unwrap().as_socket(), Some(source));
                }
                // The same four-tuple a second time.
                assert_eq!(kind(dial(source, to(0), mode)), io::ErrorKind::AddrNotAvailable);
            }
            drop(others);
        }
    });
}

#[test]
fn an_explicit_port_leaves_no_more_room_than_it_must() {
    in_namespace("kernel::tests::an_explicit_port_leaves_no_more_room_than_it_must", || {
        let to = at("127.0.0.1:700");
        let _listener = listen(to);
        let held = dial(at("127.0.0.2:5000"), to, BindMode::Explicit).unwrap();
        assert!(!held.reuse_port().unwrap());
        let stranger = |address: &str| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at(address).into())
        };
        assert_eq!(kind(stranger("0.0.0.0:5000")), io::ErrorKind::AddrInUse);
        // A listener that came before us is met, unless it gave leave by SO_REUSEPORT.
        let _other = listen(at("127.0.0.2:5001"));
        assert_eq!(
            kind(dial(at("127.0.0.2:5001"), to, BindMode::Explicit)),
            io::ErrorKind::AddrInUse
        );
    });
}

#[test]
fn the_mode_follows_from_the_port() {
    in_namespace("kernel::tests::the_mode_follows_from_the_port", || {
        sysctl("net.ipv4.ip_local_port_range", "40000 40999");
        sysctl("net.ipv4.ip_local_reserved_ports", "40100-40109,40200");
        let by_port = host(ModeChoice::ByPort);
        assert_eq!(by_port.capabilities().late_bind(), Capability::Set);
        assert_eq!(by_port.local_port_range(), PortRange::new(40000, 40999).unwrap());
        for (port, mode) in [
            (1, BindMode::Explicit),
            (39999, BindMode::Explicit),
            (40000, BindMode::Late),
            (40099, BindMode::Late),
            (40100, BindMode::Explicit),
            (40109, BindMode::Explicit),
            (40110, BindMode::Late),
            (40200, BindMode::Explicit),
            (40999, BindMode::Late),
            (41000, BindMode::Explicit),
            (65535, BindMode::Explicit),
        ] {
            assert_eq!(by_port.mode_of(Protocol::Tcp, port), mode, "{port}");
            assert_eq!(by_port.mode_of(Protocol::Udp, port), BindMode::Explicit, "{port}");
            let explicit = host(ModeChoice::Explicit).mode_of(Protocol::Tcp, port);
            assert_eq!(explicit, BindMode::Explicit, "{port}");
        }
        let late = host(ModeChoice::Late);
        let check = |first, last| {
            let ports = PortRange::new(first, last).unwrap();
            late.check_ports(at("127.0.0.2:0").ip(), ports)
        };
        check(40000, 40099).unwrap();
        for (first, last, names) in [
            (39999, 40000, "40000-40999"),
            (40999, 41000, "40000-40999"),
            (40090, 40100, "port 40100"),
        ] {
            let Err(Error::Config { problem }) = check(first, last) else {
                panic!("{first}-{last} is refused");
            };
            assert!(problem.contains(names), "{problem}");
        }
    });
}

#[test]
fn a_range_that_changes_is_noticed() {
    in_namespace("kernel::tests::a_range_that_changes_is_noticed", || {
        let to = at("127.0.0.1:700");
        let _listener = listen(to);
        let source = at("127.0.0.2:40000");
        let host = host(ModeChoice::ByPort);
        assert_eq!(host.mode_of(Protocol::Tcp, 40000), BindMode::Late);
        sysctl("net.ipv4.ip_local_port_range", "50000 50999");
        sysctl("net.ipv4.tcp_tw_reuse", "0");
        // The kernel ignores the option and takes another port: never handed out.
        assert_eq!(kind(dial(source, to, BindMode::Late)), io::ErrorKind::AddrNotAvailable);
        let mut now_ms = 10_000;
        host.look_again(now_ms);
        assert_eq!(host.mode_of(Protocol::Tcp, 40000), BindMode::Explicit);
        assert_eq!(host.mode_of(Protocol::Tcp, 50000), BindMode::Late);
        dial(source, to, host.mode_of(Protocol::Tcp, 40000)).unwrap();
        // At most once a second.
        sysctl("net.ipv4.ip_local_port_range", "40000 40999");
        for (later_ms, mode) in [(999, BindMode::Explicit), (1, BindMode::Late)] {
            now_ms += later_ms;
            host.look_again(now_ms);
            assert_eq!(host.mode_of(Protocol::Tcp, 40000), mode);
        }
    });
}

#[test]
fn an_address_that_cannot_be_bound_is_told_with_the_way_out() {
    in_namespace("kernel::tests::an_address_that_cannot_be_bound_is_told_with_the_way_out", || {
        for (source, options, word) in [
            ("10.9.9.9:0", SourceOptions::new(), "freebind"),
            ("[2001:db8::9]:0", SourceOptions::new(), "freebind"),
            ("[fe80::9]:0", SourceOptions::new(), "fe80::7%eth0"),
            ("127.0.0.2:0", SourceOptions::new().device("nowhere"), "'nowhere'"),
        ] {
            match check_bindable(at(source), &options) {
                Err(Error::Config { problem }) => {
                    assert!(problem.contains(word), "{problem}");
                    assert!(problem.contains(&at(source).ip().to_string()), "{problem}");
                }
                other => panic!("{source}: {other:?}"),
            }
        }
        for (source, options) in [
            ("127.0.0.2:0", SourceOptions::new().device("lo").mark(7)),
            ("[::1]:0", SourceOptions::new().device("lo").mark(7)),
            ("10.9.9.9:0", SourceOptions::new().freebind()),
            ("[2001:db8::9]:0", SourceOptions::new().freebind()),
            ("10.9.9.9:0", SourceOptions::new().transparent()),
            ("[2001:db8::9]:0", SourceOptions::new().transparent()),
        ] {
            check_bindable(at(source), &options).unwrap();
        }
    });
}

#[test]
fn options_reach_the_socket() {
    in_namespace("kernel::tests::options_reach_the_socket", || {
        for (source, mode) in
            [("127.0.0.2:5000", BindMode::Explicit), ("127.0.0.2:40000", BindMode::Late)]
        {
            let options = SourceOptions::new().freebind().device("lo").mark(7);
            let socket = stream_socket(Family::V4, false).unwrap();
            bind(&socket, at(source), mode, &options).unwrap();
            assert_eq!(socket.device().unwrap().as_deref(), Some(b"lo".as_slice()));
            assert_eq!(socket.mark().unwrap(), 7);
            assert!(socket.freebind_v4().unwrap());
        }
    });
}

#[test]
fn the_capabilities_name_each_option_and_setting() {
    in_namespace("kernel::tests::the_capabilities_name_each_option_and_setting", || {
        sysctl("net.ipv4.ip_local_reserved_ports", "8080,9148-9150");
        let capabilities = host(ModeChoice::ByPort).capabilities();
        assert_eq!(capabilities.options().count(), 7);
        let shown = capabilities.to_string();
        for line in [
            "IP_LOCAL_PORT_RANGE: yes",
            "IP_FREEBIND: yes",
            "SO_MARK: yes",
            "net.ipv4.ip_local_port_range: 32768-60999",
            "net.ipv4.ip_local_reserved_ports: 8080,9148-9150",
            "net.ipv4.tcp_tw_reuse: 2",
            "net.ipv4.tcp_timestamps: 1",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}:\n{shown}");
        }
    });
}

#[test]
fn a_wait_survives_signals_and_ends_in_time() {
    in_namespace("kernel::tests::a_wait_survives_signals_and_ends_in_time", || {
        extern "C" fn nothing(_: libc::c_int) {}
        // A queue of one that is full: nobody answers.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let to = at("127.0.0.1:701");
        full.bind(&to.into()).unwrap();
        full.listen(0).unwrap();
        let _first = dial(at("127.0.0.2:5000"), to, BindMode::Explicit).unwrap();
        let socket = stream_socket(Family::V4, true).unwrap();
        assert_eq!(connect(&socket, to).unwrap(), Progress::InProgress);
        let every = libc::timeval { tv_sec: 0, tv_usec: 10_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: the handler does nothing, and `timer` is valid.
        unsafe {
            let handler: extern "C" fn(libc::c_int) = nothing;
            libc::signal(libc::SIGALRM, handler as libc::sighandler_t);
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()), 0);
        }
        let waited = wait_connected(&socket, Some(Duration::from_millis(100)));
        assert_eq!(kind(waited), io::ErrorKind::TimedOut);
    });
}
