//! Indexer scores and choices against a plain reference over adversarial shapes.

use hadal_types::{Dtype, KvEncoding};

use super::*;
use crate::number::round_bf16;
use crate::testing::{Random, contexts, threaded};

mod int8;

/// A sequence's keys in a pool, its pages scattered.
struct Keys {
    codec: IndexCodec,
    pool: Vec<u8>,
    pages: Vec<u32>,
}

impl Keys {
    fn new(encoding: KvEncoding, dim: usize, values: &[f32], first_page: u32, step: u32) -> Self {
        let codec = IndexCodec::new(encoding, dim);
        let blocks = (values.len() / dim).div_ceil(PAGE_ROWS) as u32;
        let count = first_page + blocks * step;
        let mut pool = vec![0x7f; count as usize * codec.page_bytes()];
        // Descending, so that neighbours in the sequence are none in the pool.
        let pages: Vec<u32> = (0..blocks).map(|b| first_page + (blocks - 1 - b) * step).collect();
        for (position, key) in values.chunks(dim).enumerate() {
            let page = pages[position / PAGE_ROWS] as usize * codec.page_bytes();
            codec.encode(&mut pool[page..][..codec.page_bytes()], position % PAGE_ROWS, key);
        }
        Self { codec, pool, pages }
    }

    fn paged(&self) -> Paged<'_> {
        Paged::new(&self.pool, self.codec.page_bytes(), &self.pages).unwrap()
    }

    fn decoded(&self, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n * self.codec.dim()];
        for (position, key) in out.chunks_mut(self.codec.dim()).enumerate() {
            self.codec.decode(self.paged().page_of(position), position % PAGE_ROWS, key);
        }
        out
    }
}

fn both_dtypes() -> Vec<Ctx> {
    let dtypes = |c: Ctx| [Dtype::F32, Dtype::Bf16].map(|d| Ctx::new(c.path(), d).unwrap());
    contexts().into_iter().flat_map(dtypes).collect()
}

fn select(ctx: &Ctx, shape: &IndexShape, sequences: &[IndexRows<'_>], q: &[f32], w: &[f32]) -> Choice {
    let mut choice = Choice::default();
    index_select(ctx, shape, sequences, IndexQueries { q, w }, &mut choice).unwrap();
    choice
}

/// Scores of one query at `position`, and the positions of the best, by a stable sort.
fn reference(keys: &[f32], (q, w): (&[f32], &[f32]), position: usize, k: usize) -> (Vec<f64>, Vec<u32>) {
    let dim = q.len() / w.len();
    let factor = (dim as f64).powf(-0.5);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let scores: Vec<f64> = keys
        .chunks(dim)
        .take(position + 1)
        .map(|key| q.chunks(dim).zip(w).map(|(q, &w)| f64::from(w) * (dot(q, key) * factor).max(0.0)).sum())
        .collect();
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap());
    let mut best = order[..k.min(order.len())].to_vec();
    best.sort_unstable();
    (scores, best)
}

#[test]
fn whole_numbers_with_many_ties_are_chosen_as_by_a_stable_sort() {
    let mut random = Random::new(1);
    // The factor 16^-0.5 is exact too, so scores are, in any order of summation, and equal ones are equal.
    let (heads, dim, n) = (3, 16, 300);
    for k in [1, 16, 63, 64, 65, 128, 299, 300, 301] {
        let values = random.whole_numbers(n * dim);
        let (q, w) = (random.whole_numbers(n * heads * dim), random.whole_numbers(n * heads));
        let keys = Keys::new(KvEncoding::F32, dim, &values, 1, 2);
        for ctx in contexts() {
            let shape = IndexShape { codec: keys.codec, heads, k };
            let rows = [IndexRows { keys: keys.paged(), start: 0, rows: n, from: 0 }];
            let choice = select(&ctx, &shape, &rows, &q, &w);
            assert_eq!(choice.rows(), n);
            for p in 0..n {
                let (q, w) = (&q[p * heads * dim..][..heads * dim], &w[p * heads..][..heads]);
                let (_, want) = reference(&values, (q, w), p, k);
                assert_eq!(choice.row(p), want, "k {k} position {p}");
            }
        }
    }
}

#[test]
fn real_numbers_are_chosen_by_their_scores_in_every_encoding() {
    for (heads, dim) in [(4, 40), (4, 32), (13, 128), (2, 160)] {
        real_numbers_are_chosen_by_their_scores(heads, dim);
    }
}

