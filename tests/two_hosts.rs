//! Two hosts and the cables between them: what the kernel does otherwise where both ends are on
//! one host.

mod common;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "common/sysctl.rs"]
mod settings;

use hosts::{Peer, ip, with_cables};
use portlease::{
    BindMode, Error, LeasedStream, ModeChoice, Pool, PortRange, Protocol, SourceOptions,
};
use settings::sysctl;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One cable, with addresses of both families: ours end in 2 to 5, the peer's in 100.
fn two_hosts() -> Peer {
    let peer = Peer::new();
    peer.cable("veth0");
    for host in 2..6 {
        ip(&format!("address add 10.9.0.{host}/24 dev veth0"));
        ip(&format!("address add fd00:9::{host}/64 dev veth0 nodad"));
    }
    peer.ip("address add 10.9.0.100/24 dev veth0p");
    peer.ip("address add fd00:9::100/64 dev veth0p nodad");
    peer
}

/// A listener over there, on one interface alone if there is a name.
fn listen(peer: &Peer, address: SocketAddr, device: Option<&'static str>) -> TcpListener {
    peer.run(move || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind_device(device.map(str::as_bytes)).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        socket.into()
    })
}

/// The other end, if it is the one that was leased; a byte goes both ways.
fn accepted(listener: &TcpListener, stream: &LeasedStream) -> TcpStream {
    let (mut there, from) = listener.accept().unwrap();
    let source = stream.four_tuple().source;
    assert_eq!((from.ip(), from.port()), (source.ip(), source.port()));
    let mut here = stream.get_ref();
    here.write_all(b"x").unwrap();
    there.read_exact(&mut [0]).unwrap();
    there.write_all(b"y").unwrap();
    here.read_exact(&mut [0]).unwrap();
    there
}

/// Connects until nothing is left; each connection is accepted, and from where it was leased.
fn use_up(pool: &Pool, listener: &TcpListener, to: SocketAddr) -> Vec<(LeasedStream, TcpStream)> {
    let mut both = Vec::new();
    loop {
        match pool.connect(to) {
            Ok(stream) => {
                let there = accepted(listener, &stream);
                both.push((stream, there));
            }
            Err(Error::Exhausted(counts)) => {
                assert_eq!((counts.leased, counts.resting), (both.len() as u64, 0), "{counts}");
                return both;
            }
            Err(other) => panic!("after {}: {other}", both.len()),
        }
    }
}

#[test]
fn every_port_reaches_the_other_host_in_both_modes() {
    with_cables("every_port_reaches_the_other_host_in_both_modes", || {
        let peer = two_hosts();
        sysctl("net.ipv4.ip_local_port_range", "40000 40003");
        for (sources, to) in
            [("10.9.0.2-10.9.0.5", "10.9.0.100:700"), ("fd00:9::2-fd00:9::5", "[fd00:9::100]:700")]
        {
            let to = at(to);
            let listener = listen(&peer, to, None);
            let ports = PortRange::new(39_996, 40_003).unwrap();
            let pool = Pool::builder().sources(sources).ports(ports).build().unwrap();
            let streams = use_up(&pool, &listener, to);
            let late = |(stream, _): &&(LeasedStream, _)| stream.lease().mode() == BindMode::Late;
            assert_eq!(streams.len(), 4 * 8);
            assert_eq!(streams.iter().filter(late).count(), 4 * 4);
            // An ordinary program finds a port of the kernel's range all the same.
            let elsewhere = SocketAddr::new(to.ip(), 701);
            let _listener = listen(&peer, elsewhere, None);
            let _theirs = TcpStream::connect(elsewhere).unwrap();
        }
    });
}

/// Ends a connection so that TIME_WAIT is on our side.
fn we_close_first(stream: LeasedStream, mut there: TcpStream) {
    drop(stream);
    assert_eq!(there.read(&mut [0]).unwrap(), 0);
}

#[test]
fn time_wait_is_used_again_over_the_cable() {
    with_cables("time_wait_is_used_again_over_the_cable", || {
        let peer = two_hosts();
        let to = at("10.9.0.100:700");
        let listener = listen(&peer, to, None);
        let one = |port: u16, mode| {
            let sources = format!("10.9.0.2:{port}");
            Pool::builder().sources(sources).bind_mode(mode).build().unwrap()
        };
        // Explicit: at once, for both ends have timestamps.
        let pool = one(5000, ModeChoice::Explicit);
        for _ in 0..100 {
            let stream = pool.connect(to).unwrap();
            let there = accepted(&listener, &stream);
            we_close_first(stream, there);
        }
        // Late: `tcp_tw_reuse` is for loopback alone if it is 2, so the whole minute passes; and
        // one second if it is 1.
        for (tw_reuse, port, at_least, at_most) in
            [("2", 40_000, 50_000, 66_000), ("0", 40_001, 50_000, 66_000), ("1", 40_002, 1, 1_100)]
        {
            sysctl("net.ipv4.tcp_tw_reuse", tw_reuse);
            let pool = one(port, ModeChoice::Late);
            let stream = pool.connect(to).unwrap();
            let there = accepted(&listener, &stream);
            we_close_first(stream, there);
            match pool.connect(to) {
                Err(Error::Exhausted(counts)) => {
                    let next_ms = counts.next_free_ms.unwrap();
                    assert!((at_least..=at_most).contains(&next_ms), "{tw_reuse}: {counts}");
                }
                other => panic!("tcp_tw_reuse {tw_reuse}: {other:?}"),
            }
            if tw_reuse == "1" {
                let stream = patiently(|| pool.connect(to).ok());
                accepted(&listener, &stream);
            }
        }
    });
}

