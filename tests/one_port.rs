//! One source port and many destinations.

mod common;

use common::in_namespace;
use portlease::{Error, ModeChoice, Pool, Protocol};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};

const DESTINATIONS: u16 = 10_000;

/// Lets this process have descriptors for all connections; whether it may.
fn may_have_descriptors() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit, and this process is the test's own.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    limit.rlim_max > u64::from(DESTINATIONS) + 100
}

/// Connections to any of its addresses queue up here; nobody accepts them.
fn listen(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
    socket.listen(4096).unwrap();
    socket
}

#[test]
fn one_port_is_connected_to_ten_thousand_destinations() {
    in_namespace("one_port_is_connected_to_ten_thousand_destinations", || {
        if !may_have_descriptors() {
            println!("SKIP: fewer than {DESTINATIONS} descriptors for a process (ulimit -n)");
            return;
        }
        let to = |number: u16| {
            let [high, low] = number.to_be_bytes();
            SocketAddr::from(([127, 1, high, low], 700 + number % 4))
        };
        for (source, mode) in
            [("127.0.0.2:5000", ModeChoice::Explicit), ("127.0.0.2:40000", ModeChoice::Late)]
        {
            let _listeners = [700, 701, 702, 703].map(listen);
            let pool = Pool::builder().sources(source).bind_mode(mode).build().unwrap();
            let mut took = Vec::new();
            let connect = |number| {
                let begin = std::time::Instant::now();
                let stream = pool.connect(to(number)).unwrap();
                took.push(begin.elapsed());
                stream
            };
            let streams: Vec<_> = (0..DESTINATIONS).map(connect).collect();
            let [first, last] = [0, took.len() - 1000].map(|from| {
                let thousand = &mut took[from..from + 1000];
                thousand.sort_unstable();
                thousand[500]
            });
            println!("measured: {mode:?}: {first:?} in the first thousand, {last:?} in the last");
            let source: SocketAddr = source.parse().unwrap();
            for (number, stream) in (0..).zip(&streams) {
                assert_eq!(stream.get_ref().local_addr().unwrap(), source);
                assert_eq!(stream.get_ref().peer_addr().unwrap(), to(number));
            }
            let Err(Error::Exhausted(counts)) = pool.acquire(Protocol::Tcp, to(0)) else {
                panic!("the port has a connection to {}", to(0));
            };
            assert_eq!((counts.leased, counts.excluded), (1, 0));
            // Reset: ten thousand in TIME_WAIT are no use to anyone.
            for stream in streams {
                socket2::SockRef::from(stream.get_ref())
                    .set_linger(Some(std::time::Duration::ZERO))
                    .unwrap();
            }
        }
    });
}
