//! The step thread: it owns the core, the engine and its pages. Everybody else sends it messages; between two steps it
//! takes them, does what the core says, and computes the next step.

mod message;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_proto::cluster as w;
use hadal_shell::tasks::Tasks;
use hadal_transfer::Connector;
use hadal_types::{CacheEvent, Incarnation, StoreId};
use hadal_worker_core::{Command, Core, Event, Plan, RequestKey, SliceResult, Stats, Unexpected};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{Backend, EngineError, Pages};
use crate::leg::Peers;
use crate::metrics::{Counters, Direction};
use crate::shared::Shared;
pub(crate) use message::{Ended, Message, NewGenerate, NewPrefill, Page, Steps};
use streams::{Owned, Prefilling, Streams};

/// The longest wait for a message: how late the thread may notice that everything must stop.
const IDLE: Duration = Duration::from_secs(1);
/// Messages between two steps at most, so that a flood of them cannot hold steps up.
const MESSAGES_MAX: usize = 1024;

/// What the step thread and the tasks it starts share.
pub(crate) struct Context {
    pub(crate) steps: Steps,
    pub(crate) tasks: Tasks,
    pub(crate) counters: Counters,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) peers: Peers,
    pub(crate) incarnation: Incarnation,
    pub(crate) info: crate::engine::Info,
    pub(crate) limits: Limits,
    pub(crate) events: mpsc::Sender<CacheEvent>,
}

/// Bounds, out of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) output_tokens_max: usize,
    pub(crate) peer_timeout: Duration,
    /// How long a receiver may hold pages here.
    pub(crate) prefill_lease: Duration,
    /// Bytes of pages under way to this worker, for one request.
    pub(crate) window_bytes: u64,
    /// Bytes of pages copied out for one receiver.
    pub(crate) send_bytes: u64,
    /// How many pages these are at most.
    pub(crate) send_pages: usize,
}

/// The step thread's state.
pub(crate) struct StepLoop {
    pub(crate) core: Core,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) context: Arc<Context>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) drained: CancellationToken,
    streams: Streams,
    plan: Plan,
    commands: Vec<Command>,
    results: Vec<SliceResult>,
    next_key: u64,
    stats: Stats,
}

