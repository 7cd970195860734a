//! Multi-head latent attention in its absorbed form: queries and results live in the latent space, and one encoded row
//! serves all heads as key (latent and rotated part) and as value (latent).
//!
//! A query visits its keys in ascending position, in tiles of 64. The first tile is short by the positions of its page
//! that no query sees, so that where a query sees every position, tiles are pages. What a query sees does not depend on
//! chunks, pages or batch, so neither do the tiles. The running maximum, sum and result are rescaled tile by tile, in
//! that order:
//!
//! ```text
//! s = scale × q · key        m' = max(m, s...)         p = exp(s - m')
//! l = l × exp(m - m') + p...                           o = o × exp(m - m') + p · latents
//! ```
//!
//! With bf16 activations, AVX-512 takes both products from pairs of bf16, unless rows are f32; see `pairs` and `flash`. All else
//! decodes rows to f32; see `decoded`.

use std::ops::Range;

use hadal_types::{Dtype, KvEncoding};

use crate::cache::{LatentCodec, PAGE_ROWS, Paged};
use crate::context::Ctx;
use crate::index::Choice;
use crate::panel::{self, Encoding};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod decoded;
#[cfg(target_arch = "x86_64")]
pub(crate) mod flash;
#[cfg(target_arch = "x86_64")]
mod pairs;

/// Keys of a tile.
const TILE: usize = PAGE_ROWS;
/// Rows of scores of one job: the heads of one query, or those of several queries of a sequence that share tiles.
const JOB_ROWS: usize = 128;
/// What it takes a job to gather the keys of a query, in heads: 5 to 12 of V3.2's shape by the runs measured, of bf16
/// rows and of fp8.
const GATHER_HEADS: usize = 8;

/// What attention is made of.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// How rows are stored.
    pub codec: LatentCodec,
    /// Heads.
    pub heads: usize,
    /// Factor of the scores before the softmax.
    pub scale: f32,
}

/// Which positions the queries read.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// Each query its own position and all before it that are seen.
    All,
    /// Those of a choice, whose row `first` belongs to the first query.
    Chosen {
        /// Positions by query.
        choice: &'a Choice,
        /// The row of the first query.
        first: usize,
    },
}

/// Consecutive queries of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRows<'a> {
    /// The sequence's rows; those of these queries are there already.
    pub cache: Paged<'a>,
    /// Position of the first query.
    pub start: u32,
    /// How many there are.
    pub rows: usize,
    /// The first position that is seen; those chosen are not before it.
    pub from: u32,
    /// What they read.
    pub keys: Keys<'a>,
}

/// Attention of every query of every sequence, in order. `q` is [rows, heads, rank + rope]: the absorbed query and its
/// rotated part; `out` is [rows, heads, rank], still to be multiplied by the value half of `kv_b_proj`. A query without
/// keys is one whose choice failed and gives NaN.
pub fn mla_attention(ctx: &Ctx, shape: &AttentionShape, sequences: &[AttentionRows<'_>], q: &[f32], out: &mut [f32]) {
    let rows: usize = sequences.iter().map(|s| s.rows).sum();
    let (heads, rank, width) = (shape.heads, shape.codec.rank(), shape.codec.width());
    let share = Share::of(ctx.threads(), rows, heads);
    let work: usize = sequences.iter().map(|s| visible(s) * heads * width * 2).sum();
    ctx.for_each_chunk(work, &mut out[..rows * heads * rank], share.rows * share.heads * rank, |job, mut out| {
        let (mut row, head) = share.first(job, heads);
        while let Some((sequence, index)) = locate(sequences, row).filter(|_| !out.is_empty()) {
            let count = (sequence.rows - index).min(out.len() / (share.heads * rank));
            let (part, rest) = out.split_at_mut(count * share.heads * rank);
            let q = &q[(row * heads + head) * width..][..count * share.heads * width];
            attend(ctx, shape, &Queries { sequence, index, count, q, heads: share.heads }, part);
            (row, out) = (row + count, rest);
        }
    });
}

/// What a job takes: all heads of some queries, or some heads of one.
struct Share {
    rows: usize,
    heads: usize,
}

impl Share {
    /// Where each thread has several queries they share tiles. Else heads are divided as the busiest thread likes it:
    /// each job gathers the keys anew.
    fn of(threads: usize, rows: usize, heads: usize) -> Self {
        let shared = (JOB_ROWS / heads.max(1)).min(rows / threads);
        if shared > 1 {
            return Self { rows: shared, heads };
        }
        let time = |heads_of_job: usize| {
            let jobs = rows * (heads / heads_of_job);
            jobs.div_ceil(threads) * (heads_of_job + GATHER_HEADS)
        };
        let divisors = (1..=heads).rev().filter(|&h| heads.is_multiple_of(h));
        Self { rows: 1, heads: divisors.min_by_key(|&h| time(h)).unwrap_or(heads) }
    }

    /// The first row and head of a job.
    fn first(&self, job: usize, heads: usize) -> (usize, usize) {
        match heads / self.heads.max(1) {
            0 | 1 => (job * self.rows, 0),
            parts => (job / parts, job % parts * self.heads),
        }
    }
}

/// Keys that a sequence's queries read together.
fn visible(s: &AttentionRows<'_>) -> usize {
    match s.keys {
        Keys::All => s.rows * (s.start as usize + s.rows),
        Keys::Chosen { choice, first } => (first..first + s.rows).map(|r| choice.row(r).len()).sum(),
    }
}

fn locate<'s, 'a>(sequences: &'s [AttentionRows<'a>], mut row: usize) -> Option<(&'s AttentionRows<'a>, usize)> {
    for s in sequences {
        if row < s.rows {
            return Some((s, row));
        }
        row -= s.rows;
    }
    None
}

