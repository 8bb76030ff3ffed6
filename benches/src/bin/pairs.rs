//! `pairs NAME PERCENT N`: N pairs with PERCENT of the range held towards one destination;
//! `pairs NAME over COUNT N`: the same over COUNT destinations with a lease each, named in each
//! call, every acquire towards a fresh one. And nothing else; for tools that count
//! (`benches/callgrind`). `pairs` lists the names, `pairs over` those for many destinations.

use portlease_benches::allocator::{Pool, Ports};
use portlease_benches::field::{PoolField, PoolTask, PortsField, PortsTask, names};
use portlease_benches::million::{Scattered, Towards};
use portlease_benches::space::Space;
use portlease_benches::workload::Held;

struct One<'n> {
    name: &'n str,
    share: f64,
    n: u64,
}

impl PortsTask for One<'_> {
    type Output<'a> = &'static str;

    fn on<P: Ports>(&self, name: &'static str, ports: &[P; 2]) -> &'static str {
        if name == self.name {
            Held::fill(&ports[0], self.share).pairs(self.n);
        }
        name
    }
}

struct Over<'n> {
    name: &'n str,
    count: u32,
    n: u64,
}

impl PoolTask for Over<'_> {
    type Output<'a> = ();

    fn on<P: Pool>(&self, name: &'static str, pool: &P) {
        if name == self.name {
            Scattered::fill(pool, self.count, 1, Towards::Fresh(self.count)).pairs(self.n);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, there) = match words[..] {
        [] => ("", one(&One { name: "", share: 0.0, n: 0 })),
        ["over"] => ("", names::POOLS.to_vec()),
        [name, percent, n] => {
            let share = percent.parse::<f64>()? / 100.0;
            (name, one(&One { name, share, n: n.parse()? }))
        }
        [name, "over", count, n] => {
            let task = Over { name, count: count.parse()?, n: n.parse()? };
            PoolField::new(Space::ONE_SOURCE).each(&task);
            (name, names::POOLS.to_vec())
        }
        _ => return Err("usage: pairs [NAME PERCENT N | over | NAME over COUNT N]".into()),
    };
    if name.is_empty() {
        println!("{}", there.join("\n"));
    } else if !there.contains(&name) {
        return Err(format!("no allocator '{name}'; there are: {}", there.join(", ")).into());
    }
    Ok(())
}

fn one(task: &One<'_>) -> Vec<&'static str> {
    PortsField::with(Space::ONE_SOURCE, |field| field.each(task))
}
