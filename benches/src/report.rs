//! What was measured, as data and as tables.

use crate::measure::{Timing, median};
use crate::million::{Filling, Passage};
use crate::threads::Scaling;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Everything of one run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The processor, the kernel and the compiler.
    pub machine: String,
    /// One atomic read-modify-write, in nanoseconds: the unit.
    pub one_atomic_ns: f64,
    /// What was done, in the order of the tables; who did it, and what it took.
    pub tables: Vec<Table>,
}

/// One table: a row for each allocator.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// What is measured, from left to right.
    pub columns: Vec<String>,
    /// Who, in order, and a figure for each column that could be measured.
    pub rows: Vec<(String, BTreeMap<String, Figure>)>,
}

/// One cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// In the column's unit.
    pub value: f64,
    /// How many atomic read-modify-writes that is, for times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub atomics: Option<f64>,
    /// The fastest round, for times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// The share of calls that said "exhausted" while something was free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub false_no_share: Option<f64>,
}

impl Table {
    /// No rows yet.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), columns: Vec::new(), rows: Vec::new() }
    }

    /// Sets one cell; makes row and column where they are new.
    pub fn set(&mut self, row: &str, column: &str, figure: Figure) {
        if !self.columns.iter().any(|known| known == column) {
            self.columns.push(column.to_owned());
        }
        let index = self.rows.iter().position(|(name, _)| name == row).unwrap_or_else(|| {
            self.rows.push((row.to_owned(), BTreeMap::new()));
            self.rows.len() - 1
        });
        self.rows[index].1.insert(column.to_owned(), figure);
    }

    /// A column of times, all but the unit's own.
    pub fn set_timings(&mut self, column: &str, timings: &[Timing]) {
        for timing in &timings[1..] {
            let false_no_share = (timing.false_no_share > 0.0).then_some(timing.false_no_share);
            let figure = Figure {
                value: timing.ns,
                atomics: Some(timing.ratio),
                best: Some(timing.ns_min),
                false_no_share,
            };
            self.set(timing.name, column, figure);
        }
    }

    /// The columns about two threads.
    pub fn set_scaling(&mut self, row: &str, where_: &str, scaling: &Scaling) {
        let columns = [
            ("one thread", scaling.one_thread),
            ("two threads", scaling.two_threads),
            ("ratio", scaling.ratio),
        ];
        for (column, value) in columns {
            self.set(row, &format!("{where_}, {column}"), Figure::plain(value));
        }
    }

    /// The columns about filling. Of the slowest acquire: the median over the runs; and what of it
    /// is the acquire's own, for what else happens on the machine does not hit the same one in each
    /// run.
    pub fn set_fillings(&mut self, row: &str, fillings: &[Filling]) {
        self.set(row, "bytes a lease", Figure::plain(fillings[0].bytes_each));
        let resident = fillings[0].resident_bytes_each;
        self.set(row, "resident bytes a lease", Figure::plain(resident));
        let slowest = |ns: &mut dyn Iterator<Item = u32>| f64::from(ns.max().unwrap_or(0)) / 1e3;
        let each = fillings.iter().map(|one| slowest(&mut one.acquires_ns.iter().copied()));
        let mut each: Vec<f64> = each.collect();
        self.set(row, "slowest acquire, µs", Figure::plain(median(&mut each)));
        let fastest =
            |acquire: usize| fillings.iter().map(move |one| one.acquires_ns[acquire]).min();
        let own = slowest(&mut (0..fillings[0].acquires_ns.len()).filter_map(fastest));
        self.set(row, "each in its fastest run", Figure::plain(own));
    }

    /// The columns about what is left.
    pub fn set_passage(&mut self, row: &str, passage: &Passage) {
        let kib = |bytes: u64| Figure::plain(bytes as f64 / 1024.0);
        self.set(row, "most, KiB", kib(passage.peak_bytes));
        self.set(row, "left, KiB", kib(passage.left_bytes));
        self.set(row, "slowest call, µs", Figure::plain(passage.slowest_ns as f64 / 1e3));
    }

    /// As GitHub's markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "**{}**\n", self.title);
        let _ = writeln!(text, "| | {} |", self.columns.join(" | "));
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(self.columns.len()));
        for (name, figures) in &self.rows {
            let cell = |column| figures.get(column).map_or("-".to_owned(), Figure::text);
            let cells: Vec<_> = self.columns.iter().map(cell).collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text.push('\n');
        text
    }
}

impl Figure {
    /// A value that is no time and was never wrong.
    pub fn plain(value: f64) -> Self {
        Self { value, atomics: None, best: None, false_no_share: None }
    }

    fn text(&self) -> String {
        let mut text = number(self.value);
        if let Some(atomics) = self.atomics {
            let _ = write!(text, " ({})", number(atomics));
        }
        if let Some(share) = self.false_no_share {
            let _ = write!(text, ", {} % false", number(share * 100.0));
        }
        text
    }
}

/// Three digits, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let decimals = if value.abs() < 10.0 { 2 } else { 1 };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

impl Report {
    /// All tables, for a README.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}. One atomic read-modify-write: {} ns.\n\n",
            self.machine,
            number(self.one_atomic_ns)
        );
        self.tables.iter().for_each(|table| text += &table.markdown());
        text
    }
}

/// Puts `text` into the README beside this package, between the marks that `part` names.
pub fn write_readme(part: &str, text: &str) -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path)?;
    let [begin, end] = ["begin", "end"].map(|which| format!("<!-- {part}: {which} -->\n"));
    let marked = || {
        let (before, rest) = readme.split_once(&begin)?;
        let (_, after) = rest.split_once(&end)?;
        Some(format!("{before}{begin}\n{text}{end}{after}"))
    };
    let missing = || std::io::Error::other(format!("the README lacks the marks of '{part}'"));
    std::fs::write(path, marked().ok_or_else(missing)?)
}
