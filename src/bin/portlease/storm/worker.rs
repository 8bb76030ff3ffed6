//! A process that dials: reads orders, opens and holds connections, reports. It goes when its
//! input ends or its parent does, and takes its connections along.

use super::dialer::{Connection, Dialer};
use super::latency;
use super::limits::raise_descriptors;
use super::process::die_with;
use super::wire::{self, Batch, Cause, Event, Failure, Job, Order};
use crate::args::WorkerArgs;
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Between two reports of a worker that churns.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// Between two looks whether others are in want of our ports.
const MAINTAIN_EVERY: Duration = Duration::from_millis(50);
/// How long a worker without a port waits for those that others give back.
const SHARED_PATIENCE: Duration = Duration::from_millis(120);
/// After a connect that failed while churning: a loop of failures alone would measure nothing.
const AFTER_FAILURE: Duration = Duration::from_millis(1);

pub(crate) fn run(args: &WorkerArgs) -> ExitCode {
    let (input, output) = (io::stdin().lock(), io::stdout().lock());
    match die_with(args.parent).and_then(|()| serve(input, output)) {
        Ok(()) => ExitCode::SUCCESS,
        // The parent is gone or is about to say more than we could.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let Some(job) = wire::receive::<Job>(&mut input)? else { return Ok(()) };
    raise_descriptors()?;
    let mut dialer = match Dialer::new(&job) {
        Ok(dialer) => dialer,
        Err(failure) => return wire::send(&mut output, &Event::Failed(failure)),
    };
    wire::send(&mut output, &Event::Ready)?;

    let mut held = Vec::new();
    loop {
        if let Err(failure) = maintain_until_told(&dialer)? {
            return wire::send(&mut output, &Event::Failed(failure));
        }
        let Some(order) = wire::receive::<Order>(&mut input)? else { return Ok(()) };
        match order {
            Order::Open { count } => {
                let batch = open(&mut dialer, &mut held, count);
                wire::send(&mut output, &Event::Batch(batch))?;
            }
            Order::Churn { seconds, limit, closing } => {
                let time = Duration::from_secs(seconds);
                churn(&mut dialer, time, limit, closing, &mut output)?;
                wire::send(&mut output, &Event::Done)?;
            }
        }
    }
}

/// Waits until the input has something to say. A worker is told one thing at a time, so nothing
/// is buffered meanwhile.
fn maintain_until_told(dialer: &Dialer) -> io::Result<Result<(), Failure>> {
    let input = io::stdin();
    while dialer.is_shared() {
        let every = PollTimeout::try_from(MAINTAIN_EVERY).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], every)? > 0 {
            break;
        }
        if let Err(failure) = dialer.maintain() {
            return Ok(Err(failure));
        }
    }
    Ok(Ok(()))
}

/// Opens `count` connections or as many as it can; the first failure ends it.
fn open(dialer: &mut Dialer, held: &mut Vec<Connection>, count: u64) -> Batch {
    let mut log = Log::new();
    for _ in 0..count {
        match dial_patiently(&mut log, dialer).and_then(reset_on_close) {
            Ok(connection) => held.push(connection),
            Err(failure) => {
                log.failed(failure);
                break;
            }
        }
    }
    log.take()
}

/// As [`Log::dial`]; where ports are shared and none is left, waits for what others give back.
fn dial_patiently(log: &mut Log, dialer: &mut Dialer) -> Result<Connection, Failure> {
    let begin = Instant::now();
    loop {
        match log.dial(dialer) {
            Err(failure)
                if failure.cause == Cause::Exhausted
                    && dialer.is_shared()
                    && begin.elapsed() < SHARED_PATIENCE =>
            {
                thread::sleep(AFTER_FAILURE);
            }
            done => return done,
        }
    }
}

/// Connects and closes until the time is over or `limit` connects were tried.
///
/// A few connections are always on their way out, each closed by us and waiting for the peer's
/// end: so neither side waits for the other's turn on a processor, and none runs away.
fn churn(
    dialer: &mut Dialer,
    time: Duration,
    limit: u64,
    closing_max: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let end = Instant::now() + time;
    let mut report_at = Instant::now() + REPORT_EVERY;
    let mut log = Log::new();
    let mut tried = 0;
    let mut closing = VecDeque::new();
    while tried < limit && Instant::now() < end {
        tried += 1;
        match log.dial(dialer) {
            Ok(connection) => {
                // Fails where the peer has reset it, and then there is nothing to close.
                let _ = connection.begin_close();
                closing.push_back(connection);
                if closing.len() > closing_max {
                    closing.pop_front().into_iter().for_each(Connection::end_close);
                }
            }
            Err(failure) => {
                closing.drain(..).for_each(Connection::end_close);
                let hopeless = failure.cause.is_hopeless();
                log.failed(failure);
                if hopeless {
                    break;
                }
                thread::sleep(AFTER_FAILURE);
            }
        }
        if Instant::now() >= report_at {
            wire::send(output, &Event::Batch(log.take()))?;
            report_at = Instant::now() + REPORT_EVERY;
        }
    }
    closing.into_iter().for_each(Connection::end_close);
    wire::send(output, &Event::Batch(log.take()))
}

fn reset_on_close(connection: Connection) -> Result<Connection, Failure> {
    match connection.reset_on_close() {
        Ok(()) => Ok(connection),
        Err(error) => {
            Err(Failure { cause: Cause::Other, text: format!("setsockopt SO_LINGER: {error}") })
        }
    }
}

/// What has happened since the last report.
struct Log {
    dial_ns: Histogram<u64>,
    failed: u64,
    failure: Option<Failure>,
}

impl Log {
    fn new() -> Self {
        Self { dial_ns: latency::empty(), failed: 0, failure: None }
    }

    /// Dials and notes how long it took, if it went well.
    fn dial(&mut self, dialer: &mut Dialer) -> Result<Connection, Failure> {
        let begin = Instant::now();
        let connection = dialer.dial()?;
        latency::note(&mut self.dial_ns, begin.elapsed());
        Ok(connection)
    }

    fn failed(&mut self, failure: Failure) {
        self.failed += 1;
        self.failure.get_or_insert(failure);
    }

    fn take(&mut self) -> Batch {
        let log = std::mem::replace(self, Self::new());
        Batch {
            opened: log.dial_ns.len(),
            failed: log.failed,
            dial_ns: latency::counts(&log.dial_ns),
            failure: log.failure,
        }
    }
}
