//! The state machine: events in, commands out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use hadal_types::{ChainHash, Incarnation, PartSet, RequestId, WorkerId};

use crate::config::Config;
use crate::counters::{Counters, Discarded, Loss};
use crate::directory::{Directory, Slot};
use crate::event::{
    Answer, Command, ConnectionId, Event, Heartbeat, PlaceId, PlaceRequest, Refusal, RefusalKind, SnapshotChunk,
    WorkerInfo,
};
use crate::fleet::{Beat, Fleet, Worker, WorkerView};
use crate::placing::{LOOKAHEAD, never};
use crate::policy::Policy;
use crate::queue::{Queue, Waiting};
use crate::sync::{Context, Step, Sync};

/// Bounds of what a router is told to wait before it tries again.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Segments of the directory that a tick rids of what lost workers held: a millisecond with ten million blocks.
const SEGMENTS_A_TICK: usize = 16;

/// A placement whose lease runs.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) request: RequestId,
    pub(crate) decode: ConnectionId,
    pub(crate) prefill: Option<ConnectionId>,
}

/// The coordinator's state.
pub struct Core {
    pub(crate) config: Config,
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) fleet: Fleet,
    pub(crate) directory: Directory,
    pub(crate) queue: Queue,
    pub(crate) counters: Counters,
    pub(crate) now: Duration,
    pub(crate) placed: BTreeMap<PlaceId, Placed>,
    /// When leases end, in order, since all are equally long.
    pub(crate) leases: VecDeque<(Duration, PlaceId)>,
    /// How long the last placed request had waited.
    pub(crate) last_wait: Duration,
    /// When the last tick came.
    ticked: Duration,
    /// Models whose waiting requests may fit now.
    pump: BTreeSet<String>,
    draining: bool,
    rebuilt: bool,
    out: Vec<Command>,
    changed: Option<bool>,
}

impl Core {
    /// A coordinator that knows no worker.
    pub fn new(config: Config, policy: Box<dyn Policy>) -> Self {
        Self {
            config,
            policy,
            fleet: Fleet::default(),
            directory: Directory::default(),
            queue: Queue::default(),
            counters: Counters::default(),
            now: Duration::ZERO,
            placed: BTreeMap::new(),
            leases: VecDeque::new(),
            last_wait: Duration::ZERO,
            ticked: Duration::ZERO,
            pump: BTreeSet::new(),
            draining: false,
            rebuilt: false,
            out: Vec::new(),
            changed: None,
        }
    }

