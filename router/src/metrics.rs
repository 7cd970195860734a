//! What the router counts. Names, help and labels are in the shell's catalogue; this file says when each moves.

use std::time::Duration;

use hadal_router_core::{Failure, FailureKind};
use hadal_shell::metrics::{MetricError, Metrics as Registry, catalogue};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::service::Api;

/// The router's metrics. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    active: IntGaugeVec,
    waiting: IntGaugeVec,
    ttft: HistogramVec,
    tpot: HistogramVec,
    request_time: HistogramVec,
    placement_time: HistogramVec,
    prompt_tokens: IntCounterVec,
    cached_tokens: IntCounterVec,
    output_tokens: IntCounterVec,
    prompt_length: HistogramVec,
    errors: IntCounterVec,
    retries: IntCounterVec,
    coordinator: IntGaugeVec,
}

/// Counts one up while it lives.
pub(crate) struct Counted(prometheus::IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn counted(gauge: prometheus::IntGauge) -> Counted {
    gauge.inc();
    Counted(gauge)
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, MetricError> {
        let this = Self {
            requests: registry.counter(&catalogue::ROUTER_REQUESTS)?,
            active: registry.gauge(&catalogue::ROUTER_REQUESTS_ACTIVE)?,
            waiting: registry.gauge(&catalogue::ROUTER_REQUESTS_WAITING)?,
            ttft: registry.histogram(&catalogue::ROUTER_TTFT)?,
            tpot: registry.histogram(&catalogue::ROUTER_TPOT)?,
            request_time: registry.histogram(&catalogue::ROUTER_REQUEST_TIME)?,
            placement_time: registry.histogram(&catalogue::ROUTER_PLACEMENT_TIME)?,
            prompt_tokens: registry.counter(&catalogue::ROUTER_PROMPT_TOKENS)?,
            cached_tokens: registry.counter(&catalogue::ROUTER_CACHED_TOKENS)?,
            output_tokens: registry.counter(&catalogue::ROUTER_OUTPUT_TOKENS)?,
            prompt_length: registry.histogram(&catalogue::ROUTER_PROMPT_LENGTH)?,
            errors: registry.counter(&catalogue::ROUTER_ERRORS)?,
            retries: registry.counter(&catalogue::ROUTER_RETRIES)?,
            coordinator: registry.gauge(&catalogue::ROUTER_COORDINATOR_CONNECTED)?,
        };
        // Shown from the start: a gauge that is missing cannot be told from one that is not scraped.
        this.coordinator(false);
        drop(this.waiting());
        Ok(this)
    }

    /// A request was accepted.
    pub(crate) fn accepted(&self, model: &str, prompt_tokens: u32) -> Counted {
        self.prompt_tokens.with_label_values(&[model]).inc_by(u64::from(prompt_tokens));
        self.prompt_length.with_label_values(&[model]).observe(f64::from(prompt_tokens));
        counted(self.active.with_label_values(&[model]))
    }

    /// A request waits in the router.
    pub(crate) fn waiting(&self) -> Counted {
        counted(self.waiting.with_label_values::<&str>(&[]))
    }

    /// A request ended. `model` is the fleet's name of it, not whatever the client sent, so that labels stay bounded.
    pub(crate) fn ended(&self, api: Api, model: &str, failure: Option<&Failure>, took: Duration) {
        self.outcome(api, model, failure);
        self.request_time.with_label_values(&[model]).observe(took.as_secs_f64());
    }

    /// A request was refused before its model was found.
    pub(crate) fn refused(&self, api: Api, failure: &Failure) {
        self.outcome(api, "", Some(failure));
    }

    /// A request was refused after its model was found.
    pub(crate) fn refused_by(&self, api: Api, model: &str, failure: &Failure) {
        self.outcome(api, model, Some(failure));
    }

    fn outcome(&self, api: Api, model: &str, failure: Option<&Failure>) {
        let outcome = failure.map_or("ok", |failure| failure.kind.code());
        self.requests.with_label_values(&[api.name(), model, outcome]).inc();
        if let Some(failure) = failure.filter(|failure| failure.kind != FailureKind::Cancelled) {
            self.errors.with_label_values(&[api.name(), failure.kind.code()]).inc();
        }
    }

    /// A placement was answered.
    pub(crate) fn placed(&self, model: &str, took: Duration) {
        self.placement_time.with_label_values(&[model]).observe(took.as_secs_f64());
    }

    /// A worker accepted a request's first choice, with so much of the prompt cached.
    pub(crate) fn cached(&self, model: &str, tokens: u32) {
        self.cached_tokens.with_label_values(&[model]).inc_by(u64::from(tokens));
    }

    /// A choice's first token came.
    pub(crate) fn first_token(&self, model: &str, after: Duration) {
        self.ttft.with_label_values(&[model]).observe(after.as_secs_f64());
    }

    /// Tokens went to the client.
    pub(crate) fn output(&self, model: &str, tokens: usize) {
        self.output_tokens.with_label_values(&[model]).inc_by(tokens as u64);
    }

    /// A choice ended so long after its first token.
    pub(crate) fn choice_ended(&self, model: &str, tokens: usize, decode: Duration) {
        if tokens > 1 {
            self.tpot.with_label_values(&[model]).observe(decode.as_secs_f64() / (tokens - 1) as f64);
        }
    }

    /// A choice is placed again.
    pub(crate) fn retried(&self, reason: &'static str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// The coordinator came or went.
    pub(crate) fn coordinator(&self, connected: bool) {
        self.coordinator.with_label_values::<&str>(&[]).set(connected.into());
    }
}
