//! Sockets from elsewhere in a territory that is shared: their blocks are claimed, or named.

#[allow(dead_code)] // Other tests start processes.
#[path = "common/crew.rs"]
mod crew;
#[allow(dead_code)] // Other tests change the builder.
#[path = "common/ground.rs"]
mod ground;

use crew::Folder;
use ground::{CAPACITY, PATIENCE, all, at, shared, sources};
use portlease::{Error, Protocol};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// A UDP socket whose four-tuple is no pool's yet.
fn datagrams(source: Ipv4Addr, port: u16, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, port)).unwrap();
    socket.connect(to).unwrap();
    socket
}

#[test]
fn what_is_adopted_or_imported_claims_its_block_or_names_it() {
    let folder = Folder::new("adopt");
    let to = at("127.0.0.1:80");
    let source = sources(&folder.file())[0];
    let [inherited, beside, apart] =
        [20_040, 20_095, 20_096].map(|port| datagrams(source, port, to));
    let (one, two) = (shared(&folder.file()), shared(&folder.file()));
    let adopted = one.adopt_udp(inherited).unwrap();
    assert_eq!(one.blocks_held().unwrap(), Some(1));
    let error = two.adopt_udp(beside.try_clone().unwrap()).unwrap_err();
    assert!(matches!(error, Error::HeldElsewhere { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("ports 20032-20095"), "{text}");
    assert!(text.contains(&folder.file()), "{text}");
    // Each learns what is in its own blocks or in nobody's.
    assert_eq!(two.import().unwrap(), 1);
    assert_eq!(two.blocks_held().unwrap(), Some(1));
    assert_eq!(one.import().unwrap(), 1);
    assert_eq!(two.adopt_udp(apart).unwrap().four_tuple().source.port(), 20_096);
    assert_eq!(one.adopt_udp(beside).unwrap().four_tuple().source.port(), 20_095);
    drop(adopted);
    assert_eq!(all(&one, to).len() + all(&two, to).len(), CAPACITY);
}

#[test]
fn a_four_tuple_that_is_asked_for_claims_its_block_or_names_it() {
    let folder = Folder::new("exactly");
    let to = at("127.0.0.1:80");
    let source = SocketAddr::from((sources(&folder.file())[0], 20_040));
    let (one, two) = (shared(&folder.file()), shared(&folder.file()));
    let lease = one.acquire_exactly(source, Protocol::Tcp, to).unwrap();
    assert_eq!((lease.source(), one.blocks_held().unwrap()), (source, Some(1)));
    let again = one.acquire_exactly(source, Protocol::Tcp, to).unwrap_err();
    assert!(matches!(again, Error::Taken { .. }), "{again}");
    let elsewhere = two.acquire_exactly(source, Protocol::Tcp, to).unwrap_err();
    assert!(matches!(elsewhere, Error::HeldElsewhere { .. }), "{elsewhere}");
}

#[test]
fn a_block_of_what_was_imported_and_is_gone_goes_to_who_starves() {
    let folder = Folder::new("gone");
    let to = at("127.0.0.1:80");
    let strangers = datagrams(sources(&folder.file())[0], 20_040, to);
    let (rich, poor) = (shared(&folder.file()), shared(&folder.file()));
    assert_eq!(rich.import().unwrap(), 1);
    let mut leases = all(&poor, to);
    assert_eq!(leases.len(), CAPACITY - 64);
    rich.maintain().unwrap();
    assert_eq!(rich.blocks_held().unwrap(), Some(1));
    drop(strangers);
    let end = Instant::now() + PATIENCE;
    while leases.len() < CAPACITY {
        assert!(Instant::now() < end, "what is gone is kept");
        leases.extend(poor.acquire(Protocol::Tcp, to));
        thread::sleep(Duration::from_millis(1));
        rich.maintain().unwrap();
    }
}
