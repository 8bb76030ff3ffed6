//! Draws `pairs.svg` again from `ledger.json`, without measuring.

use portlease_benches::plot;
use portlease_benches::report::Report;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let json = std::fs::read_to_string(package.join("ledger.json"))?;
    let report: Report = serde_json::from_str(&json)?;
    let pairs = report.tables.first().ok_or("ledger.json holds no table")?;
    std::fs::write(package.join("pairs.svg"), plot::pairs(pairs))?;
    Ok(())
}
