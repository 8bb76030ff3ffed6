//! Real connections in a network namespace of their own: what a named port saves.
//! `cargo bench -p portlease-benches --bench connect`, about half a minute.
//!
//! Three tables: connect at rising occupancy, churn with either side closing first, and a host
//! where half of the connections are somebody else's. Not under criterion: a range that fills
//! up is no state to return to a thousand times.

use portlease::Pool;
use portlease_benches::dial::{ByHand, Dialer, Mode};
use portlease_benches::measure::median;
use portlease_benches::namespace;
use portlease_benches::report::{Figure, Table, write_readme};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

/// The kernel's range in the namespace: small, so that one process can fill it.
const INSIDE: RangeInclusive<u16> = 32_768..=40_767;
/// As many ports that the kernel never chooses by itself.
const OUTSIDE: RangeInclusive<u16> = 20_000..=27_999;
const PORTS: usize = 8_000;
const SOURCE: Ipv4Addr = Ipv4Addr::LOCALHOST;

const WAYS: [(&str, Mode, RangeInclusive<u16>); 4] = [
    ("the kernel's choice", Mode::Kernel, INSIDE),
    ("`IP_BIND_ADDRESS_NO_PORT`", Mode::NoPort, INSIDE),
    ("explicit, by hand", Mode::Explicit, OUTSIDE),
    ("late, by hand", Mode::Late, INSIDE),
];

/// portlease binds as the port asks for.
const POOLS: [(&str, RangeInclusive<u16>); 2] =
    [("portlease, inside the kernel's range", INSIDE), ("portlease, outside", OUTSIDE)];

fn main() -> io::Result<()> {
    // `cargo test --benches` runs every bench with this option, to see that it starts.
    let quick = std::env::args().any(|argument| argument == "--test");
    if let Err(error) = namespace::enter() {
        println!("SKIP: no user and network namespace of our own here: {error}");
        return Ok(());
    }
    let (first, last) = (INSIDE.start(), INSIDE.end());
    namespace::set("ipv4/ip_local_port_range", &format!("{first} {last}"))?;
    namespace::set("core/somaxconn", "65535")?;
    let first = occupancy(if quick { 5 } else { 200 })?;
    let slice = Duration::from_millis(if quick { 50 } else { 1000 });
    let tables = [first, churn(slice)?, mixed_host()?];
    let tables: String = tables.iter().map(Table::markdown).collect();
    println!("{tables}");
    if std::env::args().any(|argument| argument == "--write") {
        write_readme("connect", &tables)?;
    }
    Ok(())
}

fn pool(ports: &RangeInclusive<u16>) -> io::Result<Pool> {
    let text = format!("{SOURCE}:{}-{}", ports.start(), ports.end());
    Ok(Pool::builder().sources(text).build()?)
}

/// Each listener has a port of its own, so that nothing of one measurement is in the way of
/// the next.
fn listener(port: u16) -> io::Result<(Socket, SocketAddrV4)> {
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&to.into())?;
    socket.listen(65_535)?;
    Ok((socket, to))
}

/// Microseconds to open a connection while a share of the range is taken. The listener never
/// accepts: its queue holds the other ends without descriptors.
fn occupancy(samples: usize) -> io::Result<Table> {
    let mut table = Table::new(&format!(
        "Socket, options, bind and connect: microseconds, median of {samples}, with so much of \
         {PORTS} ports taken towards one destination"
    ));
    for (number, (name, mode, ports)) in (900..).zip(WAYS) {
        let (_listener, to) = listener(number)?;
        fill_and_time(&mut table, name, ByHand::new(mode, SOURCE, ports), to, samples)?;
    }
    for (number, (name, ports)) in (905..).zip(POOLS) {
        let (_listener, to) = listener(number)?;
        fill_and_time(&mut table, name, pool(&ports)?, to, samples)?;
    }
    Ok(table)
}

