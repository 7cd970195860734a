//! `round-robin`: one worker after another, decode and prefill each in its own turn. A baseline for measurements.

use super::{Candidate, Job, Policy, Settings};

#[derive(Default)]
struct RoundRobin {
    decode: Option<u16>,
    prefill: Option<u16>,
}

pub(super) fn make(_: &Settings) -> Box<dyn Policy> {
    Box::new(RoundRobin::default())
}

impl Policy for RoundRobin {
    fn choose(&mut self, job: Job, candidates: &[Candidate]) -> Option<usize> {
        let last = match job {
            Job::Decode => &mut self.decode,
            Job::Prefill => &mut self.prefill,
        };
        let next = candidates.iter().position(|c| last.is_none_or(|last| c.slot > last)).unwrap_or(0);
        *last = Some(candidates.get(next)?.slot);
        Some(next)
    }
}
