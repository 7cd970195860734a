//! The core by its behaviour. Workers have an index and a latent part, 100 pages each, unless a test says otherwise.

use hadal_types::{
    CacheChange, CacheEvent, Choice, Encoding, Field, Fingerprint, Geometry, Keep, Layer, LayerId, Ledger,
    NumericsClass, Part, PartLedger, Placement as Rows, Priority, Role, Store, Tier,
};

use super::*;
use crate::event::{Placement, SnapshotBlock};
use crate::policy::{Settings, by_name};

const MODEL: &str = "m";

fn class(n: u8) -> NumericsClass {
    NumericsClass([n; 16])
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
    let layer = Layer { id: LayerId(0), reads: Vec::new(), choice: Choice::None, draft: false };
    Geometry { layout: "l".into(), stores: vec![store(Part::Index), store(Part::Latent)], layers: vec![layer] }
}

fn ledger(total: u64, free: u64, cached: u64) -> Ledger {
    let part = |part| PartLedger { part, page_bytes: 256, pages_total: total, pages_free: free, pages_cached: cached };
    Ledger { parts: Part::ALL.into_iter().map(part).collect(), ..Ledger::default() }
}

fn info(id: &str, role: Role) -> WorkerInfo {
    WorkerInfo {
        id: WorkerId(id.into()),
        incarnation: Incarnation(1),
        role,
        model: MODEL.into(),
        fingerprint: Fingerprint([1; 16]),
        class: class(1),
        geometry: geometry(),
        address: format!("{id}:1"),
        context_tokens: 100_000,
        ledger: ledger(100, 100, 0),
    }
}

fn request(id: &str, prompt_tokens: u32) -> PlaceRequest {
    PlaceRequest {
        request: RequestId::new(id).unwrap(),
        model: MODEL.into(),
        chains: vec![(class(1), chain(id.len() as u8, prompt_tokens / 64))],
        prompt_tokens,
        max_tokens: 64,
        priority: Priority(0),
        tenant: String::new(),
        deadline: None,
        exclude: Vec::new(),
        class: None,
        session: String::new(),
        attempt: 0,
    }
}

/// The hashes of a prompt; prompts of one family begin alike.
fn chain(family: u8, blocks: u32) -> Vec<ChainHash> {
    let hash = |n: u32| {
        let mut bytes = [family; 16];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        ChainHash(bytes)
    };
    (0..blocks).map(hash).collect()
}

/// A core with a clock.
struct Rig {
    core: Core,
    now: Duration,
    connections: u64,
    places: u64,
    beats: u64,
}

impl Rig {
    fn new(config: Config) -> Self {
        Self::with_policy(config, "prefix-affinity")
    }

    fn with_policy(config: Config, policy: &str) -> Self {
        let core = Core::new(config, by_name(policy, &Settings::default()).unwrap());
        Self { core, now: Duration::ZERO, connections: 0, places: 0, beats: 0 }
    }

    /// A rig with these workers, whose caches are known to be empty.
    fn of(workers: &[(&str, Role)]) -> Self {
        let mut rig = Self::new(Config::default());
        for (id, role) in workers {
            rig.join(info(id, *role));
        }
        rig
    }

    fn on(&mut self, event: Event) -> Vec<Command> {
        self.now += Duration::from_millis(1);
        self.core.on(self.now, event)
    }

    /// Lets time pass, with ticks.
    fn after(&mut self, time: Duration) -> Vec<Command> {
        let end = self.now + time;
        let mut commands = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + Duration::from_millis(100));
            commands.extend(self.core.on(self.now, Event::Tick));
        }
        commands
    }

    fn register(&mut self, info: WorkerInfo) -> (ConnectionId, Vec<Command>) {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        (connection, self.on(Event::Registered { connection, worker: Box::new(info) }))
    }

    fn join(&mut self, info: WorkerInfo) -> ConnectionId {
        let (connection, commands) = self.register(info);
        assert!(commands.contains(&Command::Accept { connection }), "{commands:?}");
        self.snapshot(connection, 0, &[], (true, true));
        connection
    }

    fn snapshot(
        &mut self,
        connection: ConnectionId,
        sequence: u64,
        blocks: &[ChainHash],
        (first, last): (bool, bool),
    ) -> Vec<Command> {
        let parts = geometry().parts();
        let blocks = blocks.iter().map(|hash| SnapshotBlock { hash: *hash, parts, tier: Tier::Device }).collect();
        let chunk = SnapshotChunk { incarnation: Incarnation(1), sequence, blocks, first, last };
        self.on(Event::CacheSnapshot { connection, chunk })
    }

    fn stored(&mut self, connection: ConnectionId, from: u64, blocks: &[ChainHash]) -> Vec<Command> {
        let event = |(sequence, hash): (u64, &ChainHash)| CacheEvent {
            incarnation: Incarnation(1),
            sequence,
            hash: *hash,
            change: CacheChange::Stored,
            parts: geometry().parts(),
            tier: Tier::Device,
        };
        self.on(Event::CacheEvents { connection, events: (from..).zip(blocks).map(event).collect() })
    }

    fn beat(&mut self, connection: ConnectionId, ledger: Ledger, requests: &[&str]) -> Vec<Command> {
        self.beats += 1;
        let heartbeat = Heartbeat {
            sequence: self.beats,
            ledger,
            requests: requests.iter().map(|r| RequestId::new(*r).unwrap()).collect(),
            draining: false,
            prefill_tokens_queued: 0,
        };
        self.on(Event::Heartbeat { connection, heartbeat })
    }

    fn ask(&mut self, request: PlaceRequest) -> (PlaceId, Vec<Command>) {
        self.places += 1;
        let place = PlaceId(self.places);
        (place, self.on(Event::Place { place, request: Box::new(request) }))
    }

    fn place(&mut self, request: PlaceRequest) -> Option<Answer> {
        let (place, commands) = self.ask(request);
        answer(place, &commands)
    }

    fn placed(&mut self, request: PlaceRequest) -> Placement {
        match self.place(request) {
            Some(Answer::Placed(placement)) => placement,
            other => panic!("not placed: {other:?}"),
        }
    }

    fn refused(&mut self, request: PlaceRequest) -> Refusal {
        match self.place(request) {
            Some(Answer::Refused(refusal)) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn answer(place: PlaceId, commands: &[Command]) -> Option<Answer> {
    commands.iter().find_map(|command| match command {
        Command::Answer { place: p, answer } if *p == place => Some(answer.clone()),
        _ => None,
    })
}

fn decode_of(answer: Option<Answer>) -> Option<String> {
    match answer {
        Some(Answer::Placed(placement)) => Some(placement.decode.worker.0),
        _ => None,
    }
}

fn names(placement: &Placement) -> (&str, Option<&str>) {
    (&placement.decode.worker.0, placement.prefill.as_ref().map(|p| p.worker.0.as_str()))
}

mod membership;
mod placement;
mod queueing;
