//! The plot of the README: nanoseconds a pair over occupancy, a line for each allocator.

use crate::report::{Figure, Table};
use std::fmt::Write;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 404.0;
/// Labels at the ends of lines keep this distance.
const LABEL_STEP: f64 = 17.0;

/// Colours that differ in lightness as well as in hue, for eyes that see few hues.
const COLOURS: [&str; 9] = [
    "#8b8b8b", "#d55e00", "#cc79a7", "#e69f00", "#0072b2", "#009e73", "#d10f4c", "#7a3fd0", "#444",
];

struct Line<'t> {
    name: &'t str,
    colour: &'static str,
    /// (percent held, nanoseconds)
    points: Vec<(f64, f64)>,
}

/// An SVG of the table's columns that are called "NUMBER %".
pub fn pairs(table: &Table) -> String {
    let percents: Vec<(f64, &String)> = table
        .columns
        .iter()
        .filter_map(|column| Some((column.strip_suffix(" %")?.parse().ok()?, column)))
        .collect();
    let lines: Vec<Line<'_>> = table
        .rows
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|((name, figures), colour)| {
            let point = |(percent, column): &(f64, &String)| {
                figures.get(*column).map(|Figure { value, .. }| (*percent, *value))
            };
            Line { name, colour, points: percents.iter().filter_map(point).collect() }
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    let percents: Vec<f64> = percents.iter().map(|(percent, _)| *percent).collect();
    let mut svg = String::new();
    head(&mut svg);
    let axes = Axes::over(&percents, &lines);
    axes.draw(&mut svg, &percents);
    draw_lines(&mut svg, &axes, &lines);
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String) {
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Nanoseconds for a release and an acquire, over the share of the range that is held">
<style>
  text {{ font: 13px system-ui, sans-serif; fill: #24292f; }}
  .title {{ font-size: 15px; font-weight: 600; }}
  .grid {{ stroke: #d0d7de; stroke-width: 1; }}
  .paper {{ fill: #fff; }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e6edf3; }} .grid {{ stroke: #30363d; }} .paper {{ fill: #0d1117; }}
  }}
</style>
<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>
<text class="title" x="{LEFT}" y="24">A release and an acquire: nanoseconds over the share of 64,512 ports held</text>
<text x="{LEFT}" y="43">one destination, one thread, both axes logarithmic (the lower one in what is free)</text>"##
    );
}

/// Where a point falls: the share that is free and the time, both logarithmic.
struct Axes {
    free: (f64, f64),
    decades: (i32, i32),
}

impl Axes {
    fn over(percents: &[f64], lines: &[Line<'_>]) -> Self {
        let free = |percent: f64| (100.0 - percent).log10();
        let times = lines.iter().flat_map(|line| &line.points).map(|(_, ns)| ns.log10());
        let (lowest, highest) =
            times.fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)));
        Self {
            free: (
                free(percents.iter().copied().fold(f64::MAX, f64::min)),
                free(percents.iter().copied().fold(f64::MIN, f64::max)),
            ),
            decades: (lowest.floor() as i32, highest.ceil() as i32),
        }
    }

    fn x(&self, percent: f64) -> f64 {
        let (first, last) = self.free;
        LEFT + (RIGHT - LEFT) * ((100.0 - percent).log10() - first) / (last - first)
    }

    fn y(&self, ns: f64) -> f64 {
        let (low, high) = self.decades;
        let share = (ns.log10() - f64::from(low)) / f64::from(high - low);
        BOTTOM - (BOTTOM - TOP) * share
    }

    fn draw(&self, svg: &mut String, percents: &[f64]) {
        for decade in self.decades.0..=self.decades.1 {
            let y = self.y(10_f64.powi(decade));
            let text = match decade {
                ..3 => format!("{} ns", 10_u64.pow(decade.max(0) as u32)),
                3..6 => format!("{} µs", 10_u64.pow(decade as u32 - 3)),
                _ => format!("{} ms", 10_u64.pow(decade as u32 - 6)),
            };
            let _ = writeln!(
                svg,
                r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>
<text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 8.0,
                y + 4.5
            );
        }
        for percent in percents {
            let x = self.x(*percent);
            let _ = writeln!(
                svg,
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{BOTTOM}"/>
<text x="{x:.1}" y="{:.1}" text-anchor="middle">{percent} %</text>"#,
                BOTTOM + 20.0
            );
        }
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">held</text>"#,
            (LEFT + RIGHT) / 2.0,
            BOTTOM + 42.0
        );
    }
}

fn draw_lines(svg: &mut String, axes: &Axes, lines: &[Line<'_>]) {
    let end = |line: &Line<'_>| axes.y(line.points[line.points.len() - 1].1);
    let mut by_end: Vec<&Line<'_>> = lines.iter().collect();
    by_end.sort_by(|a, b| end(a).total_cmp(&end(b)));
    let mut label_y: f64 = 0.0;
    // From the bottom up would push the best off the paper; from the top down there is room.
    for line in by_end {
        let points: Vec<String> = line
            .points
            .iter()
            .map(|&(percent, ns)| format!("{:.1},{:.1}", axes.x(percent), axes.y(ns)))
            .collect();
        let ours = line.name.starts_with("portlease");
        let (width, weight) = if ours { (3.5, 700) } else { (1.8, 400) };
        let colour = line.colour;
        label_y = end(line).max(label_y + LABEL_STEP);
        let _ = writeln!(
            svg,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" points="{}"/>
<line stroke="{colour}" stroke-width="1" x1="{RIGHT}" x2="{:.1}" y1="{:.1}" y2="{label_y:.1}"/>
<text x="{:.1}" y="{:.1}" style="font-weight:{weight};fill:{colour}">{}</text>"#,
            points.join(" "),
            RIGHT + 14.0,
            end(line),
            RIGHT + 18.0,
            label_y + 4.5,
            line.name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
        );
    }
}
