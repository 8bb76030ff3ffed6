//! The processes of a storm: started, heard, and never left behind.

use super::problem::Problem;
use super::wire::{self, Event};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a wait looks for signals.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a process may take to close its connections.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// Ties a child to its parent: it is killed when the parent dies, even if it has died already.
pub(crate) fn die_with(parent: u32) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if parent_id() == parent { Ok(()) } else { Err(io::Error::other("the parent is gone")) }
}

/// Which process of a crew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(usize);

/// What a crew tells.
pub(crate) enum News {
    Said(Event),
    /// Its output has ended.
    Gone,
}

/// The signals that end a storm, noted instead of obeyed at once.
pub(crate) struct Interrupts(Signals);

impl Interrupts {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Signals::new([SIGINT, SIGTERM, SIGHUP])?))
    }

    pub(crate) fn check(&mut self) -> Result<(), Problem> {
        match self.0.pending().next() {
            Some(signal) => Err(Problem::interrupted(signal)),
            None => Ok(()),
        }
    }
}

/// Processes that end with this value.
pub(crate) struct Crew<'a> {
    members: Vec<Member>,
    news: Receiver<(Id, News)>,
    tell: Sender<(Id, News)>,
    interrupts: &'a mut Interrupts,
    deadline: Instant,
    timeout: Duration,
}

struct Member {
    child: Child,
    input: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl<'a> Crew<'a> {
    /// A crew that has `timeout` for all that it does.
    pub(crate) fn new(interrupts: &'a mut Interrupts, timeout: Duration) -> Self {
        let (tell, news) = mpsc::channel();
        let deadline = Instant::now() + timeout;
        Self { members: Vec::new(), news, tell, interrupts, deadline, timeout }
    }

    /// Starts this program again with `arguments`; its input is a pipe or what is given.
    ///
    /// To be called by one thread that lives as long as the crew: it is the parent that
    /// [`die_with`] speaks of.
    pub(crate) fn start(
        &mut self,
        arguments: &[String],
        input: Option<OwnedFd>,
    ) -> Result<Id, Problem> {
        self.interrupts.check()?;
        let id = Id(self.members.len());
        let start = || -> io::Result<Member> {
            let mut child = Command::new(std::env::current_exe()?)
                .args(arguments)
                .arg("--parent")
                .arg(std::process::id().to_string())
                .stdin(input.map_or_else(Stdio::piped, Stdio::from))
                .stdout(Stdio::piped())
                // A Ctrl-C on the terminal is for the storm, which ends its crew itself.
                .process_group(0)
                .spawn()?;
            let output = child.stdout.take().map(BufReader::new);
            let tell = self.tell.clone();
            let reader = thread::spawn(move || {
                let Some(mut output) = output else { return };
                while let Ok(Some(event)) = wire::receive(&mut output) {
                    // Nobody listens when the storm is over.
                    let _ = tell.send((id, News::Said(event)));
                }
                let _ = tell.send((id, News::Gone));
            });
            Ok(Member { input: child.stdin.take(), child, reader: Some(reader) })
        };
        let member = start().map_err(|error| {
            Problem::failed(
                format!("process {} of this storm does not start: {error}", id.0 + 1),
                "raise the limit of processes (ulimit -u) or ask for fewer connections (-n)",
            )
        })?;
        self.members.push(member);
        Ok(id)
    }

    /// Sends a line to a process. One that is gone shows as [`News::Gone`].
    pub(crate) fn tell(&mut self, id: Id, message: &impl Serialize) {
        if let Some(input) = &mut self.members[id.0].input {
            let _ = wire::send(input, message);
        }
    }

    /// The next news; an error when a signal or the deadline came first.
    pub(crate) fn wait(&mut self) -> Result<(Id, News), Problem> {
        self.wait_until(self.deadline)?.ok_or_else(|| {
            Problem::failed(
                format!("not done after {} seconds", self.timeout.as_secs()),
                "allow more (--timeout) or ask for fewer connections (-n)",
            )
        })
    }

    /// The next news before `end`; an error when a signal came first.
    pub(crate) fn wait_until(&mut self, end: Instant) -> Result<Option<(Id, News)>, Problem> {
        loop {
            self.interrupts.check()?;
            let left = end.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left.min(LOOK_EVERY)) {
                Ok(news) => return Ok(Some(news)),
                Err(_) if left.is_zero() => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Ends the input of some processes, which asks them to close everything, and waits until
    /// they have gone.
    pub(crate) fn dismiss(&mut self, ids: &[Id]) -> Result<(), Problem> {
        for id in ids {
            self.members[id.0].input = None;
        }
        let end = Instant::now() + CLOSE_WITHIN;
        for id in ids {
            while self.members[id.0].child.try_wait().ok().flatten().is_none() {
                self.interrupts.check()?;
                if Instant::now() >= end {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Bytes that some processes have resident.
    pub(crate) fn resident(&self, ids: &[Id]) -> u64 {
        let pids = ids.iter().map(|id| self.members[id.0].child.id());
        pids.filter_map(super::limits::resident).sum()
    }
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        for member in &mut self.members {
            // One that is gone already is what we want.
            let _ = member.child.kill();
        }
        for member in &mut self.members {
            let _ = member.child.wait();
            if let Some(reader) = member.reader.take() {
                let _ = reader.join();
            }
        }
    }
}
