//! What the filter costs that a leased UDP socket keeps: a datagram sent and received over
//! loopback with it and without, in turns of one process.
//!
//!     cargo bench -p portlease-benches --bench udp_filter [-- --write]

use portlease::{ModeChoice, Pool};
use portlease_benches::measure::median;
use portlease_benches::report::{Figure, Table, write_readme};
use std::io;
use std::net::UdpSocket;
use std::time::Instant;

const ROUNDS: usize = 301;
const DATAGRAMS: u32 = 2_000;

/// Nanoseconds to send a datagram to `to` and to take it out there. On loopback the sender runs
/// the filter.
fn datagram_ns(from: &UdpSocket, to: &UdpSocket) -> io::Result<f64> {
    let mut buffer = [0; 64];
    let start = Instant::now();
    for _ in 0..DATAGRAMS {
        from.send(&buffer)?;
        to.recv(&mut buffer)?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(DATAGRAMS))
}

fn main() -> io::Result<()> {
    let mut table = Table::new(&format!(
        "A datagram of 64 bytes, sent and received: nanoseconds, median of {ROUNDS} rounds in turns"
    ));
    for (family, host, source) in
        [("IPv4", "127.0.0.1:0", "127.0.0.2:20000-29999"), ("IPv6", "[::1]:0", "[::1]:20000-29999")]
    {
        let pool = Pool::builder().sources(source).bind_mode(ModeChoice::Explicit).build()?;
        // A peer for each: it sends to the one socket that it is connected to.
        let (with_peer, without_peer) = (UdpSocket::bind(host)?, UdpSocket::bind(host)?);
        let with = pool.connect_udp(with_peer.local_addr()?)?;
        with_peer.connect(with.get_ref().local_addr()?)?;
        let without = UdpSocket::bind(host)?;
        without.connect(without_peer.local_addr()?)?;
        without_peer.connect(without.local_addr()?)?;
        let mut figures = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let plain = datagram_ns(&without_peer, &without)?;
            let filtered = datagram_ns(&with_peer, with.get_ref())?;
            for (all, one) in figures.iter_mut().zip([plain, filtered, filtered - plain]) {
                all.push(one);
            }
        }
        let names = ["a connected socket", "the same of a pool", "more in the same round"];
        for (name, mut all) in names.into_iter().zip(figures) {
            table.set(name, family, Figure::plain(median(&mut all)));
        }
    }
    print!("{}", table.markdown());
    if std::env::args().any(|argument| argument == "--write") {
        write_readme("udp_filter", &table.markdown())?;
    }
    Ok(())
}
