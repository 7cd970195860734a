//! Products with weights: skinny ones, which take as long as reading the weights, wide ones, and experts.

use std::hint::black_box;
use std::sync::Arc;

use super::{Noise, Shapes, unit_of};
use crate::bench::{Case, Work};
use crate::context::Ctx;
use crate::error::PackError;
use crate::experts::{Expert, moe_experts};
use crate::gate::Routes;
use crate::linear::{Linear, WeightRef, linear};

/// With bf16 and fp8 weights.
pub(super) fn cases(ctx: &Ctx, s: &Shapes, headline: usize) -> Result<Vec<Case>, PackError> {
    let mut cases = Vec::new();
    for (kind, fp8) in [("bf16", false), ("fp8", true)] {
        let w = weights(ctx, [s.wide, s.hidden], fp8)?;
        let size = w.bytes();
        let copies: Arc<[Linear]> = vec![w; headline.div_ceil(size).max(1)].into();
        for rows in s.skinny_rows {
            cases.push(product(ctx, format!("linear_{kind}_{rows}"), rows, &copies));
        }
        cases.push(product(ctx, format!("linear_{kind}_{}", s.wide_rows), s.wide_rows, &copies));
    }
    cases.push(experts(ctx, s)?);
    Ok(cases)
}

/// Weights [n, k] of bf16 or of e4m3 in blocks of 128 × 128.
fn weights(ctx: &Ctx, [n, k]: [usize; 2], fp8: bool) -> Result<Linear, PackError> {
    let mut noise = Noise(1);
    let slice = |weight| crate::linear::WeightSlice { weight, shape: [n, k], rows: 0..n, transposed: false };
    if fp8 {
        // Without the highest bit of the exponent: no code that is NaN.
        let data: Vec<u8> = (0..n * k).map(|_| noise.word() as u8 & 0xb7).collect();
        let scales = vec![0.01; n.div_ceil(128) * k.div_ceil(128)];
        Linear::pack_slice(ctx, &slice(WeightRef::Fp8 { data: &data, scales: &scales, block: [128, 128] }))
    } else {
        // Around 1: no overflow, nothing subnormal.
        let data: Vec<u16> = (0..n * k).map(|_| (noise.word() as u16 & 0x80ff) | 0x3f00).collect();
        Linear::pack_slice(ctx, &slice(WeightRef::Bf16(&data)))
    }
}

fn product(ctx: &Ctx, name: String, rows: usize, copies: &Arc<[Linear]>) -> Case {
    let (n, k, size) = (copies[0].n(), copies[0].k(), copies[0].bytes());
    let x = Noise(2).numbers(rows * k);
    let mut out = vec![0.0; rows * n];
    let (context, copies, mut turn) = (ctx.clone(), copies.clone(), 0);
    let work = Work {
        bytes: size as f64,
        working_set: size * copies.len(),
        operations: 2.0 * (rows * n * k) as f64,
        unit: unit_of(ctx),
    };
    Case::new(name, format!("{rows} × {k} → {n}"), work, move || {
        linear(&context, &copies[turn % copies.len()], &x, &mut out);
        black_box(&mut out);
        turn += 1;
    })
}

/// A step's rows, sent to all experts evenly; weights are fp8, as they are published.
fn experts(ctx: &Ctx, s: &Shapes) -> Result<Case, PackError> {
    let up = weights(ctx, [s.expert_width, s.hidden], true)?;
    let down = weights(ctx, [s.hidden, s.expert_width], true)?;
    let size = 2 * up.bytes() + down.bytes();
    let all: Vec<[Linear; 3]> = vec![[up.clone(), up, down]; s.experts];
    let (rows, k, experts) = (s.rows, s.experts_per_token, s.experts);
    let routes = Routes {
        k,
        ids: (0..rows).flat_map(|row| ascending(row, k, experts)).collect(),
        weights: vec![1.0 / k as f32; rows * k],
        margins: vec![1.0; rows],
    };
    let x = Noise(10).numbers(rows * s.hidden);
    let mut out = vec![0.0; x.len()];
    let work = Work {
        bytes: (size * experts.min(rows * k)) as f64,
        working_set: size * experts,
        operations: 2.0 * (rows * k * 3 * s.hidden * s.expert_width) as f64,
        unit: unit_of(ctx),
    };
    let shape = format!("{rows} rows, {k} of {experts} experts, 3 × {} × {}", s.hidden, s.expert_width);
    let ctx = ctx.clone();
    Ok(Case::new("experts_fp8", shape, work, move || {
        let expert = |id: u32| {
            let [gate, up, down] = &all[id as usize];
            Expert { gate, up, down }
        };
        out.fill(0.0);
        moe_experts(&ctx, &x, &routes, &expert, &mut out);
        black_box(&mut out);
    }))
}

/// The experts of a row: the first k after a place that moves on from row to row.
fn ascending(row: usize, k: usize, experts: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..k).map(|i| ((row * k + i) % experts) as u32).collect();
    ids.sort_unstable();
    ids
}
