//! From a submission to its outputs: checks, one worker request for each choice, another placement when one is lost.
//!
//! ```text
//! submit ─checks─► request task ─┬─ choice 0: Place ─► Generate ─► deltas ─┐
//!                                ├─ choice 1: ...        ▲ trouble │       ├─► one bounded channel ─► OutputStream
//!                                └─ ...                  └─────────┘       ┘
//! ```
//! The task ends when all choices ended, one failed, the deadline passed or the stream was dropped; then every worker
//! stream is dropped, which frees its pages. A client that reads slowly fills the channel; the worker's stream is not
//! read while it is full, and HTTP/2 flow control carries that to the worker.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hadal_router_core::{Failure, FailureKind, SamplingOptions};
use hadal_shell::leader::Leader;
use hadal_shell::tasks::Tasks;
use hadal_types::{RequestId, SamplingParams};
use tokio::sync::{Semaphore, mpsc};

use crate::config::Limits;
use crate::dispatch::request::Request;
use crate::fleet::{Fleet, ModelView};
use crate::metrics::Metrics;
use crate::service::{OutputStream, Submission};
use crate::workers::Workers;

mod choice;
mod place;
mod request;
mod trouble;

/// Dispatches submissions. Shared by all requests.
pub(crate) struct Dispatch {
    pub(crate) leader: Leader,
    pub(crate) fleet: Fleet,
    pub(crate) workers: Workers,
    pub(crate) limits: Limits,
    /// Requests that wait for the coordinator or a worker.
    pub(crate) waiting: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) in_flight: InFlight,
}

/// The ids of the requests in flight.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<RequestId>>>);

/// An id's place among the requests in flight; left when dropped.
struct Flight {
    all: InFlight,
    id: RequestId,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl InFlight {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn enter(&self, id: &RequestId, most: usize) -> Result<Flight, Failure> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= most {
            let message = format!("{most} requests are in flight already; try again later");
            return Err(Failure::new(FailureKind::Overloaded, message));
        }
        if !ids.insert(id.clone()) {
            let message = format!("request {id} is in flight already; wait for its end or choose another id");
            return Err(Failure::new(FailureKind::Duplicate, message).with_param("request_id"));
        }
        Ok(Flight { all: self.clone(), id: id.clone() })
    }
}

impl Dispatch {
    /// Checks and starts a submission. Resolves when a worker has accepted it.
    pub(crate) async fn submit(self: &Arc<Self>, submission: Submission) -> Result<OutputStream, Failure> {
        let (api, model) = (submission.context.api, submission.model.fleet_name.clone());
        let (request, flight) =
            self.prepare(submission).inspect_err(|failure| self.metrics.refused_by(api, &model, failure))?;
        let (outputs, receiver) = mpsc::channel(self.limits.output_buffer);
        let dispatch = Arc::clone(self);
        self.tasks.spawn("request", async move {
            request::run(&dispatch, request, outputs).await;
            drop(flight);
        });
        OutputStream::new(receiver).begun().await
    }

    fn prepare(&self, submission: Submission) -> Result<(Request, Flight), Failure> {
        let arrived = Instant::now();
        let view = self.fleet.view();
        // Another checkpoint under the name that was asked for may have other tokens.
        let same = |model: &&ModelView| model.fingerprint == submission.model.info.fingerprint;
        let model = view.models.get(&submission.model.fleet_name).filter(same).ok_or_else(|| gone(&submission))?;
        check(&submission)?;
        let max_tokens = room(model, &submission)?;
        check_forced(&submission, max_tokens)?;
        let flight = self.in_flight.enter(&submission.context.request_id, self.limits.requests)?;
        let seed = match submission.seed {
            Some(seed) => seed,
            None => hadal_shell::id::seed().map_err(|error| Failure::internal(error.to_string()))?,
        };
        let params = SamplingParams { seed, max_tokens, ..submission.params.clone() };
        Ok((Request::new(submission, params, model, arrived, self.limits.request), flight))
    }
}

fn gone(submission: &Submission) -> Failure {
    let message = format!("no worker serves model {:?} any more; try again later", submission.model.info.name);
    Failure::new(FailureKind::Unavailable, message)
}

fn check(submission: &Submission) -> Result<(), Failure> {
    if submission.prompt.is_empty() {
        return Err(Failure::invalid("prompt", "the prompt is empty; it must have at least one token"));
    }
    let vocab_size = submission.model.vocab_size;
    if let Some(at) = submission.prompt.iter().position(|&token| token >= vocab_size) {
        let message = format!(
            "token {} at position {at} of the prompt is out of range; the model's ids are below {vocab_size}",
            submission.prompt[at]
        );
        return Err(Failure::invalid("prompt", message));
    }
    let most = SamplingOptions::CHOICES_MAX;
    if !(1..=most).contains(&submission.n) {
        return Err(Failure::invalid("n", format!("n must be between 1 and {most}; got {}", submission.n)));
    }
    Ok(())
}

/// Without max_tokens the request does not say itself how many tokens may be forced.
fn check_forced(submission: &Submission, max_tokens: u32) -> Result<(), Failure> {
    let (prompt, forced) = (submission.prompt.len(), submission.params.forced.len());
    if forced <= max_tokens as usize {
        return Ok(());
    }
    let message =
        format!("the prompt has {prompt} tokens and forced_tokens {forced}; at most {max_tokens} fit after the prompt");
    Err(Failure::new(FailureKind::TooLong, message).with_param("forced_tokens"))
}

/// How many tokens may follow the prompt: what is asked for, or all that fit.
fn room(model: &ModelView, submission: &Submission) -> Result<u32, Failure> {
    let prompt = submission.prompt.len() as u64;
    let context = u64::from(model.context_tokens);
    if prompt >= context {
        let message = format!(
            "the prompt has {prompt} tokens; the model's context is {context}, of which at least one must be left for \
             the answer"
        );
        return Err(Failure::new(FailureKind::TooLong, message).with_param("prompt"));
    }
    if model.tokens_max > 0 && prompt >= model.tokens_max {
        let message = format!(
            "the prompt has {prompt} tokens; no worker's cache holds more than {} tokens of one request",
            model.tokens_max
        );
        return Err(Failure::new(FailureKind::TooLong, message).with_param("prompt"));
    }
    let capacity = if model.tokens_max > 0 { context.min(model.tokens_max) } else { context };
    let room = u32::try_from(capacity - prompt).unwrap_or(u32::MAX);
    match submission.max_tokens {
        None => Ok(room),
        Some(asked) if asked <= room => Ok(asked),
        Some(asked) => {
            let message = format!(
                "the prompt has {prompt} tokens and max_tokens is {asked}, together {}; at most {capacity} fit (the \
                 model's context is {context}, the largest worker's cache {} tokens)",
                prompt + u64::from(asked),
                model.tokens_max
            );
            Err(Failure::new(FailureKind::TooLong, message).with_param("max_tokens"))
        }
    }
}

#[cfg(test)]
mod tests;
