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

/// The same with three threads.
pub(crate) fn threaded(ctx: &Ctx) -> Ctx {
    ctx.clone().with_pool(Arc::new(Pool::new(NonZeroUsize::new(3)).unwrap()))
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
