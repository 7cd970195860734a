//! One job of the scan at work: some queries of a sequence over some of its pages, a tile of 64 positions after another.
//!
//! Here keys are widened to f32, as columns [dim, 64], and multiplied by the products of `gemm`. Integers enter as they
//! are: sums of up to 1,024 products of two int8 are exact in f32 too. What AVX-512 does better is in `lines`.

use std::ops::Range;

use hadal_types::KvEncoding;

#[cfg(target_arch = "x86_64")]
use super::lines;
use super::{IndexQueries, IndexShape};
use crate::cache::{PAGE_ROWS, Paged, int8_code, int8_scale};
use crate::context::Ctx;
use crate::gemm::{self, Block};
use crate::panel::PANEL;
use crate::scratch;

/// One job.
pub(super) struct Scan<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) shape: &'a IndexShape,
    pub(super) keys: Paged<'a>,
    /// Of the job alone: [rows, heads, dim] and [rows, heads].
    pub(super) queries: IndexQueries<'a>,
    /// Positions to score, from the beginning of a tile on.
    pub(super) positions: Range<usize>,
}

impl Scan<'_> {
    /// Gives every tile of every query to `each`: the number of the query, the tile's first position, and its scores,
    /// of which those beyond the range have no meaning.
    pub(super) fn run(&self, each: impl FnMut(usize, usize, &[f32; PAGE_ROWS])) {
        #[cfg(target_arch = "x86_64")]
        if let Some(kind) = lines::Kind::of(self.ctx, self.shape) {
            return lines::scan(self, kind, each);
        }
        self.over_columns(each);
    }

    /// Queries.
    pub(super) fn rows(&self) -> usize {
        self.queries.w.len() / self.shape.heads.max(1)
    }

    /// The page after the one of `position`, if the scan goes on there.
    pub(super) fn page_after(&self, position: usize) -> &[u8] {
        let next = position + PAGE_ROWS;
        if next < self.positions.end { self.keys.page_of(next) } else { &[] }
    }

    fn over_columns(&self, mut each: impl FnMut(usize, usize, &[f32; PAGE_ROWS])) {
        let (heads, dim) = (self.shape.heads, self.shape.codec.dim());
        let (count, numbers) = (self.queries.w.len(), self.queries.q.len());
        scratch::with((dim + count) * PAGE_ROWS + numbers + count, |buffer| {
            let (keys, rest) = buffer.split_at_mut(dim * PAGE_ROWS);
            let (dots, rest) = rest.split_at_mut(count * PAGE_ROWS);
            let (q, w) = rest.split_at_mut(numbers);
            self.lay_out(q, w);
            for from in self.positions.clone().step_by(PAGE_ROWS) {
                let page = self.keys.page_of(from);
                let seen = (self.positions.end - from).min(PAGE_ROWS);
                decode_columns(self.shape, (page, seen), keys);
                self.multiply(q, (keys, seen), dots);
                let factors = factors(self.shape, page, self.takes_integers());
                let of_queries = w.chunks_exact(heads.max(1)).zip(dots.chunks_exact(heads.max(1) * PAGE_ROWS));
                for (row, (w, dots)) in of_queries.enumerate() {
                    each(row, from, &scores(w, dots, &factors));
                }
            }
        });
    }

    fn takes_integers(&self) -> bool {
        self.shape.codec.encoding() == KvEncoding::Int8Index
    }

    /// Queries and weights as they enter.
    fn lay_out(&self, q: &mut [f32], w: &mut [f32]) {
        let dim = self.shape.codec.dim();
        q.copy_from_slice(self.queries.q);
        w.copy_from_slice(self.queries.w);
        if self.takes_integers() {
            for (q, w) in q.chunks_exact_mut(dim.max(1)).zip(w) {
                let scale = int8_scale(q);
                q.iter_mut().for_each(|v| *v = f32::from(int8_code(*v, scale)));
                *w *= scale;
            }
        }
    }

    /// Products of every head of every query with the keys of a tile, of which `seen` are there.
    fn multiply(&self, q: &[f32], (keys, seen): (&[f32], usize), dots: &mut [f32]) {
        let dim = self.shape.codec.dim();
        dots.fill(0.0);
        let block = Block {
            x: q,
            x_stride: dim,
            rows: self.queries.w.len(),
            w: keys,
            k_stride: PAGE_ROWS,
            panel_stride: PANEL,
            panels: seen.div_ceil(PANEL),
            k: dim,
            acc: dots,
            acc_stride: PAGE_ROWS,
        };
        gemm::run(self.ctx.path(), block);
    }
}

/// What the sum of each key is multiplied by; `scaled` where the keys entered without their scales.
pub(super) fn factors(shape: &IndexShape, page: &[u8], scaled: bool) -> [f32; PAGE_ROWS] {
    let factor = 1.0 / (shape.codec.dim() as f32).sqrt();
    let mut factors = [1.0; PAGE_ROWS];
    if scaled {
        shape.codec.single_scales(page, &mut factors);
    }
    factors.iter_mut().for_each(|f| *f *= factor);
    factors
}

/// Reads `seen` keys of a page as columns, [dim, 64], integers without their scale; the others become zeros.
fn decode_columns(shape: &IndexShape, (page, seen): (&[u8], usize), keys: &mut [f32]) {
    let codec = &shape.codec;
    scratch::with(codec.dim(), |key| {
        if seen < PAGE_ROWS {
            keys.fill(0.0);
        }
        for slot in 0..seen {
            match codec.encoding() {
                KvEncoding::Int8Index => codec.integers(page, slot, key),
                KvEncoding::F32 | KvEncoding::Bf16 | KvEncoding::Fp8 => codec.decode(page, slot, key),
            }
            keys.iter_mut().skip(slot).step_by(PAGE_ROWS).zip(&*key).for_each(|(to, &v)| *to = v);
        }
    });
}

/// Adds up the heads, ascending. `dots` is [heads, 64].
fn scores(w: &[f32], dots: &[f32], factors: &[f32; PAGE_ROWS]) -> [f32; PAGE_ROWS] {
    let mut sums = [0.0f32; PAGE_ROWS];
    for (&w, dots) in w.iter().zip(dots.chunks_exact(PAGE_ROWS)) {
        // Not `max`: that would turn a NaN into 0.
        sums.iter_mut().zip(dots).for_each(|(s, &d)| *s += w * if d < 0.0 { 0.0 } else { d });
    }
    scaled(sums, factors)
}

/// Scores from the heads' sums.
pub(super) fn scaled(mut sums: [f32; PAGE_ROWS], factors: &[f32; PAGE_ROWS]) -> [f32; PAGE_ROWS] {
    sums.iter_mut().zip(factors).for_each(|(s, f)| *s *= f);
    sums
}
