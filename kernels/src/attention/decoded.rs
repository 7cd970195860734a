//! Products in f32 with rows decoded to f32: of f32 activations, of f32 rows, and on paths without pairs.

use std::ops::Range;

use super::{AttentionShape, Queries, Seen, TILE};
use crate::cache::PAGE_ROWS;
use crate::context::{Ctx, Path};
use crate::gemm::{self, Block};
use crate::math::exp;
use crate::panel::PANEL;
use crate::scratch;

/// The buffers of one job.
struct Buffers<'a> {
    /// Rows of the tile, [64, width], and the same as columns, [width, 64].
    rows: &'a mut [f32],
    columns: &'a mut [f32],
    /// Scores of one query, then weights, [heads, 64].
    scores: &'a mut [f32],
    /// Maximum and sum, [queries, heads].
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// The result, [queries, heads, rank rounded up to a panel].
    sums: &'a mut [f32],
}

pub(super) fn attend(ctx: &Ctx, shape: &AttentionShape, queries: &Queries<'_>, out: &mut [f32]) {
    let (width, rank, heads) = (shape.codec.width(), shape.codec.rank(), queries.heads);
    let (rows, padded) = (queries.count * heads, rank.next_multiple_of(PANEL));
    // A panel of the last row may reach past the width, hence one panel more of rows.
    let sizes = [TILE * width + PANEL, TILE * width, heads * TILE, rows, rows, rows * padded];
    scratch::with(sizes.iter().sum(), |buffer| {
        let (keys, rest) = buffer.split_at_mut(sizes[0]);
        let (columns, rest) = rest.split_at_mut(sizes[1]);
        let (scores, rest) = rest.split_at_mut(sizes[2]);
        let (max, rest) = rest.split_at_mut(sizes[3]);
        let (sum, sums) = rest.split_at_mut(sizes[4]);
        let mut b = Buffers { rows: keys, columns, scores, max, sum, sums };
        b.rows.fill(0.0);
        b.max.fill(f32::NEG_INFINITY);
        b.sum.fill(0.0);
        b.sums.fill(0.0);
        let seen = queries.seen();
        let mut keys = seen.tile(0);
        while !keys.is_empty() {
            gather(shape, queries, seen, keys.clone(), &mut b);
            for query in 0..queries.count {
                // A query reads one key more than the one before it.
                let end = (seen.count + query + 1).saturating_sub(queries.count).min(keys.end);
                if end > keys.start {
                    let one = One { rows: query * heads..(query + 1) * heads, keys: end - keys.start };
                    tile(ctx, shape, &queries.q[one.rows.start * width..], &one, &mut b);
                }
            }
            keys = seen.tile(keys.end);
        }
        for (row, out) in out.chunks_exact_mut(rank).enumerate() {
            // Without keys this is 0 / 0, the NaN that it should be.
            out.iter_mut().zip(&b.sums[row * padded..]).for_each(|(o, &v)| *o = v / b.sum[row]);
        }
    });
}

/// A query and the keys that it reads of a tile.
struct One {
    /// Its rows among those of the job, a head each.
    rows: Range<usize>,
    keys: usize,
}

/// Takes a tile of keys into the running softmax of one query.
fn tile(ctx: &Ctx, shape: &AttentionShape, q: &[f32], one: &One, b: &mut Buffers<'_>) {
    let (width, rank, heads) = (shape.codec.width(), shape.codec.rank(), one.rows.len());
    let padded = rank.next_multiple_of(PANEL);
    b.scores.fill(0.0);
    let keys = Block {
        x: q,
        x_stride: width,
        rows: heads,
        w: &*b.columns,
        k_stride: TILE,
        panel_stride: PANEL,
        panels: one.keys.div_ceil(PANEL),
        k: width,
        acc: b.scores,
        acc_stride: TILE,
    };
    gemm::run(ctx.path(), keys);
    for (row, scores) in one.rows.clone().zip(b.scores.chunks_exact_mut(TILE)) {
        let scores = &mut scores[..one.keys];
        let factor = weigh(ctx.path(), scores, shape.scale, &mut b.max[row], &mut b.sum[row]);
        if factor != 1.0 {
            b.sums[row * padded..][..rank].iter_mut().for_each(|o| *o *= factor);
        }
    }
    let values = Block {
        x: &*b.scores,
        x_stride: TILE,
        rows: heads,
        w: &*b.rows,
        k_stride: width,
        panel_stride: PANEL,
        panels: padded / PANEL,
        k: one.keys,
        acc: &mut b.sums[one.rows.start * padded..],
        acc_stride: padded,
    };
    gemm::run(ctx.path(), values);
}

/// Decodes the rows of a tile, as rows and as columns.
fn gather(shape: &AttentionShape, queries: &Queries<'_>, seen: Seen<'_>, keys: Range<usize>, b: &mut Buffers<'_>) {
    for (slot, (row, key)) in b.rows.chunks_exact_mut(shape.codec.width()).zip(keys).enumerate() {
        let position = seen.position(key);
        shape.codec.decode(queries.sequence.cache.page_of(position), position % PAGE_ROWS, row);
        b.columns.iter_mut().skip(slot).step_by(TILE).zip(&*row).for_each(|(to, &v)| *to = v);
    }
}

/// Turns scores into weights and updates maximum and sum; gives the factor of what was added up before.
fn weigh(path: Path, scores: &mut [f32], scale: f32, max: &mut f32, sum: &mut f32) -> f32 {
    let before = *max;
    for s in scores.iter_mut() {
        *s *= scale;
        if *s > *max {
            *max = *s;
        }
    }
    let factor = if *max == before { 1.0 } else { exp(before - *max) };
    exponentials(path, scores, *max);
    *sum = scores.iter().fold(*sum * factor, |sum, &p| sum + p);
    factor
}

/// `exp(s - max)` of every score, the same bits on every path.
fn exponentials(path: Path, scores: &mut [f32], max: f32) {
    #[cfg(target_arch = "x86_64")]
    if path == Path::Avx512 {
        return super::avx512::exponentials(scores, max);
    }
    let _ = path;
    scores.iter_mut().for_each(|s| *s = exp(*s - max));
}