fn real_numbers_are_chosen_by_their_scores(heads: usize, dim: usize) {
    let mut random = Random::new(2);
    let (n, k) = (200, 32);
    let values = random.numbers(n * dim);
    // Numbers of bf16, so that rounding them changes nothing.
    let q: Vec<f32> = random.numbers(n * heads * dim).into_iter().map(round_bf16).collect();
    let w = random.numbers(n * heads);
    for encoding in [KvEncoding::F32, KvEncoding::Bf16, KvEncoding::Fp8] {
        let keys = Keys::new(encoding, dim, &values, 0, 1);
        let decoded = keys.decoded(n);
        for ctx in both_dtypes() {
            let shape = IndexShape { codec: keys.codec, heads, k };
            let rows = [IndexRows { keys: keys.paged(), start: 0, rows: n, from: 0 }];
            let choice = select(&ctx, &shape, &rows, &q, &w);
            for p in k..n {
                let (q, w) = (&q[p * heads * dim..][..heads * dim], &w[p * heads..][..heads]);
                let (scores, want) = reference(&decoded, (q, w), p, k);
                let margin = choice.margins()[p];
                let lowest = want.iter().map(|&c| scores[c as usize]).fold(f64::INFINITY, f64::min);
                assert!((f64::from(margin.last) - lowest).abs() < 2e-5, "{encoding} {dim} {p}");
                // Scores closer than rounding may fall either way.
                if margin.last - margin.next > 4e-5 {
                    assert_eq!(choice.row(p), want, "{encoding} {dim} {p}");
                }
            }
        }
    }
}

#[test]
fn chunks_batches_pages_and_threads_change_nothing() {
    for encoding in [KvEncoding::Bf16, KvEncoding::Fp8, KvEncoding::Int8Index] {
        for (dim, from) in [(24, 1), (32, 100)] {
            chunks_batches_pages_and_threads_change_nothing_at(encoding, dim, from);
        }
    }
    chunks_batches_pages_and_threads_change_nothing_at(KvEncoding::F32, 24, 0);
}

fn chunks_batches_pages_and_threads_change_nothing_at(encoding: KvEncoding, dim: usize, from: u32) {
    let mut random = Random::new(3);
    let (heads, n, k) = (2, 6000, 20);
    let values = random.numbers(n * dim);
    let rows = 30;
    let start = n - rows;
    let (q, w) = (random.numbers(rows * heads * dim), random.numbers(rows * heads));
    let (here, there) = (Keys::new(encoding, dim, &values, 0, 1), Keys::new(encoding, dim, &values, 5, 3));
    let facts = |c: &Choice| {
        let ends = c.margins().iter().map(|m| (m.last.to_bits(), m.next.to_bits()));
        (0..c.rows()).map(|r| c.row(r).to_vec()).zip(ends).collect::<Vec<_>>()
    };
    for ctx in both_dtypes() {
        let shape = IndexShape { codec: here.codec, heads, k };
        let whole = select(&ctx, &shape, &[IndexRows { keys: here.paged(), start: start as u32, rows, from }], &q, &w);
        // Each query alone, on threads, which splits the positions; then pairs from two pools in one batch.
        let alone: Vec<_> = (0..rows)
            .flat_map(|r| {
                let (q, w) = (&q[r * heads * dim..][..heads * dim], &w[r * heads..][..heads]);
                let row = [IndexRows { keys: there.paged(), start: (start + r) as u32, rows: 1, from }];
                facts(&select(&threaded(&ctx), &shape, &row, q, w))
            })
            .collect();
        assert_eq!(facts(&whole), alone);
        let parts = [(0, 1), (1, 17), (18, 12)].map(|(first, rows)| IndexRows {
            keys: if first == 1 { here.paged() } else { there.paged() },
            start: (start + first) as u32,
            rows,
            from,
        });
        assert_eq!(facts(&whole), facts(&select(&threaded(&ctx), &shape, &parts, &q, &w)));
    }
}

