//! What others read of the step thread without asking it: heartbeats go on while a step takes its time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hadal_proto::cluster as w;
use hadal_types::Ledger;

/// Step samples between two heartbeats.
const SAMPLES_MAX: usize = 64;

/// The worker as of its last step boundary.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    pub(crate) request_ids: Vec<String>,
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

    pub(crate) fn heartbeat(&mut self, sequence: u64) -> w::Heartbeat {
        w::Heartbeat {
            sequence,
            ledger: Some((&self.ledger).into()),
            steps: self.samples.drain(..).collect(),
            request_ids: self.request_ids.clone(),
            draining: self.draining,
            prefill_tokens_queued: self.prefill_tokens_queued,
        }
    }
}
