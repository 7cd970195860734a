//! Every kernel at given shapes. Numbers are made up: no result of an operation here depends on them but the choices of
//! top-k, gate and sampling, which are in no order.

use std::hint::black_box;

use hadal_types::{Dtype, SamplingParams};

use super::{Case, Unit, Work};
use crate::context::{Ctx, Path};
use crate::error::PackError;
use crate::gate::{Gate, GateScore, GroupScore, Routes, moe_gate};
use crate::norm::rms_norm;
use crate::rope::{RopeLayout, rope, rope_angles};
use crate::sample::{History, SampleScratch, sample};
use crate::topk::TopK;

mod cached;
mod products;

/// The sizes of a model, and how much of it is computed.
#[derive(Clone, Copy, Debug)]
pub struct Shapes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Outputs of the products.
    pub wide: usize,
    /// Rows of skinny products.
    pub skinny_rows: [usize; 3],
    /// Rows of the wide product.
    pub wide_rows: usize,
    /// Attention heads.
    pub heads: usize,
    /// Numbers of a latent.
    pub rank: usize,
    /// Numbers of a rotated key.
    pub rope: usize,
    /// Heads of the indexer.
    pub index_heads: usize,
    /// Numbers of an index key.
    pub index_dim: usize,
    /// Positions chosen.
    pub topk: usize,
    /// Positions of the context.
    pub tokens: usize,
    /// Width of an expert.
    pub expert_width: usize,
    /// Experts in memory.
    pub experts: usize,
    /// Experts that the gate knows, in eight groups of which four stay.
    pub gate_experts: usize,
    /// Experts of a row.
    pub experts_per_token: usize,
    /// Rows of a step: of experts, gate, norm and rope.
    pub rows: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
}

impl Shapes {
    /// DeepSeek-V3.2 at 128K.
    pub const V32: Shapes = Shapes {
        hidden: 7168,
        wide: 18_432,
        skinny_rows: [1, 4, 16],
        wide_rows: 512,
        heads: 128,
        rank: 512,
        rope: 64,
        index_heads: 64,
        index_dim: 128,
        topk: 2048,
        tokens: 131_072,
        expert_width: 2048,
        experts: 16,
        gate_experts: 256,
        experts_per_token: 8,
        rows: 32,
        vocab: 129_280,
    };

    /// Small enough for a test: same kernels, no figures.
    pub const QUICK: Shapes = Shapes {
        hidden: 256,
        wide: 512,
        skinny_rows: [1, 4, 16],
        wide_rows: 32,
        heads: 4,
        rank: 64,
        rope: 16,
        index_heads: 4,
        index_dim: 128,
        topk: 64,
        tokens: 1024,
        expert_width: 128,
        experts: 16,
        gate_experts: 32,
        experts_per_token: 8,
        rows: 4,
        vocab: 1000,
    };

    /// Bytes that [`cases`] takes at most, with weights that exceed `headline`: those that stay, and those that one
    /// product is packed from.
    pub fn bytes(&self, headline: usize) -> usize {
        let weights = self.hidden * self.wide;
        let copies = |size: usize| headline.next_multiple_of(size.max(1)).max(size);
        let experts = 3 * self.hidden * self.expert_width * (self.experts + 1);
        let keys = self.tokens * self.index_dim * 4;
        let latents = self.tokens * (self.rank + self.rope) * 3;
        copies(2 * weights) + copies(weights) + 2 * weights + experts + keys + latents
    }
}

/// All cases. Weights of products are there often enough to exceed `headline` bytes, and each run takes the next.
///
/// # Errors
/// None; the weights are well-formed.
pub fn cases(ctx: &Ctx, shapes: &Shapes, headline: usize) -> Result<Vec<Case>, PackError> {
    let mut cases = products::cases(ctx, shapes, headline)?;
    cases.extend(cached::cases(ctx, shapes));
    cases.extend([gate(shapes), norm(shapes), turn(shapes), top_k(ctx, shapes), draw(shapes)]);
    Ok(cases)
}

