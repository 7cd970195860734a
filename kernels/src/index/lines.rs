//! The scan on AVX-512, from lines of a page: what a word of 32 bits of each of 16 keys holds, as the dot products of
//! bf16 and of integers take it.
//!
//! ```text
//! bf16   2 numbers of a key; of e4m3 the codes, widened        queries rounded to bf16
//! int8   4 integers of a key, plus 128: the instruction        queries as integers times a scale, which goes into the
//!        takes one side without sign                           head's weight; a sum begins at −128 × theirs
//! ```
//!
//! A line is 16 keys, the 4 lines of a word follow one another, and words ascend. The heads of a query are words too,
//! one head after another, filled up with zeros.

use hadal_types::{Dtype, KvEncoding};

use super::avx512::{self, Heads};
use super::scan::{Scan, factors, scaled};
use super::{IndexQueries, IndexShape};
use crate::cache::{PAGE_ROWS, int8_code, int8_scale};
use crate::context::{Ctx, Path};
use crate::number::f32_to_bf16;
use crate::panel::{Line, PANEL};
use crate::scratch;

/// Lines of a word.
pub(super) const WORD_LINES: usize = PAGE_ROWS / PANEL;
/// Words of a key at most: 128 numbers of bf16, 256 integers.
const WORDS: usize = 64;

/// What the lines are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bf16,
    E4m3,
    Int8,
}

impl Kind {
    /// None where the path, the activations or the keys do not allow lines.
    pub(super) fn of(ctx: &Ctx, shape: &IndexShape) -> Option<Self> {
        let dim = shape.codec.dim();
        if ctx.path() != Path::Avx512 || dim == 0 || shape.heads == 0 {
            return None;
        }
        let kind = match (shape.codec.encoding(), ctx.dtype()) {
            (KvEncoding::Int8Index, _) => Kind::Int8,
            (KvEncoding::Bf16, Dtype::Bf16) if dim.is_multiple_of(32) => Kind::Bf16,
            (KvEncoding::Fp8, Dtype::Bf16) if dim.is_multiple_of(32) => Kind::E4m3,
            _ => return None,
        };
        (kind.words(dim) <= WORDS).then_some(kind)
    }

    /// Words of a key.
    pub(super) fn words(self, dim: usize) -> usize {
        match self {
            Kind::Bf16 | Kind::E4m3 => dim / 2,
            // 64 integers are turned at a time.
            Kind::Int8 => dim.next_multiple_of(64) / 4,
        }
    }

    /// The words of a head, its weight, and what its sums begin at.
    fn lay_out(self, q: &[f32], words: &mut [f32]) -> (f32, i32) {
        match self {
            Kind::Bf16 | Kind::E4m3 => {
                for (word, x) in words.iter_mut().zip(q.chunks_exact(2)) {
                    *word = f32::from_bits(u32::from(f32_to_bf16(x[1])) << 16 | u32::from(f32_to_bf16(x[0])));
                }
                (1.0, 0)
            }
            Kind::Int8 => {
                let scale = int8_scale(q);
                let code = |v: Option<&f32>| v.map_or(0, |&v| int8_code(v, scale));
                let mut sum = 0;
                for (at, word) in words.iter_mut().enumerate() {
                    let codes = [0, 1, 2, 3].map(|i| code(q.get(at * 4 + i)));
                    sum += codes.iter().map(|&c| i32::from(c)).sum::<i32>();
                    *word = f32::from_bits(u32::from_le_bytes(codes.map(|c| c as u8)));
                }
                (scale, -128 * sum)
            }
        }
    }
}

/// As [`Scan::run`].
pub(super) fn scan(job: &Scan<'_>, kind: Kind, mut each: impl FnMut(usize, usize, &[f32; PAGE_ROWS])) {
    let (heads, dim) = (job.shape.heads, job.shape.codec.dim());
    let (count, words) = (job.queries.w.len(), kind.words(dim));
    let mut lines = [Line::ZERO; WORDS * WORD_LINES];
    scratch::with(count * (words + 2), |buffer| {
        let (x, rest) = buffer.split_at_mut(count * words);
        let (weights, starts) = rest.split_at_mut(count);
        lay_out(kind, job.queries, (x, weights, starts));
        for from in job.positions.clone().step_by(PAGE_ROWS) {
            let page = job.keys.page_of(from);
            avx512::turn(kind, page, dim, &mut lines);
            let factors = factors(job.shape, page, true);
            let next = job.page_after(from);
            let mut parts = next.chunks(next.len().div_ceil(job.rows().max(1)).max(1));
            for row in 0..job.rows() {
                let these = row * heads..(row + 1) * heads;
                let heads = Heads {
                    lines: &lines[..words * WORD_LINES],
                    x: &x[these.start * words..these.end * words],
                    weights: &weights[these.clone()],
                    starts: &starts[these],
                };
                let sums = avx512::sums(kind, &heads, parts.next().unwrap_or_default());
                each(row, from, &scaled(sums, &factors));
            }
        }
    });
}

/// All heads of all queries. What sums begin at is kept as the bits of an f32.
fn lay_out(kind: Kind, queries: IndexQueries<'_>, (x, weights, starts): (&mut [f32], &mut [f32], &mut [f32])) {
    let dim = queries.q.len() / queries.w.len().max(1);
    let words = x.len() / queries.w.len().max(1);
    let heads = queries.q.chunks_exact(dim).zip(queries.w).zip(x.chunks_exact_mut(words));
    for (((q, w), x), (weight, start)) in heads.zip(weights.iter_mut().zip(starts)) {
        let (scale, first) = kind.lay_out(q, x);
        *weight = w * scale;
        *start = f32::from_bits(first as u32);
    }
}
