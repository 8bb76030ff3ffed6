//! How many processes it takes, and what each does. Pure.

use super::limits::Limits;
use super::problem::Problem;
use super::report::thousands;
use super::sources;
use super::wish::{Wish, Work};
use crate::args::By;
use portlease::Source;

/// Descriptors that a process needs for itself.
const OWN_DESCRIPTORS: u64 = 48;
/// Connections that one process holds at most, however many descriptors it may have.
const PROCESS_CONNECTIONS: u64 = 1_000_000;
/// Processes on one end, at most.
const PROCESSES: u64 = 512;
/// Kernel memory of one connection, rounded up: a TCP socket with its file takes 5 KiB, and
/// with a target of our own there are two.
const SOCKET_BYTES: u64 = 5 * 1024;

/// Ports that the last block of a worker may leave over, where they share: see
/// `PoolBuilder::shared`.
const BLOCK_PORTS: u64 = 64;

/// One run of a storm.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) by: By,
    /// Four-tuples towards the destination that the run may use.
    pub(crate) capacity: u64,
    pub(crate) workers: Vec<WorkerPlan>,
    /// Workers that dial at a time. One, so that a dial is measured alone; as many as there are
    /// processors for so many connections that the time for all counts for more.
    pub(crate) at_a_time: usize,
    /// Whether ports move between the workers, which each name all sources then.
    pub(crate) is_shared: bool,
    /// Connections that each target process holds; empty with a target that is not ours, or that
    /// lets them wait in its backlog.
    pub(crate) targets: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) sources: Vec<Source>,
    /// Its part of the connections, if all goes evenly.
    pub(crate) share: u64,
    /// What it could hold at most.
    pub(crate) room: u64,
}

impl Plan {
    pub(crate) fn new(wish: &Wish, by: By, limits: &Limits) -> Result<Self, Problem> {
        let capacity = sources::capacity(&wish.sources);
        let ours = wish.to.is_none();
        match wish.work {
            Work::Churn { .. } => {
                let per_process = per_process(2, limits)?;
                let worker = WorkerPlan { sources: wish.sources.clone(), share: 0, room: 1 };
                let targets = if ours { vec![per_process] } else { vec![] };
                Ok(Self {
                    by,
                    capacity,
                    workers: vec![worker],
                    at_a_time: 1,
                    is_shared: false,
                    targets,
                })
            }
            Work::Fill { connections } => {
                enough_four_tuples(connections, capacity, &wish.sources)?;
                let per_process = per_process(connections, limits)?;
                let accepts = ours && !wish.has_deep_backlog;
                enough_for_host(connections, ours, accepts, limits)?;
                let processes = connections.div_ceil(per_process);
                let targets = if accepts {
                    shares(connections, &vec![1; processes as usize])
                } else {
                    vec![]
                };
                let spare = capacity - connections;
                let fits = processes > 1 && spare >= processes * BLOCK_PORTS;
                let is_shared = by == By::Portlease && (wish.shared.is_some() || fits);
                let workers = match by {
                    By::Portlease if !is_shared => {
                        slices(&wish.sources, connections, processes, per_process)
                    }
                    _ => equals(&wish.sources, connections, processes, per_process),
                };
                let at_a_time = if wish.has_deep_backlog { limits.processors } else { 1 };
                Ok(Self { by, capacity, workers, at_a_time, is_shared, targets })
            }
        }
    }
}

/// Workers with a slice of every source each.
fn slices(all: &[Source], connections: u64, count: u64, per_process: u64) -> Vec<WorkerPlan> {
    let slices: Vec<_> = (0..count).map(|number| sources::slice(all, number, count)).collect();
    let capacities: Vec<_> = slices.iter().map(|slice| sources::capacity(slice)).collect();
    let shares = shares(connections, &capacities);
    slices
        .into_iter()
        .zip(capacities)
        .zip(shares)
        .map(|((sources, capacity), share)| {
            let room = capacity.min(per_process);
            WorkerPlan { sources, share: share.min(room), room }
        })
        .collect()
}

/// Workers that name all sources each: they share, or the kernel chooses.
fn equals(all: &[Source], connections: u64, count: u64, per_process: u64) -> Vec<WorkerPlan> {
    let room = sources::capacity(all).min(per_process);
    shares(connections, &vec![1; count as usize])
        .into_iter()
        .map(|share| WorkerPlan { sources: all.to_vec(), share: share.min(room), room })
        .collect()
}

