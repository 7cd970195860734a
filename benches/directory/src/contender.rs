//! The directories that are compared, behind one interface.

use std::sync::Arc;
use std::thread::JoinHandle;

use dynamo_kv_router::indexer::{SyncIndexer, WorkerTask};
use dynamo_kv_router::nested_map::{LevelIndex, SearchMode};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, OverlapScores, RouterEvent, WorkerWithDpRank,
};
use dynamo_kv_router::{ConcurrentRadixTreeCompressed, LocalBlockHash, PositionalIndexer, RadixTree};
use hadal_coordinator_core::directory::{Change, Directory};
use hadal_types::{CacheChange, ChainHash, Part, PartSet, Tier};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::stream::{Op, Round, Session};

/// A directory of cached blocks. What a round needs in a contender's own types is made before the clock starts.
pub trait Contender {
    fn name(&self) -> &'static str;
    fn prepare(&mut self, round: &Round);
    /// Asks for every prompt; a sum over (worker, blocks) that must be the same for all.
    fn lookups(&mut self) -> u64;
    fn changes(&mut self);
}

fn term(worker: u64, blocks: u32) -> u64 {
    (worker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(u64::from(blocks))
}

#[derive(Default)]
pub struct Ours {
    directory: Directory,
    lookups: Vec<Vec<ChainHash>>,
    changes: Vec<(u16, Vec<ChainHash>, CacheChange)>,
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        "hadal"
    }

    fn prepare(&mut self, round: &Round) {
        self.lookups = round.lookups.iter().map(|(session, length)| session.chain[..*length].to_vec()).collect();
        self.changes = round
            .changes
            .iter()
            .map(|op| match op {
                Op::Store { worker, session, from, to } => {
                    (*worker as u16, session.chain[*from..*to].to_vec(), CacheChange::Stored)
                }
                Op::Remove { worker, session, from, to } => {
                    (*worker as u16, session.chain[*from..*to].iter().rev().copied().collect(), CacheChange::Dropped)
                }
            })
            .collect();
    }

    fn lookups(&mut self) -> u64 {
        let all: PartSet = Part::ALL.into_iter().collect();
        let mut sum = 0u64;
        for chain in &self.lookups {
            for found in self.directory.matches(chain) {
                sum = sum.wrapping_add(term(u64::from(found.slot), found.blocks(all)));
            }
        }
        sum
    }

    fn changes(&mut self) {
        let parts: PartSet = Part::ALL.into_iter().collect();
        for (slot, hashes, change) in &self.changes {
            self.directory.apply(*slot, hashes, |hash| Change {
                hash: *hash,
                change: *change,
                parts,
                tier: Tier::Device,
            });
        }
    }
}

fn stored(worker: usize, session: &Session, from: usize, to: usize) -> RouterEvent {
    let block = |n: usize| KvCacheStoredBlockData {
        block_hash: ExternalSequenceBlockHash(session.sequence[n]),
        tokens_hash: session.local[n],
        mm_extra_info: None,
    };
    let data = KvCacheEventData::Stored(KvCacheStoreData {
        parent_hash: from.checked_sub(1).map(|n| ExternalSequenceBlockHash(session.sequence[n])),
        start_position: Some(from as u32),
        blocks: (from..to).map(block).collect(),
    });
    RouterEvent::new(worker as u64, KvCacheEvent { event_id: 0, data, dp_rank: 0 })
}

fn removed(worker: usize, session: &Session, from: usize, to: usize) -> RouterEvent {
    let block_hashes = (from..to).rev().map(|n| ExternalSequenceBlockHash(session.sequence[n])).collect();
    let data = KvCacheEventData::Removed(KvCacheRemoveData { block_hashes });
    RouterEvent::new(worker as u64, KvCacheEvent { event_id: 0, data, dp_rank: 0 })
}

fn event(op: &Op) -> RouterEvent {
    match op {
        Op::Store { worker, session, from, to } => stored(*worker, session, *from, *to),
        Op::Remove { worker, session, from, to } => removed(*worker, session, *from, *to),
    }
}

