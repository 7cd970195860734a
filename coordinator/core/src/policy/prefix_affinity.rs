//! `prefix-affinity`: the least work until the first token, counted in prompt tokens.
//!
//! What a worker has cached need not be computed; what it has queued comes first; and each request that it already has
//! slows it down by as much as some tokens would. A popular prefix therefore gathers requests on the worker that holds
//! it, until the queue there costs more than computing it elsewhere, which then holds it as well.

use super::{Candidate, Job, Policy, Settings, smallest};

struct PrefixAffinity {
    request_tokens: u64,
}

pub(super) fn make(settings: &Settings) -> Box<dyn Policy> {
    Box::new(PrefixAffinity { request_tokens: settings.request_tokens })
}

impl Policy for PrefixAffinity {
    fn choose(&mut self, _: Job, candidates: &[Candidate]) -> Option<usize> {
        smallest(candidates, |c| {
            let requests = c.requests.saturating_mul(self.request_tokens);
            c.tokens_missing.saturating_add(c.tokens_queued).saturating_add(requests)
        })
    }
}
