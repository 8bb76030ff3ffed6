//! Promises to those who starve: a process that makes no call gives back what it does not use, if it
//! has a thread for it or watches a descriptor; and to itself: neither wakes it for nothing.

mod common;
#[allow(dead_code)] // Other tests kill.
#[path = "common/crew.rs"]
mod crew;

use common::in_namespace;
use crew::{Folder, Member, part, say};
use portlease::{Error, Lease, Maintenance, Pool, Protocol};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

/// Four blocks of 64 ports on each of two sources.
const SOURCES: &str = "127.0.0.2-127.0.0.3:20032-20287";
const CAPACITY: usize = 512;
/// Far beyond what anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What each lease rests in the silent process.
const REST: Duration = Duration::from_millis(200);

fn to() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 80))
}

fn shared(file: &str, maintenance: Maintenance) -> Pool {
    let builder = Pool::builder().sources(SOURCES).shared(file);
    builder.maintenance(maintenance).min_rest(REST).build().unwrap()
}

fn all(pool: &Pool) -> Vec<Lease<'_>> {
    let leases: Vec<_> =
        (0..CAPACITY).map(|_| pool.acquire(Protocol::Tcp, to()).unwrap()).collect();
    assert_eq!(pool.blocks_held().unwrap(), Some(8));
    leases
}

/// Whether `descriptor` can be read within the time.
fn can_be_read(descriptor: &impl AsFd, within: Duration) -> bool {
    let fd = descriptor.as_fd().as_raw_fd();
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives as long as the call.
    unsafe { libc::poll(&mut entry, 1, within.as_millis() as i32) == 1 }
}

/// How long it takes from hunger to the first lease, some times; each time the silent process has
/// released all it had, which rests or does not.
fn hand_over(test: &str) {
    for rests in [false, true] {
        let mut delays_us = Vec::new();
        for _ in 0..10 {
            let folder = Folder::new("silent");
            let mut rich = Member::start(test, &format!("{rests} {}", folder.file()));
            rich.wait_for("ready");
            let poor = shared(&folder.file(), Maintenance::ByCallers);
            let begin = Instant::now();
            while let Err(error) = poor.acquire(Protocol::Tcp, to()) {
                assert!(matches!(error, Error::Exhausted(_)), "{error}");
                assert!(begin.elapsed() < PATIENCE, "a silent process gives nothing back");
                thread::sleep(Duration::from_micros(200));
            }
            delays_us.push(begin.elapsed().as_micros());
            assert!(rich.wait_for("asked").parse::<u32>().unwrap() < 40, "woken for nothing");
        }
        let what = if rests { "from ports that rest for 200 ms" } else { "from free ports" };
        println!("measured: {delays_us:?} us from hunger to a lease, {what}, {test}");
    }
}

/// Releases all that there is and falls silent.
fn fall_silent(part: &str, maintenance: Maintenance) -> Pool {
    let (rests, file) = part.split_once(' ').unwrap();
    let pool = shared(file, maintenance);
    let leases = all(&pool);
    match rests {
        "true" => drop(leases),
        _ => leases.into_iter().for_each(Lease::release),
    }
    say("ready");
    pool
}

#[test]
fn with_a_thread_of_the_pool() {
    const TEST: &str = "with_a_thread_of_the_pool";
    in_namespace(TEST, || match part() {
        Some(part) => {
            let _pool = fall_silent(&part, Maintenance::ByThread);
            say("asked 0");
            thread::sleep(PATIENCE);
        }
        None => hand_over(TEST),
    });
}

#[test]
fn with_a_descriptor_in_an_event_loop() {
    const TEST: &str = "with_a_descriptor_in_an_event_loop";
    in_namespace(TEST, || match part() {
        Some(part) => {
            let pool = fall_silent(&part, Maintenance::ByCallers);
            let descriptor = pool.maintain_fd().unwrap();
            let mut wakes = 0;
            while pool.blocks_held().unwrap() != Some(0) {
                assert!(can_be_read(&descriptor, PATIENCE), "never told");
                pool.maintain().unwrap();
                wakes += 1;
            }
            say(&format!("asked {wakes}"));
            thread::sleep(PATIENCE);
        }
        None => hand_over(TEST),
    });
}

#[test]
fn a_descriptor_is_quiet_while_nothing_is_held_and_loud_when_the_file_goes() {
    const TEST: &str = "a_descriptor_is_quiet_while_nothing_is_held_and_loud_when_the_file_goes";
    in_namespace(TEST, || {
        let folder = Folder::new("quiet");
        let pool = shared(&folder.file(), Maintenance::ByCallers);
        let descriptor = pool.maintain_fd().unwrap();
        assert!(can_be_read(&descriptor, PATIENCE), "the first call sets the time of the next");
        pool.maintain().unwrap();
        assert!(!can_be_read(&descriptor, Duration::from_millis(200)), "woken for nothing");
        // What is claimed is looked after, without a call.
        pool.acquire(Protocol::Tcp, to()).unwrap().release();
        assert!(can_be_read(&descriptor, PATIENCE), "nobody looks after a block");
        pool.maintain().unwrap();
        std::fs::remove_file(folder.file()).unwrap();
        // The block that is held has a time of its own, so there may be calls before.
        while pool.maintain().is_ok() {
            assert!(can_be_read(&descriptor, PATIENCE), "not told that the file is gone");
        }
        let whole = Pool::builder().sources(SOURCES).build().unwrap();
        assert!(!can_be_read(&whole.maintain_fd().unwrap(), Duration::from_millis(50)));
    });
}

#[test]
fn a_thread_gives_idle_blocks_back_and_ends_with_its_pool() {
    const TEST: &str = "a_thread_gives_idle_blocks_back_and_ends_with_its_pool";
    in_namespace(TEST, || {
        let folder = Folder::new("thread");
        let pool = shared(&folder.file(), Maintenance::ByThread);
        // A thread gives itself its name.
        let end = Instant::now() + PATIENCE;
        while threads() != 1 {
            assert!(Instant::now() < end, "no thread");
            thread::yield_now();
        }
        all(&pool).into_iter().for_each(Lease::release);
        // SAFETY: the child drops what is its parent's, without its locks, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: no argument is a pointer; a child that hangs is ended.
            unsafe { libc::alarm(20) };
            drop(pool);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(0) };
        }
        let mut status = -1;
        // SAFETY: `status` lives as long as the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        while pool.blocks_held().unwrap() != Some(0) {
            assert!(Instant::now() < end, "idle blocks are kept");
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(threads(), 1);
        drop(pool);
        assert_eq!(threads(), 0);
    });
}

/// Threads of pools in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.flat_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    names.filter(|name| name.trim() == "portlease").count()
}
