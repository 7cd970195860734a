//! What the core should believe, in the plainest way: a map for each worker, a list of placements, no sums.

use std::collections::BTreeMap;
use std::time::Duration;

use hadal_coordinator_core::{ConnectionId, PlaceId, PlaceRequest, SnapshotChunk};
use hadal_types::{CacheChange, CacheEvent, ChainHash, Ledger, PartSet, RequestId, Role, blocks_for};

/// Where following a worker's cache stands.
#[derive(Default)]
pub(crate) enum Follow {
    #[default]
    Wanted,
    Reading(u64, Vec<CacheEvent>),
    Live(u64),
}

/// What a placement takes of a worker.
pub(crate) struct Taken {
    pub(crate) place: PlaceId,
    pub(crate) request: RequestId,
    pub(crate) blocks: u64,
    pub(crate) until: Duration,
}

/// A registered worker.
pub(crate) struct Worker {
    pub(crate) name: usize,
    pub(crate) incarnation: u64,
    pub(crate) role: Role,
    pub(crate) ledger: Ledger,
    pub(crate) draining: bool,
    pub(crate) taken: Vec<Taken>,
    pub(crate) cache: BTreeMap<ChainHash, PartSet>,
    pub(crate) follow: Follow,
}

impl Worker {
    pub(crate) fn new(name: usize, incarnation: u64, role: Role, ledger: Ledger) -> Self {
        let (draining, taken, cache, follow) = (false, Vec::new(), BTreeMap::new(), Follow::Wanted);
        Self { name, incarnation, role, ledger, draining, taken, cache, follow }
    }

    fn apply(&mut self, hash: ChainHash, change: CacheChange, parts: PartSet) {
        let held = self.cache.get(&hash).copied().unwrap_or(PartSet::EMPTY);
        let now = match change {
            CacheChange::Stored => PartSet::from_bits(held.bits() | parts.bits()),
            CacheChange::Dropped => held.without(parts),
        };
        if now.is_empty() {
            self.cache.remove(&hash);
        } else {
            self.cache.insert(hash, now);
        }
    }

    /// Takes an event in; false when it shows a gap.
    pub(crate) fn event(&mut self, event: &CacheEvent) {
        match &mut self.follow {
            _ if event.incarnation.0 != self.incarnation => {}
            Follow::Wanted => {}
            Follow::Reading(_, kept) => kept.push(*event),
            Follow::Live(next) if event.sequence == *next => {
                *next += 1;
                self.apply(event.hash, event.change, event.parts);
            }
            Follow::Live(next) if event.sequence > *next => {
                self.cache.clear();
                self.follow = Follow::Wanted;
            }
            Follow::Live(_) => {}
        }
    }

    pub(crate) fn chunk(&mut self, chunk: &SnapshotChunk) {
        if chunk.incarnation.0 != self.incarnation {
            return;
        }
        if chunk.first {
            self.cache.clear();
            self.follow = Follow::Reading(chunk.sequence, Vec::new());
        }
        let Follow::Reading(sequence, kept) = &mut self.follow else { return };
        if *sequence != chunk.sequence {
            self.cache.clear();
            self.follow = Follow::Wanted;
            return;
        }
        let kept = std::mem::take(kept);
        for block in &chunk.blocks {
            self.apply(block.hash, CacheChange::Stored, block.parts);
        }
        if chunk.last {
            self.follow = Follow::Live(chunk.sequence + 1);
            kept.iter().for_each(|event| self.event(event));
        } else {
            self.follow = Follow::Reading(chunk.sequence, kept);
        }
    }

    /// Leading blocks of a chain that are held with all parts.
    fn matched(&self, chain: &[ChainHash]) -> u64 {
        let all = PartSet::from_bits(3);
        chain.iter().take_while(|hash| self.cache.get(hash).is_some_and(|p| p.contains_all(all))).count() as u64
    }

    /// What a request of so many blocks would take of this worker.
    pub(crate) fn cost(&self, request: &PlaceRequest, blocks: u64) -> u64 {
        let matched = self.matched(&request.chains[0].1);
        let worst = |p: &hadal_types::PartLedger| blocks.saturating_sub(matched.saturating_sub(p.pages_cached));
        self.ledger.parts.iter().map(worst).max().unwrap()
    }

    pub(crate) fn room(&self) -> u64 {
        let available = self.ledger.parts.iter().map(|p| p.pages_free + p.pages_cached).min().unwrap();
        available.saturating_sub(self.taken.iter().map(|t| t.blocks).sum())
    }
}

/// The fleet and the requests that wait.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) workers: BTreeMap<ConnectionId, Worker>,
    pub(crate) waiting: BTreeMap<PlaceId, (PlaceRequest, Duration)>,
}

/// Blocks that the worker that owns a request needs at first; the growth window is the core's default.
pub(crate) fn blocks_owned(request: &PlaceRequest) -> u64 {
    blocks_for(u64::from(request.prompt_tokens) + u64::from(request.max_tokens.min(256)))
}

impl Model {
    pub(crate) fn by_name(&self, name: usize) -> Option<ConnectionId> {
        self.workers.iter().find(|(_, w)| w.name == name).map(|(connection, _)| *connection)
    }

    /// Ends leases that are over.
    pub(crate) fn expire(&mut self, now: Duration) {
        for worker in self.workers.values_mut() {
            worker.taken.retain(|t| t.until > now);
        }
    }

    pub(crate) fn release(&mut self, gone: impl Fn(usize, &Taken) -> bool) {
        for worker in self.workers.values_mut() {
            let name = worker.name;
            worker.taken.retain(|t| !gone(name, t));
        }
    }

    /// The longest sequence that some worker could own.
    pub(crate) fn tokens_max(&self) -> Option<u64> {
        self.workers.values().filter(|w| w.role.decodes()).map(|w| w.ledger.tokens_max()).max()
    }
}
