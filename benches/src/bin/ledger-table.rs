//! Measures everything once and prints the tables of the README.
//!
//!     ledger-table [--quick] [--write]
//!
//! `--write` puts them into `README.md`, the data into `ledger.json` and the plot into
//! `pairs.svg`, all beside this package. `--quick` only shows that it runs.

use portlease_benches::allocator::{Pool, Ports};
use portlease_benches::field::{PoolField, PoolTask, PortsField, PortsTask, names};
use portlease_benches::measure::{Candidate, Effort, Timing, compare, one_atomic, one_miss};
use portlease_benches::million::{self, Filling, Passage};
use portlease_benches::plot;
use portlease_benches::portlease::{self, Resting};
use portlease_benches::report::{Figure, Report, Table, write_readme};
use portlease_benches::space::Space;
use portlease_benches::tasks::{ManyPairs, Pairs, Refusals};
use portlease_benches::threads::{Scaling, scaling};
use portlease_benches::workload::{self, Held};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Percent of the range that is held.
const OCCUPANCIES: [f64; 6] = [10.0, 50.0, 90.0, 99.0, 99.9, 99.99];

fn main() {
    let options: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    if let [ALONE, what, name, numbers @ ..] = &words[..] {
        let numbers: Vec<u32> = numbers.iter().map(|it| it.parse().expect("a number")).collect();
        PoolField::new(Space::ONE_SOURCE).each(&Alone { what, name, numbers: &numbers });
        return;
    }
    let has = |name: &str| options.iter().any(|option| option == name);
    if let Some(unknown) = options.iter().find(|it| *it != "--quick" && *it != "--write") {
        eprintln!("ledger-table: unknown option '{unknown}'; there are --quick and --write");
        std::process::exit(2);
    }
    let size = if has("--quick") { Size::QUICK } else { Size::FULL };
    let mut report = Report { machine: machine(), ..Report::default() };
    report.tables.push(one_destination(&size, &mut report.one_atomic_ns));
    report.tables.push(two_threads(&size));
    report.tables.push(many_destinations(&size));
    report.tables.push(visited_and_left(&size));
    report.tables.push(resting(&size));
    println!("{}", report.markdown());
    if has("--write") {
        write(&report).expect("the package's own directory can be written");
    }
}

/// How much of everything.
struct Size {
    effort: Effort,
    long_effort: Effort,
    thread_rounds: usize,
    thread_slice: Duration,
    fillings: usize,
    destinations: u32,
    visited: u32,
}

impl Size {
    const FULL: Self = Self {
        effort: Effort::FULL,
        long_effort: Effort::LONG,
        thread_rounds: 11,
        thread_slice: Duration::from_millis(15),
        fillings: 5,
        destinations: 1_000_000,
        visited: 10_000_000,
    };
    const QUICK: Self = Self {
        effort: Effort::QUICK,
        long_effort: Effort::QUICK,
        thread_rounds: 1,
        thread_slice: Duration::from_millis(2),
        fillings: 1,
        destinations: 20_000,
        visited: 100_000,
    };
}

fn one_destination(size: &Size, one_atomic_ns: &mut f64) -> Table {
    let mut table = Table::new(
        "One destination: nanoseconds for a release and an acquire (and how many atomic \
         read-modify-writes that is), with so much of the range held",
    );
    for percent in OCCUPANCIES {
        let title = format!("{percent} %");
        let timings = timings(Space::ONE_SOURCE, &Pairs(percent / 100.0), size.effort);
        if percent == 50.0 {
            *one_atomic_ns = timings[0].ns;
        }
        table.set_timings(&title, &timings);
    }
    let effort = size.effort;
    let no = timings(Space::ONE_SOURCE, &Refusals, effort);
    table.set_timings("all held: the \"no\"", &no);
    let last = timings(Space::ONE_SOURCE, &Pairs(1.0), effort);
    table.set_timings("one port free", &last);
    let last = timings(Space::EIGHT_SOURCES, &Pairs(1.0), effort);
    table.set_timings("8 sources, one port free", &last);
    table
}

/// Everyone in turns; the unit first.
fn timings<T>(space: Space, task: &T, effort: Effort) -> Vec<Timing>
where
    T: for<'a> PortsTask<Output<'a> = Candidate<'a>>,
{
    PortsField::with(space, |field| {
        let mut candidates = vec![one_atomic()];
        candidates.extend(field.each(task));
        compare(&mut candidates, effort)
    })
}

