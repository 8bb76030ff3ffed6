//! One run: starts the processes, gives the orders, counts, and sends everybody home.

use super::fill::fill;
use super::limits;
use super::plan::Plan;
use super::problem::Problem;
use super::process::{Crew, Id, Interrupts, News};
use super::progress::Progress;
use super::report::thousands;
use super::share::Share;
use super::sources;
use super::tally::Tally;
use super::targets::Targets;
use super::wire::{Cause, Event, Failure, Job, Order};
use super::wish::{Wish, Work};
use portlease::Sources;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connections on their way out while churning.
const CLOSING: u64 = 500;

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) to: SocketAddr,
    pub(crate) requested: u64,
    pub(crate) failed: u64,
    pub(crate) tally: Tally,
    /// Connections that the target has accepted; `None` if it is not ours.
    pub(crate) held: Option<u64>,
    /// From the first order to the last answer.
    pub(crate) time: Duration,
    /// Growth of the kernel's slab in that time, in bytes, over the whole host.
    pub(crate) slab: Option<u64>,
    /// Bytes resident in the worker and target processes.
    pub(crate) resident: u64,
    /// Why not everything was opened.
    pub(crate) problem: Option<Problem>,
}

/// Runs `plan`. An error means that there is nothing to report.
pub(crate) fn run(
    wish: &Wish,
    plan: &Plan,
    interrupts: &mut Interrupts,
    progress: &Progress,
) -> Result<Outcome, Problem> {
    let mut crew = Crew::new(interrupts, wish.timeout);
    let mut targets = Targets::new(wish, plan)?;
    targets.make_room(&mut crew, wish.work, 1)?;
    let share = Share::new(wish, plan)?;
    let workers = start_workers(&mut crew, wish, plan, targets.address(), &share)?;
    let mut tally = Tally::new();

    let slab_before = limits::slab();
    let begin = Instant::now();
    let done = match wish.work {
        Work::Fill { connections } => {
            fill(&mut crew, &workers, plan, connections, &mut targets, &mut tally, progress)
        }
        Work::Churn { seconds, limit } => {
            // They hold ports, of which there may be few.
            let closing = (plan.capacity / 4).min(CLOSING) as usize;
            let order = Order::Churn { seconds, limit, closing };
            churn(&mut crew, workers[0], &order, &mut tally, progress)
        }
    };
    let time = begin.elapsed();
    let done = match wish.work {
        Work::Fill { .. } => done.and_then(|()| targets.wait_for(&mut crew, tally.opened)),
        Work::Churn { .. } => done,
    };
    let problem = match done {
        Ok(()) => None,
        Err(problem) if problem.is_interrupt() => return Err(problem),
        Err(problem) => Some(problem),
    };

    let slab = limits::slab().zip(slab_before).map(|(now, before)| now.saturating_sub(before));
    let everybody: Vec<_> = workers.iter().copied().chain(targets.processes()).collect();
    let resident = crew.resident(&everybody);
    if problem.is_none() {
        crew.dismiss(&workers)?;
    }
    drop(crew);

    let (requested, failed) = match wish.work {
        Work::Fill { connections } => (connections, connections - tally.opened),
        Work::Churn { .. } => (tally.opened + tally.failed, tally.failed),
    };
    let (to, held) = (targets.address(), targets.held());
    Ok(Outcome { to, requested, failed, tally, held, time, slab, resident, problem })
}

fn start_workers(
    crew: &mut Crew<'_>,
    wish: &Wish,
    plan: &Plan,
    to: SocketAddr,
    share: &Share,
) -> Result<Vec<Id>, Problem> {
    let mut workers = Vec::new();
    for (number, worker) in plan.workers.iter().enumerate() {
        let id = crew.start(&["storm-worker".to_string()], None)?;
        let job = Job {
            by: plan.by,
            mode: wish.mode,
            to,
            shared: share.file(),
            sources: worker.sources.iter().cloned().collect::<Sources>().to_string(),
            addresses: sources::addresses(&worker.sources, number),
        };
        crew.tell(id, &job);
        workers.push(id);
    }
    let mut ready = 0;
    while ready < workers.len() {
        match crew.wait()? {
            (_, News::Said(Event::Ready)) => ready += 1,
            (_, News::Said(Event::Failed(failure))) => return Err(problem_of(&failure, 0)),
            (_, News::Said(_)) => {}
            (_, News::Gone) => return Err(died()),
        }
    }
    Ok(workers)
}

fn churn(
    crew: &mut Crew<'_>,
    worker: Id,
    order: &Order,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<(), Problem> {
    crew.tell(worker, order);
    loop {
        match crew.wait()? {
            (_, News::Said(Event::Batch(batch))) => {
                tally.add(&batch);
                progress.set(tally.opened);
                if let Some(failure) = batch.failure {
                    if failure.cause.is_hopeless() {
                        return Err(problem_of(&failure, tally.opened + 1));
                    }
                    tally.failure.get_or_insert(failure);
                }
            }
            (_, News::Said(Event::Done)) => break,
            (_, News::Said(_)) => {}
            (_, News::Gone) => return Err(died()),
        }
    }
    match &tally.failure {
        None => Ok(()),
        Some(first) => Err(Problem::failed(
            format!("{} connects failed; the first: {}", thousands(tally.failed), first.text),
            "",
        )),
    }
}

pub(super) fn died() -> Problem {
    Problem::failed(
        "a process of this storm has died",
        "was it killed for want of memory? ask for fewer connections (-n)",
    )
}

/// A failure of connection number `number`, and the way out.
pub(super) fn problem_of(failure: &Failure, number: u64) -> Problem {
    let way_out = match failure.cause {
        Cause::Exhausted => "somebody else holds the ports that are missing: add sources or ports",
        Cause::NoSource => "give the address to an interface (ip address add) or name another",
        Cause::NotAllowed => "ports below 1024 need CAP_NET_BIND_SERVICE: name others with --ports",
        Cause::Refused => {
            "start a server there, or leave --to out and storm starts a target itself"
        }
        Cause::Unreachable => "there is no way from the source to the target: name other sources",
        Cause::TimedOut => "does anything answer at the target?",
        Cause::Descriptors => "raise fs.file-max and RLIMIT_NOFILE, or ask for fewer (-n)",
        Cause::Memory => "the kernel has no memory for it: ask for fewer (-n)",
        Cause::Other => "",
    };
    let text = &failure.text;
    match number {
        0 => Problem::impossible(text, way_out),
        _ => Problem::failed(format!("connection {}: {text}", thousands(number)), way_out),
    }
}
