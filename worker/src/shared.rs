//! What others read of the step thread without asking it: heartbeats go on while a step takes its time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hadal_proto::cluster as w;
use hadal_types::Ledger;

/// Step samples between two heartbeats.
const SAMPLES_MAX: usize = 64;

/// Accepted requests between two heartbeats; while the coordinator is away the rest is not worth keeping.
const ACCEPTED_MAX: usize = 4096;

/// The worker as of its last step boundary.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    pub(crate) request_ids: Vec<String>,
    /// Requests accepted since the last heartbeat, which names them even if they have ended: what the coordinator keeps
    /// free for a request is kept until a heartbeat names it.
    accepted: Vec<String>,
    pub(crate) prefill_tokens_queued: u64,
    pub(crate) draining: bool,
    /// The latest steps since the last heartbeat.
    pub(crate) samples: VecDeque<w::StepSample>,
    /// Whether the coordinator has registered this worker.
    pub(crate) registered: bool,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn add_sample(&mut self, sample: w::StepSample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Notes requests that were accepted; the ledger must be one that counts them.
    pub(crate) fn accept(&mut self, requests: impl Iterator<Item = String>) {
        let room = ACCEPTED_MAX.saturating_sub(self.accepted.len());
        self.accepted.extend(requests.take(room));
    }

    pub(crate) fn heartbeat(&mut self, sequence: u64) -> w::Heartbeat {
        let mut request_ids = self.request_ids.clone();
        request_ids.append(&mut self.accepted);
        request_ids.sort_unstable();
        request_ids.dedup();
        w::Heartbeat {
            sequence,
            ledger: Some((&self.ledger).into()),
            steps: self.samples.drain(..).collect(),
            request_ids,
            draining: self.draining,
            prefill_tokens_queued: self.prefill_tokens_queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_came_and_went_between_two_heartbeats_is_named_once() {
        let mut state = State { request_ids: vec!["runs".into()], ..State::default() };
        state.accept(["gone".to_owned(), "runs".to_owned()].into_iter());
        assert_eq!(state.heartbeat(1).request_ids, ["gone", "runs"]);
        assert_eq!(state.heartbeat(2).request_ids, ["runs"]);
    }
}
