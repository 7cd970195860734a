//! One choice of a request: placed, streamed from its worker, and placed again with the tokens so far when that worker
//! is lost.

use std::time::{Duration, Instant};

use hadal_proto::cluster as w;
use hadal_router_core::{Attempts, Choice, ChoiceEvent, Failure, FailureKind, FinishReason, RawLogprobs, Trouble};
use hadal_types::{NumericsClass, SamplingParams};
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tracing::info;

use crate::dispatch::Dispatch;
use crate::dispatch::place;
use crate::dispatch::request::{Outputs, Request};
use crate::dispatch::trouble::{from_error, from_status, placed};
use crate::service::{Output, Timings};

/// A choice under way.
pub(crate) struct Run<'a> {
    dispatch: &'a Dispatch,
    request: &'a Request,
    outputs: &'a Outputs,
    index: u32,
    choice: Choice,
    attempts: Attempts,
    /// Of the first acceptance.
    accepted: Option<Accepted>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// A worker's first acceptance of a choice.
#[derive(Clone, Copy)]
struct Accepted {
    at: Instant,
    placement: Duration,
    cached_tokens: u32,
}

/// A choice at its end.
pub(crate) struct Done {
    pub(crate) tokens: usize,
    /// Of the prompt, at the first placement.
    pub(crate) cached_tokens: u32,
    pub(crate) timings: Timings,
}

/// How long a worker that was just placed on may be missing in the view.
const VIEW_LAG: Duration = Duration::from_secs(2);

impl<'a> Run<'a> {
    pub(crate) fn new(dispatch: &'a Dispatch, request: &'a Request, index: u32, outputs: &'a Outputs) -> Self {
        let submission = &request.submission;
        let choice = Choice::new(submission.model.text.vocabulary().clone(), index, &submission.stop);
        Self {
            dispatch,
            request,
            outputs,
            index,
            choice,
            attempts: Attempts::new(),
            accepted: None,
            first_token: None,
            last_token: None,
        }
    }

    /// To its end, over as many workers as it takes and is allowed.
    pub(crate) async fn run(mut self) -> Result<Done, Failure> {
        loop {
            let output = self.choice.tokens();
            let placement = place::place(self.dispatch, self.request, self.index, &self.attempts, output).await?;
            let Err(trouble) = self.attempt(&placement).await else { return Ok(self.done()) };
            let (reason, error) = (trouble.reason, trouble.failure.to_string());
            let pause = self.attempts.after(&placed(&placement), trouble)?;
            self.dispatch.metrics.retried(reason);
            let worker = placement.decode.as_ref().map_or("", |worker| worker.id.as_str());
            let (request_id, tokens) = (&self.request.submission.context.request_id, self.choice.tokens().len());
            info!(%request_id, choice = self.index, worker, reason, error, tokens, "placing again");
            if self.ended_before_the_worker().await? {
                return Ok(self.done());
            }
            sleep(pause).await;
        }
    }

    /// One placement's stream, to the choice's end or to trouble.
    async fn attempt(&mut self, placement: &w::Placement) -> Result<(), Trouble> {
        let worker = placement.decode.as_ref().ok_or_else(|| Trouble::lost("the placement names no decode worker"))?;
        let class = self.class_of(worker).await?;
        let message = self.message(placement, worker.incarnation, class);
        let mut client = self
            .dispatch
            .workers
            .client(&worker.grpc_address, worker.incarnation)
            .map_err(|error| Trouble::lost(error.to_string()))?;
        let opened = timeout(self.dispatch.limits.worker, async {
            let mut events = client.generate(message).await?.into_inner();
            let first = events.message().await?;
            Ok::<_, tonic::Status>((events, first))
        });
        let (events, first) = opened
            .await
            .map_err(|_| Trouble::lost(format!("no answer within {:?}", self.dispatch.limits.worker)))?
            .map_err(|status| from_status(&status))?;
        self.follow(events, first, class).await
    }

    async fn follow(
        &mut self,
        mut events: Streaming<w::GenerateEvent>,
        first: Option<w::GenerateEvent>,
        class: NumericsClass,
    ) -> Result<(), Trouble> {
        let mut next = first;
        loop {
            let event = next.ok_or_else(|| Trouble::lost("the worker's stream broke off"))?.event;
            let ended = match event {
                Some(w::generate_event::Event::Started(started)) => self.on_started(&started).await?,
                Some(w::generate_event::Event::Delta(delta)) => self.on_delta(delta, class).await?,
                Some(w::generate_event::Event::Finished(finished)) => self.on_finished(&finished).await?,
                Some(w::generate_event::Event::Error(error)) => return Err(from_error(&error)),
                Some(w::generate_event::Event::Moved(_)) => return Err(Trouble::moved()),
                // An event of a later release, which a release understands by leaving it out.
                None => false,
            };
            if ended {
                return Ok(());
            }
            next = events.message().await.map_err(|status| from_status(&status))?;
        }
    }

    async fn on_started(&mut self, started: &w::Started) -> Result<bool, Trouble> {
        if self.accepted.is_some() {
            return Ok(false);
        }
        let placement = self.request.arrived.elapsed();
        let prompt_tokens = self.request.submission.prompt.len() as u32;
        let cached_tokens = started.cached_tokens.min(prompt_tokens);
        self.accepted = Some(Accepted { at: Instant::now(), placement, cached_tokens });
        if self.index == 0 {
            self.dispatch.metrics.cached(self.request.model(), cached_tokens);
        }
        if self.request.first_to_start() {
            let request_id = self.request.submission.context.request_id.clone();
            self.send(Output::Started { request_id, prompt_tokens }).await?;
        }
        Ok(false)
    }

