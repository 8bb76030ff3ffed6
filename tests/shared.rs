//! Promises of pools that share a file: no port of a source has two holders, "exhausted" is exact
//! over all of them, what one does not use or leaves behind another gets, and whatever is wrong
//! with the file is an error.

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/ground.rs"]
mod ground;

use common::in_namespace;
use crew::{Folder, Member, part, say};
use ground::{CAPACITY, PATIENCE, all, at, builder, is_exhausted, shared, sources};
use portlease::{ClosedFirst, Error, Family, Lease, Pool, Protocol};
use socket2::{Domain, Socket, Type};
use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn two_pools_have_all_ports_once() {
    let folder = Folder::new("once");
    let (one, two) = (shared(&folder.file()), shared(&folder.file()));
    let to = at("127.0.0.1:80");
    assert_eq!(one.blocks_held().unwrap(), Some(0));
    let mut leases = Vec::new();
    // In turns, so that both grow.
    loop {
        let taken: Vec<_> =
            [&one, &two].iter().flat_map(|pool| pool.acquire(Protocol::Tcp, to)).collect();
        if taken.is_empty() {
            break;
        }
        leases.extend(taken);
    }
    let sources: HashSet<_> = leases.iter().map(|lease| lease.source()).collect();
    assert_eq!((sources.len(), leases.len()), (CAPACITY, CAPACITY));
    let held = [&one, &two].map(|pool| pool.blocks_held().unwrap().unwrap());
    assert_eq!(held.iter().sum::<u32>(), 8);
    assert!(held.iter().all(|&blocks| blocks > 0), "{held:?}");
    // Another destination has all of its four-tuples, and none beyond.
    let other = at("127.0.0.1:81");
    assert_eq!(all(&one, other).len(), held[0] as usize * 64);
    let census = one.census_of(Protocol::Tcp, to).unwrap();
    assert_eq!(census.capacity, CAPACITY as u64);
    assert_eq!(census.excluded, u64::from(held[1]) * 64);
}

#[test]
fn an_acquire_from_one_source_grows_there() {
    let folder = Folder::new("from");
    let pool = shared(&folder.file());
    let source = sources(&folder.file())[1].into();
    let from = || pool.acquire_from(source, Protocol::Tcp, at("127.0.0.1:80"));
    let leases: Vec<_> = (0..CAPACITY / 2).map(|_| from().unwrap()).collect();
    assert!(leases.iter().all(|lease| lease.source().ip() == source));
    is_exhausted(from());
    let handle = pool.destination(Protocol::Tcp, at("127.0.0.1:81")).unwrap();
    let leases: Vec<_> = (0..CAPACITY).map(|_| handle.acquire().unwrap()).collect();
    assert_eq!(leases.len(), CAPACITY);
    is_exhausted(handle.acquire());
}

#[test]
fn a_port_for_all_destinations_keeps_its_block() {
    let folder = Folder::new("port");
    let (one, two) = (shared(&folder.file()), shared(&folder.file()));
    let port = one.acquire_port(Family::V4).unwrap();
    let to = at("127.0.0.1:80");
    let leases = all(&two, to);
    assert_eq!(leases.len(), CAPACITY - 64);
    // The other starves now, and this one has nothing else to give.
    one.maintain().unwrap();
    assert_eq!(one.blocks_held().unwrap(), Some(1));
    is_exhausted(two.acquire(Protocol::Tcp, to));
    drop(port);
    one.maintain().unwrap();
    assert_eq!(one.blocks_held().unwrap(), Some(0));
    assert_eq!(all(&two, to).len(), 64);
}

#[test]
fn what_is_not_used_goes_to_who_starves() {
    let folder = Folder::new("starve");
    let (rich, poor) = (shared(&folder.file()), shared(&folder.file()));
    let to = at("127.0.0.1:80");
    let mut leases = all(&rich, to);
    is_exhausted(poor.acquire(Protocol::Tcp, to));
    leases.truncate(1);
    let kept = leases[0].source();
    let blocks = rich.blocks_held().unwrap();
    assert_eq!(blocks, Some(8));
    // A dropped lease may rest; what rests is in use.
    let end = Instant::now() + PATIENCE;
    while rich.blocks_held().unwrap() != Some(1) {
        assert!(Instant::now() < end, "{:?}", rich.census_of(Protocol::Tcp, to));
        is_exhausted_or_ok(poor.acquire(Protocol::Tcp, to));
        thread::sleep(Duration::from_millis(10));
        rich.maintain().unwrap();
    }
    let taken = all(&poor, to);
    assert_eq!(taken.len(), CAPACITY - 64);
    let ours =
        |source: &SocketAddr| source.ip() == kept.ip() && source.port() / 64 == kept.port() / 64;
    assert!(!taken.iter().any(|lease| ours(&lease.source())));
}

