//! What goes into the core and what comes out.

use std::time::Duration;

use hadal_types::{
    CacheEvent, ChainHash, Fingerprint, Geometry, Incarnation, Ledger, NumericsClass, PartSet, Priority, RequestId,
    Role, Tier, WorkerId,
};

/// One connection of a worker, numbered by the shell; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One call of Place, numbered by the shell; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceId(pub u64);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker has said who it is.
    Registered {
        /// Its connection.
        connection: ConnectionId,
        /// Who it is.
        worker: Box<WorkerInfo>,
    },
    /// A worker is alive and tells what it holds.
    Heartbeat {
        /// Its connection.
        connection: ConnectionId,
        /// What it tells.
        heartbeat: Heartbeat,
    },
    /// Blocks came or went.
    CacheEvents {
        /// The worker's connection.
        connection: ConnectionId,
        /// What changed, in order.
        events: Vec<CacheEvent>,
    },
    /// A piece of the list of all blocks that a worker holds.
    CacheSnapshot {
        /// The worker's connection.
        connection: ConnectionId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// A worker wants nothing new and will end.
    Leaving {
        /// Its connection.
        connection: ConnectionId,
    },
    /// A connection has ended, and with it the worker.
    WorkerLost {
        /// The connection.
        connection: ConnectionId,
    },
    /// A router asks where a request goes.
    Place {
        /// The call.
        place: PlaceId,
        /// The request.
        request: Box<PlaceRequest>,
    },
    /// The router no longer waits for the answer, or did not get it.
    PlaceCancelled {
        /// The call.
        place: PlaceId,
    },
    /// This coordinator ends: nothing new is placed.
    Drain,
    /// Time has passed. To be sent several times a second.
    Tick,
}

/// Who a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its stable name.
    pub id: WorkerId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// What it is used for.
    pub role: Role,
    /// The name of its model.
    pub model: String,
    /// The model itself.
    pub fingerprint: Fingerprint,
    /// Equal class, equal bits.
    pub class: NumericsClass,
    /// What it keeps.
    pub geometry: Geometry,
    /// Where routers reach it, host:port.
    pub address: String,
    /// Longest sequence that the model allows, in tokens.
    pub context_tokens: u32,
    /// What it holds at its start.
    pub ledger: Ledger,
}

/// What a worker tells several times a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Larger than that of the one before.
    pub sequence: u64,
    /// What it holds.
    pub ledger: Ledger,
    /// Requests that it owns or prefills, or has since the last heartbeat.
    pub requests: Vec<RequestId>,
    /// It takes nothing new.
    pub draining: bool,
    /// Prompt tokens that it has accepted and not computed.
    pub prefill_tokens_queued: u64,
}

/// A block in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBlock {
    /// Which block.
    pub hash: ChainHash,
    /// The parts that are held.
    pub parts: PartSet,
    /// Where.
    pub tier: Tier,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The life of the worker that this belongs to.
    pub incarnation: Incarnation,
    /// The last event that the snapshot covers; 0 when there was none yet.
    pub sequence: u64,
    /// Some of the blocks.
    pub blocks: Vec<SnapshotBlock>,
    /// Whether a snapshot starts here.
    pub first: bool,
    /// Whether it ends here.
    pub last: bool,
}

/// A request that needs workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRequest {
    /// Its name, also in heartbeats.
    pub request: RequestId,
    /// The model.
    pub model: String,
    /// The chain hashes of its full blocks, for each numerics class that the router knows.
    pub chains: Vec<(NumericsClass, Vec<ChainHash>)>,
    /// Tokens there are: the prompt, and the output so far of a continuation.
    pub prompt_tokens: u32,
    /// Tokens that may follow.
    pub max_tokens: u32,
    /// Larger first.
    pub priority: Priority,
    /// Whose it is.
    pub tenant: String,
    /// When its client gives up, on the core's clock.
    pub deadline: Option<Duration>,
    /// Workers that refused or failed it.
    pub exclude: Vec<WorkerId>,
    /// The class that a continuation must stay in.
    pub class: Option<NumericsClass>,
    /// Requests of one session share much of their prompts; empty for none.
    pub session: String,
    /// How many placements it has had.
    pub attempt: u32,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell the worker that it is registered.
    Accept {
        /// Its connection.
        connection: ConnectionId,
    },
    /// Tell the worker why it is not registered, and close.
    RefuseWorker {
        /// Its connection.
        connection: ConnectionId,
        /// What is wrong and how to put it right.
        reason: String,
    },
    /// Ask the worker for all blocks that it holds.
    SnapshotWanted {
        /// Its connection.
        connection: ConnectionId,
    },
    /// The worker was taken out: tell it why, and close.
    Disconnect {
        /// Its connection.
        connection: ConnectionId,
        /// Why.
        reason: String,
        /// Whether it should register again at once, as one that was silent for a while.
        again: bool,
    },
    /// The one answer to a call of Place.
    Answer {
        /// The call.
        place: PlaceId,
        /// The answer.
        answer: Answer,
    },
    /// What watchers see has changed.
    FleetChanged {
        /// Whether workers came, went or began to drain; else only their ledgers or the queue changed.
        membership: bool,
    },
}

/// Where a request goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has a place.
    Placed(Placement),
    /// It has none.
    Refused(Refusal),
}

/// A worker's share of a placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The worker's connection.
    pub connection: ConnectionId,
    /// The worker.
    pub worker: WorkerId,
    /// The life of it that was meant.
    pub incarnation: Incarnation,
    /// Where routers reach it.
    pub address: String,
    /// Prompt tokens that it is believed to have cached.
    pub cached_tokens: u32,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The worker that owns it.
    pub decode: Leg,
    /// The worker that computes its prompt, if it is not the same.
    pub prefill: Option<Leg>,
    /// For how long this is kept free for it.
    pub lease: Duration,
    /// How long it has waited.
    pub queued: Duration,
}

/// Why a request was not placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalKind {
    /// No worker serves the model.
    UnknownModel,
    /// No worker could ever hold it.
    TooLong,
    /// The queue is full, or this coordinator ends.
    Overloaded,
    /// Its deadline passed.
    Deadline,
    /// No worker of the model is registered.
    NoWorker,
    /// The request contradicts itself.
    Invalid,
}

impl RefusalKind {
    /// Every kind.
    pub const ALL: [RefusalKind; 6] = [
        RefusalKind::UnknownModel,
        RefusalKind::TooLong,
        RefusalKind::Overloaded,
        RefusalKind::Deadline,
        RefusalKind::NoWorker,
        RefusalKind::Invalid,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            RefusalKind::UnknownModel => "unknown_model",
            RefusalKind::TooLong => "too_long",
            RefusalKind::Overloaded => "overloaded",
            RefusalKind::Deadline => "deadline",
            RefusalKind::NoWorker => "no_worker",
            RefusalKind::Invalid => "invalid",
        }
    }
}

/// Why a request was not placed, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// What is wrong and what to do.
    pub message: String,
    /// When another try may help; none when it cannot.
    pub retry_after: Option<Duration>,
}
