//! Workers whose caches are closed under prefixes, a network that loses, doubles and reorders what they send, and the
//! laws, checked after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::{
    Answer, Command, Config, ConnectionId, Core, Event, Heartbeat, Leg, PlaceId, PlaceRequest, Placement, RefusalKind,
    SnapshotBlock, SnapshotChunk, WorkerInfo, policy,
};
use hadal_types::{
    CacheChange, CacheEvent, ChainHash, Encoding, Field, Fingerprint, Geometry, Incarnation, Keep, LayerId, Ledger,
    NumericsClass, Part, PartLedger, PartSet, Placement as Rows, Priority, RequestId, Role, Store, Tier, WorkerId,
    blocks_for,
};
use proptest::sample::Index;

use super::model::{Follow, Model, Taken, Worker, blocks_owned};

/// One thing that happens. A `fate` is what the network does to a message: 0 to 2 delivers it, 3 doubles, 4 loses it.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Register {
        worker: usize,
        reborn: bool,
    },
    Lose {
        worker: usize,
    },
    Leave {
        worker: usize,
    },
    Heartbeat {
        worker: usize,
        free: u64,
        cached: u64,
        named: usize,
        stale: bool,
    },
    Store {
        worker: usize,
        family: u8,
        fate: u8,
    },
    Evict {
        worker: usize,
        family: u8,
        fate: u8,
    },
    Snapshot {
        worker: usize,
        pieces: usize,
        whole: bool,
    },
    /// Messages of an earlier life, and over a connection that nobody has.
    Stray {
        worker: usize,
    },
    Place {
        prompt: u32,
        max: u32,
        family: u8,
        priority: i32,
        exclude: u8,
        deadline: Option<u64>,
    },
    Cancel(Index),
    Tick(u64),
}

const ROLES: [Role; 5] = [Role::Prefill, Role::Decode, Role::Decode, Role::Mixed, Role::Prefill];
const CLASS: NumericsClass = NumericsClass([1; 16]);
const PAGES: u64 = 24;

/// A worker as it is, whatever the core believes.
#[derive(Default)]
struct Real {
    connection: Option<ConnectionId>,
    incarnation: u64,
    beats: u64,
    sequence: u64,
    /// Leading blocks of each family, and whether the last of them has lost its latents.
    held: BTreeMap<u8, (u32, bool)>,
}

pub(super) struct World {
    core: Core,
    model: Model,
    now: Duration,
    reals: Vec<Real>,
    connections: u64,
    places: u64,
    answered: BTreeSet<PlaceId>,
    cancelled: BTreeSet<PlaceId>,
    pub(super) commands: Vec<Command>,
}

fn block(family: u8, n: u32) -> ChainHash {
    let mut bytes = [family; 16];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    ChainHash(bytes)
}

fn all() -> PartSet {
    Part::ALL.into_iter().collect()
}

fn geometry() -> Geometry {
    let store = |part| Store {
        owner: LayerId(0),
        part,
        stride: 1,
        record: vec![Field { name: "row".into(), encoding: Encoding::F32, count: 1 }],
        placement: Rows::PerRow,
        keep: Keep::All,
    };
    Geometry { layout: "l".into(), stores: Part::ALL.into_iter().map(store).collect(), layers: Vec::new() }
}

/// A ledger whose parts differ: the index part has what the latent part has and a little more.
fn ledger(free: u64, cached: u64) -> Ledger {
    let cached = cached.min(PAGES - free.min(PAGES));
    let part = |part, more| PartLedger {
        part,
        page_bytes: 256,
        pages_total: PAGES + more,
        pages_free: free.min(PAGES) + more,
        pages_cached: cached,
    };
    Ledger { parts: vec![part(Part::Index, 2), part(Part::Latent, 0)], ..Ledger::default() }
}

