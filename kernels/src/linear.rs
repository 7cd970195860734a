//! Products with weights, `out = x · wᵀ`, and the embedding.
//!
//! Weights keep their encoding in memory (bf16, e4m3 with f32 scales, f32), reordered once into panels of 16 outputs, a
//! panel into lines along k; a last partial panel is filled with zeros, as is a line in which a scale block ends:
//!
//! ```text
//! lines[panel][line along k]      scales[panel][scale block along k][16 outputs]
//! ```
//!
//! What a line holds, and the one order of sums along k, is told in `panel`. Few rows take all lines of a panel in one
//! go, a stream from memory. Many rows take them in steps along k short enough for the first-level cache, and their
//! sums wait in between; that changes no bit.

use std::ops::Range;

use hadal_types::Dtype;

use crate::context::Ctx;
use crate::panel::{self, Encoding, PANEL, Tile};
use crate::scratch;

pub(crate) mod activations;
pub(crate) mod depth;
mod lines;
mod output;
mod pack;

pub use pack::{Embedding, Linear, WeightRef, WeightSlice};

use activations::{Layout, Words, lay_out};
use output::Part;

/// Panels of one job at most.
const JOB_PANELS: usize = 8;
/// Groups of rows of one job at most: their activations and sums stay in the second-level cache.
const JOB_GROUPS: usize = 20;
/// Panels of which many rows take a step along k before the next ones, and lines of that step.
const STEP_PANELS: usize = 2;
const STEP_LINES: usize = 128;

/// One product of several that run together.
pub struct Product<'a> {
    /// The weights.
    pub w: &'a Linear,
    /// Activations, [rows, k].
    pub x: &'a [f32],
    /// Result, [rows, n].
    pub out: &'a mut [f32],
}

/// `out = x · wᵀ` with `x` [rows, k] and `out` [rows, n]. With dtype bf16 the activations are rounded to bf16 first;
/// sums are always f32.
pub fn linear(ctx: &Ctx, w: &Linear, x: &[f32], out: &mut [f32]) {
    linear_many(ctx, &mut [Product { w, x, out }]);
}

/// Several products at once, so that small ones fill the threads together.
pub fn linear_many(ctx: &Ctx, products: &mut [Product<'_>]) {
    let layouts: Vec<Layout<'_>> = products.iter().map(|p| layout(ctx, p)).collect();
    let mut different: Vec<Layout<'_>> = Vec::with_capacity(layouts.len());
    for layout in &layouts {
        // Products of the same activations come one after another.
        if !different.last().is_some_and(|last| last.same(layout)) {
            different.push(*layout);
        }
    }
    let total = different.iter().map(|l| l.rows * l.row_words()).sum();
    scratch::with(total, |words| {
        lay_out(ctx, &different, words);
        run(ctx, products, &layouts, words);
    });
}

fn layout<'a>(ctx: &Ctx, p: &Product<'a>) -> Layout<'a> {
    let (k, encoding) = (p.w.k(), p.w.encoding());
    let words = match ctx.dtype() {
        Dtype::F32 => Words::F32,
        Dtype::Bf16 if panel::takes_pairs(ctx.path(), encoding) => Words::Pairs,
        Dtype::Bf16 => Words::Rounded,
    };
    Layout { x: p.x, rows: p.x.len() / k.max(1), k, depth: p.w.depth(), words }
}

/// Some rows and panels of one product.
struct Job<'a> {
    w: &'a Linear,
    layout: Layout<'a>,
    /// The words of all rows.
    words: &'a [f32],
    groups: Range<usize>,
    out: Part<'a>,
}

