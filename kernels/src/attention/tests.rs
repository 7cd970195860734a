//! Absorbed attention against a plain reference, the chain of sums of pairs to the bit, and the laws of batch
//! invariance.

use hadal_types::KvEncoding;

use super::*;
use crate::context::Path;
use crate::index::Margin;
use crate::math::exp;
use crate::number::round_bf16;
use crate::testing::{Random, assert_close, bits, dot2, normal, threaded, typed_contexts};

const ENCODINGS: [KvEncoding; 4] = [KvEncoding::F32, KvEncoding::Bf16, KvEncoding::Fp8, KvEncoding::Int8Index];
/// Rank, rotated numbers and heads: whole vectors and panels, and none.
const SHAPES: [[usize; 3]; 7] =
    [[32, 8, 4], [40, 6, 3], [16, 16, 1], [130, 10, 17], [33, 2, 7], [64, 16, 6], [160, 64, 16]];

struct Rows {
    codec: LatentCodec,
    pool: Vec<u8>,
    pages: Vec<u32>,
}

impl Rows {
    fn new(codec: LatentCodec, values: &[f32], first_page: u32, step: u32) -> Self {
        let blocks = (values.len() / codec.width()).div_ceil(PAGE_ROWS) as u32;
        // What no row was written to holds NaN.
        let mut pool = vec![0xff; (first_page + blocks * step) as usize * codec.page_bytes()];
        let pages: Vec<u32> = (0..blocks).map(|b| first_page + (blocks - 1 - b) * step).collect();
        for (position, row) in values.chunks(codec.width()).enumerate() {
            let page = pages[position / PAGE_ROWS] as usize * codec.page_bytes();
            let (latent, rope) = row.split_at(codec.rank());
            codec.encode(&mut pool[page..][..codec.page_bytes()], position % PAGE_ROWS, latent, rope);
        }
        Self { codec, pool, pages }
    }

    fn paged(&self) -> Paged<'_> {
        Paged::new(&self.pool, self.codec.page_bytes(), &self.pages).unwrap()
    }

    /// Queries that read everything but position 0.
    fn queries(&self, start: u32, rows: usize) -> AttentionRows<'_> {
        AttentionRows { cache: self.paged(), start, rows, from: 1, keys: Keys::All }
    }

    fn row(&self, position: usize) -> Vec<f32> {
        let mut row = vec![0.0; self.codec.width()];
        self.codec.decode(self.paged().page_of(position), position % PAGE_ROWS, &mut row);
        row
    }
}

fn reference(rows: &Rows, shape: &AttentionShape, q: &[f32], positions: &[u32]) -> Vec<f64> {
    let keys: Vec<Vec<f32>> = positions.iter().map(|&p| rows.row(p as usize)).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    q.chunks(shape.codec.width())
        .flat_map(|q| {
            let scores: Vec<f64> = keys.iter().map(|k| dot(q, k) * f64::from(shape.scale)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let column = |c: usize| keys.iter().zip(&weights).map(|(k, w)| f64::from(k[c]) * w).sum::<f64>() / sum;
            (0..shape.codec.rank()).map(column).collect::<Vec<_>>()
        })
        .collect()
}

/// The sum of pairs along `x` and `y`, an odd last one with zero.
fn pairs(sum: f32, x: &[f32], y: &[f32]) -> f32 {
    let pair = |v: &[f32]| [v[0], v.get(1).copied().unwrap_or(0.0)];
    x.chunks(2).zip(y.chunks(2)).fold(sum, |sum, (x, y)| dot2(sum, pair(x), pair(y)))
}

/// One head by the rule at the heads of `attention` and `pairs`, a sum at a time.
fn by_pairs(rows: &Rows, shape: &AttentionShape, q: &[f32], positions: &[u32], from: usize) -> Vec<f32> {
    let rank = shape.codec.rank();
    let rounded = |x: &[f32]| x.iter().map(|&x| round_bf16(x)).collect::<Vec<f32>>();
    let q = rounded(q);
    let (mut max, mut lanes, mut out) = (f32::NEG_INFINITY, [0.0f32; 16], vec![0.0f32; rank]);
    let (short, rest) = positions.split_at((64 - from % 64).min(positions.len()));
    for tile in std::iter::once(short).chain(rest.chunks(64)) {
        let keys: Vec<Vec<f32>> = tile.iter().map(|&p| rounded(&rows.row(p as usize))).collect();
        let score = |k: &Vec<f32>| pairs(pairs(0.0, &q[..rank], &k[..rank]), &q[rank..], &k[rank..]) * shape.scale;
        let scores: Vec<f32> = keys.iter().map(score).collect();
        let before = max;
        max = scores.iter().fold(max, |max, &s| if s > max { s } else { max });
        let factor = if max == before { 1.0 } else { exp(before - max) };
        let mut p: Vec<f32> = scores.iter().map(|s| round_bf16(normal(exp(s - max)))).collect();
        for (c, out) in out.iter_mut().enumerate() {
            let values: Vec<f32> = keys.iter().map(|k| k[c]).collect();
            *out = pairs(if factor == 1.0 { *out } else { *out * factor }, &p, &values);
        }
        p.resize(64, 0.0);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = *lane * factor + ((p[i] + p[i + 16]) + (p[i + 32] + p[i + 48]));
        }
    }
    let sum: f32 = lanes.iter().sum();
    out.iter().map(|o| o / sum).collect()
}

