//! The running softmax of some rows of scores over tiles of keys and values that are lines of pairs of bf16, on AVX-512.
//!
//! Every part of the work goes over all rows, in groups that fill the registers, before the next part:
//!
//! ```text
//! words    [group][pairs][rows]            queries             keys     [4 panels][pairs] lines, 16 keys × 2 numbers
//! scores   [rows][64]                      then weights        values   [panels][32] lines, 16 outputs × 2 keys
//! weights  [group][32 pairs][rows]         as words
//! sums     [panels / wide][rows][wide × 16]
//! ```

use std::ops::Range;

use super::TILE;
use super::avx512::{Softmax, lay_out, rescale};
use crate::context::Path;
use crate::linear::activations::Groups;
use crate::panel::{self, Encoding, Line, PANEL, Tile};
use crate::scratch;

/// Lines along a score that all rows take before the next ones: with two panels they stay in the first-level cache.
const STEP_LINES: usize = 128;
/// Pairs of keys of a tile.
const KEY_PAIRS: usize = TILE / 2;

/// What the rows of a running softmax are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flash {
    path: Path,
    rows: usize,
    /// Numbers of the two parts of a query or key, each with pairs of its own, and of a value.
    parts: [usize; 2],
    outputs: usize,
    scale: f32,
    /// Panels that a group of rows takes at once.
    wide: usize,
}

/// The numbers of a running softmax; see the head of this file.
pub(crate) struct State<'a> {
    words: &'a mut [f32],
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    sums: &'a mut [f32],
    max: &'a mut [f32],
    factors: &'a mut [f32],
    lanes: &'a mut [[f32; PANEL]],
    /// A line for each panel of values: a key and zero.
    last: &'a mut [Line],
}

impl Flash {
    pub(crate) fn new(path: Path, rows: usize, parts: [usize; 2], outputs: usize, scale: f32) -> Self {
        // Few rows leave room for the sums of more panels.
        let wide = if rows <= panel::TILE_ROWS / 2 { 4 } else { 2 };
        Self { path, rows, parts, outputs, scale, wide }
    }

    /// Lines of a panel of keys: pairs of a score.
    pub(crate) fn pairs(&self) -> usize {
        self.parts.iter().map(|n| n.div_ceil(2)).sum()
    }

