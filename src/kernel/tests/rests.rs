//! Rests against what the kernel does: who closed first x bind mode x timestamps x `tcp_tw_reuse`.

use super::*;
use crate::kernel::verdict::verdict;
use crate::ledger::{Destination, FourTuple};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Instant;

/// A four-tuple whose connection has ended.
struct Ended {
    source: SocketAddr,
    to: SocketAddr,
    mode: BindMode,
    rest_ms: u64,
    row: String,
}

impl Ended {
    /// What the kernel says to a new connection, which leaves nothing behind.
    fn again(&self, listener: &TcpListener) -> io::Result<()> {
        let fd = dial(self.source, self.to, self.mode)?;
        drop(listener.accept()?);
        SockRef::from(&fd).set_linger(Some(Duration::ZERO))
    }

    fn is_refused(&self, listener: &TcpListener) {
        assert_eq!(kind(self.again(listener)), io::ErrorKind::AddrNotAvailable, "{}", self.row);
    }

    fn is_accepted(&self, listener: &TcpListener) {
        self.again(listener).unwrap_or_else(|error| panic!("{}: {error}", self.row));
    }
}

#[derive(Clone, Copy, Debug)]
enum First {
    Us,
    /// Both ends are shut down while we hold the descriptor: TIME_WAIT is there before `close`.
    UsByShutdown,
    Peer,
    PeerThenWeShutDown,
    PeerResets,
    WeReset,
    /// We close with data unread, which resets.
    WeUnread,
}

