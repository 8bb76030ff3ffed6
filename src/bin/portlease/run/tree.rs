//! The command and all that it has started, from the start to the end of the last one.

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, raise, signal};
use nix::sys::signalfd::{SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What users send to a command; it is passed on.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Status(u8),
    Signal(Signal),
}

/// Runs the command, and waits until it and all that it leaves behind have ended: a server that
/// goes to the background goes on under its leases.
pub(super) fn run(command: &mut Command) -> io::Result<Ended> {
    // Who loses its parent becomes our child.
    set_child_subreaper(true)?;
    let signals = SigSet::from_iter(PASSED_ON.into_iter().chain([Signal::SIGCHLD]));
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let unblock = move || before.thread_set_mask().map_err(Into::into);
    // SAFETY: between fork and exec it makes one system call, which signal-safety(7) allows.
    unsafe { command.pre_exec(unblock) };
    let inbox = SignalFd::new(&signals)?;
    let child = Pid::from_raw(command.spawn()?.id() as i32);
    let mut ended = None;
    loop {
        match reap(child, &mut ended)? {
            Left::Nobody => return Ok(ended.unwrap_or(Ended::Status(0))),
            Left::Some => {}
        }
        if let Some(info) = inbox.read_signal()? {
            pass_on(&info, ended.is_none().then_some(child));
        }
    }
}

/// Who is still there.
enum Left {
    Some,
    Nobody,
}

/// Notes who has ended.
fn reap(child: Pid, ended: &mut Option<Ended>) -> io::Result<Left> {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(Left::Some),
            Ok(status) => status,
            Err(Errno::ECHILD) => return Ok(Left::Nobody),
            Err(error) => return Err(error.into()),
        };
        match status {
            WaitStatus::Exited(pid, status) if pid == child => {
                *ended = Some(Ended::Status(status as u8));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                *ended = Some(Ended::Signal(signal));
            }
            _ => {}
        }
    }
}

/// To the command; when it is gone, to those that it has left behind.
fn pass_on(info: &siginfo, child: Option<Pid>) {
    let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { return };
    // What the terminal sends the whole process group gets, the command among them (sigaction(2),
    // `si_code`).
    let is_from_the_kernel = info.ssi_code > 0;
    if signal == Signal::SIGCHLD || is_from_the_kernel {
        return;
    }
    let to = child.map_or_else(children, |child| vec![child]);
    for process in to {
        // One that is gone needs no signal.
        let _ = kill(process, signal);
    }
}

/// proc(5), `/proc/pid/task/tid/children`: of our one thread.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    let list = fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// Ends as the command has: with its status, or by its signal.
pub(super) fn end_as(ended: Ended) -> ExitCode {
    match ended {
        Ended::Status(status) => ExitCode::from(status),
        Ended::Signal(by) => {
            // One core file is enough.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            // SAFETY: the default action is no handler of ours.
            let _ = unsafe { signal(by, SigHandler::SigDfl) };
            let _ = SigSet::from_iter([by]).thread_unblock();
            let _ = raise(by);
            // A signal that does not end us.
            ExitCode::from(128 + by as u8)
        }
    }
}
