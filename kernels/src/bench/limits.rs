//! The limits of a machine: reading from memory, and what its vector units do at most.

use std::hint::black_box;
use std::sync::Arc;

use super::{Case, Work};
use crate::context::{Ctx, Path};
use crate::panel::Line;

/// Steps of a run that measures a peak.
const STEPS: usize = 1 << 16;
/// Work that is never too small to spread.
const MUCH: usize = usize::MAX;
/// Lines of one job of reading at most.
const JOB_LINES: usize = 1 << 15;
/// Less is not measured: it would be the time of a call.
const READ_MIN: usize = 1 << 16;

/// What computes: the vector units by the type that they multiply. Where a path has no instruction for a type it takes
/// another one, and the peak is that of what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// f32.
    F32,
    /// Pairs of bf16, where the path has them; else f32.
    Bf16,
    /// int8 with 32-bit sums; 16 bit on AVX2.
    Int8,
}

impl Unit {
    /// All of them.
    pub const ALL: [Unit; 3] = [Unit::F32, Unit::Bf16, Unit::Int8];

    /// As in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Unit::F32 => "f32",
            Unit::Bf16 => "bf16",
            Unit::Int8 => "int8",
        }
    }
}

/// Reading so many bytes again and again, in 1, 2, 4 and 8 streams, since machines differ in what suits them.
struct Reading {
    bytes: usize,
    streams: Vec<Case>,
}

impl Reading {
    fn bandwidth(&self) -> f64 {
        self.streams.iter().fold(0.0, |best, c| c.bandwidth().max(best))
    }
}

/// The limits of the threads of a context.
pub struct Limits {
    /// By rising size.
    read: Vec<Reading>,
    /// By [`Unit::ALL`].
    peaks: [Case; 3],
}