fn sum(scores: &OverlapScores) -> u64 {
    scores.scores.iter().fold(0, |sum, (worker, blocks)| sum.wrapping_add(term(worker.worker_id, *blocks)))
}

/// What every directory of the peer takes.
#[derive(Default)]
struct Theirs {
    lookups: Vec<Vec<LocalBlockHash>>,
    changes: Vec<RouterEvent>,
}

impl Theirs {
    fn prepare(&mut self, round: &Round) {
        self.lookups = round.lookups.iter().map(|(session, length)| session.local[..*length].to_vec()).collect();
        self.changes = round.changes.iter().map(event).collect();
    }
}

#[derive(Default)]
pub struct Radix {
    tree: RadixTree,
    round: Theirs,
}

impl Contender for Radix {
    fn name(&self) -> &'static str {
        "dynamo RadixTree"
    }

    fn prepare(&mut self, round: &Round) {
        self.round.prepare(round);
    }

    fn lookups(&mut self) -> u64 {
        let lookups = std::mem::take(&mut self.round.lookups);
        lookups.into_iter().fold(0, |total, chain| total.wrapping_add(sum(&self.tree.find_matches(chain, false))))
    }

    fn changes(&mut self) {
        for event in self.round.changes.drain(..) {
            self.tree.apply_event(event).expect("a valid event");
        }
    }
}

pub struct Positional {
    index: PositionalIndexer,
    blocks: FxHashMap<WorkerWithDpRank, LevelIndex>,
    round: Theirs,
    name: &'static str,
}

impl Positional {
    pub fn new(mode: SearchMode) -> Self {
        let name = if mode == SearchMode::Binary { "dynamo Positional, binary" } else { "dynamo Positional, strided" };
        Self {
            index: PositionalIndexer::new_with_mode(32, mode),
            blocks: FxHashMap::default(),
            round: Theirs::default(),
            name,
        }
    }
}

impl Contender for Positional {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prepare(&mut self, round: &Round) {
        self.round.prepare(round);
    }

    fn lookups(&mut self) -> u64 {
        self.round
            .lookups
            .iter()
            .fold(0, |total, chain| total.wrapping_add(sum(&self.index.find_matches(chain, false))))
    }

    fn changes(&mut self) {
        for event in self.round.changes.drain(..) {
            self.index.apply_event(&mut self.blocks, event, None).expect("a valid event");
        }
    }
}

/// Takes changes on a thread of its own only; the process's CPU time is counted for all, and this one waits meanwhile.
pub struct Compressed {
    tree: Arc<ConcurrentRadixTreeCompressed>,
    tasks: Option<flume::Sender<WorkerTask>>,
    thread: Option<JoinHandle<()>>,
    round: Theirs,
}

impl Compressed {
    pub fn new() -> Self {
        let tree = Arc::new(ConcurrentRadixTreeCompressed::new());
        let (tasks, receiver) = flume::unbounded();
        let worker = tree.clone();
        let thread = std::thread::spawn(move || worker.worker(receiver, None).expect("the indexer's thread"));
        Self { tree, tasks: Some(tasks), thread: Some(thread), round: Theirs::default() }
    }
}

impl Contender for Compressed {
    fn name(&self) -> &'static str {
        "dynamo ConcurrentRadixTreeCompressed"
    }

    fn prepare(&mut self, round: &Round) {
        self.round.prepare(round);
    }

    fn lookups(&mut self) -> u64 {
        self.round.lookups.iter().fold(0, |total, chain| total.wrapping_add(sum(&self.tree.find_matches(chain, false))))
    }

    fn changes(&mut self) {
        let Some(tasks) = &self.tasks else { return };
        for event in self.round.changes.drain(..) {
            tasks.send(WorkerTask::Event(event)).expect("the indexer's thread");
        }
        let (done, wait) = oneshot::channel();
        tasks.send(WorkerTask::Flush(done)).expect("the indexer's thread");
        wait.blocking_recv().expect("the indexer's thread");
    }
}

impl Drop for Compressed {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the indexer's thread");
        }
    }
}
