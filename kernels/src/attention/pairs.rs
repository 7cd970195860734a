//! Products from pairs of bf16, on AVX-512.
//!
//! Queries are rounded to bf16; rows are taken as they are stored, or of fp8 as code × scale rounded to bf16; weights
//! are rounded to bf16, and it is the rounded ones that their sum adds up, so that they are parts of one. A score adds
//! the pairs of the latent and then those of the rotated part, a result the pairs of keys; an odd last number, or key,
//! is paired with zero. Within a pair the higher comes first, each sum rounded once, subnormal numbers zero: see
//! `panel`.
//!
//! A tile's rows are turned into lines once, for all rows of scores of the job: the heads of one query or, where a
//! sequence's queries read everything, of several. Then every part of the work goes over those rows in groups that fill
//! the registers:
//!
//! ```text
//! words    [group][pairs][rows]            queries             keys     [4 panels][pairs] lines, 16 keys × 2 numbers
//! scores   [rows][64]                      then weights        values   [panels][32] lines, 16 outputs × 2 keys
//! weights  [group][32 pairs][rows]         as words
//! sums     [panels / wide][rows][wide × 16]
//! ```

use std::ops::Range;

use super::avx512::{Softmax, lay_out, lines_of, rescale};
use super::{AttentionShape, Queries, Seen, TILE};
use crate::cache::PAGE_ROWS;
use crate::context::Ctx;
use crate::linear::activations::Groups;
use crate::panel::{self, Encoding, Line, PANEL, Tile};
use crate::scratch;

/// Lines along a score that all rows take before the next ones: with two panels they stay in the first-level cache.
const STEP_LINES: usize = 128;
/// Pairs of keys of a tile.
const KEY_PAIRS: usize = TILE / 2;

/// What a job works with.
struct Job<'a> {
    ctx: &'a Ctx,
    shape: &'a AttentionShape,
    queries: &'a Queries<'a>,
    seen: Seen<'a>,
    /// Rows of scores: queries × heads.
    rows: usize,
    /// Pairs of a score, and panels of a result.
    pairs: usize,
    panels: usize,
    /// Panels that a tile of rows takes at once.
    wide: usize,
}

/// The buffers of a job; see the head of this file.
struct Buffers<'a> {
    words: &'a mut [f32],
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    sums: &'a mut [f32],
    max: &'a mut [f32],
    factors: &'a mut [f32],
    lanes: &'a mut [[f32; PANEL]],
    keys: &'a mut [Line],
    values: &'a mut [Line],
    /// A line for each panel of values: a key and zero.
    last: &'a mut [Line],
}

/// The stored rows of a tile.
struct Rows<'a> {
    rows: [&'a [u8]; TILE],
    count: usize,
}

pub(super) fn attend(ctx: &Ctx, shape: &AttentionShape, queries: &Queries<'_>, out: &mut [f32]) {
    let (rank, rope) = (shape.codec.rank(), shape.codec.rope());
    let rows = queries.count * queries.heads;
    // Few rows leave room for the sums of more panels.
    let wide = if rows <= panel::TILE_ROWS / 2 { 4 } else { 2 };
    let pairs = rank.div_ceil(2) + rope.div_ceil(2);
    let job = Job { ctx, shape, queries, seen: queries.seen(), rows, pairs, panels: rank.div_ceil(PANEL), wide };
    let chunks = job.panels.div_ceil(wide);
    let sizes = [rows * pairs, rows * TILE, rows * KEY_PAIRS, chunks * rows * wide * PANEL, rows, rows, rows * PANEL];
    let lines = [TILE / PANEL * pairs, job.panels * KEY_PAIRS, job.panels];
    scratch::with(sizes.iter().sum(), |buffer| {
        scratch::with_lines(lines.iter().sum(), |lent| {
            let (words, rest) = buffer.split_at_mut(sizes[0]);
            let (scores, rest) = rest.split_at_mut(sizes[1]);
            let (weights, rest) = rest.split_at_mut(sizes[2]);
            let (sums, rest) = rest.split_at_mut(sizes[3]);
            let (max, rest) = rest.split_at_mut(sizes[4]);
            let (factors, lanes) = rest.split_at_mut(sizes[5]);
            let (lanes, _) = lanes.as_chunks_mut();
            let (keys, rest) = lent.split_at_mut(lines[0]);
            let (values, last) = rest.split_at_mut(lines[1]);
            let mut b = Buffers { words, scores, weights, sums, max, factors, lanes, keys, values, last };
            b.sums.fill(0.0);
            b.max.fill(f32::NEG_INFINITY);
            b.lanes.fill([0.0; PANEL]);
            job.run(&mut b);
            job.finish(&b, out);
        });
    });
}

