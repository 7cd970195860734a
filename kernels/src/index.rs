//! The lightning indexer: scores of all earlier positions, and the best `k` of them.
//!
//! `score(position) = factor × sum over heads, ascending, of w[head] × relu(q[head] · key[position])`, where the factor
//! is `dim^-0.5`, times the scale of a key that enters without its own. Scores come in tiles of 64 positions and go
//! straight into a running top-k, so memory does not grow with the context. Each score depends on its query and key
//! alone and the order of choice is total, so tiling and threads change nothing.
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
use crate::topk::{Chosen, TopK};

#[cfg(target_arch = "x86_64")]
mod avx2;
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

/// Chosen positions of each query, ascending, and the memory of choosing them.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    positions: Vec<u32>,
    /// Where those of each query are.
    ranges: Vec<(usize, usize)>,
    margins: Vec<Margin>,
    /// Of one round; those beyond its number keep their memory.
    jobs: Vec<Job>,
}

impl Choice {
    /// Queries.
    pub fn rows(&self) -> usize {
        self.ranges.len()
    }

    /// The positions of one query, ascending. Empty if there is no such query.
    pub fn row(&self, row: usize) -> &[u32] {
        let (start, end) = self.ranges.get(row).copied().unwrap_or_default();
        &self.positions[start..end]
    }

    /// How clear the choice of each query was, [rows].
    pub fn margins(&self) -> &[Margin] {
        &self.margins
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.positions.clear();
        self.ranges.clear();
        self.margins.clear();
    }

    /// Adds the positions of the next query, which are ascending.
    pub fn push(&mut self, positions: impl IntoIterator<Item = u32>, margin: Margin) {
        let start = self.positions.len();
        self.positions.extend(positions);
        self.ranges.push((start, self.positions.len()));
        self.margins.push(margin);
    }

    /// Puts a choice, or none, in place of the positions that a query was added with.
    fn put(&mut self, row: usize, chosen: Option<Chosen<'_>>) {
        let (start, end) = &mut self.ranges[row];
        match chosen {
            Some(c) => {
                self.positions[*start..*end].copy_from_slice(c.positions);
                self.margins[row] = Margin { last: c.last, next: c.next };
            }
            None => {
                *end = *start;
                self.margins[row] = Margin { last: f32::NAN, next: f32::NAN };
            }
        }
    }
}

/// How clear a choice was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    /// The lowest chosen score.
    pub last: f32,
    /// The highest score left out; -infinity where nothing was.
    pub next: f32,
}

impl Margin {
    /// Of a choice that left nothing out.
    pub const ALL: Margin = Margin { last: f32::INFINITY, next: f32::NEG_INFINITY };

    /// The gap in standard deviations of the query's scores; infinite where nothing was left out.
    pub fn gap(&self, scores: &[f32]) -> f32 {
        let count = scores.len().max(1) as f64;
        let mean = scores.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
        let square = |s: &f32| (f64::from(*s) - mean) * (f64::from(*s) - mean);
        let deviation = (scores.iter().map(square).sum::<f64>() / count).sqrt() as f32;
        (self.last - self.next) / deviation.max(1e-12)
    }
}

/// Chooses up to `k` positions for each query of every sequence, ties to the lower position. `choice` is replaced; what
/// it needs besides is kept in it, and does not grow with the context or the number of queries.
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
    let step = Step { ctx, shape, sequences, queries };
    choice.clear();
    for s in sequences {
        for position in (s.start..).take(s.rows) {
            // Queries that see no more than `k` positions take all of them; those of others are put here later.
            let all = (position as usize) < s.scored_from(shape.k);
            choice.push(s.from..if all { position + 1 } else { s.from + shape.k as u32 }, Margin::ALL);
        }
    }
    let (mut used, mut failed) = (0, None);
    step.plan(|job| {
        // All jobs of a query are in the same round.
        if used >= step.jobs_of_a_round() && job.is_first(sequences) {
            failed = failed.or(step.run(used, choice));
            used = 0;
        }
        if choice.jobs.len() == used {
            choice.jobs.push(Job::default());
        }
        choice.jobs[used].become_like(job);
        used += 1;
    });
    match failed.or(step.run(used, choice)) {
        Some(row) => Err(NotFinite { what: "indexer scores", row }),
        None => Ok(()),
    }
}

/// The scores of the only query of `rows` at the positions that it sees, as a choice has them; `queries` are its own.
pub fn index_scores(ctx: &Ctx, shape: &IndexShape, rows: &IndexRows<'_>, queries: IndexQueries<'_>) -> Vec<f32> {
    let (from, end) = (rows.from as usize, rows.start as usize + 1);
    let positions = from / PAGE_ROWS * PAGE_ROWS..end;
    let mut all = Vec::with_capacity(positions.len().next_multiple_of(PAGE_ROWS));
    let scan = Scan { ctx, shape, keys: rows.keys, queries, positions };
    scan.run(|_, _, scores| all.extend(scores));
    all.truncate(end - from / PAGE_ROWS * PAGE_ROWS);
    all.split_off((from % PAGE_ROWS).min(all.len()))
}

