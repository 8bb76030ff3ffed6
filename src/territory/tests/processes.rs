//! Real processes: this test binary again, told by the environment which part it plays.

use super::*;
use std::io::{BufRead, BufReader, Read};
use std::mem::ManuallyDrop;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Instant;

const PART: &str = "PORTLEASE_TERRITORY_TEST_FOLDER";

/// The folder that the parent test made, and removes; `None` in the parent itself.
fn part() -> Option<ManuallyDrop<Folder>> {
    std::env::var_os(PART).map(|path| ManuallyDrop::new(Folder(path.into())))
}

/// Starts this binary again with the test `name` alone, which then finds its [`part`].
fn start(name: &str, folder: &Folder) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("territory::tests::processes::{name}"), "--nocapture"])
        .env(PART, &folder.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(word)), "no '{word}' from the other process");
}

fn sleep_forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn sources() -> [Source; 2] {
    [source("10.0.0.1", &[1024..=3071]), source("::1", &[1024..=3071])]
}

#[test]
fn a_killed_process_leaves_its_blocks_to_the_others() {
    if let Some(folder) = part() {
        let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
        pool.grow_to_the_end();
        println!("\nready");
        sleep_forever();
    }
    let folder = Folder::new("kill");
    let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
    let mut delays_us = Vec::new();
    for _ in 0..5 {
        let mut child = start("a_killed_process_leaves_its_blocks_to_the_others", &folder);
        wait_for(&mut child, "ready");
        assert_eq!(pool.grow(), Growth::NothingFree);
        let killed = Instant::now();
        child.kill().unwrap();
        let mut dead = false;
        while pool.grow() == Growth::NothingFree {
            assert!(!dead, "a dead process still holds its blocks");
            dead = child.try_wait().unwrap().is_some();
        }
        delays_us.push(killed.elapsed().as_micros());
        child.wait().unwrap();
        pool.grow_to_the_end();
        assert_eq!(pool.granted().len(), 2048);
        pool = Pool::new(&folder.file(), &sources()).unwrap();
    }
    println!("measured: blocks free {delays_us:?} us after kill -9");
}

#[test]
fn a_fork_that_lives_on_holds_nothing_of_its_dead_parent() {
    if let Some(folder) = part() {
        let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
        pool.grow_to_the_end();
        // SAFETY: the child calls nothing that needs a lock of another thread.
        if unsafe { libc::fork() } == 0 {
            let forked = pool.try_grow(Family::V4, From::AnySource);
            assert!(matches!(forked, Err(crate::Error::Forked)));
            assert!(matches!(pool.maintain(0), Err(crate::Error::Forked)));
            drop(pool);
            // The child of a child that has a pool of its own under the same number.
            let mut own = Pool::new(&folder.file(), &sources()).unwrap();
            assert_eq!(own.grow(), Growth::NothingFree);
            println!("\nforked");
            // Ends with the test that reads its output, whose end of the pipe it waits for.
            let mut pipe = libc::pollfd { fd: 1, events: 0, revents: 0 };
            // SAFETY: one entry, which lives as long as the call.
            unsafe { libc::poll(&mut pipe, 1, -1) };
            std::process::exit(0);
        }
        sleep_forever();
    }
    let folder = Folder::new("fork");
    let mut child = start("a_fork_that_lives_on_holds_nothing_of_its_dead_parent", &folder);
    wait_for(&mut child, "forked");
    let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
    assert_eq!(pool.grow(), Growth::NothingFree);
    child.kill().unwrap();
    child.wait().unwrap();
    // The grandchild still lives: it has the pipe's other end.
    pool.grow_to_the_end();
    assert_eq!(pool.granted().len(), 2048);
}

#[test]
fn a_descriptor_that_somebody_closed_is_noticed_and_its_number_left_alone() {
    use std::os::fd::{AsRawFd, FromRawFd};
    if let Some(folder) = part() {
        let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
        let _ = pool.grow();
        let ours = (3..1024).find(|fd| {
            std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|to| to == folder.file())
        });
        let stranger = std::fs::File::create(folder.0.join("stranger")).unwrap();
        // SAFETY: what a careless daemon does; the library is to survive it.
        let stranger = unsafe {
            assert_eq!(libc::dup2(stranger.as_raw_fd(), ours.unwrap()), ours.unwrap());
            std::fs::File::from_raw_fd(ours.unwrap())
        };
        let error = pool.try_grow(Family::V4, From::AnySource).unwrap_err().to_string();
        assert!(error.contains("descriptor was closed"), "{error}");
        assert!(pool.granted().is_empty());
        drop(pool);
        stranger.metadata().expect("the stranger's file is still open");
        println!("\nnoticed");
        return;
    }
    let folder = Folder::new("closed");
    let name = "a_descriptor_that_somebody_closed_is_noticed_and_its_number_left_alone";
    let mut child = start(name, &folder);
    wait_for(&mut child, "noticed");
    assert!(child.wait().unwrap().success());
}

