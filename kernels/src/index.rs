//! The lightning indexer: scores of all earlier positions, and the best `k` of them.
//!
//! `score(position) = factor × sum over heads, ascending, of w[head] × relu(q[head] · key[position])`, where the factor is
//! `dim^-0.5`, times the scale of a key that enters without its own. Scores come in tiles of 64 positions and go straight
//! into a running top-k, so memory does not grow with the context. Each score depends on its query and key alone and the
//! order of choice is total, so tiling and threads change nothing.
//!
//! ```text
//! keys        activations, path      the product                                  the factor has the scale
//! int8-index  any                    int8 query × int8 key, exact; the scale      yes
//!                                    of the query's head goes into its weight
//! bf16, fp8   bf16, AVX-512          pairs of bf16: the query rounded, and of     yes
//!                                    fp8 the codes
//! else        any                    f32                                          no
//! ```
//!
//! So with int8 keys, a choice has the same bits on every path and with all activations.

use crate::cache::{IndexCodec, PAGE_ROWS, Paged};
use crate::context::Ctx;
use crate::error::NotFinite;
use crate::topk::TopK;

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lines;
mod scan;

use scan::Scan;

/// Queries of one job: they share the decoding of keys.
const JOB_ROWS: usize = 8;
/// Positions of one job at least when there are fewer queries than threads could take, and jobs for each thread then.
const JOB_POSITIONS: usize = 4096;
const JOBS_PER_THREAD: usize = 4;

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
    /// Position of the first query. A query sees its own position and those before it.
    pub start: u32,
    /// How many there are.
    pub rows: usize,
    /// The first position that is seen.
    pub from: u32,
}

impl IndexRows<'_> {
    /// The first position that must be scored for: its query sees more than `k`.
    fn scored_from(&self, k: usize) -> usize {
        k.saturating_add(self.from as usize)
    }
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
            match (position as usize >= s.scored_from(shape.k)).then(|| scored.next()).flatten() {
                None => choice.push(s.from..=position, Margin::ALL),
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
    /// The first position that is seen.
    seen_from: usize,
    /// A range of positions that starts at a tile.
    from: usize,
    to: usize,
}

impl Job<'_> {
    /// Whether no job before it has the same queries.
    fn is_first(&self) -> bool {
        self.from <= self.seen_from
    }
}

/// Queries that see no more than `k` positions take all of them and need no job.
fn jobs<'a>(ctx: &Ctx, shape: &IndexShape, sequences: &[IndexRows<'a>]) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    let mut first_row = 0;
    // With queries enough for all threads, splitting the positions as well would only decode keys more often.
    let rows: usize = sequences.iter().map(|s| s.rows).sum();
    let longest = sequences.iter().map(|s| s.start as usize + s.rows).max().unwrap_or(0);
    let share = longest.div_ceil(JOBS_PER_THREAD * ctx.threads()).next_multiple_of(PAGE_ROWS);
    let spread = ctx.threads() > 1 && rows < ctx.threads() * JOB_ROWS;
    let step = if spread { share.max(JOB_POSITIONS) } else { usize::MAX };
    for s in sequences {
        let start = s.start as usize;
        let unscored = s.scored_from(shape.k).saturating_sub(start).min(s.rows);
        let seen_from = s.from as usize;
        for row in (unscored..s.rows).step_by(JOB_ROWS) {
            let rows = (s.rows - row).min(JOB_ROWS);
            let seen = start + row + rows;
            let mut from = seen_from / PAGE_ROWS * PAGE_ROWS;
            while from < seen {
                let to = from.saturating_add(step).min(seen);
                let (row, position) = (first_row + row, start + row);
                jobs.push(Job { keys: s.keys, row, position, rows, seen_from, from, to });
                from = to;
            }
        }
        first_row += s.rows;
    }
    jobs
}

/// The best of a job's range, for each of its queries.
fn scan(ctx: &Ctx, shape: &IndexShape, job: &Job<'_>, queries: IndexQueries<'_>) -> Vec<TopK> {
    let heads = job.row * shape.heads..(job.row + job.rows) * shape.heads;
    let dim = shape.codec.dim();
    let queries = IndexQueries { q: &queries.q[heads.start * dim..heads.end * dim], w: &queries.w[heads] };
    let mut best = vec![TopK::new(shape.k); job.rows];
    let scan = Scan { ctx, shape, keys: job.keys, queries, positions: job.from..job.to };
    scan.run(|row, from, scores| {
        let first = job.seen_from.saturating_sub(from);
        let seen = (job.position + row + 1).min(job.to).saturating_sub(from).min(PAGE_ROWS);
        best[row].offer(&scores[first..seen], (from + first) as u32);
    });
    best
}

/// Joins the ranges of each query, in the order of the queries.
fn merge(jobs: &[Job<'_>], parts: Vec<Vec<TopK>>) -> Vec<TopK> {
    let mut merged: Vec<TopK> = Vec::new();
    for (job, part) in jobs.iter().zip(parts) {
        if job.is_first() {
            merged.extend(part);
        } else {
            let first = merged.len() - job.rows;
            merged[first..].iter_mut().zip(&part).for_each(|(m, p)| m.merge(p));
        }
    }
    merged
}

#[cfg(test)]
mod tests;
