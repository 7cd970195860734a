//! What the kernels reach, as shares of this machine's limits, which are measured in the same run: other work on the
//! machine, and its clock, change from second to second, so a caller goes round by round through limits and kernels and
//! keeps the best of each.

use std::hint::black_box;
use std::sync::Arc;

use hadal_types::{Dtype, KvEncoding};

use crate::cache::{IndexCodec, PAGE_ROWS, Paged};
use crate::context::Ctx;
use crate::error::PackError;
use crate::index::{Choice, IndexQueries, IndexRows, IndexShape, index_select};
use crate::linear::{Linear, WeightRef, linear};
use crate::panel::Line;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod limits;

use limits::Limit;

/// One thing that is timed.
pub struct Case {
    /// The kernel and its shape.
    pub name: String,
    /// Bytes that a run reads from memory.
    pub bytes: f64,
    /// Operations of a run, two for a multiplication with addition.
    pub operations: f64,
    /// The shortest run so far, in seconds.
    pub seconds: f64,
    run: Box<dyn FnMut()>,
}

impl Case {
    fn new(name: String, bytes: f64, operations: f64, run: impl FnMut() + 'static) -> Self {
        Self { name, bytes, operations, seconds: f64::INFINITY, run: Box::new(run) }
    }

    /// Runs it once, by the caller's clock, in seconds: on a shared machine the time of the threads themselves says
    /// more than the time of the day.
    pub fn round(&mut self, now: &dyn Fn() -> f64) {
        let start = now();
        (self.run)();
        self.seconds = self.seconds.min(now() - start);
    }

    /// Bytes read in a second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes / self.seconds
    }

    /// Operations in a second.
    pub fn rate(&self) -> f64 {
        self.operations / self.seconds
    }
}

/// The limits of the threads of `ctx`.
pub struct Limits {
    /// Reading from memory: the same bytes in 1, 2, 4 and 8 streams, since machines differ in what suits them.
    pub read: Vec<Case>,
    /// f32 operations of the vector units.
    pub f32: Case,
    /// bf16 operations of the vector units.
    pub bf16: Case,
}

impl Limits {
    /// With `bytes` to read.
    pub fn new(ctx: &Ctx, bytes: usize) -> Self {
        let buffer: Arc<[Line]> = vec![Line::ZERO; bytes / size_of::<Line>()].into();
        let read = [1, 2, 4, 8].map(|streams| {
            let (ctx, buffer) = (ctx.clone(), buffer.clone());
            let size = size_of_val(&*buffer) as f64;
            Case::new(format!("read, {streams} streams"), size, 0.0, move || limits::read(&ctx, &buffer, streams))
        });
        let peak = |name: &str, limit: Limit| {
            let ctx = ctx.clone();
            let operations = limit.operations() * ctx.threads() as f64;
            Case::new(name.to_owned(), 0.0, operations, move || limit.run(&ctx))
        };
        Self { read: read.into(), f32: peak("f32", Limit::F32), bf16: peak("bf16", Limit::Bf16) }
    }

    /// Measures each once more.
    pub fn round(&mut self, now: &dyn Fn() -> f64) {
        self.read.iter_mut().chain([&mut self.f32, &mut self.bf16]).for_each(|c| c.round(now));
    }

    /// Bytes in a second, at best.
    pub fn bandwidth(&self) -> f64 {
        self.read.iter().fold(0.0, |best, c| c.bandwidth().max(best))
    }
}