/// Tries until it works: what it takes is the kernel's affair, such as an address that is still
/// looked for elsewhere.
#[track_caller]
fn patiently<T>(attempt: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The index of an interface here.
fn index_of(device: &str) -> u32 {
    let name = std::ffi::CString::new(device).unwrap();
    // SAFETY: a string that ends with a zero byte, and is only read.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

#[test]
fn a_link_local_source_dials_on_its_own_cable() {
    with_cables("a_link_local_source_dials_on_its_own_cable", || {
        let peer = two_hosts();
        peer.cable("veth1");
        for (number, device) in [(0, "veth0"), (1, "veth1")] {
            ip(&format!("address add fe80::2/64 dev {device} nodad"));
            ip(&format!("address add fd00:{number}::2/64 dev {device} nodad"));
            peer.ip(&format!("address add fe80::100/64 dev {device}p nodad"));
        }
        let (first, second) = (index_of("veth0"), index_of("veth1"));
        // By name and by index; the port is in the kernel's range for one, not for the other.
        sysctl("net.ipv4.ip_local_port_range", "40000 40003");
        let sources = format!("[fe80::2%veth0]:5000-5001, [fe80::2%{second}]:40000-40003");
        let pool = Pool::builder().sources(&sources).build().unwrap();
        let listeners =
            ["veth0p", "veth1p"].map(|device| listen(&peer, at("[::]:700"), Some(device)));
        for (scope, listener, count) in [(first, &listeners[0], 2), (second, &listeners[1], 4)] {
            let to = at(&format!("[fe80::100%{scope}]:700"));
            let census = pool.census_of(Protocol::Tcp, to).unwrap();
            assert_eq!((census.free, census.excluded), (count, 6 - count));
            let mut streams = Vec::new();
            let counts = loop {
                match pool.connect(to) {
                    Ok(stream) => streams.push((accepted(listener, &stream), stream)),
                    Err(Error::Exhausted(counts)) => break counts,
                    Err(other) => panic!("{other}"),
                }
            };
            assert_eq!((counts.leased, counts.excluded), (count, 6 - count));
            let on_its_own = |(_, stream): &(_, LeasedStream)| match stream.four_tuple().source {
                SocketAddr::V6(source) => source.scope_id() == scope,
                SocketAddr::V4(_) => false,
            };
            assert!(streams.iter().all(on_its_own));
            let udp = pool.connect_udp(to).unwrap();
            assert!(
                matches!(udp.four_tuple().source, SocketAddr::V6(v6) if v6.scope_id() == scope)
            );
            // The only link-local source that reaches it is the one that is asked for.
            let from = pool.acquire_from("fe80::2".parse().unwrap(), Protocol::Udp, to).unwrap();
            assert!(matches!(from.source(), SocketAddr::V6(v6) if v6.scope_id() == scope));
        }
        for to in ["[fe80::100%77]:700", "[fd00:9::100]:700"] {
            let error = pool.connect(at(to)).unwrap_err();
            assert!(matches!(error, Error::NoSource { .. }), "{to}: {error}");
        }
        let error = pool.connect(at("[fe80::100]:700")).unwrap_err();
        assert!(error.to_string().contains("takes its interface"), "{error}");
        // A global source serves link-local destinations too, as far as its routes lead.
        let global = Pool::builder().sources("[fd00:9::2]:5000").build().unwrap();
        let to = at(&format!("[fe80::100%{first}]:700"));
        peer.ip("route add fd00:9::2/128 dev veth0p");
        accepted(&listeners[0], &global.connect(to).unwrap());
    });
}

#[test]
fn each_source_leaves_by_its_own_interface() {
    with_cables("each_source_leaves_by_its_own_interface", || {
        let peer = two_hosts();
        peer.cable("veth1");
        ip("address add 10.9.1.2/24 dev veth1");
        peer.ip("address add 10.9.1.100/24 dev veth1p");
        // A destination behind both cables; the first is preferred.
        peer.ip("address add 10.7.7.7/32 dev lo");
        ip("route add 10.7.7.7 via 10.9.0.100 dev veth0 metric 1");
        ip("route add 10.7.7.7 via 10.9.1.100 dev veth1 metric 2");
        // What comes by the other cable than the answer would take is no forgery here.
        for (here, device) in [("all", "veth0"), ("default", "veth1")] {
            sysctl(&format!("net.ipv4.conf.{here}.rp_filter"), "0");
            sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
        }
        let to = at("10.7.7.7:700");
        let first = listen(&peer, to, Some("veth0p"));
        let second = listen(&peer, to, Some("veth1p"));
        for mode in [ModeChoice::Explicit, ModeChoice::Late] {
            let builder = Pool::builder().sources("10.9.0.2, 10.9.1.2").bind_mode(mode);
            let own = |device: &str| SourceOptions::new().device(device);
            let pool = builder
                .clone()
                .options_of([10, 9, 0, 2].into(), own("veth0"))
                .options_of([10, 9, 1, 2].into(), own("veth1"))
                .build()
                .unwrap();
            let from = |pool: &Pool, source: [u8; 4]| {
                let options = portlease::ConnectOptions::new().source(source.into());
                pool.connect_with(to, &options).unwrap()
            };
            accepted(&first, &from(&pool, [10, 9, 0, 2]));
            accepted(&second, &from(&pool, [10, 9, 1, 2]));
            // Without the option the route decides, whatever the source.
            accepted(&first, &from(&builder.build().unwrap(), [10, 9, 1, 2]));
        }
    });
}

#[test]
fn a_source_may_be_somebody_elses_address() {
    with_cables("a_source_may_be_somebody_elses_address", || {
        let peer = two_hosts();
        // Answers to these come here, and are taken in, though the addresses are nobody's.
        peer.ip("route add 10.8.8.0/24 via 10.9.0.2");
        peer.ip("-6 route add fd00:8::/64 via fd00:9::2");
        for family in ["", "-6 "] {
            ip(&format!("{family}rule add iif veth0 lookup 100"));
        }
        ip("route add local 10.8.8.0/24 dev lo table 100");
        ip("-6 route add local fd00:8::/64 dev lo table 100");
        sysctl("net.ipv4.ip_local_port_range", "40000 40003");
        let ports = PortRange::new(39_998, 40_001).unwrap();
        for (sources, to) in [("10.8.8.8", "10.9.0.100:700"), ("fd00:8::8", "[fd00:9::100]:700")] {
            let to = at(to);
            let listener = listen(&peer, to, None);
            let builder = Pool::builder().sources(sources).ports(ports);
            let error = builder.clone().build().unwrap_err();
            assert!(error.to_string().contains("no address of this host"), "{error}");
            let pool = builder.options(SourceOptions::new().transparent()).build().unwrap();
            assert_eq!(use_up(&pool, &listener, to).len(), 4);
            let there = peer.run(move || UdpSocket::bind(to).unwrap());
            let udp = pool.connect_udp(to).unwrap();
            udp.get_ref().send(b"x").unwrap();
            let (_, from) = there.recv_from(&mut [0; 9]).unwrap();
            assert_eq!(from, udp.four_tuple().source);
            there.send_to(b"y", from).unwrap();
            assert_eq!(udp.get_ref().recv(&mut [0; 9]).unwrap(), 1);
        }
    });
}

#[test]
fn a_source_may_come_and_go() {
    with_cables("a_source_may_come_and_go", || {
        let peer = two_hosts();
        let to = at("10.9.0.100:700");
        let listener = listen(&peer, to, None);
        let builder = |sources: &str| {
            let options = SourceOptions::new().freebind();
            Pool::builder().sources(sources).bind_mode(ModeChoice::Explicit).options(options)
        };
        let only = builder("10.9.0.9:5000-5003").build().unwrap();
        let both = builder("10.9.0.9:5000-5003, 10.9.0.2:5000").build().unwrap();
        // While it is not there the other one serves, and alone it is no "exhausted".
        let held = both.connect(to).unwrap();
        assert_eq!(held.four_tuple().source, at("10.9.0.2:5000"));
        accepted(&listener, &held);
        assert!(matches!(both.connect(to), Err(Error::Exhausted(counts)) if counts.leased == 1));
        for _ in 0..2 {
            let error = only.connect(to).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
            assert!(error.to_string().contains("10.9.0.9:500"), "{error}");
        }
        ip("address add 10.9.0.9/24 dev veth0");
        for pool in [&only, &both] {
            let stream = patiently(|| pool.connect(to).ok());
            assert_eq!(stream.four_tuple().source.ip(), at("10.9.0.9:0").ip());
            accepted(&listener, &stream);
        }
        // An address that goes without such an option.
        let plain = Pool::builder().sources("10.9.0.5:5000-5003").build().unwrap();
        ip("address del 10.9.0.5/24 dev veth0");
        let error = plain.connect(to).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL), "{error}");
        assert!(error.to_string().contains("add it to an interface"), "{error}");
    });
}
