//! The picture of the ratios: a row for each workload, a mark for each variant, a line where both cost the same.

use std::fmt::Write as _;

use super::spread::{Spread, ratios};
use super::table::{OTHERS, VARIANTS, main_figure, played};
use crate::sample::Results;
use crate::workload::Workload;

/// Of each variant.
const COLOURS: [&str; VARIANTS.len()] = ["#1a5fb4", "#c64600", "#26a269", "#813d9c", "#986a44"];

const ROW: f64 = 34.0;
const TOP: f64 = 84.0;
const LABELS: f64 = 130.0;
const PANEL: f64 = 340.0;
const GAP: f64 = 30.0;

/// The axis, in powers of two.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn over(ratios: impl Iterator<Item = Spread>) -> Self {
        ratios.fold(Self { from: -1, to: 1 }, |axis, Spread { min, max, .. }| Self {
            from: axis.from.min(min.log2().floor() as i32).max(-6),
            to: axis.to.max(max.log2().ceil() as i32).min(10),
        })
    }

    fn x(&self, ratio: f64) -> f64 {
        let share = (ratio.log2() - f64::from(self.from)) / f64::from(self.to - self.from);
        share.clamp(0.0, 1.0) * PANEL
    }
}

pub(super) fn svg(results: &Results) -> String {
    let rows = played(results);
    let ratio = |workload: &Workload, variant: &str, other: &str| {
        ratios(results, &workload.name, variant, other, main_figure(workload))
    };
    let bottom = TOP + ROW * rows.len() as f64;
    let (width, height) = (LABELS + 2.0 * (PANEL + GAP), bottom + 34.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">What mproxy costs, divided by what the other \
         costs</text>\n\
         <text x=\"12\" y=\"40\" fill=\"#555\">CPU per message; idle rows: resident memory. Median and range of {} \
         rounds, {}. Left of the line is better.</text>\n",
        results.rounds, results.machine.date,
    );
    legend(&mut svg);
    for (row, workload) in rows.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.5);
        if row % 2 == 0 {
            let top = y - ROW / 2.0;
            let _ = writeln!(
                svg,
                "<rect x=\"0\" y=\"{top}\" width=\"{width}\" height=\"{ROW}\" fill=\"#f4f4f6\"/>"
            );
        }
        let name = &workload.name;
        let _ = writeln!(svg, "<text x=\"12\" y=\"{:.1}\">{name}</text>", y + 4.0);
    }
    for (panel, other) in OTHERS.iter().enumerate() {
        let left = LABELS + panel as f64 * (PANEL + GAP);
        let all =
            rows.iter().flat_map(|row| VARIANTS.iter().filter_map(|variant| ratio(row, variant, other)));
        let axis = Axis::over(all);
        let _ = writeln!(svg, "<g transform=\"translate({left} 0)\">");
        ticks(&mut svg, &axis, bottom, other);
        for (row, workload) in rows.iter().enumerate() {
            for (place, (variant, colour)) in VARIANTS.iter().zip(COLOURS).enumerate() {
                let y = TOP + ROW * (row as f64 + 0.2 * (place as f64 + 1.0));
                if let Some(spread) = ratio(workload, variant, other) {
                    mark(&mut svg, &axis, spread, y, colour);
                }
            }
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    for (place, (variant, colour)) in VARIANTS.iter().zip(COLOURS).enumerate() {
        let x = 18.0 + 110.0 * place as f64;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"56\" r=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"60\">{variant}</text>",
            x + 9.0
        );
    }
}

/// Powers of two that an axis has room to name.
const CROWDED: i32 = 7;

fn ticks(svg: &mut String, axis: &Axis, bottom: f64, other: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-weight=\"bold\">against {other}</text>",
        PANEL / 2.0,
        TOP - 8.0
    );
    for power in axis.from..=axis.to {
        let ratio = f64::from(power).exp2();
        let x = axis.x(ratio);
        let (colour, wide) = if power == 0 { ("#222", 1.5) } else { ("#d4d4da", 1.0) };
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\" \
             stroke-width=\"{wide}\"/>"
        );
        // Every other one, where they would stand too close to be read; 1x always.
        if axis.to - axis.from <= CROWDED || power % 2 == 0 {
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{ratio}x</text>",
                bottom + 18.0
            );
        }
    }
}

fn mark(svg: &mut String, axis: &Axis, spread: Spread, y: f64, colour: &str) {
    let [min, median, max] = [spread.min, spread.median, spread.max].map(|ratio| axis.x(ratio));
    let _ = writeln!(
        svg,
        "<line x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" \
         stroke-width=\"2\" opacity=\"0.5\"/><circle cx=\"{median:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\">\
         <title>{:.2} ({:.2} to {:.2})</title></circle>",
        spread.median, spread.min, spread.max
    );
}