/// Some heads of one query, or all heads of consecutive ones of a sequence.
struct Queries<'a> {
    sequence: &'a AttentionRows<'a>,
    /// The first, counted in its sequence, and how many there are.
    index: usize,
    count: usize,
    /// [count, heads, width].
    q: &'a [f32],
    heads: usize,
}

impl<'a> Queries<'a> {
    /// One of them.
    fn one(&self, query: usize, width: usize) -> Queries<'a> {
        let q = &self.q[query * self.heads * width..][..self.heads * width];
        Queries { sequence: self.sequence, index: self.index + query, count: 1, q, heads: self.heads }
    }

    /// What the last of them reads; those before it read one less each of all keys.
    fn seen(&self) -> Seen<'a> {
        let s = self.sequence;
        let last = self.index + self.count - 1;
        match s.keys {
            Keys::All => {
                let count = (s.start as usize + last + 1).saturating_sub(s.from as usize);
                Seen { from: s.from as usize, chosen: None, count }
            }
            Keys::Chosen { choice, first } => {
                let chosen = choice.row(first + last);
                Seen { from: s.from as usize, chosen: Some(chosen), count: chosen.len() }
            }
        }
    }
}

/// The keys that a query reads, in order.
#[derive(Clone, Copy)]
struct Seen<'a> {
    /// The first position that is seen.
    from: usize,
    /// Those read; without, all from the first on.
    chosen: Option<&'a [u32]>,
    count: usize,
}

impl Seen<'_> {
    /// The position of the nth key.
    fn position(&self, n: usize) -> usize {
        self.chosen.map_or(self.from + n, |c| c[n] as usize)
    }

    /// The tile that begins at the nth key, as keys; empty after the last.
    fn tile(&self, n: usize) -> Range<usize> {
        let length = if n == 0 { TILE - self.from % TILE } else { TILE };
        n.min(self.count)..(n + length).min(self.count)
    }
}

fn attend(ctx: &Ctx, shape: &AttentionShape, queries: &Queries<'_>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    let attend = if takes_pairs(ctx, shape) { pairs::attend } else { decoded::attend };
    #[cfg(not(target_arch = "x86_64"))]
    let attend = decoded::attend;
    if queries.count == 1 || matches!(queries.sequence.keys, Keys::All) {
        return attend(ctx, shape, queries, out);
    }
    // Each has chosen keys of its own.
    for (i, out) in out.chunks_exact_mut(queries.heads * shape.codec.rank()).enumerate() {
        attend(ctx, shape, &queries.one(i, shape.codec.width()), out);
    }
}

/// Whether products are taken from pairs of bf16.
fn takes_pairs(ctx: &Ctx, shape: &AttentionShape) -> bool {
    ctx.dtype() == Dtype::Bf16
        && panel::takes_pairs(ctx.path(), Encoding::Bf16)
        && shape.codec.encoding() != KvEncoding::F32
}

#[cfg(test)]
mod tests;
