//! What a worker counts. Names and help are in the shell's catalogue.

use hadal_shell::metrics::{MetricError, Metrics, catalogue as c};
use hadal_types::{Ledger, Part};
use hadal_worker_core::{FailureKind, Stats, StepLoad};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::errors;

/// The metrics of one worker.
#[derive(Clone)]
pub(crate) struct Counters {
    requests: IntCounterVec,
    sequences: IntGaugeVec,
    tokens: IntCounterVec,
    step_time: HistogramVec,
    step_tokens: HistogramVec,
    pages: IntGaugeVec,
    page_bytes: IntGaugeVec,
    prefix_tokens: IntCounterVec,
    evicted: IntCounterVec,
    preemptions: IntCounterVec,
    drafts: IntCounterVec,
    drafting: IntGaugeVec,
    kv_bytes: IntCounterVec,
    transfers: IntCounterVec,
    transfer_time: HistogramVec,
    recomputes: IntCounterVec,
    ttft: HistogramVec,
    tpot: HistogramVec,
    errors: IntCounterVec,
    events_dropped: IntCounterVec,
    weights: IntGaugeVec,
    connected: IntGaugeVec,
    commands_refused: IntCounterVec,
}

/// Which way pages go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    /// To the worker that decodes with them.
    Sent,
    /// From the worker that computed them.
    Received,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Sent => "sent",
            Direction::Received => "received",
        }
    }
}

/// Which side of a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leg {
    /// The owner's.
    Generate,
    /// A prompt for another worker.
    Prefill,
}