fn two_threads(size: &Size) -> Table {
    let mut table = Table::new(
        "Threads: million pairs a second, half of the range held; and calls to the memory \
         allocator in 100,000 pairs",
    );
    PortsField::with(Space::ONE_SOURCE, |field| {
        for (name, [same, different], allocations) in field.each(&Threads(size)) {
            table.set_scaling(name, "one destination", &same);
            table.set_scaling(name, "a destination each", &different);
            table.set(name, "allocations", Figure::plain(allocations as f64));
        }
    });
    table
}

struct Threads<'s>(&'s Size);

impl PortsTask for Threads<'_> {
    type Output<'a> = (&'static str, [Scaling; 2], u64);

    fn on<'a, P: Ports>(&self, name: &'static str, ports: &'a [P; 2]) -> Self::Output<'a> {
        let &Size { thread_rounds: rounds, thread_slice: slice, .. } = self.0;
        let allocations = workload::allocations(&ports[0]);
        let same = scaling(Held::fill(&ports[0], 0.5).halve(), rounds, slice);
        let halves = ports.each_ref().map(|ports| Held::fill(ports, 0.5));
        (name, [same, scaling(halves, rounds, slice)], allocations)
    }
}

fn many_destinations(size: &Size) -> Table {
    let mut table = Table::new(&format!(
        "{} destinations with a lease each, named in each call (and how many cache misses that is)",
        size.destinations
    ));
    for name in names::POOLS {
        let fill = |_| alone(FILL, name, &[size.destinations]);
        table.set_fillings(name, &(0..size.fillings).map(fill).collect::<Vec<Filling>>());
    }
    let columns: [(&str, ManyPairs); 3] = [
        ("a pair", ManyPairs::Fresh(size.destinations)),
        ("a pair, announced", ManyPairs::Announced(size.destinations)),
        ("a pair over 1,000 destinations", ManyPairs::Cached),
    ];
    for (title, kind) in columns {
        let field = PoolField::new(Space::ONE_SOURCE);
        let mut candidates = vec![one_miss()];
        candidates.extend(field.each(&kind));
        table.set_timings(title, &compare(&mut candidates, size.long_effort));
    }
    table
}

/// Asks a process of its own: what others have left in the memory allocator costs nobody time.
fn alone<R: DeserializeOwned>(what: &str, name: &str, numbers: &[u32]) -> R {
    let program = std::env::current_exe().expect("this program is a file");
    let numbers = numbers.iter().map(u32::to_string);
    let run = Command::new(program).args([ALONE, what, name]).args(numbers).output();
    let run = run.expect("this program can be run again");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).expect("`Alone` writes it")
}

const ALONE: &str = "--alone";
const FILL: &str = "fill";
const PASS: &str = "pass";

/// The other side of [`alone`].
struct Alone<'w> {
    what: &'w str,
    name: &'w str,
    numbers: &'w [u32],
}

impl PoolTask for Alone<'_> {
    type Output<'a> = ();

    fn on<P: Pool>(&self, name: &'static str, pool: &P) {
        if name != self.name {
            return;
        }
        let json = match (self.what, self.numbers) {
            (FILL, &[count]) => serde_json::to_string(&million::fill(pool, count)),
            (PASS, &[count, at_once]) => {
                serde_json::to_string(&million::pass_through(pool, count, at_once))
            }
            other => panic!("{other:?} is not asked for"),
        };
        println!("{}", json.expect("numbers can be written"));
    }
}

fn visited_and_left(size: &Size) -> Table {
    let at_once = size.visited / 10;
    let mut table = Table::new(&format!(
        "{} destinations visited and left, {at_once} leased at any moment",
        size.visited
    ));
    for name in names::POOLS {
        let passage: Passage = alone(PASS, name, &[size.visited, at_once]);
        table.set_passage(name, &passage);
    }
    table
}

fn resting(size: &Size) -> Table {
    let mut table = Table::new(&format!("Bytes each for {} leases that rest", size.destinations));
    for count in [size.destinations / 50_000, size.destinations / 100, size.destinations] {
        let count = count.max(1);
        let Resting { leased_bytes_each, resting_bytes_each } =
            portlease::rest(count, size.destinations / count);
        let row = format!("portlease, {count} destinations");
        table.set(&row, "leased", Figure::plain(leased_bytes_each));
        table.set(&row, "resting", Figure::plain(resting_bytes_each));
    }
    table
}

fn write(report: &Report) -> std::io::Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(package.join("ledger.json"), json + "\n")?;
    std::fs::write(package.join("pairs.svg"), plot::pairs(&report.tables[0]))?;
    write_readme("ledger-table", &report.markdown())
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let output = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default().trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{model}, {cores} cores, Linux {}, {}",
        output("uname", "-r"),
        output("rustc", "--version")
    )
}