fn fill_and_time<D: Dialer>(
    table: &mut Table,
    name: &str,
    mut dialer: D,
    to: SocketAddrV4,
    samples: usize,
) -> io::Result<()> {
    let mut open = Vec::with_capacity(PORTS);
    for percent in [10.0, 49.0, 60.0, 99.0, 99.9] {
        let target = (PORTS as f64 * percent / 100.0) as usize;
        while open.len() < target {
            open.push(dialer.dial(to)?);
        }
        let mut took = Vec::with_capacity(samples);
        for _ in 0..samples {
            let start = Instant::now();
            let connection = dialer.dial(to)?;
            took.push(start.elapsed().as_secs_f64() * 1e6);
            dialer.abort(connection);
        }
        table.set(name, &format!("{percent} %"), Figure::plain(median(&mut took)));
    }
    open.into_iter().for_each(|connection| dialer.abort(connection));
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum ClosesFirst {
    Peer,
    Us,
}

/// Connections a second over a thousand ports, each closed as soon as it stands.
fn churn(slice: Duration) -> io::Result<Table> {
    const CHURNED: u16 = 1_000;
    let (first, last) = (*INSIDE.start(), INSIDE.start() + CHURNED - 1);
    namespace::set("ipv4/ip_local_port_range", &format!("{first} {last}"))?;
    let mut table = Table::new(&format!(
        "Connections a second to one destination over {CHURNED} ports, closed as soon as they \
         stand (and what failed of them)"
    ));
    let closers =
        [("the peer closes first", ClosesFirst::Peer), ("we close first", ClosesFirst::Us)];
    let mut number = 910;
    for (column, closes_first) in closers {
        let churned = |ports: RangeInclusive<u16>| *ports.start()..=ports.start() + CHURNED - 1;
        let mut tell = |name, (rate, failed_share): (f64, f64)| {
            table.set(name, column, Figure::plain(rate));
            let failed = format!("{column}, % failed");
            table.set(name, &failed, Figure::plain(failed_share * 100.0));
        };
        for (name, mode, ports) in WAYS {
            number += 1;
            let dialer = ByHand::new(mode, SOURCE, churned(ports));
            tell(name, churn_one(dialer, number, closes_first, slice)?);
        }
        for (name, ports) in POOLS {
            number += 1;
            tell(name, churn_one(pool(&churned(ports))?, number, closes_first, slice)?);
        }
    }
    let (first, last) = (INSIDE.start(), INSIDE.end());
    namespace::set("ipv4/ip_local_port_range", &format!("{first} {last}"))?;
    Ok(table)
}

fn churn_one<D: Dialer>(
    mut dialer: D,
    port: u16,
    closes_first: ClosesFirst,
    slice: Duration,
) -> io::Result<(f64, f64)> {
    let (listener, to) = listener(port)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            // Ends when the listener is shut down below.
            while let Ok((peer, _)) = listener.accept() {
                if closes_first == ClosesFirst::Us {
                    wait_for_end(&peer);
                }
            }
        });
        let (mut opened, mut failed) = (0_u32, 0_u32);
        let began = Instant::now();
        while began.elapsed() < slice {
            let Ok(connection) = dialer.dial(to) else {
                failed += 1;
                continue;
            };
            if closes_first == ClosesFirst::Peer {
                wait_for_end(&D::socket(&connection));
            }
            dialer.close(connection);
            opened += 1;
        }
        let elapsed = began.elapsed().as_secs_f64();
        listener.shutdown(Shutdown::Both)?;
        Ok((f64::from(opened) / elapsed, f64::from(failed) / f64::from(opened + failed)))
    })
}

/// Reads until the other side has closed.
fn wait_for_end(mut socket: &Socket) {
    while matches!(socket.read(&mut [0; 16]), Ok(1..)) {}
}

/// In turn an ordinary program connects and we do, until nine tenths of the kernel's range
/// would be taken, half of it by each.
fn mixed_host() -> io::Result<Table> {
    let mut table = Table::new(&format!(
        "A host where every second connection is an ordinary program's, to the same \
         destination from the same address, {} of each",
        PORTS * 45 / 100
    ));
    let badly = ("explicit, by hand, inside the kernel's range", Mode::Explicit, INSIDE);
    for (number, (name, mode, ports)) in (930..).zip(WAYS.into_iter().chain([badly])) {
        let (_listener, to) = listener(number)?;
        share_host(&mut table, name, ByHand::new(mode, SOURCE, ports), to)?;
    }
    for (number, (name, ports)) in (940..).zip(POOLS) {
        let (_listener, to) = listener(number)?;
        share_host(&mut table, name, pool(&ports)?, to)?;
    }
    Ok(table)
}

fn share_host<D: Dialer>(
    table: &mut Table,
    name: &str,
    mut ours: D,
    to: SocketAddrV4,
) -> io::Result<()> {
    let mut theirs = ByHand::new(Mode::Kernel, SOURCE, INSIDE);
    let (mut our_side, mut their_side) = (Side::default(), Side::default());
    let (mut our_open, mut their_open) = (Vec::new(), Vec::new());
    for _ in 0..PORTS * 45 / 100 {
        their_open.extend(their_side.dial(&mut theirs, to));
        our_open.extend(our_side.dial(&mut ours, to));
    }
    our_open.into_iter().for_each(|connection| ours.abort(connection));
    their_open.into_iter().for_each(|connection| theirs.abort(connection));
    table.set(name, "ours: mean µs", Figure::plain(our_side.mean()));
    table.set(name, "failed", Figure::plain(f64::from(our_side.failed)));
    if let Some(retries) = ours.retries() {
        table.set(name, "sockets in vain", Figure::plain(retries as f64));
    }
    table.set(name, "theirs: mean µs", Figure::plain(their_side.mean()));
    table.set(name, "theirs failed", Figure::plain(f64::from(their_side.failed)));
    Ok(())
}

#[derive(Default)]
struct Side {
    took: Vec<f64>,
    failed: u32,
}

impl Side {
    fn dial<D: Dialer>(&mut self, dialer: &mut D, to: SocketAddrV4) -> Option<D::Connection> {
        let start = Instant::now();
        let result = dialer.dial(to);
        self.took.push(start.elapsed().as_secs_f64() * 1e6);
        self.failed += u32::from(result.is_err());
        result.ok()
    }

    fn mean(&self) -> f64 {
        self.took.iter().sum::<f64>() / self.took.len() as f64
    }
}
