//! The streams and connections of the requests that live, and how a command of the core reaches them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hadal_proto::cluster as w;
use hadal_transfer::{Block, Offer};
use hadal_types::{Incarnation, LeaseId, StoreId};
use hadal_worker_core::{Command, Failure, FinishReason, RequestKey, TokenLogprobs};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use w::generate_event::Event;

use super::Context;
use crate::engine::Pages;
use crate::errors;
use crate::leg::{self, Plan as LegPlan};
use crate::metrics::{Direction, Leg};
use crate::output::Outlet;
use crate::send::{self, Item};

/// A request that this worker owns.
pub(crate) struct Owned {
    pub(crate) outlet: Outlet<w::GenerateEvent>,
    pub(crate) prefill: Option<w::WorkerRef>,
    pub(crate) context: w::RequestContext,
    pub(crate) salt: Vec<u8>,
    pub(crate) deadline: Option<Duration>,
    /// Ends the leg when it is replaced or dropped.
    pub(crate) leg: Option<(u32, DropGuard)>,
    /// Tokens computed here.
    pub(crate) tokens: u64,
    /// Whether its reader lags too far behind.
    pub(crate) overflowed: bool,
}

/// A prompt for another worker.
pub(crate) struct Prefilling {
    pub(crate) request_id: String,
    pub(crate) outlet: Outlet<w::PrefillEvent>,
    pub(crate) receiver: Incarnation,
    pub(crate) lease: LeaseId,
    pub(crate) lease_until: Duration,
    /// To the connection, once the prompt is reserved.
    pub(crate) connection: Option<Connection>,
}

/// The task that sends a prompt's pages.
pub(crate) struct Connection {
    queue: mpsc::Sender<Item>,
    _ends: DropGuard,
}

/// All of them.
pub(crate) struct Streams {
    pub(crate) context: Arc<Context>,
    pub(crate) owned: HashMap<RequestKey, Owned>,
    pub(crate) prefills: HashMap<RequestKey, Prefilling>,
    /// Requests whose reader lags too far behind: to be cancelled.
    pub(crate) overflowed: Vec<RequestKey>,
    /// Connections that could not be handed a page; what to tell the core.
    pub(crate) broken: Vec<RequestKey>,
    /// Whether the set of requests changed since it was last asked.
    pub(crate) changed: bool,
    /// Requests accepted since the worker's state was last shown.
    pub(crate) accepted: Vec<String>,
    pub(crate) drained: bool,
}

