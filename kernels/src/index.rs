//! The lightning indexer: scores of all earlier positions, and the best `k` of them.
//!
//! `score(position) = sum over heads, ascending, of w[head] × relu(q[head] · key[position] × dim^-0.5)`. Scores come in
//! tiles of 64 positions and go straight into a running top-k, so memory does not grow with the context. Each score
//! depends on its query and key alone and the order of choice is total, so tiling and threads change nothing.

use crate::cache::{IndexCodec, PAGE_ROWS, Paged};
use crate::context::Ctx;
use crate::error::NotFinite;
use crate::gemm::{self, Block};
use crate::panel::PANEL;
use crate::scratch;
use crate::topk::TopK;

/// Queries of one job: they share the decoding of keys.
const JOB_ROWS: usize = 8;
/// Positions of one job when there are fewer queries than threads could take.
const JOB_POSITIONS: usize = 4096;

/// What the indexer is made of.
#[derive(Clone, Copy, Debug)]
pub struct IndexShape {
    /// How keys are stored.
    pub codec: IndexCodec,
    /// Heads.
    pub heads: usize,
    /// Positions to choose at most.
    pub k: usize,
}

/// Consecutive queries of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct IndexRows<'a> {
    /// The sequence's keys; those of these queries are there already.
    pub keys: Paged<'a>,
    /// Position of the first query. A query sees its own position and all before it.
    pub start: u32,
    /// How many there are.
    pub rows: usize,
}

/// The queries of a step, of all sequences in order.
#[derive(Clone, Copy, Debug)]
pub struct IndexQueries<'a> {
    /// [rows, heads, dim].
    pub q: &'a [f32],
    /// Weights of the heads, [rows, heads]; may be negative.
    pub w: &'a [f32],
}

/// Chosen positions of each query, ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    positions: Vec<u32>,
    ends: Vec<usize>,
    margins: Vec<Margin>,
}

impl Choice {
    /// Queries.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The positions of one query, ascending. Empty if there is no such query.
    pub fn row(&self, row: usize) -> &[u32] {
        let start = if row == 0 { 0 } else { self.ends.get(row - 1).copied().unwrap_or(0) };
        let end = self.ends.get(row).copied().unwrap_or(start);
        &self.positions[start..end]
    }

    /// How clear the choice of each query was, [rows].
    pub fn margins(&self) -> &[Margin] {
        &self.margins
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.positions.clear();
        self.ends.clear();
        self.margins.clear();
    }

    /// Adds the positions of the next query, which are ascending.
    pub fn push(&mut self, positions: impl IntoIterator<Item = u32>, margin: Margin) {
        self.positions.extend(positions);
        self.ends.push(self.positions.len());
        self.margins.push(margin);
    }
}

/// How clear a choice was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    /// The lowest chosen score.
    pub last: f32,
    /// The highest score left out; -infinity where nothing was.
    pub next: f32,
    /// Standard deviation of all scores of the query.
    pub deviation: f32,
}

impl Margin {
    /// Of a choice that left nothing out.
    pub const ALL: Margin = Margin { last: f32::INFINITY, next: f32::NEG_INFINITY, deviation: 1.0 };

    /// The gap in standard deviations; infinite where nothing was left out.
    pub fn gap(&self) -> f32 {
        (self.last - self.next) / self.deviation.max(1e-12)
    }
}

/// Chooses up to `k` positions for each query of every sequence, ties to the lower position. `choice` is replaced.
///
/// # Errors
/// A score of a query that has more than `k` positions to choose from is NaN; the first such query is named. The choice
/// of all others is complete, and those queries get no positions, for which attention gives NaN: so the fault reaches
/// the logits of its own request and of no other.
pub fn index_select(
    ctx: &Ctx,
    shape: &IndexShape,
    sequences: &[IndexRows<'_>],
    queries: IndexQueries<'_>,
    choice: &mut Choice,
) -> Result<(), NotFinite> {
    let jobs = jobs(ctx, shape, sequences);
    let work = jobs.iter().map(|j| j.rows * (j.to - j.from) * shape.heads * shape.codec.dim()).sum();
    let parts = ctx.map(work, jobs.len(), |i| scan(ctx, shape, &jobs[i], queries));
    let mut scored = merge(&jobs, parts).into_iter();
    choice.clear();
    let mut result = Ok(());
    for s in sequences {
        for position in (s.start..).take(s.rows) {
            match (position as usize >= shape.k).then(|| scored.next()).flatten() {
                None => choice.push(0..=position, Margin::ALL),
                Some(best) => match best.finish() {
                    Some(c) => {
                        choice.push(c.positions, Margin { last: c.last, next: c.next, deviation: c.deviation });
                    }
                    None => {
                        result = result.and(Err(NotFinite { what: "indexer scores", row: choice.rows() }));
                        choice.push([], Margin { last: f32::NAN, next: f32::NAN, deviation: f32::NAN });
                    }
                },
            }
        }
    }
    result
}

/// Some consecutive queries of a sequence and some of the positions that they see.
struct Job<'a> {
    keys: Paged<'a>,
    /// The first query, counted over all sequences, and its position.
    row: usize,
    position: usize,
    rows: usize,
    /// A range of positions that starts at a tile.
    from: usize,
    to: usize,
}