/// A product of `rows` rows with weights [n, k] of bf16 or, with `fp8`, e4m3 in blocks of 128 × 128. The weights are
/// there often enough to exceed `bytes`, and each run takes the next.
///
/// # Errors
/// None; the weights are well-formed.
pub fn product(ctx: &Ctx, [rows, n, k]: [usize; 3], fp8: bool, bytes: usize) -> Result<Case, PackError> {
    let mut word = 1u32;
    let mut next = move || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word >> 16
    };
    let w = if fp8 {
        let data: Vec<u8> = (0..n * k).map(|_| next() as u8 & 0xb7).collect();
        let scales = vec![0.01; n.div_ceil(128) * k.div_ceil(128)];
        Linear::pack(WeightRef::Fp8 { data: &data, scales: &scales, block: [128, 128] }, n, k)?
    } else {
        // Around 1: no overflow, nothing subnormal.
        let data: Vec<u16> = (0..n * k).map(|_| (next() as u16 & 0x80ff) | 0x3f00).collect();
        Linear::pack(WeightRef::Bf16(&data), n, k)?
    };
    let size = w.bytes();
    let copies = vec![w; bytes.div_ceil(size).max(1)];
    let x: Vec<f32> = (0..rows * k).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
    let mut out = vec![0.0; rows * n];
    let (ctx, mut turn) = (ctx.clone(), 0);
    let name = format!(
        "{rows} × {k} → {n}, {} weights, {} activations",
        if fp8 { "fp8" } else { "bf16" },
        if ctx.dtype() == Dtype::Bf16 { "bf16" } else { "f32" }
    );
    let operations = 2.0 * (rows * n * k) as f64;
    Ok(Case::new(name, size as f64, operations, move || {
        linear(&ctx, &copies[turn % copies.len()], &x, &mut out);
        black_box(&mut out);
        turn += 1;
    }))
}

/// The choice of 2,048 positions for the last of `tokens` positions, with `heads` heads of 128 numbers.
pub fn index(ctx: &Ctx, encoding: KvEncoding, heads: usize, tokens: usize) -> Case {
    let codec = IndexCodec::new(encoding, 128);
    let blocks = tokens.div_ceil(PAGE_ROWS);
    let mut pool = vec![0; blocks * codec.page_bytes()];
    let mut key = vec![0.0; codec.dim()];
    for position in 0..tokens {
        // Every score another, in no order.
        key.iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v = ((position * 7919 + i * 104_729) % 1009) as f32 / 504.0 - 1.0);
        codec.encode(&mut pool[position / PAGE_ROWS * codec.page_bytes()..], position % PAGE_ROWS, &key);
    }
    let pages: Vec<u32> = (0..blocks as u32).collect();
    let numbers = |count: usize| (0..count).map(|i| (i * 31 % 101) as f32 / 50.0 - 1.0).collect::<Vec<f32>>();
    let (q, w) = (numbers(heads * codec.dim()), numbers(heads));
    let shape = IndexShape { codec, heads, k: 2048 };
    let (ctx, mut choice) = (ctx.clone(), Choice::default());
    let bytes = (tokens * codec.row_bytes()) as f64;
    let operations = 2.0 * (tokens * heads * codec.dim()) as f64;
    let name = format!("index, {heads} × 128, {tokens} keys of {encoding}, {} activations", ctx.dtype());
    Case::new(name, bytes, operations, move || {
        let Ok(keys) = Paged::new(&pool, codec.page_bytes(), &pages) else { return };
        let rows = [IndexRows { keys, start: tokens as u32 - 1, rows: 1, from: 0 }];
        // These numbers are finite, and so are their scores.
        let _ = index_select(&ctx, &shape, &rows, IndexQueries { q: &q, w: &w }, &mut choice);
        black_box(&mut choice);
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::contexts;

    #[test]
    fn the_best_round_counts() {
        let time = Cell::new(0.0);
        let mut case = Case::new("nothing".to_owned(), 10.0, 20.0, || ());
        for step in [3.0, 2.0, 4.0] {
            case.round(&|| {
                time.set(time.get() + step);
                time.get()
            });
        }
        assert_eq!((case.seconds, case.bandwidth(), case.rate()), (2.0, 5.0, 10.0));
    }

    #[test]
    fn every_case_runs_on_every_path() {
        let time = Cell::new(0.0);
        let now = || {
            time.set(time.get() + 1.0);
            time.get()
        };
        for ctx in contexts() {
            let mut limits = Limits::new(&ctx, 1 << 16);
            limits.round(&now);
            assert_eq!((limits.bandwidth(), limits.f32.seconds), (f64::from(1 << 16), 1.0));
            for fp8 in [false, true] {
                let mut case = product(&ctx, [3, 40, 20], fp8, 10_000).unwrap();
                case.round(&now);
                assert_eq!(case.operations, 4800.0);
            }
            let mut case = index(&ctx, KvEncoding::Bf16, 2, 3000);
            case.round(&now);
            assert_eq!((case.bytes, case.seconds), (3000.0 * 256.0, 1.0));
        }
    }
}
