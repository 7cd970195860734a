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

use crate::cache::{LatentCodec, PAGE_ROWS, Paged};
use crate::context::Ctx;
use crate::gemm::{self, Block};
use crate::index::Choice;
use crate::math::exp;
use crate::panel::PANEL;
use crate::scratch;

/// Keys of a tile.
const TILE: usize = PAGE_ROWS;
/// Heads of one job where there are fewer queries than threads.
const JOB_HEADS: usize = 16;

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
    let (heads, rank) = (shape.heads, shape.codec.rank());
    // A divisor of the heads, so that no job spans two queries.
    let group = match rows >= ctx.threads() {
        true => heads,
        false => (1..=JOB_HEADS.min(heads)).rev().find(|g| heads % g == 0).unwrap_or(1),
    };
    let groups = heads / group.max(1);
    let work: usize = sequences.iter().map(|s| visible(s) * heads * shape.codec.width() * 2).sum();
    ctx.for_each_chunk(work, &mut out[..rows * heads * rank], group * rank, |job, out| {
        let (row, head) = (job / groups, job % groups * group);
        let Some((sequence, index)) = locate(sequences, row) else { return };
        let q = &q[(row * heads + head) * shape.codec.width()..][..group * shape.codec.width()];
        attend(ctx, shape, &Query { sequence, index, q, heads: group }, out);
    });
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

/// Some heads of one query.
struct Query<'a> {
    sequence: &'a AttentionRows<'a>,
    /// Which query of its sequence.
    index: usize,
    /// [heads, width].
    q: &'a [f32],
    heads: usize,
}

/// The buffers of one job.
struct Buffers<'a> {
    /// Rows of the tile, [64, width], and the same as columns, [width, 64].
    rows: &'a mut [f32],
    columns: &'a mut [f32],
    /// Scores, then weights, [heads, 64].
    scores: &'a mut [f32],
    /// Maximum and sum of each head.
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// The result, [heads, rank rounded up to a panel].
    sums: &'a mut [f32],
}

fn attend(ctx: &Ctx, shape: &AttentionShape, query: &Query<'_>, out: &mut [f32]) {
    let (width, rank, heads) = (shape.codec.width(), shape.codec.rank(), query.heads);
    let padded = rank.div_ceil(PANEL) * PANEL;
    // A panel of the last row may reach past the width, hence one panel more of rows.
    let sizes = [TILE * width + PANEL, TILE * width, heads * TILE, heads, heads, heads * padded];
    scratch::with(sizes.iter().sum(), |buffer| {
        let (rows, rest) = buffer.split_at_mut(sizes[0]);
        let (columns, rest) = rest.split_at_mut(sizes[1]);
        let (scores, rest) = rest.split_at_mut(sizes[2]);
        let (max, rest) = rest.split_at_mut(sizes[3]);
        let (sum, sums) = rest.split_at_mut(sizes[4]);
        let mut b = Buffers { rows, columns, scores, max, sum, sums };
        b.rows.fill(0.0);
        b.max.fill(f32::NEG_INFINITY);
        b.sum.fill(0.0);
        b.sums.fill(0.0);
        let s = query.sequence;
        let first_tile = TILE - s.from as usize % TILE;
        match s.keys {
            Keys::All => {
                let end = s.start + query.index as u32 + 1;
                let (mut from, mut length) = (s.from, first_tile as u32);
                while from < end {
                    let to = (from + length).min(end);
                    tile(ctx, shape, query, from..to, &mut b);
                    (from, length) = (to, TILE as u32);
                }
            }
            Keys::Chosen { choice, first } => {
                let chosen = choice.row(first + query.index);
                let (short, rest) = chosen.split_at(first_tile.min(chosen.len()));
                for chosen in std::iter::once(short).chain(rest.chunks(TILE)) {
                    tile(ctx, shape, query, chosen.iter().copied(), &mut b);
                }
            }
        }
        for (h, out) in out.chunks_exact_mut(rank).enumerate() {
            // Without keys this is 0 / 0, the NaN that it should be.
            out.iter_mut().zip(&b.sums[h * padded..]).for_each(|(o, &v)| *o = v / b.sum[h]);
        }
    });
}

/// Takes one tile of keys into the running softmax.
fn tile(
    ctx: &Ctx,
    shape: &AttentionShape,
    query: &Query<'_>,
    positions: impl Iterator<Item = u32>,
    b: &mut Buffers<'_>,
) {
    let (width, rank) = (shape.codec.width(), shape.codec.rank());
    let count = gather(shape, query, positions, b);
    let padded = rank.div_ceil(PANEL) * PANEL;
    b.scores.fill(0.0);
    let keys = Block {
        x: query.q,
        x_stride: width,
        rows: query.heads,
        w: &*b.columns,
        k_stride: TILE,
        panel_stride: PANEL,
        panels: count.div_ceil(PANEL),
        k: width,
        acc: b.scores,
        acc_stride: TILE,
    };
    gemm::run(ctx.path(), keys);
    for h in 0..query.heads {
        let scores = &mut b.scores[h * TILE..][..count];
        let factor = weigh(scores, shape.scale, &mut b.max[h], &mut b.sum[h]);
        if factor != 1.0 {
            b.sums[h * padded..][..rank].iter_mut().for_each(|o| *o *= factor);
        }
    }
    let values = Block {
        x: &*b.scores,
        x_stride: TILE,
        rows: query.heads,
        w: &*b.rows,
        k_stride: width,
        panel_stride: PANEL,
        panels: padded / PANEL,
        k: count,
        acc: b.sums,
        acc_stride: padded,
    };
    gemm::run(ctx.path(), values);
}

/// Decodes the rows of a tile, as rows and as columns; gives their number.
fn gather(
    shape: &AttentionShape,
    query: &Query<'_>,
    positions: impl Iterator<Item = u32>,
    b: &mut Buffers<'_>,
) -> usize {
    let mut count = 0;
    for (row, position) in b.rows.chunks_exact_mut(shape.codec.width()).zip(positions) {
        let position = position as usize;
        shape.codec.decode(query.sequence.cache.page_of(position), position % PAGE_ROWS, row);
        b.columns.iter_mut().skip(count).step_by(TILE).zip(&*row).for_each(|(to, &v)| *to = v);
        count += 1;
    }
    count
}

/// Turns scores into weights and updates maximum and sum; gives the factor of what was added up before.
fn weigh(scores: &mut [f32], scale: f32, max: &mut f32, sum: &mut f32) -> f32 {
    let before = *max;
    for s in scores.iter_mut() {
        *s *= scale;
        if *s > *max {
            *max = *s;
        }
    }
    let factor = if *max == before { 1.0 } else { exp(before - *max) };
    scores.iter_mut().for_each(|s| *s = exp(*s - *max));
    *sum = scores.iter().fold(*sum * factor, |sum, &p| sum + p);
    factor
}

#[cfg(test)]
mod tests;