#[test]
fn scores_are_those_that_were_chosen_by_and_the_gap_is_in_their_deviations() {
    let mut random = Random::new(9);
    let (heads, dim, n, k) = (3, 64, 200, 50);
    for encoding in KvEncoding::ALL {
        let keys = Keys::new(*encoding, dim, &random.numbers(n * dim), 0, 1);
        let (q, w) = (random.numbers(heads * dim), random.numbers(heads));
        for (ctx, from) in both_dtypes().iter().flat_map(|ctx| [0, 1, 64, 100].map(|from| (ctx, from))) {
            let shape = IndexShape { codec: keys.codec, heads, k };
            let row = IndexRows { keys: keys.paged(), start: n as u32 - 1, rows: 1, from };
            let scores = index_scores(ctx, &shape, &row, IndexQueries { q: &q, w: &w });
            assert_eq!(scores.len(), n - from as usize);
            let mut falling = scores.clone();
            falling.sort_by(|a, b| b.total_cmp(a));
            let choice = select(ctx, &shape, &[row], &q, &w);
            assert_eq!(choice.margins()[0], Margin { last: falling[k - 1], next: falling[k] });
            assert!(choice.row(0).iter().all(|&p| scores[p as usize - from as usize] >= falling[k - 1]));
        }
    }
    assert_eq!(Margin { last: 7.0, next: 4.0 }.gap(&[1.0, 4.0, 7.0, 4.0]), 3.0 / 4.5f32.sqrt());
}

#[test]
fn a_choice_of_many_rounds_is_that_of_one_query_after_another() {
    let mut random = Random::new(10);
    // More jobs than a round has, queries that take all among them, and one that fails in the middle.
    let (heads, dim, n, k) = (1, 32, 500, 40);
    let keys = Keys::new(KvEncoding::Bf16, dim, &random.numbers(n * dim), 0, 1);
    let (mut q, w) = (random.numbers(2 * n * dim), random.numbers(2 * n));
    q[(n + 300) * dim] = f32::NAN;
    for ctx in both_dtypes().iter().flat_map(|ctx| [ctx.clone(), threaded(ctx)]) {
        let shape = IndexShape { codec: keys.codec, heads, k };
        let all = IndexRows { keys: keys.paged(), start: 0, rows: n, from: 0 };
        let mut choice = Choice::default();
        let failure = index_select(&ctx, &shape, &[all, all], IndexQueries { q: &q, w: &w }, &mut choice);
        assert_eq!(failure.unwrap_err().row, n + 300);
        assert!(choice.row(n + 300).is_empty());
        for row in (0..2 * n).step_by(37).filter(|&row| row != n + 300) {
            let of_row = (&q[row * dim..][..dim], &w[row..=row]);
            let alone = [IndexRows { start: (row % n) as u32, rows: 1, ..all }];
            assert_eq!(choice.row(row), select(&ctx, &shape, &alone, of_row.0, of_row.1).row(0), "{row}");
        }
        let small = [IndexRows { rows: 50, ..all }];
        let of_few = (&q[..50 * dim], &w[..50]);
        let again = index_select(&ctx, &shape, &small, IndexQueries { q: of_few.0, w: of_few.1 }, &mut choice);
        assert!(again.is_ok() && choice.rows() == 50, "memory of the last choice is used again");
        assert_eq!(choice.row(49), select(&ctx, &shape, &small, of_few.0, of_few.1).row(49));
    }
}

#[test]
fn equal_scores_choose_the_lowest_positions() {
    let (dim, n, k) = (16, 200, 50);
    let keys = Keys::new(KvEncoding::F32, dim, &vec![1.0; n * dim], 0, 1);
    for ctx in contexts() {
        let shape = IndexShape { codec: keys.codec, heads: 1, k };
        let row = [IndexRows { keys: keys.paged(), start: n as u32 - 1, rows: 1, from: 0 }];
        // A weight of −0 makes every score −0 or +0: equal all the same.
        for w in [1.0, -1.0, 0.0, -0.0] {
            let choice = select(&ctx, &shape, &row, &vec![0.5; dim], &[w]);
            assert_eq!(choice.row(0), (0..50).collect::<Vec<u32>>());
        }
    }
}

#[test]
fn negative_zero_does_not_lose_to_positive_zero() {
    // relu gives 0 everywhere; at even positions the weight's sign makes it −0 by way of a negative weight.
    let (dim, n) = (16, 100);
    let values: Vec<f32> = (0..n * dim).map(|i| if i / dim % 2 == 0 { -1.0 } else { 0.0 }).collect();
    let keys = Keys::new(KvEncoding::F32, dim, &values, 0, 1);
    for ctx in contexts() {
        let shape = IndexShape { codec: keys.codec, heads: 1, k: 10 };
        let row = [IndexRows { keys: keys.paged(), start: n as u32 - 1, rows: 1, from: 0 }];
        assert_eq!(select(&ctx, &shape, &row, &vec![1.0; dim], &[-1.0]).row(0), (0..10).collect::<Vec<u32>>());
    }
}

