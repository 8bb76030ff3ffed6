//! A process that accepts. Its standard input is the listener, shared with its brothers.

use super::limits::raise_descriptors;
use super::process::die_with;
use super::wire::{self, Event};
use crate::args::TargetArgs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at the queue while connections come: who accepts each one at once makes
/// every dial pay for a wake-up.
const NAP: Duration = Duration::from_millis(1);
/// Between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// How long a peer that churns may hold a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// A non-blocking listener at `address`, on the first port of `ports` that is free.
pub(crate) fn listen(
    address: IpAddr,
    ports: impl Iterator<Item = u16>,
) -> io::Result<(SocketAddr, Socket)> {
    let mut error = io::Error::from(ErrorKind::AddrNotAvailable);
    for port in ports {
        let address = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.bind(&address.into()) {
            Ok(()) => {
                socket.set_nonblocking(true)?;
                // Its connections inherit that.
                socket.set_read_timeout(Some(PATIENCE))?;
                // The kernel takes no more than net.core.somaxconn.
                socket.listen(i32::MAX)?;
                let address = socket.local_addr()?.as_socket().expect("an internet socket");
                return Ok((address, socket));
            }
            Err(other) => error = other,
        }
    }
    Err(error)
}

/// Connections that wait to be accepted by the listener at `address`, as /proc/net/tcp tells:
/// listeners come first there, and what a listener has received are connections.
pub(crate) fn waiting(address: SocketAddr) -> Option<u64> {
    let table = match address {
        SocketAddr::V4(_) => "/proc/thread-self/net/tcp",
        SocketAddr::V6(_) => "/proc/thread-self/net/tcp6",
    };
    let port = format!(":{:04X}", address.port());
    for line in BufReader::new(File::open(table).ok()?).lines().skip(1) {
        let line = line.ok()?;
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state, queues) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        if state != "0A" {
            break;
        }
        if local.ends_with(&port) {
            return u64::from_str_radix(queues.split_once(':')?.1, 16).ok();
        }
    }
    None
}

pub(crate) fn run(args: &TargetArgs) -> ExitCode {
    let serve = || {
        die_with(args.parent)?;
        raise_descriptors()?;
        let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        match args.hold {
            Some(count) => hold(&listener, count, io::stdout().lock()),
            None => close_after_peer(&listener),
        }
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The parent sees that we are gone, and knows what it asked for.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Accepts up to `count` connections and keeps them until it is killed.
fn hold(listener: &TcpListener, count: usize, mut output: impl Write) -> io::Result<()> {
    let mut held = Vec::new();
    let mut told = 0;
    let mut report_at = Instant::now();
    loop {
        let before = held.len();
        while held.len() < count {
            let Some(stream) = accept(listener)? else { break };
            held.push(stream);
        }
        let (full, idle) = (held.len() == count, held.len() == before);
        if told < held.len() && (full || idle || Instant::now() >= report_at) {
            told = held.len();
            wire::send(&mut output, &Event::Held { count: told as u64 })?;
            report_at = Instant::now() + REPORT_EVERY;
        }
        if full {
            loop {
                thread::park();
            }
        }
        nap(listener, idle)?;
    }
}

/// Accepts connections and closes each when its peer has.
fn close_after_peer(listener: &TcpListener) -> io::Result<()> {
    loop {
        let mut idle = true;
        while let Some(mut stream) = accept(listener)? {
            idle = false;
            // A peer that sends, resets or takes too long is closed as well.
            let _ = stream.read(&mut [0; 1]);
        }
        nap(listener, idle)?;
    }
}

/// The next connection, if one waits.
fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            // It was reset while it waited.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets connections gather; if none came during the last nap, until one comes.
fn nap(listener: &TcpListener, idle: bool) -> io::Result<()> {
    if idle {
        let mut sockets = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut sockets, PollTimeout::NONE)?;
    }
    thread::sleep(NAP);
    Ok(())
}
