//! What the core should believe, in the plainest way: a map for each worker, a list of placements, no sums.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{ConnectionId, PlaceId, PlaceRequest, SnapshotChunk};
use hadal_types::{CacheChange, CacheEvent, ChainHash, Ledger, PartSet, RequestId, Role, blocks_for};

/// Where following a worker's cache stands.
#[derive(Default)]
pub(super) enum Follow {
    #[default]
    Wanted,
    Reading(u64, Vec<CacheEvent>),
    Live(u64),
}

/// What a placement takes of a worker.
pub(super) struct Taken {
    pub(super) place: PlaceId,
    pub(super) request: RequestId,
    pub(super) blocks: u64,
    pub(super) until: Duration,
}

/// A registered worker.
pub(super) struct Worker {
    pub(super) name: usize,
    pub(super) incarnation: u64,
    pub(super) role: Role,
    pub(super) ledger: Ledger,
    pub(super) draining: bool,
    pub(super) taken: Vec<Taken>,
    pub(super) cache: BTreeMap<ChainHash, PartSet>,
    pub(super) follow: Follow,
}

impl Worker {
    pub(super) fn new(name: usize, incarnation: u64, role: Role, ledger: Ledger) -> Self {
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
    pub(super) fn event(&mut self, event: &CacheEvent) {
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

    pub(super) fn chunk(&mut self, chunk: &SnapshotChunk) {
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
    pub(super) fn cost(&self, request: &PlaceRequest, blocks: u64) -> u64 {
        let matched = self.matched(&request.chains[0].1);
        let worst = |p: &hadal_types::PartLedger| blocks.saturating_sub(matched.saturating_sub(p.pages_cached));
        self.ledger.parts.iter().map(worst).max().unwrap()
    }

    pub(super) fn room(&self) -> u64 {
        let available = self.ledger.parts.iter().map(|p| p.pages_free + p.pages_cached).min().unwrap();
        available.saturating_sub(self.taken.iter().map(|t| t.blocks).sum())
    }
}

/// The fleet and the requests that wait.
#[derive(Default)]
pub(super) struct Model {
    pub(super) workers: BTreeMap<ConnectionId, Worker>,
    pub(super) waiting: BTreeMap<PlaceId, (PlaceRequest, Duration)>,
}

/// Blocks that the worker that owns a request needs at first; the growth window is the core's default.
pub(super) fn blocks_owned(request: &PlaceRequest) -> u64 {
    blocks_for(u64::from(request.prompt_tokens) + u64::from(request.max_tokens.min(256)))
}

impl Model {
    pub(super) fn by_name(&self, name: usize) -> Option<ConnectionId> {
        self.workers.iter().find(|(_, w)| w.name == name).map(|(connection, _)| *connection)
    }

    /// Ends leases that are over.
    pub(super) fn expire(&mut self, now: Duration) {
        for worker in self.workers.values_mut() {
            worker.taken.retain(|t| t.until > now);
        }
    }

    pub(super) fn release(&mut self, gone: impl Fn(usize, &Taken) -> bool) {
        for worker in self.workers.values_mut() {
            let name = worker.name;
            worker.taken.retain(|t| !gone(name, t));
        }
    }

    /// The longest sequence that some worker could own.
    pub(super) fn tokens_max(&self) -> Option<u64> {
        self.workers.values().filter(|w| w.role.decodes()).map(|w| w.ledger.tokens_max()).max()
    }
}
