//! What the kernels reach, as shares of this machine's limits, which are measured in the same run: other work on the
//! machine, and its clock, change from second to second, so a caller goes round by round through limits and kernels and
//! keeps the best of each.
//!
//! A limit is the time that the bytes of a run take at the bandwidth of reading, or its operations at the peak of the
//! vector units, whichever is longer. Bandwidth depends on how much is read again and again: a kernel whose bytes fit
//! a cache is compared with reading as much.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cases;
#[cfg(target_arch = "x86_64")]
mod expanded;
mod limits;

pub use cases::{Shapes, cases};
#[cfg(target_arch = "x86_64")]
pub use expanded::{Expanded, ExpandedShape};
pub use limits::{Limits, Unit};

/// A run that is timed takes as long as this at least, in seconds: shorter ones are repeated.
const RUN_MIN: f64 = 0.002;

/// One thing that is timed.
pub struct Case {
    /// A name that stays: operation, type, rows.
    pub name: String,
    /// The shape, for people.
    pub shape: String,
    /// Bytes that a run reads from memory.
    pub bytes: f64,
    /// Bytes that runs go through before they come back to the first; they may be more than those of one run.
    pub working_set: usize,
    /// Operations of a run, two for a multiplication with addition.
    pub operations: f64,
    /// What computes them at best on this path.
    pub unit: Unit,
    /// The shortest run so far, in seconds.
    pub seconds: f64,
    repeats: u32,
    run: Box<dyn FnMut()>,
}

/// What a run of a case takes.
#[derive(Clone, Copy, Debug)]
struct Work {
    bytes: f64,
    working_set: usize,
    operations: f64,
    unit: Unit,
}

impl Case {
    fn new(name: impl Into<String>, shape: impl Into<String>, work: Work, run: impl FnMut() + 'static) -> Self {
        let Work { bytes, working_set, operations, unit } = work;
        let (name, shape, seconds) = (name.into(), shape.into(), f64::INFINITY);
        Self { name, shape, bytes, working_set, operations, unit, seconds, repeats: 1, run: Box::new(run) }
    }

    /// Runs it by the caller's clock, in seconds: on a shared machine the time of the threads themselves says more than
    /// the time of the day. What is too short for a clock runs more often the next time.
    pub fn round(&mut self, now: &dyn Fn() -> f64) {
        let start = now();
        (0..self.repeats).for_each(|_| (self.run)());
        let taken = now() - start;
        self.seconds = self.seconds.min(taken / f64::from(self.repeats));
        if taken < RUN_MIN {
            self.repeats = self.repeats.saturating_mul(if taken < RUN_MIN / 16.0 { 16 } else { 2 });
        }
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

#[cfg(test)]
mod tests;
