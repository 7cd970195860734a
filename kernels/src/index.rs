//! The lightning indexer: scores of all earlier positions, and the best `k` of them.
//!
//! `score(position) = sum over heads, ascending, of w[head] × relu(q[head] · key[position] × dim^-0.5)`. Scores come in
//! tiles of 64 positions and go straight into a running top-k, so memory does not grow with the context. Each score
//! depends on its query and key alone and the order of choice is total, so tiling and threads change nothing.
//!
//! With bf16 activations, AVX-512 takes the products from pairs of bf16: the query rounded, the key as it is stored or,
//! of fp8, its codes, whose scale comes in with `dim^-0.5`. Otherwise keys are widened to f32.

use hadal_types::{Dtype, KvEncoding};

use crate::cache::{IndexCodec, PAGE_ROWS, Paged};
use crate::context::{Ctx, Path};
use crate::error::NotFinite;
use crate::gemm::{self, Block};
use crate::linear::activations::{Groups, Layout, Words, lay_out};
use crate::linear::depth::Depth;
use crate::panel::{self, Encoding, Line, PANEL, Tile};
use crate::scratch;
use crate::topk::TopK;

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Queries of one job: they share the decoding of keys.
const JOB_ROWS: usize = 8;
/// Positions of one job at least when there are fewer queries than threads could take, and jobs for each thread then.
const JOB_POSITIONS: usize = 4096;
const JOBS_PER_THREAD: usize = 4;
/// Numbers of a key that is multiplied in pairs, at most.
const PAIRS_DIM: usize = 128;

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
    let parts = ctx.map(work, jobs.len(), |i| Scan { ctx, shape, job: &jobs[i], queries }.run());
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

/// Whether products are taken from pairs of bf16.
fn takes_pairs(ctx: &Ctx, shape: &IndexShape) -> bool {
    let dim = shape.codec.dim();
    ctx.dtype() == Dtype::Bf16
        && panel::takes_pairs(ctx.path(), Encoding::Bf16)
        && shape.codec.encoding() != KvEncoding::F32
        && dim.is_multiple_of(32)
        && (1..=PAIRS_DIM).contains(&dim)
        && shape.heads > 0
}

/// One job at work.
struct Scan<'a> {
    ctx: &'a Ctx,
    shape: &'a IndexShape,
    job: &'a Job<'a>,
    queries: IndexQueries<'a>,
}