impl World {
    pub(super) fn new(policy: usize) -> Self {
        let policy = policy::by_name(policy::names()[policy], &policy::Settings::default()).unwrap();
        Self {
            core: Core::new(Config { queue_max: 8, ..Config::default() }, policy),
            model: Model::default(),
            now: Duration::ZERO,
            reals: (0..ROLES.len()).map(|_| Real::default()).collect(),
            connections: 0,
            places: 0,
            answered: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            commands: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        self.now += Duration::from_millis(1);
        match *op {
            Op::Register { worker, reborn } => self.register(worker, reborn),
            Op::Lose { worker } => {
                let Some(connection) = self.reals[worker].connection.take() else { return };
                self.model.workers.remove(&connection);
                self.send(Event::WorkerLost { connection });
            }
            Op::Leave { worker } => {
                let Some(connection) = self.reals[worker].connection else { return };
                if let Some(worker) = self.model.workers.get_mut(&connection) {
                    worker.draining = true;
                }
                self.send(Event::Leaving { connection });
            }
            Op::Heartbeat { worker, free, cached, named, stale } => {
                self.heartbeat(worker, ledger(free, cached), named, stale);
            }
            Op::Store { worker, family, fate } => self.store(worker, family, fate),
            Op::Evict { worker, family, fate } => self.evict(worker, family, fate),
            Op::Snapshot { worker, pieces, whole } => self.snapshot(worker, pieces, whole),
            Op::Stray { worker } => self.stray(worker),
            Op::Place { prompt, max, family, priority, exclude, deadline } => {
                let request = self.request(prompt, max, family, (priority, exclude, deadline));
                self.place(request);
            }
            Op::Cancel(index) => {
                if self.places > 0 {
                    // A deadline that has passed is answered before the call is given up.
                    self.send(Event::Tick);
                    let place = PlaceId(index.index(self.places as usize) as u64);
                    self.model.waiting.remove(&place);
                    self.model.release(|_, t| t.place == place);
                    self.cancelled.insert(place);
                    self.send(Event::PlaceCancelled { place });
                }
            }
            Op::Tick(millis) => {
                self.now += Duration::from_millis(millis);
                self.send(Event::Tick);
            }
        }
    }

    /// Every request that still waits is answered by a drain.
    pub(super) fn finish(&mut self) {
        self.send(Event::Drain);
        assert!(self.model.waiting.is_empty(), "{} requests were never answered", self.model.waiting.len());
        assert_eq!(self.core.queued(), 0);
    }

    fn register(&mut self, worker: usize, reborn: bool) {
        let real = &mut self.reals[worker];
        if reborn || real.incarnation == 0 {
            *real = Real { incarnation: real.incarnation + 1, ..Real::default() };
        }
        real.beats = 0;
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        real.connection = Some(connection);
        let info = WorkerInfo {
            id: WorkerId(worker.to_string()),
            incarnation: Incarnation(real.incarnation),
            role: ROLES[worker],
            model: "m".into(),
            fingerprint: Fingerprint([1; 16]),
            class: CLASS,
            geometry: geometry(),
            address: format!("{worker}:1"),
            context_tokens: 1 << 20,
            ledger: ledger(PAGES, 0),
        };
        if let Some(old) = self.model.by_name(worker) {
            self.model.workers.remove(&old);
        }
        let incarnation = self.reals[worker].incarnation;
        let new = Worker::new(worker, incarnation, ROLES[worker], ledger(PAGES, 0));
        self.model.workers.insert(connection, new);
        self.send(Event::Registered { connection, worker: Box::new(info) });
    }

    fn heartbeat(&mut self, worker: usize, ledger: Ledger, named: usize, stale: bool) {
        let Some(connection) = self.reals[worker].connection else { return };
        let stale = stale && self.reals[worker].beats > 0;
        self.reals[worker].beats += u64::from(!stale);
        let mut requests = vec![RequestId::new("other").unwrap()];
        if let Some(believed) = self.model.workers.get_mut(&connection) {
            requests.extend(believed.taken.iter().map(|t| t.request.clone()).take(named));
            if !stale {
                believed.taken.retain(|t| !requests.contains(&t.request));
                believed.ledger = ledger.clone();
            }
        }
        let sequence = self.reals[worker].beats;
        let heartbeat = Heartbeat { sequence, ledger, requests, draining: false, prefill_tokens_queued: 0 };
        self.send(Event::Heartbeat { connection, heartbeat });
    }

    fn store(&mut self, worker: usize, family: u8, fate: u8) {
        // A worker holds no more than it has pages for.
        if self.reals[worker].held.values().map(|(count, _)| u64::from(*count)).sum::<u64>() == PAGES {
            return;
        }
        let held = self.reals[worker].held.entry(family).or_default();
        // Latents that are gone come back before a child is stored.
        let n = if held.1 { held.0 - 1 } else { held.0 };
        *held = (n + 1, false);
        self.change(worker, block(family, n), (CacheChange::Stored, all()), fate);
    }

    fn evict(&mut self, worker: usize, family: u8, fate: u8) {
        let Some(held) = self.reals[worker].held.get_mut(&family).filter(|held| held.0 > 0) else { return };
        let n = held.0 - 1;
        let latents = PartSet::EMPTY.with(Part::Latent);
        let parts = if held.1 { all().without(latents) } else { latents };
        *held = if held.1 { (n, false) } else { (n + 1, true) };
        self.change(worker, block(family, n), (CacheChange::Dropped, parts), fate);
    }

    fn change(&mut self, worker: usize, hash: ChainHash, (change, parts): (CacheChange, PartSet), fate: u8) {
        let real = &mut self.reals[worker];
        real.sequence += 1;
        let (incarnation, sequence, tier) = (Incarnation(real.incarnation), real.sequence, Tier::Device);
        let event = CacheEvent { incarnation, sequence, hash, change, parts, tier };
        let Some(connection) = real.connection.filter(|_| fate < 4) else { return };
        for _ in 0..if fate == 3 { 2 } else { 1 } {
            if let Some(believed) = self.model.workers.get_mut(&connection) {
                believed.event(&event);
            }
            self.send(Event::CacheEvents { connection, events: vec![event] });
        }
    }

    /// Sends all blocks in some pieces; not whole when the last piece is lost.
    fn snapshot(&mut self, worker: usize, pieces: usize, whole: bool) {
        let real = &self.reals[worker];
        let Some(connection) = real.connection else { return };
        let (incarnation, sequence) = (Incarnation(real.incarnation), real.sequence);
        let mut blocks = Vec::new();
        for (family, (count, bare)) in &real.held {
            for n in 0..*count {
                let parts = if *bare && n + 1 == *count { PartSet::EMPTY.with(Part::Index) } else { all() };
                blocks.push(SnapshotBlock { hash: block(*family, n), parts, tier: Tier::Device });
            }
        }
        let size = blocks.len().div_ceil(pieces).max(1);
        let mut chunks: Vec<Vec<SnapshotBlock>> = blocks.chunks(size).map(<[_]>::to_vec).collect();
        chunks.resize_with(pieces, Vec::new);
        for (n, blocks) in chunks.into_iter().enumerate() {
            let (first, last) = (n == 0, n + 1 == pieces);
            if last && !whole && pieces > 1 {
                break;
            }
            let chunk = SnapshotChunk { incarnation, sequence, blocks, first, last };
            if let Some(believed) = self.model.workers.get_mut(&connection) {
                believed.chunk(&chunk);
            }
            self.send(Event::CacheSnapshot { connection, chunk });
            if !last {
                // The cache goes on changing between the pieces.
                self.evict(worker, 0, 0);
                self.store(worker, 1, 0);
            }
        }
    }

    fn stray(&mut self, worker: usize) {
        let (incarnation, hash, parts, tier) = (Incarnation(u64::MAX), block(0, 0), all(), Tier::Device);
        let event = CacheEvent { incarnation, sequence: 1, hash, change: CacheChange::Stored, parts, tier };
        for connection in [self.reals[worker].connection, Some(ConnectionId(u64::MAX))].into_iter().flatten() {
            self.send(Event::CacheEvents { connection, events: vec![event] });
        }
        let connection = ConnectionId(u64::MAX);
        let requests = vec![RequestId::new("r0").unwrap()];
        let ledger = ledger(PAGES, 0);
        let heartbeat = Heartbeat { sequence: 1, ledger, requests, draining: false, prefill_tokens_queued: 0 };
        self.send(Event::Heartbeat { connection, heartbeat });
        self.send(Event::WorkerLost { connection });
    }

    fn request(&self, prompt: u32, max: u32, family: u8, rest: (i32, u8, Option<u64>)) -> PlaceRequest {
        let (priority, exclude, deadline) = rest;
        let excluded = |n: &usize| exclude & 1 << n != 0;
        PlaceRequest {
            // Few names, so that requests are placed again under theirs.
            request: RequestId::new(format!("r{}", self.places % 16)).unwrap(),
            model: "m".into(),
            chains: vec![(CLASS, (0..prompt / 64).map(|n| block(family, n)).collect())],
            prompt_tokens: prompt,
            max_tokens: max,
            priority: Priority(priority),
            tenant: String::new(),
            deadline: deadline.map(|ms| self.now + Duration::from_millis(ms)),
            exclude: (0..ROLES.len()).filter(excluded).map(|n| WorkerId(n.to_string())).collect(),
            class: None,
            session: String::new(),
            attempt: 0,
        }
    }

    fn place(&mut self, request: PlaceRequest) {
        let place = PlaceId(self.places);
        self.places += 1;
        let excluded = |name: usize| request.exclude.contains(&WorkerId(name.to_string()));
        self.model.release(|name, t| excluded(name) && t.request == request.request);
        self.model.waiting.insert(place, (request.clone(), self.now));
        self.send(Event::Place { place, request: Box::new(request) });
    }

    /// Has the core take an event in, and checks everything.
    fn send(&mut self, event: Event) {
        self.model.expire(self.now);
        let is_tick = matches!(event, Event::Tick);
        let commands = self.core.on(self.now, event);
        for command in &commands {
            match command {
                Command::Answer { place, answer } => self.answered(*place, answer),
                Command::Disconnect { connection, .. } => {
                    self.model.workers.remove(connection);
                }
                Command::RefuseWorker { reason, .. } => panic!("a worker was refused: {reason}"),
                Command::SnapshotWanted { connection } => {
                    let worker = self.model.workers.get_mut(connection).expect("a registered worker");
                    // Asked for again after a while, or since the model, too, has seen a reason.
                    if is_tick {
                        worker.cache.clear();
                    }
                    assert!(is_tick || matches!(worker.follow, Follow::Wanted), "a snapshot asked for without reason");
                    worker.follow = Follow::Wanted;
                }
                Command::Accept { .. } | Command::FleetChanged { .. } => {}
            }
        }
        self.commands.extend(commands);
        self.check_directory();
        self.check_waiting();
    }

    fn answered(&mut self, place: PlaceId, answer: &Answer) {
        assert!(self.answered.insert(place), "{place:?} was answered twice");
        assert!(!self.cancelled.contains(&place), "{place:?} was answered after it was cancelled");
        let (request, _) = self.model.waiting.remove(&place).expect("an answer to what was asked");
        match answer {
            Answer::Placed(placement) => self.placed(place, &request, placement),
            Answer::Refused(refusal) if refusal.kind == RefusalKind::TooLong => {
                let total = u64::from(request.prompt_tokens) + u64::from(request.max_tokens);
                assert!(self.model.tokens_max().is_some_and(|most| total > most), "{refusal:?}");
            }
            Answer::Refused(_) => {}
        }
    }

    fn placed(&mut self, place: PlaceId, request: &PlaceRequest, placement: &Placement) {
        let until = self.now + placement.lease;
        self.take(&placement.decode, place, request, (blocks_owned(request), until));
        assert!(self.model.workers[&placement.decode.connection].role.decodes());
        if let Some(prefill) = &placement.prefill {
            self.take(prefill, place, request, (blocks_for(u64::from(request.prompt_tokens)), until));
            assert!(self.model.workers[&prefill.connection].role.prefills());
            assert_ne!(prefill.worker, placement.decode.worker);
            assert!(!request.exclude.contains(&prefill.worker), "prefill on an excluded worker");
        }
    }

    fn take(&mut self, leg: &Leg, place: PlaceId, request: &PlaceRequest, (blocks, until): (u64, Duration)) {
        let worker = self.model.workers.get_mut(&leg.connection).expect("a registered worker");
        assert_eq!(leg.incarnation.0, worker.incarnation);
        assert!(!worker.draining, "placed on a draining worker");
        let cost = worker.cost(request, blocks);
        assert!(cost <= worker.room(), "{cost} blocks placed where {} are free", worker.room());
        worker.taken.push(Taken { place, request: request.request.clone(), blocks: cost, until });
    }

    fn check_directory(&self) {
        let believed = |w: &Worker| w.cache.len();
        assert_eq!(self.core.blocks(), self.model.workers.values().map(believed).sum::<usize>());
        let held: BTreeSet<ChainHash> = self.model.workers.values().flat_map(|w| w.cache.keys().copied()).collect();
        for hash in held {
            let holders: BTreeMap<String, PartSet> =
                self.core.holders(hash).map(|(worker, parts)| (worker.0.clone(), parts)).collect();
            let expected = |w: &Worker| Some((w.name.to_string(), *w.cache.get(&hash)?));
            assert_eq!(holders, self.model.workers.values().filter_map(expected).collect());
        }
    }

    /// A short request that waits alone fits nowhere, or may go nowhere.
    fn check_waiting(&self) {
        assert_eq!(self.core.queued(), self.model.waiting.len());
        let mut waiting = self.model.waiting.values();
        let (Some((request, _)), None) = (waiting.next(), waiting.next()) else { return };
        if request.prompt_tokens > 64 {
            return;
        }
        for worker in self.model.workers.values().filter(|w| w.role.decodes() && !w.draining) {
            let excluded = request.exclude.contains(&WorkerId(worker.name.to_string()));
            let fits = worker.cost(request, blocks_owned(request)) <= worker.room();
            assert!(excluded || !fits, "worker {} has room for the one request that waits", worker.name);
        }
    }
}