fn is_exhausted_or_ok(result: Result<Lease<'_>, Error>) {
    match result {
        // Given back untouched: it does not rest.
        Ok(lease) => lease.release(),
        other => is_exhausted(other),
    }
}

#[test]
fn a_file_that_is_replaced_is_an_error_and_grants_nothing() {
    let folder = Folder::new("replaced");
    let pool = shared(&folder.file());
    let to = at("127.0.0.1:80");
    let lease = pool.acquire(Protocol::Tcp, to).unwrap();
    std::fs::rename(folder.file(), folder.file() + ".old").unwrap();
    std::fs::write(folder.file(), "").unwrap();
    let error = pool.maintain().unwrap_err().to_string();
    assert!(error.contains("was replaced by another file"), "{error}");
    let error = pool.acquire(Protocol::Tcp, to).unwrap_err();
    assert!(matches!(error, Error::SharedFile { .. }), "{error}");
    drop(lease);
    std::fs::rename(folder.file() + ".old", folder.file()).unwrap();
    pool.maintain().unwrap();
    assert!(pool.acquire(Protocol::Tcp, to).is_ok());
}

#[test]
fn an_unfit_file_is_an_error_of_build() {
    let folder = Folder::new("unfit");
    std::fs::write(folder.file(), "something else").unwrap();
    for path in [folder.file(), "/dev/null".to_owned(), folder.file() + "/below"] {
        let error = builder(&path).shared(&path).build().unwrap_err();
        assert!(matches!(error, Error::SharedFile { .. }), "{path}: {error}");
    }
}

#[test]
fn a_child_of_fork_claims_its_own() {
    let folder = Folder::new("fork");
    let pool = shared(&folder.file());
    let to = at("127.0.0.1:80");
    let _lease = pool.acquire(Protocol::Tcp, to).unwrap();
    let held = pool.blocks_held().unwrap().unwrap() as usize;
    // SAFETY: the child touches no lock that another thread of this program may hold: the
    // allocator's are made for it, and the pool's are not touched.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: no argument is a pointer.
        unsafe { libc::alarm(20) };
        let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert!(matches!(pool.acquire(Protocol::Tcp, to), Err(Error::Forked)));
            assert!(matches!(pool.maintain(), Err(Error::Forked)));
            assert!(matches!(pool.blocks_held(), Err(Error::Forked)));
            let own = shared(&folder.file());
            assert_eq!(all(&own, to).len(), CAPACITY - held * 64);
        }));
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(well.is_err())) };
    }
    let mut status = -1;
    // SAFETY: `status` lives as long as the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(all(&pool, to).len(), CAPACITY - 1);
}

#[test]
fn acquires_that_claim_and_acquires_that_do_not() {
    let folder = Folder::new("claims");
    let [source, _] = sources(&folder.file());
    let pool = Pool::builder().sources(format!("{source}:1024-65535")).shared(folder.file());
    let pool = pool.build().unwrap();
    let to = at("127.0.0.1:80");
    let (mut leases, mut claims_ns, mut others_ns) = (Vec::new(), Vec::new(), Vec::new());
    let mut held = pool.blocks_held().unwrap();
    loop {
        let begin = Instant::now();
        let Ok(lease) = pool.acquire(Protocol::Tcp, to) else { break };
        let took_ns = begin.elapsed().as_nanos();
        leases.push(lease);
        let before = std::mem::replace(&mut held, pool.blocks_held().unwrap());
        if before == held { others_ns.push(took_ns) } else { claims_ns.push(took_ns) }
    }
    // Somebody may listen on some of the ports.
    assert_eq!(held, Some(1_008));
    let told = [&mut claims_ns, &mut others_ns].map(|all| {
        all.sort_unstable();
        (all.len(), all[all.len() / 2], all[all.len() * 99 / 100])
    });
    println!(
        "measured: number, median and 99 in 100 of acquires in ns: {:?} that claim, {:?} that do not",
        told[0], told[1]
    );
}