    /// Takes in what happened at `now` (since any start, never running backwards) and returns what is to be done.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Command> {
        self.now = self.now.max(now);
        self.expire();
        let newcomer = match &event {
            Event::Place { place, .. } => Some(*place),
            _ => None,
        };
        self.take(event);
        for model in std::mem::take(&mut self.pump) {
            self.place_waiting(&model);
        }
        if let Some(place) = newcomer {
            self.bound_queue(place);
        }
        if let Some(membership) = self.changed.take() {
            self.out.push(Command::FleetChanged { membership });
        }
        std::mem::take(&mut self.out)
    }

    /// The workers, by slot.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView<'_>> {
        self.fleet.workers().map(|(_, w)| WorkerView {
            connection: w.connection,
            info: &w.info,
            ledger: &w.ledger,
            draining: w.draining,
            requests: w.requests_all(),
        })
    }

    /// Who holds a block, and which parts of it.
    pub fn holders(&self, block: ChainHash) -> impl Iterator<Item = (&WorkerId, PartSet)> {
        let held = move |(slot, w): (Slot, _)| (w, self.directory.held(slot, block));
        self.fleet.workers().map(|(slot, w)| (slot, &w.info.id)).map(held).filter(|(_, parts)| !parts.is_empty())
    }

    /// Cached blocks that are known, summed over workers.
    pub fn blocks(&self) -> usize {
        self.directory.blocks()
    }

    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Registered { connection, worker } => self.register(connection, *worker),
            Event::Heartbeat { connection, heartbeat } => self.heartbeat(connection, heartbeat),
            Event::CacheEvents { connection, mut events } => {
                let Some((slot, life)) = self.sender(connection) else { return };
                let all = events.len();
                events.retain(|event| event.incarnation == life);
                self.counters.discard(Discarded::OldIncarnation, all - events.len());
                self.follow(slot, |sync, context| sync.events(&events, context));
            }
            Event::CacheSnapshot { connection, chunk } => self.snapshot(connection, &chunk),
            Event::Leaving { connection } => {
                let Some((slot, _)) = self.sender(connection) else { return };
                if let Some(worker) = self.fleet.get_mut(slot) {
                    worker.leaving = true;
                    worker.draining = true;
                    self.changed(true);
                }
            }
            Event::WorkerLost { connection } => {
                let Some((slot, _)) = self.sender(connection) else { return };
                self.lose(slot, Loss::Disconnected);
            }
            Event::Place { place, request } => self.arrive(place, request),
            Event::PlaceCancelled { place } => self.cancel(place),
            Event::Drain => self.drain(),
            Event::Tick => self.tick(),
        }
    }

    fn register(&mut self, connection: ConnectionId, info: WorkerInfo) {
        if self.fleet.by_connection(connection).is_some() {
            self.counters.discard(Discarded::Repeated, 1);
            return;
        }
        if let Some(reason) = self.fleet.refusal(&info, self.config.workers_max) {
            self.counters.workers_refused += 1;
            self.out.push(Command::RefuseWorker { connection, reason });
            return;
        }
        if let Some(slot) = self.fleet.by_id(&info.id) {
            let incarnation = info.incarnation.0;
            let reason = format!("worker {} has registered again (incarnation {incarnation:016x})", info.id);
            self.disconnect(slot, Loss::Replaced, reason, false);
        }
        let model = info.model.clone();
        let slot = self.fleet.insert(Worker::new(info, connection, self.now));
        self.out.push(Command::Accept { connection });
        // Also of a worker that has just started: one that outlived a coordinator has a cache, and says nothing of it.
        self.follow(slot, Sync::restart);
        self.pump.insert(model);
        self.changed(true);
    }

    fn heartbeat(&mut self, connection: ConnectionId, heartbeat: Heartbeat) {
        let Some((slot, _)) = self.sender(connection) else { return };
        let now = self.now;
        let Some(worker) = self.fleet.get_mut(slot) else { return };
        match worker.beat(now, heartbeat) {
            Beat::Stale => self.counters.discard(Discarded::Repeated, 1),
            Beat::Impossible(problem) => {
                self.disconnect(slot, Loss::Silent, format!("a heartbeat was refused: {problem}"), false);
            }
            Beat::Taken { membership } => {
                let model = worker.info.model.clone();
                self.pump.insert(model);
                self.changed(membership);
            }
        }
    }

    fn snapshot(&mut self, connection: ConnectionId, chunk: &SnapshotChunk) {
        let Some((slot, life)) = self.sender(connection) else { return };
        if chunk.incarnation == life {
            self.follow(slot, |sync, context| sync.chunk(chunk, context));
        } else {
            self.counters.discard(Discarded::OldIncarnation, 1);
        }
    }

    /// The worker that a message came from; counts the message when there is none.
    fn sender(&mut self, connection: ConnectionId) -> Option<(Slot, Incarnation)> {
        let slot = self.fleet.by_connection(connection);
        let found = slot.and_then(|slot| Some((slot, self.fleet.get(slot)?.info.incarnation)));
        if found.is_none() {
            self.counters.discard(Discarded::UnknownWorker, 1);
        }
        found
    }

    /// Has the directory follow a worker; asks it for a snapshot when that is needed, and takes it out when what it says
    /// cannot be true.
    fn follow(&mut self, slot: Slot, step: impl FnOnce(&mut Sync, &mut Context<'_>) -> Step) {
        let Some(worker) = self.fleet.get_mut(slot) else { return };
        let mut context = Context {
            now: self.now,
            slot,
            directory: &mut self.directory,
            counters: &mut self.counters,
            ledger: &worker.ledger,
            events_max: self.config.snapshot_events_max,
            blocks_max: self.config.tier_blocks_max,
        };
        match step(&mut worker.sync, &mut context) {
            Step::Nothing => {}
            Step::SnapshotWanted => self.out.push(Command::SnapshotWanted { connection: worker.connection }),
            Step::Impossible(problem) => {
                self.disconnect(slot, Loss::Silent, format!("its cache events were refused: {problem}"), false);
            }
        }
    }

    fn disconnect(&mut self, slot: Slot, loss: Loss, reason: String, again: bool) {
        if let Some(connection) = self.lose(slot, loss) {
            self.out.push(Command::Disconnect { connection, reason, again });
        }
    }

    fn lose(&mut self, slot: Slot, loss: Loss) -> Option<ConnectionId> {
        let worker = self.fleet.remove(slot, self.now)?;
        self.directory.forget(slot);
        self.counters.lose(if worker.leaving { Loss::Left } else { loss });
        self.pump.insert(worker.info.model);
        self.changed(true);
        Some(worker.connection)
    }

    fn arrive(&mut self, place: PlaceId, request: Box<PlaceRequest>) {
        // Its earlier attempts have ended: nobody keeps pages free for them, whoever was to blame.
        if request.attempt > 0 {
            self.fleet.workers_mut().for_each(|worker| worker.pending.remove_all(&request.request));
            self.pump.insert(request.model.clone());
        }
        if let Some(refusal) = self.refusal(&request) {
            self.answer(place, Answer::Refused(refusal));
            return;
        }
        let model = request.model.clone();
        self.queue.push(Waiting { place, request, arrived: self.now });
        // Behind requests that do not fit, and with nothing changed, it would not be tried.
        if self.queue.is_among_first(place, LOOKAHEAD) {
            self.pump.insert(model);
        }
        self.changed(false);
    }

    /// Why a request is not even queued.
    fn refusal(&self, request: &PlaceRequest) -> Option<Refusal> {
        let refuse = |kind, message: String, retry_after| Some(Refusal { kind, message, retry_after });
        if self.draining {
            let message = "this coordinator is shutting down; try again".to_owned();
            return refuse(RefusalKind::Overloaded, message, Some(RETRY_MIN));
        }
        if request.prompt_tokens == 0 {
            return refuse(RefusalKind::Invalid, "the prompt is empty".to_owned(), None);
        }
        let blocks = (request.prompt_tokens / hadal_types::BLOCK_TOKENS) as usize;
        if let Some((_, chain)) = request.chains.iter().find(|(_, chain)| chain.len() > blocks) {
            let message = format!("{} hashes for the {blocks} full blocks of the prompt", chain.len());
            return refuse(RefusalKind::Invalid, message, None);
        }
        if request.deadline.is_some_and(|deadline| deadline <= self.now) {
            return refuse(RefusalKind::Deadline, "the deadline had passed on arrival".to_owned(), None);
        }
        if self.rebuilds() {
            return None;
        }
        if !self.fleet.knows(&request.model) && !self.fleet.served().is_empty() {
            return Some(self.unknown_model(&request.model));
        }
        never(&self.fleet, request)
    }

    /// Whether workers of the coordinator before may still be on their way.
    pub(crate) fn rebuilds(&self) -> bool {
        self.now < self.config.rebuild
    }

    fn unknown_model(&self, model: &str) -> Refusal {
        let message = format!("model {model:?} is not served; served are {}", self.fleet.served().join(", "));
        Refusal { kind: RefusalKind::UnknownModel, message, retry_after: None }
    }

    fn bound_queue(&mut self, newcomer: PlaceId) {
        if self.queue.len() > self.config.queue_max && self.queue.remove(newcomer).is_some() {
            let message = format!("{} requests wait already; try again later", self.config.queue_max);
            let retry_after = Some(self.last_wait.clamp(RETRY_MIN, RETRY_MAX));
            let refusal = Refusal { kind: RefusalKind::Overloaded, message, retry_after };
            self.answer(newcomer, Answer::Refused(refusal));
        }
    }

    fn cancel(&mut self, place: PlaceId) {
        if self.unqueue(place).is_some() {
            self.counters.cancelled += 1;
            self.changed(false);
        } else if let Some(placed) = self.placed.remove(&place) {
            self.counters.cancelled += 1;
            self.release(place, &placed);
        }
    }

    /// Takes a request out of the queue; those behind it may have waited for the workers that it waited for.
    fn unqueue(&mut self, place: PlaceId) -> Option<Waiting> {
        let waiting = self.queue.remove(place)?;
        self.pump.insert(waiting.request.model.clone());
        Some(waiting)
    }

    /// Frees what a placement had taken; whether no heartbeat had named it.
    fn release(&mut self, place: PlaceId, placed: &Placed) -> bool {
        let mut unused = false;
        for connection in [Some(placed.decode), placed.prefill].into_iter().flatten() {
            let slot = self.fleet.by_connection(connection);
            let Some(worker) = slot.and_then(|slot| self.fleet.get_mut(slot)) else { continue };
            if worker.pending.remove(&placed.request, place) {
                unused = true;
                self.pump.insert(worker.info.model.clone());
            }
        }
        unused
    }

    fn drain(&mut self) {
        self.draining = true;
        while let Some(waiting) = self.queue.first().and_then(|place| self.queue.remove(place)) {
            let message = "this coordinator is shutting down; try again".to_owned();
            let refusal = Refusal { kind: RefusalKind::Overloaded, message, retry_after: Some(RETRY_MIN) };
            self.answer(waiting.place, Answer::Refused(refusal));
        }
    }

    /// Ends leases and deadlines that are over.
    fn expire(&mut self) {
        while self.leases.front().is_some_and(|(until, _)| *until <= self.now) {
            let Some((_, place)) = self.leases.pop_front() else { break };
            let Some(placed) = self.placed.remove(&place) else { continue };
            self.counters.leases_expired += u64::from(self.release(place, &placed));
        }
        while let Some(waiting) = self.queue.overdue(self.now).and_then(|place| self.unqueue(place)) {
            let waited = self.now.saturating_sub(waiting.arrived).as_millis();
            let message = format!("the deadline passed after {waited} ms in the queue");
            let refusal = Refusal { kind: RefusalKind::Deadline, message, retry_after: None };
            self.answer(waiting.place, Answer::Refused(refusal));
        }
    }

    fn tick(&mut self) {
        self.directory.tidy(SEGMENTS_A_TICK);
        let (now, lost_after, wait) = (self.now, self.config.lost_after, self.config.snapshot_wait);
        // A coordinator that was stopped or starved has not read what the workers sent meanwhile.
        let pause = now - std::mem::replace(&mut self.ticked, now);
        if pause >= lost_after / 2 {
            self.fleet.forgive(pause, now);
        }
        let silent: Vec<Slot> =
            self.fleet.workers().filter(|(_, w)| now - w.heard >= lost_after).map(|(slot, _)| slot).collect();
        for slot in silent {
            let reason = format!("no heartbeat came for {} ms", lost_after.as_millis());
            self.disconnect(slot, Loss::Silent, reason, true);
        }
        let overdue: Vec<Slot> =
            self.fleet.workers().filter(|(_, w)| w.sync.overdue(now, wait)).map(|(slot, _)| slot).collect();
        for slot in overdue {
            self.follow(slot, Sync::restart);
        }
        self.end_rebuild();
        let Some(since) = now.checked_sub(self.config.no_worker_wait) else { return };
        let fleet = &self.fleet;
        for place in self.queue.unserved(now, since, |model, class| fleet.serves(model, class)) {
            let Some(waiting) = self.unqueue(place) else { continue };
            let refusal = self.no_worker(&waiting.request);
            self.answer(place, Answer::Refused(refusal));
        }
        self.fleet.forget_models(since);
    }

    /// What waited for workers that did not come gets the answer that it would have had.
    fn end_rebuild(&mut self) {
        if self.rebuilds() || std::mem::replace(&mut self.rebuilt, true) {
            return;
        }
        for (place, refusal) in
            self.queue.all().filter_map(|w| Some((w.place, self.refusal(&w.request)?))).collect::<Vec<_>>()
        {
            self.unqueue(place);
            self.answer(place, Answer::Refused(refusal));
        }
    }

    fn no_worker(&self, request: &PlaceRequest) -> Refusal {
        if !self.fleet.knows(&request.model) && !self.fleet.served().is_empty() {
            return self.unknown_model(&request.model);
        }
        let of = request.class.map_or_else(String::new, |class| format!(" of numerics class {class}"));
        let message = format!(
            "no decode or mixed worker{of} that takes requests for model {:?} has been registered for {} ms; start one \
             with hadal worker --role decode",
            request.model,
            self.config.no_worker_wait.as_millis()
        );
        Refusal { kind: RefusalKind::NoWorker, message, retry_after: Some(RETRY_MAX) }
    }

    pub(crate) fn answer(&mut self, place: PlaceId, answer: Answer) {
        if let Answer::Refused(refusal) = &answer {
            self.counters.refused(refusal.kind);
        }
        self.changed(false);
        self.out.push(Command::Answer { place, answer });
    }

    fn changed(&mut self, membership: bool) {
        self.changed = Some(membership || self.changed.unwrap_or(false));
    }
}

#[cfg(test)]
mod tests;