impl Limits {
    /// With `headline` bytes to read, which should exceed the last-level cache by far, and with the powers of two that
    /// `working_sets` come to.
    pub fn new(ctx: &Ctx, headline: usize, working_sets: impl IntoIterator<Item = usize>) -> Self {
        let headline = headline.max(READ_MIN);
        let mut sizes: Vec<usize> =
            working_sets.into_iter().map(size_class).filter(|&size| size < headline).chain([headline]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let buffer: Arc<[Line]> = vec![Line::ZERO; headline / size_of::<Line>()].into();
        let read = sizes.into_iter().map(|bytes| reading(ctx, &buffer, bytes)).collect();
        Self { read, peaks: Unit::ALL.map(|unit| peak(ctx, unit)) }
    }

    /// Measures each once more.
    pub fn round(&mut self, now: &dyn Fn() -> f64) {
        self.read.iter_mut().flat_map(|r| &mut r.streams).chain(&mut self.peaks).for_each(|c| c.round(now));
    }

    /// Measures the peaks alone once more, which takes some milliseconds.
    pub fn round_peaks(&mut self, now: &dyn Fn() -> f64) {
        self.peaks.iter_mut().for_each(|c| c.round(now));
    }

    /// Sizes that were read and bytes in a second, the last of them beyond the caches.
    pub fn bandwidths(&self) -> impl Iterator<Item = (usize, f64)> {
        self.read.iter().map(|r| (r.bytes, r.bandwidth()))
    }

    /// Bytes in a second where so many are read again and again.
    pub fn bandwidth(&self, working_set: usize) -> f64 {
        let size = size_class(working_set);
        let found = self.read.iter().find(|r| r.bytes >= size).or(self.read.last());
        found.map_or(0.0, Reading::bandwidth)
    }

    /// Operations in a second.
    pub fn peak(&self, unit: Unit) -> f64 {
        self.peaks[unit as usize].rate()
    }

    /// What binds a case, "memory" or the name of a unit, and the share of it that the case reaches.
    pub fn share(&self, case: &Case) -> (&'static str, f64) {
        let memory = case.bytes / self.bandwidth(case.working_set);
        let vector = case.operations / self.peak(case.unit);
        if memory >= vector { ("memory", memory / case.seconds) } else { (case.unit.name(), vector / case.seconds) }
    }
}

fn size_class(bytes: usize) -> usize {
    bytes.max(READ_MIN).next_power_of_two()
}

fn reading(ctx: &Ctx, buffer: &Arc<[Line]>, bytes: usize) -> Reading {
    let streams = [1, 2, 4, 8].map(|streams| {
        let (ctx, buffer, lines) = (ctx.clone(), buffer.clone(), bytes / size_of::<Line>());
        let work = Work { bytes: bytes as f64, working_set: bytes, operations: 0.0, unit: Unit::F32 };
        Case::new("read", format!("{streams} streams"), work, move || read(&ctx, &buffer[..lines], streams))
    });
    Reading { bytes, streams: streams.into() }
}

fn peak(ctx: &Ctx, unit: Unit) -> Case {
    let operations = operations(ctx.path(), unit) * (STEPS * ctx.threads()) as f64;
    let ctx = ctx.clone();
    let work = Work { bytes: 0.0, working_set: 0, operations, unit };
    Case::new(unit.name(), "peak", work, move || {
        black_box(ctx.map(MUCH, ctx.threads(), |_| steps(ctx.path(), unit)));
    })
}

/// Operations of a step of one thread.
fn operations(path: Path, unit: Unit) -> f64 {
    match (path, unit) {
        (Path::Avx512, Unit::F32) => 24.0 * 32.0,
        (Path::Avx512, Unit::Bf16) => 24.0 * 64.0,
        (Path::Avx512, Unit::Int8) => 24.0 * 128.0,
        (Path::Avx2, Unit::F32 | Unit::Bf16) => 12.0 * 16.0,
        (Path::Avx2, Unit::Int8) => 12.0 * 32.0,
        (Path::Portable, _) => 24.0 * 32.0,
    }
}

fn steps(path: Path, unit: Unit) -> f32 {
    #[cfg(target_arch = "x86_64")]
    match (path, unit) {
        (Path::Avx512, Unit::F32) => return super::avx512::f32_steps(STEPS),
        (Path::Avx512, Unit::Bf16) => return super::avx512::bf16_steps(STEPS),
        (Path::Avx512, Unit::Int8) => return super::avx512::int8_steps(STEPS),
        (Path::Avx2, Unit::F32 | Unit::Bf16) => return super::avx2::f32_steps(STEPS),
        (Path::Avx2, Unit::Int8) => return super::avx2::int8_steps(STEPS),
        (Path::Portable, _) => {}
    }
    if unit == Unit::Int8 { plain_int8_steps() } else { plain_f32_steps() }
}

/// As far as the compiler takes it, which is what limits plain Rust.
fn plain_f32_steps() -> f32 {
    let mut sums = [0.0f32; 24 * 16];
    let x = black_box(0.5f32);
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|s| *s = *s * x + 1.0);
    }
    sums.iter().sum()
}

fn plain_int8_steps() -> f32 {
    let mut sums = [0i32; 24 * 16];
    let x = black_box(3i8);
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|s| *s = s.wrapping_mul(i32::from(x)).wrapping_add(1));
    }
    sums.iter().fold(0i32, |all, &s| all.wrapping_add(s)) as f32
}

/// Reads all lines, with all threads even where there are few.
fn read(ctx: &Ctx, lines: &[Line], streams: usize) {
    let job = lines.len().div_ceil(ctx.threads()).clamp(1, JOB_LINES);
    let jobs = lines.len().div_ceil(job);
    let read = ctx.map(MUCH, jobs, |i| sum(ctx.path(), &lines[i * job..((i + 1) * job).min(lines.len())], streams));
    black_box(read);
}

fn sum(path: Path, lines: &[Line], streams: usize) -> u32 {
    #[cfg(target_arch = "x86_64")]
    match path {
        Path::Avx512 => return super::avx512::read(lines, streams),
        Path::Avx2 => return super::avx2::read(lines, streams),
        Path::Portable => {}
    }
    let _ = (path, streams);
    lines.iter().fold(0, |all, line| line.0.iter().fold(all, |all, &word| all ^ word))
}
