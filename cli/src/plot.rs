//! Plots of curves for people: as text for a terminal and as SVG for a file. Pure: numbers in, text out.
//!
//! The x axis is linear or goes by powers of two; the y axis is linear. Axes end at round numbers. Curves are told apart
//! by their marks as well as by colours, since curves that are compared often lie on each other.

mod axis;
mod svg;
mod terminal;

pub(crate) use svg::svg;
pub(crate) use terminal::terminal;

/// One plot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plot {
    /// What is shown.
    pub(crate) title: String,
    /// What x is, with its unit.
    pub(crate) x: String,
    /// Whether x goes by powers of two.
    pub(crate) x_log2: bool,
    /// Ends of the y axis; those of the points when left out.
    pub(crate) y_ends: Option<(f64, f64)>,
    /// The curves; more than four share marks.
    pub(crate) curves: Vec<Curve>,
}

/// One curve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    /// Its name in the legend.
    pub(crate) name: String,
    /// x and y, by rising x. What is not finite, or not above 0 on an axis by powers of two, is left out.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Plot {
    /// Axes of x and y, divided into about so many parts.
    fn axes(&self, x_ticks: usize, y_ticks: usize) -> (axis::Axis, axis::Axis) {
        let all = || self.curves.iter().flat_map(|curve| self.shown(curve));
        let x = axis::ends(all().map(|(x, _)| x));
        let y = self.y_ends.unwrap_or_else(|| axis::ends(all().map(|(_, y)| y)));
        let x = if self.x_log2 { axis::Axis::log2(x, x_ticks) } else { axis::Axis::linear(x, x_ticks) };
        (x, axis::Axis::linear(y, y_ticks))
    }

    /// The points of a curve that have a place.
    fn shown<'a>(&self, curve: &'a Curve) -> impl Iterator<Item = (f64, f64)> + 'a {
        let log2 = self.x_log2;
        curve.points.iter().copied().filter(move |(x, y)| x.is_finite() && y.is_finite() && (!log2 || *x > 0.0))
    }
}

#[cfg(test)]
mod tests;
