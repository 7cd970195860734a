//! The workers that are registered, and the models that they serve.
//!
//! A worker has a slot, which the directory and policies know it by; slots are reused. Its connection, numbered by the
//! shell, is what messages come by: when a worker returns on another one, messages of the old one mean nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hadal_types::{Fingerprint, Ledger, NumericsClass, PartSet, WorkerId};

use crate::directory::Slot;
use crate::event::{ConnectionId, Heartbeat, WorkerInfo};
use crate::pending::Pending;
use crate::placing::hash;
use crate::sync::Sync;

/// No worker has so many pages or tokens; a number beyond it is a fault, and sums of such numbers would overflow.
const PLAUSIBLE_MAX: u64 = 1 << 40;

/// A registered worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) info: WorkerInfo,
    pub(crate) connection: ConnectionId,
    pub(crate) ledger: Ledger,
    room: Room,
    pub(crate) parts: PartSet,
    pub(crate) draining: bool,
    /// It said that it would leave; no heartbeat takes that back.
    pub(crate) leaving: bool,
    /// When it was last heard of.
    pub(crate) heard: Duration,
    heartbeat: Option<u64>,
    pub(crate) requests: u64,
    pub(crate) prefill_tokens_queued: u64,
    pub(crate) pending: Pending,
    pub(crate) sync: Sync,
    /// A hash of its id, for ranks.
    pub(crate) key: u64,
}

/// What placing asks of a ledger, for thousands of workers a request.
#[derive(Debug)]
struct Room {
    tokens_max: u64,
    blocks_available: u64,
    /// Of the part that has the most.
    pages_cached: u64,
}

impl Room {
    fn of(ledger: &Ledger) -> Self {
        Self {
            tokens_max: ledger.tokens_max(),
            blocks_available: ledger.blocks_available(),
            pages_cached: ledger.parts.iter().map(|p| p.pages_cached).max().unwrap_or(u64::MAX),
        }
    }
}

/// What a heartbeat did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing: a later one came first.
    Stale,
    /// It cannot be true.
    Impossible(String),
    /// It was taken in; whether the worker began or ceased to drain.
    Taken { membership: bool },
}

impl Worker {
    pub(crate) fn new(info: WorkerInfo, connection: ConnectionId, now: Duration) -> Self {
        Self {
            connection,
            ledger: info.ledger.clone(),
            room: Room::of(&info.ledger),
            parts: info.geometry.parts(),
            draining: false,
            leaving: false,
            heard: now,
            heartbeat: None,
            requests: 0,
            prefill_tokens_queued: 0,
            pending: Pending::default(),
            sync: Sync::Wanted { since: now },
            key: hash(info.id.0.as_bytes()),
            info,
        }
    }

    /// The longest sequence that it could ever hold, in tokens.
    pub(crate) fn tokens_max(&self) -> u64 {
        self.room.tokens_max.min(u64::from(self.info.context_tokens))
    }

    /// Blocks that it could take now, evicting what no request uses.
    pub(crate) fn blocks_available(&self) -> u64 {
        self.room.blocks_available
    }

    /// Requests that it has or will soon have.
    pub(crate) fn requests_all(&self) -> u64 {
        self.requests + self.pending.len() as u64
    }

    /// What `blocks` more would take of it, if they fit beside what is under way; `cached` of them it has already.
    ///
    /// Cached blocks that no request uses count as available, so using them takes them away. Where it has more of the
    /// request cached than it has idle blocks at all, the rest is in use by others and costs nothing.
    pub(crate) fn fits(&self, blocks: u64, cached: u64) -> Option<u64> {
        let shared = cached.saturating_sub(self.room.pages_cached);
        let taken = blocks.saturating_sub(shared);
        (taken + self.pending.blocks() <= self.room.blocks_available).then_some(taken)
    }