    async fn on_delta(&mut self, delta: w::Delta, class: NumericsClass) -> Result<bool, Trouble> {
        let before = self.choice.tokens().len();
        let logprobs: Vec<RawLogprobs> = delta.logprobs.into_iter().map(raw).collect();
        let events = self
            .choice
            .on_delta(delta.first_token, &delta.tokens, &logprobs)
            .map_err(|gap| Trouble::lost(gap.to_string()))?;
        let tokens = self.choice.tokens().len() - before;
        if tokens > 0 {
            let now = Instant::now();
            self.attempts.emitted(class);
            self.last_token = Some(now);
            if self.first_token.is_none() {
                self.first_token = Some(now);
                self.dispatch.metrics.first_token(self.request.model(), now - self.request.arrived);
            }
            self.dispatch.metrics.output(self.request.model(), tokens);
        }
        self.emit(events).await
    }

    async fn on_finished(&mut self, finished: &w::Finished) -> Result<bool, Trouble> {
        let reason = match finished.reason() {
            w::finished::Reason::Length => FinishReason::Length,
            w::finished::Reason::Stop | w::finished::Reason::Unspecified => FinishReason::Stop,
        };
        let events = self.choice.on_finished(reason);
        self.emit(events).await
    }

    /// A worker that is lost between its last token and its end leaves nothing to be placed again.
    async fn ended_before_the_worker(&mut self) -> Result<bool, Failure> {
        let tokens = self.choice.tokens();
        let params = &self.request.params;
        let Some(last) = tokens.last() else { return Ok(false) };
        let count = tokens.len() as u32;
        let reason = if params.stop_token_ids.contains(last) && count > params.min_tokens {
            FinishReason::Stop
        } else if count >= params.max_tokens {
            FinishReason::Length
        } else {
            return Ok(false);
        };
        let events = self.choice.on_finished(reason);
        self.emit(events).await.map_err(|trouble| trouble.failure)
    }

    /// Hands events on. True when they include the end.
    async fn emit(&self, events: Vec<ChoiceEvent>) -> Result<bool, Trouble> {
        let mut ended = false;
        for event in events {
            let output = match event {
                ChoiceEvent::Text(delta) => Output::Delta(delta),
                ChoiceEvent::Finished { reason, stop, cancel: _ } => {
                    // Whoever returns at the end drops the worker's stream, and that is the cancellation.
                    ended = true;
                    Output::Finished { choice: self.index, reason, stop }
                }
            };
            self.send(output).await?;
        }
        Ok(ended)
    }

    async fn send(&self, output: Output) -> Result<(), Trouble> {
        let gone = |_| Trouble::fatal(Failure::new(FailureKind::Cancelled, "the client went away"));
        self.outputs.send(Ok(output)).await.map_err(gone)
    }

    /// The class of the worker that was placed on. The coordinator's answer may be ahead of its view.
    async fn class_of(&self, worker: &w::WorkerRef) -> Result<NumericsClass, Trouble> {
        if let Some(class) = self.attempts.class() {
            return Ok(class);
        }
        let mut fleet = self.dispatch.fleet.clone();
        let found = timeout(VIEW_LAG, async {
            loop {
                fleet.seen();
                let view = fleet.view();
                let model = view.models.get(self.request.model());
                if let Some(class) = model.and_then(|model| model.class_of(&worker.id, worker.incarnation)) {
                    return Some(class);
                }
                if !fleet.changed().await {
                    return None;
                }
            }
        });
        let found = found.await.ok().flatten();
        found.ok_or_else(|| Trouble::lost(format!("worker {} is not in the fleet's view", worker.id)))
    }

    fn message(&self, placement: &w::Placement, incarnation: u64, class: NumericsClass) -> w::GenerateRequest {
        let prompt = &self.request.submission.prompt;
        let sampling = SamplingParams { choice: self.index, ..self.request.params.clone() };
        w::GenerateRequest {
            context: Some(place::context(self.request, self.index)),
            fingerprint: self.request.fingerprint.0.to_vec(),
            numerics_class: class.0.to_vec(),
            tokens: [prompt.as_slice(), self.choice.tokens()].concat(),
            prompt_tokens: prompt.len() as u32,
            sampling: Some((&sampling).into()),
            prefill: placement.prefill.clone(),
            lease_id: placement.lease_id.clone(),
            lease_ms: placement.lease_ms,
            incarnation,
        }
    }

    fn done(&self) -> Done {
        let accepted = self.accepted;
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map_or(Duration::ZERO, |(from, to)| to.saturating_duration_since(from))
        };
        let decode = between(self.first_token, self.last_token);
        let tokens = self.choice.tokens().len();
        self.dispatch.metrics.choice_ended(self.request.model(), tokens, decode);
        Done {
            tokens,
            cached_tokens: accepted.map_or(0, |accepted| accepted.cached_tokens),
            timings: Timings {
                placement: accepted.map_or(Duration::ZERO, |accepted| accepted.placement),
                prefill: between(accepted.map(|accepted| accepted.at), self.first_token),
                decode,
            },
        }
    }
}

fn raw(logprobs: w::TokenLogprobs) -> RawLogprobs {
    RawLogprobs {
        logprob: logprobs.logprob,
        top: logprobs.top.into_iter().map(|top| (top.token, top.logprob)).collect(),
        choice_overlap: logprobs.choice_overlap,
    }
}
