//! Absorbed attention against a plain reference, and the laws of batch invariance.

use hadal_types::KvEncoding;

use super::*;
use crate::index::Margin;
use crate::testing::{Random, assert_close, bits, contexts, threaded};

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

fn attention(ctx: &Ctx, shape: &AttentionShape, sequences: &[AttentionRows<'_>], q: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len() / shape.codec.width() * shape.codec.rank()];
    mla_attention(ctx, shape, sequences, q, &mut out);
    out
}

#[test]
fn attention_follows_the_reference_for_all_keys_and_for_chosen_ones() {
    let mut random = Random::new(1);
    for (rank, rope, heads) in [(32, 8, 4), (40, 6, 3), (16, 16, 1), (130, 10, 17)] {
        for encoding in [KvEncoding::F32, KvEncoding::Bf16, KvEncoding::Fp8] {
            let codec = LatentCodec::new(encoding, rank, rope);
            let shape = AttentionShape { codec, heads, scale: 0.7 };
            let rows = Rows::new(codec, &random.numbers(150 * codec.width()), 1, 2);
            for position in [0usize, 1, 62, 63, 64, 127, 128, 149] {
                let q = random.numbers(heads * codec.width());
                let all: Vec<u32> = (0..=position as u32).collect();
                let some: Vec<u32> = all.iter().copied().filter(|p| p % 3 == 0).collect();
                let mut choice = Choice::default();
                choice.push(some.iter().copied(), Margin::ALL);
                for ctx in contexts() {
                    for (keys, positions) in [(Keys::All, &all), (Keys::Chosen { choice: &choice, first: 0 }, &some)] {
                        let row = AttentionRows { cache: rows.paged(), start: position as u32, rows: 1, from: 0, keys };
                        assert_close(
                            &attention(&ctx, &shape, &[row], &q),
                            &reference(&rows, &shape, &q, positions),
                            1e-5,
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn chunks_batches_pages_and_threads_change_nothing() {
    let mut random = Random::new(2);
    let codec = LatentCodec::new(KvEncoding::Fp8, 48, 16);
    let shape = AttentionShape { codec, heads: 20, scale: 0.3 };
    let values = random.numbers(300 * codec.width());
    let (here, there) = (Rows::new(codec, &values, 0, 1), Rows::new(codec, &values, 3, 4));
    let n = 40;
    let start = 230;
    let q = random.numbers(n * shape.heads * codec.width());
    for ctx in contexts() {
        let whole = [AttentionRows { cache: here.paged(), start, rows: n, from: 0, keys: Keys::All }];
        let whole = attention(&ctx, &shape, &whole, &q);
        let alone: Vec<f32> = q
            .chunks(shape.heads * codec.width())
            .zip(start..)
            .flat_map(|(q, start)| {
                let row = AttentionRows { cache: there.paged(), start, rows: 1, from: 0, keys: Keys::All };
                attention(&threaded(&ctx), &shape, &[row], q)
            })
            .collect();
        assert_eq!(bits(&whole), bits(&alone), "{}", ctx.path());
        let parts = [(0, 1, &there), (1, 26, &here), (27, 13, &there)].map(|(first, rows, from)| AttentionRows {
            cache: from.paged(),
            start: start + first,
            rows,
            from: 0,
            keys: Keys::All,
        });
        assert_eq!(bits(&whole), bits(&attention(&threaded(&ctx), &shape, &parts, &q)));
    }
}

#[test]
fn choosing_all_is_the_same_as_reading_all() {
    let mut random = Random::new(3);
    let codec = LatentCodec::new(KvEncoding::Bf16, 32, 16);
    let shape = AttentionShape { codec, heads: 4, scale: 1.0 };
    let rows = Rows::new(codec, &random.numbers(200 * codec.width()), 0, 1);
    let q = random.numbers(5 * 4 * codec.width());
    let mut choice = Choice::default();
    for from in [0, 1, 63, 64, 100] {
        choice.clear();
        choice.push([], Margin::ALL);
        (190..195).for_each(|p| choice.push(from..=p, Margin::ALL));
        for ctx in contexts() {
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
    let codec = LatentCodec::new(KvEncoding::F32, 16, 2);
    let shape = AttentionShape { codec, heads: 3, scale: 1.0 };
    for from in [1u32, 64, 70] {
        let mut values = random.numbers(100 * codec.width());
        values[..from as usize * codec.width()].fill(f32::NAN);
        let rows = Rows::new(codec, &values, 0, 1);
        let q = random.numbers(3 * 3 * codec.width());
        for ctx in contexts() {
            let seen = AttentionRows { cache: rows.paged(), start: from - 1, rows: 3, from, keys: Keys::All };
            let out = attention(&ctx, &shape, &[seen], &q);
            let (none, some) = out.split_at(3 * codec.rank());
            assert!(none.iter().all(|v| v.is_nan()), "there is nothing to see yet");
            for (i, out) in some.chunks(3 * codec.rank()).enumerate() {
                let positions: Vec<u32> = (from..=from + i as u32).collect();
                let q = &q[(i + 1) * 3 * codec.width()..][..3 * codec.width()];
                assert_close(out, &reference(&rows, &shape, q, &positions), 1e-5);
            }
        }
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let codec = LatentCodec::new(KvEncoding::F32, 16, 2);
    let shape = AttentionShape { codec, heads: 1, scale: 1.0 };
    // The one key that matters comes late, after the running maximum was far lower.
    let values: Vec<f32> = (0..100).flat_map(|p| vec![if p == 90 { 30.0 } else { -30.0 }; 18]).collect();
    let rows = Rows::new(codec, &values, 0, 1);
    for ctx in contexts() {
        let row = AttentionRows { cache: rows.paged(), start: 99, rows: 1, from: 0, keys: Keys::All };
        assert!(attention(&ctx, &shape, &[row], &[10.0; 18]).iter().all(|&v| v == 30.0));
    }
}

#[test]
fn a_damaged_or_missing_key_gives_nan_to_its_own_query_only() {
    let mut random = Random::new(4);
    let codec = LatentCodec::new(KvEncoding::F32, 16, 2);
    let shape = AttentionShape { codec, heads: 1, scale: 1.0 };
    let mut values = random.numbers(10 * 18);
    values[9 * 18] = f32::NAN;
    let rows = Rows::new(codec, &values, 0, 1);
    let mut none = Choice::default();
    none.push([], Margin::ALL);
    for ctx in contexts() {
        let row = AttentionRows { cache: rows.paged(), start: 8, rows: 2, from: 0, keys: Keys::All };
        let out = attention(&ctx, &shape, &[row], &random.numbers(36));
        assert!(out[..16].iter().all(|v| v.is_finite()));
        assert!(out[16..].iter().all(|v| v.is_nan()));
        let keys = Keys::Chosen { choice: &none, first: 0 };
        let row = AttentionRows { cache: rows.paged(), start: 8, rows: 1, from: 0, keys };
        assert!(attention(&ctx, &shape, &[row], &[1.0; 18]).iter().all(|v| v.is_nan()));
    }
}
