//! The ledger under criterion: `cargo bench -p portlease-benches --bench ledger`.
//!
//! One group for each question, the same candidates in each, "one atomic read-modify-write"
//! and the harness alone first. `ledger-table` asks the same in turns and in one table; here is
//! the statistics of each by itself, and the comparison with the run before.

use criterion::Criterion;
use portlease_benches::field::{PoolField, PortsField, PortsTask};
use portlease_benches::measure::{Candidate, one_atomic};
use portlease_benches::space::Space;
use portlease_benches::tasks::{ManyPairs, Pairs, Refusals};
use std::time::{Duration, Instant};

/// Destinations with a lease each.
const MANY: u32 = 1_000_000;

fn group(criterion: &mut Criterion, title: &str, candidates: Vec<Candidate<'_>>) {
    let mut group = criterion.benchmark_group(title);
    for mut candidate in std::iter::once(one_atomic()).chain(candidates) {
        group.bench_function(candidate.name, |bencher| {
            bencher.iter_custom(|n| {
                let start = Instant::now();
                candidate.run(n);
                start.elapsed()
            });
        });
    }
    group.finish();
}

fn one_destination<T>(criterion: &mut Criterion, title: &str, space: Space, task: &T)
where
    T: for<'a> PortsTask<Output<'a> = Candidate<'a>>,
{
    PortsField::with(space, |field| group(criterion, title, field.each(task)));
}

fn pairs(criterion: &mut Criterion) {
    for percent in [50.0, 90.0, 99.0, 99.99] {
        let title = format!("pair, {percent} % held");
        one_destination(criterion, &title, Space::ONE_SOURCE, &Pairs(percent / 100.0));
    }
}

fn exhausted(criterion: &mut Criterion) {
    one_destination(criterion, "no port free", Space::ONE_SOURCE, &Refusals);
    one_destination(criterion, "one port free", Space::ONE_SOURCE, &Pairs(1.0));
    one_destination(criterion, "8 sources, one port free", Space::EIGHT_SOURCES, &Pairs(1.0));
}

fn many_destinations(criterion: &mut Criterion) {
    let tasks = [
        ("pair over 1,000 destinations", ManyPairs::Cached),
        ("pair over 1,000,000 destinations", ManyPairs::Fresh(MANY)),
        ("pair over 1,000,000 destinations, announced", ManyPairs::Announced(MANY)),
    ];
    for (title, task) in tasks {
        group(criterion, title, PoolField::new(Space::ONE_SOURCE).each(&task));
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    pairs(&mut criterion);
    exhausted(&mut criterion);
    many_destinations(&mut criterion);
    criterion.final_summary();
}