#[test]
fn a_source_is_exhausted_though_blocks_of_another_are_drained() {
    let folder = Folder::new("drained");
    let [scattered, full] = sources(&folder.file()).map(IpAddr::from);
    let (rich, poor) = (shared(&folder.file()), shared(&folder.file()));
    let to = at("127.0.0.1:80");
    let _elsewhere = poor.acquire_from(full, Protocol::Tcp, to).unwrap();
    let mut leases = all(&rich, to);
    leases.sort_by_key(Lease::source);
    let mut each = 0..;
    leases.retain(|lease| {
        lease.source().ip() == full || each.next().is_some_and(|each: usize| each % 64 == 0)
    });
    // 196 leases, a quarter more and half a block are 277 ports: two of seven blocks are drained, as
    // soon as it does not count as starving itself.
    let end = Instant::now() + PATIENCE;
    while rich.census_of(Protocol::Tcp, to).unwrap().free != 7 * 64 - 196 - 2 * 63 {
        assert!(Instant::now() < end, "{:?}", rich.census_of(Protocol::Tcp, to));
        is_exhausted(poor.acquire_from(scattered, Protocol::Tcp, to));
        thread::sleep(Duration::from_millis(10));
    }
    is_exhausted(rich.acquire_from(full, Protocol::Tcp, to));
    // And what is drained is there for whoever needs it.
    let from = || rich.acquire_from(scattered, Protocol::Tcp, to);
    leases.extend((0..256 - 4).map(|_| from().unwrap()));
    is_exhausted(from());
}

// ---- several processes --------------------------------------------------------------------------

#[test]
fn a_dead_process_leaves_its_ports_to_the_others() {
    const TEST: &str = "a_dead_process_leaves_its_ports_to_the_others";
    in_namespace(TEST, || {
        let to = at("127.0.0.1:700");
        if let Some(file) = part() {
            let pool = shared(&file);
            // Connected sockets, so that the kernel has something to clear away.
            let streams: Vec<_> = (0..CAPACITY).map(|_| pool.connect(to).unwrap()).collect();
            say("ready");
            thread::sleep(PATIENCE);
            drop(streams);
            return;
        }
        let folder = Folder::new("dead");
        let listener = TcpListener::bind(to).unwrap();
        // Closes at once, so that a dead peer's half is all there is.
        thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.unwrap())));
        let (mut since_kill_us, mut since_death_us) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let mut holder = Member::start(TEST, &folder.file());
            holder.wait_for("ready");
            let pool = shared(&folder.file());
            let other = at("127.0.0.1:701");
            is_exhausted(pool.acquire(Protocol::Tcp, other));
            let killed = Instant::now();
            holder.kill();
            let mut dead = None;
            while let Err(error) = pool.acquire(Protocol::Tcp, other) {
                assert!(matches!(error, Error::Exhausted(_)), "{error}");
                assert!(dead.is_none(), "a dead process still holds its ports");
                dead = holder.has_ended().then(Instant::now);
            }
            since_kill_us.push(killed.elapsed().as_micros());
            since_death_us.push(dead.map_or(0, |dead| dead.elapsed().as_micros()));
            assert_eq!(all(&pool, other).len(), CAPACITY);
            // What its sockets left behind is met by verdict.
            pool.connect(to).unwrap();
        }
        println!(
            "measured: ports of a process with {CAPACITY} connections free {since_kill_us:?} us \
             after kill -9, {since_death_us:?} us after its death was seen"
        );
    });
}

#[test]
fn a_process_that_calls_hands_over_what_it_does_not_use() {
    const TEST: &str = "a_process_that_calls_hands_over_what_it_does_not_use";
    if let Some(file) = part() {
        let pool = shared(&file);
        let to = at("127.0.0.1:80");
        let leases = all(&pool, to);
        leases.into_iter().for_each(Lease::release);
        say("ready");
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            pool.census_of(Protocol::Tcp, to).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        return;
    }
    let mut delays_us = Vec::new();
    for _ in 0..10 {
        let folder = Folder::new("hand-over");
        let mut rich = Member::start(TEST, &folder.file());
        rich.wait_for("ready");
        let poor = shared(&folder.file());
        let begin = Instant::now();
        while let Err(error) = poor.acquire(Protocol::Tcp, at("127.0.0.1:80")) {
            assert!(matches!(error, Error::Exhausted(_)), "{error}");
            assert!(begin.elapsed() < PATIENCE, "nothing was handed over");
            thread::sleep(Duration::from_micros(200));
        }
        delays_us.push(begin.elapsed().as_micros());
    }
    println!("measured: {delays_us:?} us from hunger to a lease");
}

