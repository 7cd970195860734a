//! Int8 keys against the definition of their scores, to the bit and on every path.

use super::*;
use crate::cache::{int8_code, int8_scale};

/// Scores of one query for int8 keys, by the definition alone: integers, and each operation of f32 by itself.
fn int8_scores(keys: &Keys, (q, w): (&[f32], &[f32]), positions: std::ops::Range<usize>) -> Vec<f32> {
    let dim = keys.codec.dim();
    let integers = |q: &[f32], scale: f32| q.iter().map(|&v| i32::from(int8_code(v, scale))).collect::<Vec<_>>();
    let heads: Vec<(Vec<i32>, f32)> =
        q.chunks(dim).zip(w).map(|(q, w)| (integers(q, int8_scale(q)), w * int8_scale(q))).collect();
    let score = |position: usize| {
        let page = keys.paged().page_of(position);
        let slot = position % PAGE_ROWS;
        let key = &page[slot * dim..][..dim];
        let scale = f32::from_le_bytes(page[PAGE_ROWS * dim + slot * 4..][..4].try_into().unwrap());
        let mut sum = 0.0f32;
        for (q, w) in &heads {
            let dot: i32 = q.iter().zip(key).map(|(q, &k)| q * i32::from(k as i8)).sum();
            sum += w * dot.max(0) as f32;
        }
        sum * (scale * (1.0 / (dim as f32).sqrt()))
    };
    positions.map(score).collect()
}

/// Holds a choice among int8 keys against a stable sort of these scores, on every path, of one row and of several.
#[track_caller]
fn int8_is_chosen_as_defined(keys: &Keys, (q, w): (&[f32], &[f32]), start: usize, from: usize, k: usize) {
    let (dim, rows) = (keys.codec.dim(), keys.pages.len() * PAGE_ROWS);
    let heads = q.len() / dim;
    let n = 3.min(rows - start);
    let (all_q, all_w) = (q.repeat(n), w.repeat(n));
    let wanted: Vec<_> =
        (0..n).map(|row| by_a_stable_sort(&int8_scores(keys, (q, w), from..start + row + 1), k)).collect();
    for ctx in both_dtypes() {
        let shape = IndexShape { codec: keys.codec, heads, k };
        let seen = [IndexRows { keys: keys.paged(), start: start as u32, rows: n, from: from as u32 }];
        let choice = select(&ctx, &shape, &seen, &all_q, &all_w);
        for (row, (positions, ends)) in wanted.iter().enumerate() {
            let chosen: Vec<u32> = choice.row(row).iter().map(|p| p - from as u32).collect();
            assert_eq!(&chosen, positions, "{} {dim} × {heads} from {from}", ctx.path());
            let margin = choice.margins()[row];
            if let Some(ends) = ends {
                assert_eq!([margin.last, margin.next].map(f32::to_bits), *ends, "{} {dim} × {heads}", ctx.path());
            }
        }
    }
}

/// The positions of the best scores, and the bits of the last of them and of the next, if there is one.
fn by_a_stable_sort(scores: &[f32], k: usize) -> (Vec<u32>, Option<[u32; 2]>) {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap());
    let ends = (order.len() > k).then(|| [order[k - 1], order[k]].map(|p| (scores[p as usize] + 0.0).to_bits()));
    order.truncate(k);
    order.sort_unstable();
    (order, ends)
}

#[test]
fn int8_scores_are_the_same_on_every_path_in_every_shape() {
    let mut random = Random::new(11);
    // Heads on both sides of a group of registers, numbers on both sides of a line, one token, tails of a page.
    for dim in [1, 24, 63, 64, 65, 128, 256, 300] {
        for heads in [1, 6, 7, 13, 64].into_iter().filter(|heads| heads * dim <= 64 * 128) {
            let n = [1, 64, 65, 130, 200][random.below(5)];
            let keys = Keys::new(KvEncoding::Int8Index, dim, &random.numbers(n * dim), 1, 2);
            let (q, w) = (random.numbers(heads * dim), random.numbers(heads));
            for k in [1, 20, n, n + 1] {
                int8_is_chosen_as_defined(&keys, (&q, &w), n - n.min(3), 0, k);
            }
            if n > 4 {
                int8_is_chosen_as_defined(&keys, (&q, &w), n - 3, 1, 2);
                int8_is_chosen_as_defined(&keys, (&q, &w), n - 3, 2, n - 4);
            }
        }
    }
}

