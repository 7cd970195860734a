//! One job of the scan at work: some queries of a sequence over some of its pages, tile by tile of 64 positions.
//!
//! Here keys become columns and are multiplied one k, or one word of two, after another. What AVX-512 does better is in
//! `lines`.
//!
//! ```text
//! numbers    f32, [dim, 64]
//! integers   the same: sums of up to 1,024 products of two int8 are exact in f32 too
//! pairs      of integers of 16 bit, [dim / 2, 64]: AVX2
//! ```

use std::ops::Range;

use hadal_types::KvEncoding;

use super::{IndexQueries, IndexShape};
#[cfg(target_arch = "x86_64")]
use super::{avx2, lines};
use crate::cache::{PAGE_ROWS, Paged, int8_code, int8_scale};
use crate::context::{Ctx, Path};
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
        let columns = match (self.shape.codec.encoding(), self.ctx.path()) {
            (KvEncoding::Int8Index, Path::Avx2) => Columns::Pairs,
            (KvEncoding::Int8Index, _) => Columns::Integers,
            _ => Columns::Numbers,
        };
        self.over_columns(columns, each);
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

    fn over_columns(&self, columns: Columns, mut each: impl FnMut(usize, usize, &[f32; PAGE_ROWS])) {
        let (heads, dim) = (self.shape.heads, self.shape.codec.dim());
        let (count, numbers) = (self.queries.w.len(), self.queries.q.len());
        scratch::with((dim + count) * PAGE_ROWS + numbers + count, |buffer| {
            let (keys, rest) = buffer.split_at_mut(dim * PAGE_ROWS);
            let (dots, rest) = rest.split_at_mut(count * PAGE_ROWS);
            let (q, w) = rest.split_at_mut(numbers);
            self.lay_out(columns, q, w);
            for from in self.positions.clone().step_by(PAGE_ROWS) {
                let page = self.keys.page_of(from);
                let seen = (self.positions.end - from).min(PAGE_ROWS);
                columns.read(self.shape, (page, seen), keys);
                self.multiply(columns, q, (keys, seen), dots);
                let factors = factors(self.shape, page, columns != Columns::Numbers);
                let of_queries = w.chunks_exact(heads.max(1)).zip(dots.chunks_exact(heads.max(1) * PAGE_ROWS));
                for (row, (w, dots)) in of_queries.enumerate() {
                    each(row, from, &scores(w, dots, &factors));
                }
            }
        });
    }

    /// Queries and weights as they enter.
    fn lay_out(&self, columns: Columns, q: &mut [f32], w: &mut [f32]) {
        w.copy_from_slice(self.queries.w);
        if columns == Columns::Numbers {
            return q.copy_from_slice(self.queries.q);
        }
        let dim = self.shape.codec.dim().max(1);
        let heads = self.queries.q.chunks_exact(dim).zip(q.chunks_exact_mut(columns.words(dim))).zip(w);
        for ((numbers, words), w) in heads {
            let scale = int8_scale(numbers);
            *w *= scale;
            if columns == Columns::Integers {
                words.iter_mut().zip(numbers).for_each(|(word, &v)| *word = f32::from(int8_code(v, scale)));
            } else {
                let code = |v: &f32| i16::from(int8_code(*v, scale));
                let pairs = words.iter_mut().zip(numbers.chunks(2));
                pairs.for_each(|(word, v)| *word = pair(code(&v[0]), v.get(1).map_or(0, code)));
            }
        }
    }

    /// Products of every head of every query with the keys of a tile, of which `seen` are there.
    fn multiply(&self, columns: Columns, q: &[f32], (keys, seen): (&[f32], usize), dots: &mut [f32]) {
        let dim = self.shape.codec.dim();
        #[cfg(target_arch = "x86_64")]
        if columns == Columns::Pairs {
            return avx2::products(q, keys, columns.words(dim), dots);
        }
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

/// What columns are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Numbers,
    Integers,
    Pairs,
}

impl Columns {
    /// Words of a key or a head.
    fn words(self, dim: usize) -> usize {
        if self == Columns::Pairs { dim.div_ceil(2) } else { dim }
    }

    /// Reads `seen` keys of a page as columns, [words, 64], integers without their scale; the others have no meaning.
    fn read(self, shape: &IndexShape, (page, seen): (&[u8], usize), keys: &mut [f32]) {
        let (codec, dim) = (&shape.codec, shape.codec.dim());
        if self == Columns::Pairs {
            for (slot, key) in page.chunks_exact(dim.max(1)).take(seen).enumerate() {
                let code = |b: &u8| i16::from(*b as i8);
                let to = keys.iter_mut().skip(slot).step_by(PAGE_ROWS);
                to.zip(key.chunks(2)).for_each(|(to, k)| *to = pair(code(&k[0]), k.get(1).map_or(0, code)));
            }
            return;
        }
        scratch::with(dim, |key| {
            if seen < PAGE_ROWS {
                keys.fill(0.0);
            }
            for slot in 0..seen {
                match self {
                    Columns::Numbers => codec.decode(page, slot, key),
                    Columns::Integers | Columns::Pairs => codec.integers(page, slot, key),
                }
                keys.iter_mut().skip(slot).step_by(PAGE_ROWS).zip(&*key).for_each(|(to, &v)| *to = v);
            }
        });
    }
}

/// Two integers as one word.
#[inline]
fn pair(low: i16, high: i16) -> f32 {
    f32::from_bits(u32::from(high as u16) << 16 | u32::from(low as u16))
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
