//! MLA by heads against plain sums in f64.

use super::*;
use crate::testing::{Random, assert_close, bits, threaded};

/// Latents, weights and queries of a small head, in the order of [`Expanded::new`].
struct Case {
    shape: ExpandedShape,
    context: Vec<f32>,
    w_key: Vec<f32>,
    w_value: Vec<f32>,
    q: Vec<f32>,
}

impl Case {
    fn new([rank, nope, rope, value]: [usize; 4], keys: usize, rows: usize) -> Self {
        let mut random = Random::new((rank + keys + rows) as u64);
        let shape = ExpandedShape { rank, nope, rope, value, scale: 0.4 };
        let mut weights = |n: usize| random.numbers(n).iter().map(|w| w / (rank as f32).sqrt()).collect::<Vec<_>>();
        let (w_key, w_value) = (weights(nope * rank), weights(rank * value));
        let (context, q) = (random.numbers(keys * (rank + rope)), random.numbers(rows * (nope + rope)));
        Self { shape, context, w_key, w_value, q }
    }

    fn want(&self) -> Vec<f64> {
        let ExpandedShape { rank, nope, rope, value, scale } = self.shape;
        let dot = |a: &mut dyn Iterator<Item = (f32, f32)>| a.map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let row = |row: &[f32]| {
            let key =
                (0..nope).map(|n| dot(&mut row.iter().copied().zip(self.w_key[n * rank..].iter().copied()).take(rank)));
            let key: Vec<f64> = key.chain(row[rank..].iter().map(|&v| f64::from(v))).collect();
            let column = |o: usize| self.w_value.iter().copied().skip(o).step_by(value);
            let value: Vec<f64> = (0..value).map(|o| dot(&mut row.iter().copied().take(rank).zip(column(o)))).collect();
            (key, value)
        };
        let rows: Vec<(Vec<f64>, Vec<f64>)> = self.context.chunks(rank + rope).map(row).collect();
        self.q
            .chunks(nope + rope)
            .flat_map(|q| {
                let score =
                    |key: &[f64]| q.iter().zip(key).map(|(&a, b)| f64::from(a) * b).sum::<f64>() * f64::from(scale);
                let weights: Vec<f64> = rows.iter().map(|(key, _)| score(key).exp()).collect();
                let sum: f64 = weights.iter().sum();
                (0..value)
                    .map(|o| rows.iter().zip(&weights).map(|((_, v), w)| v[o] * w).sum::<f64>() / sum)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// The answer on this machine, where it has pairs.
    fn got(&self, threads: bool) -> Option<Vec<f32>> {
        let ctx = Ctx::new(Path::Avx512, Dtype::Bf16).ok()?;
        let ctx = if threads { threaded(&ctx) } else { ctx };
        let mut head = Expanded::new(&ctx, self.shape, &self.context, &self.w_key, &self.w_value)?;
        head.expand();
        let rows = self.q.len() / (self.shape.nope + self.shape.rope);
        let mut out = vec![f32::NAN; rows * self.shape.value];
        head.attend(&self.q, &mut out);
        Some(out)
    }
}

#[test]
fn attention_by_heads_follows_plain_sums() {
    for sizes in [[64, 32, 16, 32], [40, 10, 6, 20], [33, 17, 10, 16], [512, 128, 64, 128]] {
        for keys in [1, 15, 64, 65, 131] {
            for rows in [1, 6, 13] {
                let case = Case::new(sizes, keys, rows);
                // Keys, values, queries and weights are rounded to bf16, by up to 1/512 each.
                let Some(got) = case.got(false) else { return };
                assert_close(&got, &case.want(), 0.02);
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let case = Case::new([64, 32, 16, 32], 150, 40);
    let (Some(one), Some(three)) = (case.got(false), case.got(true)) else { return };
    assert_eq!(bits(&one), bits(&three));
}

#[test]
fn there_is_none_without_pairs() {
    let case = Case::new([32, 16, 8, 16], 1, 1);
    for path in Path::available() {
        let ctx = Ctx::new(path, Dtype::F32).unwrap();
        assert!(Expanded::new(&ctx, case.shape, &case.context, &case.w_key, &case.w_value).is_none());
    }
}

#[test]
fn operations_are_those_of_the_products() {
    let case = Case::new([32, 16, 8, 16], 10, 1);
    let Ok(ctx) = Ctx::new(Path::Avx512, Dtype::Bf16) else { return };
    let head = Expanded::new(&ctx, case.shape, &case.context, &case.w_key, &case.w_value).unwrap();
    assert_eq!(head.expansion_operations(), 2.0 * 10.0 * 32.0 * 32.0);
    assert_eq!(head.attention_operations(3), 2.0 * 3.0 * 10.0 * 40.0);
}
