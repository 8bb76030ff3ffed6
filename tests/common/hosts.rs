//! A second host: a network namespace with a thread in it, and cables to it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// As [`super::common::in_namespace`], where the kernel has cables; else prints a `SKIP` line.
pub(crate) fn with_cables(test: &str, body: impl FnOnce()) {
    let attempt = ["-Urn", "ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"];
    let status = Command::new("unshare").args(attempt).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return super::common::in_namespace(test, body);
    }
    // To the terminal itself: the test harness captures what a test prints.
    let line = format!("SKIP: {test}: no veth in a namespace of its own (unshare -Urn, ip)\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs `ip` with these words.
#[track_caller]
pub(crate) fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("ip");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
}

type Job = Box<dyn FnOnce() + Send>;

/// The other host. What its thread makes is in its namespace; a socket may be used from here.
pub(crate) struct Peer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    id: i32,
}

impl Peer {
    /// A host with nothing but `lo`. The caller is in a namespace of its own already.
    pub(crate) fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (tell_id, id) = channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: takes a number; this thread alone moves, and has no descriptor of before.
            let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(answer, 0, "unshare: {}", std::io::Error::last_os_error());
            // SAFETY: no arguments.
            tell_id.send(unsafe { libc::gettid() }).expect("somebody waits for it");
            inbox.iter().for_each(|job| job());
        });
        let id = id.recv().expect("a namespace inside of ours");
        let peer = Self { jobs: Some(jobs), thread: Some(thread), id };
        peer.ip("link set lo up");
        peer
    }

    /// Runs `job` there and waits for what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job: Job = Box::new(move || tell.send(job()).expect("somebody waits for it"));
        self.jobs.as_ref().expect("until the drop").send(job).expect("the thread lives");
        told.recv().expect("the job did not panic")
    }

    /// [`ip`] over there.
    pub(crate) fn ip(&self, words: &str) {
        let words = words.to_owned();
        self.run(move || ip(&words));
    }

    /// A cable: `name` here, `name` with a `p` behind it there, both up.
    pub(crate) fn cable(&self, name: &str) {
        ip(&format!("link add {name} type veth peer name {name}p netns {}", self.id));
        ip(&format!("link set {name} up"));
        self.ip(&format!("link set {name}p up"));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        self.thread.take().map(JoinHandle::join);
    }
}