/// `total` cut in proportion to `weights`, without a rest.
fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let mut before: u128 = 0;
    weights
        .iter()
        .map(|&weight| {
            let from = u128::from(total) * before / sum;
            before += u128::from(weight);
            (u128::from(total) * before / sum - from) as u64
        })
        .collect()
}

fn enough_four_tuples(connections: u64, capacity: u64, all: &[Source]) -> Result<(), Problem> {
    if connections <= capacity {
        return Ok(());
    }
    Err(Problem::impossible(
        format!(
            "{} connections to one destination need as many four-tuples, and {} {} {}",
            thousands(connections),
            sources::describe(all),
            if all.len() == 1 { "gives" } else { "give" },
            thousands(capacity)
        ),
        "add sources (--sources) or ports (--ports), or ask for fewer (-n)",
    ))
}

/// Connections that one process can hold, such that neither end takes too many processes.
fn per_process(connections: u64, limits: &Limits) -> Result<u64, Problem> {
    let descriptors = limits.descriptors;
    let each = descriptors.saturating_sub(OWN_DESCRIPTORS).min(PROCESS_CONNECTIONS);
    // The storm itself holds three pipes for each pair of processes.
    let processes = PROCESSES.min(each / 3);
    if connections <= each * processes {
        return Ok(each);
    }
    Err(Problem::impossible(
        format!(
            "too few descriptors: with the hard limit of {} a process (RLIMIT_NOFILE), \
             {} processes on each end hold {} connections, not {}",
            thousands(descriptors),
            processes,
            thousands(each * processes),
            thousands(connections)
        ),
        "raise it (ulimit -Hn) or ask for fewer (-n)",
    ))
}

