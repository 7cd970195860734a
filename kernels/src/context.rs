//! The kernel path and the threads that operations run on. A [`Ctx`] exists only for a path that this machine has,
//! which is what makes the vector kernels safe to call.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hadal_types::Dtype;

use crate::pool::Pool;

/// A kernel path: one numerics class each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// x86-64 with AVX-512 F, BW, DQ, VL, BF16, VNNI and VBMI: Zen 4 and Sapphire Rapids, and what came after.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// Plain Rust without fused multiply-add, the same bits on every machine.
    Portable,
}

/// A name that no path has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kernel path {0:?}; choose one of avx512, avx2, portable")]
pub struct PathError(pub String);

/// A path that this machine cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this processor cannot run the kernel path {wanted}; the best it has is {best}")]
pub struct PathUnavailable {
    /// The path asked for.
    pub wanted: Path,
    /// What [`Path::detect`] gives.
    pub best: Path,
}

impl Path {
    /// Every path, best first.
    pub const ALL: [Path; 3] = [Path::Avx512, Path::Avx2, Path::Portable];

    /// The best path of this machine.
    pub fn detect() -> Path {
        Self::ALL.into_iter().find(|p| p.is_available()).unwrap_or(Path::Portable)
    }

    /// The paths that this machine can run, best first.
    pub fn available() -> Vec<Path> {
        Self::ALL.into_iter().filter(|p| p.is_available()).collect()
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Path::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => {
                // The vector kernels of this path also use 256-bit instructions.
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vbmi")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Path::Avx2 | Path::Avx512 => false,
        }
    }

    /// The name on the command line and in the numerics class.
    pub fn name(self) -> &'static str {
        match self {
            Path::Avx512 => "avx512",
            Path::Avx2 => "avx2",
            Path::Portable => "portable",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(s: &str) -> Result<Self, PathError> {
        Self::ALL.into_iter().find(|p| p.name() == s).ok_or_else(|| PathError(s.to_owned()))
    }
}

/// Work below this many multiply-adds stays on the calling thread: handing it over costs more than it saves.
const PARALLEL_WORK_MIN: usize = 1 << 18;
/// The same where the other threads sleep and would have to be woken.
const WAKING_WORK_MIN: usize = 1 << 20;

/// How operations run: path, type of the activations, threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ctx {
    // Private: the vector kernels rely on it naming a path that this machine has.
    path: Path,
    dtype: Dtype,
    pool: Option<Arc<Pool>>,
}

impl Ctx {
    /// Runs on the calling thread alone.
    ///
    /// # Errors
    /// The machine cannot run `path`.
    pub fn new(path: Path, dtype: Dtype) -> Result<Self, PathUnavailable> {
        if !path.is_available() {
            return Err(PathUnavailable { wanted: path, best: Path::detect() });
        }
        Ok(Self { path, dtype, pool: None })
    }

    /// Runs on the calling thread and on any machine.
    pub(crate) fn serial() -> Self {
        Self { path: Path::Portable, dtype: Dtype::F32, pool: None }
    }

    /// Spreads large operations over a pool. The number of threads changes no bit.
    #[must_use]
    pub fn with_pool(mut self, pool: Arc<Pool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// The kernel path.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The type in which activations enter products with weights.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Threads that a large operation runs on.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |p| p.threads())
    }

    /// The pool, if `work` multiply-adds in `jobs` parts are worth spreading.
    fn spreads(&self, work: usize, jobs: usize) -> Option<&Pool> {
        let pool = self.pool.as_deref().filter(|_| jobs > 1 && work >= PARALLEL_WORK_MIN)?;
        (work >= WAKING_WORK_MIN || !pool.sleeps()).then_some(pool)
    }

    /// Runs every job once, in any order, on any thread.
    pub(crate) fn for_each<T: Send>(&self, work: usize, jobs: &mut [T], f: impl Fn(&mut T) + Sync) {
        match self.spreads(work, jobs.len()) {
            Some(pool) => pool.chunks(jobs, 1, |_, jobs| jobs.iter_mut().for_each(&f)),
            None => jobs.iter_mut().for_each(f),
        }
    }

    /// Runs every job once and gives the results in the order of the jobs.
    pub(crate) fn map<R: Send>(&self, work: usize, jobs: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let Some(pool) = self.spreads(work, jobs) else { return (0..jobs).map(f).collect() };
        let mut results: Vec<Option<R>> = std::iter::repeat_with(|| None).take(jobs).collect();
        pool.chunks(&mut results, 1, |i, result| result.iter_mut().for_each(|r| *r = Some(f(i))));
        results.into_iter().flatten().collect()
    }

    /// Gives every chunk of `out` to one job; the last chunk may be shorter.
    pub(crate) fn for_each_chunk(
        &self,
        work: usize,
        out: &mut [f32],
        chunk: usize,
        f: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let chunk = chunk.max(1);
        match self.spreads(work, out.len().div_ceil(chunk)) {
            Some(pool) => pool.chunks(out, chunk, f),
            None => out.chunks_mut(chunk).enumerate().for_each(|(i, c)| f(i, c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_path() {
        assert!(Path::ALL.into_iter().all(|p| p.name().parse::<Path>() == Ok(p)));
        assert!("sse9".parse::<Path>().unwrap_err().to_string().contains("avx512, avx2, portable"));
    }

    #[test]
    fn the_detected_path_is_available() {
        assert!(Path::detect().is_available());
        assert_eq!(Path::available().first(), Some(&Path::detect()));
        assert!(Ctx::new(Path::detect(), Dtype::F32).is_ok());
    }
}