#[test]
fn forks_beside_claimers_never_hang() {
    if let Some(folder) = part() {
        let pool = Pool::new(&folder.file(), &sources()).unwrap();
        let territory = &pool.territory;
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..2 {
                scope.spawn(move || {
                    let mut random = ChaCha8Rng::seed_from_u64(seed);
                    for now_ms in (0..).step_by(20_000) {
                        let _ = territory.grow(Family::V4, From::AnySource, &Idle, &mut random);
                        let _ = territory.maintain(now_ms, &Idle, &mut random);
                        if stop.load(SeqCst) {
                            break;
                        }
                    }
                });
            }
            let mut random = ChaCha8Rng::seed_from_u64(9);
            for _ in 0..2_000 {
                // SAFETY: the child makes one call that takes no lock, and ends.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let answer = territory.grow(Family::V4, From::AnySource, &Idle, &mut random);
                    let status = i32::from(!matches!(answer, Err(crate::Error::Forked)));
                    // SAFETY: ends this process.
                    unsafe { libc::_exit(status) };
                }
                let mut status = -1;
                // SAFETY: `status` lives as long as the call.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
            }
            stop.store(true, SeqCst);
        });
        println!("\nforked 2000 times");
        return;
    }
    let folder = Folder::new("forks");
    let mut child = start("forks_beside_claimers_never_hang", &folder);
    wait_for(&mut child, "forked 2000 times");
    assert!(child.wait().unwrap().success());
}

/// Uses nothing.
struct Idle;

impl Tenant for Idle {
    fn grant(&self, _: Run) {}
    fn revoke(&self, _: Run) {}
    fn usage(&self, runs: &[Run]) -> Usage {
        Usage { used: vec![0; runs.len()], most: 0 }
    }
}

const SLOTS: usize = 2048;
const LIVES: usize = 4096;

/// The independent witness, in memory that all processes map: who has which slot, and which lives
/// have been ended.
#[repr(C)]
struct Witness {
    owner: [AtomicU32; SLOTS],
    killed: [AtomicU32; LIVES],
    grants: AtomicU32,
}

impl Witness {
    fn map(folder: &Folder) -> &'static Self {
        use std::os::fd::AsRawFd;
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(folder.0.join("witness")).unwrap();
        file.set_len(size_of::<Self>() as u64).unwrap();
        let (size, access) = (size_of::<Self>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping of a file of that size; for atomics any content is valid, and it
        // is never unmapped.
        unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                size,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            &*map.cast()
        }
    }
}

/// A tenant that writes each grant down before the witness, under the number of its life.
struct Watched {
    witness: &'static Witness,
    life: u32,
    busy: std::cell::Cell<u32>,
}

impl Tenant for Watched {
    fn grant(&self, run: Run) {
        for (_, slot) in slots(run) {
            let owner = &self.witness.owner[slot as usize];
            let before = owner.swap(self.life, SeqCst);
            let ended = before == 0 || self.witness.killed[before as usize].load(SeqCst) == 1;
            assert!(ended, "slot {slot} has two holders: {before} and {}", self.life);
            self.witness.grants.fetch_add(1, SeqCst);
        }
    }

    fn revoke(&self, run: Run) {
        for (_, slot) in slots(run) {
            let owner = &self.witness.owner[slot as usize];
            let before = owner.swap(0, SeqCst);
            // What is drained is revoked already when it is given back.
            assert!([0, self.life].contains(&before), "slot {slot} of another was taken away");
        }
    }

    fn usage(&self, runs: &[Run]) -> Usage {
        let is_busy = |run: &Run| run.first.0 / 64 % 4 == self.busy.get();
        // One lease to a destination: all but one of the blocks may be drained.
        Usage { used: runs.iter().map(|run| u32::from(is_busy(run))).collect(), most: 1 }
    }
}

#[test]
fn sixteen_processes_under_kill_9_never_hold_one_block() {
    if let Some(folder) = part() {
        let life = std::env::var("PORTLEASE_TERRITORY_TEST_LIFE").unwrap().parse().unwrap();
        let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
        let tenant = Watched { witness: Witness::map(&folder), life, busy: 0.into() };
        println!("\nready");
        for now_ms in (0..).step_by(5_000) {
            tenant.busy.set(now_ms as u32 / 5_000 % 5);
            let (territory, random) = (&pool.territory, &mut pool.random);
            let _ = territory.grow(Family::V4, From::AnySource, &tenant, random).unwrap();
            territory.maintain(now_ms, &tenant, random).unwrap();
            std::thread::yield_now();
        }
    }
    let folder = Folder::new("churn");
    let witness = Witness::map(&folder);
    let mut lives = 0;
    let mut bear = || {
        lives += 1;
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name =
            "territory::tests::processes::sixteen_processes_under_kill_9_never_hold_one_block";
        let mut child = command
            .args(["--exact", name, "--nocapture"])
            .env(PART, &folder.0)
            .env("PORTLEASE_TERRITORY_TEST_LIFE", lives.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&mut child, "ready");
        (lives, child)
    };
    let mut living: Vec<(usize, Child)> = (0..16).map(|_| bear()).collect();
    let mut deaths = Vec::new();
    for turn in 0..100 {
        let (life, mut child) = std::mem::replace(&mut living[turn % 16], bear());
        // Written first: whoever gets a block of the dead asks the witness at once.
        witness.killed[life].store(1, SeqCst);
        child.kill().unwrap();
        deaths.push(child);
    }
    for (life, child) in &mut living {
        witness.killed[*life].store(1, SeqCst);
        child.kill().unwrap();
    }
    deaths.extend(living.into_iter().map(|(_, child)| child));
    for child in &mut deaths {
        use std::os::unix::process::ExitStatusExt;
        let status = child.wait().unwrap();
        let mut told = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{told}");
    }
    println!("measured: {} slots granted in {lives} lives", witness.grants.load(SeqCst));
    assert!(witness.grants.load(SeqCst) > 100 * 64, "the churn was none");
    let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
    pool.grow_to_the_end();
    assert_eq!(pool.granted().len(), SLOTS, "all blocks are free again");
}
