//! What the tests of this crate share: seeded numbers, contexts, comparisons.

use std::num::NonZeroUsize;
use std::sync::Arc;

use hadal_types::Dtype;

use crate::context::{Ctx, Path};
use crate::philox::philox;
use crate::pool::Pool;

/// A seeded stream of numbers.
pub(crate) struct Random {
    seed: u64,
    drawn: u32,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.drawn += 1;
        philox(self.seed, [self.drawn, 0, 0, 7])[0]
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }

    /// Uniform in [-1, 1).
    pub(crate) fn number(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }

    /// Small whole numbers, whose products and sums are exact in any order.
    pub(crate) fn whole_numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(9) as f32 - 4.0).collect()
    }
}

/// One context for each path of this machine.
pub(crate) fn contexts() -> Vec<Ctx> {
    Path::available().into_iter().map(|p| Ctx::new(p, Dtype::F32).unwrap()).collect()
}

/// One context for each path of this machine and type of activations.
pub(crate) fn typed_contexts() -> Vec<Ctx> {
    let types = |c: Ctx| [Dtype::F32, Dtype::Bf16].map(|dtype| Ctx::new(c.path(), dtype).unwrap());
    contexts().into_iter().flat_map(types).collect()
}

/// The same with three threads.
pub(crate) fn threaded(ctx: &Ctx) -> Ctx {
    ctx.clone().with_pool(Arc::new(Pool::new(NonZeroUsize::new(3)).unwrap()))
}

/// What vdpbf16ps adds to `sum`: the higher product first, each sum rounded once, subnormal numbers zero.
pub(crate) fn dot2(sum: f32, x: [f32; 2], w: [f32; 2]) -> f32 {
    [1, 0].into_iter().fold(normal(sum), |sum, i| normal(normal(x[i]).mul_add(normal(w[i]), sum)))
}

/// A number, or zero in place of a subnormal one.
pub(crate) fn normal(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= tolerance * (1.0 + w.abs()), "element {i}: got {g}, want {w}");
    }
}
