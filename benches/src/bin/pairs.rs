//! `pairs NAME PERCENT N`: N pairs with PERCENT of the range held, and nothing else; for tools
//! that count (`benches/callgrind`). Without arguments it lists the names.

use portlease_benches::allocator::Ports;
use portlease_benches::field::{PortsField, PortsTask};
use portlease_benches::space::Space;
use portlease_benches::workload::Held;

struct Only<'n> {
    name: &'n str,
    share: f64,
    n: u64,
}

impl PortsTask for Only<'_> {
    type Output<'a> = &'static str;

    fn on<P: Ports>(&self, name: &'static str, ports: &[P; 2]) -> &'static str {
        if name == self.name {
            Held::fill(&ports[0], self.share).pairs(self.n);
        }
        name
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let task = match &arguments[..] {
        [] => Only { name: "", share: 0.0, n: 0 },
        [name, percent, n] => Only { name, share: percent.parse::<f64>()? / 100.0, n: n.parse()? },
        _ => return Err("usage: pairs [NAME PERCENT N]".into()),
    };
    let names = PortsField::with(Space::ONE_SOURCE, |field| field.each(&task));
    if arguments.is_empty() {
        println!("{}", names.join("\n"));
    } else if !names.contains(&task.name) {
        return Err(format!("no allocator '{}'; there are: {}", task.name, names.join(", ")).into());
    }
    Ok(())
}