#[test]
fn a_process_that_needs_few_ports_leaves_the_blocks_to_one_that_starves() {
    const TEST: &str = "a_process_that_needs_few_ports_leaves_the_blocks_to_one_that_starves";
    /// Over eight blocks: a block is empty by chance once in seventy looks.
    const NEEDED: usize = 32;
    let to = at("127.0.0.1:80");
    if let Some(file) = part() {
        let pool = shared(&file);
        // In the order of their ports, so that those that stay are scattered over all blocks.
        let mut leases = all(&pool, to);
        leases.sort_by_key(Lease::source);
        let mut each = 0..;
        leases.retain(|_| each.next().is_some_and(|each: usize| each % (CAPACITY / NEEDED) == 0));
        let mut leases = VecDeque::from(leases);
        say("ready");
        let end = Instant::now() + PATIENCE;
        // Connections that last 32 ms, and never fewer of them.
        while Instant::now() < end {
            leases.push_back(pool.acquire(Protocol::Tcp, to).unwrap());
            leases.pop_front().unwrap().release();
            thread::sleep(Duration::from_millis(1));
        }
        return;
    }
    let folder = Folder::new("few");
    let mut rich = Member::start(TEST, &folder.file());
    rich.wait_for("ready");
    let poor = shared(&folder.file());
    let (begin, mut leases) = (Instant::now(), Vec::new());
    // 32 leases, a quarter more and half a block are 72 ports: two blocks of the eight.
    while leases.len() < CAPACITY - 2 * 64 {
        match poor.acquire(Protocol::Tcp, to) {
            Ok(lease) => leases.push(lease),
            Err(error) => assert!(matches!(error, Error::Exhausted(_)), "{error}"),
        }
        assert!(begin.elapsed() < PATIENCE, "{} ports in vain", leases.len());
    }
    println!("measured: {} of 8 blocks in {:?}", leases.len() / 64, begin.elapsed());
}

/// Requests of both workers together; `PORTLEASE_FULL=1` makes it the whole number.
fn requests() -> usize {
    if std::env::var_os("PORTLEASE_FULL").is_some() { 100_000 } else { 10_000 }
}

#[test]
fn two_workers_share_sources_without_a_single_error() {
    const TEST: &str = "two_workers_share_sources_without_a_single_error";
    in_namespace(TEST, || {
        let upstreams = [at("127.0.0.1:700"), at("127.0.0.1:701")];
        if let Some(file) = part() {
            let errors = work(&shared(&file), &upstreams, requests() / 2);
            say(&format!("done {errors:?}"));
            return;
        }
        for listener in upstreams.map(|upstream| TcpListener::bind(upstream).unwrap()) {
            thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
        }
        let folder = Folder::new("workers");
        let mut workers = [(); 2].map(|()| Member::start(TEST, &folder.file()));
        for worker in &mut workers {
            assert_eq!(worker.wait_for("done"), "[]");
        }
        println!("measured: {} requests of two workers, no error", requests());
    });
}

/// As an upstream without keep-alive: answers and closes first.
fn answer(mut stream: TcpStream) {
    let mut request = [0; 4];
    stream.read_exact(&mut request).unwrap();
    stream.write_all(b"yes").unwrap();
}

/// Requests to each upstream in turn, with some under way at a time. No try is repeated: each
/// error of `bind` and `connect` is seen.
fn work(pool: &Pool, upstreams: &[SocketAddr], requests: usize) -> Vec<String> {
    let mut errors = Vec::new();
    let mut under_way: VecDeque<(TcpStream, Lease<'_>)> = VecDeque::new();
    let finish = |(mut stream, lease): (TcpStream, Lease<'_>)| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "yes");
        drop(stream);
        lease.release_after(ClosedFirst::Peer);
    };
    for request in 0..requests {
        let to = upstreams[request % upstreams.len()];
        let lease = pool.acquire(Protocol::Tcp, to).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Err(error) = lease.bind(&socket) {
            errors.push(error.to_string());
            continue;
        }
        if let Err(error) = socket.connect(&to.into()) {
            errors.push(format!("connect: {error}"));
            continue;
        }
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"get\n").unwrap();
        under_way.push_back((stream, lease));
        if under_way.len() > 32 {
            under_way.pop_front().into_iter().for_each(finish);
        }
    }
    under_way.into_iter().for_each(finish);
    errors
}
