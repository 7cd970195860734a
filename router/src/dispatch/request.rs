//! One request: its choices side by side, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hadal_router_core::{Failure, FailureKind, Usage};
use hadal_types::{ChainHash, Fingerprint, NumericsClass, SamplingParams};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::dispatch::Dispatch;
use crate::dispatch::choice::{Done, Run};
use crate::fleet::ModelView;
use crate::service::{Output, Submission, Timings};

/// A submission with everything settled that its choices share.
pub(crate) struct Request {
    pub(crate) submission: Submission,
    /// `seed` and `max_tokens` are final; `choice` is set by each choice.
    pub(crate) params: SamplingParams,
    pub(crate) fingerprint: Fingerprint,
    /// The prompt's full blocks in each class that the fleet has.
    pub(crate) chains: Vec<(NumericsClass, Vec<ChainHash>)>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    started: AtomicBool,
}

/// Where the outputs of all choices go.
pub(crate) type Outputs = mpsc::Sender<Result<Output, Failure>>;

/// How long a failure waits for a client that does not read, before the stream just ends.
const LAST_WORD: Duration = Duration::from_secs(30);

impl Request {
    pub(crate) fn new(
        submission: Submission,
        params: SamplingParams,
        model: &ModelView,
        arrived: Instant,
        patience: Duration,
    ) -> Self {
        let chain = |&class: &NumericsClass| (class, submission.root(class).chain(&submission.prompt));
        let chains = model.classes.iter().map(chain).collect();
        let patience = arrived + patience;
        let deadline = submission.context.deadline.map_or(patience, |deadline| deadline.min(patience));
        let fingerprint = model.fingerprint;
        Self { params, fingerprint, chains, arrived, deadline, started: AtomicBool::new(false), submission }
    }

    pub(crate) fn model(&self) -> &str {
        &self.submission.model.fleet_name
    }

    /// True for the first choice that a worker accepts.
    pub(crate) fn first_to_start(&self) -> bool {
        !self.started.swap(true, Ordering::Relaxed)
    }

    fn too_late(&self) -> Failure {
        let waited = self.arrived.elapsed().as_secs_f64();
        Failure::new(FailureKind::Deadline, format!("the request's deadline passed after {waited:.1} s"))
    }
}

/// Answers a request to its end.
pub(crate) async fn run(dispatch: &Dispatch, request: Request, outputs: Outputs) {
    let context = &request.submission.context;
    let prompt_tokens = request.submission.prompt.len() as u32;
    let _active = dispatch.metrics.accepted(request.model(), prompt_tokens);
    debug!(request_id = %context.request_id, model = request.model(), prompt_tokens, n = request.submission.n, "request");
    let choices = (0..request.submission.n).map(|index| Run::new(dispatch, &request, index, &outputs).run());
    let answered = timeout_at(request.deadline.into(), try_join_all(choices));
    let result = tokio::select! {
        () = outputs.closed() => Err(Failure::new(FailureKind::Cancelled, "the client went away")),
        answered = answered => answered.unwrap_or_else(|_| Err(request.too_late())),
    };
    let failure = finish(&request, result, &outputs).await.err();
    dispatch.metrics.ended(context.api, request.model(), failure.as_ref(), request.arrived.elapsed());
}

/// The last output, and the log line.
async fn finish(request: &Request, result: Result<Vec<Done>, Failure>, outputs: &Outputs) -> Result<(), Failure> {
    let context = &request.submission.context;
    let last = match &result {
        Ok(choices) => Ok(usage(request, choices)),
        Err(failure) => Err(failure.clone()),
    };
    let (request_id, tenant) = (&context.request_id, &context.tenant);
    match &result {
        Ok(choices) => {
            let output_tokens: usize = choices.iter().map(|choice| choice.tokens).sum();
            info!(%request_id, %tenant, model = request.model(), output_tokens, "request answered");
        }
        Err(failure) if failure.kind == FailureKind::Cancelled => debug!(%request_id, "request cancelled"),
        Err(failure) => {
            warn!(%request_id, %tenant, model = request.model(), kind = failure.kind.code(), error = %failure, "request failed");
        }
    }
    // A client that is gone, or does not read, has no use for it.
    let _ = timeout(LAST_WORD, outputs.send(last)).await;
    result.map(drop)
}

fn usage(request: &Request, choices: &[Done]) -> Output {
    let first = choices.first();
    let usage = Usage {
        prompt_tokens: request.submission.prompt.len() as u32,
        completion_tokens: choices.iter().map(|choice| choice.tokens as u32).sum(),
        cached_prompt_tokens: first.map_or(0, |choice| choice.cached_tokens),
    };
    Output::Usage { usage, timings: first.map_or_else(Timings::default, |choice| choice.timings) }
}
