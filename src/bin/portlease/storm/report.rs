//! What is printed: a table for people, one JSON object for programs.

use super::latency::{self, Quantiles};
use super::plan::Plan;
use super::run::Outcome;
use super::sources;
use super::wish::{Wish, Work};
use crate::args::{By, Mode};
use serde::Serialize;
use std::fmt;
use std::net::SocketAddr;

/// Connections whose memory is more than what else happens on a host.
const SLAB_SHOWS_FROM: u64 = 10_000;

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) by: By,
    /// How portlease bound; `None` for the kernel's choice.
    pub(crate) mode: Option<Mode>,
    pub(crate) to: SocketAddr,
    pub(crate) requested: u64,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Connections that our own target had accepted and held at the end.
    pub(crate) held: Option<u64>,
    /// From the first dial to the last.
    pub(crate) seconds: f64,
    /// Opened connections a second.
    pub(crate) rate: f64,
    /// Worker and target processes.
    pub(crate) processes: usize,
    pub(crate) workers: usize,
    pub(crate) targets: usize,
    /// Number of source addresses.
    pub(crate) sources: usize,
    /// Four-tuples that the run could use towards the destination.
    pub(crate) capacity: u64,
    pub(crate) connect_us: Quantiles,
    pub(crate) tenths: Vec<Tenth>,
    pub(crate) memory: Memory,
    /// Why not everything was opened.
    pub(crate) problem: Option<String>,
    #[serde(skip)]
    title: String,
    #[serde(skip)]
    is_churn: bool,
}

/// A tenth of the connections, in the order of opening.
#[derive(Debug, Serialize)]
pub(crate) struct Tenth {
    /// The part of all four-tuples that was open at its end.
    pub(crate) occupancy: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// Growth of the kernel's slab, over the whole host, for each connection that was opened;
    /// with a target of our own, both of its ends. `None` for few connections, which the host's
    /// other doings would drown out.
    pub(crate) slab_bytes_per_connection: Option<u64>,
    /// Resident in all worker and target processes together.
    pub(crate) resident_bytes: u64,
}

/// Both in turn.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) portlease: Report,
    pub(crate) kernel: Report,
    /// The kernel's connect p50 in the last tenth by portlease's; when churning, portlease's
    /// rate by the kernel's. `None` where one of them has opened nothing.
    pub(crate) ratio: Option<f64>,
    pub(crate) ratio_of: &'static str,
}

impl Report {
    pub(crate) fn new(wish: &Wish, plan: &Plan, outcome: &Outcome) -> Self {
        let seconds = outcome.time.as_secs_f64();
        let is_churn = matches!(wish.work, Work::Churn { .. });
        let (workers, targets) = (plan.workers.len(), plan.targets.len());
        Self {
            by: plan.by,
            mode: (plan.by == By::Portlease).then_some(wish.mode),
            to: outcome.to,
            requested: outcome.requested,
            opened: outcome.tally.opened,
            failed: outcome.failed,
            held: if is_churn { None } else { outcome.held },
            seconds: (seconds * 1e6).round() / 1e6,
            rate: (outcome.tally.opened as f64 / seconds.max(1e-9)).round(),
            processes: workers + targets,
            workers,
            targets,
            sources: wish.sources.len(),
            capacity: plan.capacity,
            connect_us: latency::quantiles(&outcome.tally.dials),
            tenths: tenths(plan, outcome),
            memory: Memory {
                slab_bytes_per_connection: outcome
                    .slab
                    .filter(|_| !is_churn && outcome.tally.opened >= SLAB_SHOWS_FROM)
                    .map(|bytes| bytes / outcome.tally.opened),
                resident_bytes: outcome.resident,
            },
            problem: outcome.problem.as_ref().map(ToString::to_string),
            title: format!(
                "{} to {} from {}",
                if is_churn { "connect and close" } else { "connections" },
                outcome.to,
                sources::describe(&wish.sources)
            ),
            is_churn,
        }
    }

    /// Whether all that was asked for was opened.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed == 0 && self.opened > 0 && self.problem.is_none()
    }
}