impl Streams {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            owned: HashMap::new(),
            prefills: HashMap::new(),
            overflowed: Vec::new(),
            broken: Vec::new(),
            changed: true,
            accepted: Vec::new(),
            drained: false,
        }
    }

    /// Does what the core says. `pages` are as the command found them.
    pub(crate) fn carry_out(&mut self, command: Command, pages: &dyn Pages) {
        match command {
            Command::Started { request, cached_tokens, remote } => self.started(request, cached_tokens, remote),
            Command::Delta { request, index, token, logprobs } => self.delta(request, index, token, logprobs),
            Command::Finished { request, reason, prefill_us, decode_us } => {
                self.finished(request, finished(reason, prefill_us, decode_us));
            }
            Command::Failed { request, failure } => self.failed(request, failure),
            Command::StartPrefill { request, leg, tokens, blocks_held, lease } => {
                self.start_leg(request, leg, (tokens, blocks_held), lease);
            }
            Command::StopPrefill { request, leg } => {
                if let Some(owned) = self.owned.get_mut(&request) {
                    owned.leg.take_if(|(number, _)| *number == leg);
                }
            }
            Command::PrefillAccepted { request, cached_tokens } => self.accepted(request, cached_tokens),
            Command::SendBlock { request, block, store, page, rows } => {
                self.send_block(request, (block, rows), (store, page), pages);
            }
            Command::SendEnd { request, .. } => self.enqueue(request, Item::End),
            Command::PrefillFinished { request, computed_tokens, microseconds } => {
                self.prefilled(request, w::PrefillFinished { computed_tokens, microseconds });
            }
            Command::Cache(event) => {
                if self.context.events.try_send(event).is_err() {
                    self.context.counters.events_dropped();
                }
            }
            Command::Drained => self.drained = true,
        }
    }

    fn started(&mut self, request: RequestKey, cached_tokens: u32, remote: bool) {
        let Some(owned) = self.owned.get(&request) else { return };
        let worker = owned.prefill.as_ref().filter(|_| remote);
        let prefill_worker = worker.map_or_else(String::new, |w| w.id.clone());
        let request_id = &owned.context.request_id;
        tracing::debug!(%request_id, cached_tokens, %prefill_worker, "request begins");
        let event = Some(Event::Started(w::Started { cached_tokens, prefill_worker }));
        owned.outlet.push(w::GenerateEvent { event });
    }

    fn delta(&mut self, request: RequestKey, index: u32, token: u32, logprobs: Option<TokenLogprobs>) {
        let Some(owned) = self.owned.get_mut(&request) else { return };
        let logprobs = logprobs.map(|l| w::TokenLogprobs {
            logprob: l.logprob,
            top: l.top.into_iter().map(|(token, logprob)| w::TopLogprob { token, logprob }).collect(),
            choice_overlap: l.choice_overlap,
        });
        owned.tokens += 1;
        let mut waiting = 1;
        owned.outlet.join(|last| {
            if let Some(w::GenerateEvent { event: Some(Event::Delta(delta)) }) = last {
                delta.tokens.push(token);
                delta.logprobs.extend(logprobs);
                waiting = delta.tokens.len();
                return None;
            }
            let delta = w::Delta { first_token: index, tokens: vec![token], logprobs: logprobs.into_iter().collect() };
            Some(w::GenerateEvent { event: Some(Event::Delta(delta)) })
        });
        if waiting > self.context.limits.output_tokens_max && !owned.overflowed {
            owned.overflowed = true;
            self.overflowed.push(request);
        }
    }

    fn finished(&mut self, request: RequestKey, finished: w::Finished) {
        let Some(owned) = self.owned.remove(&request) else { return };
        self.changed = true;
        let counters = &self.context.counters;
        counters.request_ended(Leg::Generate, None);
        counters.finished(finished.prefill_us, finished.decode_us, owned.tokens);
        let (request_id, w::Finished { prefill_us, decode_us, .. }) = (&owned.context.request_id, &finished);
        tracing::info!(%request_id, tokens = owned.tokens, prefill_us, decode_us, "request finished");
        owned.outlet.end(w::GenerateEvent { event: Some(Event::Finished(finished)) });
    }

    fn failed(&mut self, request: RequestKey, failure: Failure) {
        self.changed = true;
        let kind = failure.kind;
        if let Some(owned) = self.owned.remove(&request) {
            let id = &owned.context.request_id;
            tracing::info!(request_id = %id, kind = errors::name(kind), message = %failure.message, "request ended early");
            self.context.counters.request_ended(Leg::Generate, Some(kind));
            let waits = self.context.limits.output_tokens_max;
            let failure = if owned.overflowed { errors::slow_reader(waits) } else { failure };
            owned.outlet.end(errors::generate_event(failure));
        } else if let Some(prefilling) = self.prefills.remove(&request) {
            let id = &prefilling.request_id;
            tracing::info!(request_id = %id, kind = errors::name(kind), message = %failure.message, "prefill ended early");
            self.context.counters.request_ended(Leg::Prefill, Some(kind));
            prefilling.outlet.end(errors::prefill_event(failure));
        }
    }

    fn start_leg(&mut self, request: RequestKey, leg: u32, (tokens, blocks_held): (Vec<u32>, u32), lease: Duration) {
        let Some(owned) = self.owned.get_mut(&request) else { return };
        // Without a worker the core does not ask.
        let Some(worker) = owned.prefill.clone() else { return };
        let ends = CancellationToken::new();
        owned.leg = Some((leg, ends.clone().drop_guard()));
        let left = owned.deadline.map(|d| d.saturating_sub(self.context.steps.now()).as_millis().max(1) as u64);
        let context =
            w::RequestContext { salt: owned.salt.clone(), deadline_ms: left.unwrap_or(0), ..owned.context.clone() };
        let plan = LegPlan { request, leg, worker, context, tokens, blocks_held, lease, ends };
        let shared = Arc::clone(&self.context);
        self.context.tasks.spawn("prefill leg", leg::run(shared, plan));
    }

    fn accepted(&mut self, request: RequestKey, cached_tokens: u32) {
        let Some(prefilling) = self.prefills.get_mut(&request) else { return };
        let context = Arc::clone(&self.context);
        let left = prefilling.lease_until.saturating_sub(context.steps.now());
        let deadline = tokio::time::Instant::now() + left;
        // Before the owner is told, so that it never comes too early.
        let offer = Offer { lease: prefilling.lease, receiver: prefilling.receiver, deadline };
        let offered = context.connector.offer(offer);
        let (queue, items) = mpsc::channel(context.limits.send_pages + 2);
        let ends = CancellationToken::new();
        prefilling.connection = Some(Connection { queue, _ends: ends.clone().drop_guard() });
        let accepted = w::PrefillAccepted {
            transfer_address: context.connector.address(),
            incarnation: context.incarnation.0,
            cached_tokens,
        };
        prefilling.outlet.push(w::PrefillEvent { event: Some(w::prefill_event::Event::Accepted(accepted)) });
        self.context.tasks.spawn("KV sender", send::run(context, request, offered, items, ends));
    }

    fn send_block(
        &mut self,
        request: RequestKey,
        (block, rows): (u32, u32),
        (store, page): (StoreId, u32),
        pages: &dyn Pages,
    ) {
        match pages.page(store, page) {
            Ok(bytes) => {
                let bytes = Bytes::copy_from_slice(bytes);
                self.enqueue(request, Item::Block(Block { block, store: store.0, rows, bytes }));
            }
            Err(error) => {
                tracing::error!(%error, "a page to send is not there");
                self.broken.push(request);
            }
        }
    }

    fn enqueue(&mut self, request: RequestKey, item: Item) {
        let Some(prefilling) = self.prefills.get(&request) else { return };
        let sent = prefilling.connection.as_ref().is_some_and(|c| c.queue.try_send(item).is_ok());
        if !sent {
            // The core sends within its credit, which fits the queue: so the connection's task has ended.
            self.broken.push(request);
        }
    }

    fn prefilled(&mut self, request: RequestKey, finished: w::PrefillFinished) {
        let Some(prefilling) = self.prefills.remove(&request) else { return };
        self.changed = true;
        self.context.counters.request_ended(Leg::Prefill, None);
        self.context.counters.transfer_ended(Direction::Sent, "ok");
        let (request_id, computed_tokens) = (&prefilling.request_id, finished.computed_tokens);
        tracing::info!(%request_id, computed_tokens, microseconds = finished.microseconds, "prefill finished");
        prefilling.outlet.end(w::PrefillEvent { event: Some(w::prefill_event::Event::Finished(finished)) });
    }
}

fn finished(reason: FinishReason, prefill_us: u64, decode_us: u64) -> w::Finished {
    let (reason, stop_token) = match reason {
        FinishReason::Stop { token } => (w::finished::Reason::Stop, token),
        FinishReason::Length => (w::finished::Reason::Length, 0),
    };
    w::Finished { reason: reason.into(), stop_token, prefill_us, decode_us }
}