impl<'a> Job<'a> {
    fn run(&self, b: &mut Buffers<'_>) {
        self.lay_out_queries(b);
        let mut keys = self.seen.tile(0);
        let mut rows = self.rows_of(keys.clone());
        while !keys.is_empty() {
            let next = self.seen.tile(keys.end);
            let next_rows = self.rows_of(next.clone());
            lines_of(&self.shape.codec, &rows.rows[..rows.count], b.keys, b.values);
            self.tile(keys, &next_rows, b);
            (keys, rows) = (next, next_rows);
        }
    }

    /// Where the rows of some keys are stored.
    fn rows_of(&self, keys: Range<usize>) -> Rows<'a> {
        let mut rows = Rows { rows: [&[]; TILE], count: keys.len() };
        for (row, key) in rows.rows.iter_mut().zip(keys) {
            let position = self.seen.position(key);
            *row = self.shape.codec.row(self.queries.sequence.cache.page_of(position), position % PAGE_ROWS);
        }
        rows
    }

    fn lay_out_queries(&self, b: &mut Buffers<'_>) {
        let (rank, width) = (self.shape.codec.rank(), self.shape.codec.width());
        for group in groups(0..self.rows) {
            let (latent, rope) = b.words[group.start * self.pairs..].split_at_mut(rank.div_ceil(2) * group.len());
            let q = &self.queries.q[group.start * width..];
            lay_out(q, width, [group.len(), rank], latent);
            lay_out(&q[rank..], width, [group.len(), width - rank], rope);
        }
    }

    /// Takes a tile into the running softmax of every query. Meanwhile the rows of the next one are asked for.
    fn tile(&self, keys: Range<usize>, next: &Rows<'_>, b: &mut Buffers<'_>) {
        let heads = self.queries.heads;
        // A query reads one key more than the one before it.
        let count = |query: usize| {
            (self.seen.count + query + 1).saturating_sub(self.queries.count).min(keys.end).saturating_sub(keys.start)
        };
        let mut asked = next.rows[..next.count].iter();
        self.score(&|row| count(row / heads), &mut asked, b);
        asked.for_each(|row| panel::ask_for(row));
        if count(0) == keys.len() {
            self.weigh(0..self.rows, keys.len(), b);
            return self.add_values(0..self.rows, keys.len(), b);
        }
        for query in 0..self.queries.count {
            let rows = query * heads..(query + 1) * heads;
            let count = count(query);
            if count > 0 {
                self.weigh(rows.clone(), count, b);
                self.add_values(rows, count, b);
            }
        }
    }

    /// Scores of all rows with the panels of keys that they read, `count` keys by row.
    fn score<'r>(
        &self,
        count: &dyn Fn(usize) -> usize,
        asked: &mut impl Iterator<Item = &'r &'r [u8]>,
        b: &mut Buffers<'_>,
    ) {
        b.scores.fill(0.0);
        let step = self.pairs.div_ceil(self.pairs.div_ceil(STEP_LINES).max(1));
        for first in (0..TILE / PANEL).step_by(self.wide) {
            for line in (0..self.pairs).step_by(step) {
                for group in groups(0..self.rows) {
                    let panels = count(group.end - 1).div_ceil(PANEL).saturating_sub(first).min(self.wide);
                    let steps = step.min(self.pairs - line);
                    let tile = Tile {
                        x: &b.words[group.start * self.pairs + line * group.len()..],
                        rows: group.len(),
                        lines: b.keys.get(first * self.pairs + line..).unwrap_or_default(),
                        panel_lines: self.pairs,
                        panels,
                        acc: &mut b.scores[group.start * TILE + first * PANEL..],
                        acc_stride: TILE,
                        ..plain(steps)
                    };
                    panel::run(self.ctx.path(), tile);
                    asked.next().iter().for_each(|row| panel::ask_for(row));
                }
            }
        }
    }

    /// Turns scores into weights, and rescales what was added up before.
    fn weigh(&self, rows: Range<usize>, count: usize, b: &mut Buffers<'_>) {
        let mut softmax = Softmax {
            scores: &mut b.scores[rows.start * TILE..rows.end * TILE],
            max: &mut b.max[rows.clone()],
            factors: &mut b.factors[rows.clone()],
            lanes: &mut b.lanes[rows.clone()],
        };
        softmax.weigh(count, self.shape.scale);
        let width = self.wide * PANEL;
        for sums in b.sums.chunks_exact_mut(self.rows * width) {
            rescale(&mut sums[rows.start * width..], width, &b.factors[rows.clone()]);
        }
    }

    /// Adds the first `count` values, times their weights, to the sums of some rows.
    fn add_values(&self, rows: Range<usize>, count: usize, b: &mut Buffers<'_>) {
        for group in groups(rows.clone()) {
            let words = &mut b.weights[group.start * KEY_PAIRS..group.end * KEY_PAIRS];
            lay_out(&b.scores[group.start * TILE..], TILE, [group.len(), TILE], words);
        }
        // Another query may read the key that follows an odd last one, whose value must not even meet a weight of zero.
        let odd = count % 2 == 1;
        let whole = count / 2;
        if odd {
            let lines = b.values.iter().skip(whole).step_by(KEY_PAIRS);
            b.last.iter_mut().zip(lines).for_each(|(last, line)| *last = Line(line.0.map(|word| word & 0xffff)));
        }
        let width = self.wide * PANEL;
        for (chunk, sums) in b.sums.chunks_exact_mut(self.rows * width).enumerate() {
            let first = chunk * self.wide;
            let panels = self.wide.min(self.panels - first);
            for group in groups(rows.clone()) {
                let words = &b.weights[group.start * KEY_PAIRS..];
                let parts = [
                    (words, &b.values[first * KEY_PAIRS..], KEY_PAIRS, whole),
                    (&words[whole * group.len()..], &b.last[first..], 1, usize::from(odd)),
                ];
                for (x, lines, panel_lines, steps) in parts {
                    let acc = &mut sums[group.start * width..];
                    let rows = group.len();
                    let tile = Tile { x, rows, lines, panel_lines, panels, acc, acc_stride: width, ..plain(steps) };
                    panel::run(self.ctx.path(), tile);
                }
            }
        }
    }

    fn finish(&self, b: &Buffers<'_>, out: &mut [f32]) {
        let (rank, width) = (self.shape.codec.rank(), self.wide * PANEL);
        for (row, out) in out.chunks_exact_mut(rank).enumerate() {
            // Without keys this is 0 / 0, the NaN that it should be.
            let sum: f32 = b.lanes[row].iter().sum();
            for (chunk, out) in out.chunks_mut(width).enumerate() {
                let sums = &b.sums[(chunk * self.rows + row) * width..];
                out.iter_mut().zip(sums).for_each(|(o, &v)| *o = v / sum);
            }
        }
    }
}

/// Rows in groups that fill the registers.
fn groups(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let groups = Groups::of(rows.len());
    (0..groups.count()).map(move |g| {
        let group = groups.rows(g);
        rows.start + group.start..rows.start + group.end
    })
}

/// A tile of pairs without scales, still without its numbers.
fn plain<'t>(steps: usize) -> Tile<'t> {
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
