//! Axes: round ends, ticks, and where a value lies.

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log2: bool,
    decimals: usize,
    /// Values that are written beside it, rising; the first and the last may be its ends.
    pub(super) ticks: Vec<f64>,
}

/// The smallest and the largest value; 0 and 1 when there is none.
pub(super) fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// Smallest step of 1, 2 or 5 times a power of ten that divides `span` into at most `count`.
fn step(span: f64, count: usize) -> f64 {
    let rough = span / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= rough).unwrap_or(10.0);
    times * power
}

impl Axis {
    /// Evenly divided, into about `count` parts.
    pub(super) fn linear((low, high): (f64, f64), count: usize) -> Self {
        // Of values that are all the same a span is made, so that they lie in the middle.
        let half = if high > low { 0.0 } else { (low.abs() * 0.1).max(0.5) };
        let (low, high) = (low - half, high + half);
        let step = step(high - low, count);
        // A hair of tolerance, so that an end that is a multiple of the step stays one.
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let ticks = (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect();
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        Self { low: first * step, high: last * step, log2: false, decimals, ticks }
    }

    /// Divided by powers of two, with at most `count` ticks.
    pub(super) fn log2((low, high): (f64, f64), count: usize) -> Self {
        let (low, high) = ((low.max(1.0).log2() + 1e-9).floor(), (high.max(1.0).log2() - 1e-9).ceil());
        let high = high.max(low + 1.0);
        let stride = ((high - low + 1.0) / count.max(1) as f64).ceil() as usize;
        let ticks = (low as i32..=high as i32).step_by(stride.max(1)).map(|power| 2f64.powi(power)).collect();
        Self { low, high, log2: true, decimals: 0, ticks }
    }

    /// Where a value lies: 0 at the low end, 1 at the high one.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if self.log2 { value.log2() } else { value };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Characters of the widest label.
    pub(super) fn label_chars(&self) -> usize {
        self.ticks.iter().map(|tick| self.label(*tick).chars().count()).max().unwrap_or(0)
    }

    /// A tick's value as text.
    pub(super) fn label(&self, tick: f64) -> String {
        let text = format!("{tick:.*}", self.decimals);
        // Rounding may leave a zero with a sign.
        if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) {
            text.trim_start_matches('-').to_owned()
        } else {
            text
        }
    }
}