impl StepLoop {
    pub(crate) fn new(
        core: Core,
        backend: Box<dyn Backend>,
        inbox: mpsc::Receiver<Message>,
        context: Arc<Context>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            core,
            backend,
            inbox,
            streams: Streams::new(Arc::clone(&context)),
            context,
            shared,
            drained: CancellationToken::new(),
            plan: Plan::new(),
            commands: Vec::new(),
            results: Vec::new(),
            next_key: 1,
            stats: Stats::default(),
        }
    }

    /// Runs until the worker is drained or must stop. To be called on its own thread, within the runtime's context.
    pub(crate) fn run(mut self) {
        self.context.steps.attach_thread();
        // However this ends, the server must not wait for it. What waits in the queue is dropped then, which ends its
        // streams with an error.
        let _ended = self.drained.clone().drop_guard();
        let stop = self.context.tasks.stop_token();
        while !stop.is_cancelled() {
            self.take_messages();
            self.take_cancellations();
            self.tick();
            let computes = self.core.plan(self.now(), &mut self.plan, &mut self.commands);
            self.carry_out();
            // Before the step, which may be long.
            self.publish();
            if computes {
                self.step();
                continue;
            }
            if self.streams.drained {
                return;
            }
            self.note_sequences(0, 0);
            // Those that were left for this turn woke the thread once, before.
            if self.inbox.is_empty() {
                std::thread::park_timeout(self.patience());
            }
        }
    }

    fn now(&self) -> Duration {
        self.context.steps.now()
    }

    fn patience(&self) -> Duration {
        let due = self.core.next_deadline().map_or(IDLE, |at| at.saturating_sub(self.now()));
        due.clamp(Duration::from_millis(1), IDLE)
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_MAX {
            let Ok(message) = self.inbox.try_recv() else { return };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Generate(new) => self.generate(*new),
            Message::Prefill(new) => self.prefill(*new),
            Message::Event(event) => self.on(event),
            Message::LegFailed { request, leg, retryable, reason } => {
                self.leg_failed((request, leg), retryable, reason)
            }
            Message::Page(page) => self.page(page),
            Message::Snapshot(answer) => {
                // Nobody waits for it any more when the connection to the coordinator is lost.
                let _ = answer.send(self.core.snapshot());
            }
            Message::Drain => {
                tracing::info!(requests = self.streams.owned.len() + self.streams.prefills.len(), "draining");
                self.on(Event::Drain);
            }
        }
    }

    fn on(&mut self, event: Event) {
        let now = self.now();
        self.core.on(now, event, &mut self.commands);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for command in self.commands.drain(..) {
            self.streams.carry_out(command, self.backend.pages());
        }
    }

    fn next_key(&mut self) -> RequestKey {
        let key = RequestKey(self.next_key);
        self.next_key += 1;
        key
    }

    fn generate(&mut self, new: NewGenerate) {
        let NewGenerate { request, prefill, context, outlet } = new;
        let key = self.next_key();
        if !outlet.assign(key) {
            return;
        }
        let owned = Owned {
            outlet,
            prefill,
            context,
            salt: request.salt.clone(),
            deadline: request.deadline,
            leg: None,
            tokens: 0,
            overflowed: false,
        };
        self.streams.owned.insert(key, owned);
        self.streams.changed = true;
        self.streams.accepted.push(request.id.as_str().to_owned());
        self.on(Event::Generate(key, request));
    }

    fn prefill(&mut self, new: NewPrefill) {
        let NewPrefill { request, receiver, outlet } = new;
        let key = self.next_key();
        if !outlet.assign(key) {
            return;
        }
        let (lease, lease_until) = (request.lease, request.lease_until);
        let request_id = request.id.as_str().to_owned();
        self.streams.accepted.push(request_id.clone());
        let prefilling = Prefilling { request_id, outlet, receiver, lease, lease_until, connection: None };
        self.streams.prefills.insert(key, prefilling);
        self.streams.changed = true;
        self.on(Event::Prefill(key, request));
    }

    fn leg_failed(&mut self, (request, leg): (RequestKey, u32), retryable: bool, reason: &'static str) {
        let before = self.core.stats().local_fallbacks;
        self.on(Event::PrefillFailed { request, leg, retryable });
        let recomputed = self.core.stats().local_fallbacks - before;
        self.context.counters.recomputed(reason, recomputed);
    }

    /// Writes a page that arrived, if somebody waits for it still.
    fn page(&mut self, page: Page) {
        let Page { request, leg, block, taken } = page;
        let (store, bytes) = (StoreId(block.store), block.bytes.len() as u64);
        match self.core.incoming_page(request, leg, block.block, store) {
            Ok(target) if target.rows == block.rows => {
                match self.backend.write_page(store, target.page, &block.bytes) {
                    Ok(()) => {
                        if let Some(store) = self.context.info.geometry.store(store) {
                            self.context.counters.moved(Direction::Received, store.part, block.bytes.len());
                        }
                        self.on(Event::BlockArrived { request, leg, block: block.block, store });
                    }
                    Err(error) => {
                        tracing::error!(%error, "a page that arrived could not be written");
                        self.leg_failed((request, leg), false, "internal");
                    }
                }
            }
            Ok(_) | Err(Unexpected::NotWanted { .. }) => {
                tracing::warn!(block = block.block, store = store.0, "a page came that was not asked for");
                self.leg_failed((request, leg), true, "protocol");
            }
            Err(Unexpected::Over) => {}
        }
        taken.send_modify(|sum| *sum += bytes);
    }

    /// Cancels what was dropped, and what cannot go on.
    fn take_cancellations(&mut self) {
        for key in self.context.steps.take_cancelled() {
            self.on(Event::Cancel(key));
        }
        for key in std::mem::take(&mut self.streams.overflowed) {
            self.on(Event::Cancel(key));
        }
        for request in std::mem::take(&mut self.streams.broken) {
            let message = "the connection to the receiver has ended".to_owned();
            self.on(Event::SendFailed { request, message });
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            let before = self.core.stats().local_fallbacks;
            self.on(Event::Tick);
            self.context.counters.recomputed("timeout", self.core.stats().local_fallbacks - before);
        }
    }

    fn step(&mut self) {
        let began = Instant::now();
        let Self { core, backend, streams, plan, commands, .. } = self;
        let computed = backend.forward(plan, &mut |layer, pages: &dyn Pages| {
            core.layer_done(layer, commands);
            commands.drain(..).for_each(|command| streams.carry_out(command, pages));
        });
        match computed.and_then(|()| self.sample()) {
            Ok(()) => {
                let now = self.context.steps.now();
                self.core.step_done(now, &self.results, &mut self.commands);
            }
            Err(EngineError(message)) => {
                tracing::error!(%message, "the engine failed");
                self.core.step_failed(&message, &mut self.commands);
            }
        }
        self.carry_out();
        self.note_step(began.elapsed());
    }

    /// Samples the step just computed, and has the draft layer follow.
    fn sample(&mut self) -> Result<(), EngineError> {
        let Self { core, backend, streams, plan, commands, results, .. } = self;
        results.clear();
        for (i, slice) in plan.slices().iter().enumerate() {
            results.push(backend.result(plan, i, core.sample_inputs(slice.request)));
        }
        backend.follow(plan, results, &mut |layer, pages: &dyn Pages| {
            core.layer_done(layer, commands);
            commands.drain(..).for_each(|command| streams.carry_out(command, pages));
        })
    }

    fn note_step(&self, took: Duration) {
        let load = self.plan.load();
        self.context.counters.step(load, took.as_secs_f64());
        let decoding = load.decode_tokens as usize;
        self.note_sequences(self.plan.slices().len().saturating_sub(decoding), decoding);
        self.shared.lock().add_sample(w::StepSample {
            prefill_tokens: load.prefill_tokens,
            decode_tokens: load.decode_tokens,
            context_tokens: load.context_tokens,
            microseconds: took.as_micros() as u64,
        });
    }

    fn note_sequences(&self, prefilling: usize, decoding: usize) {
        let all = self.streams.owned.len() + self.streams.prefills.len();
        self.context.counters.sequences(all, prefilling, decoding);
    }

    /// Shows others where the worker stands.
    fn publish(&mut self) {
        let stats = self.core.stats();
        let ledger = self.core.ledger();
        self.context.counters.stats(&self.stats, &stats, &ledger);
        self.context.counters.ledger(&ledger);
        self.context.counters.drafting(self.core.drafting());
        self.stats = stats;
        let mut state = self.shared.lock();
        state.ledger = ledger;
        state.prefill_tokens_queued = self.core.prefill_tokens_queued();
        state.draining = self.core.draining();
        state.accept(self.streams.accepted.drain(..));
        if std::mem::take(&mut self.streams.changed) {
            state.request_ids = self.core.request_ids().map(|id| id.as_str().to_owned()).collect();
        }
    }
}