#[test]
fn int8_integers_at_both_ends_neither_overflow_nor_saturate() {
    let (heads, n) = (7, 150);
    for dim in [64, 128, 256, 1024] {
        // All products have one sign or alternate, and every code is −127 or 127.
        for pattern in [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]] {
            let values: Vec<f32> =
                (0..n * dim).map(|i| pattern[i % 2] * if i / dim % 3 == 0 { -5.0 } else { 5.0 }).collect();
            let keys = Keys::new(KvEncoding::Int8Index, dim, &values, 0, 1);
            for sign in [3.0, -3.0] {
                let q: Vec<f32> = (0..heads * dim).map(|i| pattern[(i + i / dim) % 2] * sign).collect();
                let w: Vec<f32> = (0..heads).map(|h| h as f32 - 3.0).collect();
                int8_is_chosen_as_defined(&keys, (&q, &w), n - 1, 0, 70);
            }
        }
    }
}

#[test]
fn int8_takes_numbers_as_small_as_there_are_and_codes_that_it_never_writes() {
    let mut random = Random::new(12);
    let (heads, dim, n) = (5, 128, 140);
    for size in [0.0, 1e-45, 1e-39, 1e-30, 1e30] {
        let numbers: Vec<f32> = random.numbers(n * dim).iter().map(|v| v * size).collect();
        let keys = Keys::new(KvEncoding::Int8Index, dim, &numbers, 0, 1);
        let q: Vec<f32> = random.numbers(heads * dim).iter().map(|v| v * size.min(1.0)).collect();
        int8_is_chosen_as_defined(&keys, (&q, &random.numbers(heads)), n - 1, 0, 10);
    }
    let mut keys = Keys::new(KvEncoding::Int8Index, dim, &random.numbers(n * dim), 0, 1);
    keys.pool[..dim * 20].fill(0x80);
    int8_is_chosen_as_defined(&keys, (&random.numbers(heads * dim), &random.numbers(heads)), n - 1, 0, 10);
}

#[test]
fn a_damaged_int8_key_query_or_weight_is_an_error_of_the_queries_that_see_it() {
    let (heads, dim, n, k) = (2, 64, 100, 10);
    let clean = Random::new(4).numbers(n * dim);
    let q = Random::new(5).numbers(3 * heads * dim);
    for ctx in both_dtypes() {
        for damaged in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let run = |values: &[f32], q: &[f32], w: &[f32]| {
                let keys = Keys::new(KvEncoding::Int8Index, dim, values, 0, 1);
                let shape = IndexShape { codec: keys.codec, heads, k };
                let rows = [IndexRows { keys: keys.paged(), start: 90, rows: 3, from: 0 }];
                let mut choice = Choice::default();
                let result = index_select(&ctx, &shape, &rows, IndexQueries { q, w }, &mut choice);
                (result.err().map(|e| e.row), [0, 1, 2].map(|row| choice.row(row).len()))
            };
            let mut values = clean.clone();
            values[91 * dim + 5] = damaged;
            assert_eq!(run(&values, &q, &[1.0; 6]), (Some(1), [k, 0, 0]));
            let mut bad = q.clone();
            bad[heads * dim + 3] = damaged;
            assert_eq!(run(&clean, &bad, &[1.0; 6]), (Some(1), [k, 0, k]));
            assert_eq!(run(&clean, &q, &[1.0, 1.0, 1.0, 1.0, damaged, 1.0]), (Some(2), [k, k, 0]));
        }
    }
}