fn run(ctx: &Ctx, products: &mut [Product<'_>], layouts: &[Layout<'_>], words: &[f32]) {
    let work = products.iter().zip(layouts).map(|(p, l)| l.rows * p.w.n() * l.k).sum();
    // Enough jobs for all threads, even of a narrow product.
    let panels: usize = products.iter().map(|p| p.w.n().div_ceil(PANEL)).sum();
    let step = (panels / (4 * ctx.threads())).clamp(1, JOB_PANELS);
    let mut jobs = Vec::new();
    let (mut at, mut next) = (0, 0);
    for (i, (p, &layout)) in products.iter_mut().zip(layouts).enumerate() {
        if i == 0 || !layouts[i - 1].same(&layout) {
            (at, next) = (next, next + layout.rows * layout.row_words());
        }
        let groups = layout.groups();
        let parts = groups.count().div_ceil(JOB_GROUPS).max(1);
        let bound = |part: usize| part * groups.count() / parts;
        let rows = (0..parts).map(|part| groups.start(bound(part))..groups.start(bound(part + 1)));
        let n = p.w.n();
        let columns = n.div_ceil(step * PANEL);
        let outs = Part::split(&mut p.out[..layout.rows * n], n, rows, step * PANEL).enumerate();
        jobs.extend(outs.map(|(j, out)| {
            let groups = bound(j / columns)..bound(j / columns + 1);
            Job { w: p.w, layout, words: &words[at..next], groups, out }
        }));
    }
    ctx.for_each(work, &mut jobs, |job| compute(ctx, job));
}

/// Computes the panels of a job for all its rows.
fn compute(ctx: &Ctx, job: &mut Job<'_>) {
    let (rows, width) = (job.out.rows(), job.out.columns().len());
    let acc_stride = width.div_ceil(PANEL) * PANEL;
    scratch::with(rows.len() * acc_stride, |acc| {
        acc.fill(0.0);
        let depth = job.w.depth();
        // One group keeps its sums in registers all along k.
        let step = if job.groups.len() > 1 { STEP_LINES } else { usize::MAX };
        let (mut line, mut block) = (0, 0);
        while line < depth.lines() {
            let (to, next) = step_end(job.w, line, block, step);
            sums(ctx, job, line..to, block, acc);
            (line, block) = (to, next);
        }
        for (row, sums) in rows.zip(acc.chunks_exact(acc_stride.max(1))) {
            job.out.write(row, &sums[..width]);
        }
    });
}

/// The end of a step along k of about `step` lines, and the block that begins there. Scaled blocks are not divided,
/// since their sums are scaled as a whole.
fn step_end(w: &Linear, line: usize, block: usize, step: usize) -> (usize, usize) {
    let depth = w.depth();
    if w.encoding() != Encoding::E4m3 {
        return (line.saturating_add(step).min(depth.lines()), block);
    }
    let next = block.saturating_add((step / depth.block_lines().max(1)).max(1)).min(depth.blocks());
    (depth.block_line(next), next)
}

/// Adds a step along k, which begins with `block`, to the sums of all rows.
fn sums(ctx: &Ctx, job: &Job<'_>, lines: Range<usize>, block: usize, acc: &mut [f32]) {
    let (depth, layout) = (job.w.depth(), &job.layout);
    let (columns, groups) = (job.out.columns(), layout.groups());
    let (first, panels) = (columns.start / PANEL, columns.len().div_ceil(PANEL));
    let chunk = if job.groups.len() > 1 { STEP_PANELS } else { panels };
    for panel in (0..panels).step_by(chunk) {
        for group in job.groups.clone() {
            let rows = groups.rows(group);
            let words = &job.words[rows.start * layout.row_words()..][..rows.len() * layout.row_words()];
            let start = rows.start - job.out.rows().start;
            let tile = Tile {
                encoding: job.w.encoding(),
                x: &words[lines.start * layout.line_words() * rows.len()..],
                pairs: layout.words == Words::Pairs,
                rows: rows.len(),
                lines: job.w.lines_from(first + panel, lines.start),
                panel_lines: depth.lines(),
                panels: chunk.min(panels - panel),
                steps: lines.len(),
                first_steps: if block == 0 { depth.first_lines() } else { depth.block_lines() },
                block_steps: depth.block_lines(),
                scale: job.w.scales_from(first + panel, block),
                scale_stride: depth.blocks() * PANEL,
                acc: &mut acc[start * panels * PANEL + panel * PANEL..],
                acc_stride: panels * PANEL,
            };
            panel::run(ctx.path(), tile);
        }
    }
}

#[cfg(test)]
mod tests;
