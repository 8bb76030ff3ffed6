//! What has happened so far in a run.

use super::latency;
use super::wire::{Batch, Failure};
use hdrhistogram::Histogram;

pub(crate) struct Tally {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// The first failure that did not end the run.
    pub(crate) failure: Option<Failure>,
    /// All dials.
    pub(crate) dials: Histogram<u64>,
    /// When filling: the dials of each tenth of the connections, in the order of opening.
    pub(crate) tenths: Vec<Tenth>,
}

pub(crate) struct Tenth {
    /// Connections open when it ended.
    pub(crate) open: u64,
    pub(crate) dials: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let dials = latency::empty();
        Self { opened: 0, failed: 0, failure: None, dials, tenths: Vec::new() }
    }

    pub(crate) fn begin_tenth(&mut self) {
        self.tenths.push(Tenth { open: self.opened, dials: latency::empty() });
    }

    pub(crate) fn add(&mut self, batch: &Batch) {
        self.opened += batch.opened;
        self.failed += batch.failed;
        latency::add(&mut self.dials, &batch.dial_ns);
        if let Some(tenth) = self.tenths.last_mut() {
            tenth.open = self.opened;
            latency::add(&mut tenth.dials, &batch.dial_ns);
        }
    }
}
