//! Plots as one SVG file, one below the other. It follows the reader's colour scheme: each has a ground of its own, so
//! that a page of any colour may show it.

use std::fmt::Write;

use super::{Curve, Plot, axis::Axis};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT_MIN: f64 = 64.0;
const RIGHT_MIN: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 52.0;
/// About the width of a character: no font is at hand that could tell.
const CHARACTER: f64 = 7.5;

/// Ground, text, grid, and four curves; colours that also those tell apart who do not see red and green (Okabe and Ito).
const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.ground { fill: #ffffff; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.axis { stroke: #57606a; stroke-width: 1; }
.line { fill: none; stroke-width: 2; }
.mark { fill: none; stroke-width: 2; }
.c0 { stroke: #0072b2; } .c1 { stroke: #d55e00; } .c2 { stroke: #009e73; } .c3 { stroke: #cc79a7; }
.d1, .d3 { stroke-dasharray: 6 4; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .ground { fill: #0d1117; }
  .grid { stroke: #30363d; }
  .axis { stroke: #8b949e; }
  .c0 { stroke: #56b4e9; } .c1 { stroke: #e69f00; } .c2 { stroke: #3fd0a3; } .c3 { stroke: #e3a8c8; }
}";

/// All plots in one file.
pub(crate) fn svg(plots: &[Plot]) -> String {
    let height = HEIGHT * plots.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<style>\n{STYLE}\n</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    for (plot, i) in plots.iter().zip(0u32..) {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", HEIGHT * f64::from(i));
        panel(plot, &mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// Where the x axis begins and ends: beside it is room for the widest label of y, and for half of one of x.
fn sides(x: &Axis, y: &Axis) -> (f64, f64) {
    let width = |axis: &Axis| CHARACTER * axis.label_chars() as f64;
    (LEFT_MIN.max(width(y) + 16.0), WIDTH - RIGHT_MIN.max(width(x) / 2.0 + 4.0))
}

fn x_of(x: &Axis, (left, right): (f64, f64), value: f64) -> f64 {
    left + x.at(value) * (right - left)
}

fn y_of(y: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.at(value) * (HEIGHT - TOP - BOTTOM)
}

fn panel(plot: &Plot, out: &mut String) {
    let (x, y) = plot.axes(10, 5);
    let (left, right) = sides(&x, &y);
    let bottom = HEIGHT - BOTTOM;
    text(out, (left, 24.0), "title", "start", &plot.title);
    for tick in &y.ticks {
        let at = y_of(&y, *tick);
        line(out, "grid", (left, at), (right, at));
        text(out, (left - 8.0, at + 4.0), "tick", "end", &y.label(*tick));
    }
    line(out, "axis", (left, bottom), (right, bottom));
    for tick in &x.ticks {
        let at = x_of(&x, (left, right), *tick);
        line(out, "axis", (at, bottom), (at, bottom + 5.0));
        text(out, (at, bottom + 20.0), "tick", "middle", &x.label(*tick));
    }
    text(out, ((left + right) / 2.0, HEIGHT - 12.0), "label", "middle", &plot.x);
    for (curve, i) in plot.curves.iter().zip((0..4).cycle()) {
        let points: Vec<_> = plot.shown(curve).map(|(px, py)| (x_of(&x, (left, right), px), y_of(&y, py))).collect();
        drawn(out, i, &points);
    }
    legend(&plot.curves, left, out);
}

/// One curve.
fn drawn(out: &mut String, i: usize, points: &[(f64, f64)]) {
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(out, "<polyline class=\"line c{i} d{i}\" points=\"{}\"/>", path.join(" "));
    for point in points {
        mark(out, i, *point);
    }
}

/// Circles, squares, triangles, diamonds, open and each larger than the one before, so that none hides another.
fn mark(out: &mut String, i: usize, (x, y): (f64, f64)) {
    let size = 3.0 + 2.0 * i as f64;
    let (left, right, top, bottom) = (x - size, x + size, y - size, y + size);
    let shape = match i {
        0 => format!("M{left:.1} {y:.1} a{size} {size} 0 1 0 {0} 0 a{size} {size} 0 1 0 -{0} 0", 2.0 * size),
        1 => format!("M{left:.1} {top:.1} H{right:.1} V{bottom:.1} H{left:.1}"),
        2 => format!("M{left:.1} {bottom:.1} L{x:.1} {top:.1} L{right:.1} {bottom:.1}"),
        _ => format!("M{left:.1} {y:.1} L{x:.1} {top:.1} L{right:.1} {y:.1} L{x:.1} {bottom:.1}"),
    };
    let _ = writeln!(out, "<path class=\"mark c{i}\" d=\"{shape} Z\"/>");
}

/// Names of the curves, in a row below the title.
fn legend(curves: &[Curve], left: f64, out: &mut String) {
    let mut x = left;
    for (curve, i) in curves.iter().zip((0..4).cycle()) {
        let _ = writeln!(out, "<path class=\"line c{i} d{i}\" d=\"M{x:.1} 42 h28\"/>");
        mark(out, i, (x + 14.0, 42.0));
        text(out, (x + 36.0, 46.0), "name", "start", &curve.name);
        x += 60.0 + CHARACTER * curve.name.chars().count() as f64;
    }
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(out, "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1} L{x2:.1} {y2:.1}\"/>");
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
    // Characters that XML does not allow, and others that do not show: names come from a cluster and from files.
    let hidden = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    let text = text.replace(hidden, " ").replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