/// One call.
#[derive(Clone, Copy)]
struct Step<'a> {
    ctx: &'a Ctx,
    shape: &'a IndexShape,
    sequences: &'a [IndexRows<'a>],
    queries: IndexQueries<'a>,
}

/// Some consecutive queries of a sequence and some of the positions that they see.
#[derive(Clone, Debug, Default)]
struct Job {
    sequence: usize,
    /// The first query, counted over all sequences, and its position.
    row: usize,
    position: usize,
    rows: usize,
    /// A range of positions that starts at a tile.
    from: usize,
    to: usize,
    /// The best of the range for each query; what is beyond the queries keeps its memory.
    best: Vec<TopK>,
}

impl Job {
    /// Whether no job before it has the same queries.
    fn is_first(&self, sequences: &[IndexRows<'_>]) -> bool {
        self.from <= sequences[self.sequence].from as usize
    }

    /// Takes everything but the memory of the other.
    fn become_like(&mut self, other: Job) {
        let best = std::mem::take(&mut self.best);
        *self = Job { best, ..other };
    }
}

impl Step<'_> {
    /// Jobs that are at work together: enough for all threads, and no more, since each has memory for its queries.
    fn jobs_of_a_round(&self) -> usize {
        2 * JOBS_PER_THREAD * self.ctx.threads()
    }

    /// Gives all jobs away, in the order of the queries and positions.
    fn plan(&self, mut job: impl FnMut(Job)) {
        // With queries enough for all threads, splitting the positions as well would only decode keys more often.
        let rows: usize = self.sequences.iter().map(|s| s.rows).sum();
        let longest = self.sequences.iter().map(|s| s.start as usize + s.rows).max().unwrap_or(0);
        let threads = self.ctx.threads();
        let share = longest.div_ceil(JOBS_PER_THREAD * threads).next_multiple_of(PAGE_ROWS);
        let spread = threads > 1 && rows < threads * JOB_ROWS;
        let length = if spread { share.max(JOB_POSITIONS) } else { usize::MAX };
        let mut first_row = 0;
        for (sequence, s) in self.sequences.iter().enumerate() {
            let start = s.start as usize;
            let unscored = s.scored_from(self.shape.k).saturating_sub(start).min(s.rows);
            for row in (unscored..s.rows).step_by(JOB_ROWS) {
                let rows = (s.rows - row).min(JOB_ROWS);
                let seen = start + row + rows;
                let mut from = s.from as usize / PAGE_ROWS * PAGE_ROWS;
                while from < seen {
                    let to = from.saturating_add(length).min(seen);
                    let (row, position) = (first_row + row, start + row);
                    job(Job { sequence, row, position, rows, from, to, best: Vec::new() });
                    from = to;
                }
            }
            first_row += s.rows;
        }
    }

    /// Does the first `used` jobs, and puts what they chose in its place. Gives the first query whose scores have no
    /// order.
    fn run(&self, used: usize, choice: &mut Choice) -> Option<usize> {
        let mut jobs = std::mem::take(&mut choice.jobs);
        let numbers = self.shape.heads * self.shape.codec.dim();
        let work = jobs[..used].iter().map(|j| j.rows * (j.to - j.from) * numbers).sum();
        self.ctx.for_each(work, &mut jobs[..used], |job| self.scan(job));
        let (mut rest, mut failed) = (&mut jobs[..used], None);
        while let Some((first, others)) = rest.split_first_mut() {
            let same = others.iter().take_while(|j| !j.is_first(self.sequences)).count();
            let (parts, others) = others.split_at_mut(same);
            for (row, best) in first.best[..first.rows].iter_mut().enumerate() {
                best.merge(parts.iter().map(|part| &part.best[row]));
                let chosen = best.finish();
                if chosen.is_none() {
                    failed = failed.or(Some(first.row + row));
                }
                choice.put(first.row + row, chosen);
            }
            rest = others;
        }
        choice.jobs = jobs;
        failed
    }

    /// Finds the best of a job's range for each of its queries.
    fn scan(&self, job: &mut Job) {
        let (shape, path) = (self.shape, self.ctx.path());
        job.best.iter_mut().for_each(|best| best.begin(path, shape.k));
        job.best.resize_with(job.best.len().max(job.rows), || TopK::new(path, shape.k));
        let heads = job.row * shape.heads..(job.row + job.rows) * shape.heads;
        let q = &self.queries.q[heads.start * shape.codec.dim()..heads.end * shape.codec.dim()];
        let queries = IndexQueries { q, w: &self.queries.w[heads] };
        let IndexRows { keys, from: seen_from, .. } = self.sequences[job.sequence];
        let scan = Scan { ctx: self.ctx, shape, keys, queries, positions: job.from..job.to };
        scan.run(|row, from, scores| {
            let first = (seen_from as usize).saturating_sub(from);
            let seen = (job.position + row + 1).min(job.to).saturating_sub(from).min(PAGE_ROWS);
            job.best[row].offer(scores, first..seen, from as u32);
        });
        job.best[..job.rows].iter_mut().for_each(TopK::shrink);
    }
}

#[cfg(test)]
mod tests;
