//! `least-loaded`: the worker with the fewest requests, then the fewest waiting tokens, then the most memory. Caches do
//! not matter.

use std::cmp::Reverse;

use super::{Candidate, Job, Policy, Settings, smallest};

struct LeastLoaded;

pub(super) fn make(_: &Settings) -> Box<dyn Policy> {
    Box::new(LeastLoaded)
}

impl Policy for LeastLoaded {
    fn choose(&mut self, _: Job, candidates: &[Candidate]) -> Option<usize> {
        smallest(candidates, |c| (c.requests, c.tokens_queued, Reverse(c.blocks_available)))
    }
}