    pub(crate) fn beat(&mut self, now: Duration, mut heartbeat: Heartbeat) -> Beat {
        if self.heartbeat.is_some_and(|last| heartbeat.sequence <= last) {
            return Beat::Stale;
        }
        if let Err(problem) = plausible(&heartbeat.ledger, self.parts) {
            return Beat::Impossible(problem);
        }
        if heartbeat.prefill_tokens_queued > PLAUSIBLE_MAX {
            return Beat::Impossible(format!("{} prefill tokens queued", heartbeat.prefill_tokens_queued));
        }
        self.heartbeat = Some(heartbeat.sequence);
        self.heard = now;
        heartbeat.requests.sort_unstable();
        heartbeat.requests.dedup();
        self.requests = heartbeat.requests.len() as u64;
        for request in &heartbeat.requests {
            self.pending.remove_all(request);
        }
        self.room = Room::of(&heartbeat.ledger);
        self.ledger = heartbeat.ledger;
        self.prefill_tokens_queued = heartbeat.prefill_tokens_queued;
        let draining = heartbeat.draining || self.leaving;
        let membership = draining != self.draining;
        self.draining = draining;
        Beat::Taken { membership }
    }
}

/// A model, while it has workers and for a while after.
#[derive(Debug)]
pub(crate) struct Model {
    fingerprint: Fingerprint,
    pub(crate) slots: BTreeSet<Slot>,
    empty_since: Option<Duration>,
}

/// A worker as watchers see it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView<'a> {
    /// Its connection.
    pub connection: ConnectionId,
    /// What it said when it registered.
    pub info: &'a WorkerInfo,
    /// What it holds.
    pub ledger: &'a Ledger,
    /// It takes nothing new.
    pub draining: bool,
    /// Requests that it has or will soon have.
    pub requests: u64,
}

/// The workers.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    slots: Vec<Option<Worker>>,
    free: BTreeSet<Slot>,
    connections: BTreeMap<ConnectionId, Slot>,
    ids: BTreeMap<WorkerId, Slot>,
    models: BTreeMap<String, Model>,
}

impl Fleet {
    pub(crate) fn get(&self, slot: Slot) -> Option<&Worker> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Worker> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    pub(crate) fn by_connection(&self, connection: ConnectionId) -> Option<Slot> {
        self.connections.get(&connection).copied()
    }

    pub(crate) fn by_id(&self, id: &WorkerId) -> Option<Slot> {
        self.ids.get(id).copied()
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = (Slot, &Worker)> {
        (0..).zip(&self.slots).filter_map(|(slot, worker)| Some((slot, worker.as_ref()?)))
    }

    pub(crate) fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.slots.iter_mut().flatten()
    }

