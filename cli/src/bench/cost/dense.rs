//! The rival in prefill: dense attention with keys and values expanded from the latents, which is its cheaper form there.
//! One head is computed and stands for all, since each takes the same time: its queries of a chunk over the whole
//! context, and the expansion of the context, which the chunk's rows share.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "kernels of other machines have no such form"))]

use hadal_kernels::Ctx;
#[cfg(target_arch = "x86_64")]
use hadal_kernels::bench::{Expanded as Head, ExpandedShape};

use super::report::Expanded;
use super::shape::Shape;
use super::sizes::Sizes;

/// Queries that are timed, at most: enough for the rate of a whole chunk.
const QUERIES_MAX: usize = 512;

/// A head with random weights and a random context.
pub(super) struct Rival {
    ctx: Ctx,
    shape: Shape,
    chunk: usize,
    /// [keys, rank + rope].
    context: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// [queries, nope + rope].
    queries: Vec<f32>,
}

impl Rival {
    pub(super) fn new(ctx: &Ctx, sizes: &Sizes) -> Self {
        let shape = sizes.shape;
        let queries = QUERIES_MAX.min(sizes.chunk) * (shape.nope + shape.rope);
        let [key, value] = [shape.nope, shape.value].map(|width| numbers(width * shape.kv_rank, shape.kv_rank));
        let context = numbers(sizes.position_max() as usize * (shape.kv_rank + shape.rope), 1);
        Self { ctx: ctx.clone(), shape, chunk: sizes.chunk, context, key, value, queries: numbers(queries, 1) }
    }

    /// Bytes of it for so many positions, and of what a head makes of them.
    pub(super) fn bytes(shape: &Shape, positions: usize) -> usize {
        positions * (6 * (shape.kv_rank + shape.rope) + 2 * (shape.nope + shape.rope + shape.value))
    }

    /// None: this machine's kernels have no such form.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn prefill(&self, _: u32, _: &dyn Fn() -> f64) -> Option<Expanded> {
        None
    }

    /// Seconds for a row at the end of a chunk that ends at `position`; none where the kernel path has no such form.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn prefill(&self, position: u32, now: &dyn Fn() -> f64) -> Option<Expanded> {
        let Shape { heads, kv_rank: rank, nope, rope, value, .. } = self.shape;
        let shape = ExpandedShape { rank, nope, rope, value, scale: 1.0 / ((nope + rope) as f32).sqrt() };
        let context = &self.context[..position as usize * (rank + rope)];
        let mut head = Head::new(&self.ctx, shape, context, &self.key, &self.value)?;
        // What only the first time pays: pages of memory.
        head.expand();
        let rows = (self.queries.len() / (nope + rope)).min(position as usize);
        let mut out = vec![0.0; rows * value];
        let start = now();
        head.expand();
        let expanded = now();
        head.attend(&self.queries[..rows * (nope + rope)], &mut out);
        let attended = now();
        std::hint::black_box(&mut out);
        let (rows, sharing) = (rows as f64, self.chunk.min(position as usize) as f64);
        let operations = head.attention_operations(1) + head.expansion_operations() / sharing;
        Some(Expanded {
            attend: (attended - expanded) * heads as f64 / rows,
            expand: (expanded - start) * heads as f64 / sharing,
            operations: operations * heads as f64,
        })
    }
}

/// Numbers in no order, with a variance of about 1 ÷ `inputs`.
fn numbers(count: usize, inputs: usize) -> Vec<f32> {
    let (mut word, factor) = (1u32, 1.7 / (inputs as f32).sqrt());
    let mut next = || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((word >> 8) as f32 / (1 << 23) as f32 - 1.0) * factor
    };
    (0..count).map(|_| next()).collect()
}
