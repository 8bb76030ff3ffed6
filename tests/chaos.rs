//! Sixteen processes lease from one small territory while one after the other is killed with -9, and
//! while the file that keeps them apart is replaced again and again.
//! A witness that knows nothing of ledgers sees each four-tuple open and close: none is ever open
//! twice. Over UDP the kernel itself would allow it, so there the ledger alone is on trial.

mod common;
#[path = "common/crew.rs"]
mod crew;

use common::in_namespace;
use crew::{Folder, Member, part, say};
use portlease::{Error, LeasedStream, LeasedUdpSocket, Pool, Protocol};
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const DYING: &str = "no_four_tuple_is_open_twice_however_processes_die";
const REPLACED: &str = "no_four_tuple_is_open_twice_however_the_file_is_replaced";
/// Twelve blocks of 64 ports on each of two sources.
const SOURCES: &str = "127.0.0.2-127.0.0.3:20032-20799";
const CAPACITY: usize = 2 * 768;
const PROCESSES: usize = 16;
const KILL_EVERY: Duration = Duration::from_millis(120);
/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn to(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Seconds of chaos; `PORTLEASE_FULL=1` makes it two minutes.
fn seconds() -> u64 {
    if std::env::var_os("PORTLEASE_FULL").is_some() { 120 } else { 10 }
}

#[test]
fn no_four_tuple_is_open_twice_however_processes_die() {
    chaos(DYING, kill_and_restart);
}

#[test]
fn no_four_tuple_is_open_twice_however_the_file_is_replaced() {
    chaos(REPLACED, replace_under_them);
}

fn chaos(test: &str, watch: impl FnOnce()) {
    in_namespace(test, || match part() {
        Some(part) => {
            let (life, file) = part.split_once(' ').unwrap();
            churn(life.parse().unwrap(), file, test == REPLACED);
        }
        None => watch(),
    });
}

// ---- one of the sixteen -------------------------------------------------------------------------

enum Open {
    Tcp(LeasedStream),
    Udp(LeasedUdpSocket),
}

fn churn(life: u64, file: &str, is_replaced: bool) {
    let pool = match is_replaced {
        true => build_as_soon_as_possible(file),
        false => build(file).unwrap(),
    };
    say("ready");
    let mut numbers = life.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        (numbers >> 11) % below
    };
    let mut open = Vec::new();
    let mut appetite = 30;
    loop {
        if random(100) == 0 {
            appetite = random(150) as usize;
        }
        if open.len() < appetite {
            match open_one(&pool, life, random(3) == 0) {
                Ok(one) => open.push(one),
                Err(Error::Exhausted(_)) => appetite = open.len() / 2,
                // What is open stays so until it is killed: nobody else may have it.
                Err(Error::SharedFile { .. }) if is_replaced => appetite = open.len() / 2,
                Err(error) => panic!("{error}"),
            }
        } else if !open.is_empty() {
            close_one(open.swap_remove(random(open.len() as u64) as usize), life);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn build(file: &str) -> Result<Pool, Error> {
    Pool::builder().sources(SOURCES).shared(file).build()
}

/// Says when it is refused, which it must be as long as others have a former file.
fn build_as_soon_as_possible(file: &str) -> Pool {
    let mut was_refused = false;
    loop {
        match build(file) {
            Ok(pool) => return pool,
            Err(error @ Error::SharedFile { .. }) => {
                let text = error.to_string();
                // Between its own opening of the file and the next look it may be replaced again.
                let known = ["in use through another shared file", "was replaced", "is gone"];
                assert!(known.iter().any(|known| text.contains(known)), "{text}");
                if !std::mem::replace(&mut was_refused, true) {
                    say("refused");
                }
            }
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open_one(pool: &Pool, life: u64, over_tcp: bool) -> Result<Open, Error> {
    if over_tcp {
        let mut stream = pool.connect(to(700))?;
        stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&life.to_ne_bytes()).unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(u64::from_ne_bytes(answer), life, "somebody else's answer");
        return Ok(Open::Tcp(stream));
    }
    let socket = pool.connect_udp(to(700))?;
    socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    tell(socket.get_ref(), b'+', life);
    Ok(Open::Udp(socket))
}

fn close_one(one: Open, life: u64) {
    match one {
        Open::Tcp(stream) => drop(stream),
        Open::Udp(socket) => tell(socket.get_ref(), b'-', life),
    }
}

/// Tells the witness, and waits until it has heard.
fn tell(socket: &UdpSocket, what: u8, life: u64) {
    let mut message = [what; 9];
    message[1..].copy_from_slice(&life.to_ne_bytes());
    socket.send(&message).unwrap();
    let mut answer = [0; 9];
    // A machine that was paused interrupts a wait that has an end (signal(7)).
    let read = loop {
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.unwrap(),
        }
    };
    assert_eq!((read, answer), (9, message), "somebody else's answer");
}

// ---- the witness --------------------------------------------------------------------------------

struct Witness {
    listener: TcpListener,
    udp: UdpSocket,
    /// Who has which four-tuple open over UDP; the other end of each is ours.
    udp_open: HashMap<SocketAddr, u64>,
    tcp_open: HashMap<SocketAddr, TcpStream>,
    /// Processes that were killed.
    dead: HashSet<u64>,
    opened: u64,
    opened_twice: Vec<String>,
}

impl Witness {
    fn new() -> Self {
        let listener = TcpListener::bind(to(700)).unwrap();
        let udp = UdpSocket::bind(to(700)).unwrap();
        listener.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self {
            listener,
            udp,
            udp_open: HashMap::new(),
            tcp_open: HashMap::new(),
            dead: HashSet::new(),
            opened: 0,
            opened_twice: Vec::new(),
        }
    }

    fn look_until(&mut self, end: Instant) {
        while Instant::now() < end {
            self.wait(end);
            self.look();
        }
    }

    fn wait(&self, end: Instant) {
        let raw = [self.listener.as_raw_fd(), self.udp.as_raw_fd()];
        let streams = self.tcp_open.values().map(AsRawFd::as_raw_fd);
        let mut all: Vec<_> = raw
            .into_iter()
            .chain(streams)
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        let left_ms = end.saturating_duration_since(Instant::now()).as_millis() as i32 + 1;
        // SAFETY: as many entries as there are, which live as long as the call.
        unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, left_ms) };
    }

    fn look(&mut self) {
        let mut message = [0; 9];
        while let Ok((9, from)) = self.udp.recv_from(&mut message) {
            let life = u64::from_ne_bytes(message[1..].try_into().unwrap());
            self.note(message[0], life, from);
            // An answer to the dead would reach whoever has the four-tuple now.
            if !self.dead.contains(&life) {
                self.udp.send_to(&message, from).unwrap();
            }
        }
        self.tcp_open.retain(|_, stream| is_open(stream));
        while let Ok((stream, from)) = self.listener.accept() {
            self.opened += 1;
            stream.set_nonblocking(true).unwrap();
            if let Some(former) = self.tcp_open.insert(from, stream) {
                if is_open(&mut { former }) {
                    self.opened_twice.push(format!("TCP {from}"));
                }
            }
        }
    }

    fn note(&mut self, what: u8, life: u64, from: SocketAddr) {
        if what == b'-' {
            if self.udp_open.remove(&from) != Some(life) {
                self.opened_twice.push(format!("UDP {from} was not {life}'s to close"));
            }
            return;
        }
        self.opened += 1;
        if let Some(holder) = self.udp_open.insert(from, life) {
            if !self.dead.contains(&holder) {
                self.opened_twice.push(format!("UDP {from} by {holder} and {life}"));
            }
        }
    }
}

/// Whether the peer has neither closed nor reset the connection; what it says is answered.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut message = [0; 8];
    match stream.read(&mut message) {
        Ok(0) => false,
        Ok(_) => stream.write_all(&message).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn bear(test: &str, life: u64, folder: &Folder) -> (u64, Member) {
    (life, Member::start(test, &format!("{life} {}", folder.file())))
}

fn kill_and_restart() {
    let folder = Folder::new("chaos");
    let mut witness = Witness::new();
    let mut lives = 0;
    let mut bear = || {
        lives += 1;
        let (life, mut member) = bear(DYING, lives, &folder);
        member.wait_for("ready");
        (life, member)
    };
    let mut living: Vec<_> = (0..PROCESSES).map(|_| bear()).collect();
    let end = Instant::now() + Duration::from_secs(seconds());
    let mut turn = 0;
    while Instant::now() < end || turn <= PROCESSES {
        witness.look_until(Instant::now() + KILL_EVERY);
        witness.kill(&mut living[turn % PROCESSES]);
        living[turn % PROCESSES] = bear();
        turn += 1;
    }
    witness.end(living);
    println!(
        "measured: {} four-tuples opened by {lives} lives of {PROCESSES} processes, {turn} killed",
        witness.opened
    );
    assert!(witness.opened > 1_000, "the chaos was none");
    all_are_free(&folder);
}

/// The file is replaced in one way after the other while old and new processes churn; then the old
/// ones are killed one by one, and only when the last of them is dead may a new one lease.
fn replace_under_them() {
    let folder = Folder::new("replaced");
    let file = folder.file();
    let mut witness = Witness::new();
    let mut lives = 0;
    let mut bear = || {
        lives += 1;
        bear(REPLACED, lives, &folder)
    };
    let mut living: Vec<_> = (0..PROCESSES).map(|_| bear()).collect();
    living.iter_mut().for_each(|(_, member)| drop(member.wait_for("ready")));
    let end = Instant::now() + Duration::from_secs(seconds());
    let mut replaced = 0;
    while Instant::now() < end || replaced < 3 {
        witness.look_until(Instant::now() + 4 * KILL_EVERY);
        if replaced % 2 == 0 {
            std::fs::write(file.clone() + ".new", "").unwrap();
            std::fs::rename(file.clone() + ".new", &file).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        replaced += 1;
        let mut new = Vec::new();
        let (last, others) = living.split_last_mut().unwrap();
        for old in others {
            new.push(bear());
            witness.look_until(Instant::now() + KILL_EVERY / 4);
            witness.kill(old);
        }
        new.push(bear());
        // While there is an old one, however long a new one takes to begin.
        new.iter_mut().for_each(|(_, member)| drop(member.wait_for("refused")));
        witness.look_until(Instant::now() + KILL_EVERY / 4);
        witness.kill(last);
        living = new;
        living.iter_mut().for_each(|(_, member)| drop(member.wait_for("ready")));
    }
    witness.look_until(Instant::now() + KILL_EVERY);
    witness.end(living);
    println!(
        "measured: {} four-tuples opened by {lives} lives while the file was replaced {replaced} \
         times, every new process refused until the last old one was dead",
        witness.opened
    );
    assert!(witness.opened > 1_000, "the chaos was none");
    all_are_free(&folder);
}

impl Witness {
    fn kill(&mut self, (life, member): &mut (u64, Member)) {
        assert!(!member.has_ended(), "process {life} has ended by itself");
        // Noted first: whoever gets a port of the dead may tell at once.
        self.dead.insert(*life);
        member.kill();
    }

    fn end(&mut self, mut living: Vec<(u64, Member)>) {
        for (life, member) in &mut living {
            assert!(!member.has_ended(), "process {life} has ended by itself");
        }
        drop(living);
        self.look();
        assert_eq!(self.opened_twice, Vec::<String>::new());
    }
}

fn all_are_free(folder: &Folder) {
    let pool = build(&folder.file()).unwrap();
    let leases: Vec<_> = (0..CAPACITY)
        .map(|_| pool.acquire(Protocol::Udp, to(701)).expect("all blocks are free again"))
        .collect();
    assert_eq!(leases.len(), CAPACITY);
}
