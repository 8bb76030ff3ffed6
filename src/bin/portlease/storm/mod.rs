//! `portlease storm`: more connections to one address and port than there are port numbers.
//!
//! The storm plans ([`plan`]), starts its processes ([`process`], [`worker`], [`target`]), has
//! them open connections in turn ([`run`]) and tells what came of it ([`report`]).

mod checks;
mod dialer;
mod fill;
mod latency;
mod limits;
pub(crate) mod namespace;
mod plan;
mod problem;
mod process;
mod progress;
mod report;
mod run;
mod share;
mod sources;
mod tally;
pub(crate) mod target;
mod targets;
mod wire;
mod wish;
pub(crate) mod worker;

use crate::args::{By, Mode, StormArgs};
use limits::Limits;
use namespace::Settings;
use plan::Plan;
use portlease::PortRange;
use problem::Problem;
use process::Interrupts;
use progress::Progress;
use report::{Comparison, Report};
use std::fmt::Display;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use wish::{Wish, Work};

pub(crate) fn run(args: &StormArgs) -> ExitCode {
    let done = if args.compare { compare(args) } else { single(args) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("portlease storm: {problem}");
            ExitCode::from(problem.status())
        }
    }
}

fn single(args: &StormArgs) -> Result<bool, Problem> {
    let mut stage = Stage::new(args)?;
    let report = stage.run(args.by)?;
    if args.json || report.opened > 0 {
        print(args, &report)?;
    }
    Ok(report.is_complete())
}

/// The kernel's failures count where a number of connections was asked for; when churning they
/// are what is compared.
fn compare(args: &StormArgs) -> Result<bool, Problem> {
    let mut stage = Stage::new(args)?;
    let portlease = stage.run(By::Portlease)?;
    let kernel = stage.run(By::Kernel)?;
    let done = portlease.is_complete() && (args.churn || kernel.is_complete());
    print(args, &Comparison::new(portlease, kernel))?;
    Ok(done)
}

fn print<T: Display + serde::Serialize>(args: &StormArgs, report: &T) -> Result<(), Problem> {
    let mut output = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer(&mut output, report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(output))
    } else {
        write!(output, "{report}")
    };
    written.map_err(|error| Problem::failed(format!("standard output: {error}"), ""))
}

/// Where runs take place: on the host, or in network namespaces of their own.
struct Stage {
    wish: Wish,
    /// What the kernel's choice is given, where that differs.
    kernels_wish: Wish,
    limits: Limits,
    interrupts: Interrupts,
    /// Whether each run gets a namespace of its own, and which addresses that has beside
    /// loopback.
    apart: Option<Vec<Ipv4Addr>>,
}

impl Stage {
    fn new(args: &StormArgs) -> Result<Self, Problem> {
        let interrupts = Interrupts::new()
            .map_err(|error| Problem::impossible(format!("no handler for signals: {error}"), ""))?;
        let limits = Limits::read();
        let wish = Wish::new(args, limits.kernel_ports)?;
        let kernels_wish = wish.clone();
        let mut stage = Self { wish, kernels_wish, limits, interrupts, apart: None };
        // Impossible requests are told before anything is set up.
        Plan::new(&stage.wish, By::Portlease, &stage.limits)?;
        if stage.needs_other_ports(args)? {
            stage.set_apart(args)?;
        } else if let Some(backlog) = stage.wish.deep_backlog() {
            stage.set_apart_for_backlog(backlog);
        }
        if stage.apart.is_none() {
            checks::sources_are_ours(&stage.wish.sources)?;
        }
        Ok(stage)
    }

    /// Whether the kernel's range has to be another than this host's.
    fn needs_other_ports(&self, args: &StormArgs) -> Result<bool, Problem> {
        if args.compare || args.by == By::Kernel {
            return Ok(self.wish.range_for_kernel()? != self.limits.kernel_ports);
        }
        let kernel = self.limits.kernel_ports;
        let mut ranges = self.wish.sources.iter().flat_map(|source| &source.ports);
        let inside =
            |range: &PortRange| kernel.contains(range.first()) && kernel.contains(range.last());
        Ok(self.wish.mode == Mode::Late && !ranges.all(inside))
    }