fn tenths(plan: &Plan, outcome: &Outcome) -> Vec<Tenth> {
    let full = outcome.tally.tenths.iter().filter(|tenth| !tenth.dials.is_empty());
    full.map(|tenth| {
        let Quantiles { p50, p99, max } = latency::quantiles(&tenth.dials);
        let occupancy = tenth.open as f64 / plan.capacity as f64;
        Tenth { occupancy: (occupancy * 1e5).round() / 1e5, p50_us: p50, p99_us: p99, max_us: max }
    })
    .collect()
}

impl Comparison {
    pub(crate) fn new(portlease: Report, kernel: Report) -> Self {
        let (over, under, ratio_of) = if portlease.is_churn {
            (Some(portlease.rate), Some(kernel.rate), "rate: portlease / kernel")
        } else {
            let last = |report: &Report| report.tenths.last().map(|tenth| tenth.p50_us);
            (last(&kernel), last(&portlease), "connect p50 in the last tenth: kernel / portlease")
        };
        let ratio = over.zip(under).filter(|&(_, under)| under > 0.0);
        let ratio = ratio.map(|(over, under)| (over / under * 10.0).round() / 10.0);
        Self { portlease, kernel, ratio, ratio_of }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.mode {
            None => "the kernel's choice".to_string(),
            Some(mode) => format!("portlease, {}", mode.name()),
        };
        writeln!(f, "{who}: {}\n", self.title)?;
        let opened = thousands(self.opened);
        match self.is_churn {
            true => writeln!(f, "  opened     {opened}")?,
            false => writeln!(f, "  opened     {opened} of {}", thousands(self.requested))?,
        }
        writeln!(f, "  failed     {}", thousands(self.failed))?;
        if let Some(held) = self.held {
            writeln!(f, "  held       {} by the target", thousands(held))?;
        }
        writeln!(f, "  seconds    {:.2}", self.seconds)?;
        writeln!(f, "  rate       {} connections a second", thousands(self.rate as u64))?;
        writeln!(f, "  processes  {} dialing, {} accepting", self.workers, self.targets)?;
        let Quantiles { p50, p99, max } = self.connect_us;
        writeln!(f, "  connect    p50 {p50:.1} us, p99 {p99:.1} us, max {max:.0} us")?;
        f.write_str("  memory     ")?;
        if let Some(bytes) = self.memory.slab_bytes_per_connection {
            let ends = if self.held.is_some() { "both ends" } else { "our end" };
            write!(f, "{} bytes of kernel slab a connection ({ends}); ", thousands(bytes))?;
        }
        let resident = self.memory.resident_bytes as f64 / f64::from(1 << 20);
        writeln!(f, "{resident:.0} MiB resident in all processes")?;
        if !self.tenths.is_empty() {
            writeln!(f, "\n  occupancy     p50 us     p99 us     max us")?;
        }
        for Tenth { occupancy, p50_us, p99_us, max_us } in &self.tenths {
            let percent = occupancy * 100.0;
            writeln!(f, "  {percent:7.1} % {p50_us:10.1} {p99_us:10.1} {max_us:10.0}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.portlease, self.kernel)?;
        let pairs: Vec<_> = self.kernel.tenths.iter().zip(&self.portlease.tenths).collect();
        if !pairs.is_empty() {
            writeln!(f, "connect p50, us\n")?;
            writeln!(f, "  occupancy     kernel  portlease      ratio")?;
        }
        for (kernel, portlease) in pairs {
            let percent = kernel.occupancy * 100.0;
            let (theirs, ours) = (kernel.p50_us, portlease.p50_us);
            let ratio = theirs / ours.max(0.1);
            writeln!(f, "  {percent:7.1} % {theirs:10.1} {ours:10.1} {ratio:10.1}")?;
        }
        match self.ratio {
            Some(ratio) => writeln!(f, "\nratio: {ratio:.1} ({})", self.ratio_of),
            None => writeln!(f, "\nno ratio: one of them has opened nothing"),
        }
    }
}

/// A number with its thousands apart.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (65_537, "65,537"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }
}
