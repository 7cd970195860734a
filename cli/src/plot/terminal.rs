//! A plot as lines of text: marks at the points, dots between them.

use super::{Curve, Plot, axis::Axis};

/// Marks of the curves.
const MARKS: [char; 4] = ['●', '○', '▲', '△'];
/// Where marks of several curves meet.
const SEVERAL: char = '◉';
const BETWEEN: char = '·';

const COLUMNS: usize = 56;
const ROWS: usize = 11;

/// The cells between the axes, rows from above.
struct Grid(Vec<Vec<char>>);

impl Grid {
    fn cell(&mut self, x: f64, y: f64) -> Option<&mut char> {
        let column = (x * (COLUMNS - 1) as f64).round() as usize;
        let row = ROWS - 1 - (y * (ROWS - 1) as f64).round() as usize;
        self.0.get_mut(row)?.get_mut(column)
    }

    fn dot(&mut self, x: f64, y: f64) {
        if let Some(cell) = self.cell(x, y).filter(|cell| **cell == ' ') {
            *cell = BETWEEN;
        }
    }

    fn mark(&mut self, x: f64, y: f64, mark: char) {
        if let Some(cell) = self.cell(x, y) {
            *cell = if matches!(*cell, ' ' | BETWEEN) || *cell == mark { mark } else { SEVERAL };
        }
    }
}

/// The plot, some 70 characters wide.
pub(crate) fn terminal(plot: &Plot) -> String {
    let (x, y) = plot.axes(8, 5);
    let places = |curve: &Curve| plot.shown(curve).map(|(px, py)| (x.at(px), y.at(py))).collect::<Vec<_>>();
    let mut grid = Grid(vec![vec![' '; COLUMNS]; ROWS]);
    for curve in &plot.curves {
        for pair in places(curve).windows(2) {
            let [from, to] = [pair[0], pair[1]];
            for i in 1..COLUMNS {
                let share = i as f64 / COLUMNS as f64;
                grid.dot(from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share);
            }
        }
    }
    for (curve, mark) in plot.curves.iter().zip(MARKS.into_iter().cycle()) {
        for (px, py) in places(curve) {
            grid.mark(px, py, mark);
        }
    }
    let several = grid.0.iter().flatten().any(|cell| *cell == SEVERAL);
    let mut lines = vec![plot.title.clone()];
    let margin = MARGIN_MIN.max(y.label_chars());
    lines.extend(rows(&grid, &y, margin));
    lines.extend(foot(plot, &x, several, margin));
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// Width of what is written left of the y axis, at least, so that plots below each other stand in line.
const MARGIN_MIN: usize = 8;

fn rows(grid: &Grid, y: &Axis, margin: usize) -> impl Iterator<Item = String> {
    let row_of = |tick: f64| ROWS - 1 - (y.at(tick) * (ROWS - 1) as f64).round() as usize;
    grid.0.iter().enumerate().map(move |(row, cells)| {
        let tick = y.ticks.iter().find(|tick| row_of(**tick) == row);
        let (label, line) = tick.map_or((String::new(), '│'), |tick| (y.label(*tick), '┤'));
        format!("{label:>margin$} {line}{}", cells.iter().collect::<String>())
    })
}

/// The x axis, its ticks, and the legend.
fn foot(plot: &Plot, x: &Axis, several: bool, margin: usize) -> [String; 3] {
    let (mut line, mut labels) = (vec!['─'; COLUMNS], vec![' '; COLUMNS + 8]);
    let mut free = 0;
    for tick in &x.ticks {
        let column = (x.at(*tick) * (COLUMNS - 1) as f64).round() as usize;
        line[column] = '┬';
        let label = x.label(*tick);
        let start = (column + 1).saturating_sub(label.len().div_ceil(2));
        // A label that would run into the one before is left out.
        if start < free || start + label.len() > labels.len() {
            continue;
        }
        labels[start..start + label.len()].copy_from_slice(&label.chars().collect::<Vec<_>>());
        free = start + label.len() + 1;
    }
    let mut legend: Vec<String> = plot
        .curves
        .iter()
        .zip(MARKS.into_iter().cycle())
        .map(|(curve, mark)| format!("{mark} {}", curve.name))
        .collect();
    if several {
        legend.push(format!("{SEVERAL} {}", if plot.curves.len() == 2 { "both" } else { "several" }));
    }
    let indent = " ".repeat(margin);
    [
        format!("{indent} └{}", line.iter().collect::<String>()),
        format!("{indent}  {}", labels.iter().collect::<String>()),
        format!("{indent}  {}    {}", plot.x, legend.join("  ")),
    ]
}