#[test]
fn up_to_k_positions_are_all_chosen() {
    let (dim, k) = (16, 64);
    let keys = Keys::new(KvEncoding::F32, dim, &vec![1.0; 66 * dim], 0, 1);
    for ctx in contexts() {
        let shape = IndexShape { codec: keys.codec, heads: 1, k };
        let rows = [IndexRows { keys: keys.paged(), start: 0, rows: 66, from: 0 }];
        let choice = select(&ctx, &shape, &rows, &vec![1.0; 66 * dim], &[1.0; 66]);
        for p in 0..66usize {
            assert_eq!(choice.row(p).len(), (p + 1).min(k));
            assert_eq!(choice.margins()[p].gap(&[1.0, 2.0]).is_infinite(), p < k);
        }
    }
}

#[test]
fn positions_before_the_first_that_is_seen_are_not_chosen() {
    // The factor 64^-0.5 is exact, and bf16 holds every number here.
    let (heads, dim, n) = (2, 64, 300);
    let mut random = Random::new(8);
    for (from, encoding) in
        [1, 63, 64, 65, 130].into_iter().zip([KvEncoding::F32, KvEncoding::Bf16].into_iter().cycle())
    {
        let mut values = random.whole_numbers(n * dim);
        // What is not seen is damaged, or would be the best.
        values[..dim].fill(f32::NAN);
        values[dim..from * dim].fill(99.0);
        let keys = Keys::new(encoding, dim, &values, 1, 2);
        let rows = n - from;
        let (q, w) = (random.whole_numbers(rows * heads * dim), random.whole_numbers(rows * heads));
        for (ctx, k) in both_dtypes().iter().flat_map(|ctx| [1, 20, 64, 100].map(|k| (ctx, k))) {
            let shape = IndexShape { codec: keys.codec, heads, k };
            let seen = [IndexRows { keys: keys.paged(), start: from as u32, rows, from: from as u32 }];
            let choice = select(ctx, &shape, &seen, &q, &w);
            for row in 0..rows {
                let of_row = (&q[row * heads * dim..][..heads * dim], &w[row * heads..][..heads]);
                let (_, want) = reference(&values[from * dim..], of_row, row, k);
                let want: Vec<u32> = want.iter().map(|p| p + from as u32).collect();
                assert_eq!(choice.row(row), want, "from {from} k {k} row {row}");
                assert_eq!(choice.margins()[row].gap(&[1.0, 2.0]).is_infinite(), row < k);
            }
        }
    }
}

#[test]
fn a_query_that_sees_nothing_chooses_nothing() {
    let keys = Keys::new(KvEncoding::Bf16, 16, &[1.0; 48], 0, 1);
    for ctx in both_dtypes() {
        let shape = IndexShape { codec: keys.codec, heads: 1, k: 1 };
        let rows = [IndexRows { keys: keys.paged(), start: 0, rows: 3, from: 1 }];
        let choice = select(&ctx, &shape, &rows, &[1.0; 48], &[1.0; 3]);
        assert_eq!([0, 1, 2].map(|row| choice.row(row)), [&[][..], &[1], &[1]]);
    }
}

#[test]
fn a_nan_score_is_an_error_of_its_own_query_only() {
    let (dim, n, k) = (32, 100, 10);
    let keys = Keys::new(KvEncoding::Bf16, dim, &Random::new(4).numbers(n * dim), 0, 1);
    for ctx in both_dtypes() {
        let shape = IndexShape { codec: keys.codec, heads: 1, k };
        let rows = [IndexRows { keys: keys.paged(), start: 90, rows: 3, from: 0 }];
        let mut q = Random::new(5).numbers(3 * dim);
        let clean = select(&ctx, &shape, &rows, &q, &[1.0; 3]);
        q[dim + 3] = f32::NAN;
        let mut choice = Choice::default();
        let error = index_select(&ctx, &shape, &rows, IndexQueries { q: &q, w: &[1.0; 3] }, &mut choice).unwrap_err();
        assert_eq!(error.row, 1);
        assert!(choice.row(1).is_empty());
        assert_eq!((choice.row(0), choice.row(2)), (clean.row(0), clean.row(2)));
    }
}
