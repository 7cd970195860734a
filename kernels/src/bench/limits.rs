//! The limits of a machine.

use std::hint::black_box;

use crate::context::{Ctx, Path};
use crate::panel::Line;

/// Steps of a run that measures a peak.
const STEPS: usize = 1 << 16;
/// Work that is never too small to spread.
const MUCH: usize = usize::MAX;
/// Lines of one job of reading.
const JOB_LINES: usize = 1 << 15;

/// A peak of the vector units.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    F32,
    Bf16,
}

impl Limit {
    /// Operations of a run of one thread.
    pub(super) fn operations(self) -> f64 {
        let a_step = match self {
            Limit::F32 => 24 * 16 * 2,
            Limit::Bf16 => 24 * 32 * 2,
        };
        (a_step * STEPS) as f64
    }

    /// Keeps every thread at it.
    pub(super) fn run(self, ctx: &Ctx) {
        let done = ctx.map(MUCH, ctx.threads(), |_| self.steps(ctx.path()));
        black_box(done);
    }

    fn steps(self, path: Path) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if path == Path::Avx512 {
            return match self {
                Limit::F32 => super::avx512::f32_steps(STEPS),
                Limit::Bf16 => super::avx512::bf16_steps(STEPS),
            };
        }
        let _ = path;
        scalar_steps()
    }
}

/// As far as the compiler takes it: other paths are measured for comparison only.
fn scalar_steps() -> f32 {
    let mut sums = [0.0f32; 24 * 16];
    let x = black_box(0.5f32);
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|s| *s = *s * x + 1.0);
    }
    sums.iter().sum()
}

/// Reads all lines.
pub(super) fn read(ctx: &Ctx, lines: &[Line], streams: usize) {
    let jobs = lines.len().div_ceil(JOB_LINES);
    let read = ctx
        .map(MUCH, jobs, |i| sum(ctx.path(), &lines[i * JOB_LINES..((i + 1) * JOB_LINES).min(lines.len())], streams));
    black_box(read);
}

fn sum(path: Path, lines: &[Line], streams: usize) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if path == Path::Avx512 {
        return super::avx512::read(lines, streams);
    }
    let _ = (path, streams);
    lines.iter().fold(0, |all, line| line.0.iter().fold(all, |all, &word| all ^ word))
}