impl Scan<'_> {
    fn run(&self) -> Vec<TopK> {
        let (job, heads, dim) = (self.job, self.shape.heads, self.shape.codec.dim());
        let mut best = vec![TopK::new(self.shape.k); job.rows];
        let mut lines = [Line::ZERO; PAGE_ROWS / PANEL * PAIRS_DIM / 2];
        let pairs = takes_pairs(self.ctx, self.shape);
        let words = if pairs { job.rows * heads * dim / 2 } else { 0 };
        scratch::with((dim + job.rows * heads) * PAGE_ROWS + words, |buffer| {
            let (keys, rest) = buffer.split_at_mut(dim * PAGE_ROWS);
            let (dots, words) = rest.split_at_mut(job.rows * heads * PAGE_ROWS);
            if pairs {
                self.lay_out(words);
            }
            for from in (job.from..job.to).step_by(PAGE_ROWS) {
                let count = (job.to - from).min(PAGE_ROWS);
                let page = job.keys.page_of(from);
                dots.fill(0.0);
                if pairs {
                    lines_of(self.shape, page, &mut lines);
                    let next = from + PAGE_ROWS;
                    let next = if next < job.to { job.keys.page_of(next) } else { &[] };
                    self.multiply_pairs(words, &lines, next, dots);
                } else {
                    self.multiply((page, count), keys, dots);
                }
                let factors = factors(self.shape, page, pairs);
                let first = job.seen_from.saturating_sub(from);
                for (r, best) in best.iter_mut().enumerate() {
                    let seen = (job.position + r + 1).saturating_sub(from).min(count);
                    let w = &self.queries.w[(job.row + r) * heads..][..heads];
                    let scores = combine(self.ctx, w, &dots[r * heads * PAGE_ROWS..], &factors);
                    best.offer(&scores[first..seen], (from + first) as u32);
                }
            }
            best
        })
    }

    /// The job's queries as pairs of bf16, one after another, the heads of each as tiles take them.
    fn lay_out(&self, words: &mut [f32]) {
        let (heads, dim) = (self.shape.heads, self.shape.codec.dim());
        let depth = Depth::whole(Encoding::Bf16, dim);
        let queries = self.queries.q[self.job.row * heads * dim..].chunks_exact(heads * dim);
        for (q, words) in queries.zip(words.chunks_exact_mut(heads * dim / 2)) {
            let layout = Layout { x: q, rows: heads, k: dim, depth, words: Words::Pairs };
            lay_out(&Ctx::serial(), &[layout], words);
        }
    }

    /// Products of every head of every query with the 64 keys of a page, from pairs. Meanwhile `next` is asked for, the
    /// page that follows.
    fn multiply_pairs(&self, words: &[f32], lines: &[Line], next: &[u8], dots: &mut [f32]) {
        let (heads, pairs) = (self.shape.heads, self.shape.codec.dim() / 2);
        let groups = Groups::of(heads);
        let mut asked = next.chunks(next.len().div_ceil(groups.count() * self.job.rows).max(1));
        for query in 0..self.job.rows {
            for group in (0..groups.count()).map(|g| groups.rows(g)) {
                let tile = Tile {
                    encoding: Encoding::Bf16,
                    x: &words[(query * heads + group.start) * pairs..],
                    pairs: true,
                    rows: group.len(),
                    lines,
                    panel_lines: pairs,
                    panels: PAGE_ROWS / PANEL,
                    steps: pairs,
                    first_steps: pairs,
                    block_steps: pairs,
                    scale: &[],
                    scale_stride: 0,
                    acc: &mut dots[(query * heads + group.start) * PAGE_ROWS..],
                    acc_stride: PAGE_ROWS,
                };
                panel::run(self.ctx.path(), tile);
                panel::ask_for(asked.next().unwrap_or_default());
            }
        }
    }

    /// The same from keys widened to f32, of which the page has `count`.
    fn multiply(&self, (page, count): (&[u8], usize), keys: &mut [f32], dots: &mut [f32]) {
        let (heads, dim) = (self.shape.heads, self.shape.codec.dim());
        decode_columns(self.shape, page, count, keys);
        let block = Block {
            x: &self.queries.q[self.job.row * heads * dim..],
            x_stride: dim,
            rows: self.job.rows * heads,
            w: keys,
            k_stride: PAGE_ROWS,
            panel_stride: PANEL,
            panels: count.div_ceil(PANEL),
            k: dim,
            acc: dots,
            acc_stride: PAGE_ROWS,
        };
        gemm::run(self.ctx.path(), block);
    }
}

/// What the products of each key are multiplied by.
fn factors(shape: &IndexShape, page: &[u8], scaled: bool) -> [f32; PAGE_ROWS] {
    let factor = 1.0 / (shape.codec.dim() as f32).sqrt();
    let mut factors = [1.0; PAGE_ROWS];
    if scaled {
        shape.codec.single_scales(page, &mut factors);
    }
    factors.iter_mut().for_each(|f| *f *= factor);
    factors
}

/// Keys of a page as panels of bf16.
fn lines_of(shape: &IndexShape, page: &[u8], lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    match shape.codec.encoding() {
        KvEncoding::Bf16 => avx512::lines_of_bf16(page, shape.codec.dim(), lines),
        KvEncoding::Fp8 => avx512::lines_of_e4m3(page, shape.codec.dim(), lines),
        KvEncoding::F32 => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (shape, page, lines);
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

/// Adds up the heads, ascending. `dots` is [heads, 64]. The same bits on every path.
fn combine(ctx: &Ctx, w: &[f32], dots: &[f32], factors: &[f32; PAGE_ROWS]) -> [f32; PAGE_ROWS] {
    #[cfg(target_arch = "x86_64")]
    if ctx.path() == Path::Avx512 {
        return avx512::combine(w, dots, factors);
    }
    let mut scores = [0.0f32; PAGE_ROWS];
    for (&w, dots) in w.iter().zip(dots.chunks_exact(PAGE_ROWS)) {
        for ((s, &d), &factor) in scores.iter_mut().zip(dots).zip(factors) {
            let scaled = d * factor;
            // Not `max`: that would turn a NaN into 0.
            *s += w * if scaled < 0.0 { 0.0 } else { scaled };
        }
    }
    scores
}

#[cfg(test)]
mod tests;