    /// The workers of a model, by slot.
    pub(crate) fn of_model(&self, model: &str) -> impl Iterator<Item = (Slot, &Worker)> {
        let slots = self.models.get(model).into_iter().flat_map(|m| &m.slots);
        slots.filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    /// Whether a model has workers, or had some a moment ago.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// The names of the models that have workers.
    pub(crate) fn served(&self) -> Vec<&str> {
        self.models.iter().filter(|(_, m)| !m.slots.is_empty()).map(|(name, _)| name.as_str()).collect()
    }

    /// Whether a worker that may own requests of this model and class takes new ones.
    pub(crate) fn serves(&self, model: &str, class: Option<NumericsClass>) -> bool {
        self.of_model(model)
            .any(|(_, w)| !w.draining && w.info.role.decodes() && class.is_none_or(|c| c == w.info.class))
    }

    /// Why a worker may not register; one of the same id would be replaced.
    pub(crate) fn refusal(&self, info: &WorkerInfo, workers_max: usize) -> Option<String> {
        if let Some(problem) = contradiction(info) {
            return Some(problem);
        }
        let others = || self.workers().map(|(_, w)| w).filter(|w| w.info.id != info.id);
        let limit = workers_max.min(usize::from(Slot::MAX));
        if others().count() >= limit {
            return Some(format!("this coordinator has its {limit} workers already; raise --workers-max"));
        }
        if let Some(other) = others().find(|w| w.info.model == info.model && w.info.fingerprint != info.fingerprint) {
            return Some(format!(
                "{model:?} is the model with fingerprint {theirs} here (worker {id}), but worker {new} has fingerprint \
                 {ours} under that name; serve it under another name, or end the workers of the other one first",
                model = info.model,
                theirs = other.info.fingerprint,
                id = other.info.id,
                new = info.id,
                ours = info.fingerprint,
            ));
        }
        let alike = others().find(|w| w.info.class == info.class && w.info.geometry != info.geometry);
        alike.map(|other| {
            format!(
                "worker {} and worker {} have numerics class {} but keep different caches (layouts {:?} and {:?}); run \
                 the same release on both",
                info.id, other.info.id, info.class, info.geometry.layout, other.info.geometry.layout
            )
        })
    }

    pub(crate) fn insert(&mut self, worker: Worker) -> Slot {
        let slot = self.free.pop_first().unwrap_or(self.slots.len() as Slot);
        if usize::from(slot) == self.slots.len() {
            self.slots.push(None);
        }
        self.connections.insert(worker.connection, slot);
        self.ids.insert(worker.info.id.clone(), slot);
        let fingerprint = worker.info.fingerprint;
        let model = self.models.entry(worker.info.model.clone()).or_insert_with(|| Model {
            fingerprint,
            slots: BTreeSet::new(),
            empty_since: None,
        });
        model.fingerprint = fingerprint;
        model.empty_since = None;
        model.slots.insert(slot);
        self.slots[usize::from(slot)] = Some(worker);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot, now: Duration) -> Option<Worker> {
        let worker = self.slots.get_mut(usize::from(slot))?.take()?;
        self.free.insert(slot);
        self.connections.remove(&worker.connection);
        self.ids.remove(&worker.info.id);
        if let Some(model) = self.models.get_mut(&worker.info.model) {
            model.slots.remove(&slot);
            model.empty_since = model.slots.is_empty().then_some(now);
        }
        Some(worker)
    }

    /// Does not count a time against the workers' silence.
    pub(crate) fn forgive(&mut self, pause: Duration, now: Duration) {
        for worker in self.workers_mut() {
            worker.heard = worker.heard.saturating_add(pause).min(now);
        }
    }

    /// Forgets models that have had no worker since `since`.
    pub(crate) fn forget_models(&mut self, since: Duration) {
        self.models.retain(|_, model| model.empty_since.is_none_or(|empty| empty > since));
    }
}

/// What is wrong with what a worker says of itself.
fn contradiction(info: &WorkerInfo) -> Option<String> {
    let id = &info.id;
    if id.0.is_empty() || id.0.len() > 256 {
        return Some(format!("a worker's id has 1 to 256 bytes; this one has {}", id.0.len()));
    }
    if info.model.is_empty() {
        return Some(format!("worker {id} names no model"));
    }
    if info.address.is_empty() {
        return Some(format!("worker {id} gives no address at which routers reach it"));
    }
    if info.context_tokens == 0 {
        return Some(format!("worker {id} says that its model's context is 0 tokens"));
    }
    plausible(&info.ledger, info.geometry.parts()).err().map(|problem| format!("worker {id}: {problem}"))
}

/// Checks a ledger against the parts that the worker's model has.
fn plausible(ledger: &Ledger, parts: PartSet) -> Result<(), String> {
    let listed: PartSet = ledger.parts.iter().map(|p| p.part).collect();
    if listed != parts || ledger.parts.len() != parts.iter().count() {
        let names = |parts: PartSet| parts.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
        return Err(format!("its ledger has the parts [{}], its geometry [{}]", names(listed), names(parts)));
    }
    for part in &ledger.parts {
        let held = part.pages_free.saturating_add(part.pages_cached);
        if part.pages_total > PLAUSIBLE_MAX || held > part.pages_total {
            return Err(format!(
                "its ledger cannot be true: {} free and {} cached pages of {} in part {}",
                part.pages_free,
                part.pages_cached,
                part.pages_total,
                part.part.name()
            ));
        }
    }
    Ok(())
}