/// What products of this context take at best.
fn unit_of(ctx: &Ctx) -> Unit {
    if ctx.path() == Path::Avx512 && ctx.dtype() == Dtype::Bf16 { Unit::Bf16 } else { Unit::F32 }
}

/// Numbers in no order, the same every time.
struct Noise(u32);

impl Noise {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    /// In [-1, 1).
    fn number(&mut self) -> f32 {
        self.word() as f32 / (1 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// A case that reads `read` bytes and takes some operations of f32 for each of `count` numbers.
fn plain(name: &str, shape: String, read: usize, operations: usize, run: impl FnMut() + 'static) -> Case {
    let work = Work { bytes: read as f64, working_set: read, operations: operations as f64, unit: Unit::F32 };
    Case::new(name, shape, work, run)
}

fn gate(s: &Shapes) -> Case {
    let gate = Gate {
        experts: s.gate_experts,
        k: s.experts_per_token,
        groups: 8,
        groups_kept: 4,
        score: GateScore::Sigmoid,
        group_score: GroupScore::BestTwo,
        normalise: true,
        scaling: 2.5,
    };
    let (logits, bias) = (Noise(3).numbers(s.rows * gate.experts), Noise(4).numbers(gate.experts));
    let mut routes = Routes::default();
    let shape = format!("{} rows, {} of {} experts", s.rows, gate.k, gate.experts);
    plain("gate", shape, 4 * logits.len(), 4 * logits.len(), move || {
        // These numbers are finite.
        let _ = moe_gate(&gate, &logits, &bias, &mut routes);
        black_box(&mut routes);
    })
}

fn norm(s: &Shapes) -> Case {
    let (x, weight) = (Noise(5).numbers(s.rows * s.hidden), Noise(6).numbers(s.hidden));
    let mut out = vec![0.0; x.len()];
    let shape = format!("{} × {}", s.rows, s.hidden);
    plain("rms_norm", shape, 4 * x.len(), 4 * x.len(), move || {
        rms_norm(&x, &weight, 1e-6, &mut out);
        black_box(&mut out);
    })
}

fn turn(s: &Shapes) -> Case {
    let frequencies: Vec<f32> = (0..s.rope / 2).map(|i| 1.0 / (i + 1) as f32).collect();
    let (mut cos, mut sin) = (frequencies.clone(), frequencies.clone());
    rope_angles(&frequencies, 1.0, 1000, &mut cos, &mut sin);
    let (mut x, width) = (Noise(7).numbers(s.rows * s.heads * s.rope), s.rope);
    let shape = format!("{} × {} × {}", s.rows, s.heads, s.rope);
    plain("rope", shape, 4 * x.len(), 3 * x.len(), move || {
        // Rotation keeps lengths, so that running it again and again overflows nothing.
        x.chunks_exact_mut(width).for_each(|head| rope(head, &cos, &sin, RopeLayout::Interleaved));
        black_box(&mut x);
    })
}

fn top_k(ctx: &Ctx, s: &Shapes) -> Case {
    let (scores, path, k) = (Noise(8).numbers(s.tokens), ctx.path(), s.topk);
    let mut best = TopK::new(path, k);
    let shape = format!("{k} of {}", s.tokens);
    plain("top_k", shape, 4 * scores.len(), scores.len(), move || {
        best.begin(path, k);
        let (tiles, _) = scores.as_chunks();
        tiles.iter().zip((0..).step_by(64)).for_each(|(tile, first)| best.offer(tile, 0..64, first));
        black_box(best.finish());
    })
}

fn draw(s: &Shapes) -> Case {
    let logits: Vec<f32> = Noise(9).numbers(s.vocab).iter().map(|x| 10.0 * x).collect();
    let params = SamplingParams { top_p: 0.95, ..SamplingParams::default() };
    let (mut scratch, mut index) = (SampleScratch::default(), 0);
    let shape = format!("{} logits, top-p 0.95", s.vocab);
    plain("sample", shape, 4 * logits.len(), 4 * logits.len(), move || {
        let history = History { prompt: &[], output: &[], then: None };
        // These logits are finite.
        let drawn = sample(&logits, &params, history, index, &mut scratch);
        drop(black_box(drawn));
        index += 1;
    })
}