fn enough_for_host(
    connections: u64,
    ours: bool,
    accepts: bool,
    limits: &Limits,
) -> Result<(), Problem> {
    let ends = if ours { 2 } else { 1 };
    let sockets = connections * ends;
    // What waits to be accepted is a socket and not a file yet.
    let files = if accepts { sockets } else { connections };
    if let Some(free) = limits.files_free.filter(|&free| files > free) {
        return Err(Problem::impossible(
            format!(
                "{} sockets are more than the {} files that this host may still open",
                thousands(files),
                thousands(free)
            ),
            "raise the sysctl fs.file-max or ask for fewer (-n)",
        ));
    }
    let bytes = sockets * SOCKET_BYTES;
    if let Some(free) = limits.memory_available.filter(|&free| bytes > free) {
        return Err(Problem::impossible(
            format!(
                "{} sockets take about {} MiB of kernel memory, and {} MiB are available",
                thousands(sockets),
                thousands(bytes >> 20),
                thousands(free >> 20)
            ),
            format!("ask for fewer (-n {})", free / (SOCKET_BYTES * ends)),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Mode;
    use portlease::PortRange;
    use std::time::Duration;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    fn limits() -> Limits {
        Limits {
            descriptors: 20_000,
            processors: 2,
            files_free: Some(3_000_000),
            memory_available: Some(16 << 30),
            kernel_ports: range(32_768, 60_999),
        }
    }

    fn wish(connections: u64, sources: u64, ports: PortRange) -> Wish {
        Wish {
            to: None,
            target: "127.0.0.1".parse().unwrap(),
            sources: sources::loopback(sources, ports),
            work: Work::Fill { connections },
            mode: Mode::ByPort,
            shared: None,
            has_deep_backlog: false,
            timeout: Duration::from_secs(600),
        }
    }

    fn refusal(wish: &Wish, limits: &Limits) -> String {
        Plan::new(wish, By::Portlease, limits).unwrap_err().to_string()
    }

    #[test]
    fn processes_follow_from_descriptors() {
        // Too few to spare for blocks.
        let wish = wish(65_537, 2, range(32_760, 65_535));
        for (descriptors, processes) in [(20_000, 4), (1 << 20, 1), (1024, 68), (1 << 40, 1)] {
            let limits = Limits { descriptors, ..limits() };
            let plan = Plan::new(&wish, By::Portlease, &limits).unwrap();
            assert_eq!(plan.workers.len(), processes, "{descriptors} descriptors");
            assert_eq!(plan.targets.len(), processes, "{descriptors} descriptors");
            assert_eq!(plan.targets.iter().sum::<u64>(), 65_537);
            assert_eq!(plan.workers.iter().map(|worker| worker.share).sum::<u64>(), 65_537);
            assert!(plan.workers.iter().all(|worker| worker.share <= worker.room));
            assert!(plan.workers.iter().all(|worker| worker.sources.len() == 2));
        }
    }

    #[test]
    fn a_full_range_leaves_no_port_over() {
        let plan = Plan::new(&wish(64_512, 1, range(1024, 65_535)), By::Portlease, &limits());
        let plan = plan.unwrap();
        assert_eq!(plan.capacity, 64_512);
        for worker in &plan.workers {
            assert_eq!(worker.share, sources::capacity(&worker.sources));
        }
    }

    #[test]
    fn workers_share_where_that_leaves_nothing_over() {
        for (spare, is_shared) in [(0, false), (255, false), (256, true)] {
            let wish = wish(65_000 - spare, 1, range(536, 65_535));
            let plan = Plan::new(&wish, By::Portlease, &limits()).unwrap();
            assert_eq!((plan.workers.len(), plan.is_shared), (4, is_shared), "{spare}");
            let names_all = plan.workers.iter().all(|w| sources::capacity(&w.sources) == 65_000);
            assert_eq!(names_all, is_shared, "{spare}");
            assert_eq!(plan.workers.iter().map(|w| w.share).sum::<u64>(), 65_000 - spare);
        }
        let alone = Plan::new(&wish(10, 1, range(1, 5000)), By::Portlease, &limits()).unwrap();
        assert!(!alone.is_shared);
        let shared = Wish { shared: Some("file".into()), ..wish(10, 1, range(1, 5000)) };
        assert!(Plan::new(&shared, By::Portlease, &limits()).unwrap().is_shared);
    }

    #[test]
    fn a_deep_backlog_takes_no_process_and_no_file() {
        let wish = Wish { has_deep_backlog: true, ..wish(65_537, 2, range(1024, 65_535)) };
        let limits = Limits { files_free: Some(70_000), ..limits() };
        let plan = Plan::new(&wish, By::Portlease, &limits).unwrap();
        assert!(plan.targets.is_empty());
        assert_eq!(plan.at_a_time, 2);
    }

    #[test]
    fn kernel_gets_no_slices() {
        let wish = wish(50_000, 2, range(32_768, 60_999));
        let plan = Plan::new(&wish, By::Kernel, &limits()).unwrap();
        assert_eq!(plan.workers.len(), 3);
        assert!(plan.workers.iter().all(|worker| sources::capacity(&worker.sources) == 56_464));
    }

    #[test]
    fn foreign_target_takes_no_process() {
        let mut wish = wish(10, 1, range(1024, 2000));
        wish.to = Some("127.0.0.1:9".parse().unwrap());
        let plan = Plan::new(&wish, By::Portlease, &limits()).unwrap();
        assert!(plan.targets.is_empty());
    }

    #[test]
    fn impossible_requests_are_told_with_numbers() {
        let many = wish(65_537, 1, range(1024, 65_535));
        assert_eq!(
            refusal(&many, &limits()),
            "65,537 connections to one destination need as many four-tuples, and 1 source \
             (127.0.0.2) with ports 1024-65535 gives 64,512; add sources (--sources) or ports \
             (--ports), or ask for fewer (-n)"
        );
        let enough = wish(65_537, 2, range(1024, 65_535));
        for (limits, needle) in [
            (Limits { descriptors: 100, ..limits() }, "hard limit of 100 a process"),
            (Limits { descriptors: 0, ..limits() }, "0 processes on each end hold 0"),
            (Limits { files_free: Some(131_073), ..limits() }, "131,074 sockets"),
            (Limits { memory_available: Some(1 << 20), ..limits() }, "-n 102)"),
        ] {
            let told = refusal(&enough, &limits);
            assert!(told.contains(needle), "{told}");
        }
    }

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(shares(7, &[3, 0, 4]), [3, 0, 4]);
        assert_eq!(shares(u64::MAX, &[u64::MAX]), [u64::MAX]);
    }
}