    /// Lines of a tile's keys and of its values.
    pub(crate) fn lines(&self) -> [usize; 2] {
        [TILE / PANEL * self.pairs(), self.panels() * KEY_PAIRS]
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Numbers from row to row of a run of sums.
    fn width(&self) -> usize {
        self.wide * PANEL
    }

    /// Lends the numbers for the queries `q`, [rows, width], before their first key.
    pub(crate) fn with<R>(&self, q: &[f32], f: impl FnOnce(&mut State<'_>) -> R) -> R {
        let rows = self.rows;
        let sums = self.panels().div_ceil(self.wide) * rows * self.width();
        let sizes = [rows * self.pairs(), rows * TILE, rows * KEY_PAIRS, sums, rows, rows, rows * PANEL];
        scratch::with(sizes.iter().sum(), |buffer| {
            scratch::with_lines(self.panels(), |last| {
                let (words, rest) = buffer.split_at_mut(sizes[0]);
                let (scores, rest) = rest.split_at_mut(sizes[1]);
                let (weights, rest) = rest.split_at_mut(sizes[2]);
                let (sums, rest) = rest.split_at_mut(sizes[3]);
                let (max, rest) = rest.split_at_mut(sizes[4]);
                let (factors, lanes) = rest.split_at_mut(sizes[5]);
                let (lanes, _) = lanes.as_chunks_mut();
                sums.fill(0.0);
                max.fill(f32::NEG_INFINITY);
                lanes.fill([0.0; PANEL]);
                let mut state = State { words, scores, weights, sums, max, factors, lanes, last };
                self.lay_out_queries(q, &mut state);
                f(&mut state)
            })
        })
    }

    fn lay_out_queries(&self, q: &[f32], s: &mut State<'_>) {
        let [first, second] = self.parts;
        let width = first + second;
        for group in groups(0..self.rows) {
            let words = &mut s.words[group.start * self.pairs()..];
            let (a, b) = words.split_at_mut(first.div_ceil(2) * group.len());
            let q = &q[group.start * width..];
            lay_out(q, width, [group.len(), first], a);
            lay_out(&q[first..], width, [group.len(), second], b);
        }
    }

    /// Scores of all rows with the panels of keys that they read, `count` keys by row, ascending. Meanwhile the memory
    /// fetches what is asked for.
    pub(crate) fn score(
        &self,
        keys: &[Line],
        count: &dyn Fn(usize) -> usize,
        asked: &mut dyn Iterator<Item = &[u8]>,
        s: &mut State<'_>,
    ) {
        s.scores.fill(0.0);
        let pairs = self.pairs();
        let step = pairs.div_ceil(pairs.div_ceil(STEP_LINES).max(1));
        for first in (0..TILE / PANEL).step_by(self.wide) {
            for line in (0..pairs).step_by(step.max(1)) {
                for group in groups(0..self.rows) {
                    let panels = count(group.end - 1).div_ceil(PANEL).saturating_sub(first).min(self.wide);
                    let tile = Tile {
                        x: &s.words[group.start * pairs + line * group.len()..],
                        rows: group.len(),
                        lines: keys.get(first * pairs + line..).unwrap_or_default(),
                        panel_lines: pairs,
                        panels,
                        acc: &mut s.scores[group.start * TILE + first * PANEL..],
                        acc_stride: TILE,
                        ..plain(step.min(pairs - line))
                    };
                    panel::run(self.path, tile);
                    asked.next().iter().for_each(|bytes| panel::ask_for(bytes));
                }
            }
        }
        asked.for_each(panel::ask_for);
    }

    /// Turns the scores of some rows with the first `count` keys into weights, rescales what was added up before, and
    /// adds the values.
    pub(crate) fn add(&self, values: &[Line], rows: Range<usize>, count: usize, s: &mut State<'_>) {
        let mut softmax = Softmax {
            scores: &mut s.scores[rows.start * TILE..rows.end * TILE],
            max: &mut s.max[rows.clone()],
            factors: &mut s.factors[rows.clone()],
            lanes: &mut s.lanes[rows.clone()],
        };
        softmax.weigh(count, self.scale);
        for sums in s.sums.chunks_exact_mut(self.rows * self.width()) {
            rescale(&mut sums[rows.start * self.width()..], self.width(), &s.factors[rows.clone()]);
        }
        for group in groups(rows.clone()) {
            let words = &mut s.weights[group.start * KEY_PAIRS..group.end * KEY_PAIRS];
            lay_out(&s.scores[group.start * TILE..], TILE, [group.len(), TILE], words);
        }
        self.add_values(values, rows, count, s);
    }

    fn add_values(&self, values: &[Line], rows: Range<usize>, count: usize, s: &mut State<'_>) {
        // Another row may read the key that follows an odd last one, whose value must not even meet a weight of zero.
        let (whole, odd) = (count / 2, count % 2);
        if odd == 1 {
            let lines = values.iter().skip(whole).step_by(KEY_PAIRS);
            s.last.iter_mut().zip(lines).for_each(|(last, line)| *last = Line(line.0.map(|word| word & 0xffff)));
        }
        let width = self.width();
        for (chunk, sums) in s.sums.chunks_exact_mut(self.rows * width).enumerate() {
            let first = chunk * self.wide;
            let panels = self.wide.min(self.panels() - first);
            for group in groups(rows.clone()) {
                let words = &s.weights[group.start * KEY_PAIRS..];
                let parts = [
                    (words, &values[first * KEY_PAIRS..], KEY_PAIRS, whole),
                    (&words[whole * group.len()..], &s.last[first..], 1, odd),
                ];
                for (x, lines, panel_lines, steps) in parts {
                    let (rows, acc) = (group.len(), &mut sums[group.start * width..]);
                    let tile = Tile { x, rows, lines, panel_lines, panels, acc, acc_stride: width, ..plain(steps) };
                    panel::run(self.path, tile);
                }
            }
        }
    }

    /// Writes the results, [rows, outputs].
    pub(crate) fn finish(&self, s: &State<'_>, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.outputs).enumerate() {
            // Without keys this is 0 / 0, the NaN that it should be.
            let sum: f32 = s.lanes[row].iter().sum();
            for (chunk, out) in out.chunks_mut(self.width()).enumerate() {
                let sums = &s.sums[(chunk * self.rows + row) * self.width()..];
                out.iter_mut().zip(sums).for_each(|(o, &v)| *o = v / sum);
            }
        }
    }
}

/// Rows in groups that fill the registers.
pub(crate) fn groups(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + Clone {
    let groups = Groups::of(rows.len());
    (0..groups.count()).map(move |g| {
        let group = groups.rows(g);
        rows.start + group.start..rows.start + group.end
    })
}

/// A tile of pairs without scales, still without its numbers.
pub(crate) fn plain<'t>(steps: usize) -> Tile<'t> {
    Tile {
        encoding: Encoding::Bf16,
        x: &[],
        pairs: true,
        rows: 0,
        lines: &[],
        panel_lines: 0,
        panels: 0,
        steps,
        first_steps: steps,
        block_steps: steps,
        scale: &[],
        scale_stride: 0,
        acc: &mut [],
        acc_stride: 0,
    }
}