/// Queries that see no more than `k` positions take all of them and need no job.
fn jobs<'a>(ctx: &Ctx, shape: &IndexShape, sequences: &[IndexRows<'a>]) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    let mut first_row = 0;
    // With queries enough for all threads, splitting the positions as well would only decode keys more often.
    let rows: usize = sequences.iter().map(|s| s.rows).sum();
    let step = if rows >= ctx.threads() * JOB_ROWS { usize::MAX } else { JOB_POSITIONS };
    for s in sequences {
        let start = s.start as usize;
        let unscored = shape.k.saturating_sub(start).min(s.rows);
        for row in (unscored..s.rows).step_by(JOB_ROWS) {
            let rows = (s.rows - row).min(JOB_ROWS);
            let seen = start + row + rows;
            let mut from = 0;
            while from < seen {
                let to = from.saturating_add(step).min(seen);
                jobs.push(Job { keys: s.keys, row: first_row + row, position: start + row, rows, from, to });
                from = to;
            }
        }
        first_row += s.rows;
    }
    jobs
}

/// Joins the ranges of each query, in the order of the queries.
fn merge(jobs: &[Job<'_>], parts: Vec<Vec<TopK>>) -> Vec<TopK> {
    let mut merged: Vec<TopK> = Vec::new();
    for (job, part) in jobs.iter().zip(parts) {
        if job.from == 0 {
            merged.extend(part);
        } else {
            let first = merged.len() - job.rows;
            merged[first..].iter_mut().zip(&part).for_each(|(m, p)| m.merge(p));
        }
    }
    merged
}

fn scan(ctx: &Ctx, shape: &IndexShape, job: &Job<'_>, queries: IndexQueries<'_>) -> Vec<TopK> {
    let (heads, dim) = (shape.heads, shape.codec.dim());
    let mut best = vec![TopK::new(shape.k); job.rows];
    let factor = 1.0 / (dim as f32).sqrt();
    let lanes = job.rows * heads;
    scratch::with((dim + lanes) * PAGE_ROWS, |buffer| {
        let (keys, dots) = buffer.split_at_mut(dim * PAGE_ROWS);
        for from in (job.from..job.to).step_by(PAGE_ROWS) {
            let count = (job.to - from).min(PAGE_ROWS);
            decode_columns(shape, job.keys.page_of(from), count, keys);
            dots.fill(0.0);
            let block = Block {
                x: &queries.q[job.row * heads * dim..],
                x_stride: dim,
                rows: lanes,
                w: &*keys,
                k_stride: PAGE_ROWS,
                panel_stride: PANEL,
                panels: count.div_ceil(PANEL),
                k: dim,
                acc: dots,
                acc_stride: PAGE_ROWS,
            };
            gemm::run(ctx.path(), block);
            for (r, best) in best.iter_mut().enumerate() {
                let seen = (job.position + r + 1).saturating_sub(from).min(count);
                let w = &queries.w[(job.row + r) * heads..][..heads];
                let scores = combine(w, &dots[r * heads * PAGE_ROWS..], factor);
                best.offer(&scores[..seen], from as u32);
            }
        }
        best
    })
}

/// Decodes `count` keys of a page as columns, [dim, 64]; the others become zeros.
fn decode_columns(shape: &IndexShape, page: &[u8], count: usize, keys: &mut [f32]) {
    let dim = shape.codec.dim();
    scratch::with(dim, |key| {
        if count < PAGE_ROWS {
            keys.fill(0.0);
        }
        for slot in 0..count {
            shape.codec.decode(page, slot, key);
            keys.iter_mut().skip(slot).step_by(PAGE_ROWS).zip(&*key).for_each(|(to, &v)| *to = v);
        }
    });
}

/// Adds up the heads, ascending. `dots` is [heads, 64].
fn combine(w: &[f32], dots: &[f32], factor: f32) -> [f32; PAGE_ROWS] {
    let mut scores = [0.0f32; PAGE_ROWS];
    for (&w, dots) in w.iter().zip(dots.chunks_exact(PAGE_ROWS)) {
        for (s, &d) in scores.iter_mut().zip(dots) {
            let scaled = d * factor;
            // Not `max`: that would turn a NaN into 0.
            *s += w * if scaled < 0.0 { 0.0 } else { scaled };
        }
    }
    scores
}

#[cfg(test)]
mod tests;