fn attention(ctx: &Ctx, shape: &AttentionShape, sequences: &[AttentionRows<'_>], q: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len() / shape.codec.width() * shape.codec.rank()];
    mla_attention(ctx, shape, sequences, q, &mut out);
    out
}

#[test]
fn attention_follows_the_reference_for_all_keys_and_for_chosen_ones() {
    let mut random = Random::new(1);
    for [rank, rope, heads] in SHAPES {
        for encoding in ENCODINGS {
            let codec = LatentCodec::new(encoding, rank, rope);
            let shape = AttentionShape { codec, heads, scale: 0.7 };
            let rows = Rows::new(codec, &random.numbers(150 * codec.width()), 1, 2);
            for position in [0usize, 1, 62, 63, 64, 127, 128, 149] {
                let q = random.numbers(heads * codec.width());
                let all: Vec<u32> = (0..=position as u32).collect();
                let some: Vec<u32> = all.iter().copied().filter(|p| p % 3 == 0).collect();
                let mut choice = Choice::default();
                choice.push(some.iter().copied(), Margin::ALL);
                for (keys, positions) in [(Keys::All, &all), (Keys::Chosen { choice: &choice, first: 0 }, &some)] {
                    let row = AttentionRows { cache: rows.paged(), start: position as u32, rows: 1, from: 0, keys };
                    let want = reference(&rows, &shape, &q, positions);
                    for ctx in typed_contexts() {
                        // Queries and weights are rounded to bf16, by up to 1/512, and rows of fp8 once more.
                        let tolerance = if takes_pairs(&ctx, &shape) { 0.02 } else { 1e-5 };
                        assert_close(&attention(&ctx, &shape, &[row], &q), &want, tolerance);
                    }
                }
            }
        }
    }
}

#[test]
fn pairs_are_added_in_their_order_to_the_bit() {
    let mut random = Random::new(6);
    for ctx in typed_contexts() {
        for ([rank, rope, heads], encoding) in SHAPES.into_iter().flat_map(|s| ENCODINGS.map(|e| (s, e))) {
            let codec = LatentCodec::new(encoding, rank, rope);
            // Sharp, so that some weights are subnormal and maxima come late.
            let shape = AttentionShape { codec, heads, scale: 9.0 };
            if !takes_pairs(&ctx, &shape) {
                continue;
            }
            let mut values = random.numbers(131 * codec.width());
            // Subnormal numbers, and two equal keys.
            values[..8].fill(1e-39);
            values.copy_within(0..codec.width(), 5 * codec.width());
            let rows = Rows::new(codec, &values, 0, 1);
            for (from, end) in [(0, 1), (0, 2), (0, 63), (0, 64), (1, 65), (0, 65), (0, 131), (63, 130)] {
                let positions: Vec<u32> = (from..end).collect();
                let q = random.numbers(heads * codec.width());
                let want: Vec<f32> = q
                    .chunks(codec.width())
                    .flat_map(|q| by_pairs(&rows, &shape, q, &positions, from as usize))
                    .collect();
                let row = AttentionRows { cache: rows.paged(), start: end - 1, rows: 1, from, keys: Keys::All };
                let got = attention(&ctx, &shape, &[row], &q);
                assert_eq!(bits(&got), bits(&want), "{encoding} {rank} + {rope}, {heads} heads, {from}..{end}");
            }
        }
    }
}

#[test]
fn chunks_batches_pages_and_threads_change_nothing() {
    let mut random = Random::new(2);
    for ([rank, rope, heads], encoding) in
        [[48, 16, 48], [64, 16, 6], [33, 10, 1]].into_iter().flat_map(|s| ENCODINGS.map(|e| (s, e)))
    {
        let codec = LatentCodec::new(encoding, rank, rope);
        let shape = AttentionShape { codec, heads, scale: 0.3 };
        let values = random.numbers(300 * codec.width());
        let (here, there) = (Rows::new(codec, &values, 0, 1), Rows::new(codec, &values, 3, 4));
        let n = 40;
        let q = random.numbers(n * heads * codec.width());
        for ctx in typed_contexts() {
            let whole = attention(&ctx, &shape, &[here.queries(230, n)], &q);
            let alone: Vec<f32> = q
                .chunks(heads * codec.width())
                .zip(0..)
                .flat_map(|(q, first)| attention(&threaded(&ctx), &shape, &[there.queries(230 + first, 1)], q))
                .collect();
            assert_eq!(bits(&whole), bits(&alone), "{} {} {encoding} {heads}", ctx.path(), ctx.dtype());
            let parts = [there.queries(230, 1), here.queries(231, 26), there.queries(257, 13)];
            assert_eq!(bits(&whole), bits(&attention(&threaded(&ctx), &shape, &parts, &q)));
            assert_eq!(bits(&whole), bits(&attention(&ctx, &shape, &parts, &q)));
        }
    }
}

#[test]
fn choosing_all_is_the_same_as_reading_all() {
    let mut random = Random::new(3);
    for (encoding, from) in ENCODINGS.into_iter().flat_map(|e| [0, 1, 63, 64, 100].map(|from| (e, from))) {
        let codec = LatentCodec::new(encoding, 32, 16);
        let shape = AttentionShape { codec, heads: 4, scale: 1.0 };
        let rows = Rows::new(codec, &random.numbers(200 * codec.width()), 0, 1);
        let q = random.numbers(5 * 4 * codec.width());
        let mut choice = Choice::default();
        choice.push([], Margin::ALL);
        (190..195).for_each(|p| choice.push(from..=p, Margin::ALL));
        for ctx in typed_contexts() {
            let row = |keys| [AttentionRows { cache: rows.paged(), start: 190, rows: 5, from, keys }];
            let all = attention(&ctx, &shape, &row(Keys::All), &q);
            let chosen = attention(&ctx, &shape, &row(Keys::Chosen { choice: &choice, first: 1 }), &q);
            assert_eq!(bits(&all), bits(&chosen));
        }
    }
}

#[test]
fn positions_before_the_first_that_is_seen_have_no_weight() {
    let mut random = Random::new(5);
    let codec = LatentCodec::new(KvEncoding::Bf16, 16, 2);
    let shape = AttentionShape { codec, heads: 3, scale: 1.0 };
    for from in [1u32, 64, 70] {
        let mut values = random.numbers(100 * codec.width());
        values[..from as usize * codec.width()].fill(f32::NAN);
        let rows = Rows::new(codec, &values, 0, 1);
        let q = random.numbers(3 * 3 * codec.width());
        for ctx in typed_contexts() {
            let seen = AttentionRows { cache: rows.paged(), start: from - 1, rows: 3, from, keys: Keys::All };
            let out = attention(&ctx, &shape, &[seen], &q);
            let (none, some) = out.split_at(3 * codec.rank());
            assert!(none.iter().all(|v| v.is_nan()), "there is nothing to see yet");
            for (i, out) in some.chunks(3 * codec.rank()).enumerate() {
                let positions: Vec<u32> = (from..=from + i as u32).collect();
                let q = &q[(i + 1) * 3 * codec.width()..][..3 * codec.width()];
                let tolerance = if takes_pairs(&ctx, &shape) { 0.02 } else { 1e-5 };
                assert_close(out, &reference(&rows, &shape, q, &positions), tolerance);
            }
        }
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    for encoding in ENCODINGS {
        let codec = LatentCodec::new(encoding, 16, 2);
        let shape = AttentionShape { codec, heads: 1, scale: 1.0 };
        // The one key that matters comes late, after the running maximum was far lower.
        let values: Vec<f32> = (0..100).flat_map(|p| vec![if p == 90 { 28.0 } else { -28.0 }; 18]).collect();
        let rows = Rows::new(codec, &values, 0, 1);
        for ctx in typed_contexts() {
            let row = AttentionRows { cache: rows.paged(), start: 99, rows: 1, from: 0, keys: Keys::All };
            assert!(attention(&ctx, &shape, &[row], &[10.0; 18]).iter().all(|&v| v == 28.0));
        }
    }
}

#[test]
fn keys_that_tie_have_equal_parts() {
    for encoding in ENCODINGS {
        let codec = LatentCodec::new(encoding, 16, 2);
        let shape = AttentionShape { codec, heads: 2, scale: 3.0 };
        // Equal as keys by a query that is zero there, and not as values.
        let values: Vec<f32> = (0..128).flat_map(|p| vec![if p % 2 == 0 { 7.0 } else { -1.75 }; 18]).collect();
        let rows = Rows::new(codec, &values, 0, 1);
        for ctx in typed_contexts() {
            let row = AttentionRows { cache: rows.paged(), start: 127, rows: 1, from: 0, keys: Keys::All };
            assert!(attention(&ctx, &shape, &[row], &[0.0; 36]).iter().all(|&v| v == 2.625));
        }
    }
}

#[test]
fn a_damaged_or_missing_key_gives_nan_to_its_own_query_only() {
    let mut random = Random::new(4);
    let mut none = Choice::default();
    none.push([], Margin::ALL);
    for (encoding, heads) in ENCODINGS.into_iter().flat_map(|e| [1, 3, 17].map(|heads| (e, heads))) {
        let codec = LatentCodec::new(encoding, 16, 2);
        let shape = AttentionShape { codec, heads, scale: 1.0 };
        let (width, out_width) = (heads * codec.width(), heads * codec.rank());
        for damaged in [8, 9, 63, 64] {
            let mut values = random.numbers(70 * codec.width());
            values[damaged * codec.width() + damaged % 16] = f32::NAN;
            let rows = Rows::new(codec, &values, 0, 1);
            for ctx in typed_contexts() {
                let start = damaged as u32 - 3;
                let row = AttentionRows { cache: rows.paged(), start, rows: 5, from: 0, keys: Keys::All };
                let out = attention(&ctx, &shape, &[row], &random.numbers(5 * width));
                let (before, after) = out.split_at(3 * out_width);
                assert!(before.iter().all(|v| v.is_finite()), "{encoding} {heads} {damaged}");
                assert!(after.iter().all(|v| v.is_nan()));
                let keys = Keys::Chosen { choice: &none, first: 0 };
                let row = AttentionRows { cache: rows.paged(), start, rows: 1, from: 0, keys };
                assert!(attention(&ctx, &shape, &[row], &vec![1.0; width]).iter().all(|v| v.is_nan()));
            }
        }
    }
}

#[test]
fn a_damaged_query_gives_nan_to_no_other() {
    let mut random = Random::new(7);
    let codec = LatentCodec::new(KvEncoding::Bf16, 16, 2);
    let shape = AttentionShape { codec, heads: 3, scale: 1.0 };
    let rows = Rows::new(codec, &random.numbers(10 * codec.width()), 0, 1);
    let mut q = random.numbers(3 * 3 * codec.width());
    q[4 * codec.width()] = f32::NAN;
    for ctx in typed_contexts() {
        let row = AttentionRows { cache: rows.paged(), start: 5, rows: 3, from: 0, keys: Keys::All };
        let out = attention(&ctx, &shape, &[row], &q);
        for (head, out) in out.chunks(codec.rank()).enumerate() {
            assert!(out.iter().all(|v| v.is_nan() == (head == 4)), "{head}");
        }
    }
}

#[test]
fn jobs_cover_every_head_of_every_query_once() {
    for (threads, rows, heads, want) in [
        // One query is divided among threads, while gathering stays small.
        (1, 1, 128, (1, 128)),
        (2, 1, 128, (1, 64)),
        (16, 1, 128, (1, 8)),
        (3, 1, 17, (1, 17)),
        // Three queries would keep one of two threads waiting.
        (2, 3, 128, (1, 64)),
        (2, 4, 128, (1, 128)),
        // Few heads leave room for several queries, as far as there are enough for all threads.
        (2, 500, 6, (21, 6)),
        (5, 17, 1, (3, 1)),
    ] {
        let share = Share::of(threads, rows, heads);
        assert_eq!((share.rows, share.heads), want, "{threads} {rows} {heads}");
        for job in 0..(rows * heads).div_ceil(share.rows * share.heads) {
            let (row, head) = share.first(job, heads);
            assert_eq!(row * heads + head, job * share.rows * share.heads, "{threads} {rows} {heads}");
        }
    }
}

#[test]
fn exponentials_have_the_bits_of_the_scalar_ones() {
    let mut random = Random::new(8);
    if !Path::Avx512.is_available() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    for max in [0.0, -3.5, 80.0] {
        let mut scores: Vec<f32> = (-106_000..90_000).map(|i| i as f32 / 1000.0 + max).collect();
        scores.extend((0..100_003).map(|_| f32::from_bits(random.word())));
        let want: Vec<f32> = scores.iter().map(|s| exp(s - max)).collect();
        avx512::exponentials(&mut scores, max);
        for (got, want) in scores.into_iter().zip(want) {
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{got} {want}");
        }
    }
}