/// Connects, and closes in the given order; gives who closed first, as the kernel tells it.
fn live_and_end(source: SocketAddr, listener: &TcpListener, mode: BindMode, first: First) -> Tcp {
    let ours = TcpStream::from(dial(source, listener.local_addr().unwrap(), mode).unwrap());
    let (mut peer, _) = listener.accept().unwrap();
    let destination = Destination::new(Protocol::Tcp, ours.peer_addr().unwrap());
    let ending = || {
        closed_first(ours.as_fd(), &FourTuple { source, destination }, &Finder::default()).unwrap()
    };
    match first {
        First::Us => {
            let tcp = ending();
            drop(ours);
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            tcp
        }
        First::UsByShutdown => {
            ours.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            drop(peer);
            assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
            ending()
        }
        First::PeerThenWeShutDown => {
            drop(peer);
            assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
            ours.shutdown(Shutdown::Write).unwrap();
            ending()
        }
        First::Peer => {
            drop(peer);
            assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
            ending()
        }
        First::WeReset => {
            SockRef::from(&ours).set_linger(Some(Duration::ZERO)).unwrap();
            ending()
        }
        First::WeUnread => {
            peer.write_all(b"unread").unwrap();
            ours.peek(&mut [0]).unwrap();
            ending()
        }
        First::PeerResets => {
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            assert_eq!((&ours).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            ending()
        }
    }
}

/// Set to wait for the end of rests of a minute too.
const MINUTES: &str = "PORTLEASE_MINUTES";

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

#[test]
fn a_four_tuple_rests_as_long_as_the_kernel_refuses_it() {
    if std::env::var_os(MINUTES).is_none() {
        // To the terminal itself: the test harness captures what a test prints.
        let line = format!("SKIP: the end of rests of a minute: set {MINUTES}=1 to wait for it\n");
        io::stderr().write_all(line.as_bytes()).unwrap();
    }
    in_namespace(
        "kernel::tests::rests::a_four_tuple_rests_as_long_as_the_kernel_refuses_it",
        || {
            // Addresses that the kernel does not take for loopback, though they stay on this host.
            for address in ["10.9.0.1/32", "10.9.0.2/32"] {
                let added =
                    Command::new("ip").args(["address", "add", address, "dev", "lo"]).status();
                assert!(added.unwrap().success());
            }
            let hosts = [("127.0.0.2", "127.0.0.1:700"), ("10.9.0.2", "10.9.0.1:700")];
            let hosts = hosts.map(|(from, to)| (from, to, TcpListener::from(listen(at(to)))));
            let mut port = 0;
            let mut rows = 0;
            let mut minutes = Vec::new();
            for timestamps in ["1", "0"] {
                sysctl("net.ipv4.tcp_timestamps", timestamps);
                for tw_reuse in ["0", "1", "2"] {
                    sysctl("net.ipv4.tcp_tw_reuse", tw_reuse);
                    let host = host(ModeChoice::ByPort);
                    for (from, to, listener) in &hosts {
                        let mut resting = Vec::new();
                        let began = Instant::now();
                        for (base, mode) in [(5000, BindMode::Explicit), (40000, BindMode::Late)] {
                            for first in [
                                First::Us,
                                First::UsByShutdown,
                                First::Peer,
                                First::PeerThenWeShutDown,
                                First::PeerResets,
                                First::WeReset,
                                First::WeUnread,
                            ] {
                                port += 1;
                                let source = at(&format!("{from}:{}", base + port));
                                let tcp = live_and_end(source, listener, mode, first);
                                let destination = Destination::new(Protocol::Tcp, at(to));
                                let rest_ms = host.rest_ms(source, &destination, tcp, 0);
                                let row = format!(
                                    "{mode:?}, first {first:?}, timestamps {timestamps}, tcp_tw_reuse \
                                 {tw_reuse}, {from}: {rest_ms} ms"
                                );
                                resting.push(Ended { source, to: at(to), mode, rest_ms, row });
                            }
                        }
                        let ended = Instant::now();
                        rows += resting.len();
                        let (free, resting): (Vec<_>, Vec<_>) =
                            resting.into_iter().partition(|ended| ended.rest_ms == 0);
                        free.iter().for_each(|ended| ended.is_accepted(listener));
                        for ended in &resting {
                            // A test that was held up for as long as the rest has nothing to say.
                            if began.elapsed() < Duration::from_millis(ended.rest_ms) / 2 {
                                ended.is_refused(listener);
                            }
                        }
                        let (brief, long): (Vec<_>, Vec<_>) =
                            resting.into_iter().partition(|ended| ended.rest_ms < 10_000);
                        for brief in brief {
                            sleep_until(ended + Duration::from_millis(brief.rest_ms));
                            brief.is_accepted(listener);
                        }
                        minutes.push((timestamps, tw_reuse, ended, long, listener));
                    }
                }
            }
            assert_eq!(rows, 2 * 3 * 2 * 2 * 7);
            if std::env::var_os(MINUTES).is_none() {
                return;
            }
            // One wait for all of them.
            for (timestamps, tw_reuse, ended, long, listener) in minutes {
                sysctl("net.ipv4.tcp_timestamps", timestamps);
                sysctl("net.ipv4.tcp_tw_reuse", tw_reuse);
                for long in long {
                    sleep_until(ended + Duration::from_millis(long.rest_ms));
                    long.is_accepted(listener);
                }
            }
        },
    );
}

#[test]
fn an_orphan_that_still_has_to_deliver_costs_a_try() {
    in_namespace("kernel::tests::rests::an_orphan_that_still_has_to_deliver_costs_a_try", || {
        let to = at("127.0.0.1:700");
        let listener = listen(to);
        let source = at("127.0.0.2:5000");
        let ours = dial(source, to, BindMode::Explicit).unwrap();
        let (_peer, _) = listener.accept().unwrap();
        // More than the peer takes: our FIN waits behind it, in FIN_WAIT1.
        let socket = SockRef::from(&ours);
        socket.set_nonblocking(true).unwrap();
        while socket.send(&[0; 65536]).is_ok() {}
        drop(ours);
        let error = dial(source, to, BindMode::Explicit).unwrap_err().raw_os_error().unwrap();
        assert_eq!(verdict(Call::Connect, error, BindMode::Explicit), Verdict::RestTuple);
    });
}