    /// Prepares for namespaces, if this host lets us have them.
    fn set_apart(&mut self, args: &StormArgs) -> Result<(), Problem> {
        let ports = self.wish.range_for_kernel()?;
        let backlog = self.wish.deep_backlog();
        match self.rehearse(&Settings { kernel_ports: Some(ports), backlog }) {
            Ok(()) => {
                let mut addresses = Vec::new();
                if args.churn && args.sources.is_none() {
                    let (wish, added) = self.wish.off_loopback();
                    (self.kernels_wish, self.wish) = (wish.clone(), wish);
                    addresses.extend(added);
                }
                eprintln!(
                    "portlease storm: in a network namespace of its own, where \
                     ip_local_port_range can be {ports}"
                );
                self.apart = Some(addresses);
                self.wish.has_deep_backlog = backlog.is_some();
                self.kernels_wish.has_deep_backlog = backlog.is_some();
                Ok(())
            }
            Err(why) => self.settle(args, ports, &why),
        }
    }

    /// The same for a backlog that holds all connections; without it, the target accepts them.
    fn set_apart_for_backlog(&mut self, backlog: u64) {
        match self.rehearse(&Settings { kernel_ports: None, backlog: Some(backlog) }) {
            Ok(()) => {
                eprintln!(
                    "portlease storm: in a network namespace of its own, where a backlog \
                     (somaxconn) holds {backlog} connections: the target accepts none"
                );
                self.apart = Some(Vec::new());
                self.wish.has_deep_backlog = true;
            }
            Err(why) => eprintln!(
                "portlease storm: no network namespace of its own ({why}): the target accepts all \
                 connections, which takes more memory and time"
            ),
        }
    }

    /// Whether this host lets us have a namespace with `settings`, and it would do.
    fn rehearse(&self, settings: &Settings) -> Result<(), String> {
        match self.wish.is_loopback() {
            true => namespace::rehearse(settings),
            false => Err("sources and target are not all on loopback".to_string()),
        }
    }

    /// Goes on with the range that the kernel has.
    fn settle(&mut self, args: &StormArgs, ports: PortRange, why: &str) -> Result<(), Problem> {
        let range = self.limits.kernel_ports;
        let instead = match self.wish.work {
            Work::Churn { .. } if args.compare => {
                self.kernels_wish = self.wish.with_ports(range);
                format!("the kernel chooses from {range}, portlease from {ports}")
            }
            _ => {
                self.wish = Wish::settled(args, range)?;
                self.kernels_wish = self.wish.clone();
                format!("over the ports {range} instead of {ports}")
            }
        };
        eprintln!("portlease storm: no network namespace of its own ({why}): {instead}");
        Ok(())
    }

    fn run(&mut self, by: By) -> Result<Report, Problem> {
        let wish = match by {
            By::Portlease => &self.wish,
            By::Kernel => &self.kernels_wish,
        };
        if let Some(addresses) = &self.apart {
            // Each run gets a fresh one: what the last has left in TIME_WAIT is not its burden.
            let change = by == By::Kernel || wish.mode == Mode::Late;
            let kernel_ports = if change { Some(wish.range_for_kernel()?) } else { None };
            let backlog = wish.deep_backlog().filter(|_| wish.has_deep_backlog);
            namespace::enter(&Settings { kernel_ports, backlog }, addresses).map_err(|error| {
                Problem::failed(format!("no network namespace of its own: {error}"), "")
            })?;
        }
        let plan = Plan::new(wish, by, &self.limits)?;
        let total = match wish.work {
            Work::Fill { connections } => Some(connections),
            Work::Churn { .. } => None,
        };
        let progress = Progress::new(by.name(), total);
        let outcome = run::run(wish, &plan, &mut self.interrupts, &progress)?;
        drop(progress);
        if let Some(problem) = &outcome.problem {
            eprintln!("portlease storm: {}: {problem}", by.name());
        }
        Ok(Report::new(wish, &plan, &outcome))
    }
}