impl Leg {
    fn name(self) -> &'static str {
        match self {
            Leg::Generate => "generate",
            Leg::Prefill => "prefill",
        }
    }
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricError> {
        Ok(Self {
            requests: metrics.counter(&c::WORKER_REQUESTS)?,
            sequences: metrics.gauge(&c::WORKER_SEQUENCES)?,
            tokens: metrics.counter(&c::WORKER_TOKENS)?,
            step_time: metrics.histogram(&c::WORKER_STEP_TIME)?,
            step_tokens: metrics.histogram(&c::WORKER_STEP_TOKENS)?,
            pages: metrics.gauge(&c::WORKER_PAGES)?,
            page_bytes: metrics.gauge(&c::WORKER_PAGE_BYTES)?,
            prefix_tokens: metrics.counter(&c::WORKER_PREFIX_TOKENS)?,
            evicted: metrics.counter(&c::WORKER_EVICTED_PAGES)?,
            preemptions: metrics.counter(&c::WORKER_PREEMPTIONS)?,
            drafts: metrics.counter(&c::WORKER_DRAFTS)?,
            drafting: metrics.gauge(&c::WORKER_DRAFTING)?,
            kv_bytes: metrics.counter(&c::WORKER_KV_BYTES)?,
            transfers: metrics.counter(&c::WORKER_TRANSFERS)?,
            transfer_time: metrics.histogram(&c::WORKER_TRANSFER_TIME)?,
            recomputes: metrics.counter(&c::WORKER_RECOMPUTES)?,
            ttft: metrics.histogram(&c::WORKER_TTFT)?,
            tpot: metrics.histogram(&c::WORKER_TPOT)?,
            errors: metrics.counter(&c::WORKER_ERRORS)?,
            events_dropped: metrics.counter(&c::WORKER_EVENTS_DROPPED)?,
            weights: metrics.gauge(&c::WORKER_WEIGHT_BYTES)?,
            connected: metrics.gauge(&c::WORKER_COORDINATOR_CONNECTED)?,
            commands_refused: metrics.counter(&c::WORKER_COMMANDS_REFUSED)?,
        })
    }

    pub(crate) fn request_ended(&self, leg: Leg, failure: Option<FailureKind>) {
        let outcome = failure.map_or("ok", errors::name);
        self.requests.with_label_values(&[leg.name(), outcome]).inc();
        if let Some(kind) = failure.filter(|k| *k != FailureKind::Cancelled) {
            self.errors.with_label_values(&[errors::name(kind)]).inc();
        }
    }

    /// Of a request that finished with so many tokens.
    pub(crate) fn finished(&self, prefill_us: u64, decode_us: u64, tokens: u64) {
        self.ttft.with_label_values::<&str>(&[]).observe(prefill_us as f64 * 1e-6);
        if tokens > 1 {
            let each = decode_us as f64 * 1e-6 / (tokens - 1) as f64;
            self.tpot.with_label_values::<&str>(&[]).observe(each);
        }
    }

    pub(crate) fn step(&self, load: StepLoad, seconds: f64) {
        self.tokens.with_label_values(&["prefill"]).inc_by(u64::from(load.prefill_tokens));
        self.tokens.with_label_values(&["decode"]).inc_by(u64::from(load.decode_tokens));
        self.step_time.with_label_values::<&str>(&[]).observe(seconds);
        self.step_tokens.with_label_values::<&str>(&[]).observe(f64::from(load.rows()));
    }

    pub(crate) fn sequences(&self, all: usize, prefilling: usize, decoding: usize) {
        let waiting = all.saturating_sub(prefilling + decoding);
        for (state, count) in [("waiting", waiting), ("prefilling", prefilling), ("decoding", decoding)] {
            self.sequences.with_label_values(&[state]).set(count as i64);
        }
    }

    pub(crate) fn ledger(&self, ledger: &Ledger) {
        self.weights.with_label_values::<&str>(&[]).set(ledger.weights_bytes as i64);
        for part in &ledger.parts {
            let used = part.pages_total.saturating_sub(part.pages_available());
            let name = part.part.name();
            for (state, pages) in [("used", used), ("cached", part.pages_cached), ("free", part.pages_free)] {
                self.pages.with_label_values(&[name, state]).set(pages as i64);
            }
            self.page_bytes.with_label_values(&[name]).set(part.page_bytes as i64);
        }
    }

    /// Notes a command that came too late.
    pub(crate) fn command_refused(&self) {
        self.commands_refused.with_label_values::<&str>(&[]).inc();
    }

    /// Counts what changed since `before`.
    pub(crate) fn stats(&self, before: &Stats, after: &Stats, ledger: &Ledger) {
        let hit = after.cached_tokens - before.cached_tokens;
        let miss = (after.looked_up_tokens - before.looked_up_tokens).saturating_sub(hit);
        for part in &ledger.parts {
            let name = part.part.name();
            self.prefix_tokens.with_label_values(&[name, "hit"]).inc_by(hit);
            self.prefix_tokens.with_label_values(&[name, "miss"]).inc_by(miss);
            self.evicted.with_label_values(&[name]).inc_by(after.blocks_evicted - before.blocks_evicted);
        }
        self.preemptions.with_label_values::<&str>(&[]).inc_by(after.preemptions - before.preemptions);
        let accepted = after.drafts_accepted - before.drafts_accepted;
        let refused = (after.drafts_proposed - before.drafts_proposed).saturating_sub(accepted);
        self.drafts.with_label_values(&["accepted"]).inc_by(accepted);
        self.drafts.with_label_values(&["refused"]).inc_by(refused);
        // Every decode's row was counted with its step.
        self.tokens.with_label_values(&["decode"]).inc_by(after.drafts_tokens - before.drafts_tokens);
    }

    pub(crate) fn drafting(&self, drafting: bool) {
        self.drafting.with_label_values::<&str>(&[]).set(drafting.into());
    }

    pub(crate) fn recomputed(&self, reason: &str, prompts: u64) {
        self.recomputes.with_label_values(&[reason]).inc_by(prompts);
    }

    pub(crate) fn moved(&self, direction: Direction, part: Part, bytes: usize) {
        self.kv_bytes.with_label_values(&[direction.name(), part.name()]).inc_by(bytes as u64);
    }

    pub(crate) fn transfer_ended(&self, direction: Direction, outcome: &str) {
        self.transfers.with_label_values(&[direction.name(), outcome]).inc();
    }

    pub(crate) fn transfer_time(&self, seconds: f64) {
        self.transfer_time.with_label_values::<&str>(&[]).observe(seconds);
    }

    pub(crate) fn events_dropped(&self) {
        self.events_dropped.with_label_values::<&str>(&[]).inc();
    }

    pub(crate) fn connected(&self, connected: bool) {
        self.connected.with_label_values::<&str>(&[]).set(connected.into());
    }
}
