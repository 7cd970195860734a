//! Products with weights, `out = x · wᵀ`, and the embedding.
//!
//! Weights keep their encoding in memory (bf16, e4m3 with f32 scales, f32), reordered into panels of 16 outputs so that
//! vectors run over outputs; a last partial panel is filled with zeros:
//!
//! ```text
//! data[panel][k][16 outputs]      scales[panel][k block][16 outputs]
//! ```
//!
//! Each output is one sum over k in ascending order whatever the number of rows or threads.

use hadal_types::Dtype;

use crate::context::Ctx;
use crate::gemm::{self, Bf16, Block, E4m3, Element, PANEL};
use crate::number::round_bf16;
use crate::scratch;

mod output;
mod pack;

pub use pack::{Embedding, Linear, WeightRef, WeightSlice};

use output::Columns;
use pack::Weights;

/// Panels of one job.
const JOB_PANELS: usize = 4;
/// Rows that a job takes through all of k before the next ones: their sums stay in the first-level cache.
const JOB_ROWS: usize = 32;
/// Steps along k that a job takes with all its rows before the next ones.
const JOB_K: usize = 512;

/// One product of several that run together.
pub struct Product<'a> {
    /// The weights.
    pub w: &'a Linear,
    /// Activations, [rows, k].
    pub x: &'a [f32],
    /// Result, [rows, n].
    pub out: &'a mut [f32],
}

/// `out = x · wᵀ` with `x` [rows, k] and `out` [rows, n]. With dtype bf16 the activations are rounded to bf16 first;
/// sums are always f32.
pub fn linear(ctx: &Ctx, w: &Linear, x: &[f32], out: &mut [f32]) {
    linear_many(ctx, &mut [Product { w, x, out }]);
}

/// Several products at once, so that small ones fill the threads together.
pub fn linear_many(ctx: &Ctx, products: &mut [Product<'_>]) {
    match ctx.dtype() {
        Dtype::F32 => run(ctx, products, None),
        Dtype::Bf16 => {
            let total = products.iter().map(|p| p.x.len()).sum();
            scratch::with(total, |rounded| {
                let all = products.iter().flat_map(|p| p.x);
                rounded.iter_mut().zip(all).for_each(|(to, &from)| *to = round_bf16(from));
                run(ctx, products, Some(rounded));
            });
        }
    }
}

/// Some panels of one product, and the columns of its result that they make.
struct Job<'a> {
    w: &'a Linear,
    x: &'a [f32],
    rows: usize,
    first_panel: usize,
    out: Columns<'a>,
}

fn run(ctx: &Ctx, products: &mut [Product<'_>], rounded: Option<&[f32]>) {
    let (mut work, mut at) = (0, 0);
    let mut jobs = Vec::new();
    for p in products.iter_mut() {
        let x = rounded.map_or(p.x, |all| &all[at..at + p.x.len()]);
        at += p.x.len();
        let (n, k) = (p.w.n(), p.w.k());
        let rows = x.len() / k.max(1);
        let parts = Columns::split(p.out, rows, n, JOB_PANELS * PANEL).enumerate();
        jobs.extend(parts.map(|(i, out)| Job { w: p.w, x, rows, first_panel: i * JOB_PANELS, out }));
        work += rows * n * k;
    }
    ctx.for_each(work, &mut jobs, |job| match job.w.weights() {
        Weights::F32(data) => columns::<f32>(ctx, job, data, &[]),
        Weights::Bf16(data) => columns::<Bf16>(ctx, job, data, &[]),
        Weights::Fp8 { data, scales, .. } => columns::<E4m3>(ctx, job, data, scales),
    });
}

/// Computes the panels of a job for all rows.
fn columns<T: Element>(ctx: &Ctx, job: &mut Job<'_>, data: &[T], scales: &[f32]) {
    let (k, first) = (job.w.k(), job.first_panel);
    let width = job.out.len();
    let panels = width.div_ceil(PANEL);
    let scale_stride = job.w.k_blocks() * PANEL;
    let mut acc = [0.0f32; JOB_ROWS * JOB_PANELS * PANEL];
    let acc_stride = panels * PANEL;
    for row in (0..job.rows).step_by(JOB_ROWS) {
        let rows = (job.rows - row).min(JOB_ROWS);
        acc.fill(0.0);
        let mut from = 0;
        while from < k {
            let (scale_block, to) = job.w.k_step(from, JOB_K);
            let scale = if T::SCALED { &scales[first * scale_stride + scale_block * PANEL..] } else { &[] };
            let block = Block {
                x: &job.x[row * k + from..],
                x_stride: k,
                rows,
                w: &data[first * k * PANEL + from * PANEL..],
                k_stride: PANEL,
                panel_stride: k * PANEL,
                panels,
                k: to - from,
                scale,
                scale_stride,
                acc: &mut acc,
                acc_stride,
            };
            gemm::run(ctx.path(), block);
            from = to;
        }
        for (r, sums) in acc.chunks_exact(acc_stride).take(rows).enumerate() {
            job.out.write(row + r, &sums[..width]);
        }
    }
}

#[cfg(test)]
mod tests;
